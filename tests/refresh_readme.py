# SPDX-License-Identifier: Apache-2.0
"""
`python -m tests.refresh_readme`: what README and docs show of a run, anew, after the weights changed.

It runs the Python blocks and `medtvt demo`, writes their output below them, fills the table of results from the
checkpoint's card, and, where Chromium is installed, takes the picture of the report.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from .docs_blocks import BLOCK, CHECKPOINT, README, ROOT, between, excerpt_demo, results_table, run_blocks


PICTURE = ROOT / "hub_cards" / "report.png"


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        shutil.copytree(CHECKPOINT, folder / "medtvt-r1")
        demo = run_command(folder, "demo")
        run_command(folder, "synthesize", "--patients", "40", "--out", "cohort")
        for page, outputs in run_blocks(folder).items():
            text = page.read_text(encoding="utf-8")
            page.write_text(BLOCK.sub(partial(show, outputs=iter(outputs)), text), encoding="utf-8")
        text = README.read_text(encoding="utf-8")
        for name, content in (
            ("demo", f"```text\n{excerpt_demo(demo)}```"),
            ("results", results_table().strip()),
            ("caption", f"*The example patient of `make demo` in the HTML report. {caption(demo)}*"),
        ):
            place = between(text, name)
            text = text[: place.start()] + content + text[place.end() :]
        README.write_text(text, encoding="utf-8")
        take_picture(folder)


def run_command(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "medtvt_training.cli", *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def show(block: re.Match[str], outputs: Iterator[str]) -> str:
    """The block with its output, where one is shown."""
    output = next(outputs)
    return block[0] if block[2] is None else f"```python\n{block[1]}```\n\n```text\n{output}```"


def caption(demo: str) -> str:
    """What the demo says at its end: how much of the answer is true."""
    return re.findall(r"^So (.*)$", demo, re.MULTILINE)[-1].capitalize()


def take_picture(folder: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        print(f"No Chromium: {PICTURE} is as it was.")
        return
    files = ("--ecg", "demo/ecg.hea", "--cxr", "demo/cxr.png", "--lab", "demo/lab.csv", "--report", "report.html")
    run_command(folder, "diagnose", *files)
    options = ("--headless", "--no-sandbox", "--hide-scrollbars", "--window-size=1180,1500", f"--screenshot={PICTURE}")
    subprocess.run([chromium, *options, (folder / "report.html").as_uri()], check=True, capture_output=True)


if __name__ == "__main__":
    main()
