# SPDX-License-Identifier: Apache-2.0
"""Fits of `calibration.json`: a map a disease, an operating point, and thresholds with a guarantee."""

import datetime
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression

from modeling_medtvt import DISEASES
from modeling_medtvt.answer_probability_medtvt import label_order
from modeling_medtvt.calibration_medtvt import (
    CALIBRATION_FILE,
    EDGE,
    Calibration,
    DiseaseCalibration,
    calibrate,
    fingerprint_weights,
)

from ..data.conversation import message_text
from ..data.feature_cache import FeatureCache
from ..files import hash_folder, markdown_table, write_json
from .answerer import MedTVTAnswerer
from .run import Records, open_model, predict


# The risks that thresholds are kept for
ALPHAS = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3)
# Fewer ill, or fewer others, than this and a map would say more about chance than about the model
MIN_PATIENTS = 10


def fit_calibration(
    probabilities: Sequence[Mapping[str, float]],
    diseases: Sequence[Sequence[str]],
    order: Sequence[str],
    model: str | os.PathLike,
    data: str,
) -> Calibration:
    """
    Args:
        probabilities: Raw probabilities by disease, one mapping a patient.
        diseases: The true labels of each patient.
        order: From [`label_order`].
        model: Folder of the weights.
        data (`str`): Name of the data set and split, for the record.

    Raises:
        ValueError: if there are no patients, or the two lists differ in length.
    """
    if not probabilities or len(probabilities) != len(diseases):
        raise ValueError(
            f"Calibration needs patients; got {len(probabilities)} probabilities, {len(diseases)} truths."
        )
    fitted = {}
    for disease in DISEASES:
        raw = np.array([row[disease] for row in probabilities], dtype=float)
        fitted[disease] = fit_disease(raw, np.array([disease in labels for labels in diseases]))
    today = datetime.date.today().isoformat()
    return Calibration(fingerprint_weights(model), list(order), len(probabilities), today, data, fitted)


def fit_disease(raw: np.ndarray, truth: np.ndarray) -> DiseaseCalibration:
    """Fits one disease to (patients,) raw probabilities and booleans."""
    positives = int(truth.sum())
    if min(positives, len(truth) - positives) < MIN_PATIENTS:
        return DiseaseCalibration(positives, None, None, None, {}, {})
    clipped = raw.clip(EDGE, 1 - EDGE)
    logits = np.log(clipped / (1 - clipped))[:, None]
    # almost no penalty: two numbers are fitted to hundreds
    fit = LogisticRegression(C=1e6).fit(logits, truth)
    found = DiseaseCalibration(positives, float(fit.coef_[0, 0]), float(fit.intercept_[0]), None, {}, {})
    probability = np.array([calibrate(float(value), found) for value in raw])
    return found._replace(
        operating_point=best_f1_threshold(probability, truth),
        misses=_limits(probability[truth]),
        false_alarms={alpha: 1 - limit for alpha, limit in _limits(1 - probability[~truth]).items()},
    )


def best_f1_threshold(probability: np.ndarray, truth: np.ndarray) -> float:
    """The probability from which on naming has the best F1; halfway between two patients."""
    order = np.argsort(-probability, kind="stable")
    sorted_probability = probability[order]
    hits = np.cumsum(truth[order])
    f1 = 2 * hits / (np.arange(1, len(truth) + 1) + truth.sum())
    # a cut between equal probabilities is none
    f1[:-1][sorted_probability[:-1] == sorted_probability[1:]] = -1
    best = int(f1.argmax())
    following = sorted_probability[best + 1] if best + 1 < len(truth) else 0.0
    return float((sorted_probability[best] + following) / 2)


def _limits(probability: np.ndarray) -> dict[float, float]:
    """
    For each alpha the largest threshold that at most a share alpha of exchangeable patients lies strictly below: the
    floor(alpha (n + 1))-th smallest, where there is one.
    """
    ordered = np.sort(probability)
    ranks = {alpha: math.floor(alpha * (len(ordered) + 1)) for alpha in ALPHAS}
    return {alpha: float(ordered[rank - 1]) for alpha, rank in ranks.items() if rank >= 1}


def calibration_to_json(calibration: Calibration) -> dict[str, Any]:
    """As `read_calibration` reads it."""
    diseases = {
        label: {
            **fitted._asdict(),
            "misses": {str(alpha): limit for alpha, limit in fitted.misses.items()},
            "false_alarms": {str(alpha): limit for alpha, limit in fitted.false_alarms.items()},
        }
        for label, fitted in calibration.diseases.items()
    }
    return {**calibration._asdict(), "diseases": diseases}


def calibrate_model(
    model_dir: str | os.PathLike,
    records: Records,
    out: str | os.PathLike,
    *,
    batch_size: int = 8,
    feature_cache: str | os.PathLike | None = None,
    seed: int = 0,
    device: str | None = None,
) -> Calibration:
    """
    Answers the questions of a split, fits the probabilities of its answers, and writes `calibration.json` into the model's
    folder. What a killed run answered is kept in `out`.

    Args:
        model_dir (`str` or `os.PathLike`): Checkpoint folder.
        records ([`Records`]): Patients that neither training nor the later evaluation sees: the validation split.
        out (`str` or `os.PathLike`): Folder for the answers.

    Raises:
        ValueError: if the model or the data do not open, or `out` holds another run.
    """
    model, processor = open_model(model_dir, device)
    dataset, features = records.load(), None
    if feature_cache:
        features = FeatureCache(feature_cache, model, processor)
        features.build(dataset, max_rejected=1.0)
    rows = dataset.to_list()
    order = label_order([message_text(row["completion"]) for row in rows])
    answerer = MedTVTAnswerer(model, processor, features, likelihood=True, seed=seed, order=order)
    about = {
        **{"model": hash_folder(model_dir), "level": records.level, "split": records.split, "variant": "calibrate"},
        "settings": {"max_new_tokens": answerer.max_new_tokens, "num_samples": 0, "likelihood": True, "seed": seed},
    }
    answers = predict(rows, answerer, Path(out), about, batch_size)
    name = f"{Path(records.data).name}, {records.level}/{records.split}"
    truths = [answer["diseases"] for answer in answers]
    calibration = fit_calibration([answer["probabilities"] for answer in answers], truths, order, model_dir, name)
    write_json(calibration_to_json(calibration), Path(model_dir) / CALIBRATION_FILE)
    return calibration


def format_calibration(calibration: Calibration) -> str:
    """A calibration as a table, for a terminal."""
    rows = []
    for label, fitted in calibration.diseases.items():
        if fitted.slope is None or fitted.operating_point is None:
            rows.append((label, str(fitted.positives), "no map: too few ill or too few others", "", ""))
        else:
            sure = [f"{alpha:g}" for alpha in sorted(set(fitted.misses) & set(fitted.false_alarms))]
            map_text = f"slope {fitted.slope:.2f}, intercept {fitted.intercept:+.2f}"
            rows.append((label, str(fitted.positives), map_text, f"{fitted.operating_point:.2f}", ", ".join(sure)))
    header = ("disease", "ill", "map on the logit", "named from", "risks guaranteed")
    return f"{calibration.n} patients of {calibration.data}\n\n{markdown_table(header, rows)}"
