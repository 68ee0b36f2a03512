# SPDX-License-Identifier: Apache-2.0
"""Folders that appear only when they are complete."""

import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError


LOCK_NAME = ".lock"


def check_new_folder(output_dir: str | os.PathLike) -> None:
    """
    For a check before long work.

    Raises:
        FileExistsError: if `output_dir` is a file, or a folder that holds something.
    """
    output_dir = Path(output_dir)
    if output_dir.exists() and (not output_dir.is_dir() or any(output_dir.iterdir())):
        raise FileExistsError(f"{output_dir} exists and is not an empty folder; choose another name or remove it.")


@contextmanager
def new_folder(output_dir: str | os.PathLike) -> Iterator[Path]:
    """
    Yields an empty folder to write to; it becomes `output_dir` when the block ends, and vanishes if the block raises.
    [`check_new_folder`] is called first. What a killed run left of the same folder is removed. Modes are those that the
    umask gives.

    Raises:
        FileExistsError: see [`check_new_folder`].
        OSError: if the folder cannot be written.
    """
    check_new_folder(output_dir)
    output_dir = Path(output_dir).absolute()
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(output_dir)
    # beside the target, so that the last step is a rename within one file system
    temporary = output_dir.with_name(f".{output_dir.name}-{secrets.token_hex(4)}")
    temporary.mkdir()
    lock = os.open(temporary / f"{LOCK_NAME}.new", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if _try_lock(lock):  # released when this process ends, however it ends
            # under this name it is never seen unlocked by a run that removes what is abandoned
            os.rename(temporary / f"{LOCK_NAME}.new", temporary / LOCK_NAME)
        folder = temporary / output_dir.name
        folder.mkdir()
        yield folder
        _open_to_umask(folder)
        check_new_folder(output_dir)
        if output_dir.exists():  # empty; a rename onto it fails on Windows
            output_dir.rmdir()
        folder.rename(output_dir)
    except SafetensorError as error:  # what safetensors raises on a full disk
        raise OSError(f"{output_dir} could not be written. {error}") from error
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        # a write that fails, on a full disk say, does not tell where
        raise OSError(error.errno, f"could not be written. {error.strerror}", str(output_dir)) from error
    finally:
        os.close(lock)
        shutil.rmtree(temporary, ignore_errors=True)


def _remove_abandoned(output_dir: Path) -> None:
    """Removes the temporary folders of `output_dir` that no process writes to any more, and nothing else."""
    name = re.compile(re.escape(f".{output_dir.name}-") + "[0-9a-f]{8}")
    for folder in output_dir.parent.iterdir():
        if not name.fullmatch(folder.name):
            continue
        try:
            if set(os.listdir(folder)) - {LOCK_NAME, output_dir.name}:
                continue
            lock = os.open(folder / LOCK_NAME, os.O_RDWR)
        except OSError:  # not ours, just being made, or just gone
            continue
        is_abandoned = _try_lock(lock)
        os.close(lock)
        if is_abandoned:
            shutil.rmtree(folder, ignore_errors=True)


def _open_to_umask(folder: Path) -> None:
    """Gives files that were made private, as safetensors makes them, the mode that any new file has."""
    mode = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        if not path.is_file() or path.is_symlink():
            continue
        found = path.stat().st_mode
        if mode & ~found:
            path.chmod(found | mode)


def _try_lock(descriptor: int) -> bool:
    """Whether the lock of a file could be had; never where the system has none, so that nothing is taken for abandoned."""
    try:
        import fcntl
    except ImportError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
