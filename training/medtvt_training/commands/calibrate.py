# SPDX-License-Identifier: Apache-2.0
"""`medtvt calibrate`: probabilities that mean what they say, fitted on a validation split."""

import argparse

from .evaluation_options import add_record_options, check_required, records_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `medtvt calibrate`."""
    parser.add_argument("--model", help="checkpoint folder; calibration.json is written into it")
    add_record_options(parser)
    parser.add_argument("--feature-cache", help="folder of the encoders' outputs; made if missing")
    parser.set_defaults(split="validation")  # what is fitted is never measured on its own records


def run(args: argparse.Namespace) -> None:
    """Entry point of `medtvt calibrate`."""
    from ..evaluation.calibration import calibrate_model, format_calibration

    check_required(args, "model", "data", "out")
    calibration = calibrate_model(
        args.model,
        records_of(args),
        args.out,
        batch_size=args.batch_size,
        feature_cache=args.feature_cache,
        device=args.device,
    )
    print(format_calibration(calibration))
