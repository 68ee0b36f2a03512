# SPDX-License-Identifier: Apache-2.0
"""`medtvt merge`: merge a LoRA adapter into its base model."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `medtvt merge`."""
    parser.add_argument("--adapter", required=True, help="adapter or checkpoint folder of a stage")
    parser.add_argument("--out", required=True, help="output folder")
    parser.add_argument("--model", help="base model, if it has been moved since training")


def run(args: argparse.Namespace) -> None:
    """Entry point of `medtvt merge`."""
    from ..stages.merge import merge_adapter

    merge_adapter(args.adapter, args.out, args.model)
    print(f"{args.out}: the model with its adapter folded in.")
