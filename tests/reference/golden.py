# SPDX-License-Identifier: Apache-2.0
"""The shipped weights' metrics on records of the synthetic cohort, drawn anew with a fixed seed."""

from pathlib import Path
from typing import Any

from medtvt_training.evaluation.run import Records, Scoring, evaluate_model
from medtvt_training.synthetic.cohort import write_cohort
from modeling_medtvt import DEFAULT_CHECKPOINT


RECORDS = 50
SEED = 2**31  # a seed that no weights were trained with


def evaluate_shipped(folder: Path) -> dict[str, float]:
    """
    The numbers of metrics.json by dotted name, without the bootstrap's intervals, what describes the run (time, memory), and
    single diseases, of which too few of these records have one.
    """
    # four fifths of a cohort are its split `train`, here only the one with most records
    data = write_cohort(folder / "cohort", 2 * RECORDS, SEED, num_workers=1, progress=False)
    records = Records(data, split="train", limit=RECORDS)
    numbers = flatten(evaluate_model(DEFAULT_CHECKPOINT, records, folder / "out", Scoring(resamples=0))[""])
    return {name: x for name, x in numbers.items() if not name.startswith("about.") and "per_disease" not in name}


def flatten(metrics: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """Numbers of nested dicts, with dotted names."""
    found: dict[str, float] = {}
    for name, value in metrics.items():
        if isinstance(value, dict):
            found |= flatten(value, f"{prefix}{name}.")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            found[prefix + name] = value
    return found
