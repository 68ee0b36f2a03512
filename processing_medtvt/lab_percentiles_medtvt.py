# SPDX-License-Identifier: Apache-2.0
"""How a measured lab becomes a percentile: quantile tables and reference intervals."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from .lab_definitions_medtvt import LabDefinition


_REFERENCE_Z = 1.959964  # the reference interval holds the central 95 % of a normal distribution
_erf = np.vectorize(math.erf, otypes=[float])


def to_step_function(name: str, table: Any) -> tuple[np.ndarray, np.ndarray]:
    """Checks one quantile table and returns (values float32, percentiles with a leading 0)."""
    if not isinstance(table, Mapping) or set(table) != {"values", "percentiles"}:
        raise ValueError(f"quantile_tables: {name} must be a dict of 'values' and 'percentiles'.")
    values, percentiles = np.asarray(table["values"]), np.asarray(table["percentiles"])
    if values.ndim != 1 or values.size == 0 or values.shape != percentiles.shape:
        raise ValueError(f"quantile_tables: {name} needs two lists of the same length, at least 1.")
    if values.dtype.kind not in "iuf" or percentiles.dtype.kind not in "iuf":
        raise ValueError(f"quantile_tables: {name} holds something else than numbers.")
    if not np.isfinite(values).all() or (np.diff(values) <= 0).any():
        raise ValueError(f"quantile_tables: the values of {name} must be finite and strictly ascending.")
    if not (percentiles[0] >= 0 and (np.diff(percentiles) >= 0).all() and math.isclose(percentiles[-1], 1)):
        raise ValueError(f"quantile_tables: the percentiles of {name} must ascend within 0..1 and end with 1.")
    # float32, so that a value which arrives as float32 meets the step it belongs to
    return values.astype(np.float32), np.concatenate([[0.0], percentiles])


def fit_step_function(values: np.ndarray, max_points: int) -> tuple[dict[str, list[float]], float]:
    """Empirical CDF of `values` as a quantile table, and the mean percentile of `values`."""
    steps, counts = np.unique(values, return_counts=True)
    cumulative = np.cumsum(counts)
    mean = float((counts * cumulative).sum() / len(values) ** 2)
    if len(steps) > max_points:
        # The first step at or above each of max_points equidistant ranks: no rank is missed by more than 1/max_points.
        ranks = np.arange(1, max_points + 1) * len(values) / max_points
        kept = np.unique(np.searchsorted(cumulative, ranks))
        steps, cumulative = steps[kept], cumulative[kept]
    return {"values": steps.tolist(), "percentiles": (cumulative / len(values)).tolist()}, mean


def percentile_in_reference(lab: LabDefinition, values: np.ndarray) -> np.ndarray:
    """Percentiles of values in the lab's unit, its reference interval taken as the central 95 % of a normal distribution."""
    if lab.reference_low is None or lab.reference_high is None:
        raise ValueError(f"{lab.name} has no reference interval.")
    middle = (lab.reference_low + lab.reference_high) / 2
    deviation = (lab.reference_high - middle) / _REFERENCE_Z
    return (1 + _erf((values - middle) / (deviation * math.sqrt(2)))) / 2


def percentile_in_table(table: tuple[np.ndarray, np.ndarray], values: np.ndarray) -> np.ndarray:
    """Percentiles of values in the lab's unit by a step function."""
    steps, percentiles = table
    return percentiles[np.searchsorted(steps, values.astype(np.float32), side="right")]
