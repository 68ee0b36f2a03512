# SPDX-License-Identifier: Apache-2.0
"""A cohort folder of invented admissions without any files behind them, for tests of what comes after linking."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from medtvt_training.data.schema import LAB_NAMES
from medtvt_training.mimic.cohort import COHORT_SCHEMA, draw_split
from medtvt_training.mimic.tables import CHEXPERT_LABELS


def invent_admission(i: int, **changes: Any) -> dict:
    """An admission whose every modality says something that no other one says."""
    labs = dict.fromkeys(LAB_NAMES)
    labs["Creatinine"] = {"value": round(2 + i / 1000, 3), "low": 0.5, "high": 1.2, "flag": "high"}
    labs["Potassium"] = {"value": 4.0, "low": 3.3, "high": 5.1, "flag": "normal"}
    labs["Sodium"] = {"value": 120.0, "low": 133.0, "high": 145.0, "flag": "low"}
    return {
        "subject_id": 10000000 + i,
        "hadm_id": 20000000 + i,
        "split": draw_split(10000000 + i, 0),
        "admittime": datetime(2150, 1, 1),
        "age": 60,
        "gender": "F",
        "ecg_study_id": 40000000 + i,
        "ecg_path": f"files/p1000/p{10000000 + i}/s{40000000 + i}/{40000000 + i}",
        "ecg_statements": ["atrial fibrillation", "left axis deviation", "abnormal ecg"],
        "ecg_labels": ["atrial fibrillation", "left axis deviation", "abnormal ecg"],
        "ecg_measures": {"rate": 80 + i / 1000},
        "cxr_study_id": 50000000 + i,
        "cxr_dicom_id": f"{i:08x}-aaaa",
        "cxr_path": f"files/p10/p{10000000 + i}/s{50000000 + i}/{i:08x}-aaaa.jpg",
        "cxr_report": f"There is a small left pleural effusion of {i} ml.",
        "cxr_labels": {**dict.fromkeys(CHEXPERT_LABELS), "Pleural Effusion": 1.0, "Pneumothorax": 0.0},
        "labs": labs,
        "codes": ["10:N179", "9:42731"],
        "paper_codes": ["I4891", "N179"],
        "diseases": ["Acute Renal Failure", "Atrial Fibrillation"],
        **changes,
    }


def write_invented_cohort(build: Path, number: int, **changes: Any) -> Path:
    """Writes `build/cohort`; returns `build`."""
    folder = Path(build) / "cohort"
    folder.mkdir(parents=True)
    rows = [invent_admission(i, **changes) for i in range(number)]
    pq.write_table(pa.Table.from_pylist(rows, schema=COHORT_SCHEMA), folder / "cohort.parquet")
    arguments = {"rules": "symile", "labels": "diagnoses", "codes": "corrected", "seed": 0, "shares": [0.8, 0.1, 0.1]}
    arguments["modalities"] = ["ecg", "cxr", "lab"]
    (folder / "build.json").write_text(json.dumps({"arguments": arguments, "files": []}))
    (folder / "flow.md").write_text("| step |\n")
    return Path(build)
