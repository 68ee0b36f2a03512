# SPDX-License-Identifier: Apache-2.0
"""Whether answers stay the same when modalities are missing, and how they fade when single labs are."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from modeling_medtvt import parse_answer

from ..data.labels import as_label_array
from ..files import markdown_table
from .bootstrap import mean_metric, measure_all
from .values import format_entry, format_value


CURVE = {"f1_samples": "F1", "auroc_macro": "AUROC", "parse_rate": "parsed"}


def measure_agreement(runs: Mapping[str, Sequence[Mapping]], resamples: int, seed: int) -> list[dict[str, Any]]:
    """
    For each two subsets of the modalities: over the records that have both, the mean Jaccard index of the diseases that
    the two answers name (two empty answers agree fully), and the share of records for which they name the same.

    Args:
        runs: By subset, such as `"ecg+lab"`, its answers.
    """
    by_id = {name: {record["id"]: record for record in answers} for name, answers in runs.items()}
    found = []
    for first, second in combinations(runs, 2):
        shared = [name for name in by_id[first] if name in by_id[second]]
        if not shared:
            continue
        sides = [
            as_label_array([parse_answer(by_id[run][name]["completion"]).diseases for name in shared])
            for run in (first, second)
        ]
        both, either = (sides[0] & sides[1]).sum(1), (sides[0] | sides[1]).sum(1)
        jaccard = np.where(either > 0, both / np.maximum(either, 1), 1)
        metrics = {"jaccard": mean_metric(jaccard), "same": mean_metric((sides[0] == sides[1]).all(1))}
        subjects = [by_id[first][name]["subject_id"] for name in shared]
        measured = measure_all(metrics, subjects, resamples, seed)
        found.append({"first": first, "second": second, "records": len(shared), **measured})
    return found


def measure_curve(results: Mapping[float, Mapping]) -> list[dict[str, Any]]:
    """By share of the labs withheld, the `CURVE` of that run, each with its interval."""
    curve = []
    for share, found in sorted(results.items()):
        limits = found["intervals"].get("strict", {})
        entry: dict[str, Any] = {"withheld": share, "records": found["about"]["records"]}
        for name in CURVE:
            entry[name] = {"value": found["strict"].get(name), "interval": limits.get(name)}
        curve.append(entry)
    return curve


def render_agreement(pairs: Sequence[Mapping]) -> str:
    """A table in Markdown."""
    rows = [
        [
            pair["first"],
            pair["second"],
            str(pair["records"]),
            format_entry(pair["jaccard"]),
            format_entry(pair["same"]),
        ]
        for pair in pairs
    ]
    table = markdown_table(["given", "and given", "records", "Jaccard of the two answers", "same answer"], rows)
    return f"Two answers to the same patient, whatever is true of it.\n\n{table}"


def render_curve(curve: Sequence[Mapping]) -> str:
    """A table in Markdown."""
    rows = [
        [
            f"{entry['withheld']:.0%}",
            str(entry["records"]),
            *(format_value(entry[name]["value"], entry[name]["interval"]) for name in CURVE),
        ]
        for entry in curve
    ]
    table = markdown_table(["labs withheld", "records", *CURVE.values()], rows)
    return f"Records with labs; what is withheld at a lower share is withheld at a higher one too.\n\n{table}"
