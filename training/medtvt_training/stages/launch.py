# SPDX-License-Identifier: Apache-2.0
"""What torchrun or accelerate set up for a run: whether the stages support it, and what this model adds to it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object
from datasets import Dataset
from filelock import FileLock, Timeout
from peft import PeftModel
from transformers import PreTrainedModel, TrainingArguments
from transformers.utils import strtobool

from ..data.columns import hash_ids


def check_launch(training: TrainingArguments) -> None:
    """
    Refuses what the stages do not support, and states the lowest learning rate as a share of the highest.

    Raises:
        ValueError: if the run is one of ZeRO-3 or FSDP 1, or asks for Liger's kernels.
    """
    plugin = training.deepspeed_plugin
    if plugin is not None and int(plugin.zero_stage) == 3:
        raise ValueError(
            "ZeRO-3 is not supported: it takes the frozen encoders apart. Use FSDP2 (accelerate/fsdp.yaml), which spreads "
            "the weights too, or ZeRO-2."
        )
    if uses_fsdp(training) and _fsdp_setting(training, "fsdp_version", "FSDP_VERSION", "1") != "2":
        raise ValueError("FSDP 1 is not supported; set `fsdp_version: 2` in the launcher's config.")
    if training.use_liger_kernel:
        raise ValueError(
            "`use_liger_kernel` would change nothing: Liger has no kernels for a model of type medtvt. Leave it out."
        )
    kwargs = training.lr_scheduler_kwargs
    if isinstance(kwargs, dict) and "min_lr" in kwargs and training.learning_rate:
        # transformers would divide by what DeepSpeed's optimizer does not tell
        kwargs["min_lr_rate"] = kwargs.pop("min_lr") / training.learning_rate


def uses_fsdp(training: TrainingArguments) -> bool:
    """Whether the run spreads the model with FSDP."""
    return bool(training.fsdp) or bool(strtobool(os.environ.get("ACCELERATE_USE_FSDP", "false")))


def checkpoint_kind(training: TrainingArguments) -> str:
    """The kind of checkpoint that this run writes; see [`~checkpoints.kind_of`]."""
    if training.deepspeed_plugin is not None:
        return "DeepSpeed"
    if not uses_fsdp(training):
        return "plain"
    state = _fsdp_setting(training, "state_dict_type", "FSDP_STATE_DICT_TYPE", "SHARDED_STATE_DICT")
    return "FSDP, full" if "FULL" in state else "FSDP, sharded"


def _fsdp_setting(training: TrainingArguments, argument: str, variable: str, default: str) -> str:
    given = training.fsdp_plugin_args or {}  # of `--fsdp`; accelerate's launcher sets variables
    return str(given[argument] if argument in given else os.environ.get(variable, default))


def set_fsdp_layers(training: TrainingArguments, model: PreTrainedModel | PeftModel) -> None:
    """Has FSDP gather the decoder layer by layer; the name of a layer's class depends on the backbone."""
    if not uses_fsdp(training):
        return
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    decoder = base.model.language_model
    found = {type(module).__name__ for module in decoder.modules()} & set(decoder._no_split_modules or ())
    if training.fsdp_plugin_args is not None:
        training.fsdp_plugin_args.setdefault("transformer_cls_names_to_wrap", sorted(found))
    os.environ.setdefault("FSDP_TRANSFORMER_CLS_TO_WRAP", ",".join(sorted(found)))


def check_same_rows(splits: dict[str, Dataset]) -> None:
    """
    Raises:
        ValueError: on every process, if one of them has read other rows than the first.
    """
    mine = {name: (len(dataset), hash_ids(dataset)) for name, dataset in splits.items()}
    everyone = gather_object([mine])
    for rank, found in enumerate(everyone):
        for name, (count, digest) in found.items():
            expected, expected_digest = everyone[0][name]
            if (count, digest) != (expected, expected_digest):
                raise ValueError(
                    f"Process {rank} has read {count} rows of {name}, process 0 {expected}"
                    f"{', with other ids' if count == expected else ''}: the dataset must be the same on every node."
                )


@contextmanager
def locked_folder(training: TrainingArguments, output_dir: Path) -> Iterator[None]:
    """
    Keeps a second run out of an output folder, which is made; one that holds nothing in the end is removed again.

    Raises:
        OSError: if another run has it.
    """
    if not training.should_save:
        yield
        return
    output_dir.mkdir(parents=True, exist_ok=True)
    file = output_dir / ".training.lock"
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise OSError(
            f"{output_dir} is in use by another training run; wait for it or take another folder."
        ) from error
    try:
        yield
    finally:
        if all(path == file for path in output_dir.iterdir()):
            file.unlink(missing_ok=True)
            output_dir.rmdir()
        lock.release()
