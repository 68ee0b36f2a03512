# SPDX-License-Identifier: Apache-2.0
"""
A folder in MIMIC's layout and size: admissions of imaginary patients with a drawn ECG and film each, and laboratory events
around them and of others.
"""

import os
import shutil
from pathlib import Path

import duckdb

from tests.medtvt_training.mimic.mimic_folder import LAB_COLUMNS, write_mimic


def write_mimic_at_size(folder: Path, admissions: int, lab_rows: int, drawings: int) -> dict[str, Path]:
    """
    The three folders by name of their option.

    Args:
        admissions (`int`): One a patient.
        lab_rows (`int`): Rows of labevents at least. All but 30 an admission are of other patients, or of other times.
        drawings (`int`): How many different ECGs and films there are. Further admissions link to their files: time and
            memory are those of as many files, what they take on the disk is not.
    """
    folders = write_mimic(folder, patients=admissions, drawings=drawings, links=True)
    _add_lab_rows(folders["mimic-iv"] / "hosp" / "labevents.csv.gz", admissions, lab_rows)
    return folders


def _add_lab_rows(file: Path, admissions: int, number: int) -> None:
    """Puts events of the years after the admissions, of as many patients again and of other labs, behind what is there."""
    further = file.with_name("further.csv.gz")
    connection = duckdb.connect()
    columns = {
        "labevent_id": "1000000 + i",
        "subject_id": f"10000000 + i % {2 * admissions}",
        "hadm_id": "NULL",
        "specimen_id": "i",
        "itemid": "CASE WHEN i % 3 = 0 THEN 50912 WHEN i % 3 = 1 THEN 50971 ELSE 51000 + i % 900 END",
        "order_provider_id": "NULL",
        "charttime": "TIMESTAMP '2190-01-01' + to_minutes(CAST(random() * 5000000 AS BIGINT))",
        "storetime": "TIMESTAMP '2200-01-01'",
        "value": "'___'",
        "valuenum": "round(random() * 10, 1)",
        "valueuom": "'mg/dL'",
        "ref_range_lower": "0.5",
        "ref_range_upper": "1.2",
        "flag": "NULL",
        "priority": "'ROUTINE'",
        "comments": "'___'",
    }
    selected = ", ".join(f"{columns[name]} AS {name}" for name in LAB_COLUMNS)
    connection.execute(
        f"COPY (SELECT {selected} FROM range({number}) AS rows(i)) TO '{further}' (FORMAT csv, HEADER false, COMPRESSION gzip)"
    )
    connection.close()
    # gzip files behind each other are one
    with open(file, "ab") as whole, open(further, "rb") as rest:
        shutil.copyfileobj(rest, whole)
    os.unlink(further)
