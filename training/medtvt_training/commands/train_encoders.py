# SPDX-License-Identifier: Apache-2.0
"""`medtvt train-encoders`: train the encoders on findings, before PT, if the released ones are not available."""

import argparse

from .stage_options import add_stage_options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `medtvt train-encoders`."""
    add_stage_options(parser, "encoders")


def run(args: argparse.Namespace) -> None:
    """Entry point of `medtvt train-encoders`."""
    from ..stages.run import run_stage

    metrics = run_stage("encoders", args.recipe, args.overrides)
    if metrics is not None:  # None: the run was finished before
        print(format_metrics(metrics))


def format_metrics(metrics: dict) -> str:
    """The validation AUROCs as text for a terminal."""
    lines = []
    for modality, found in metrics.items():
        means = [found["mean_encoder_auroc"], found["mean_token_auroc"]]
        lines.append(
            f"{modality}: mean AUROC {' -> '.join(map(_format, means))} from encoder to tokens over "
            f"{len(found['token_auroc'])} findings, {found['rows']} validation inputs"
        )
        for name, value in found["token_auroc"].items():
            lines.append(
                f"  {_format(found['encoder_auroc'][name]):>6} {_format(value):>6}  {name} ({found['positives'][name]})"
            )
    return "\n".join(lines)


def _format(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
