# SPDX-License-Identifier: Apache-2.0
"""`medtvt merge`: a LoRA adapter folded into its model."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `medtvt merge`."""
    parser.add_argument("--adapter", required=True, help="adapter or checkpoint folder of a stage")
    parser.add_argument("--out", required=True, help="folder to write")
    parser.add_argument("--model", help="model that the adapter was trained on, if it is no longer where it was")


def run(args: argparse.Namespace) -> None:
    """Entry point of `medtvt merge`."""
    from ..stages.merge import merge_adapter

    merge_adapter(args.adapter, args.out, args.model)
    print(f"{args.out}: the model with its adapter folded in.")
