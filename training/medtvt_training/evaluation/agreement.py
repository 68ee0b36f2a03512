# SPDX-License-Identifier: Apache-2.0
"""What answers are worth with each subset of the modalities or of the labs, and whether they stay the same."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from modeling_medtvt import parse_answer

from ..data.labels import as_label_array
from ..files import markdown_table
from .bootstrap import mean_metric, measure_all
from .values import format_entry


POINTS = {"f1_samples": "F1", "auroc_macro": "AUROC", "parse_rate": "parsed"}


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


def measure_points(key: str, results: Mapping[Any, Mapping]) -> list[dict[str, Any]]:
    """For each run, by what it was given or what was withheld from it: that under `key`, `records`, and `POINTS`."""
    points = []
    for place, found in results.items():
        limits = found["intervals"].get("strict", {})
        point: dict[str, Any] = {key: place, "records": found["about"]["records"]}
        for name in POINTS:
            point[name] = {"value": found["strict"].get(name), "interval": limits.get(name)}
        points.append(point)
    return points


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


def render_subsets(points: Sequence[Mapping]) -> str:
    """A table in Markdown."""
    table = _render_points("given", [(point["given"], point) for point in points])
    return f"Each subset by itself, of the records that have all of it.\n\n{table}"


def render_curve(points: Sequence[Mapping]) -> str:
    """A table in Markdown."""
    table = _render_points("labs withheld", [(f"{point['withheld']:.0%}", point) for point in points])
    return f"Records with labs; what is withheld at a lower share is withheld at a higher one too.\n\n{table}"


def _render_points(title: str, points: Sequence[tuple[str, Mapping]]) -> str:
    rows = [[name, str(point["records"]), *(format_entry(point[key]) for key in POINTS)] for name, point in points]
    return markdown_table([title, "records", *POINTS.values()], rows)
