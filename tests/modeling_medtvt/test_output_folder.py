# SPDX-License-Identifier: Apache-2.0
import os
import stat
import subprocess
import sys

import pytest

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
            (folder / "file").touch()
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o777 & ~umask
    assert stat.S_IMODE((tmp_path / "out" / "file").stat().st_mode) == 0o666 & ~umask
