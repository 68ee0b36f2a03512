# SPDX-License-Identifier: Apache-2.0
"""Writes folders in the layouts of PTB-XL and of labeled films: real records of the fixtures with made-up labels."""

import csv
import shutil
from collections.abc import Sequence
from pathlib import Path

from medtvt_training.open_data.ptb_xl import COLUMNS

from ...toy import FIXTURES


# code -> (diagnostic, form, rhythm), as in scp_statements.csv
CODES = {
    **dict.fromkeys(("NORM", "IMI", "ASMI", "LVH", "CLBBB", "LAFB", "IRBBB", "1AVB"), ("1.0", "", "")),
    **dict.fromkeys(("NDT", "LNGQT"), ("1.0", "1.0", "")),
    **dict.fromkeys(("PVC", "STD_", "ABQRS", "QWAVE"), ("", "1.0", "")),
    **dict.fromkeys(("SR", "AFIB", "SBRAD", "SARRH", "PACE"), ("", "", "1.0")),
    "XYZ": ("1.0", "", ""),  # of another version, which we do not know
}
RECORDS = ("00012", "00152", "00190", "00260", "00348")


def write_ptb_xl(folder: Path, rows: Sequence[dict[str, str]]) -> Path:
    """A table of as many rows; each says what it has beside a record of the fixtures, a patient and a fold of its own."""
    shutil.copytree(FIXTURES / "ecg" / "ptbxl", folder)
    with open(folder / "scp_statements.csv", "w", newline="") as file:
        csv.writer(file).writerows(
            [("", "diagnostic", "form", "rhythm"), *((code, *kind) for code, kind in CODES.items())]
        )
    with open(folder / "ptbxl_database.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for number, row in enumerate(rows):
            name = RECORDS[number % len(RECORDS)]
            usual = {
                "ecg_id": str(number + 1),
                "patient_id": f"{1000 + number}.0",
                "age": "56.0",
                "sex": "1",
                "heart_axis": "",
                "strat_fold": str(10 - number % 10),
                "filename_lr": f"records100/00000/{name}_lr",
                "filename_hr": f"records500/00000/{name}_hr",
            }
            writer.writerow({**usual, **row})
    return folder


def write_films(folder: Path, rows: Sequence[tuple[str, str, str]]) -> Path:
    """A table of (file, patient, label) beside copies of a film of the fixtures; returns the table."""
    folder.mkdir()
    for file, *_ in rows:
        if file:
            shutil.copy(FIXTURES / "cxr" / "covid" / "5f619d7e.jpg", folder / file)
    with open(folder / "labels.csv", "w", newline="") as table:
        csv.writer(table).writerows([("file", "patient", "label"), *rows])
    return folder / "labels.csv"
