# SPDX-License-Identifier: Apache-2.0
"""`medtvt synthesize`: write a synthetic cohort with known causes."""

import argparse
from pathlib import Path

from ..files import write_json, write_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `medtvt synthesize`."""
    parser.add_argument("--patients", type=int, default=1000, help="number of patients (default: 1000)")
    parser.add_argument(
        "--seed", type=int, default=0, help="random seed; different seeds share no patient (default: 0)"
    )
    parser.add_argument("--out", required=True, help="output folder; with --report or --preview it may exist")
    parser.add_argument(
        "--setting",
        choices=["clear", "realistic"],
        help="how often causes produce signs; realistic: as often as published (default: clear)",
    )
    parser.add_argument("--first", type=int, default=0, help="index of the first patient (default: 0)")
    parser.add_argument("--workers", type=int, help="number of processes (default: one per core)")
    parser.add_argument(
        "--report",
        action="store_true",
        help="report how well simple classifiers and the known signs predict the labels",
    )
    parser.add_argument("--preview", action="store_true", help="write a contact sheet for each disease")


def run(args: argparse.Namespace) -> None:
    """Entry point of `medtvt synthesize`."""
    from ..synthetic.cohort import write_cohort

    folder = Path(args.out)
    if args.report and not (folder / "cohort.json").exists():
        from ..evaluation.fairness import check_size

        check_size(args.patients)  # before it draws them
    if (folder / "cohort.json").exists() and (args.report or args.preview):
        print(f"{folder} is there already and stays as it is.")
    else:
        write_cohort(folder, args.patients, args.seed, args.setting or "clear", args.first, args.workers)
        print(f"{folder}: {args.patients} imaginary patients, no real data. Research use only.")
    if args.preview:
        from ..synthetic.preview import draw_previews

        for path in draw_previews(folder):
            print(path)
    if args.report:
        from ..evaluation.fairness import format_fairness, measure_fairness

        report = measure_fairness(folder, args.workers)
        write_json(report, folder / "report.json")
        write_text(format_fairness(report), folder / "report.md")
        print(format_fairness(report))
