# SPDX-License-Identifier: Apache-2.0
"""The baseline without a language model: gradient boosting on labs and on measurements of the signals."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import precision_recall_curve
from tqdm.auto import tqdm

from modeling_medtvt import DISEASES

from ..data.feature_cache import FeatureCache
from ..data.labels import as_label_array
from ..data.measures import measure_row
from ..data.rows import QARow


class EncoderMeasure:
    """
    In place of [`measure_row`]: labs in their units, and the frozen encoders' features, averaged over their tokens.

    Args:
        features ([`FeatureCache`]): With the features of all rows.
    """

    def __init__(self, features: FeatureCache) -> None:
        self.features = features

    def __call__(self, row: QARow) -> dict[str, float]:
        """The numbers of a row."""
        found = measure_row(row, ["lab"])
        for modality in row["modalities"]:
            means = self.features.get(row, modality).float().mean(dim=0).tolist()
            found |= {f"{modality} feature {i}": value for i, value in enumerate(means)}
        return found


class DiseaseClassifiers:
    """
    Gradient boosting, one classifier a disease. A disease that all or none of the training rows have gets its share there
    as probability.

    Args:
        inputs (`np.ndarray`): (rows, numbers), NaN where missing.
        truth (`np.ndarray`): (rows, 7) of bool.
        seed (`int`): Seed of the classifiers.
        parameters: Of `HistGradientBoostingClassifier`.
    """

    def __init__(self, inputs: np.ndarray, truth: np.ndarray, seed: int = 0, **parameters: Any) -> None:
        self.models: list[HistGradientBoostingClassifier | float] = []
        for column in truth.T:
            if 0 < column.sum() < len(column):
                model = HistGradientBoostingClassifier(random_state=seed, **parameters)
                self.models.append(model.fit(inputs, column))
            else:
                self.models.append(float(column.mean()))

    def probabilities(self, inputs: np.ndarray) -> np.ndarray:
        """(rows, numbers) to (rows, 7)."""
        columns = [
            np.full(len(inputs), model) if isinstance(model, float) else model.predict_proba(inputs)[:, 1]
            for model in self.models
        ]
        return np.stack(columns, axis=1)


class GradientBoostingAnswerer:
    """
    [`DiseaseClassifiers`] of training rows; a disease's threshold is the one with the best F1 on validation rows. A
    modality that a row lacks is missing values.

    Args:
        train, validation (`list[dict]`): Rows of the schema.
        seed (`int`): Seed of the classifiers.
        measure: Turns a row into a dict of numbers; [`measure_row`] or an [`EncoderMeasure`].
    """

    def __init__(
        self,
        train: Sequence[QARow],
        validation: Sequence[QARow],
        seed: int = 0,
        measure: Callable[[QARow], dict[str, float]] = measure_row,
    ) -> None:
        self.measure = measure
        measured = [measure(row) for row in tqdm(train, unit="record", desc="train")]
        self.names = sorted({name for row in measured for name in row})
        if not self.names:
            raise ValueError("The training rows have no lab, ECG or X-ray to learn from.")
        self.classifiers = DiseaseClassifiers(self._table(measured), _labels(train), seed)
        held_out = self._table([measure(row) for row in tqdm(validation, unit="record", desc="validation")])
        probabilities = self.classifiers.probabilities(held_out)
        self.thresholds = [
            _best_threshold(column, scores) for column, scores in zip(_labels(validation).T, probabilities.T)
        ]

    def _table(self, measured: Sequence[Mapping]) -> np.ndarray:
        return np.array([[row.get(name, np.nan) for name in self.names] for row in measured], dtype=float)

    def length(self, row: QARow) -> int:
        """Nothing is gained by sorting."""
        return 0

    def prepare(self, rows: Sequence[QARow]) -> np.ndarray:
        """(rows, numbers)."""
        return self._table([self.measure(row) for row in rows])

    def answer(self, prepared: np.ndarray) -> list[dict]:
        """`completion`, without any reasoning, and `probabilities` of each row."""
        answers = []
        for scores in self.classifiers.probabilities(prepared):
            named = [d for d, score, threshold in zip(DISEASES, scores, self.thresholds) if score >= threshold]
            completion = f"<think></think><answer>{'; '.join(named)}</answer>"
            answers.append({"completion": completion, "probabilities": dict(zip(DISEASES, scores.tolist()))})
        return answers


def _labels(rows: Sequence[QARow]) -> np.ndarray:
    return as_label_array([row["diseases"] for row in rows])


def _best_threshold(truth: np.ndarray, scores: np.ndarray) -> float:
    """0.5 where the validation rows cannot tell."""
    if not 0 < truth.sum() < len(truth):
        return 0.5
    precision, recall, thresholds = precision_recall_curve(truth, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return float(thresholds[np.argmax(f1[:-1])])
