# SPDX-License-Identifier: Apache-2.0
"""Each finding by itself: how often a reasoning states it where it is shown, and where it is not."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from modeling_medtvt import parse_answer

from ..data.conversation import MODALITIES, MODALITY_NAMES
from ..files import markdown_table
from .bootstrap import Metric, measure_all, nanmean, ratio, ratio_metric
from .evidence_metrics import shown_findings
from .values import format_entry


# A finding of fewer records is a rare one
RARE = 0.08
SCORES = {"precision": "cited ones true", "recall": "true ones cited", "f1": "F1"}
MEANS = {"f1_mean": "F1, mean over findings", "f1_rare": f"F1, mean over those in under {RARE:.0%}"}


def measure_findings(
    records: Sequence[Mapping], read_findings: Callable[[str], set[str]], resamples: int, seed: int
) -> dict[str, Any] | None:
    """
    Of the records whose findings are known: `by_modality` with `SCORES` pooled over all findings, `findings` and `rare` (how
    many are shown by a record, and by fewer than the share `rare_below`), and their `MEANS`; and `per_finding` with `shown` and
    `cited` (numbers of records) and its `SCORES`. A finding that is shown and never stated has an F1 of 0.

    Args:
        read_findings: Gives the names of the findings that a text states.
    """
    records = [record for record in records if record.get("findings")]
    if not records:
        return None
    shown = [shown_findings(record) for record in records]
    cited: list[set[str]] = []
    for record in records:
        reasoning = parse_answer(record["completion"]).reasoning
        cited.append(read_findings(record["completion"] if reasoning is None else reasoning))
    names = sorted({name for found in (*shown, *cited) for name in found})
    truth, stated = (np.array([[name in found for name in names] for found in side]) for side in (shown, cited))
    metrics: dict[str, Metric] = {}
    groups: dict[str, dict[str, Any]] = {}
    for modality in MODALITIES:
        own = [i for i, name in enumerate(names) if name.startswith(f"{modality}:")]
        known = [i for i in own if truth[:, i].any()]
        rare = [i for i in known if truth[:, i].sum() < RARE * len(records)]
        if not own:
            continue
        groups[modality] = {"findings": len(known), "rare": len(rare)}
        metrics |= {f"{modality}\n{name}": metric for name, metric in _scores(truth[:, own], stated[:, own]).items()}
        for name, columns in (("f1_mean", known), ("f1_rare", rare)):
            mean = partial(_mean_f1, truth=truth[:, columns], stated=stated[:, columns])
            metrics[f"{modality}\n{name}"] = Metric(mean, "there is no such finding")
    for i, name in enumerate(names):
        metrics |= {f"{name}\n{score}": metric for score, metric in _scores(truth[:, [i]], stated[:, [i]]).items()}
    measured = measure_all(metrics, [record["subject_id"] for record in records], resamples, seed)
    return {
        "records": len(records),
        "rare_below": RARE,
        "by_modality": {
            modality: {**numbers, **{name: measured[f"{modality}\n{name}"] for name in (*SCORES, *MEANS)}}
            for modality, numbers in groups.items()
        },
        "per_finding": {
            name: {
                "shown": int(truth[:, i].sum()),
                "cited": int(stated[:, i].sum()),
                **{score: measured[f"{name}\n{score}"] for score in SCORES},
            }
            for i, name in enumerate(names)
        },
    }


def _scores(truth: np.ndarray, stated: np.ndarray) -> dict[str, Metric]:
    """`SCORES` of (records, findings) of bool, pooled."""
    hits, cited, shown = (side.sum(1) for side in (truth & stated, stated, truth))
    return {
        "precision": ratio_metric(hits, cited, "it is never stated"),
        "recall": ratio_metric(hits, shown, "no record shows it"),
        "f1": ratio_metric(2 * hits, cited + shown, "it is neither shown nor stated"),
    }


def _mean_f1(weights: np.ndarray, truth: np.ndarray, stated: np.ndarray) -> np.ndarray:
    hits, cited, shown = (weights @ side for side in (truth & stated, stated, truth))
    # one that no drawn record shows is left out, as one that no record shows is
    return nanmean(np.where(shown > 0, ratio(2 * hits, cited + shown), np.nan).T)


def render_findings(found: Mapping) -> str:
    """Two tables in Markdown: the modalities, and each finding."""
    rows = [
        [name, str(entry["shown"]), str(entry["cited"]), *(format_entry(entry[score]) for score in SCORES)]
        for name, entry in found["per_finding"].items()
    ]
    table = markdown_table(["finding", "shown", "cited", *SCORES.values()], rows)
    return f"{render_finding_groups(found)}\n{table}"


def render_finding_groups(found: Mapping) -> str:
    """The table of the modalities in Markdown."""
    rows = [
        [
            MODALITY_NAMES[modality],
            f"{group['findings']}, {group['rare']} rare",
            *(format_entry(group[name]) for name in (*SCORES, *MEANS)),
        ]
        for modality, group in found["by_modality"].items()
    ]
    about = f"{found['records']} records whose findings are known; a rare one is shown by under {found['rare_below']:.0%} of them."
    return f"{about}\n\n{markdown_table(['of', 'findings', *SCORES.values(), *MEANS.values()], rows)}"
