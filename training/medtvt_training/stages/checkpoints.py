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

from accelerate.utils import broadcast_object_list
from peft import PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from torch.distributed.checkpoint.api import CheckpointException
from transformers import PreTrainedModel, TrainerState, TrainingArguments

from modeling_medtvt.output_folder import check_new_folder

from .launch import checkpoint_kind


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


# what holds the weights to go on from, by kind of checkpoint; the first that is there decides
WEIGHTS = {
    "DeepSpeed": "global_step*/*_model_states.pt",
    "FSDP, sharded": "pytorch_model_fsdp_*/.metadata",  # its last file
    "FSDP, full": "pytorch_model_fsdp.bin",
    "plain": "*.safetensors",
}
# folders of a kind, which a run that was killed may have left without what `WEIGHTS` names
BEGUN = {"DeepSpeed": "global_step*/", "FSDP, sharded": "pytorch_model_fsdp_*/"}


def kind_of(checkpoint: Path) -> str | None:
    """
    The kind of a checkpoint, one of `WEIGHTS`, or None for one that something else has written. One that holds nothing
    but JSON was begun by a `Trainer`, which writes configs first, and is plain.
    """
    for kind, pattern in WEIGHTS.items():
        if any(checkpoint.glob(pattern)) or kind in BEGUN and any(checkpoint.glob(BEGUN[kind])):
            return kind
    is_begun = all(path.suffix in (".json", ".jinja", ".md") for path in checkpoint.iterdir())
    return "plain" if is_begun else None


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint was written to its end: the Trainer's state, its last file, is whole, and so are the others."""
    kind = kind_of(checkpoint)
    try:
        state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        for file in checkpoint.rglob("*.safetensors"):
            with safe_open(file, "pt"):  # checks that the file is as long as its header says
                pass
    except (OSError, TypeError, ValueError, SafetensorError):
        return False
    archives = [*checkpoint.rglob("*.pt"), *checkpoint.rglob("*.pth"), *checkpoint.rglob("*.bin")]
    has_weights = kind is not None and any(checkpoint.glob(WEIGHTS[kind]))
    # a zip archive's directory is at its end
    return state.global_step == step_of(checkpoint) and has_weights and all(map(zipfile.is_zipfile, archives))


def step_of(checkpoint: Path) -> int:
    """Step of a checkpoint folder's name."""
    return int(checkpoint.name.rsplit("-", 1)[1])


def list_checkpoints(output_dir: str | os.PathLike) -> list[Path]:
    """Checkpoint folders, oldest first, whole or not."""
    folders = [path for path in Path(output_dir).glob("checkpoint-*") if path.is_dir()]
    found = [path for path in folders if path.name.rsplit("-", 1)[1].isdigit()]
    return sorted(found, key=step_of)


def find_checkpoint(training: TrainingArguments, resume: bool) -> str | None:
    """
    The checkpoint to go on from: the last whole one with `--resume`, that of `--resume_from_checkpoint`, or None. What a
    killed run left half-written after it is removed. All processes call this; the first decides and removes.

    Raises:
        FileExistsError: if the output folder holds a finished run, or an unfinished one that is not to be resumed.
        ValueError: if a checkpoint that is asked for is not whole, one is of a kind that is not known here, or the last
            whole one is of another kind than this run writes.
    """
    output_dir = output_folder(training)
    check_new_folder(output_dir / "final")
    if training.resume_from_checkpoint:
        if not is_whole(Path(training.resume_from_checkpoint)):
            raise ValueError(f"{training.resume_from_checkpoint} is not a whole checkpoint.")
        return _check_kind(training.resume_from_checkpoint, training)
    checkpoints = list_checkpoints(output_dir)
    if checkpoints and not resume:
        raise FileExistsError(f"{output_dir} holds checkpoints; add --resume, or choose another folder.")
    found, foreign = None, None
    if training.should_save:
        foreign = next((str(path) for path in checkpoints if kind_of(path) is None), None)
        found = None if foreign else _last_whole(checkpoints)
    found, foreign = broadcast_object_list([found, foreign])
    if foreign:
        raise ValueError(
            f"{foreign} is of a kind that is not known here, and is left as it is: it has none of "
            f"{', '.join(WEIGHTS.values())}. Move it elsewhere, or choose another output folder."
        )
    return found and _check_kind(found, training)


def _last_whole(checkpoints: list[Path]) -> str | None:
    """Removes what comes after it, or `save_total_limit` would count that."""
    for checkpoint in reversed(checkpoints):
        if is_whole(checkpoint):
            return str(checkpoint)
        logger.warning("%s was not written to its end and is removed.", checkpoint)
        shutil.rmtree(checkpoint)
    return None


def _check_kind(checkpoint: str, training: TrainingArguments) -> str:
    """Raises ValueError if a run of this launch cannot go on from a checkpoint."""
    kind, expected = kind_of(Path(checkpoint)), checkpoint_kind(training)
    if kind != expected:
        raise ValueError(
            f"{checkpoint} is of the kind {kind}, this run would write {expected}: go on with the launcher's config that "
            "it was written with."
        )
    processes = len(list(Path(checkpoint).glob("global_step*/*_optim_states.pt")))
    if kind == "DeepSpeed" and processes != training.world_size:
        raise ValueError(
            f"{checkpoint} was written by {processes} processes of DeepSpeed, and {training.world_size} cannot go on from "
            "it; start as many."
        )
    return checkpoint


def check_fits(checkpoint: str, model: PreTrainedModel | PeftModel) -> None:
    """
    Raises:
        ValueError: if a checkpoint's tensors are not those that are saved of this model. Of sharded ones this is seen when
            they are loaded.
    """
    if kind_of(Path(checkpoint)) == "FSDP, sharded":
        return
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
    except (OSError, RuntimeError, SafetensorError, CheckpointException) as error:
        cause = _find_write_error(error)
        if cause is None:
            raise
        whole = [path.name for path in list_checkpoints(output_dir) if is_whole(path)]
        raise OSError(
            f"A checkpoint could not be written to {output_dir} ({cause}). Free some space and go on with --resume, from "
            f"{whole[-1] if whole else 'the beginning: no checkpoint is whole yet'}."
        ) from error


def _find_write_error(error: BaseException) -> BaseException | None:
    """The error itself or, of those that processes met that write shards, the first that a disk is to blame for."""
    if isinstance(error, CheckpointException):
        found = (_find_write_error(failure[0]) for failure in error.failures.values())
        return next((cause for cause in found if cause is not None), None)
    is_full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return error if is_full or isinstance(error, SafetensorError) or "PytorchStreamWriter" in str(error) else None
