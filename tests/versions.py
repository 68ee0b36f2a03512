# SPDX-License-Identifier: Apache-2.0
"""
Other versions than constraints.txt names, of the packages and of Python.

    python tests/versions.py oldest     the suite with the lower bounds of setup.cfg
    python tests/versions.py newest     the suite with whatever the index serves within setup.cfg's ranges
    python tests/versions.py resolve    whether each of these sets can be had, and that of constraints.txt, on each Python

The suite runs in an environment of its own under build/, and words after `oldest` and `newest` go to pytest. Both bring the
index's own build of torch, which has CUDA with it: 5 GB. `resolve` needs uv, and installs nothing.
"""

import re
import subprocess
import sys
import tempfile
import venv
from configparser import ConfigParser
from pathlib import Path


ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
FLOOR = re.compile(r"^([\w.-]+)(\[[\w,]+\])?\s*>=\s*([\w.]+)")
# what must be built for a CUDA compiler, and what has pins of its own
NOT_RESOLVED = ("flash-attn", "vllm", "dev")
# no wheel of it is on the index; it is Python alone
BUILT = "rouge-score"


def read_setup_cfg() -> ConfigParser:
    config = ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    return config


def requirements(config: ConfigParser, without: tuple[str, ...] = ()) -> list[str]:
    """Of the package and its extras, those but that name the package itself."""
    extras = {name: lines for name, lines in config["options.extras_require"].items() if name not in without}
    groups = [config["options"]["install_requires"], *extras.values()]
    lines = {line for group in groups for line in group.splitlines() if line}
    return sorted(line for line in lines if not line.startswith(config["metadata"]["name"]))


def oldest_pins(config: ConfigParser) -> list[str]:
    """`name==version` of each lower bound; flash-attn apart, whose build needs a CUDA compiler."""
    found = [match for line in requirements(config) if (match := FLOOR.match(line))]
    return [f"{match[1]}=={match[3]}" for match in found if match[1] != "flash-attn"]


def run_suite(which: str, arguments: tuple[str, ...]) -> int:
    """pytest's exit code, or that of the installation."""
    folder = ROOT / "build" / f"venv-{which}"
    venv.create(folder, with_pip=True)
    python = str(folder / "bin" / "python")
    pins = folder / "pins.txt"
    pins.write_text("\n".join(oldest_pins(read_setup_cfg()) if which == "oldest" else []) + "\n", encoding="utf-8")
    for command in (
        ["pip", "install", "--quiet", "--disable-pip-version-check", "uv"],
        ["uv", "pip", "install", "--upgrade", "--constraint", str(pins), "--editable", f"{ROOT}[dev]"],
    ):
        if code := subprocess.run([python, "-m", *command]).returncode:
            return code
    return subprocess.run([python, "-m", "pytest", *arguments], cwd=ROOT).returncode


def resolve() -> int:
    """The number of sets of versions that cannot be had. uv says why."""
    config = read_setup_cfg()
    wanted = "\n".join(requirements(config, NOT_RESOLVED)) + "\n"
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        pins = Path(folder, "oldest.txt")
        pins.write_text("\n".join(oldest_pins(config)) + "\n", encoding="utf-8")
        # the oldest are from before the newest Pythons
        sets: list[tuple[str, tuple[str, ...], list[str]]] = [
            ("oldest", PYTHONS[:1], [str(pins)]),
            ("constraints.txt", PYTHONS, [str(ROOT / "constraints.txt")]),
            ("newest", PYTHONS, []),
        ]
        for name, versions, constraints in sets:
            for version in versions:
                command = [sys.executable, "-m", "uv", "pip", "compile", "-", "--quiet", "--no-python-downloads"]
                command += ["--python-version", version, "--only-binary", ":all:", "--no-binary", BUILT]
                command += ["--output-file", str(Path(folder, f"{name}-{version}"))]
                command += [word for file in constraints for word in ("--constraint", file)]
                code = subprocess.run(command, input=wanted, text=True).returncode
                print(f"Python {version}, {name}: {'NOT ' if code else ''}resolved", flush=True)
                failed += code != 0
    return failed


def main(which: str = "", *arguments: str) -> int:
    if which == "resolve" and not arguments:
        return resolve()
    if which in ("oldest", "newest"):
        return run_suite(which, arguments)
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
