# SPDX-License-Identifier: Apache-2.0
"""`medtvt metrics`: compute the metrics of an existing predictions file."""

import argparse
from pathlib import Path

from ..files import write_json, write_text
from .evaluation_options import add_scoring_options, scoring_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `medtvt metrics`."""
    parser.add_argument("--predictions", required=True, help="predictions.jsonl, or a file in the authors' format")
    parser.add_argument("--references", help="reference file, for a predictions file in the authors' format")
    parser.add_argument(
        "--versus", help="second predictions file of the same records; paired differences A - B are reported"
    )
    parser.add_argument("--out", required=True, help="folder for metrics.json, report.md and figures")
    add_scoring_options(parser)


def run(args: argparse.Namespace) -> None:
    """Entry point of `medtvt metrics`."""
    from ..evaluation.predictions import read_authors_predictions, read_predictions
    from ..evaluation.report import render_comparison, render_headlines
    from ..evaluation.score import compare_records, score_records, write_results

    def read(path: str) -> list[dict]:
        return read_authors_predictions(path, args.references) if args.references else read_predictions(path)

    scoring, records = scoring_of(args), read(args.predictions)
    others = read(args.versus) if args.versus else None
    scorer = scoring.scorer(args.out)
    results = score_records(records, scorer, scoring.resamples, scoring.seed, scoring.by)
    write_results(results, args.out)
    print(render_headlines({"": results}))
    if others is not None:
        comparison = compare_records(records, others, scorer, scoring.resamples, scoring.seed, where=args.versus)
        write_json(comparison, Path(args.out, "comparison.json"))
        write_text(render_comparison(comparison, args.predictions, args.versus), Path(args.out, "comparison.md"))
