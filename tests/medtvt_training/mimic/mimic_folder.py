# SPDX-License-Identifier: Apache-2.0
"""Writes folders in the layout of MIMIC-IV, MIMIC-IV-ECG and MIMIC-CXR with imaginary or the open demo's patients."""

import csv
import gzip
import os
import shutil
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from medtvt_training.mimic.tables import CHEXPERT_LABELS, MEASURES, REPORT_COLUMNS
from medtvt_training.synthetic.cxr import draw_cxr
from medtvt_training.synthetic.ecg import draw_ecg, write_ecg
from medtvt_training.synthetic.patient import draw_patient
from processing_medtvt import LAB_DEFINITIONS


START = datetime(2150, 3, 1, 12)
# codes of the imaginary patients in turn; the last one has none
CODES = (
    (("I10", 10), ("N179", 10)),
    (("4019", 9), ("42731", 9)),
    (("E1122", 10), ("I2510", 10)),
    (("486", 9), ("0389", 9)),
    (("Z000", 10),),
    (),
)
STATEMENTS = (
    ("*** Consider acute ST elevation MI ***", "Sinus tachycardia.", "Abnormal ECG"),
    ("Atrial fibrillation with rapid ventricular response", "--- Left axis deviation ---"),
    ("Sinus rhythm", "Age not entered, assumed to be 50 years old for purpose of ECG interpretation", "Normal ECG"),
)
REPORT = """\
                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  ___ year old man with cough  // pneumonia?

 COMPARISON:  ___.

 FINDINGS:

 Compared to the prior study, there is a left pleural effusion.  The heart is again enlarged.
 The lungs are otherwise clear.  Pneumonia has improved since ___.

 IMPRESSION:

 1.  Cardiomegaly with a left pleural effusion.
 2.  These findings were discussed with Dr. ___ by telephone at 09:35 on ___.
"""


def write_csv(path: Path, columns: Sequence[str], rows: list[Any], compress: bool = True) -> None:
    """A table as MIMIC ships it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    opener = gzip.open if compress else open
    with opener(f"{path}.gz" if compress else path, "wt", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def write_imaginary_hosp(folder: Path, patients: int = 12) -> list[tuple]:
    """Tables of MIMIC-IV's `hosp` for one admission a patient. Returns `(subject_id, hadm_id, admittime)`."""
    rng = np.random.default_rng(0)
    admissions = [(10000000 + i, 20000000 + i, START + timedelta(days=i)) for i in range(patients)]
    write_csv(
        folder / "patients.csv",
        ("subject_id", "gender", "anchor_age", "anchor_year", "anchor_year_group", "dod"),
        [(subject, "FM"[i % 2], 60, 2149, "2011 - 2013", "") for i, (subject, *_) in enumerate(admissions)],
    )
    write_csv(
        folder / "admissions.csv",
        ("hadm_id", "subject_id", "admittime", "dischtime", "deathtime"),  # not MIMIC's order
        [(hadm, subject, time, time + timedelta(days=5), "") for subject, hadm, time in admissions],
        compress=False,
    )
    labels = {
        lab.itemids[0]: lab.name.split(" (")[0] if lab.reference_low is None else lab.name for lab in LAB_DEFINITIONS
    }
    write_csv(
        folder / "d_labitems.csv",
        ("itemid", "label", "fluid", "category"),
        [(i, label, "Blood", "Chemistry") for i, label in labels.items()],
    )
    codes = sorted({code for codes in CODES for code in codes})
    write_csv(
        folder / "d_icd_diagnoses.csv", ("icd_code", "icd_version", "long_title"), [(*code, "x") for code in codes]
    )
    write_csv(
        folder / "diagnoses_icd.csv",
        ("subject_id", "hadm_id", "seq_num", "icd_code", "icd_version"),
        [
            (subject, hadm, seq, code, version)
            for i, (subject, hadm, _) in enumerate(admissions)
            for seq, (code, version) in enumerate(CODES[i % len(CODES)])
        ],
    )
    labs: list[tuple] = []
    for i, (subject, hadm, time) in enumerate(admissions):
        for lab in LAB_DEFINITIONS[:30]:
            low, high = lab.reference_low, lab.reference_high
            value = 5.0
            if low is not None and high is not None:
                value = round(float(low + (high - low) * rng.uniform(-0.2, 1.4)), 2)
            value = max(value, 0.1) if lab.plausible_low is not None and lab.plausible_low >= 0 else value
            row = (subject, hadm, 1, lab.itemids[0], "", time + timedelta(hours=1), time, "___", value)
            unit = "" if low is None else lab.unit
            labs.append((len(labs), *row, unit, low, high, "", "ROUTINE", ""))
        if i == 0:  # later, so it does not count
            labs.append(
                (
                    len(labs),
                    subject,
                    "",
                    1,
                    50912,
                    "",
                    time + timedelta(hours=5),
                    time,
                    "9",
                    9,
                    "mg/dL",
                    0.5,
                    1.2,
                    "",
                    "",
                    "",
                )
            )
    write_csv(folder / "labevents.csv", LAB_COLUMNS, labs)
    return admissions


LAB_COLUMNS = (
    *("labevent_id", "subject_id", "hadm_id", "specimen_id", "itemid", "order_provider_id", "charttime", "storetime"),
    *("value", "valuenum", "valueuom", "ref_range_lower", "ref_range_upper", "flag", "priority", "comments"),
)


def read_admissions(hosp: Path) -> list[tuple]:
    """`(subject_id, hadm_id, admittime)` of an admissions table."""
    with gzip.open(hosp / "admissions.csv.gz", "rt") as file:
        rows = list(csv.DictReader(file))
    return [(int(r["subject_id"]), int(r["hadm_id"]), datetime.fromisoformat(r["admittime"])) for r in rows]


def write_mimic(
    folder: Path, demo: Path | None = None, patients: int = 12, drawings: int = 2, links: bool = False
) -> dict[str, Path]:
    """
    The three folders by name of their option, with synthetic ECGs and films for every admission.

    Args:
        demo (`Path`, *optional*): `hosp` folder of real tables to copy; imaginary patients without it.
        drawings (`int`): How many different ECGs and films are drawn; the admissions take them in turn.
        links (`bool`): Whether files of the same drawing are links to one.
    """
    folder = Path(folder)
    hosp = folder / "mimic-iv" / "hosp"
    if demo is None:
        admissions = write_imaginary_hosp(hosp, patients)
    else:
        shutil.copytree(demo, hosp)
        admissions = read_admissions(hosp)
    _write_ecgs(folder / "mimic-ecg", admissions, drawings, links)
    _write_films(folder / "mimic-cxr", admissions, drawings, links)
    return {name: folder / name for name in ("mimic-iv", "mimic-ecg", "mimic-cxr")}


def _write_ecgs(folder: Path, admissions: Any, drawings: int, links: bool) -> None:
    drawn = [draw_ecg(draw_patient(7, i).ecg, np.random.default_rng(i)) for i in range(drawings)]
    records, measurements = [], []
    written: dict[int, Path] = {}
    for i, (subject, _, time) in enumerate(admissions):
        study = 40000000 + i
        path = f"files/p{str(subject)[:4]}/p{subject}/s{study}/{study}"
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        if links and (like := written.get(i % drawings)):
            os.link(like.with_suffix(".dat"), folder / f"{path}.dat")
            header = like.with_suffix(".hea").read_text()
            (folder / f"{path}.hea").write_text(header.replace(like.name, str(study)))
        else:
            write_ecg(folder / path, drawn[i % drawings])
            written[i % drawings] = folder / path
        when = time - timedelta(hours=2)
        records.append((subject, study, study, when, path))
        printed = STATEMENTS[i % len(STATEMENTS)]
        reports = [*printed, *[""] * (len(REPORT_COLUMNS) - len(printed))]
        measurements.append((subject, study, 1, when, *reports, 800, 40, 29999, 160, 250, 560, 29999, 15, 40))
    write_csv(folder / "record_list.csv", ("subject_id", "study_id", "file_name", "ecg_time", "path"), records, False)
    columns = ("subject_id", "study_id", "cart_id", "ecg_time", *REPORT_COLUMNS, *MEASURES)
    write_csv(folder / "machine_measurements.csv", columns, measurements, False)


def _write_films(folder: Path, admissions: Any, drawings: int, links: bool) -> None:
    drawn = [Image.fromarray(draw_cxr(draw_patient(7, i).film, np.random.default_rng(i))) for i in range(drawings)]
    films, labels = [], []
    written: dict[int, Path] = {}
    for i, (subject, _, time) in enumerate(admissions):
        study, dicom = 50000000 + i, f"{i:08x}-aaaa"
        path = folder / "files" / f"p{str(subject)[:2]}" / f"p{subject}" / f"s{study}" / f"{dicom}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if links and (like := written.get(i % drawings)):
            os.link(like, path)
        else:
            drawn[i % drawings].save(path, quality=80)
            written[i % drawings] = path
        path.parent.with_suffix(".txt").write_text(REPORT)
        when = time + timedelta(hours=30)
        films.append((dicom, subject, study, "AP", f"{when:%Y%m%d}", f"{int(f'{when:%H%M%S}')}.25"))
        values = {"Cardiomegaly": 1.0, "Pleural Effusion": 1.0, "Pneumonia": -1.0, "Pneumothorax": 0.0}
        labels.append((subject, study, *[values.get(name, "") for name in CHEXPERT_LABELS]))
    columns = ("dicom_id", "subject_id", "study_id", "ViewPosition", "StudyDate", "StudyTime")
    write_csv(folder / "mimic-cxr-2.0.0-metadata.csv", columns, films)
    write_csv(folder / "mimic-cxr-2.0.0-chexpert.csv", ("subject_id", "study_id", *CHEXPERT_LABELS), labels)
