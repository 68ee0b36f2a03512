# SPDX-License-Identifier: Apache-2.0
"""
From MIMIC's tables to an evaluation with the tiny model, over a folder of MIMIC's layout and size, killed on the way:
`python -m tests.rehearsal --admissions 60 --out DIR`. It says what each step took of time, memory and disk.
"""

import argparse
import math
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from medtvt_training.files import markdown_table, write_json, write_text

from .mimic_at_size import write_mimic_at_size


@dataclass
class Step:
    """
    What a command took, all of its starts together.

    Args:
        name (`str`): The command.
        seconds (`float`): Of the clock.
        cpu_seconds (`float`): Of all cores.
        memory_gb (`float`): Peak of its largest process.
        disk_gb (`float`): What it left.
        kills (`int`): How many times it was killed.
    """

    name: str
    seconds: float = 0
    cpu_seconds: float = 0
    memory_gb: float = 0
    disk_gb: float = 0
    kills: int = 0


def list_commands(out: Path, folders: dict[str, Path], steps: int, limit: int) -> dict[str, list[str]]:
    """Words of each command, in order; the same again goes on where it was stopped."""
    sources = [word for name, path in folders.items() for word in (f"--{name}", str(path))]
    data = ["--data", str(out / "build" / "dataset")]
    # a build names files where MIMIC has them
    data += ["--ecg-root", str(folders["mimic-ecg"]), "--cxr-root", str(folders["mimic-cxr"])]
    cache = ["--feature-cache", str(out / "cache")]
    few = ["--max_steps", str(steps), "--save_steps", str(max(1, steps // 4)), "--resume", "true"]
    few += ["--save_strategy", "steps", "--eval_strategy", "no", "--eval_on_start", "false", "--disable_tqdm", "true"]
    short = [
        "--per_device_train_batch_size",
        "8",
        "--gradient_accumulation_steps",
        "1",
        "--max_completion_length",
        "64",
    ]

    def stage(name: str, model: str, result: str, *words: str) -> list[str]:
        return [name, "--recipe", "tiny", "--model", str(out / model), *data, "--out", str(out / result), *words]

    return {
        "build-qa": ["build-qa", "all", *sources, "--out", str(out / "build"), "--open-data"],
        "init": ["init", "--tiny", str(out / "start")],
        "cache": ["cache", "--model", str(out / "start"), *data, "--out", str(out / "cache")],
        "pretrain": stage("pretrain", "start", "pt", *cache, *few),
        "finetune": stage("finetune", "pt/final", "sft", *cache, *few, "--eval-answers", "0"),
        "reinforce": stage("reinforce", "sft/final", "rft", *cache, *few, *short),
        "evaluate": [
            *["evaluate", "--model", str(out / "rft" / "final"), *data, "--out", str(out / "results"), *cache],
            *["--limit", str(limit), "--max-new-tokens", "32", "--batch-size", "32", "--resamples", "100"],
        ],
    }


def run_step(name: str, words: Sequence[str], out: Path, delays: list[float]) -> Step:
    """Runs a command until it ends by itself; each delay that it outlasts kills it, and is used up."""
    step, before = Step(name), disk_use(out)
    while True:
        began = time.monotonic()
        with open(out / f"{name}.log", "ab") as log:
            process = subprocess.Popen([sys.executable, "-m", "medtvt_training.cli", *words], stdout=log, stderr=log)
        timer = threading.Timer(delays[0], process.kill) if delays else None
        if timer:
            timer.start()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if timer:
            timer.cancel()
        step.seconds += time.monotonic() - began
        step.cpu_seconds += used.ru_utime + used.ru_stime
        step.memory_gb = max(step.memory_gb, used.ru_maxrss * 1024 / 1e9)
        step.disk_gb = disk_use(out) - before
        if process.returncode == 0:
            return step
        if process.returncode != -9 or not delays:
            raise SystemExit(f"{name} ended with {process.returncode}:\n{(out / f'{name}.log').read_text()[-3000:]}")
        delays.pop(0)
        step.kills += 1
        print(f"{name}: killed after {time.monotonic() - began:.0f} s", flush=True)


def disk_use(folder: Path) -> float:
    """GB that files take on the disk; a file with several names counts once."""
    sizes = {}
    for place, _, names in os.walk(folder):
        for name in names:
            found = os.lstat(os.path.join(place, name))
            sizes[found.st_ino] = found.st_blocks * 512
    return sum(sizes.values()) / 1e9


def render(steps: Sequence[Step]) -> str:
    """The table of what each step took."""
    header = ["step", "minutes", "CPU minutes", "peak memory, GB", "disk, GB", "kills"]
    rows = [
        [
            *[step.name, f"{step.seconds / 60:.1f}", f"{step.cpu_seconds / 60:.1f}"],
            *[f"{step.memory_gb:.2f}", f"{step.disk_gb:.2f}", str(step.kills)],
        ]
        for step in steps
    ]
    return markdown_table(header, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--admissions", type=int, default=60, help="of a patient each (default: 60; MedTVT-QA has 8706)"
    )
    parser.add_argument("--lab-rows", type=int, default=10_000_000, help="of labevents at least (default: 10,000,000)")
    parser.add_argument("--drawings", type=int, default=300, help="different ECGs and films (default: 300)")
    parser.add_argument("--steps", type=int, default=8, help="of each training stage (default: 8)")
    parser.add_argument("--limit", type=int, default=200, help="records to evaluate (default: 200)")
    parser.add_argument("--kills", type=int, default=5, help="how many times a command is killed (default: 5)")
    parser.add_argument("--longest", type=float, default=60, help="seconds at most before a kill (default: 60)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    parser.add_argument("--out", type=Path, required=True, help="folder for all of it; must not exist")
    args = parser.parse_args()
    args.out.mkdir(parents=True)
    steps = [Step("write the folder")]
    began, cpu = time.monotonic(), time.process_time()
    folders = write_mimic_at_size(
        args.out / "mimic", args.admissions, args.lab_rows, min(args.drawings, args.admissions)
    )
    steps[0].seconds, steps[0].cpu_seconds = time.monotonic() - began, time.process_time() - cpu
    steps[0].disk_gb = disk_use(args.out)
    drawn = random.Random(args.seed)
    delays = [drawn.uniform(0.2, 1) * args.longest for _ in range(args.kills)]
    commands = list_commands(args.out, folders, args.steps, args.limit)
    for left, (name, words) in zip(range(len(commands), 0, -1), commands.items()):
        # spread over the commands; what one outlived is for those after it
        share = delays[: math.ceil(len(delays) / left)]
        steps.append(run_step(name, words, args.out, share))
        del delays[: steps[-1].kills]
        print(f"{name}: {asdict(steps[-1])}", flush=True)
    write_json([asdict(step) for step in steps], args.out / "rehearsal.json")
    write_text(render(steps), args.out / "rehearsal.md")
    print(render(steps))
    shutil.rmtree(args.out / "mimic")  # the largest part, and the quickest to write again


if __name__ == "__main__":
    main()
