# SPDX-License-Identifier: Apache-2.0
"""What the stages add to the stock `Trainer`: epochs that can be resumed, a guard of the loss, disease F1."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from torch import nn
from transformers import (
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from modeling_medtvt import parse_answer

from ..data.collator import MedTVTDataCollator
from ..data.labels import as_label_array, sample_f1
from ..data.rows import QARow
from .checkpoints import output_folder
from .mixture import MixedSampler


class SamplerCallback(TrainerCallback):
    """
    Tells each epoch's number to the sampler, and seeds each step by its number, so that dropout is that of a run that was
    not resumed.

    Args:
        sampler ([`MixedSampler`]): Of the training rows.
    """

    def __init__(self, sampler: MixedSampler) -> None:
        self.sampler = sampler

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.sampler.epoch = int(state.epoch or 0)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        set_seed(args.seed + state.global_step)


class EpochCallback(SamplerCallback):
    """
    Tells each epoch's number to the collator too, and to the sampler how long the rows are that modality dropout leaves in
    this epoch.

    Args:
        collator ([`MedTVTDataCollator`]): Of the training rows.
        dataset (`datasets.Dataset`): The training rows.
    """

    def __init__(self, sampler: MixedSampler, collator: MedTVTDataCollator, dataset: Dataset) -> None:
        super().__init__(sampler)
        self.collator = collator
        self.dataset = dataset

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        super().on_epoch_begin(args, state, control)
        self.collator.epoch = self.sampler.epoch
        if self.sampler.batch_size is not None:
            self.sampler.lengths = self.collator.estimate_lengths(self.dataset)


class SaveConfigCallback(TrainerCallback):
    """Puts the model's configs beside an adapter, which alone does not say what it was trained on."""

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        if args.should_save:
            save_configs(model, output_folder(args) / f"checkpoint-{state.global_step}")


def save_configs(model: PreTrainedModel | PeftModel, folder: Path) -> None:
    """config.json, generation_config.json and provenance.json of a model, with or without an adapter."""
    parts: Any = model  # a PeftModel passes on what it has not itself
    for part in (parts.config, parts.generation_config, parts.provenance):
        part.save_pretrained(folder)


class FiniteLossCallback(TrainerCallback):
    """
    Stops at a loss or a gradient that is not finite, before a checkpoint holds what came of it.

    Losses stay on their device, and are looked at when the `Trainer` waits for the device anyway: at a log, a
    validation, a checkpoint, the end. Batches hold the `ids` of their rows, which a hook takes out before the model sees
    them.
    """

    def __init__(self, model: nn.Module) -> None:
        self.steps: list[tuple[int, list[str], torch.Tensor | None]] = []  # since the last look: step, row ids, loss
        self.step = 0
        model.register_forward_pre_hook(self._take_ids, with_kwargs=True)
        model.register_forward_hook(self._keep_loss)

    def _take_ids(self, model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        ids = kwargs.pop("ids", None)
        if model.training:
            self.steps.append((self.step + 1, ids or [], None))
        return args, kwargs

    def _keep_loss(self, model: nn.Module, args: tuple, output: Any) -> None:
        if model.training and output.loss is not None:
            self.steps[-1] = (*self.steps[-1][:2], output.loss.detach())

    def _check_losses(self) -> None:
        kept = [(step, ids, loss) for step, ids, loss in self.steps if loss is not None]
        if kept:
            values = torch.stack([loss for *_, loss in kept]).tolist()
            for (step, ids, _), value in zip(kept, values):
                if not math.isfinite(value):
                    raise ValueError(f"The loss is {value} at {_where(step, ids)}")

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # it would wait for the device at each forward, and put a mean in place of what is not finite
        args.logging_nan_inf_filter = False

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.step = state.global_step

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        is_last = state.global_step >= state.max_steps
        if not (control.should_log or control.should_save or control.should_evaluate or is_last):
            return
        self._check_losses()
        if control.should_save or is_last:  # a gradient spoils the weights, and no loss has seen them yet
            trained = [parameter.detach() for parameter in model.parameters() if parameter.requires_grad]
            mine = [tensor.to_local() if hasattr(tensor, "to_local") else tensor for tensor in trained]  # of FSDP's
            if not torch.stack([tensor.isfinite().all() for tensor in mine]).all():
                ids = [row_id for step, ids, _ in self.steps if step == state.global_step for row_id in ids]
                raise ValueError(f"A weight is not finite at {_where(state.global_step, ids)}")
        self.steps.clear()

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any
    ) -> None:
        for name, key in (("loss", "loss"), ("gradient's norm", "grad_norm")):
            value = logs.get(key)
            # a loss scaler skips a step with such a gradient by itself
            if value is not None and not math.isfinite(value) and not (args.fp16 and key == "grad_norm"):
                raise ValueError(f"The {name} is {value} at {_where(state.global_step, [])}")


def _where(step: int, ids: Sequence[str]) -> str:
    rows = f", rows {', '.join(ids)}" if ids else ""  # batches of RFT carry no ids
    return (
        f"step {step}{rows}. Nothing of it was saved, and the last checkpoint is as it was. Look at these rows, lower "
        "`learning_rate` or `max_grad_norm`, and go on with --resume."
    )


class DiseaseF1Callback(TrainerCallback):
    """
    Adds `eval_disease_f1` and `eval_parse_rate` to each evaluation: greedy answers to the first validation rows.

    F1 is that of the label sets, averaged over the rows, as in metrics.json: two empty sets agree (1), and an answer that does
    not parse names nothing.

    Args:
        trainer (`Trainer`): Its trackers get the metrics, and `metric_for_best_model` may name them.
        dataset (`datasets.Dataset`): Validation rows.
        collator ([`MedTVTDataCollator`]): Without modality dropout.
        num_rows (`int`): How many of them to answer.
    """

    def __init__(self, trainer: Trainer, dataset: Dataset, collator: MedTVTDataCollator, num_rows: int) -> None:
        self.trainer = trainer
        self.dataset = dataset.select(range(min(num_rows, len(dataset))))
        self.collator = collator

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: Any = None, **kwargs: Any
    ) -> None:
        accelerator = self.trainer.accelerator
        model = accelerator.unwrap_model(self.trainer.model)
        totals = torch.zeros(3, dtype=torch.float64, device=args.device)
        indices = range(accelerator.process_index, len(self.dataset), accelerator.num_processes)
        for start in range(0, len(indices), args.per_device_eval_batch_size):
            rows = [self.dataset[i] for i in indices[start : start + args.per_device_eval_batch_size]]
            with accelerator.autocast():
                texts = answer_rows(model, self.collator, rows)
            answers = [parse_answer(text) for text in texts]
            truth = as_label_array([row["diseases"] for row in rows])
            f1 = sample_f1(truth, as_label_array([answer.diseases for answer in answers])).sum()
            parsed = sum(answer.answer is not None for answer in answers)
            totals += torch.tensor([f1, parsed, len(rows)], device=args.device)
        f1, parsed, count = accelerator.reduce(totals).tolist()
        found = {"eval_disease_f1": f1 / count, "eval_parse_rate": parsed / count}
        metrics.update(found)
        self.trainer.log(found)


def answer_rows(model: Any, collator: MedTVTDataCollator, rows: list[QARow]) -> list[str]:
    """
    Greedy answers to the prompts of rows, in one batch.

    Args:
        model: A [`MedTVTForCausalLM`], with or without an adapter.
        collator ([`MedTVTDataCollator`]): Encodes the prompts and reads what the rows name.
    """
    tokenizer = collator.processor.tokenizer
    prompts = [collator.encode(row)[0] for row in rows]
    inputs = tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt")
    inputs = {**inputs, **collator.modality_inputs(rows)}
    was_training = model.training
    model.eval()
    tokens = model.generate(**{name: tensor.to(model.device) for name, tensor in inputs.items()}, do_sample=False)
    model.train(was_training)
    return tokenizer.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
