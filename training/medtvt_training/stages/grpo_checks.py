# SPDX-License-Identifier: Apache-2.0
"""What `MedTVTGRPOTrainer` refuses before its first step."""

import inspect
import logging
from collections.abc import Sequence
from typing import Any

from datasets import Dataset
from peft import PeftConfig, PeftModel
from trl import GRPOConfig

from modeling_medtvt import DISEASES
from modeling_medtvt.modeling_medtvt import MedTVTForCausalLM

from ..data.columns import list_column
from .rewards import empty_reward, evidence_reward


logger = logging.getLogger(__name__)

COLUMNS = ("id", "prompt", "completion", "modalities", "ecg", "cxr", "lab", "diseases")
# Parameters of a reward function that trl passes, and those that `MedTVTGRPOTrainer` computes where one asks for them
PASSED = ("prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric")
COMPUTED = ("measured", "probabilities")


def check_model(model: MedTVTForCausalLM | PeftModel, peft_config: PeftConfig | None) -> None:
    """That it is ours, its encoders are frozen and something is trained (ValueError)."""
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


def check_arguments(args: GRPOConfig) -> None:
    """That nothing is asked for that would lose the modalities or move the reference (ValueError)."""
    for name in ("use_vllm", "use_transformers_continuous_batching", "cache_implementation"):
        if getattr(args, name):
            raise ValueError(f"`{name}` cannot be used with ECGs, X-rays and laboratory values; leave it out.")
    if args.remove_unused_columns:
        raise ValueError("`remove_unused_columns` must be False, or the columns that hold the modalities are dropped.")
    if args.sync_ref_model:
        raise ValueError("`sync_ref_model` moves the reference, which is the SFT model in RFT; leave it out.")


def check_dataset(name: str, dataset: Dataset | None, reward_funcs: Sequence[Any]) -> None:
    """That the rows have their columns, ids of their own and known diseases, and can earn something (ValueError)."""
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
    without = [row_id for row_id, labels in zip(ids, diseases) if not labels]
    if without and empty_reward not in reward_funcs:
        raise ValueError(
            f"{len(without)} of {len(ids)} rows of `{name}` have no true disease, the first is {without[0]}: their "
            "completions can earn no Jaccard reward. Leave them out of RFT, or add `empty_reward`."
        )
    if unknown := {label for labels in diseases for label in labels} - set(DISEASES):
        raise ValueError(f"`diseases` of `{name}` holds {', '.join(sorted(unknown))}; accepted are {DISEASES}.")


def asked_inputs(reward_func: Any) -> set[str]:
    """Names of the parameters that a reward function cannot do without; of a reward model none."""
    if not inspect.isroutine(reward_func):
        return set()
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(reward_func).parameters.values()
    return {p.name for p in parameters if p.kind in kinds and p.default is inspect.Parameter.empty}


def check_rewards(name: str, dataset: Dataset, reward_funcs: Sequence[Any]) -> None:
    """That the rows have what the rewards need; says what of them no reward can judge."""
    for reward_func in reward_funcs:
        missing = asked_inputs(reward_func) - {*PASSED, *COMPUTED, *dataset.column_names}
        if missing:
            raise ValueError(
                f"The reward {reward_func.__name__} needs the column(s) {', '.join(sorted(missing))}, which `{name}` lacks; "
                f"it has {', '.join(dataset.column_names)}. Add them, or leave this reward out."
            )
    if evidence_reward not in reward_funcs:
        return
    known = list_column(dataset, "findings") if "findings" in dataset.column_names else [None] * len(dataset)
    blind = [
        signs is None and not {"ecg", "lab"}.intersection(modalities)
        for signs, modalities in zip(known, list_column(dataset, "modalities"))
    ]
    if all(blind):
        raise ValueError(
            f"No row of `{name}` has an ECG, labs or known `findings`: a film cannot be measured, so evidence_reward has "
            "nothing to check. Leave it out."
        )
    if any(blind):
        logger.warning(
            "%s: %d of %d rows have a film alone, which cannot be measured, and no known findings: evidence_reward gives "
            "all their completions the same.",
            *(name, sum(blind), len(blind)),
        )


def check_refill(args: GRPOConfig) -> None:
    """That each process holds whole groups, which refill replaces (ValueError)."""
    share = args.per_device_train_batch_size * (args.steps_per_generation or 1)
    if share % (args.num_generations or 1):
        raise ValueError(
            f"`refill` needs whole groups on each process: per_device_train_batch_size x steps_per_generation is {share}, "
            f"which is not divisible by num_generations ({args.num_generations})."
        )


def check_adapter_reference(model: PeftModel) -> None:
    """That all that is trained lies in the adapter, without which the model is the reference (ValueError)."""
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    outside = [name for name in trained if "default" not in name.split(".")]
    if outside:
        raise ValueError(
            f"{len(outside)} trainable parameters, such as {outside[0]}, are outside the adapter, so the reference would "
            "be trained too. Name their modules in `modules_to_save`, or set `beta` to 0."
        )
