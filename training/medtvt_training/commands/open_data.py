# SPDX-License-Identifier: Apache-2.0
"""`medtvt open-data`: write open data sets, in their published layout, as MedTVT-QA."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `medtvt open-data`."""
    parser.add_argument("--ptb-xl", help="folder of PTB-XL: ptbxl_database.csv, scp_statements.csv, records500/")
    parser.add_argument("--films", help="table of chest films: file, patient, label (NIH's labels)")
    parser.add_argument("--out", required=True, help="output folder")
    parser.add_argument(
        "--test-folds", type=int, nargs="*", default=[10], help="folds of the test split, or none (default: 10)"
    )
    parser.add_argument(
        "--validation-folds",
        type=int,
        nargs="*",
        default=[9],
        help="folds of the validation split, or none (default: 9)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the wording (default: 0)")
    parser.add_argument(
        "--max-rejected",
        type=float,
        default=0.01,
        help="share of records that may be left out, and are listed in rejects.jsonl (default: 0.01)",
    )


def run(args: argparse.Namespace) -> None:
    """Entry point of `medtvt open-data`."""
    from ..open_data.dataset import write_open_data

    content = write_open_data(
        args.out,
        ptb_xl=args.ptb_xl,
        films=args.films,
        test_folds=args.test_folds,
        validation_folds=args.validation_folds,
        seed=args.seed,
        max_rejected=args.max_rejected,
    )
    for source in content["sources"]:
        counts = ", ".join(f"{number:,} {split}" for split, number in source["records"].items())
        print(f"{source['name']}: {counts} records; {source['rejected']:,} rejected. {source['license']}.")
        print(f"  Attribution: {source['attribution']}")
        print(f"  Labels: {source['labels']}.")
    print(f"{args.out}: real patients, de-identified by the publishers. Research use only.")
