# SPDX-License-Identifier: Apache-2.0
"""RFT: trl's `GRPOTrainer`, with an ECG, an X-ray and laboratory values in every pass."""

import copy
import functools
from collections.abc import Callable
from typing import Any

import torch
from datasets import Dataset
from peft import PeftConfig, PeftModel
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import is_fsdp_enabled
from trl import GRPOConfig, GRPOTrainer

from modeling_medtvt import DISEASES, parse_answer
from modeling_medtvt.modeling_medtvt import FEATURE_INPUT_NAMES, RAW_INPUT_NAMES, MedTVTForCausalLM

from ..data.collator import MedTVTDataCollator
from ..data.columns import list_column
from ..files import JsonlLog, read_jsonl, write_jsonl
from .checkpoints import output_folder
from .rewards import completion_text, format_reward, jaccard_reward
from .trl_private import add_fused_lm_head, disable_dropout_in_model, prepare_deepspeed, prepare_fsdp


COLUMNS = ("id", "prompt", "completion", "modalities", "ecg", "cxr", "lab", "diseases")


class MedTVTGRPOTrainer(GRPOTrainer):
    r"""
    Group relative policy optimisation (arXiv 2402.03300) of a [`MedTVTForCausalLM`] (paper, equation 6).

    The rows of the dataset hold file paths and laboratory values. The frozen encoders run once for each unique prompt
    of a generation batch, or never with a feature cache; their outputs are shared by the G completions and by the
    rollouts and the old, reference and policy passes. Rollouts prefill each unique prompt once and repeat the cache.
    Dropout is off, whatever the arguments say: it would make the log-probabilities of the passes incomparable.

    The reference of the KL term is the model as it is passed in: with a `peft_config` the model without the adapter,
    with a `PeftModel` a copy of its adapter, and without PEFT a copy of what is trainable at this moment.

    Logged beside what trl logs: `parse_rate`, the share of completions with an answer block.

    Args:
        model ([`MedTVTForCausalLM`] or a `PeftModel` around one): The SFT model, the policy's start.
        reward_funcs (*optional*): As in trl; the paper's [`format_reward`] and [`jaccard_reward`] by default.
        args (`GRPOConfig`): As in trl. `beta` is 0 by default there, which means no KL term.
        train_dataset (`datasets.Dataset`): Rows of MedTVT-QA, see [`load_medtvt_qa`]; each row lists a disease.
        data_collator ([`MedTVTDataCollator`]): Reads what the rows name, from files or from a feature cache.
        eval_dataset, callbacks, optimizers, peft_config, reward_processing_classes (*optional*): As in trl.

    Raises:
        ValueError: before the first step, if a row lacks an id of its own or a true disease, if columns are missing, if
            the reference would not be the model that was passed, or if an argument cannot be used with modalities; and
            before the step that it would spoil, if a reward is not finite.
    """

    model: MedTVTForCausalLM | PeftModel

    def __init__(
        self,
        model: MedTVTForCausalLM | PeftModel,
        reward_funcs: Any = None,
        args: GRPOConfig | None = None,
        train_dataset: Dataset | None = None,
        eval_dataset: Dataset | dict[str, Dataset] | None = None,
        data_collator: MedTVTDataCollator | None = None,
        reward_processing_classes: Any = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple = (None, None),
        peft_config: PeftConfig | None = None,
    ) -> None:
        if data_collator is None:
            raise ValueError("`data_collator` is missing: a `MedTVTDataCollator`, which reads what the rows name.")
        if args is None:
            raise ValueError("`args` is missing: a `trl.GRPOConfig`.")
        _check_model(model, peft_config)
        _check_arguments(args)
        eval_datasets = eval_dataset if isinstance(eval_dataset, dict) else {"eval_dataset": eval_dataset}
        for name, dataset in {"train_dataset": train_dataset, **eval_datasets}.items():
            if dataset is not None or name == "train_dataset":
                _check_dataset(name, dataset)

        # trl would load the reference from the path in the model's config, which may not be there, or not this model
        beta, reference = args.beta, None
        if beta and peft_config is None and isinstance(model, MedTVTForCausalLM):
            reference, args.beta = _copy_policy(model, args), 0.0
        args.disable_dropout = True
        rewards: list[Any] = [format_reward, jaccard_reward]
        self._modality_inputs: dict[str, torch.Tensor] = {}
        self.modality_collator = data_collator
        try:
            super().__init__(
                model=model,
                reward_funcs=rewards if reward_funcs is None else reward_funcs,
                args=args,
                train_dataset=train_dataset,
                eval_dataset=eval_dataset,
                processing_class=data_collator.processor,
                reward_processing_classes=reward_processing_classes,
                callbacks=callbacks,
                optimizers=optimizers,
                peft_config=peft_config,
            )
        finally:
            args.beta = beta
        self.beta = beta
        _disable_functional_dropout(self.model)
        if reference is not None:
            self.ref_model = self._prepare_reference(reference, args)
        elif beta and isinstance(self.model, PeftModel):
            _check_adapter_reference(self.model)

    def _prepare_reference(self, reference: MedTVTForCausalLM, args: GRPOConfig) -> Any:
        """What trl does with the reference that it loads itself."""
        disable_dropout_in_model(reference)
        _disable_functional_dropout(reference)
        add_fused_lm_head(reference, temperature=self.temperature, cast_lm_head_to_fp32=args.cast_lm_head_to_fp32)
        if self.is_deepspeed_enabled:
            return prepare_deepspeed(reference, self.accelerator)
        if self.is_fsdp_enabled:
            return prepare_fsdp(reference, self.accelerator)
        return self.accelerator.prepare_model(reference, evaluation_mode=True)

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        # G rows in a row are the same patient, fewer at the borders between processes
        rows = {row["id"]: row for row in inputs}
        position = {row_id: i for i, row_id in enumerate(rows)}
        self._rows = list(rows.values())
        self._positions = [position[row["id"]] for row in inputs]
        self._row_of = torch.tensor(self._positions, device=self.accelerator.device)
        output = super()._generate_and_score_completions(inputs)
        # one row a completion, so that trl shuffles and splits them with the rest
        return {**output, **self._modality_inputs}

    def _tokenize_prompts(self, prompts: Any) -> Any:
        prompt_ids = [self.modality_collator.encode(row)[0] for row in self._rows]
        placeholders = set(self.modality_collator.processor.modality_token_ids)
        for ids, row in zip(prompt_ids, self._rows):
            if ids[-1] in placeholders:
                raise ValueError(
                    f"The prompt of row {row['id']} ends with a placeholder; text must follow the last one."
                )
        modality_inputs = self.modality_collator.modality_inputs(self._rows)
        return [prompt_ids[i] for i in self._positions], None, modality_inputs

    def _generate_single_turn(
        self, prompt_ids: Any, images: Any, multimodal_fields: Any, num_generations: Any, has_tool_images: bool = False
    ) -> Any:
        model: Any = self.accelerator.unwrap_model(self.model)
        model = model.get_base_model() if isinstance(model, PeftModel) else model
        # as trl does with `forward`; whatever wraps the model ends there
        model.generate = functools.partial(self._generate_from_unique_prompts, model, model.generate)
        try:
            return super()._generate_single_turn(
                prompt_ids, images, multimodal_fields, num_generations, has_tool_images=has_tool_images
            )
        finally:
            del model.generate

    def _generate_from_unique_prompts(
        self,
        model: MedTVTForCausalLM,
        generate: Callable[..., Any],
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        generation_config: Any,
        **inputs: torch.Tensor,
    ) -> Any:
        """Encodes and prefills each unique prompt once, then generates for all rows from copies of its cache."""
        features = {}
        encoders = (model.get_ecg_features, model.get_cxr_features, model.get_lab_features)
        for raw_name, name, encode in zip(RAW_INPUT_NAMES, FEATURE_INPUT_NAMES, encoders):
            if raw_name in inputs:
                features[name] = encode(inputs[raw_name])
            elif name in inputs:
                features[name] = inputs[name]
        self._modality_inputs = {name: tensor[self._row_of] for name, tensor in features.items()}

        first = torch.tensor([self._positions.index(i) for i in range(len(self._rows))]).to(input_ids.device)
        # all but the last token, which is left for `generate` to begin with
        mask = attention_mask[first, :-1]
        cache = model(
            input_ids=input_ids[first, :-1],
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            use_cache=True,
            logits_to_keep=1,
            **features,
        ).past_key_values
        cache.batch_select_indices(self._row_of)
        return generate(
            input_ids=input_ids,
            attention_mask=attention_mask,
            past_key_values=cache,
            generation_config=generation_config,
        )

    def _calculate_rewards(
        self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any
    ) -> torch.Tensor:
        parsed = [parse_answer(completion_text(completion)).answer is not None for completion in completions]
        self._log_metric("parse_rate", sum(parsed) / len(parsed))
        for column in ("id", "diseases"):  # beside the completions that trl keeps for its logs
            self._log_completion_extra(column, [row[column] for row in inputs])
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        for name, values in zip(self.reward_func_names, rewards.unbind(1)):
            if not values.isfinite().all():
                bad = values[~values.isfinite()]
                raise ValueError(
                    f"The reward function {name} returned {bad[0].item()} for {len(bad)} of {len(values)} completions; "
                    "a reward must be a finite number."
                )
        return rewards

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        **kwargs: Any,
    ) -> Any:
        rows = iter(torch.arange(len(input_ids), device=input_ids.device).split(batch_size or len(input_ids)))

        def model_with_modalities(**model_inputs: Any) -> Any:  # trl calls it for one micro-batch after the other
            chunk = next(rows)
            return model(**model_inputs, **{name: tensor[chunk] for name, tensor in self._modality_inputs.items()})

        return super()._get_per_token_logps_and_entropies(
            model_with_modalities, input_ids, attention_mask, logits_to_keep, batch_size=batch_size, **kwargs
        )

    def _compute_loss(self, model: Any, inputs: Any) -> torch.Tensor:
        self._modality_inputs = {name: inputs[name] for name in FEATURE_INPUT_NAMES if name in inputs}
        return super()._compute_loss(model, inputs)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Writes none: trl's describes a model that takes text alone."""


def _check_model(model: MedTVTForCausalLM | PeftModel, peft_config: PeftConfig | None) -> None:
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    if not isinstance(base, MedTVTForCausalLM):
        raise ValueError(f"`model` must be a MedTVTForCausalLM or a PeftModel around one, got {type(base).__name__}.")
    if not base.model.has_frozen_encoders:
        raise ValueError(
            "Encoders of `model` are trainable, but RFT shares their outputs: `model.model.freeze_encoders()`."
        )
    if isinstance(model, PeftModel) and "default" not in model.peft_config:
        raise ValueError(
            f"The adapter of `model` must be called 'default', got {', '.join(model.peft_config)}: trl copies that one "
            "to have a reference."
        )
    if peft_config is None and not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(
            "`model` has no trainable parameter. Pass a `peft_config`, or load it with `is_trainable=True`."
        )


def _check_arguments(args: GRPOConfig) -> None:
    for name in ("use_vllm", "use_transformers_continuous_batching", "cache_implementation"):
        if getattr(args, name):
            raise ValueError(f"`{name}` cannot be used with ECGs, X-rays and laboratory values; leave it out.")
    if args.remove_unused_columns:
        raise ValueError("`remove_unused_columns` must be False, or the columns that hold the modalities are dropped.")
    if args.sync_ref_model:
        raise ValueError("`sync_ref_model` moves the reference, which is the SFT model in RFT; leave it out.")


def _check_dataset(name: str, dataset: Dataset | None) -> None:
    if not isinstance(dataset, Dataset):
        raise ValueError(f"`{name}` must be a `datasets.Dataset`, got {type(dataset).__name__}.")
    if missing := [column for column in COLUMNS if column not in dataset.column_names]:
        raise ValueError(
            f"`{name}` lacks the column(s) {', '.join(missing)}; it has {', '.join(dataset.column_names)}."
        )
    ids, diseases = list_column(dataset, "id"), list_column(dataset, "diseases")
    if not ids:
        raise ValueError(f"`{name}` has no rows.")
    if len(set(ids)) < len(ids):
        raise ValueError(f"`{name}` has {len(ids)} rows but {len(set(ids))} different ids; each row needs its own.")
    if without := [row_id for row_id, labels in zip(ids, diseases) if not labels]:
        raise ValueError(
            f"{len(without)} of {len(ids)} rows of `{name}` have no true disease, the first is {without[0]}: their "
            "completions can earn no Jaccard reward. Leave them out of RFT."
        )
    if unknown := {label for labels in diseases for label in labels} - set(DISEASES):
        raise ValueError(f"`diseases` of `{name}` holds {', '.join(sorted(unknown))}; accepted are {DISEASES}.")


def _copy_policy(model: MedTVTForCausalLM, args: GRPOConfig) -> MedTVTForCausalLM:
    """The reference of a policy without adapters. It shares what is frozen, where parameters are not sharded."""
    sharded = is_fsdp_enabled() or args.deepspeed_plugin is not None
    frozen = [] if sharded else [parameter for parameter in model.parameters() if not parameter.requires_grad]
    return copy.deepcopy(model, {id(parameter): parameter for parameter in frozen}).requires_grad_(False).eval()


def _check_adapter_reference(model: PeftModel) -> None:
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    outside = [name for name in trained if "default" not in name.split(".")]
    if outside:
        raise ValueError(
            f"{len(outside)} trainable parameters, such as {outside[0]}, are outside the adapter, so the reference would "
            "be trained too. Name their modules in `modules_to_save`, or set `beta` to 0."
        )


def _disable_functional_dropout(model: nn.Module) -> None:
    """Dropout that is no module; trl's `disable_dropout` turns off the modules."""
    for module in model.modules():
        for name in ("dropout", "attention_dropout", "activation_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


class SampleCallback(TrainerCallback):
    """
    Adds some of the last completions to `samples.jsonl` in the output folder at each log: `step`, `id` and true
    `diseases` of the row, `completion`, `rewards` and `advantage`. Nothing else of the patient is written.

    Args:
        trainer ([`MedTVTGRPOTrainer`]): Whose completions.
        num_samples (`int`): How many at each log; the first of the batch, so that groups stay together.
    """

    def __init__(self, trainer: MedTVTGRPOTrainer, num_samples: int) -> None:
        self.trainer, self.num_samples = trainer, num_samples
        self.path = output_folder(trainer.args) / "samples.jsonl"

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # a run that goes on writes the samples after its checkpoint again
        if state.is_world_process_zero and self.path.exists():
            write_jsonl([sample for sample in read_jsonl(self.path) if sample["step"] <= state.global_step], self.path)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any
    ) -> None:
        if not state.is_world_process_zero or "loss" not in logs:  # a validation, or the summary at the end
            return
        logs = self.trainer._logs
        completions = [completion_text(completion) for completion in logs["completion"]][: self.num_samples]
        with JsonlLog(self.path) as log:
            log.append(
                {
                    "step": state.global_step,
                    **{column: logs["extra"][column][i] for column in ("id", "diseases")},
                    "completion": completion,
                    "rewards": {name: values[i] for name, values in logs["rewards"].items()},
                    "advantage": logs["advantages"][i],
                }
                for i, completion in enumerate(completions)
            )
