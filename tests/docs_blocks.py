# SPDX-License-Identifier: Apache-2.0
"""What README and docs show, beside what it is when it is run."""

import os
import re
import subprocess
import sys
from pathlib import Path

from medtvt_training.files import markdown_table


ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
# in this order, as one program: later pages use names of earlier ones
PAGES = [README, *(ROOT / "docs" / f"{name}.md" for name in ("quickstart", "pipeline", "inputs", "data", "weights"))]
CHECKPOINT = ROOT / "hub_cards" / "medtvt-r1-tiny"
# a Python block, and the output that is shown below it
BLOCK = re.compile(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", re.DOTALL)
SEPARATOR = "\x1e\n"
# Of each part of the demo's output the README shows so many lines; of other parts none
DEMO_PARTS = {"Patient": 0, "Diseases": 3, "Reasoning": 2, "Abnormal": 2, "The truth": 1}


def run_blocks(folder: Path) -> dict[Path, list[str]]:
    """What each Python block of each page prints, run one after the other in a folder."""
    blocks = [(page, match[1]) for page in PAGES for match in BLOCK.finditer(page.read_text(encoding="utf-8"))]
    code = f"print({SEPARATOR!r}, end='')\n".join(source for _, source in blocks)
    environment = {**os.environ, "HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1"}
    result = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(result.stderr)
    printed: dict[Path, list[str]] = {page: [] for page in PAGES}
    for (page, _), output in zip(blocks, result.stdout.split(SEPARATOR), strict=True):
        printed[page].append(output)
    return printed


def excerpt_demo(printed: str) -> str:
    """The first lines of the parts of the demo's output that the README shows; `...` where something is left out."""
    lines, kept, rest = printed[printed.index("\nmodel: ") + 1 :].splitlines(), [], 0
    in_part = True
    for line in lines:
        if line and not line.startswith(" "):
            part = next((name for name in DEMO_PARTS if line.startswith(name)), None)
            in_part = part is not None or line.startswith(("model: ", "So "))
            rest = 0 if part is None else DEMO_PARTS[part]
            kept.append(line if in_part else "...")
        elif in_part and re.match(r"  \S+$", line) and not kept[-1].startswith("The truth"):  # a modality
            rest = DEMO_PARTS["Reasoning"]
            kept.append(line)
        elif rest > 0 and line:
            rest -= 1
            kept.append(line)
        else:
            kept.append("...")
    short = [line for i, line in enumerate(kept) if line != "..." or (i and kept[i - 1] != "...")]
    return "\n".join(short) + "\n"


def results_table() -> str:
    """The README's table from the numbers of the checkpoint's card, which `medtvt card` wrote; a dash for what it lacks."""
    card = (CHECKPOINT / "README.md").read_text(encoding="utf-8")
    found = {
        "this model": r"\| this model \| ([^|]+?) \|",
        "gradient boosting": r"\| gradient boosting[^|]*\| ([^|]+?) \|",
        "ceiling: all drawn signs known": r"reaches an F1 of (\d\.\d+), the\s+ceiling",
        "prior: frequencies alone": r"frequencies of the diseases alone reach (\d\.\d+)",
    }
    rows = [(name, match[1] if (match := re.search(pattern, card)) else "–") for name, pattern in found.items()]
    patients = re.search(r"(\d+) records of \d+ patients", card)
    number = f"{patients[1]} " if patients else ""
    return markdown_table((f"on {number}imaginary patients of the test split", "F1 of the label set"), rows)


def between(page: str, name: str) -> re.Match[str]:
    """What stands between `<!-- name -->` and the next `<!-- end -->` of a page."""
    match = re.search(rf"(?<=<!-- {name} -->\n)(.*?)(?=\n<!-- end -->)", page, re.DOTALL)
    if match is None:
        raise ValueError(f"the page has no <!-- {name} --> ... <!-- end -->")
    return match
