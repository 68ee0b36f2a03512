# SPDX-License-Identifier: Apache-2.0
"""What an admission's data show, as findings by name and as lines for a teacher, and which disease a finding supports."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from modeling_medtvt import DISEASES

from ..data.conversation import MODALITIES
from ..data.rows import Modality
from .ecg_statements import GROUPS, group_of, is_summary
from .lab_flags import LAB_GROUPS, LABS, SPECIMEN_INDICES


class Evidence(NamedTuple):
    """
    One modality of an admission.

    Args:
        findings (`list[str]`): names that begin with the modality, as in `"lab: high Creatinine"`.
        lines (`list[str]`): all that a teacher gets to read.
    """

    findings: list[str]
    lines: list[str]


_MEASURES = {
    "rate": "ventricular rate {:g} per minute",
    "pr": "PR interval {:g} ms",
    "qrs": "QRS duration {:g} ms",
    "qt": "QT interval {:g} ms",
    "qrs_axis": "QRS axis {:g} degrees",
}
# Findings that are evidence for a disease where the admission has it. Signs used in every textbook; the fifty labs hold
# no troponin, HbA1c or procalcitonin.
SUPPORTS = {
    "Coronary Artery Disease": r"ecg:.*(infarct|ischemi|st elevation|st depression|\bmi\b)|lab: high Creatine Kinase",
    "Acute Renal Failure": (
        r"lab: high (Creatinine|Urea Nitrogen|Potassium|Phosphate|Anion Gap)|lab: low Bicarbonate|cxr: (?:possible )?edema"
    ),
    "Hypertension": r"ecg:.*(left ventricular hypertrophy|\blvh\b|left atrial)|cxr: (?:possible )?cardiomegaly",
    "Atrial Fibrillation": r"ecg:.*(atrial fibrillation|atrial flutter)|lab: high INR",
    "Pneumonia": (
        r"cxr: (?:possible )?(pneumonia|consolidation|lung opacity)|lab: high (White Blood Cells|Neutrophils)|lab: low pO2"
    ),
    "Diabetes Mellitus": r"lab: high Glucose",
    "Sepsis": (
        r"lab: high (Lactate|White Blood Cells|Absolute Neutrophil|Immature Granulocytes|Bilirubin)"
        r"|lab: low (White Blood Cells|Platelet|Albumin)"
    ),
}


def supported_diseases(finding: str, diseases: list[str]) -> list[str]:
    """Those of the diseases that the finding is evidence for."""
    return [disease for disease in DISEASES if disease in diseases and re.match(SUPPORTS[disease], finding)]


def list_evidence(row: dict[str, Any]) -> dict[Modality, Evidence]:
    """Evidence of each modality that a row of the cohort has and that says something."""
    readers: dict[Modality, Callable[[dict[str, Any]], Evidence]] = {
        "ecg": _read_ecg,
        "cxr": _read_cxr,
        "lab": _read_lab,
    }
    found = {
        modality: readers[modality](row) for modality in MODALITIES if modality == "lab" or row[f"{modality}_path"]
    }
    return {modality: evidence for modality, evidence in found.items() if evidence.lines}


def _read_ecg(row: dict[str, Any]) -> Evidence:
    statements = [statement for statement in row["ecg_statements"] if not is_summary(statement)]
    lines = []
    for group in (*GROUPS, "other"):
        of_group = [statement for statement in statements if group_of(statement) == group]
        if of_group:
            lines.append(f"{group[0].upper()}{group[1:]}: {', '.join(of_group)}.")
    measures = [
        wording.format(row["ecg_measures"][name])
        for name, wording in _MEASURES.items()
        if (row["ecg_measures"] or {}).get(name) is not None
    ]
    if measures:
        lines.append(f"Measurements: {', '.join(measures)}.")
    return Evidence([f"ecg: {statement}" for statement in statements], lines)


def _read_cxr(row: dict[str, Any]) -> Evidence:
    labels = {name.lower(): value for name, value in row["cxr_labels"].items() if value is not None}
    present = [name for name, value in labels.items() if value == 1]
    possible = [name for name, value in labels.items() if value == -1]
    absent = [name for name, value in labels.items() if value == 0]
    lines = [row["cxr_report"]] if row["cxr_report"] else []
    for title, names in (("Present", present), ("Possible", possible), ("Not present", absent)):
        if names:
            lines.append(f"{title}: {', '.join(names)}.")
    return Evidence([*(f"cxr: {name}" for name in present), *(f"cxr: possible {name}" for name in possible)], lines)


def _read_lab(row: dict[str, Any]) -> Evidence:
    findings, lines = [], []
    labs = {name: reading for name, reading in row["labs"].items() if reading and name not in SPECIMEN_INDICES}
    for group, title in LAB_GROUPS.items():
        of_group = {name: reading for name, reading in labs.items() if LABS[name].group == group}
        abnormal = {name: reading for name, reading in of_group.items() if reading["flag"] in ("low", "high")}
        normal = [name for name, reading in of_group.items() if reading["flag"] == "normal"]
        findings += [f"lab: {reading['flag']} {name}" for name, reading in abnormal.items()]
        clauses = [describe_lab(name, reading) for name, reading in abnormal.items()]
        if normal:
            clauses.append(f"normal: {', '.join(normal)}")
        if clauses:
            lines.append(f"{title}: {'; '.join(clauses)}.")
    return Evidence(findings, lines)


def describe_lab(name: str, reading: dict[str, Any]) -> str:
    """`Creatinine 2.3 mg/dL, high (0.5 to 1.2)`"""
    unit = LABS[name].unit
    low, high = reading["low"], reading["high"]
    limits = (
        f"{low:g} to {high:g}" if None not in (low, high) else f"from {low:g}" if high is None else f"up to {high:g}"
    )
    return f"{name} {reading['value']:g} {unit}, {reading['flag']} ({limits})"
