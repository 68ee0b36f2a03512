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
        mean = "-" if found["mean_auroc"] is None else f"{found['mean_auroc']:.3f}"
        lines.append(
            f"{modality}: mean AUROC {mean} over {len(found['auroc'])} findings, {found['rows']} validation inputs"
        )
        for name, value in found["auroc"].items():
            lines.append(f"  {'-' if value is None else format(value, '.3f'):>6}  {name} ({found['positives'][name]})")
    return "\n".join(lines)
