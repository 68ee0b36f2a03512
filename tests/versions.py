# SPDX-License-Identifier: Apache-2.0
"""
The suite with other versions than constraints.txt names, in an environment of its own under build/.

    python tests/versions.py oldest     the lower bounds of setup.cfg
    python tests/versions.py newest     whatever the index serves within setup.cfg's ranges

Words after it go to pytest. What cannot be resolved ends it before anything is installed.
"""

import re
import subprocess
import sys
import venv
from configparser import ConfigParser
from pathlib import Path


ROOT = Path(__file__).resolve().parents[1]
PINNED = re.compile(r"^([\w.-]+)(\[[\w,]+\])?\s*>=\s*([\w.]+)")


def oldest_pins(setup_cfg: Path) -> list[str]:
    """`name==version` of each lower bound; flash-attn apart, whose build needs a CUDA compiler."""
    config = ConfigParser()
    config.read(setup_cfg, encoding="utf-8")
    groups = [config["options"]["install_requires"], *config["options.extras_require"].values()]
    lines = sorted({line for group in groups for line in group.splitlines() if line})
    found = [match for line in lines if (match := PINNED.match(line))]
    return [f"{match[1]}=={match[3]}" for match in found if match[1] != "flash-attn"]


def main(which: str = "", *arguments: str) -> int:
    if which not in ("oldest", "newest"):
        print(__doc__, file=sys.stderr)
        return 2
    folder = ROOT / "build" / f"venv-{which}"
    venv.create(folder, with_pip=True)
    python = str(folder / "bin" / "python")
    install = [python, "-m", "pip", "install", "--disable-pip-version-check", "--no-compile"]
    pins = folder / "pins.txt"
    pins.write_text("\n".join(oldest_pins(ROOT / "setup.cfg") if which == "oldest" else []) + "\n", encoding="utf-8")
    wanted = ["--upgrade", "--constraint", str(pins), "--editable", f"{ROOT}[dev]"]
    for command in ([*install, "--dry-run", "--quiet", *wanted], [*install, *wanted]):
        if subprocess.run(command).returncode:
            return 1
    return subprocess.run([python, "-m", "pytest", *arguments], cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
