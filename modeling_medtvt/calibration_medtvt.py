# SPDX-License-Identifier: Apache-2.0
"""
Calibrated probabilities of the seven diseases: `calibration.json`, a file beside the weights.

The answer slot gives a raw probability (`answer_probability_medtvt`). On patients of a validation split a map a disease
was fitted, p -> 1 / (1 + exp(-(slope logit(p) + intercept))) (Platt scaling on the logit), and thresholds with a
guarantee (split-conformal, Angelopoulos et al., "Conformal Risk Control", 2024): among patients like those, at most a
share alpha of the ill lies below `misses[alpha]`, and at most a share alpha of the others above `false_alarms[alpha]`.
"""

import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .answers_medtvt import DISEASES


CALIBRATION_FILE = "calibration.json"
# A raw probability nearer to 0 or 1 than this has no finite logit
EDGE = 1e-6
_BLOCK, _BLOCKS = 1 << 16, 64


class DiseaseCalibration(NamedTuple):
    """
    Args:
        positives (`int`): ill patients in the split that it was fitted on.
        slope, intercept (`float`, *optional*): the map; None where there were too few ill or too few others to fit one.
        operating_point (`float`, *optional*): calibrated probability from which on naming the disease has the best F1.
        misses, false_alarms (`dict[float, float]`): thresholds by alpha; an alpha that so few patients cannot
            guarantee is left out.
    """

    positives: int
    slope: float | None
    intercept: float | None
    operating_point: float | None
    misses: dict[float, float]
    false_alarms: dict[float, float]


class Calibration(NamedTuple):
    """
    Args:
        weights (`str`): fingerprint of the weights that it was fitted for, from [`fingerprint_weights`].
        order (`list[str]`): in which the training data list the diseases.
        n (`int`), date (`str`), data (`str`): patients, day and data set of the fit.
        diseases (`dict[str, DiseaseCalibration]`): by label.
    """

    weights: str
    order: list[str]
    n: int
    date: str
    data: str
    diseases: dict[str, DiseaseCalibration]

    def apply(self, raw: Mapping[str, float]) -> dict[str, float | None]:
        """Calibrated probabilities; None for a disease without a map."""
        return {disease: calibrate(raw[disease], self.diseases[disease]) for disease in DISEASES}

    def undecided_zone(self, disease: str, alpha: float) -> tuple[float, float]:
        """
        The probabilities from and to which a disease can neither be left out nor named with a risk of at most `alpha`; where
        the first is the higher one, there are none.

        Raises:
            ValueError: if the fit has no threshold for this alpha.
        """
        of_disease = self.diseases[disease]
        if alpha not in of_disease.misses or alpha not in of_disease.false_alarms:
            known = sorted(set(of_disease.misses) & set(of_disease.false_alarms))
            raise ValueError(
                f"`abstain`: for {disease} the calibration guarantees {', '.join(map(str, known)) or 'nothing'} with its "
                f"{of_disease.positives} ill of {self.n} patients, not {alpha!r}."
            )
        return of_disease.misses[alpha], of_disease.false_alarms[alpha]

    def is_undecided(self, disease: str, probability: float | None, alpha: float) -> bool:
        """Whether a probability lies in that zone; without a probability nothing is decided."""
        if probability is None:
            return True
        low, high = self.undecided_zone(disease, alpha)
        return low <= probability <= high


def calibrate(raw: float, fitted: DiseaseCalibration) -> float | None:
    """The calibrated probability of one disease."""
    if fitted.slope is None or fitted.intercept is None:
        return None
    raw = min(max(raw, EDGE), 1 - EDGE)
    return 1 / (1 + math.exp(-(fitted.slope * math.log(raw / (1 - raw)) + fitted.intercept)))


def read_calibration(path: str | os.PathLike) -> Calibration:
    """
    Raises:
        ValueError: if the file is no calibration, or was fitted for other weights than those beside it.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        diseases = {label: _read_disease(content["diseases"][label]) for label in DISEASES}
        found = Calibration(
            *(str(content["weights"]), list(content["order"]), int(content["n"]), str(content["date"])),
            *(str(content["data"]), diseases),
        )
        if sorted(found.order) != sorted(DISEASES):
            raise ValueError("`order` is not the seven diseases")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{path.name}: no calibration that `medtvt calibrate` wrote ({type(error).__name__})."
        ) from error
    if found.weights != fingerprint_weights(path.parent):
        raise ValueError(
            f"{path.name} was fitted on {found.date} for other weights than those beside it. Run `medtvt calibrate` for "
            "these, or remove the file: then no probabilities are given."
        )
    return found


def _read_disease(entry: Mapping[str, Any]) -> DiseaseCalibration:
    slope, intercept, point = (
        None if entry[name] is None else float(entry[name]) for name in ("slope", "intercept", "operating_point")
    )
    misses, false_alarms = (
        {float(alpha): float(limit) for alpha, limit in entry[name].items()} for name in ("misses", "false_alarms")
    )
    numbers = [x for x in (slope, intercept, point, *misses.values(), *false_alarms.values()) if x is not None]
    if not all(map(math.isfinite, numbers)):
        raise ValueError("a number is not finite")
    return DiseaseCalibration(int(entry["positives"]), slope, intercept, point, misses, false_alarms)


def fingerprint_weights(folder: str | os.PathLike) -> str:
    """SHA-256 over names, sizes and 64 blocks, evenly spaced, of each `*.safetensors` of a folder."""
    digest = hashlib.sha256()
    for path in sorted(Path(folder).glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with open(path, "rb") as file:
            for block in range(_BLOCKS):
                file.seek(max(size - _BLOCK, 0) * block // (_BLOCKS - 1))
                digest.update(file.read(_BLOCK))
    return digest.hexdigest()


__all__ = [
    "CALIBRATION_FILE",
    "Calibration",
    "DiseaseCalibration",
    "calibrate",
    "fingerprint_weights",
    "read_calibration",
]
