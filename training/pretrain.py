# SPDX-License-Identifier: Apache-2.0
"""`medtvt pretrain`: PT, the first stage. Projectors and LoRA learn to describe one modality at a time (paper, 3.2.2)."""

import sys

from transformers import TrainingArguments

from .arguments import DataArguments, ModelArguments, add_stage_arguments, parse_stage_arguments
from .cli import main


ARGUMENTS = (ModelArguments, DataArguments)


def add_arguments(parser):
    """Arguments of `medtvt pretrain`."""
    add_stage_arguments(parser, "pretrain", ARGUMENTS)


def run(args):
    """Entry point of `medtvt pretrain`."""
    from .stages import train_stage

    dataclass_types = (*ARGUMENTS, TrainingArguments)
    train_stage("pt", *parse_stage_arguments("pretrain", dataclass_types, args.config, args.overrides))


if __name__ == "__main__":
    sys.exit(main(["pretrain", *sys.argv[1:]]))
