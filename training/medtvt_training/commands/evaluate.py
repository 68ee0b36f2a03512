# SPDX-License-Identifier: Apache-2.0
"""`medtvt evaluate`: generate a model's answers to a dataset's questions, and compute all metrics."""

import argparse
from collections.abc import Sequence

from ..data.conversation import MODALITIES
from .engine_options import add_engine_options, engine_of
from .evaluation_options import add_record_options, add_scoring_options, check_required, records_of, scoring_of


# Of the labs withheld where none are named
LAB_SHARES = (0.0, 0.1, 0.25, 0.5, 0.75)
# Options of a dataset's records, which --open-data and --single-labs have none of
OF_RECORDS = (
    *("data", "ids", "limit", "ecg_root", "cxr_root", "feature_cache", "num_samples"),
    *("withhold", "swap", "subsets", "withhold_labs"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `medtvt evaluate`."""
    parser.add_argument("--model", help="checkpoint folder")
    add_record_options(parser)
    parser.add_argument(
        "--num-samples",
        type=int,
        default=0,
        help="number of answers to sample per record; a probability is the share that names the disease",
    )
    parser.add_argument(
        "--likelihood", action="store_true", help="also compute the probability of each disease in the answer slot"
    )
    parser.add_argument("--feature-cache", help="folder for cached encoder outputs; created if missing")
    parser.add_argument(
        "--withhold", nargs="+", choices=MODALITIES, default=(), help="evaluate again without each of these modalities"
    )
    parser.add_argument(
        "--swap",
        nargs="+",
        choices=MODALITIES,
        default=(),
        help="evaluate again with each of these modalities taken from another patient",
    )
    parser.add_argument(
        "--open-data",
        metavar="DIR",
        help="measure on open real data instead: a folder of `medtvt open-data`, or with PTB-XL, films, the MIMIC-IV demo",
    )
    parser.add_argument(
        "--single-labs",
        action="store_true",
        help="instead, ask about single normal labs, and count statements about what was not measured",
    )
    parser.add_argument(
        "--subsets",
        action="store_true",
        help="evaluate again with each subset of the modalities, and report how far the answers agree",
    )
    parser.add_argument(
        "--withhold-labs",
        nargs="*",
        type=float,
        metavar="SHARE",
        help="evaluate again without these shares of each patient's labs (without a SHARE: 0 0.1 0.25 0.5 0.75)",
    )
    parser.add_argument("--table", type=int, choices=[1, 2, 3], help="print a table of the paper instead")
    parser.add_argument(
        "--metrics", nargs="+", metavar="NAME=FILE", help="with --table: name and metrics.json of each row"
    )
    add_engine_options(parser)
    add_scoring_options(parser)
    parser.epilog = "On several devices: torchrun --nproc-per-node 8 -m medtvt_training.cli evaluate ..."


def run(args: argparse.Namespace) -> None:
    """Entry point of `medtvt evaluate`."""
    from ..evaluation.paper_tables import render_table
    from ..evaluation.report import render_headlines
    from ..evaluation.run import evaluate_model

    if args.table:
        print(render_table(args.table, parse_named_files(args.metrics)))
        return
    if args.open_data:
        _run_open_data(args)
        return
    if args.single_labs:
        _run_single_labs(args)
        return
    check_required(args, "model", "data", "out")
    if args.engine == "vllm" and args.num_samples:
        raise ValueError("--num-samples is not with --engine vllm: a row's draws would depend on the run.")
    results = evaluate_model(
        args.model,
        records_of(args),
        args.out,
        scoring_of(args),
        batch_size=args.batch_size,
        max_new_tokens=args.max_new_tokens,
        num_samples=args.num_samples,
        likelihood=args.likelihood,
        feature_cache=args.feature_cache,
        withheld=args.withhold,
        swapped=args.swap,
        subsets=args.subsets,
        labs_withheld=LAB_SHARES if args.withhold_labs == [] else args.withhold_labs or (),
        engine=engine_of(args),
        device=args.device,
    )
    if results:  # of several processes the first has them
        print(render_headlines(results))


def _run_open_data(args: argparse.Namespace) -> None:
    from ..evaluation.open_data import evaluate_open_data
    from ..evaluation.open_metrics import render_open_data

    check_required(args, "model", "out")
    _refuse(args, "--open-data", *OF_RECORDS)
    results = evaluate_open_data(
        args.model,
        args.open_data,
        args.out,
        scoring_of(args),
        split=args.split,
        batch_size=args.batch_size,
        max_new_tokens=args.max_new_tokens,
        device=args.device,
    )
    print(render_open_data(results))


def _run_single_labs(args: argparse.Namespace) -> None:
    from ..evaluation.single_labs import evaluate_single_labs, render_single_labs

    check_required(args, "model", "out")
    _refuse(args, "--single-labs", *OF_RECORDS)
    results = evaluate_single_labs(
        args.model, args.out, batch_size=args.batch_size, max_new_tokens=args.max_new_tokens, device=args.device
    )
    print(render_single_labs(results))


def _refuse(args: argparse.Namespace, option: str, *names: str) -> None:
    """Raises ValueError for an option that would be ignored beside `option`."""
    if args.engine != "transformers":
        raise ValueError(f"--engine vllm is not with {option}.")
    for name in names:
        if getattr(args, name) not in (None, False, 0, ()):  # an empty list is --withhold-labs without a share
            raise ValueError(f"--{name.replace('_', '-')} is not with {option}, which has records of its own.")


def parse_named_files(named: Sequence[str] | None) -> dict[str, str]:
    """`["SFT=runs/sft/metrics.json"]` as a dict."""
    if not named or any("=" not in item for item in named):
        raise ValueError("--table needs --metrics NAME=FILE, one for each row of the table.")
    return dict(item.split("=", 1) for item in named)
