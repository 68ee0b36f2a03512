# SPDX-License-Identifier: Apache-2.0
import pytest

from processing_medtvt.evidence_medtvt import Measurements, check_evidence


LAB = {"Creatinine": 3.1, "Potassium": 5.9, "Sodium": 140.0, "Glucose": 130.0, "Hemoglobin": 12.1}


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
        ("creatinine of 274 mmol/L", "not checkable"),
        ("raised lactate", "not measured"),
        ("hyperglycemia", "not checkable"),
        ("anemia", "not checkable"),
        ("cardiomegaly", "not measured"),
        ("sinus rhythm", "not measured"),
        ("the patient has gout", "not checkable"),
    ],
)
def test_what_is_said_of_labs_is_held_against_their_values(claim, status):
    statements = check_evidence(f"{claim}.", Measurements(lab=LAB)).statements
    assert [statement["status"] for statement in statements] == [status]


def test_a_verdict_says_what_it_was_held_against():
    statement = check_evidence("raised creatinine", Measurements(lab=LAB)).statements[0]
    assert statement["measured"] == "Creatinine 3.1 mg/dL, high (0.5 to 1.2)"
    statement = check_evidence("raised lactate", Measurements(lab=LAB)).statements[0]
    assert statement["measured"] == "Lactate not measured"


def test_abnormal_labs_that_are_left_out_are_listed_gravest_first():
    measured = Measurements(lab=LAB)
    left_out = check_evidence("normal sodium", measured).unmentioned
    assert [entry["finding"] for entry in left_out][:2] == ["lab: high Creatinine", "lab: high Potassium"]
    assert {entry["finding"] for entry in left_out} == {"lab: high Creatinine", "lab: high Potassium"}
    said = check_evidence("creatinine 3.1, hyperkalemia", measured).unmentioned
    assert said == []


def test_a_film_is_not_measured():
    statement = check_evidence("heart not enlarged", Measurements(has_cxr=True)).statements[0]
    assert (statement["status"], statement["measured"]) == ("not checkable", "a film is not measured")


def test_a_statement_keeps_the_diseases_that_it_is_cited_for():
    text = "Labs: raised creatinine, pointing to Acute Renal Failure and Sepsis; hyperkalemia; normal sodium."
    statements = check_evidence(text, Measurements(lab=LAB)).statements
    assert [statement["conclusion"] for statement in statements] == ["Acute Renal Failure and Sepsis", "", ""]
