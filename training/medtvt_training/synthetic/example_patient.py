# SPDX-License-Identifier: Apache-2.0
"""One patient of the synthetic cohort, as files that a user would have."""

import os
from pathlib import Path
from typing import Any

from processing_medtvt import LAB_DEFINITIONS

from ..files import write_csv
from .causes import DISEASE_OF_CODE
from .patient import write_patient


# Of the test patients with a disease the one whose answer by the shipped weights has the median F1, see
# `medtvt_training.evaluation.median_patient`
EXAMPLE_SEED, EXAMPLE_INDEX = 2310, 59


def write_example_patient(
    folder: str | os.PathLike, seed: int = EXAMPLE_SEED, index: int = EXAMPLE_INDEX
) -> dict[str, Any]:
    """
    Writes the files of an imaginary patient.

    Args:
        folder: made if missing. Files of the same names are replaced, each only once it is complete.
        seed, index (`int`): which patient of which cohort, see [`draw_patient`].

    Returns:
        `dict` with the paths `ecg` (WFDB record, 12 leads, mV, 500 Hz, 10 s), `cxr` (PNG, 8-bit gray) and `lab` (CSV
        `name,value,unit`), and what lies behind them: `diseases`, and `findings` that the data show.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files = {"ecg": "ecg.hea", "cxr": "cxr.png"}
    patient = write_patient(folder, files, seed, index)
    rows = [
        (lab.name, f"{patient.lab[lab.name]:g}", lab.unit)
        for lab in LAB_DEFINITIONS
        if patient.lab[lab.name] is not None
    ]
    write_csv(("name", "value", "unit"), rows, folder / "lab.csv")
    paths = {key: str(folder / name) for key, name in (*files.items(), ("lab", "lab.csv"))}
    diseases = [DISEASE_OF_CODE[code] for code in patient.causes.diseases]
    return {**paths, "diseases": diseases, "findings": patient.findings}
