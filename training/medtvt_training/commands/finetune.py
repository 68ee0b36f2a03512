# SPDX-License-Identifier: Apache-2.0
"""`medtvt finetune`: SFT, the second stage. Perception layer and LoRA learn to diagnose with evidence (paper, 3.2.2)."""

import argparse

from .stage_options import add_stage_options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `medtvt finetune`."""
    add_stage_options(parser, "sft")


def run(args: argparse.Namespace) -> None:
    """Entry point of `medtvt finetune`."""
    from ..stages.run import run_stage

    run_stage("sft", args.recipe, args.overrides)
