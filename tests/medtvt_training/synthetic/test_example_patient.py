# SPDX-License-Identifier: Apache-2.0
import csv
import filecmp
from pathlib import Path
from typing import Any

import pytest
import wfdb
from PIL import Image

from medtvt_training.synthetic.example_patient import EXAMPLE_INDEX, EXAMPLE_SEED, write_example_patient
from medtvt_training.synthetic.patient import draw_patient
from processing_medtvt import LAB_DEFINITIONS, MedTVTEcgFeatureExtractor, MedTVTLabFeatureExtractor
from processing_medtvt.read_cxr_medtvt import load_cxr


FILES = ["cxr.png", "ecg.dat", "ecg.hea", "lab.csv"]


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return write_example_patient(tmp_path_factory.mktemp("patient") / "new" / "folder")


def test_files_are_what_a_user_would_have(patient):
    assert sorted(path.name for path in Path(patient["lab"]).parent.iterdir()) == FILES
    record = wfdb.rdrecord(patient["ecg"].removesuffix(".hea"))
    assert record.sig_name == ["I", "II", "III", "aVR", "aVF", "aVL", "V1", "V2", "V3", "V4", "V5", "V6"]
    assert (record.fs, record.sig_len, set(record.units), set(record.adc_gain)) == (500, 5000, {"mV"}, {200})
    assert Image.open(patient["cxr"]).mode == "L"


def test_package_reads_them_without_repairs(patient):
    _, found = load_cxr(patient["cxr"])
    assert found == []
    ecg = MedTVTEcgFeatureExtractor()(patient["ecg"], return_alterations=True)
    assert ecg["alterations"] == [["ecg: resampled from 500 Hz to 100 Hz"]]
    lab = MedTVTLabFeatureExtractor()(patient["lab"], return_alterations=True)
    assert not any("unit" in text or "clipped" in text for text in lab["alterations"][0])


def test_it_is_a_held_out_patient_of_the_cohort(patient):
    drawn = draw_patient(EXAMPLE_SEED, EXAMPLE_INDEX)
    assert drawn.split == "test" and patient["findings"] == drawn.findings
    with open(patient["lab"], newline="") as file:
        values = {row["name"]: float(row["value"]) for row in csv.DictReader(file)}
    assert values == {name: value for name, value in drawn.lab.items() if value is not None}
    assert {row.name for row in LAB_DEFINITIONS} >= set(values)


def test_same_seed_same_files_and_no_leftovers(patient, tmp_path):
    (tmp_path / "ecg.dat").write_bytes(b"older")
    write_example_patient(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == FILES
    for name in FILES:
        assert filecmp.cmp(tmp_path / name, Path(patient["ecg"]).parent / name, shallow=False)


def test_another_patient(patient, tmp_path):
    other = write_example_patient(tmp_path, index=19)
    assert other["findings"] != patient["findings"]
