# SPDX-License-Identifier: Apache-2.0
"""
Speed and memory as ratios: each side of a ratio is measured in the same run, in turn with the other.

    python -m tests.benchmarks                                    everything, tiny and SmolLM2-135M shapes, on the CPU
    python -m tests.benchmarks --only decode sft --sizes tiny     some of it
    python -m tests.benchmarks --device cuda                      SmolLM2-135M and Llama-3.2-1B shapes in bfloat16
    python -m tests.benchmarks --only install --store             what needs the package index, into the stored baseline

Prints a Markdown table, and a line for each ratio that is no longer what baseline.json has for this kind of processor.
`--out FOLDER` writes the table as bench.md, and all ratios as bench.json; `--store` keeps them in baseline.json and in
docs/speed.md. Weights are random, but for those of the example patient.
"""

import argparse
import sys
import time
from importlib import import_module
from pathlib import Path

import torch

from .baseline import list_moved, processor_kind, read_baseline, store
from .harness import ROOT, Row, Settings, describe_machine, format_table, write_results
from .shapes import SIZES


# name -> module; its `measure(settings)` returns rows. Imported on use: each needs other packages.
MEASUREMENTS = {
    "install": "install",
    "import": "import_time",
    "memory": "memory",  # before the others: what they leave in this process is not there for its own processes
    "first-use": "first_use",
    "first-token": "first_token",
    "decode": "decode",
    "answer-parts": "answer_parts",
    "sft": "sft",
    "padding": "padding",
    "preprocess-ecg": "preprocess_ecg",
    "preprocess-labs": "preprocess_labs",
    "preprocess-films": "preprocess_films",
    "preprocess-formats": "preprocess_formats",
    "loader": "loader",
    "grpo": "grpo",
    "shared-prompt": "shared_prompt",
    "cuda": "cuda",
}
# only where they are named: the one takes a gigabyte from the package index, the other needs a CUDA device
NAMED_ONLY = {"cpu": {"install", "cuda"}, "cuda": {"install"}}


def run_measurements(names: list[str], settings: Settings, out: Path | None = None) -> tuple[list[Row], list[str]]:
    """
    Rows of the measurements, and a line for each that needs a package which is not installed.

    What is there after each measurement is written to `out`, so that an interrupted run leaves something.
    """
    rows, skipped = [], []
    for name in names:
        print(f"measuring {name} ...", end=" ", file=sys.stderr, flush=True)
        start = time.perf_counter()
        try:
            rows += import_module(f".{MEASUREMENTS[name]}", __package__).measure(settings)
        except ModuleNotFoundError as error:
            skipped.append(f"{name} ({error.name} is not installed)")
        print(f"{time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
        if out is not None:
            write_results(out, rows, skipped, describe_machine(settings.device))
    return rows, skipped


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument(
        "--sizes", nargs="+", choices=list(SIZES), help="shapes of the language model and its encoders"
    )
    parser.add_argument("--only", nargs="+", choices=list(MEASUREMENTS), metavar="NAME", help=", ".join(MEASUREMENTS))
    parser.add_argument("--repeats", type=int, default=5, help="pairs; long measurements have half of it (default: 5)")
    parser.add_argument("--threads", type=int, help="torch's threads (default: torch's own choice)")
    parser.add_argument("--out", type=Path, help="folder for bench.json and bench.md")
    parser.add_argument("--store", action="store_true", help="keep the ratios, for this kind of processor")
    parser.add_argument("--cases", type=Path, default=ROOT / "tests" / "fixtures", help="real ECGs and X-rays")
    args = parser.parse_args(arguments)
    sizes = args.sizes or {"cpu": ["tiny", "smollm2-135m"], "cuda": ["smollm2-135m", "llama-3.2-1b"]}[args.device]
    if args.device == "cpu" and "llama-3.2-1b" in sizes:
        parser.error("llama-3.2-1b is for --device cuda.")
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no CUDA device.")
    if args.repeats < 1:
        parser.error("--repeats must be at least 1.")
    if args.threads:
        torch.set_num_threads(args.threads)
    settings = Settings(args.device, sizes, args.repeats, args.cases if args.cases.is_dir() else None)
    names = args.only or [name for name in MEASUREMENTS if name not in NAMED_ONLY[args.device]]
    if args.device == "cpu" and "cuda" in names:
        parser.error("the measurement cuda is for --device cuda.")
    rows, skipped = run_measurements(names, settings, args.out)
    machine = describe_machine(args.device)
    print(format_table(rows, skipped, machine))
    kind = machine["gpu"] if args.device == "cuda" else processor_kind()
    for line in list_moved(rows, read_baseline().get(kind, {"rows": {}})["rows"]):
        print(line)
    if args.store:
        store(rows, machine, kind)


if __name__ == "__main__":
    main()
