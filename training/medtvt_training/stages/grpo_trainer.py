# SPDX-License-Identifier: Apache-2.0
"""RFT: trl's `GRPOTrainer`, with an ECG, an X-ray and laboratory values in every pass."""

import copy
import functools
import logging
from collections.abc import Callable, Iterator
from typing import Any

import torch
from datasets import Dataset
from peft import PeftConfig, PeftModel
from torch import nn
from transformers import TrainerCallback
from transformers.integrations import is_fsdp_enabled
from trl import GRPOConfig, GRPOTrainer

from modeling_medtvt import parse_answer
from modeling_medtvt.answer_probability_medtvt import answer_probabilities, label_order
from modeling_medtvt.modeling_medtvt import FEATURE_INPUT_NAMES, RAW_INPUT_NAMES, MedTVTForCausalLM

from ..data.collator import MedTVTDataCollator
from ..data.columns import list_column
from ..data.conversation import message_text
from ..data.rows import QARow
from ..serving.vllm_engine import VllmEngine
from .completion import completion_text
from .evidence_reward import measure_row
from .grpo_checks import (
    asked_inputs,
    check_adapter_reference,
    check_arguments,
    check_dataset,
    check_model,
    check_refill,
    check_rewards,
)
from .refill import Group, find_spread, refill_groups, stack_features
from .rewards import format_reward, jaccard_reward
from .rollouts import VllmRollouts
from .shared_prompt import add_shared_prompt, keep_groups_together, why_prompts_are_not_shared
from .trl_private import add_fused_lm_head, disable_dropout_in_model, prepare_deepspeed, prepare_fsdp


logger = logging.getLogger(__name__)


class MedTVTGRPOTrainer(GRPOTrainer):
    r"""
    Group relative policy optimisation (arXiv 2402.03300) of a [`MedTVTForCausalLM`] (paper, equation 6).

    The rows of the dataset hold file paths and laboratory values. The frozen encoders run once for each unique prompt
    of a generation batch, or never with a feature cache; their outputs are shared by the G completions and by the
    rollouts and the old, reference and policy passes. Rollouts prefill each unique prompt once and repeat the cache, and so
    do the passes, with gradients (see `shared_prompt`); where they cannot, the log says why.
    Dropout is off, whatever the arguments say: it would make the log-probabilities of the passes incomparable.

    The reference of the KL term is the model as it is passed in: with a `peft_config` the model without the adapter,
    with a `PeftModel` a copy of its adapter, and without PEFT a copy of what is trainable at this moment.

    Reward functions may ask, by the names of their parameters, for columns of the dataset and for what is computed here:
    `measured` (see [`measure_row`]), once a row, and `probabilities` (see [`answer_probabilities`]), once a completion.

    Logged beside what trl logs: `parse_rate`, the share of completions with an answer block; for each reward, the share of
    groups in which it differs between completions (`rewards/NAME/moved`), and in which it alone does (`moved_alone`); with
    `refill`, `refilled`, the share of groups in place of others.

    Args:
        model ([`MedTVTForCausalLM`] or a `PeftModel` around one): The SFT model, the policy's start.
        reward_funcs (*optional*): As in trl; the paper's [`format_reward`] and [`jaccard_reward`] by default.
        args (`GRPOConfig`): As in trl. `beta` is 0 by default there, which means no KL term.
        train_dataset (`datasets.Dataset`): Rows of MedTVT-QA, see [`load_medtvt_qa`]; each row lists a disease, unless
            [`empty_reward`] is among the rewards.
        data_collator ([`MedTVTDataCollator`]): Reads what the rows name, from files or from a feature cache.
        eval_dataset, callbacks, optimizers, peft_config, reward_processing_classes (*optional*): As in trl.
        refill (`int`): How many times a generation batch's prompts whose completions all earn the same give way to fresh
            ones, see [`refill_groups`]; 0 for never.
        rollout_engine ([`VllmEngine`], *optional*): Writes the completions, with LoRA that is handed to it at each step; a
            prompt is the embeddings that the perception layer of that step makes. Else transformers writes them.

    Raises:
        ValueError: before the first step, if a row lacks an id of its own or a true disease, if columns are missing, if
            the reference would not be the model that was passed, or if an argument cannot be used with modalities; and
            before the step that it would spoil, if a reward is not finite, or with `refill` if no prompt teaches anything.
    """

    model: MedTVTForCausalLM | PeftModel
    train_dataset: Dataset
    num_generations: int
    num_generations_eval: int

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
        refill: int = 0,
        rollout_engine: VllmEngine | None = None,
    ) -> None:
        if data_collator is None:
            raise ValueError("`data_collator` is missing: a `MedTVTDataCollator`, which reads what the rows name.")
        if args is None:
            raise ValueError("`args` is missing: a `trl.GRPOConfig`.")
        check_model(model, peft_config)
        check_arguments(args)
        if refill:
            check_refill(args)
        if reward_funcs is None:
            reward_funcs = [format_reward, jaccard_reward]
        rewards = reward_funcs if isinstance(reward_funcs, list) else [reward_funcs]
        eval_datasets = eval_dataset if isinstance(eval_dataset, dict) else {"eval_dataset": eval_dataset}
        for name, dataset in {"train_dataset": train_dataset, **eval_datasets}.items():
            if dataset is not None or name == "train_dataset":
                check_dataset(name, dataset, rewards)
                check_rewards(name, dataset, rewards)

        # trl would load the reference from the path in the model's config, which may not be there, or not this model
        beta, reference = args.beta, None
        if beta and peft_config is None and isinstance(model, MedTVTForCausalLM):
            reference, args.beta = _copy_policy(model, args), 0.0
        args.disable_dropout = True
        self._modality_inputs: dict[str, torch.Tensor] = {}
        self._groups: list[Group] | None = None  # rolled out already
        self.modality_collator = data_collator
        self.refill = refill
        self._asked = set().union(*map(asked_inputs, rewards))
        if "probabilities" in self._asked:
            self._label_order = label_order(list(map(message_text, list_column(train_dataset, "completion"))))
        try:
            super().__init__(
                model=model,
                reward_funcs=rewards,
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
        base: Any = self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model
        is_sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        reason = why_prompts_are_not_shared(base, args, is_sharded)
        self._shares_prompts = reason is None
        if reason:
            logger.warning("Each completion's prompt is computed again in scoring and update passes: %s.", reason)
        else:
            add_shared_prompt(base)
        self._rollouts: VllmRollouts | None = None
        if rollout_engine is not None:
            if is_sharded:
                raise ValueError("`rollout_engine: vllm` cannot be used with sharded parameters (FSDP, DeepSpeed).")
            self._rollouts = VllmRollouts(rollout_engine, self.model, data_collator.processor.tokenizer)
        if reference is not None:
            self.ref_model = self._prepare_reference(reference, args)
        elif beta and isinstance(self.model, PeftModel):
            check_adapter_reference(self.model)

    def _prepare_reference(self, reference: MedTVTForCausalLM, args: GRPOConfig) -> Any:
        """What trl does with the reference that it loads itself."""
        disable_dropout_in_model(reference)
        _disable_functional_dropout(reference)
        add_fused_lm_head(reference, temperature=self.temperature, cast_lm_head_to_fp32=args.cast_lm_head_to_fp32)
        if self._shares_prompts:
            add_shared_prompt(reference)
        if self.is_deepspeed_enabled:
            return prepare_deepspeed(reference, self.accelerator)
        if self.is_fsdp_enabled:
            return prepare_fsdp(reference, self.accelerator)
        return self.accelerator.prepare_model(reference, evaluation_mode=True)

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        before = self._buffered_inputs
        inputs = super()._prepare_inputs(generation_batch)
        if self._buffered_inputs is before or not self._shares_prompts:
            return inputs
        self._buffered_inputs = keep_groups_together(self._buffered_inputs)
        return self._buffered_inputs[self._step % self.args.steps_per_generation]

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        if self.refill and self.model.training:
            self._groups = self._refill(inputs)
            inputs = [group.row for group in self._groups for _ in range(self.num_generations)]
        self._take_rows(inputs)
        try:
            output = super()._generate_and_score_completions(inputs)
        finally:
            self._groups = None
        # one row a completion, so that trl shuffles and splits them with the rest
        return {**output, **self._modality_inputs, "prompt_index": torch.tensor(self._positions)}

    def _take_rows(self, inputs: list[QARow]) -> None:
        # G rows in a row are the same patient, fewer at the borders between processes
        rows = {row["id"]: row for row in inputs}
        position = {row_id: i for i, row_id in enumerate(rows)}
        self._rows = list(rows.values())
        self._positions = [position[row["id"]] for row in inputs]
        self._row_of = torch.tensor(self._positions, device=self.accelerator.device)

    def _refill(self, inputs: list[QARow]) -> list[Group]:
        """The groups of a generation batch, on this process, with as many as can be from which something is learned."""
        first = [inputs[i] for i in range(0, len(inputs), self.num_generations)]
        groups = self._roll_out(first)
        filled, reason = refill_groups(
            groups, self._roll_out, self._draw_rows({row["id"] for row in first}), self.refill, self._reduce
        )
        old = {id(group) for group in groups}
        self._log_metric("refilled", sum(id(group) not in old for group in filled) / len(filled))
        if reason:
            without = sum(not group.has_spread for group in filled)
            logger.warning(
                "Refill, step %d: the completions of %d of %d prompts earn the same: %s.",
                *(self.state.global_step + 1, without, len(filled), reason),
            )
        return filled

    def _roll_out(self, rows: list[QARow]) -> list[Group]:
        size = self.num_generations
        inputs = [row for row in rows for _ in range(size)]
        prompts = [row["prompt"] for row in inputs]
        self._take_rows(inputs)
        prompt_ids, completion_ids, _, completions, *_ = super()._generate(prompts)
        start = self.accelerator.process_index * len(inputs)
        rewards = self._score(inputs, prompts, completions, completion_ids)[start : start + len(inputs)]
        rewards = rewards.view(len(rows), size, -1)
        spread = find_spread(rewards, self.reward_weights.to(rewards.device), self.multi_objective_aggregation)
        return [
            Group(
                row=row,
                prompt_ids=prompt_ids[i * size],
                completion_ids=completion_ids[i * size : (i + 1) * size],
                completions=completions[i * size : (i + 1) * size],
                rewards=rewards[i],
                features={name: tensor[i * size] for name, tensor in self._modality_inputs.items()},
                has_spread=bool(spread[i]),
            )
            for i, row in enumerate(rows)
        ]

    def _draw_rows(self, used: set[str]) -> Iterator[QARow]:
        """Rows of this process's share that are not in the batch, in an order that a resumed run repeats."""
        generator = torch.Generator().manual_seed(self.args.seed * 1_000_003 + self.state.global_step)
        order = torch.randperm(len(self.train_dataset), generator=generator)
        for i in order[self.accelerator.process_index :: self.accelerator.num_processes].tolist():
            row = self.train_dataset[i]
            if row["id"] not in used:
                yield row

    def _reduce(self, number: int, how: str) -> int:
        numbers = self.accelerator.gather(torch.tensor([number], device=self.accelerator.device))
        return int(getattr(numbers, how)().item())

    def _generate(self, prompts: Any) -> Any:
        if self._groups is None:
            return super()._generate(prompts)
        self._modality_inputs = {name: tensor[self._row_of] for name, tensor in stack_features(self._groups).items()}
        prompt_ids = [group.prompt_ids for group in self._groups for _ in range(self.num_generations)]
        completion_ids = [ids for group in self._groups for ids in group.completion_ids]
        completions = [completion for group in self._groups for completion in group.completions]
        return prompt_ids, completion_ids, None, completions, None, {}, None, []

    def _tokenize_prompts(self, prompts: Any) -> Any:
        prompt_ids = [self.modality_collator.encode(row)[0] for row in self._rows]
        placeholders = set(self.modality_collator.processor.modality_token_ids)
        for ids, row in zip(prompt_ids, self._rows):
            if ids[-1] in placeholders:
                raise ValueError(
                    f"The prompt of row {row['id']} ends with a placeholder; text must follow the last one."
                )
        modality_inputs = self.modality_collator.modality_inputs(self._rows)
        self._prompt_ids = prompt_ids
        return [prompt_ids[i] for i in self._positions], None, modality_inputs

    def _generate_single_turn(
        self, prompt_ids: Any, images: Any, multimodal_fields: Any, num_generations: Any, has_tool_images: bool = False
    ) -> Any:
        model: Any = self.accelerator.unwrap_model(self.model)
        if self._rollouts is not None:
            self._rollouts.hand_over(model, self.state.global_step, self.accelerator)
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
        """
        Encodes and prefills each unique prompt once, then generates for all rows from copies of its cache; or has vLLM do so.
        """
        features = {}
        encoders = (model.get_ecg_features, model.get_cxr_features, model.get_lab_features)
        for raw_name, name, encode in zip(RAW_INPUT_NAMES, FEATURE_INPUT_NAMES, encoders):
            if raw_name in inputs:
                features[name] = encode(inputs[raw_name])
            elif name in inputs:
                features[name] = inputs[name]
        self._modality_inputs = {name: tensor[self._row_of] for name, tensor in features.items()}

        first = torch.tensor([self._positions.index(i) for i in range(len(self._rows))]).to(input_ids.device)
        if self._rollouts is not None:
            embeds = model.get_prompt_embeds(input_ids[first], attention_mask[first], **features)
            prompts = [row[kept.bool()] for row, kept in zip(embeds, attention_mask[first])]
            completions = self._rollouts.generate(model, prompts, self._positions, generation_config)
            return torch.cat([input_ids, completions.to(input_ids.device)], 1)
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
        if self._groups is None:
            rewards = self._score(inputs, prompts, completions, completion_ids_list)
        else:
            rewards = self.accelerator.gather(torch.cat([group.rewards for group in self._groups]))
        parsed = [parse_answer(completion_text(completion)).answer is not None for completion in completions]
        self._log_metric("parse_rate", sum(parsed) / len(parsed))
        for column in ("id", "diseases"):  # beside the completions that trl keeps for its logs
            self._log_completion_extra(column, [row[column] for row in inputs])
        size = self.num_generations if self.model.training else self.num_generations_eval
        each = torch.eye(rewards.shape[1], device=rewards.device)
        grouped = rewards.view(-1, size, rewards.shape[1])
        moved = torch.stack([find_spread(grouped, weights, "normalize_then_sum") for weights in each], 1)
        alone = moved & (moved.sum(1, keepdim=True) == 1)
        for name, all_of_it, part in zip(self.reward_func_names, moved.float().mean(0), alone.float().mean(0)):
            self._log_metric(f"rewards/{name}/moved", all_of_it.item())
            self._log_metric(f"rewards/{name}/moved_alone", part.item())
        return rewards

    def _score(self, inputs: Any, prompts: Any, completions: Any, completion_ids: Any) -> torch.Tensor:
        """Rewards of all processes, of rows with what the reward functions ask for beside their columns."""
        if "measured" in self._asked:
            measured = [measure_row(row, self.modality_collator.processor) for row in self._rows]
            inputs = [{**row, "measured": measured[i]} for row, i in zip(inputs, self._positions)]
        if "probabilities" in self._asked:
            found = self._answer_probabilities(completions)
            inputs = [{**row, "probabilities": probabilities} for row, probabilities in zip(inputs, found)]
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids)
        for name, values in zip(self.reward_func_names, rewards.unbind(1)):
            if not values.isfinite().all():
                bad = values[~values.isfinite()]
                raise ValueError(
                    f"The reward function {name} returned {bad[0].item()} for {len(bad)} of {len(values)} completions; "
                    "a reward must be a finite number."
                )
        return rewards

    @torch.no_grad()
    def _answer_probabilities(self, completions: Any) -> list[dict[str, float]]:
        model: Any = self.accelerator.unwrap_model(self.model)
        base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
        was_training = model.training
        model.eval()  # a model in training makes no cache where gradient checkpointing is on
        found = []
        with self.accelerator.autocast():
            for i, (position, completion) in enumerate(zip(self._positions, completions)):
                ids = self._prompt_ids[position]
                features = {name: tensor[i : i + 1] for name, tensor in self._modality_inputs.items()}
                embeds = None
                if features:
                    row = torch.tensor([ids], device=base.device)
                    embeds = base.get_modality_embeds(row, **features).embeds
                text = completion_text(completion)
                tokenizer = self.modality_collator.processor.tokenizer
                found.append(answer_probabilities(model, tokenizer, ids, text, self._label_order, embeds))
        model.train(was_training)
        return found

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        **kwargs: Any,
    ) -> Any:
        size = batch_size or len(input_ids)
        chunks = iter(slice(start, start + size) for start in range(0, len(input_ids), size))
        prompts, prompt_length = self._positions, input_ids.shape[1] - logits_to_keep

        def model_with_modalities(**model_inputs: Any) -> Any:  # trl calls it for one micro-batch after the other
            chunk = next(chunks)
            model_inputs |= {name: tensor[chunk] for name, tensor in self._modality_inputs.items()}
            if self._shares_prompts and len(set(prompts[chunk])) < len(prompts[chunk]):
                model_inputs["shared"] = (prompts[chunk], prompt_length)
            return model(**model_inputs)

        return super()._get_per_token_logps_and_entropies(
            model_with_modalities, input_ids, attention_mask, logits_to_keep, batch_size=batch_size, **kwargs
        )

    def _compute_loss(self, model: Any, inputs: Any) -> torch.Tensor:
        self._modality_inputs = {name: inputs[name] for name in FEATURE_INPUT_NAMES if name in inputs}
        self._positions = inputs["prompt_index"].tolist()
        return super()._compute_loss(model, inputs)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Writes none: trl's describes a model that takes text alone."""


def _copy_policy(model: MedTVTForCausalLM, args: GRPOConfig) -> MedTVTForCausalLM:
    """The reference of a policy without adapters. It shares what is frozen, where parameters are not sharded."""
    sharded = is_fsdp_enabled() or args.deepspeed_plugin is not None
    frozen = [] if sharded else [parameter for parameter in model.parameters() if not parameter.requires_grad]
    return copy.deepcopy(model, {id(parameter): parameter for parameter in frozen}).requires_grad_(False).eval()


def _disable_functional_dropout(model: nn.Module) -> None:
    """Dropout that is no module; trl's `disable_dropout` turns off the modules."""
    for module in model.modules():
        for name in ("dropout", "attention_dropout", "activation_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
