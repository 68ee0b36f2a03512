# SPDX-License-Identifier: Apache-2.0
"""What an open data set says of one ECG or film, and where it comes from."""

import re
from pathlib import Path
from typing import Literal, NamedTuple

from ..data.rows import Modality


FOLDS = range(1, 11)
# Findings that are evidence for a disease where the labels name it. Q waves come from readers' statements of an infarct.
EVIDENCE = {
    "Coronary Artery Disease": ("ecg: inferior Q waves", "ecg: anteroseptal Q waves", "ecg: anterior Q waves"),
    "Atrial Fibrillation": ("ecg: fibrillation", "ecg: flutter"),
    "Pneumonia": ("cxr: opacity",),
}


class OpenRecord(NamedTuple):
    """
    Args:
        id (`str`): name within the data set.
        subject_id (`str`): the patient.
        modality (`str`): `"ecg"` or `"cxr"`.
        path (`str`): of its file, relative to the data set's folder, with `/`.
        fold (`int`): 1 to 10; all records of a patient are in one.
        shown, absent (`list[str]`): names of findings that the labels say are shown, and are not. What is in neither is not
            known.
        diseases (`list[str]`): those of the seven that the labels state.
        age (`float`, *optional*): years. sex (`str`, *optional*): `"F"` or `"M"`.
    """

    id: str
    subject_id: str
    modality: Modality
    path: str
    fold: int
    shown: list[str]
    absent: list[str]
    diseases: list[str]
    age: float | None = None
    sex: Literal["F", "M"] | None = None


class Source(NamedTuple):
    """A published data set: its terms travel with the rows, and with weights trained on them."""

    key: str
    name: str
    modality: Modality
    license: str
    attribution: str
    labels: str


PTB_XL = Source(
    key="ptb-xl",
    name="PTB-XL",
    modality="ecg",
    license="CC BY 4.0",
    attribution=(
        "Wagner P, Strodthoff N, Bousseljot R-D, Samek W, Schaeffter T. PTB-XL, a large publicly available "
        "electrocardiography dataset. PhysioNet, doi 10.13026/kfzx-aw45; Sci Data 7, 154 (2020); Goldberger A et al. "
        "PhysioBank, PhysioToolkit, and PhysioNet. Circulation 101, e215 (2000). SCP statements were turned into "
        "findings, questions and answers."
    ),
    labels="statements of up to two cardiologists or of the recorder; some were never seen by a human",
)
NIH_FILMS = Source(
    key="films",
    name="NIH ChestX-ray14",
    modality="cxr",
    license="no restriction on use, with acknowledgment",
    attribution=(
        "The NIH Clinical Center provided the films: https://nihcc.app.box.com/v/ChestXray-NIHCC. Wang X, Peng Y, Lu L, Lu Z, "
        "Bagheri M, Summers RM. ChestX-ray8: hospital-scale chest X-ray database and benchmarks. CVPR 2017. Labels were "
        "turned into findings, questions and answers."
    ),
    labels="mined from reports by a program, and noisy",
)
SOURCES = {source.key: source for source in (PTB_XL, NIH_FILMS)}


def check_path(value: str) -> str | None:
    """Why a path of a table cannot be followed, or None: a file of a data set is within its folder."""
    if not value.strip():
        return "the table names no file"
    if Path(value).is_absolute() or ".." in Path(value).parts or re.match(r"[A-Za-z]:|\\", value):
        return "its path leaves the data set's folder"
    return None
