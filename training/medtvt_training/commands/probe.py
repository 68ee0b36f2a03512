# SPDX-License-Identifier: Apache-2.0
"""`medtvt probe`: what linear probes read from encoders and from the tokens that the language model gets."""

import argparse

from ..data.conversation import MODALITIES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `medtvt probe`."""
    parser.add_argument("--model", required=True, help="checkpoint folder")
    parser.add_argument("--data", required=True, help="dataset folder whose physiology rows list their findings")
    parser.add_argument("--out", required=True, help="new folder for probe.json and probe.md")
    parser.add_argument(
        "--split", choices=["validation", "test"], default="test", help="split to measure on (default: test)"
    )
    parser.add_argument(
        "--train-inputs",
        type=int,
        default=2500,
        help="inputs of each modality to fit on, from the training split (default: 2500)",
    )
    parser.add_argument(
        "--modalities", nargs="+", choices=MODALITIES, default=MODALITIES, help="which (default: all three)"
    )
    parser.add_argument("--feature-cache", help="folder for cached encoder outputs; created if missing")
    parser.add_argument("--resamples", type=int, default=1000, help="bootstrap resamples (default: 1000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the bootstrap (default: 0)")
    parser.add_argument("--device", help="torch device (default: cuda if available, else cpu)")


def run(args: argparse.Namespace) -> None:
    """Entry point of `medtvt probe`."""
    from ..evaluation.probe import probe_model, render_probe

    results = probe_model(
        args.model,
        args.data,
        args.out,
        split=args.split,
        train_inputs=args.train_inputs,
        modalities=args.modalities,
        feature_cache=args.feature_cache,
        resamples=args.resamples,
        seed=args.seed,
        device=args.device,
    )
    print(render_probe(results))
