# SPDX-License-Identifier: Apache-2.0
"""The model's inputs of a row: what they are called, whether a row has them, and their values."""

from typing import Any

import numpy as np

from processing_medtvt import MedTVTProcessor

from .rows import Modality, QARow


# Names of the model's inputs, raw and as the encoders' outputs
RAW_INPUTS: dict[Modality, str] = {"ecg": "ecg_values", "cxr": "pixel_values", "lab": "lab_values"}
FEATURE_INPUTS: dict[Modality, str] = {"ecg": "ecg_features", "cxr": "cxr_features", "lab": "lab_features"}


def has_input(row: QARow, modality: Modality) -> bool:
    """Whether a row says where the modality is, or has at least one lab."""
    if modality == "lab":
        return any(value is not None and value == value for value in (row["lab"] or {}).values())
    return bool(row[modality])


def read_values(row: QARow, modality: Modality, processor: MedTVTProcessor) -> np.ndarray:
    """
    What the model takes in for one modality of a row, e.g. (12, 1000) for an ECG; reads its file.

    Raises:
        ValueError: if it cannot be read. Names row and modality.
    """
    try:
        given: dict[str, Any] = {modality: [row[modality]]}
        return processor(**given)[RAW_INPUTS[modality]][0]
    except (ValueError, TypeError, OSError) as error:
        raise ValueError(f"Row {row['id']}: its {modality} cannot be read. {error}") from error
