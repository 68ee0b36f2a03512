# SPDX-License-Identifier: Apache-2.0
"""
A result of the pipeline as FHIR R4, which hospitals use: https://hl7.org/fhir/R4/diagnosticreport.html.

One DiagnosticReport contains an Observation for each disease, each measurement and each statement of the reasoning. All
are `preliminary`, and labeled as made for research. Nothing identifies the patient, as nothing here knows who it is:
there is no subject, no time and no performer, and whoever files the report adds them.
"""

import re
from collections.abc import Mapping
from typing import Any

from processing_medtvt import LAB_DEFINITIONS
from processing_medtvt.report_medtvt import RESEARCH_USE


LOINC, UCUM = "http://loinc.org", "http://unitsofmeasure.org"
CATEGORY = "http://terminology.hl7.org/CodeSystem/observation-category"
INTERPRETATION = "http://terminology.hl7.org/CodeSystem/v3-ObservationInterpretation"
RESEARCH = {
    "system": "http://terminology.hl7.org/CodeSystem/v3-ActReason",
    "code": "HRESCH",
    "display": "healthcare research",
}
FLAGS = {"low": "L", "normal": "N", "high": "H"}
MODALITIES = {"ecg": "ECG", "cxr": "chest X-ray", "lab": "laboratory"}
LOINC_CODES = {
    **{lab.name: lab.loinc for lab in LAB_DEFINITIONS if lab.loinc is not None},
    **{"heart rate": "8867-4", "PR interval": "8625-6", "QRS duration": "8633-0", "QT interval": "8634-8"},
    **{"QTc interval": "8636-3", "QRS axis": "8632-2"},
}
# Units of measurements -> UCUM; those that are missing here are written the same way
UCUM_CODES = {
    **{"mEq/L": "meq/L", "IU/L": "[IU]/L", "K/uL": "10*3/uL", "m/uL": "10*6/uL", "mm Hg": "mm[Hg]", "sec": "s"},
    **{"units": "[pH]", "ratio": "{INR}", "U (index)": "{index}", "per minute": "/min", "degrees": "deg"},
}
# Characters that FHIR's strings must not have
_CONTROL = re.compile(r"[^\S \r\n\t]|[\x00-\x08\x0b\x0c\x0e-\x1f]")


def to_diagnostic_report(result: Mapping[str, Any], model: str | None = None) -> dict[str, Any]:
    """
    Args:
        result (`dict`): Of the pipeline, for one patient.
        model (`str`, *optional*): Name of the model, as the device of what it says.

    Returns:
        `dict`: A DiagnosticReport, ready for `json.dumps`.
    """
    said = {} if model is None else {"device": {"display": model}}
    observations = [
        *({**_of_disease(disease), **said} for disease in result["diseases"]),
        *map(_of_measurement, result["measurements"]),
        *({**_of_statement(statement), **said} for statement in result["evidence"]),
    ]
    marked = [
        {
            **{"resourceType": "Observation", "id": f"observation-{number}", "meta": {"security": [RESEARCH]}},
            **{"status": "preliminary", **observation},
        }
        for number, observation in enumerate(observations, start=1)
    ]
    return {
        "resourceType": "DiagnosticReport",
        "meta": {"security": [RESEARCH]},
        "contained": marked,
        "status": "preliminary",
        "code": {"text": "Probable diseases from ECG, chest X-ray and blood labs, by a model"},
        "result": [{"reference": f"#{observation['id']}"} for observation in marked],
        "conclusion": _text(_conclude(result)),
    }


def _text(text: str) -> str:
    """As FHIR's strings may be: not empty, and without control characters."""
    return _CONTROL.sub(" ", text).strip() or "-"


def _category(modality: str | None) -> dict[str, Any]:
    codes = {"ecg": "procedure", "cxr": "imaging", "lab": "laboratory"}
    return {"category": [{"coding": [{"system": CATEGORY, "code": codes[modality]}]}]} if modality else {}


def _interpret(code: str) -> list[dict[str, Any]]:
    return [{"coding": [{"system": INTERPRETATION, "code": code}]}]


def _share(name: str, value: float) -> dict[str, Any]:
    return {"code": {"text": name}, "valueQuantity": {"value": value, "system": UCUM, "code": "1"}}


def _of_disease(disease: Mapping[str, Any]) -> dict[str, Any]:
    """Named or not; a probability only where it is calibrated."""
    names = {"probability": "calibrated probability", "score": "share of the drawn answers that name it"}
    parts = [_share(name, disease[key]) for key, name in names.items() if disease[key] is not None]
    parts.append({"code": {"text": "supported findings cited for it"}, "valueInteger": disease["evidence"]})
    found = {"code": {"text": disease["label"]}, "valueBoolean": disease["named"], "component": parts}
    if disease["probability"] is None:
        found["note"] = [{"text": "not calibrated: there is no probability"}]
    return {**found, "interpretation": _interpret("IND")} if disease.get("undecided") else found


def _of_measurement(measurement: Mapping[str, Any]) -> dict[str, Any]:
    name, unit = measurement["name"], measurement["unit"]
    loinc = LOINC_CODES.get(name)
    shown = {} if unit is None else {"unit": unit, "system": UCUM, "code": UCUM_CODES.get(unit, unit)}
    limits = {key: {"value": measurement[key], **shown} for key in ("low", "high") if measurement[key] is not None}
    return {
        **_category(measurement["modality"]),
        "code": {"text": name, **({} if loinc is None else {"coding": [{"system": LOINC, "code": loinc}]})},
        "valueQuantity": {"value": measurement["value"], **shown},
        **({"referenceRange": [limits]} if limits else {}),
        **({} if measurement["flag"] is None else {"interpretation": _interpret(FLAGS[measurement["flag"]])}),
    }


def _of_statement(statement: Mapping[str, Any]) -> dict[str, Any]:
    """What the model wrote, as the name of what was observed, and the verdict of the check as the value."""
    said = f"{'no ' if statement['negated'] else ''}{statement['text']}"
    about = MODALITIES.get(statement["modality"] or "")
    return {
        "code": {"text": _text(f"Statement of the model{f' on the {about}' if about else ''}: {said}")},
        "valueCodeableConcept": {"text": statement["status"]},
        "note": [{"text": _text(statement["measured"])}],
    }


def _conclude(result: Mapping[str, Any]) -> str:
    """The limits first, then what is named, the reasoning, what it leaves out, and what was altered."""
    limits = [warning for warning in result["warnings"] if warning.startswith("model:")]
    altered = [warning for warning in result["warnings"] if warning not in limits]
    named = [disease["label"] for disease in result["diseases"] if disease["named"]]
    lines = [RESEARCH_USE, *limits, f"Named: {'; '.join(named) or 'none of the seven diseases'}."]
    if result["reasoning"]:
        lines.append(f"Reasoning: {result['reasoning']}")
    if result["unmentioned"]:
        left_out = "; ".join(f"{entry['finding']} ({entry['measured']})" for entry in result["unmentioned"])
        lines.append(f"Abnormal measurements that it leaves out: {left_out}.")
    if altered:
        lines.append(f"Altered, imputed or in doubt: {'; '.join(altered)}.")
    return "\n".join(lines)
