# SPDX-License-Identifier: Apache-2.0
import os
import stat
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from modeling_medtvt.output_folder import new_folder


KILLED = """
import os, sys
from modeling_medtvt.output_folder import new_folder
with new_folder(sys.argv[1]) as folder:
    (folder / "patients.csv").write_text("a table")
    os._exit(9)
"""


def killed_run(path):
    assert subprocess.run([sys.executable, "-c", KILLED, str(path)]).returncode == 9


def test_what_a_killed_run_left_is_removed_by_the_next(tmp_path):
    killed_run(tmp_path / "cohort")
    assert list(tmp_path.rglob("patients.csv"))
    with new_folder(tmp_path / "cohort") as folder:
        (folder / "done").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["cohort"]


def test_only_that_is_removed(tmp_path):
    killed_run(tmp_path / "other")
    foreign = [tmp_path / ".cohort-mine", tmp_path / ".cohort-0123abcd"]
    for folder in foreign:
        folder.mkdir()
        (folder / "notes.txt").touch()
    with pytest.raises(FileExistsError), new_folder(tmp_path / "cohort") as first:
        (first / "late").touch()
        with new_folder(tmp_path / "cohort") as second:  # the first one is still being written
            (second / "done").touch()
        assert (first / "late").exists()
    assert [path.name for path in (tmp_path / "cohort").iterdir()] == ["done"]
    assert all((folder / "notes.txt").exists() for folder in foreign) and list(tmp_path.rglob("patients.csv"))


def test_a_block_that_raises_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "out") as folder:
        (folder / "half").touch()
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_the_umask_decides_who_may_read(tmp_path, umask):
    before = os.umask(umask)
    try:
        with new_folder(tmp_path / "out") as folder:
            (folder / "inner").mkdir()
            (folder / "file").touch()
            # safetensors makes its files readable for their owner alone
            save_file({"weight": torch.zeros(2)}, folder / "inner" / "model.safetensors")
    finally:
        os.umask(before)
    for path in (tmp_path / "out", *(tmp_path / "out").rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o777 if path.is_dir() else 0o666) & ~umask, path


def test_a_file_of_such_a_name_is_left_alone(tmp_path):
    (tmp_path / ".out-0123abcd").touch()
    with new_folder(tmp_path / "out"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out-0123abcd", "out"]


@pytest.mark.parametrize("write", ["text", "safetensors"])
def test_a_write_that_fails_names_the_folder_and_leaves_nothing(tmp_path, write):
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.raises(OSError, match=f"{tmp_path / 'out'}|could not be written") as error:
        try:
            with new_folder(tmp_path / "out") as folder:
                resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
                if write == "text":
                    (folder / "file.json").write_text("x" * 100_000)
                else:
                    save_file({"weight": torch.zeros(100_000)}, folder / "model.safetensors")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert str(tmp_path / "out") in str(error.value) and "could not be written" in str(error.value)
    assert not list(tmp_path.iterdir())
