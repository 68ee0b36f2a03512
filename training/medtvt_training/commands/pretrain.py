# SPDX-License-Identifier: Apache-2.0
"""`medtvt pretrain`: PT, the first stage. Projectors and LoRA learn to describe one modality at a time (paper, 3.2.2)."""

import argparse

from .stage_options import add_stage_options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `medtvt pretrain`."""
    add_stage_options(parser, "pt")


def run(args: argparse.Namespace) -> None:
    """Entry point of `medtvt pretrain`."""
    from ..stages.run import run_stage

    run_stage("pt", args.recipe, args.overrides)
