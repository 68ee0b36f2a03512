# SPDX-License-Identifier: Apache-2.0
"""Metrics of groups of patients, and the largest gaps between them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from modeling_medtvt import DISEASES, parse_answer

from ..data.labels import as_label_array
from ..files import markdown_table
from .answer_metrics import probability_sources
from .bootstrap import Metric, interval, mean_metric, measure_all, nanmean, resample, subset
from .metrics import auroc_of, label_metrics, probability_metrics
from .values import format_entry


DEFAULT_COLUMNS = ("age", "sex")
AGE_BANDS = ((0, 40, "under 40"), (40, 65, "40 to 64"), (65, 80, "65 to 79"), (80, np.inf, "80 and over"))
# Fewer records, and an interval says nothing
MIN_RECORDS = 30
# More groups than this are no subgroups but names
MAX_GROUPS = 20
METRICS = {
    "f1_samples": "F1",
    "auroc_macro": "AUROC",
    "brier_macro": "Brier score",
    "ece_macro": "calibration error",
}


def group_records(records: Sequence[Mapping], column: str) -> dict[str, np.ndarray]:
    """
    Numbers of the records of each group: `age` in bands, other columns by their values. Records without one are in none.

    Raises:
        ValueError: if values are of no kind that groups, or too many.
    """
    names = [_group_of(record.get(column), column) for record in records]
    order = [band for _, _, band in AGE_BANDS] if column == "age" else sorted({name for name in names if name})
    if len(order) > MAX_GROUPS:
        raise ValueError(f"`{column}` has {len(order)} different values; subgroups are {MAX_GROUPS} at most.")
    groups = {group: np.flatnonzero([name == group for name in names]) for group in order}
    return {group: rows for group, rows in groups.items() if len(rows)}


def _group_of(value: Any, column: str) -> str | None:
    if value is None or value != value:
        return None
    if column == "age":
        if not isinstance(value, (int, float)) or isinstance(value, bool) or value < 0:
            raise ValueError("`age` must be a number of years in every prediction, or null.")
        return next(name for low, high, name in AGE_BANDS if low <= value < high)
    if isinstance(value, (str, int, float)):
        return str(value) or None
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return " + ".join(value) or "none"
    raise ValueError(f"`{column}` holds values of type {type(value).__name__}, which make no groups.")


def measure_subgroups(
    records: Sequence[Mapping], columns: Sequence[str] | None, resamples: int, seed: int
) -> dict[str, dict]:
    """
    By column: `groups` with `records`, `patients` and the `METRICS` of each group, `gaps` with the largest difference of
    each metric, `too_few`, `not_recorded` and `left_out`, diseases that some group has not in both classes: the means of
    probability metrics are over the others, so that groups are compared on the same diseases.

    Args:
        columns (`Sequence[str]`, *optional*): Of the records; those of `DEFAULT_COLUMNS` that are recorded by default.

    Raises:
        ValueError: if no record has a column that was asked for.
    """
    found = {}
    for column in DEFAULT_COLUMNS if columns is None else columns:
        groups = group_records(records, column)
        if groups or columns is None:
            found[column] = _measure_column(records, groups, resamples, seed)
        else:
            raise ValueError(f"No prediction has `{column}`, so there are no subgroups by it.")
    return found


def _measure_column(
    records: Sequence[Mapping], groups: Mapping[str, np.ndarray], resamples: int, seed: int
) -> dict[str, Any]:
    subjects = [record["subject_id"] for record in records]
    truth = as_label_array([record["diseases"] for record in records])
    named = as_label_array([parse_answer(record["completion"]).diseases for record in records])
    sources = list(probability_sources(records).values())
    large = {group: rows for group, rows in groups.items() if len(rows) >= MIN_RECORDS}
    both = [i for i in range(len(DISEASES)) if all(0 < truth[rows, i].sum() < len(rows) for rows in large.values())]
    metrics: dict[str, Metric] = {}
    for group, rows in large.items():
        own = group_metrics(truth[rows], named[rows], sources[-1][rows] if sources else None, both)
        metrics |= {f"{group}\n{name}": subset(metric, rows) for name, metric in own.items()}
    measured = measure_all(metrics, subjects, resamples, seed)
    draws = resample(metrics, subjects, resamples, seed) if resamples else {}
    found: dict[str, Any] = {
        group: {
            "records": len(rows),
            "patients": len({subjects[i] for i in rows}),
            **{name: measured[f"{group}\n{name}"] for name in METRICS if f"{group}\n{name}" in measured},
        }
        for group, rows in large.items()
    }
    return {
        "groups": found,
        "gaps": {name: gap for name in METRICS if (gap := _gap(found, draws, name))},
        "too_few": {group: len(rows) for group, rows in groups.items() if group not in large},
        "not_recorded": len(records) - sum(map(len, groups.values())),
        "left_out": [disease for i, disease in enumerate(DISEASES) if large and sources and i not in both],
    }


def group_metrics(
    truth: np.ndarray, named: np.ndarray, probabilities: np.ndarray | None, diseases: Sequence[int]
) -> dict[str, Metric]:
    """`METRICS` of (records, 7) arrays; those of probabilities are means over the diseases of the given numbers."""
    metrics = {"f1_samples": label_metrics(truth, named)["f1_samples"]}
    if probabilities is None:
        return metrics
    if not diseases:
        reason = "no disease has both classes in every group"
        return metrics | {
            name: mean_metric(np.zeros(len(truth)), np.zeros(len(truth), dtype=bool), reason)
            for name in ("auroc_macro", "brier_macro", "ece_macro")
        }
    areas = [auroc_of(truth[:, i], probabilities[:, i]) for i in diseases]
    metrics["auroc_macro"] = Metric(lambda weights: nanmean(np.stack([area(weights) for area in areas])))
    of_all = probability_metrics(truth, probabilities)
    for name in ("brier", "ece"):
        columns = [of_all[f"per_disease/{DISEASES[i]}/{name}"].compute for i in diseases]
        metrics[f"{name}_macro"] = Metric(
            lambda weights, columns=columns: nanmean(np.stack([column(weights) for column in columns]))  # type: ignore[misc]
        )
    return metrics


def _gap(groups: Mapping[str, Mapping], draws: Mapping[str, np.ndarray], name: str) -> dict[str, Any] | None:
    """The largest difference of a metric between two groups; None where fewer than two define it."""
    values = {
        group: found[name]["value"]
        for group, found in groups.items()
        if name in found and found[name]["value"] is not None
    }
    if len(values) < 2:
        return None
    low, *_, high = sorted(values, key=values.__getitem__)
    limits = interval(draws[f"{high}\n{name}"] - draws[f"{low}\n{name}"]) if draws else None
    return {"high": high, "low": low, "value": values[high] - values[low], "interval": limits}


def render_subgroups(subgroups: Mapping[str, Mapping]) -> str:
    """A table for each column, in Markdown, with the largest gaps and what is left out below."""
    parts = []
    for column, found in subgroups.items():
        lines = []
        if found["groups"]:
            shown = [name for name in METRICS if any(name in group for group in found["groups"].values())]
            rows = [
                [group, str(entry["records"]), *(format_entry(entry.get(name)) for name in shown)]
                for group, entry in found["groups"].items()
            ]
            lines.append(markdown_table([column, "records", *(METRICS[name] for name in shown)], rows))
        for name, gap in found["gaps"].items():
            lines.append(f"Largest gap in {METRICS[name]}: {format_entry(gap)}, {gap['high']} against {gap['low']}.")
        if found["too_few"]:
            few = ", ".join(f"{group} ({number})" for group, number in found["too_few"].items())
            lines.append(f"By {column}, too few records ({MIN_RECORDS} are needed): {few}.")
        if found["left_out"]:
            lines.append(
                f"Left out of AUROC and calibration, as a group has one class: {', '.join(found['left_out'])}."
            )
        if found["not_recorded"]:
            lines.append(f"`{column}` is not recorded in {found['not_recorded']} records.")
        parts.append("\n\n".join(line.rstrip("\n") for line in lines))
    if any(found["gaps"] for found in subgroups.values()):
        parts.append("Two groups are picked after the fact, so the interval of a largest gap is too narrow.")
    return "\n\n".join(part for part in parts if part) + "\n"
