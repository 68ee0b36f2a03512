# SPDX-License-Identifier: Apache-2.0
"""`medtvt ablate`: the paper's variants, trained and evaluated side by side."""

import argparse
import dataclasses

from ..stages.arguments import packaged_recipes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `medtvt ablate`."""
    recipes = ", ".join(packaged_recipes("pt"))
    parser.add_argument("--recipe", default="tiny", help=f"{recipes}, or a folder with such files (default: tiny)")
    parser.add_argument("--data", required=True, help="folder of a MedTVT-QA dataset")
    parser.add_argument("--ecg-root", help="what ECG paths are relative to (default: --data)")
    parser.add_argument("--cxr-root", help="what X-ray paths are relative to (default: --data)")
    parser.add_argument("--model", required=True, help="folder of a model with trained encoders: where PT starts")
    parser.add_argument("--out", required=True, help="folder for stages, predictions, metrics and tables")
    parser.add_argument(
        "--variants",
        nargs="+",
        metavar="NAME",
        help="some of no-pt, no-rft, no-cmha, no-cao, neither, pt-without-ecg, pt-without-cxr, pt-without-lab, k1, k4 "
        "(default: all); `full`, with which they are compared, is always there",
    )
    parser.add_argument("--without-rft", action="store_true", help="all variants end with SFT, as RFT takes longest")
    parser.add_argument(
        "--max-steps", type=int, help="at most so many steps of each stage, without validation: the reduced form"
    )
    parser.add_argument("--limit", type=int, help="only the first so many test records")
    parser.add_argument("--batch-size", type=int, default=32, help="records to answer at a time (default: 32)")
    parser.add_argument("--feature-cache", help="folder for the encoders' outputs (default: in --out)")


def run(args: argparse.Namespace) -> None:
    """Entry point of `medtvt ablate`."""
    from ..evaluation.ablation import VARIANTS, Ablation, run_ablation

    settings = {field.name: getattr(args, field.name) for field in dataclasses.fields(Ablation)}
    print(run_ablation(Ablation(**settings), args.variants or list(VARIANTS)))
