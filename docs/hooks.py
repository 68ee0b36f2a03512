# SPDX-License-Identifier: Apache-2.0
"""Pages that are made of the code, so that they cannot differ from it: the list of labs, and the help of each command."""

import re
from typing import Any

from medtvt_training.cli import GROUPS, build_parser
from medtvt_training.commands.labs import describe_lab
from processing_medtvt import LAB_DEFINITIONS


def on_page_markdown(markdown: str, **kwargs: Any) -> str:
    """Replaces the marks `<!-- labs -->` and `<!-- commands -->`."""
    return markdown.replace("<!-- labs -->", _labs()).replace("<!-- commands -->", _commands())


def on_page_content(html: str, **kwargs: Any) -> str:
    """Types of arguments without the backticks of their docstrings."""
    return re.sub(r"<code>[^<]*`[^<]*</code>", lambda found: found[0].replace("`", ""), html)


def _labs() -> str:
    rows = ["| lab | unit | also | women | men | LOINC | MIMIC | names |", "|---|---|---|---|---|---|---|---|"]
    for lab in map(describe_lab, LAB_DEFINITIONS):
        limits = [lab["reference"][sex] for sex in ("F", "M")]
        cells = [
            lab["name"],
            lab["unit"] or "",
            ", ".join(lab["units"]),
            *("" if pair is None else f"{pair[0]:g}&nbsp;to&nbsp;{pair[1]:g}" for pair in limits),
            ", ".join(lab["loinc"]),
            ", ".join(map(str, lab["itemids"])),
            "; ".join(lab["aliases"]),
        ]
        rows.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    return "\n".join(rows)


def _commands() -> str:
    lines = []
    for group, commands in GROUPS.items():
        lines.append(f"## {group.capitalize()}\n")
        for name in commands:
            subparsers = next(a for a in build_parser(name)._actions if a.dest == "command")
            text = subparsers.choices[name].format_help()  # type: ignore[call-overload, index]
            lines.append(f"### medtvt {name}\n\n```text\n{text.strip()}\n```\n")
    return "\n".join(lines)
