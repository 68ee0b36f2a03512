# SPDX-License-Identifier: Apache-2.0
"""`medtvt export`: write a checkpoint folder that includes its code."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `medtvt export`."""
    parser.add_argument("--model", required=True, help="checkpoint folder")
    parser.add_argument("--out", required=True, help="output folder; it must not exist, or be empty")


def run(args: argparse.Namespace) -> None:
    """Entry point of `medtvt export`."""
    from modeling_medtvt import export_for_hub

    export_for_hub(args.model, args.out)
    print(f"{args.out}: opens with `trust_remote_code=True`, also where the package is installed.")
