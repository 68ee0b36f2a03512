# SPDX-License-Identifier: Apache-2.0
import csv
from pathlib import Path

import numpy as np
import pytest
import wfdb
from PIL import Image
from scipy.signal import find_peaks

from processing_medtvt.image_processing_medtvt import load_cxr
from training.synthetic.example_patient import write_example_patient


LABS = Path(__file__).resolve().parents[3] / "shared" / "facts" / "labs.csv"
FILES = ["cxr.png", "ecg.dat", "ecg.hea", "lab.csv"]


@pytest.fixture(scope="module")
def patient(tmp_path_factory):
    return write_example_patient(tmp_path_factory.mktemp("patient") / "new" / "folder")


@pytest.fixture(scope="module")
def record(patient):
    return wfdb.rdrecord(patient["ecg"].removesuffix(".hea"))


def read_labs(patient):
    with open(patient["lab"], newline="") as file:
        return list(csv.DictReader(file))


def test_files(patient, record):
    assert patient["diseases"] == ["Atrial Fibrillation", "Acute Renal Failure", "Pneumonia"]
    assert sorted(path.name for path in Path(patient["lab"]).parent.iterdir()) == FILES
    assert record.sig_name == ["I", "II", "III", "aVR", "aVF", "aVL", "V1", "V2", "V3", "V4", "V5", "V6"]
    assert (record.fs, record.sig_len, set(record.units), set(record.adc_gain)) == (500, 5000, {"mV"}, {200})
    image = Image.open(patient["cxr"])
    assert image.mode == "L" and image.size == (640, 640)
    assert load_cxr(patient["cxr"])[1] == []


def test_lead_relations_and_amplitudes(record):
    lead = dict(zip(record.sig_name, record.p_signal.T))
    step = 1 / 200
    assert abs(lead["III"] - (lead["II"] - lead["I"])).max() <= 1.5 * step + 1e-9
    assert abs(lead["aVR"] + (lead["I"] + lead["II"]) / 2).max() <= step + 1e-9
    assert abs(lead["aVL"] - (lead["I"] - lead["II"] / 2)).max() <= 1.25 * step + 1e-9
    assert abs(lead["aVF"] - (lead["II"] - lead["I"] / 2)).max() <= 1.25 * step + 1e-9
    assert 0.7 < np.percentile(lead["II"], 99.5) < 1.5
    # R progression: from mostly negative in V1 to mostly positive in V5
    assert -lead["V1"].min() > 2 * lead["V1"].max() and lead["V5"].max() > 2 * -lead["V5"].min()


def test_beats_are_irregular(record):
    lead = record.p_signal[:, record.sig_name.index("V5")]
    peaks, _ = find_peaks(lead, height=0.7, distance=125)
    intervals = np.diff(peaks) / 500
    assert 80 < 60 / intervals.mean() < 115
    assert 0.12 < intervals.std() / intervals.mean() < 0.3


def test_labs(patient):
    rows = read_labs(patient)
    value = {row["name"]: float(row["value"]) for row in rows}
    assert len(value) == len(rows) >= 25
    assert value["Creatinine"] > 3 and value["Urea Nitrogen"] > 50 and value["Potassium"] > 5.1
    assert value["Phosphate"] > 4.5 and value["Bicarbonate"] < 20 and value["pH"] < 7.35
    assert value["White Blood Cells"] > 12 and value["Neutrophils"] > 80
    gap = value["Sodium"] + value["Potassium"] - value["Chloride"] - value["Bicarbonate"]
    assert abs(gap - value["Anion Gap"]) <= 0.5 + 1e-9


@pytest.mark.skipif(not LABS.exists(), reason="needs ../shared/facts/labs.csv")
def test_lab_names_and_units_are_known(patient):
    with open(LABS, newline="") as file:
        units = {row["name"]: row["unit"] for row in csv.DictReader(file)}
    assert all(units[row["name"]] == row["unit"] for row in read_labs(patient))


def test_opacity_at_the_right_base(patient):
    film = np.asarray(Image.open(patient["cxr"])).astype(float)
    right, left = film[350:420, 130:220].mean(), film[350:420, 640 - 160 : 640 - 100].mean()
    upper = film[130:230, 130:220].mean()
    assert right > upper + 30 and right > left + 30


def test_seed(patient, tmp_path):
    first = Path(patient["lab"]).parent
    (tmp_path / "lab.csv").write_text("old")
    (tmp_path / "other.txt").write_text("kept")
    write_example_patient(tmp_path)
    assert all((tmp_path / name).read_bytes() == (first / name).read_bytes() for name in FILES)
    write_example_patient(tmp_path, seed=1)
    assert all((tmp_path / name).read_bytes() != (first / name).read_bytes() for name in FILES)
    assert (tmp_path / "other.txt").read_text() == "kept"
