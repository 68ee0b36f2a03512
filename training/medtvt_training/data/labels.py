# SPDX-License-Identifier: Apache-2.0
"""Sets of the seven diseases as arrays, and how two of them agree."""

from collections.abc import Iterable, Sequence

import numpy as np

from modeling_medtvt import DISEASES


def as_label_array(label_sets: Sequence[Iterable[str]]) -> np.ndarray:
    """Sets of labels -> (rows, 7) booleans, in the order of `DISEASES`."""
    rows = [[disease in labels for disease in DISEASES] for labels in map(set, label_sets)]
    return np.array(rows, dtype=bool).reshape(-1, len(DISEASES))


def sample_f1(truth: np.ndarray, named: np.ndarray) -> np.ndarray:
    """
    F1 of each row's set of labels, (rows,), of (rows, 7) booleans: 1 where both are empty. An answer that does not parse
    names nothing.
    """
    total = truth.sum(1) + named.sum(1)
    return np.where(total == 0, 1.0, 2 * (truth & named).sum(1) / np.maximum(total, 1))
