# SPDX-License-Identifier: Apache-2.0
"""
Values of metrics with intervals over resampled patients. A metric is a function of the records' weights, so that a
bootstrap is one call with many rows of weights.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


RESAMPLES = 1000
CONFIDENCE = 0.95
# Weights at a time: bounds the memory of a bootstrap
_CHUNK = 2_000_000


@dataclass(frozen=True)
class Metric:
    """
    Args:
        compute: Weights of the records, (resamples, records), to values, (resamples,), NaN where undefined.
        undefined (`str`): Why there is no value, where there is none.
        sums (`tuple`, *optional*): Of a ratio of sums, the numerator and the denominator of each record, (records,): all
            such metrics are computed together.
    """

    compute: Callable[[np.ndarray], np.ndarray]
    undefined: str = "no record"
    sums: tuple[np.ndarray, np.ndarray] | None = None


def mean_metric(values: ArrayLike, defined: ArrayLike | None = None, undefined: str = "no record") -> Metric:
    """The mean of (records,) values over those that are defined."""
    values = np.asarray(values, dtype=float)
    defined = np.ones(len(values), dtype=bool) if defined is None else np.asarray(defined)
    return ratio_metric(np.where(defined, values, 0), defined, undefined)


def ratio_metric(numerators: ArrayLike, denominators: ArrayLike, undefined: str = "no record") -> Metric:
    """The sum of (records,) numerators over that of (records,) denominators."""
    top, bottom = np.asarray(numerators, dtype=float), np.asarray(denominators, dtype=float)
    return Metric(lambda weights: ratio(weights @ top, weights @ bottom), undefined, (top, bottom))


def undefined_metric(reason: str) -> Metric:
    """One without a value."""
    return Metric(lambda weights: np.full(len(weights), np.nan), reason)


def restrict(metric: Metric, rows: np.ndarray) -> Metric:
    """The metric of some of its records, (records,) of bool: the others have no weight."""
    if metric.sums is not None:
        return ratio_metric(metric.sums[0] * rows, metric.sums[1] * rows, metric.undefined)
    return Metric(lambda weights: metric.compute(weights * rows), metric.undefined)


def subset(metric: Metric, rows: np.ndarray) -> Metric:
    """A metric that was made from the records `rows`, (numbers,), computed with the weights of all records."""
    return Metric(lambda weights: metric.compute(weights[:, rows]), metric.undefined)


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """NaN where the denominator is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(denominator > 0, numerator / denominator, np.nan)


def nanmean(columns: np.ndarray) -> np.ndarray:
    """Over the first axis; NaN where nothing is defined."""
    defined = ~np.isnan(columns)
    return ratio(np.where(defined, columns, 0).sum(0), defined.sum(0))


def patient_weights(subject_ids: Sequence[str], resamples: int, seed: int) -> Iterator[np.ndarray]:
    """
    Bootstrap weights, some (rows, records) at a time: each row draws as many patients as there are, with replacement,
    and a record counts as often as its patient was drawn. The same patients and seed give the same draws.
    """
    _, patient = np.unique(np.asarray(subject_ids, dtype=str), return_inverse=True)
    count = patient.max() + 1
    rng = np.random.default_rng(seed)
    rows = max(1, _CHUNK // max(len(patient), count))
    for start in range(0, resamples, rows):
        draws = rng.multinomial(count, np.full(count, 1 / count), size=min(rows, resamples - start))
        yield draws[:, patient].astype(float)


def evaluate_metrics(
    metrics: Mapping[str, Metric], subject_ids: Sequence[str], resamples: int = RESAMPLES, seed: int = 0
) -> tuple[dict[str, float | None], dict[str, list[float] | None], dict[str, str]]:
    """
    Values, 95 % intervals (percentiles over resampled patients) and, for the undefined ones, reasons, each by metric
    name. An undefined metric is None, in values and intervals. Without `resamples` there are no intervals.
    """
    ones = np.ones((1, len(subject_ids)))
    values = {name: _number(metric.compute(ones)[0]) for name, metric in metrics.items()}
    reasons = {name: metrics[name].undefined for name, value in values.items() if value is None}
    drawn = resample(metrics, subject_ids, resamples, seed) if resamples else {}
    intervals = {name: None if values[name] is None else interval(draws) for name, draws in drawn.items()}
    return values, intervals, reasons


def measure_all(
    metrics: Mapping[str, Metric], subject_ids: Sequence[str], resamples: int, seed: int
) -> dict[str, dict]:
    """By name `value` and `interval`, both None where undefined, and then `undefined` with the reason."""
    values, intervals, reasons = evaluate_metrics(metrics, subject_ids, resamples, seed)
    return {
        name: {
            "value": value,
            "interval": intervals.get(name),
            **({"undefined": reasons[name]} if name in reasons else {}),
        }
        for name, value in values.items()
    }


def resample(
    metrics: Mapping[str, Metric], subject_ids: Sequence[str], resamples: int, seed: int
) -> dict[str, np.ndarray]:
    """Values of each metric over resampled patients, (resamples,)."""
    ratios = {name: metric.sums for name, metric in metrics.items() if metric.sums is not None}
    sums = np.array([column for pair in ratios.values() for column in pair]).T  # (records, 2 ratios)
    chunks: dict[str, list[np.ndarray]] = {name: [] for name in metrics}
    for weights in patient_weights(subject_ids, resamples, seed):
        if ratios:
            found = weights @ sums
            for name, values in zip(ratios, ratio(found[:, ::2], found[:, 1::2]).T):
                chunks[name].append(values)
        for name in metrics.keys() - ratios.keys():
            chunks[name].append(metrics[name].compute(weights))
    return {name: np.concatenate(parts) for name, parts in chunks.items()}


def interval(draws: np.ndarray) -> list[float] | None:
    """The central 95 % of the draws in which the metric is defined."""
    defined = draws[~np.isnan(draws)]
    tail = 50 * (1 - CONFIDENCE)
    return [float(limit) for limit in np.percentile(defined, [tail, 100 - tail])] if len(defined) else None


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def nest(flat: Mapping) -> dict:
    """`{"a/b": 1}` as `{"a": {"b": 1}}`."""
    nested: dict = {}
    for name, value in flat.items():
        *parents, last = name.split("/")
        level = nested
        for parent in parents:
            level = level.setdefault(parent, {})
        level[last] = value
    return nested
