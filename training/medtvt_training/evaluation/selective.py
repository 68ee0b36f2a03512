# SPDX-License-Identifier: Apache-2.0
"""
How far probabilities can be trusted, disease by disease: reliability, and what is gained where the least sure answers are
withheld (selective prediction), for all and for each subgroup.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from modeling_medtvt import DISEASES, parse_answer

from ..data.labels import as_label_array
from ..files import markdown_table
from .answer_metrics import probability_sources
from .bootstrap import Metric, mean_metric, measure_all, ratio, ratio_metric
from .metrics import ECE_BINS
from .subgroups import MIN_RECORDS, group_records
from .values import format_entry, format_value


# Coverages of the curve, and the one that tables show
COVERAGES = tuple(round(0.05 * step, 2) for step in range(1, 21))
KEPT = 0.8


def measure_selective(
    records: Sequence[Mapping], columns: Sequence[str], resamples: int, seed: int
) -> dict[str, Any] | None:
    """
    An answer to a disease is as sure as its probability says: p where it is named, 1 - p where it is not.

    Returns:
        `dict`: `source` of the probabilities; `per_disease` with `reliability` (of each tenth of the probabilities that
        holds records their mean, the share that is ill, and the number), `error` (share of wrong answers),
        `error_kept` where only the surest 80 % are answered, `aurc` (area under the risk-coverage curve) and
        `risk_coverage`; and `subgroups`: by column and group the share of answers kept, and the errors of all and of
        those kept, over the seven diseases. None where records have no probabilities.
    """
    sources = probability_sources(records)
    if not sources:
        return None
    source, probabilities = list(sources.items())[-1]
    truth = as_label_array([record["diseases"] for record in records])
    named = as_label_array([parse_answer(record["completion"]).diseases for record in records])
    wrong = truth != named
    sureness = np.where(named, probabilities, 1 - probabilities)
    kept = np.stack([_surest(sureness[:, i], KEPT) for i in range(len(DISEASES))], axis=1)
    subjects = [record["subject_id"] for record in records]
    metrics = {}
    for i, disease in enumerate(DISEASES):
        metrics[f"{disease}\nerror"] = mean_metric(wrong[:, i])
        metrics[f"{disease}\nerror_kept"] = mean_metric(wrong[:, i], kept[:, i])
        metrics[f"{disease}\naurc"] = Metric(_aurc(wrong[:, i], sureness[:, i]))
    measured = measure_all(metrics, subjects, resamples, seed)
    diseases = {
        disease: {
            **{name: measured[f"{disease}\n{name}"] for name in ("error", "error_kept", "aurc")},
            "reliability": reliability(truth[:, i], probabilities[:, i]),
            "risk_coverage": [
                [coverage, float(wrong[_surest(sureness[:, i], coverage), i].mean())] for coverage in COVERAGES
            ],
        }
        for i, disease in enumerate(DISEASES)
    }
    groups = {}
    for column in columns:
        large = {group: rows for group, rows in group_records(records, column).items() if len(rows) >= MIN_RECORDS}
        if large:
            groups[column] = _cost(large, wrong, kept, subjects, resamples, seed)
    return {"source": source, "kept": KEPT, "per_disease": diseases, "subgroups": groups}


def reliability(truth: np.ndarray, probabilities: np.ndarray) -> list[dict[str, float]]:
    """`probability`, `ill` and `records` of each of ten bins of equal width that holds a record."""
    bins = np.minimum((probabilities * ECE_BINS).astype(int), ECE_BINS - 1)
    return [
        {
            "probability": float(probabilities[bins == number].mean()),
            "ill": float(truth[bins == number].mean()),
            "records": int((bins == number).sum()),
        }
        for number in np.unique(bins)
    ]


def _surest(sureness: np.ndarray, coverage: float) -> np.ndarray:
    """(records,) of bool: the surest ones, as many as the coverage says; among equals the first."""
    chosen = np.zeros(len(sureness), dtype=bool)
    chosen[np.argsort(-sureness, kind="stable")[: max(1, round(coverage * len(sureness)))]] = True
    return chosen


def _aurc(wrong: np.ndarray, sureness: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Function from weights to the mean risk over all coverages."""
    order = np.argsort(-sureness, kind="stable")

    def area(weights: np.ndarray) -> np.ndarray:
        sorted_weights = weights[:, order]
        covered = sorted_weights.cumsum(1)
        risks = np.divide(
            (sorted_weights * wrong[order]).cumsum(1), covered, out=np.zeros_like(covered), where=covered > 0
        )
        return ratio((sorted_weights * risks).sum(1), covered[:, -1])

    return area


def _cost(
    groups: Mapping[str, np.ndarray],
    wrong: np.ndarray,
    kept: np.ndarray,
    subjects: Sequence[str],
    resamples: int,
    seed: int,
) -> dict[str, dict]:
    """Share of answers kept and errors of each group, over all diseases."""
    metrics = {}
    for group, rows in groups.items():
        member = np.zeros(len(wrong), dtype=bool)
        member[rows] = True
        metrics[f"{group}\nanswered"] = mean_metric(kept.mean(1), member)
        metrics[f"{group}\nerror"] = mean_metric(wrong.mean(1), member)
        hits, sizes = (wrong & kept).sum(1) * member, kept.sum(1) * member
        metrics[f"{group}\nerror_kept"] = ratio_metric(hits, sizes, "no answer of the group is kept")
    measured = measure_all(metrics, subjects, resamples, seed)
    names = ("answered", "error", "error_kept")
    return {
        group: {"records": len(rows), **{name: measured[f"{group}\n{name}"] for name in names}}
        for group, rows in groups.items()
    }


def render_calibration(results: Mapping) -> str | None:
    """
    Calibration error and Brier score of each disease, raw and calibrated, as a table in Markdown; None for a metrics.json
    without both.
    """
    strict, limits = results["strict"], results["intervals"].get("strict", {})
    raw = "likelihood_" if "likelihood_ece_macro" in strict else ""
    if "calibrated_ece_macro" not in strict:
        return None
    columns = {
        f"{prefix}{name}": f"{title}, {kind}"
        for name, title in _CALIBRATION.items()
        for prefix, kind in ((raw, "raw"), ("calibrated_", "calibrated"))
    }
    rows = []
    for disease, values in strict["per_disease"].items():
        own = limits.get("per_disease", {}).get(disease, {})
        rows.append([disease, *(format_value(values[name], own.get(name)) for name in columns)])
    rows.append(["mean", *(format_value(strict[f"{n}_macro"], limits.get(f"{n}_macro")) for n in columns)])
    note = (
        f"Calibration error: expected, {ECE_BINS} bins of equal width; resampled patients make it larger, so its intervals lie "
        "high. Calibrated: by the maps saved with the model, which are fitted on other patients."
    )
    return f"{markdown_table(['disease', *columns.values()], rows)}\n{note}\n"


_CALIBRATION = {"ece": "calibration error", "brier": "Brier score"}


def render_selective(found: Mapping) -> str:
    """Tables in Markdown."""
    share = f"{found['kept']:.0%}"
    rows = [
        [disease, *(format_entry(entry[name]) for name in ("error", "error_kept", "aurc"))]
        for disease, entry in found["per_disease"].items()
    ]
    parts = [
        f"Probabilities: {found['source']}. Errors are shares of wrong answers, of all and of the surest {share} of each "
        "disease; AURC is the area under the risk-coverage curve.",
        markdown_table(["disease", "error", f"error, surest {share}", "AURC"], rows),
    ]
    for column, groups in found["subgroups"].items():
        rows = [
            [
                group,
                str(entry["records"]),
                *(format_entry(entry[name]) for name in ("answered", "error", "error_kept")),
            ]
            for group, entry in groups.items()
        ]
        parts.append(markdown_table([column, "records", "answered", "error of all", "error of those answered"], rows))
    if found["subgroups"]:
        parts.append("What abstaining costs each group: one limit for all, so groups are answered more or less often.")
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"
