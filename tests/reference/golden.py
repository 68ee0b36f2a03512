# SPDX-License-Identifier: Apache-2.0
"""The shipped weights' metrics on records of the synthetic cohort, drawn anew with a fixed seed."""

from pathlib import Path
from typing import Any

from medtvt_training.evaluation.run import Records, Scoring, evaluate_model
from medtvt_training.synthetic.cohort import write_cohort
from modeling_medtvt import DEFAULT_CHECKPOINT


RECORDS = 50
SEED = 2**31  # of no cohort that anything was trained on


def evaluate_shipped(folder: Path) -> dict[str, Any]:
    """`records` and, by name, the metrics of metrics.json that are single numbers, without the bootstrap."""
    data = write_cohort(folder / "cohort", RECORDS, SEED, num_workers=1, progress=False)
    # a cohort's own split would leave a tenth of it: all records are asked here
    metrics = evaluate_model(DEFAULT_CHECKPOINT, Records(data, split="test"), folder / "out", Scoring(resamples=0))[""]
    return flatten(metrics)


def flatten(metrics: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """Numbers of nested dicts, with dotted names."""
    found: dict[str, float] = {}
    for name, value in metrics.items():
        if isinstance(value, dict):
            found |= flatten(value, f"{prefix}{name}.")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            found[prefix + name] = value
    return found
