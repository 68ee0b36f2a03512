# SPDX-License-Identifier: Apache-2.0
"""
Whether a model sees the patient or guesses: AUROC among patients whom a prior, which sees age, sex and which tests were
done but no result, holds for equally likely to be ill (after arXiv 2509.19671).
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from modeling_medtvt import DISEASES

from ..data.conversation import MODALITIES
from ..data.labels import as_label_array
from ..data.schema import LAB_NAMES
from ..files import markdown_table
from .answer_metrics import probability_sources
from .bootstrap import Metric, measure_all, nanmean, ratio
from .metrics import auroc_of, pairs_of
from .values import format_entry


STRATA = 5
FOLDS = 5
# Fewer ill, or fewer others, and no prior can be fitted
MIN_CLASS = 10
COLUMNS = {
    "prior": "the prior alone",
    "crude": "the model, all patients",
    "within": "the model, equal prior",
}


def measure_matched_prior(records: Sequence[Mapping], resamples: int, seed: int) -> dict[str, Any] | None:
    """
    By disease and as `macro` AUROC of the prior, of the model among all records, and of the model within fifths of the
    prior: pairs of an ill and another record count only where both are in the same fifth. A model that ranks by the prior
    alone comes near 0.5 there. The prior is a logistic regression, cross-fitted over patients of the evaluated records.

    Returns:
        `dict` with `sees`, `per_disease`, `macro` and `left_out`; None where records have no probabilities, or nothing that
        a prior could see.
    """
    sources = list(probability_sources(records).values())
    inputs, sees = prior_inputs(records)
    subjects = [record["subject_id"] for record in records]
    if not sources or not sees or len(set(subjects)) < FOLDS:
        return None
    truth = as_label_array([record["diseases"] for record in records])
    metrics: dict[str, Metric] = {}
    left_out = []
    for i, disease in enumerate(DISEASES):
        column = truth[:, i]
        if min(column.sum(), (~column).sum()) < MIN_CLASS:
            left_out.append(disease)
            continue
        prior = fit_prior(inputs, column, subjects)
        scores = sources[-1][:, i]
        metrics[f"{disease}\nprior"] = Metric(auroc_of(column, prior))
        metrics[f"{disease}\ncrude"] = Metric(auroc_of(column, scores))
        metrics[f"{disease}\nwithin"] = Metric(_within(column, scores, strata_of(prior)), "no fifth has both classes")
    if not metrics:
        return None
    kept = [disease for disease in DISEASES if disease not in left_out]
    for name in COLUMNS:
        columns = [metrics[f"{disease}\n{name}"].compute for disease in kept]
        metrics[f"macro\n{name}"] = Metric(partial(_mean, columns=columns))
    measured = measure_all(metrics, subjects, resamples, seed)
    rows = {row: {name: measured[f"{row}\n{name}"] for name in COLUMNS} for row in (*kept, "macro")}
    return {"sees": sees, "macro": rows.pop("macro"), "per_disease": rows, "left_out": left_out}


def prior_inputs(records: Sequence[Mapping]) -> tuple[np.ndarray, list[str]]:
    """(records, numbers) of what is known before any result is, and in words what that is."""
    columns, sees = [], []
    ages = np.array([record.get("age") for record in records], dtype=float)  # None becomes NaN
    known = ~np.isnan(ages)
    if known.any():
        columns += [np.where(known, ages, np.nanmedian(ages)), known]
        sees.append("age")
    sexes = [record.get("sex") for record in records]
    if any(sexes):
        columns += [np.array([sex == value for sex in sexes]) for value in ("F", "M")]
        sees.append("sex")
    for key, names, word in (("modalities", MODALITIES, "modalities"), ("labs_measured", LAB_NAMES, "labs measured")):
        if all(record.get(key) is not None for record in records):
            present = np.array([[name in record[key] for name in names] for record in records], dtype=bool)
            varying = present.any(0) & ~present.all(0)
            columns += list(present[:, varying].T)
            sees += [word] if varying.any() else []
    return np.array(columns, dtype=float).T, sees


def fit_prior(inputs: np.ndarray, truth: np.ndarray, subjects: Sequence[str]) -> np.ndarray:
    """(records,) probabilities, each from a fit without its patient."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500))
    folds = GroupKFold(FOLDS).split(inputs, truth, subjects)
    usable = [(fit, held) for fit, held in folds]
    if any(len(set(truth[fit])) < 2 for fit, _ in usable):
        return np.full(len(truth), truth.mean())
    return cross_val_predict(model, inputs, truth, cv=usable, method="predict_proba")[:, 1]


def strata_of(prior: np.ndarray) -> np.ndarray:
    """Number of the fifth that each record is in."""
    limits = np.quantile(prior, np.arange(1, STRATA) / STRATA)
    return np.searchsorted(limits, prior, side="right")


def _within(truth: np.ndarray, scores: np.ndarray, strata: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    rows = [np.flatnonzero(strata == number) for number in np.unique(strata)]
    counts = [(chosen, pairs_of(truth[chosen], scores[chosen])) for chosen in rows]

    def area(weights: np.ndarray) -> np.ndarray:
        parts = [count(weights[:, chosen]) for chosen, count in counts]
        return ratio(np.sum([right for right, _ in parts], 0), np.sum([pairs for _, pairs in parts], 0))

    return area


def _mean(weights: np.ndarray, columns: Sequence[Callable[[np.ndarray], np.ndarray]]) -> np.ndarray:
    return nanmean(np.stack([column(weights) for column in columns]))


def render_matched_prior(found: Mapping) -> str:
    """A table in Markdown."""
    rows = [[disease, *(format_entry(row[name]) for name in COLUMNS)] for disease, row in found["per_disease"].items()]
    rows.append(["mean", *(format_entry(found["macro"][name]) for name in COLUMNS)])
    left_out = (
        f" Left out, too few ill or too few others: {', '.join(found['left_out'])}." if found["left_out"] else ""
    )
    return (
        f"{markdown_table(['AUROC', *COLUMNS.values()], rows)}\nThe prior sees {', '.join(found['sees'])}, and no result. "
        f"A model that only ranks by it comes near 0.5 in the last column.{left_out}\n"
    )
