# SPDX-License-Identifier: Apache-2.0
"""Folders that appear only when they are complete."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def check_new_folder(output_dir: str | os.PathLike):
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
    [`check_new_folder`] is called first.
    """
    check_new_folder(output_dir)
    output_dir = Path(output_dir).absolute()
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    # beside the target, so that the last step is a rename within one file system
    with tempfile.TemporaryDirectory(prefix=f".{output_dir.name}-", dir=output_dir.parent) as temporary:
        folder = Path(temporary) / output_dir.name
        folder.mkdir()
        yield folder
        if output_dir.exists():  # empty; a rename onto it fails on Windows
            output_dir.rmdir()
        folder.rename(output_dir)
