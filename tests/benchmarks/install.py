# SPDX-License-Identifier: Apache-2.0
"""What `pip install` of the core brings: size and time, with the pins of constraints.txt, into an empty environment."""

import subprocess
import tempfile
import venv
from functools import partial
from pathlib import Path

from .harness import ROOT, Row, Settings, timed


GIGABYTES = 1.3


def size_of(folder: Path) -> int:
    """Bytes of the files in a folder, each link as itself."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


def measure(settings: Settings) -> list[Row]:
    """Once: it depends on the index and the network, and not on the machine's kind."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "venv")
        venv.create(folder, with_pip=True)
        empty = size_of(folder)
        command = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-compile", "--no-cache-dir"]
        command += ["--constraint", str(ROOT / "constraints.txt"), "--editable", str(ROOT)]
        seconds = timed(partial(subprocess.run, command, check=True), "cpu")
        size = (size_of(folder) - empty) / 1e9
        torch = next(folder.glob("lib/*/site-packages/torch-*.dist-info")).name.removesuffix(".dist-info")
    what = f"core install, without byte code, over {GIGABYTES} GB"
    return [Row("install", what, [size / GIGABYTES], at_most=1, note=f"{size:.3g} GB in {seconds:.0f} s, {torch}")]
