# SPDX-License-Identifier: Apache-2.0
"""`medtvt finetune`: SFT, the second stage. Perception layer and LoRA learn to diagnose with evidence (paper, 3.2.2)."""

import sys
from dataclasses import dataclass, field

from transformers import TrainingArguments

from .arguments import DataArguments, ModelArguments, add_stage_arguments, parse_stage_arguments
from .cli import main


@dataclass
class FinetuneArguments:
    """What only SFT has."""

    modality_dropout: float = field(
        default=0.0,
        metadata={"help": "Probability that a training row loses a modality, so that absence is learned."},
    )
    eval_answers: int = field(
        default=64, metadata={"help": "Validation rows to answer at each evaluation, for eval_disease_f1; 0 for none."}
    )


ARGUMENTS = (ModelArguments, DataArguments, FinetuneArguments)


def add_arguments(parser):
    """Arguments of `medtvt finetune`."""
    add_stage_arguments(parser, "finetune", ARGUMENTS)


def run(args):
    """Entry point of `medtvt finetune`."""
    from .stages import train_stage

    parsed = parse_stage_arguments("finetune", (*ARGUMENTS, TrainingArguments), args.config, args.overrides)
    model, data, finetune, training = parsed
    train_stage("sft", model, data, training, finetune.modality_dropout, finetune.eval_answers)


if __name__ == "__main__":
    sys.exit(main(["finetune", *sys.argv[1:]]))
