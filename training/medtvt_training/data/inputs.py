# SPDX-License-Identifier: Apache-2.0
"""The model's inputs of a row: what they are called, whether a row has them, and their values."""

import numpy as np


# Names of the model's inputs, raw and as the encoders' outputs
RAW_INPUTS = {"ecg": "ecg_values", "cxr": "pixel_values", "lab": "lab_values"}
FEATURE_INPUTS = {"ecg": "ecg_features", "cxr": "cxr_features", "lab": "lab_features"}


def has_input(row: dict, modality: str) -> bool:
    """Whether a row says where the modality is, or has at least one lab."""
    if modality == "lab":
        return any(value is not None and value == value for value in (row["lab"] or {}).values())
    return bool(row[modality])


def read_values(row: dict, modality: str, processor) -> np.ndarray:
    """
    What the model takes in for one modality of a row, e.g. (12, 1000) for an ECG; reads its file.

    Raises:
        ValueError: if it cannot be read. Names row and modality.
    """
    try:
        return processor(**{modality: [row[modality]]})[RAW_INPUTS[modality]][0]
    except (ValueError, TypeError, OSError) as error:
        raise ValueError(f"Row {row['id']}: its {modality} cannot be read. {error}") from error
