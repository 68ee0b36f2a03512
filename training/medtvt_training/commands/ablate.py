# SPDX-License-Identifier: Apache-2.0
"""`medtvt ablate`: train and evaluate the ablations of the paper."""

import argparse
import dataclasses

from ..stages.arguments import packaged_recipes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `medtvt ablate`."""
    recipes = ", ".join(packaged_recipes("pt"))
    parser.add_argument("--recipe", default="tiny", help=f"{recipes}, or a folder with such files (default: tiny)")
    parser.add_argument("--data", required=True, help="dataset folder")
    parser.add_argument("--ecg-root", help="folder that ECG paths are relative to (default: --data)")
    parser.add_argument("--cxr-root", help="folder that X-ray paths are relative to (default: --data)")
    parser.add_argument("--model", required=True, help="checkpoint folder with trained encoders, from which PT starts")
    parser.add_argument("--out", required=True, help="folder for stages, predictions, metrics and tables")
    parser.add_argument(
        "--variants",
        nargs="+",
        metavar="NAME",
        help="some of no-pt, no-rft, no-cmha, no-cao, neither, pt-without-ecg, pt-without-cxr, pt-without-lab, k1, k4 "
        "(default: all); `full`, with which they are compared, is always there",
    )
    parser.add_argument("--without-rft", action="store_true", help="skip RFT, which takes longest, in all variants")
    parser.add_argument("--max-steps", type=int, help="maximum training steps of each stage; validation is skipped")
    parser.add_argument("--limit", type=int, help="evaluate only the first LIMIT test records")
    parser.add_argument("--batch-size", type=int, default=32, help="records per batch (default: 32)")
    parser.add_argument(
        "--seeds",
        type=int,
        default=1,
        help="train each variant so often, with different seeds: a difference is called one only where it exceeds what "
        "differs between trainings too (default: 1)",
    )
    parser.add_argument("--feature-cache", help="folder for cached encoder outputs (default: OUT/features)")


def run(args: argparse.Namespace) -> None:
    """Entry point of `medtvt ablate`."""
    from ..evaluation.ablation import VARIANTS, Ablation, run_ablation

    settings = {field.name: getattr(args, field.name) for field in dataclasses.fields(Ablation)}
    print(run_ablation(Ablation(**settings), args.variants or list(VARIANTS)))
