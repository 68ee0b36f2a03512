# SPDX-License-Identifier: Apache-2.0
"""`medtvt baseline`: evaluate another model on the same records, with the same parser and metrics."""

import argparse
from pathlib import Path

from .evaluation_options import add_record_options, add_scoring_options, check_required, records_of, scoring_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `medtvt baseline`."""
    parser.add_argument("--model", help="a model of the paper by its name, a Hub id, a folder, or 'gradient-boosting'")
    parser.add_argument("--list", action="store_true", help="print the models that the paper compares with")
    parser.add_argument(
        "--encoders", help="with gradient-boosting: use the encoder outputs of this checkpoint as features"
    )
    parser.add_argument(
        "--feature-cache", help="with --encoders: folder for cached encoder outputs; created if missing"
    )
    parser.add_argument(
        "--text-only", action="store_true", help="evaluate a causal LM: ECG measurements and labs are given as text"
    )
    parser.add_argument(
        "--endpoint",
        metavar="URL",
        help="base URL of an OpenAI-compatible server (vLLM, SGLang) that runs --model, e.g. http://127.0.0.1:8000/v1; it "
        "is asked for --batch-size answers at a time",
    )
    parser.add_argument("--api-key-file", type=Path, help="with --endpoint: file that contains the API key")
    parser.add_argument(
        "--acknowledge-data-use",
        metavar="SENTENCE",
        help="with --endpoint: required, word for word, if it is not on this machine",
    )
    add_record_options(parser)
    add_scoring_options(parser)


def run(args: argparse.Namespace) -> None:
    """Entry point of `medtvt baseline`."""
    from ..evaluation.baseline import list_peers, run_baseline
    from ..evaluation.report import render_headlines

    if args.list:
        print(list_peers())
        return
    if (args.acknowledge_data_use or args.api_key_file) and not args.endpoint:
        raise ValueError("--acknowledge-data-use and --api-key-file belong to --endpoint.")
    check_required(args, "model", "data", "out", *(["feature_cache"] if args.encoders else []))
    results = run_baseline(
        args.model,
        records_of(args),
        args.out,
        scoring_of(args),
        batch_size=args.batch_size,
        max_new_tokens=args.max_new_tokens,
        text_only=args.text_only,
        encoders=args.encoders,
        feature_cache=args.feature_cache,
        endpoint=args.endpoint,
        acknowledgment=args.acknowledge_data_use,
        api_key=args.api_key_file.read_text().strip() if args.api_key_file else None,
        device=args.device,
    )
    print(render_headlines({"": results}))
