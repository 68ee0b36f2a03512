# SPDX-License-Identifier: Apache-2.0
"""
Reads chest films with labels: a table with the columns `file`, `patient` and `label` beside the films, or with NIH's own
names for them (Data_Entry_2017.csv).
"""

import csv
import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from processing_medtvt.findings_medtvt import PHRASES

from ..data.rows import Reject
from .record import FOLDS, OpenRecord, check_path


COLUMNS = {"file": "Image Index", "patient": "Patient ID", "label": "Finding Labels"}
NO_FINDING = "No Finding"
_OPACITIES = tuple(name for name in PHRASES if name.startswith("cxr:") and "opacity" in name)
_EFFUSIONS = tuple(name for name in PHRASES if name.startswith("cxr:") and "effusion" in name)
# What NIH's labels say in the words of our findings. Mass, nodule, fibrosis, pleural thickening and hernia are none of
# them. A label says nothing of the side or the zone.
SHOWS: dict[str, tuple[str, ...]] = {
    "Pneumonia": ("cxr: opacity",),
    "Infiltration": ("cxr: opacity",),
    "Consolidation": ("cxr: opacity",),
    "Atelectasis": ("cxr: atelectasis",),
    "Cardiomegaly": ("cxr: enlarged heart",),
    "Effusion": ("cxr: effusion",),
    "Edema": ("cxr: edema",),
    "Emphysema": ("cxr: hyperinflation",),
    "Pneumothorax": ("cxr: pneumothorax",),
    **dict.fromkeys(("Mass", "Nodule", "Fibrosis", "Pleural_Thickening", "Hernia", NO_FINDING), ()),
}
# Labels that name one of the seven diseases
NAMES = {"Pneumonia": "Pneumonia"}
# "No Finding" is none of the 14. It says nothing of devices, wires and the aorta.
NORMAL_SHOWS = ("cxr: clear lungs", "cxr: normal heart size")
NORMAL_ABSENT = (
    *_OPACITIES,
    *_EFFUSIONS,
    *(f"cxr: {name}" for name in ("enlarged heart", "edema", "atelectasis", "hyperinflation", "pneumothorax")),
)


def read_films(table: str | os.PathLike, rejects: list[Reject]) -> Iterator[OpenRecord]:
    """
    The films of a table; paths are relative to its folder. The whole table is checked before the first comes.

    Args:
        rejects (`list[Reject]`): Takes the films that cannot be used: they are not there, or the table gives them no label
            or no patient.

    Raises:
        ValueError: if the table or a column is missing, a label is unknown, or a film stands in it twice.
    """
    table = Path(table)
    labels: Counter[str] = Counter()
    files: set[str] = set()
    for number, (file, _, names) in enumerate(_rows(table), start=1):
        if file in files:
            raise ValueError(f"{table}, row {number}: its film stood before.")
        files.add(file)
        labels.update(names)
    if not files:
        raise ValueError(f"{table} has no row.")
    if unknown := sorted(labels.keys() - SHOWS.keys()):
        raise ValueError(
            f"{table}: unknown labels {', '.join(map(repr, unknown))}; known are {', '.join(sorted(SHOWS))}."
        )
    for file, patient, names in _rows(table):
        reason = check_path(file)
        if not reason and not names:
            reason = "the table gives it no label"
        if not reason and NO_FINDING in names and len(names) > 1:
            reason = f"its labels contradict each other: {NO_FINDING} beside another"
        if not reason and not patient:
            reason = "the table names no patient"
        if not reason and not (table.parent / file).is_file():
            reason = "the film is not there"
        if reason:
            rejects.append({"id": file, "path": file or None, "reason": reason})
            continue
        shown, absent = read_labels(names)
        yield OpenRecord(
            id=Path(file).with_suffix("").as_posix(),
            subject_id=patient,
            modality="cxr",
            path=file,
            fold=hash_fold(patient),
            shown=shown,
            absent=absent,
            diseases=[NAMES[name] for name in names if name in NAMES],
        )


def _rows(table: Path) -> Iterator[tuple[str, str, list[str]]]:
    if not table.is_file():
        raise ValueError(f"{table} is no file; --films takes the table of the films' labels.")
    with open(table, encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines)
        given = reader.fieldnames or []
        columns = {ours: next((name for name in (ours, nih) if name in given), None) for ours, nih in COLUMNS.items()}
        if missing := [ours for ours, name in columns.items() if name is None]:
            raise ValueError(
                f"{table} has no column {', '.join(missing)}; a table of films has {', '.join(COLUMNS)} "
                f"(or {', '.join(COLUMNS.values())})."
            )
        for row in reader:
            file, patient, label = ((row[str(columns[name])] or "").strip() for name in COLUMNS)
            yield file, patient, [name.strip() for name in label.split("|") if name.strip()]


def read_labels(labels: list[str]) -> tuple[list[str], list[str]]:
    """The findings that labels say are shown, and those that they say are not, in the lexicon's order."""
    shown = {name for label in labels for name in SHOWS[label]}
    absent: set[str] = set()
    if labels == [NO_FINDING]:
        shown, absent = set(NORMAL_SHOWS), set(NORMAL_ABSENT)
    if "cxr: opacity" in shown:
        absent.add("cxr: clear lungs")
    if "cxr: enlarged heart" in shown:
        absent.add("cxr: normal heart size")
    if labels != [NO_FINDING]:
        absent.add("cxr: normal")
    return [name for name in PHRASES if name in shown], [name for name in PHRASES if name in absent]


def hash_fold(patient: str) -> int:
    """The fold of a patient, for data sets that publish none."""
    return FOLDS[int.from_bytes(hashlib.sha256(patient.encode()).digest()[:8], "big") % len(FOLDS)]
