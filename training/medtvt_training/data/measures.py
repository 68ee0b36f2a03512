# SPDX-License-Identifier: Apache-2.0
"""A row's labs and what programs measure in its signals, as numbers."""

from collections.abc import Sequence

import numpy as np

from processing_medtvt import MedTVTEcgFeatureExtractor, load_cxr
from processing_medtvt.measure_cxr_medtvt import measure_cxr
from processing_medtvt.measure_ecg_medtvt import measure_ecg

from .conversation import MODALITIES
from .rows import Modality, QARow
from .schema import LAB_NAMES


def measure_row(row: QARow, modalities: Sequence[Modality] = MODALITIES) -> dict[str, float]:
    """
    The numbers of a row, NaN where they cannot be measured: labs in their units, intervals and amplitudes of the ECG
    (see [`measure_ecg`]), sizes and densities of the X-ray (see [`measure_cxr`]).

    Raises:
        ValueError: if a file cannot be read.
    """
    found: dict[str, float] = {}
    present = [modality for modality in modalities if modality in row["modalities"]]
    if "ecg" in present:
        signal = MedTVTEcgFeatureExtractor(sampling_rate=500)(row["ecg"])["ecg_values"][0]
        found |= {f"ecg {name}": value for name, value in measure_ecg(np.asarray(signal)).items()}
    if "cxr" in present:
        image = np.asarray(load_cxr(row["cxr"])[0].convert("L"))
        found |= {f"cxr {name}": value for name, value in measure_cxr(image).items()}
    if "lab" in present:
        labs = row["lab"]
        found |= {f"lab {name}": value for name in LAB_NAMES if (value := labs[name]) is not None}
    return found
