# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: whether they are whole, which to go on from, whether they fit."""

import errno
import logging
import os
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from peft import PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel, TrainerState, TrainingArguments

from modeling_medtvt.output_folder import check_new_folder


logger = logging.getLogger(__name__)


def output_folder(training: TrainingArguments) -> Path:
    """
    Where a stage writes.

    Raises:
        ValueError: if the arguments do not say.
    """
    if not training.output_dir:
        raise ValueError("`output_dir` is missing: the folder for checkpoints and result.")
    return Path(training.output_dir)


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint was written to its end: the Trainer's state, its last file, is whole, and so are the others."""
    weights = list(checkpoint.rglob("*.safetensors"))
    try:
        state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        for file in weights:
            with safe_open(file, "pt"):  # checks that the file is as long as its header says
                pass
    except (OSError, TypeError, ValueError, SafetensorError):
        return False
    archives = [*checkpoint.rglob("*.pt"), *checkpoint.rglob("*.pth"), *checkpoint.rglob("*.bin")]
    # a zip archive's directory is at its end
    return state.global_step == step_of(checkpoint) and bool(weights) and all(map(zipfile.is_zipfile, archives))


def step_of(checkpoint: Path) -> int:
    """Step of a checkpoint folder's name."""
    return int(checkpoint.name.rsplit("-", 1)[1])


def list_checkpoints(output_dir: str | os.PathLike) -> list[Path]:
    """Checkpoint folders, oldest first, whole or not."""
    found = [path for path in Path(output_dir).glob("checkpoint-*") if path.name.rsplit("-", 1)[1].isdigit()]
    return sorted(found, key=step_of)


def find_checkpoint(training: TrainingArguments, resume: bool) -> str | None:
    """
    The checkpoint to go on from: the last whole one with `--resume`, that of `--resume_from_checkpoint`, or None. What a
    killed run left half-written after it is removed.

    Raises:
        FileExistsError: if the output folder holds a finished run, or an unfinished one that is not to be resumed.
        ValueError: if a checkpoint that is asked for is not whole.
    """
    output_dir = output_folder(training)
    check_new_folder(output_dir / "final")
    if training.resume_from_checkpoint:
        if not is_whole(Path(training.resume_from_checkpoint)):
            raise ValueError(f"{training.resume_from_checkpoint} is not a whole checkpoint.")
        return training.resume_from_checkpoint
    checkpoints = list_checkpoints(output_dir)
    if checkpoints and not resume:
        raise FileExistsError(f"{output_dir} holds checkpoints; add --resume, or choose another folder.")
    for checkpoint in reversed(checkpoints):
        if is_whole(checkpoint):
            return str(checkpoint)
        logger.warning("%s was not written to its end and is removed.", checkpoint)
        if training.should_save:  # or `save_total_limit` would count it
            shutil.rmtree(checkpoint)
    return None


def check_fits(checkpoint: str, model: PreTrainedModel | PeftModel) -> None:
    """
    Raises:
        ValueError: if a checkpoint's tensors are not those that are saved of this model.
    """
    expected = get_peft_model_state_dict(model) if isinstance(model, PeftModel) else model.state_dict()
    expected = {name: list(tensor.shape) for name, tensor in expected.items()}
    found = {}
    for file in Path(checkpoint).glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            found.update({name: tensors.get_slice(name).get_shape() for name in tensors.keys()})
    # of tied tensors only one is on disk
    tied = set() if isinstance(model, PeftModel) else set(model.all_tied_weights_keys)
    wrong = [name for name in expected if name not in tied and found.get(name) != expected[name]]
    wrong += [name for name in found if name not in expected]
    if wrong:
        raise ValueError(
            f"{checkpoint} does not fit this model and recipe: {len(wrong)} tensors differ, first {wrong[0]} "
            f"({found.get(wrong[0], 'absent')} in the checkpoint, {expected.get(wrong[0], 'absent')} in the model)."
        )


@contextmanager
def explain_write_errors(output_dir: str | os.PathLike) -> Iterator[None]:
    """Turns what safetensors and torch raise on a full disk into one OSError that names the checkpoint to go on from."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        if not (full or isinstance(error, SafetensorError) or "PytorchStreamWriter" in str(error)):
            raise
        whole = [path.name for path in list_checkpoints(output_dir) if is_whole(path)]
        raise OSError(
            f"A checkpoint could not be written to {output_dir} ({error}). Free some space and go on with --resume, from "
            f"{whole[-1] if whole else 'the beginning: no checkpoint is whole yet'}."
        ) from error
