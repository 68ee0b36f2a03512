# SPDX-License-Identifier: Apache-2.0
"""Two sides measured in turn, the ratios of their pairs, and the table of them."""

import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers


ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Settings:
    """
    What the command line says.

    Args:
        device (`str`): `"cpu"` or `"cuda"`.
        sizes (`list[str]`): Of `shapes.SIZES`.
        repeats (`int`): Pairs of the quick measurements; what takes long has fewer.
        cases (`Path`, *optional*): Folder with `ecg` and `cxr`, real files; without it, files are drawn.
    """

    device: str = "cpu"
    sizes: list[str] = field(default_factory=lambda: ["tiny"])
    repeats: int = 5
    cases: Path | None = None

    def repeats_at(self, size: str, divisor: int = 2) -> int:
        """Pairs of a measurement that takes long at any size but the tiny one."""
        return self.repeats if size == "tiny" else max(1, self.repeats // divisor)


@dataclass
class Row:
    """
    A line of the table.

    Args:
        measurement (`str`): Name on the command line.
        what (`str`): What was measured, over what.
        ratios (`list[float]`): One a pair; the row shows their median, lowest and highest.
        at_least, at_most (`float`, *optional*): The target of the median.
        note (`str`): What the ratio does not say.
    """

    measurement: str
    what: str
    ratios: list[float] = field(default_factory=list)
    at_least: float | None = None
    at_most: float | None = None
    note: str = ""

    @property
    def median(self) -> float | None:
        return statistics.median(self.ratios) if self.ratios else None

    @property
    def target(self) -> str:
        if self.at_least is not None:
            return f">= {self.at_least:g}"
        return f"<= {self.at_most:g}" if self.at_most is not None else ""

    @property
    def met(self) -> bool | None:
        if self.median is None:
            return None
        if self.at_least is not None:
            return self.median >= self.at_least
        return None if self.at_most is None else self.median <= self.at_most

    def to_dict(self) -> dict:
        return {
            **{"measurement": self.measurement, "what": self.what, "median": self.median, "ratios": self.ratios},
            **{"target": self.target, "met": self.met, "note": self.note},
        }


def timed(run: Callable, device: str, calls: int = 1) -> float:
    """Seconds of a call, the mean of several in a row, the device's work included."""
    synchronize(device)
    start = time.perf_counter()
    for _ in range(calls):
        run()
    synchronize(device)
    return (time.perf_counter() - start) / calls


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def interleave(
    sides: Mapping[str, Callable], repeats: int, warm_up: Mapping[str, Callable] | None = None
) -> dict[str, list]:
    """
    What the sides return, called in turn (A B A B ...), garbage collected between, after a round that does not count:
    of the same calls, or of shorter ones in `warm_up`.
    """
    found: dict[str, list] = {name: [] for name in sides}
    for run in (warm_up or sides).values():
        run()
    for _ in range(repeats):
        for name, run in sides.items():
            gc.collect()
            found[name].append(run())
    return found


def divide(numerators: list[float], denominators: list[float]) -> list[float]:
    """The ratio of each pair."""
    return [numerator / denominator for numerator, denominator in zip(numerators, denominators)]


def medians(found: dict[str, list[float]], unit: str = "s", scale: float = 1.0) -> str:
    """`medtvt 1.2 s, bare 1.1 s`"""
    return ", ".join(f"{name} {scale * statistics.median(values):.3g} {unit}" for name, values in found.items())


def environment() -> dict[str, str]:
    """For a fresh process. Byte code is kept, as users have it."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def run_python(arguments: list[str]) -> Any:
    """The last line, as JSON, of a fresh Python process in the repository's folder."""
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment(), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"`python {' '.join(arguments)[:200]}` failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def describe_machine(device: str) -> dict:
    """Kind of machine and versions; nothing that names this one."""
    cpu = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), cpu)
    machine = {
        **{"cpu": cpu, "cores": os.cpu_count(), "threads": torch.get_num_threads()},
        **{"python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__},
    }
    if device == "cuda":
        machine["gpu"] = torch.cuda.get_device_name()
        machine["cuda"] = torch.version.cuda
    return machine


def format_table(rows: list[Row], skipped: list[str], machine: dict) -> str:
    """The rows as a Markdown table, then what was skipped, then the machine."""
    lines = [
        "| measurement | ratio (median) | lowest - highest (pairs) | target | met | medians, notes |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        median = spread = "-"
        if row.ratios:
            median, low, high = (f"{value:.3g}" for value in (row.median, min(row.ratios), max(row.ratios)))
            spread = f"{low} - {high} ({len(row.ratios)})"
        met = {True: "yes", False: "no", None: ""}[row.met]
        lines.append(f"| {row.measurement}: {row.what} | {median} | {spread} | {row.target} | {met} | {row.note} |")
    lines += ["", *(f"Skipped: {line}" for line in skipped)]
    lines += ["", "Machine: " + ", ".join(f"{name} {value}" for name, value in machine.items()), ""]
    return "\n".join(lines)


def write_results(folder: Path, rows: list[Row], skipped: list[str], machine: dict) -> None:
    """`bench.json` and `bench.md`."""
    folder.mkdir(parents=True, exist_ok=True)
    results = {"machine": machine, "rows": [row.to_dict() for row in rows], "skipped": skipped}
    (folder / "bench.json").write_text(json.dumps(results, indent=1) + "\n")
    (folder / "bench.md").write_text(format_table(rows, skipped, machine))
