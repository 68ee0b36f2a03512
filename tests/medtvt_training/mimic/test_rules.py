# SPDX-License-Identifier: Apache-2.0
import pytest

from medtvt_training.mimic.codes import disease_of, label_diseases, paper_codes
from medtvt_training.mimic.ecg_statements import (
    clean_statement,
    clean_statements,
    group_of,
    is_summary,
    measure,
    paper_statements,
)
from medtvt_training.mimic.lab_flags import LAB_GROUPS, LABS, read_lab
from medtvt_training.mimic.stats import FIGURE_2B
from modeling_medtvt import DISEASES


@pytest.mark.parametrize(
    ("code", "version", "corrected", "paper"),
    [
        ("I2510", 10, "Coronary Artery Disease", "Coronary Artery Disease"),
        ("I25.110 ", 10, "Coronary Artery Disease", None),
        ("E1122", 10, "Diabetes Mellitus", None),
        ("E139", 10, "Diabetes Mellitus", "Diabetes Mellitus"),
        ("I489", 10, "Atrial Fibrillation", None),
        ("R6521", 10, "Sepsis", "Sepsis"),
        ("J690", 10, None, None),
        ("42731", 9, "Atrial Fibrillation", "Atrial Fibrillation"),
        ("4019", 9, "Hypertension", "Hypertension"),
        ("0389", 9, "Sepsis", "Sepsis"),
        ("4829", 9, "Pneumonia", None),
        ("4019", 10, None, None),
    ],
)
def test_code_sets(code, version, corrected, paper):
    assert disease_of(code, version) == corrected
    assert disease_of(code, version, "paper") == paper


def test_table_5_is_whole():
    counted = [entry["count"] for entry in paper_codes().values() if entry["count"]]
    assert len(counted) == 52 and sum(counted) == 24342 and len(paper_codes()) == 57
    assert label_diseases([("A419", 10), ("I10", 10)]) == ["Hypertension", "Sepsis"]
    assert set(FIGURE_2B) == set(DISEASES)


def test_table_4_is_whole_and_in_cleaned_form():
    assert len(paper_statements()) == 63 and sum(paper_statements().values()) == 28996
    assert all(clean_statement(statement) == statement for statement in paper_statements())


def test_statements_are_cleaned():
    row = {
        "report_0": "*** Consider acute ST elevation MI ***",
        "report_3": "Minimal ST depression.",
        "report_4": "Data quality warning - interpretation may be affected",
        "report_5": "Minimal ST depression",
        "report_6": "Abnormal ECG",
    }
    statements = clean_statements(row)
    assert statements == ["consider acute st elevation mi", "minimal st depression", "abnormal ecg"]
    assert [is_summary(statement) for statement in statements] == [False, False, True]
    assert group_of("atrial fibrillation") == "rhythm" and group_of("left axis deviation") == "conduction and axis"


def test_sentinels_are_no_measurements():
    row = {"rr_interval": 65535, "p_onset": 40, "p_end": 29999, "qrs_onset": 180, "qrs_end": 270, "t_end": 29999}
    assert measure({**row, "qrs_axis": 32767}) == {"pr": 140, "qrs": 90}


@pytest.mark.parametrize(
    ("name", "args", "flag", "value"),
    [
        ("Creatinine", (2.3, "mg/dL", 0.5, 1.2), "high", 2.3),
        ("Creatinine", (203.4, "umol/L", 44.2, 106.1), "high", 2.30038),
        ("Creatinine", (1.15, None, 0.4, 1.1), "high", 1.15),  # its own range, not the textbook's
        ("Creatinine", (1.15, "mg/dL", None, None), "normal", 1.15),
        ("Sodium", (120, " ", 133, 145), "low", 120),
        ("Base Excess", (-413, "mEq/L", None, None), None, None),
        ("Creatinine", (2, "furlong", None, None), None, None),
    ],
)
def test_lab_flags(name, args, flag, value):
    reading, note = read_lab(name, *args)
    if flag is None:
        assert reading is None and name in note
    else:
        assert reading.flag == flag and reading.value == pytest.approx(value, rel=1e-5)


def test_seven_groups_hold_all_labs():
    assert len(LAB_GROUPS) == 7 and {lab.group for lab in LABS.values()} == set(LAB_GROUPS)
