# SPDX-License-Identifier: Apache-2.0
"""`medtvt reinforce`: RFT, the third stage. GRPO rewards format and diagnoses (paper, 3.2.2)."""

import argparse

from .stage_options import add_stage_options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `medtvt reinforce`."""
    add_stage_options(parser, "rft")


def run(args: argparse.Namespace) -> None:
    """Entry point of `medtvt reinforce`."""
    from ..stages.run import run_stage

    run_stage("rft", args.recipe, args.overrides)
