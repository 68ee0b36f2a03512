# SPDX-License-Identifier: Apache-2.0
"""What the stages add to the stock `Trainer`: epochs that can be resumed, a guard of the loss, disease F1."""

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


class EpochCallback(TrainerCallback):
    """
    Seeds each epoch by its number and tells it to the collator: the order of a length-grouped epoch comes from the global
    generator, so that a run resumed in the middle of an epoch would otherwise meet its rows in another order. Rows are
    grouped by what modality dropout leaves of them in this epoch.

    Args:
        collator ([`MedTVTDataCollator`]): Of the training rows.
        dataset (`datasets.Dataset`): The training rows.
    """

    def __init__(self, collator: MedTVTDataCollator, dataset: Dataset) -> None:
        self.collator = collator
        self.dataset = dataset

    def on_epoch_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        train_dataloader: Any = None,
        **kwargs: Any,
    ) -> None:
        epoch = int(state.epoch or 0)
        self.collator.epoch = epoch
        sampler = train_dataloader.batch_sampler
        while hasattr(sampler, "batch_sampler"):  # accelerate's share of a process
            sampler = sampler.batch_sampler
        if self.collator.modality_dropout and hasattr(sampler.sampler, "lengths"):
            sampler.sampler.lengths = self.collator.estimate_lengths(self.dataset)
        set_seed(args.seed + epoch)


class SaveConfigCallback(TrainerCallback):
    """Puts the model's configs beside an adapter, which alone does not say what it was trained on."""

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        if args.should_save:
            save_configs(model, Path(args.output_dir) / f"checkpoint-{state.global_step}")


def save_configs(model: PreTrainedModel | PeftModel, folder: Path) -> None:
    """config.json, generation_config.json and provenance.json of a model, with or without an adapter."""
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    model.provenance.save_pretrained(folder)


class FiniteLossCallback(TrainerCallback):
    """
    Stops at a loss or a gradient that is not finite, before it reaches the weights or a checkpoint.

    Batches hold the `ids` of their rows, which hooks take out before the model sees them.
    """

    def __init__(self, model: nn.Module) -> None:
        self.ids: list[list[str]] = []  # of the batches since the last optimizer step
        self.step = 0
        model.register_forward_pre_hook(self._take_ids, with_kwargs=True)
        model.register_forward_hook(self._check_loss)

    def _take_ids(self, model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        ids = kwargs.pop("ids", None)
        if model.training and ids is not None:
            self.ids.append(ids)
        return args, kwargs

    def _check_loss(self, model: nn.Module, args: tuple, output: Any) -> None:
        if model.training and output.loss is not None and not torch.isfinite(output.loss):
            raise ValueError(f"The loss is {output.loss.item()} at {self._where(self.ids[-1:])}")

    def _where(self, batches: Sequence[Sequence[str]]) -> str:
        ids = ", ".join(row_id for ids in batches for row_id in ids)
        rows = f", rows {ids}" if ids else ""  # batches of RFT carry no ids
        return (
            f"step {self.step + 1}{rows}. No weight was changed by it and the last checkpoint is as it was. Look "
            "at these rows, lower `learning_rate` or `max_grad_norm`, and go on with --resume."
        )

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.step = state.global_step
        self.ids.clear()

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        if (
            args.fp16 or not gradients
        ):  # a loss scaler skips such a step by itself; DeepSpeed holds gradients elsewhere
            return
        norm = torch.nn.utils.get_total_norm(gradients)
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # FSDP
        if not torch.isfinite(norm):
            raise ValueError(f"The gradient's norm is {norm.item()} at {self._where(self.ids)}")


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


def answer_rows(model: Any, collator: MedTVTDataCollator, rows: list[dict]) -> list[str]:
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
