# SPDX-License-Identifier: Apache-2.0
"""One imaginary patient of the synthetic cohort: from causes to an ECG, a film and a panel."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .causes import SETTINGS, Causes, draw_causes
from .cxr import draw_cxr, write_cxr
from .ecg import draw_ecg, write_ecg
from .effects import draw_ecg_signs, draw_film_signs
from .findings import read_findings
from .labs import draw_labs
from .signs import EcgSigns, FilmSigns


@dataclass(frozen=True)
class Patient:
    """
    An imaginary patient before anything is drawn.

    Args:
        subject_id (`str`): seed and index.
        split (`str`): train, validation or test; 80, 10 and 10 of a hundred, by index.
        causes (`Causes`), ecg (`EcgSigns`), film (`FilmSigns`): what lies behind, and what will be seen.
        lab (`dict[str, float | None]`): the fifty values, None where not measured.
        findings (`list[str]`): names of `medtvt_training.synthetic.findings.FINDINGS` that the data show.
    """

    subject_id: str
    split: str
    causes: Causes
    ecg: EcgSigns
    film: FilmSigns
    lab: dict[str, float | None]
    findings: list[str]


def generators(seed: int, index: int) -> list[np.random.Generator]:
    """One generator a part, so that a change in one leaves the others as they were."""
    return [np.random.default_rng([seed, index, part]) for part in range(7)]


def subject_id(seed: int, index: int) -> str:
    """Name of a patient."""
    return f"{seed}-{index:06d}"


def draw_patient(seed: int, index: int, setting: str = "clear") -> Patient:
    """
    Draws patient `index` of the cohort `seed`; the same whatever else is drawn.

    Raises:
        ValueError: if the setting is unknown, or a number is negative.
    """
    if setting not in SETTINGS:
        raise ValueError(f"`setting` must be one of {', '.join(SETTINGS)}, got {setting!r}.")
    if seed < 0 or index < 0:
        raise ValueError(f"`seed` and `index` must not be negative, got {seed} and {index}.")
    of_causes, of_labs, of_ecg, of_film, *_ = generators(seed, index)
    causes = draw_causes(of_causes, SETTINGS[setting])
    lab, blood = draw_labs(of_labs, causes)
    ecg = draw_ecg_signs(of_ecg, causes, blood, SETTINGS[setting])
    film = draw_film_signs(of_film, causes, SETTINGS[setting])
    split = {8: "validation", 9: "test"}.get(index % 10, "train")
    return Patient(
        subject_id(seed, index), split, causes, ecg, film, lab, read_findings(ecg, film, lab, causes.age, causes.male)
    )


def write_patient(folder: Path, files: dict[str, str], seed: int, index: int, setting: str = "clear") -> Patient:
    """Draws a patient's ECG (`.hea` and `.dat`) and film (PNG) to the relative paths `files`; returns the patient."""
    patient = draw_patient(seed, index, setting)
    *_, of_signal, of_image, _ = generators(seed, index)
    for path in files.values():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
    write_ecg((folder / files["ecg"]).with_suffix(""), draw_ecg(patient.ecg, of_signal))
    write_cxr(folder / files["cxr"], draw_cxr(patient.film, of_image))
    return patient
