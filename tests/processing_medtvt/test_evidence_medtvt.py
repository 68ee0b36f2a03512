# SPDX-License-Identifier: Apache-2.0
import pytest

from processing_medtvt.evidence_medtvt import Measurements, check_evidence
from processing_medtvt.patient_medtvt import Patient


NORMAL_ECG = {"heart_rate": 72.0, "rr_variation": 0.03}
LAB = {"Creatinine": 3.1, "Potassium": 5.9, "Sodium": 140.0, "Glucose": 130.0, "Hemoglobin": 12.1}


def measured(ecg=None, lab=None, has_cxr=False, patient=None) -> Measurements:
    return {"ecg": ecg, "lab": lab, "has_cxr": has_cxr, "patient": patient or Patient(age=None, sex=None)}


@pytest.mark.parametrize(
    "claim, status",
    [
        ("raised creatinine", "supported"),
        ("greatly increased creatinine", "supported"),
        ("normal creatinine", "contradicted"),
        ("creatinine is not elevated", "contradicted"),
        ("hyponatremia", "contradicted"),
        ("no hyponatremia", "supported"),
        ("normal sodium", "supported"),
        ("potassium 5.9 mEq/L", "supported"),
        ("potassium of 6.4", "contradicted"),
        ("potassium above 5.5", "supported"),
        ("creatinine of 274 umol/L", "supported"),
        ("creatinine of 274 mmol/L", "contradicted"),
        ("creatinine of 274 K/uL", "not checkable"),
        ("raised lactate", "not measured"),
        ("hyperglycemia", "not checkable"),
        ("anemia", "not checkable"),
        ("cardiomegaly", "not measured"),
        ("sinus rhythm", "not measured"),
        ("the patient has gout", "not checkable"),
    ],
)
def test_what_is_said_of_labs_is_held_against_their_values(claim, status):
    statements = check_evidence(f"{claim}.", measured(lab=LAB)).statements
    assert [statement["status"] for statement in statements] == [status]


def test_a_verdict_says_what_it_was_held_against():
    statement = check_evidence("raised creatinine", measured(lab=LAB)).statements[0]
    assert statement["measured"] == "Creatinine 3.1 mg/dL, high (0.5 to 1.2)"
    statement = check_evidence("raised lactate", measured(lab=LAB)).statements[0]
    assert statement["measured"] == "Lactate not measured"


def test_abnormal_labs_that_are_left_out_are_listed_gravest_first():
    found = measured(lab=LAB)
    left_out = check_evidence("normal sodium", found).unmentioned
    assert [entry["finding"] for entry in left_out][:2] == ["lab: high Creatinine", "lab: high Potassium"]
    assert {entry["finding"] for entry in left_out} == {"lab: high Creatinine", "lab: high Potassium"}
    said = check_evidence("creatinine 3.1, hyperkalemia", found).unmentioned
    assert said == []


def test_a_film_is_not_measured():
    statement = check_evidence("heart not enlarged", measured(has_cxr=True)).statements[0]
    assert (statement["status"], statement["measured"]) == ("not checkable", "a film is not measured")


def test_a_statement_keeps_the_diseases_that_it_is_cited_for():
    text = "Labs: raised creatinine, pointing to Acute Renal Failure and Sepsis; hyperkalemia; normal sodium."
    statements = check_evidence(text, measured(lab=LAB)).statements
    assert [statement["conclusion"] for statement in statements] == ["Acute Renal Failure and Sepsis", "", ""]


def test_the_reference_range_is_that_of_the_patient():
    lab = {"Hemoglobin": 12.5}
    for sex, status in (("F", "contradicted"), ("M", "supported")):
        statement = check_evidence("anemia", measured(lab=lab, patient=Patient(age=50, sex=sex))).statements[0]
        assert statement["status"] == status


@pytest.mark.parametrize(
    "claim, status",
    [
        ("heart rate of 74", "supported"),
        ("heart rate of 110", "contradicted"),
        ("tachycardia", "contradicted"),
        ("QTc of 440 ms", "not measured"),
        ("no tachycardia", "supported"),
    ],
)
def test_what_is_said_of_an_ecg_is_held_against_its_measures(claim, status):
    statements = check_evidence(claim, measured(ecg=NORMAL_ECG)).statements
    assert [statement["status"] for statement in statements] == [status]


@pytest.mark.parametrize("lab, status", [({"Sodium": 140.0}, "supported"), (LAB, "contradicted")])
def test_nothing_abnormal_is_held_against_all_labs(lab, status):
    assert check_evidence("Labs: nothing abnormal.", measured(lab=lab)).statements[0]["status"] == status
