# SPDX-License-Identifier: Apache-2.0
"""The baseline without a language model: gradient boosting on labs and on measurements of the signals."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import precision_recall_curve
from tqdm.auto import tqdm

from modeling_medtvt import DISEASES

from ..data.feature_cache import FeatureCache
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


class GradientBoostingAnswerer:
    """
    One classifier a disease, on training rows; its threshold is the one with the best F1 on validation rows. A modality
    that a row lacks is missing values. A disease that all or none of the training rows have gets its share there.

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
        inputs, truth = self._table(measured), _labels(train)
        self.models = []
        for column in truth.T:
            model = HistGradientBoostingClassifier(random_state=seed) if 0 < column.sum() < len(column) else None
            self.models.append(model.fit(inputs, column) if model else float(column.mean()))
        held_out = self._table([measure(row) for row in tqdm(validation, unit="record", desc="validation")])
        probabilities = self.probabilities(held_out)
        self.thresholds = [
            _best_threshold(column, scores) for column, scores in zip(_labels(validation).T, probabilities.T)
        ]

    def _table(self, measured: Sequence[Mapping]) -> np.ndarray:
        return np.array([[row.get(name, np.nan) for name in self.names] for row in measured], dtype=float)

    def probabilities(self, inputs: np.ndarray) -> np.ndarray:
        """(rows, numbers) to (rows, 7)."""
        return np.stack(
            [
                np.full(len(inputs), model) if isinstance(model, float) else model.predict_proba(inputs)[:, 1]
                for model in self.models
            ],
            axis=1,
        )

    def length(self, row: QARow) -> int:
        """Nothing is gained by sorting."""
        return 0

    def prepare(self, rows: Sequence[QARow]) -> np.ndarray:
        """(rows, numbers)."""
        return self._table([self.measure(row) for row in rows])

    def answer(self, prepared: np.ndarray) -> list[dict]:
        """`completion`, without any reasoning, and `probabilities` of each row."""
        answers = []
        for scores in self.probabilities(prepared):
            named = [d for d, score, threshold in zip(DISEASES, scores, self.thresholds) if score >= threshold]
            completion = f"<think></think><answer>{'; '.join(named)}</answer>"
            answers.append({"completion": completion, "probabilities": dict(zip(DISEASES, scores.tolist()))})
        return answers


def _labels(rows: Sequence[QARow]) -> np.ndarray:
    return np.array([[disease in row["diseases"] for disease in DISEASES] for row in rows])


def _best_threshold(truth: np.ndarray, scores: np.ndarray) -> float:
    """0.5 where the validation rows cannot tell."""
    if not 0 < truth.sum() < len(truth):
        return 0.5
    precision, recall, thresholds = precision_recall_curve(truth, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return float(thresholds[np.argmax(f1[:-1])])
