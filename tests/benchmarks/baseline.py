# SPDX-License-Identifier: Apache-2.0
"""
Ratios that were measured before, one set a kind of processor, what moved since, and the table of them in docs/speed.md.

A ratio moved where its median did by more than the spread of its pairs, then or now, whichever is larger.
"""

import json
import platform
from pathlib import Path
from typing import Any, TypedDict

import torch

from .harness import ROOT, Row


STORED = Path(__file__).with_name("baseline.json")
DOCS = ROOT / "docs" / "speed.md"
# one pair has no spread of its own
SINGLE_PAIR = 0.1


class StoredRow(TypedDict):
    """A row of the table as it is kept."""

    median: float
    low: float
    high: float
    pairs: int
    target: str
    met: bool | None


def processor_kind(cpuinfo: str | None = None) -> str:
    """Architecture, maker and widest vectors that torch uses, such as `x86_64 GenuineIntel AVX512`."""
    text = (
        (Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else "") if cpuinfo is None else cpuinfo
    )
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    named = {name.strip(): value.strip() for name, value in fields.items()}
    maker = named.get("vendor_id") or named.get("CPU implementer") or platform.system()
    return f"{platform.machine()} {maker} {torch.backends.cpu.get_cpu_capability()}"


def read_baseline(stored: Path = STORED) -> dict[str, Any]:
    """Kind of processor -> `machine` and `rows`, which go by `measurement: what`."""
    return json.loads(stored.read_text(encoding="utf-8")) if stored.exists() else {}


def name_of(row: Row) -> str:
    return f"{row.measurement}: {row.what}"


def list_moved(rows: list[Row], baseline: dict[str, StoredRow]) -> list[str]:
    """A line for each ratio that moved."""
    lines = []
    for row in rows:
        before = baseline.get(name_of(row))
        if before is None or row.median is None:
            continue
        spreads = [before["high"] - before["low"], max(row.ratios) - min(row.ratios)]
        single = [SINGLE_PAIR * before["median"]] if 1 in (before["pairs"], len(row.ratios)) else []
        if abs(row.median - before["median"]) > max(spreads + single):
            lines.append(f"moved: {name_of(row)}, from {before['median']:.3g} to {row.median:.3g}")
    return lines


def store(rows: list[Row], machine: dict[str, Any], kind: str, stored: Path = STORED, docs: Path = DOCS) -> None:
    """Keeps the rows, in place of those of the same names, and writes the table anew."""
    baseline = read_baseline(stored)
    kept = baseline.setdefault(kind, {"machine": machine, "rows": {}})
    kept["machine"] = machine
    for row in rows:
        if row.median is not None:
            kept["rows"][name_of(row)] = StoredRow(
                median=round(row.median, 3),
                low=round(min(row.ratios), 3),
                high=round(max(row.ratios), 3),
                pairs=len(row.ratios),
                target=row.target,
                met=row.met,
            )
    stored.write_text(json.dumps(baseline, indent=1) + "\n", encoding="utf-8")
    text = docs.read_text(encoding="utf-8")
    before, rest = text.split("<!-- measured -->\n", 1)
    after = rest.split("<!-- /measured -->", 1)[1]
    table = format_stored(baseline)
    docs.write_text(f"{before}<!-- measured -->\n{table}<!-- /measured -->{after}", encoding="utf-8")


def format_stored(baseline: dict[str, Any]) -> str:
    """A Markdown table of the ratios, a column a kind of processor; what misses its target is bold."""
    names = list(dict.fromkeys(name for kept in baseline.values() for name in kept["rows"]))
    lines = [f"| measured | target | {' | '.join(baseline)} |", "|---|---|" + "---|" * len(baseline)]
    for name in names:
        found: list[StoredRow | None] = [kept["rows"].get(name) for kept in baseline.values()]
        target = next(row["target"] for row in found if row).replace(">=", "≥").replace("<=", "≤")
        lines.append(f"| {name} | {target} | {' | '.join(map(format_cell, found))} |")
    machines = [
        f"{kind}: {', '.join(f'{name} {value}' for name, value in kept['machine'].items())}."
        for kind, kept in baseline.items()
    ]
    return "\n".join([*lines, "", *machines, ""])


def format_cell(row: StoredRow | None) -> str:
    """Median (lowest-highest pair)."""
    if row is None:
        return ""
    median = f"{row['median']:.2f}"
    median = f"**{median}**" if row["met"] is False else median
    return f"{median} ({row['low']:.2f}-{row['high']:.2f})" if row["pairs"] > 1 else median
