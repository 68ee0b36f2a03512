# SPDX-License-Identifier: Apache-2.0
"""Options that the commands of evaluation share."""

import argparse
from typing import TYPE_CHECKING

from ..data.rows import LEVELS, SPLITS


if TYPE_CHECKING:
    from ..evaluation.run import Records, Scoring


def add_record_options(parser: argparse.ArgumentParser) -> None:
    """Adds which records are answered, and how."""
    parser.add_argument("--data", help="folder of MedTVT-QA, ours or the authors'")
    parser.add_argument("--level", choices=LEVELS, default="diagnosis", help="of the questions (default: diagnosis)")
    parser.add_argument("--split", choices=SPLITS, default="test", help="(default: test)")
    parser.add_argument("--ecg-root", help="what ECG paths are relative to (default: --data)")
    parser.add_argument("--cxr-root", help="what X-ray paths are relative to (default: --data)")
    parser.add_argument("--limit", type=int, help="only the first so many records")
    parser.add_argument("--out", help="folder for predictions.jsonl, metrics.json, report.md and figures")
    parser.add_argument("--batch-size", type=int, default=8, help="records to answer at a time (default: 8)")
    parser.add_argument("--max-new-tokens", type=int, help="length limit of an answer (default: the model's)")
    parser.add_argument("--device", help="such as cuda (default: where there is one)")


def add_scoring_options(parser: argparse.ArgumentParser) -> None:
    """Adds how answers are measured."""
    parser.add_argument("--wordnet", help="an nltk_data folder with WordNet, for METEOR")
    parser.add_argument("--bert-score-encoder", help="folder of an encoder (roberta-large), for BERTScore")
    parser.add_argument("--bert-score-layer", type=int, help="its layer (default: 17, as for roberta-large)")
    parser.add_argument("--resamples", type=int, default=1000, help="bootstrap resamples (default: 1000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of what is drawn (default: 0)")


def records_of(args: argparse.Namespace) -> "Records":
    """The records that a command line names."""
    from ..evaluation.run import Records

    return Records(args.data, args.level, args.split, args.ecg_root, args.cxr_root, args.limit)


def scoring_of(args: argparse.Namespace) -> "Scoring":
    """How a command line wants answers measured."""
    from ..evaluation.run import Scoring
    from ..evaluation.score import TextResources

    resources = TextResources(args.wordnet, args.bert_score_encoder, args.bert_score_layer)
    return Scoring(resources, args.resamples, args.seed)


def check_required(args: argparse.Namespace, *names: str) -> None:
    """Raises ValueError for the first option that is missing."""
    for name in names:
        if getattr(args, name) is None:
            raise ValueError(f"--{name.replace('_', '-')} is needed.")
