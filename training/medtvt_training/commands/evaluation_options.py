# SPDX-License-Identifier: Apache-2.0
"""Options that the commands of evaluation share."""

import argparse
from typing import TYPE_CHECKING

from ..data.rows import LEVELS, SPLITS


if TYPE_CHECKING:
    from ..evaluation.run import Records, Scoring


def add_record_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that select records and control generation."""
    parser.add_argument("--data", help="dataset folder, in this package's layout or the authors'")
    parser.add_argument(
        "--level", choices=LEVELS, default="diagnosis", help="level of the questions (default: diagnosis)"
    )
    parser.add_argument(
        "--split",
        choices=[*SPLITS, "all"],
        default="test",
        help="split of the records; all is for open data that the weights learned nothing from (default: %(default)s)",
    )
    parser.add_argument("--ecg-root", help="folder that ECG paths are relative to (default: --data)")
    parser.add_argument("--cxr-root", help="folder that X-ray paths are relative to (default: --data)")
    parser.add_argument(
        "--ids",
        metavar="PATTERN",
        help="evaluate only records whose id a regular expression matches, such as (ecg|cxr|lab)$",
    )
    parser.add_argument("--limit", type=int, help="evaluate only the first LIMIT records")
    parser.add_argument("--out", help="folder for predictions.jsonl, metrics.json, report.md and figures")
    parser.add_argument("--batch-size", type=int, default=8, help="records per batch (default: 8)")
    parser.add_argument(
        "--max-new-tokens", type=int, help="maximum length of an answer in tokens (default: the model's)"
    )
    parser.add_argument("--device", help="torch device (default: cuda if available, else cpu)")


def add_scoring_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the metrics."""
    parser.add_argument("--wordnet", help="nltk_data folder that contains WordNet, for METEOR")
    parser.add_argument("--bert-score-encoder", help="folder of the encoder (roberta-large) for BERTScore")
    parser.add_argument("--bert-score-layer", type=int, help="layer of that encoder (default: 17, for roberta-large)")
    parser.add_argument(
        "--by",
        nargs="+",
        metavar="COLUMN",
        help="report subgroups by these columns of the predictions (default: age and sex, where they are recorded)",
    )
    parser.add_argument("--resamples", type=int, default=1000, help="bootstrap resamples (default: 1000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of sampling and bootstrap (default: 0)")


def records_of(args: argparse.Namespace) -> "Records":
    """The records that the options select."""
    from ..evaluation.run import Records

    return Records(args.data, args.level, args.split, args.ecg_root, args.cxr_root, args.limit, args.ids)


def scoring_of(args: argparse.Namespace) -> "Scoring":
    """The settings of the metrics that the options give."""
    from ..evaluation.run import Scoring
    from ..evaluation.text_scores import TextResources

    resources = TextResources(args.wordnet, args.bert_score_encoder, args.bert_score_layer)
    return Scoring(resources, args.resamples, args.seed, args.by)


def check_required(args: argparse.Namespace, *names: str) -> None:
    """Raises ValueError for the first option that is missing."""
    for name in names:
        if getattr(args, name) is None:
            raise ValueError(f"--{name.replace('_', '-')} is needed.")
