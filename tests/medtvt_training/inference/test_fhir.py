# SPDX-License-Identifier: Apache-2.0
"""A result as FHIR, validated by fhir.resources (R4B, in which these two resources are those of R4)."""

import json

import pytest
from fhir.resources.R4B.diagnosticreport import DiagnosticReport
from fhir.resources.R4B.observation import Observation

from medtvt_training.cli import main
from medtvt_training.inference.fhir import to_diagnostic_report
from modeling_medtvt import DISEASES
from processing_medtvt import LAB_DEFINITIONS, MedTVTLabFeatureExtractor
from processing_medtvt.evidence_medtvt import Measurements, check_evidence, list_measurements
from processing_medtvt.patient_medtvt import Patient


LABS = {lab.name: round((lab.reference_low or 0) + 0.3, 2) for lab in LAB_DEFINITIONS} | {"Creatinine": 3.1}
MEASURED = Measurements(
    ecg={"heart_rate": 71.6, "qrs_ms": 92.0, "qt_ms": 380.0, "qtc_ms": 405.0, "axis": 30.0, "pr_ms": 160.0},
    lab=LABS,
    has_cxr=True,
    patient=Patient(age=60, sex="F"),
)
REASONING = "ECG: rate 72 per minute.\nLabs: sodium was 150.\nX-ray: \x00<b>odd\u2028words</b>, heart not enlarged."


def make_result(probability=0.83, undecided=True, reasoning=REASONING):
    evidence = check_evidence(reasoning, MEASURED)
    disease = {"named": False, "score": None, "probability": probability, "evidence": 1, "undecided": undecided}
    return {
        "warnings": ["model: trained on imaginary patients only", "ecg: lead III derived from I and II"],
        "diseases": [{"label": label, **disease} for label in DISEASES],
        "reasoning": reasoning,
        "evidence": evidence.statements,
        "unmentioned": evidence.unmentioned,
        "measurements": list_measurements(MEASURED),
    }


def by_text(report):
    return {observation["code"]["text"]: observation for observation in report["contained"]}


@pytest.mark.parametrize("probability", [0.83, None])
def test_a_report_is_valid_preliminary_and_of_nobody(probability):
    report = json.loads(json.dumps(to_diagnostic_report(make_result(probability), "medtvt-r1")))
    DiagnosticReport.model_validate(report)
    for resource in (report, *report["contained"]):
        assert resource["status"] == "preliminary" and resource["meta"]["security"][0]["code"] == "HRESCH"
        assert not {"subject", "identifier", "effectiveDateTime", "issued", "performer"} & set(resource)
    for observation in report["contained"]:
        Observation.model_validate(observation)
    assert [entry["reference"] for entry in report["result"]] == [f"#{o['id']}" for o in report["contained"]]
    assert report["conclusion"].startswith("Research use only") and "imaginary patients" in report["conclusion"]
    assert "lead III derived" in report["conclusion"] and "\x00" not in json.dumps(report)
    sepsis = by_text(report)["Sepsis"]
    shares = [part["valueQuantity"]["value"] for part in sepsis["component"] if "valueQuantity" in part]
    assert shares == ([] if probability is None else [0.83]) and ("note" in sepsis) == (probability is None)
    assert sepsis["valueBoolean"] is False and sepsis["interpretation"][0]["coding"][0]["code"] == "IND"


def test_statements_have_their_verdicts():
    observations = by_text(to_diagnostic_report(make_result()))
    verdicts = {name: o["valueCodeableConcept"]["text"] for name, o in observations.items() if "Statement" in name}
    told = {name.removeprefix("Statement of the model on the "): verdict for name, verdict in verdicts.items()}
    assert any(name.startswith("laboratory: ") and told[name] == "contradicted" for name in told)
    assert any(name.startswith("ECG: ") and told[name] == "supported" for name in told)
    assert told["chest X-ray: heart not enlarged"] == "not checkable"
    assert any("<b>odd" in name for name in told)  # as text


def test_measurements_are_read_back_with_their_units():
    report = to_diagnostic_report(make_result())
    creatinine, rate = (by_text(report)[name] for name in ("Creatinine", "heart rate"))
    assert creatinine["code"]["coding"][0]["code"] == "2160-0"
    assert creatinine["valueQuantity"] == {
        **{"value": 3.1, "unit": "mg/dL", "system": "http://unitsofmeasure.org", "code": "mg/dL"}
    }
    assert creatinine["interpretation"][0]["coding"][0]["code"] == "H" and creatinine["referenceRange"][0]["high"]
    assert rate["code"]["coding"][0]["code"] == "8867-4" and rate["valueQuantity"]["code"] == "/min"
    extractor = MedTVTLabFeatureExtractor(percentile_source="reference_intervals")
    values = dict(zip(extractor.lab_names, extractor.read(report).measured[0]))
    assert values == pytest.approx(LABS)


def test_the_command_writes_it(checkpoint, tmp_path):
    (tmp_path / "lab.csv").write_text("name,value\nCreatinine,3.1\n")
    words = [
        "--model",
        checkpoint,
        "--lab",
        tmp_path / "lab.csv",
        "--max-new-tokens",
        3,
        "--fhir",
        tmp_path / "r.json",
    ]
    assert main(["diagnose", *map(str, words)]) == 0
    report = json.loads((tmp_path / "r.json").read_text())
    DiagnosticReport.model_validate(report)
    assert set(DISEASES) | {"Creatinine"} <= set(by_text(report))
