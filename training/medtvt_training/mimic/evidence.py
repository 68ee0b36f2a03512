# SPDX-License-Identifier: Apache-2.0
"""What an admission's data show, as findings by name and as lines for a teacher, and which disease a finding supports."""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from modeling_medtvt import DISEASES
from processing_medtvt.claims_medtvt import Claim, read_claims

from ..data.conversation import MODALITIES
from ..data.rows import Modality
from .ecg_statements import GROUPS, group_of, is_summary
from .lab_flags import LAB_GROUPS, LABS, SPECIMEN_INDICES


TITLES: dict[Modality, str] = {"ecg": "ECG", "cxr": "CXR", "lab": "Labs"}


class Evidence(NamedTuple):
    """
    One modality of an admission.

    Args:
        findings (`list[str]`): names of `processing_medtvt.findings_medtvt`, as in `"lab: high Creatinine"`; where a
            statement is not understood, the modality and its words.
        statements (`list[str]`): what is to be said of it, in the words of its source.
        lines (`list[str]`): all that a teacher gets to read.
    """

    findings: list[str]
    statements: list[str]
    lines: list[str]


_MEASURES = {
    "rate": "ventricular rate {:g} per minute",
    "pr": "PR interval {:g} ms",
    "qrs": "QRS duration {:g} ms",
    "qt": "QT interval {:g} ms",
    "qrs_axis": "QRS axis {:g} degrees",
}
# Findings that are evidence for a disease where the admission has it: signs of every textbook, never a treatment or a
# device. The fifty labs hold no troponin, HbA1c or procalcitonin.
SUPPORTS = {
    "Coronary Artery Disease": r"ecg: (.* Q waves|infarct|ischemia|ST elevation|ST depression)|cxr: edema",
    "Acute Renal Failure": (
        r"lab: high (Creatinine|Urea Nitrogen|Potassium|Phosphate|Anion Gap)|lab: low Bicarbonate|ecg: tented T"
    ),
    "Hypertension": r"ecg: (LVH voltage|strain|left atrial enlargement)|cxr: (enlarged heart|edema)",
    "Atrial Fibrillation": r"ecg: (fibrillation|flutter)",
    "Pneumonia": r"cxr: (possible )?(pneumonia|.*opacity)|lab: high (White Blood Cells|Neutrophils)|lab: low pO2",
    "Diabetes Mellitus": r"lab: high Glucose",
    "Sepsis": (
        r"lab: high (Lactate|White Blood Cells|Absolute Neutrophil|Immature Granulocytes|Bilirubin)"
        r"|lab: low (White Blood Cells|Platelet|Albumin)"
    ),
}


def supported_diseases(modality: Modality, statement: str, diseases: list[str]) -> list[str]:
    """Those of the diseases that a statement is evidence for."""
    names = name_findings(modality, [statement])
    return [
        disease
        for disease in DISEASES
        if disease in diseases and any(re.match(SUPPORTS[disease], name) for name in names)
    ]


def read_evidence(modality: Modality, texts: Sequence[str]) -> list[Claim]:
    """What texts about one modality claim, bare values left out."""
    claims = [claim for text in texts for claim in read_claims(f"{TITLES[modality]}: {text}.")]
    return [claim for claim in claims if claim.relation != "value"]


def name_findings(modality: Modality, statements: Sequence[str]) -> list[str]:
    """Names of the findings that statements state; a statement that is not understood keeps its words as its name."""
    names = []
    for statement in statements:
        claims = [claim for claim in read_evidence(modality, [statement]) if claim.finding]
        names += (
            [str(claim.finding) for claim in claims if not claim.negated] if claims else [f"{modality}: {statement}"]
        )
    return list(dict.fromkeys(names))


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
    return Evidence(name_findings("ecg", statements), statements, lines)


def _read_cxr(row: dict[str, Any]) -> Evidence:
    labels = {name.lower(): value for name, value in row["cxr_labels"].items() if value is not None}
    present = [name for name, value in labels.items() if value == 1]
    possible = [name for name, value in labels.items() if value == -1]
    absent = [name for name, value in labels.items() if value == 0]
    lines = [row["cxr_report"]] if row["cxr_report"] else []
    for title, names in (("Present", present), ("Possible", possible)):
        if names:
            lines.append(f"{title}: {', '.join(names)}.")
    if absent:  # "no effusion, edema or fracture"
        lines.append(f"No {' or '.join(filter(None, (', '.join(absent[:-1]), absent[-1])))}.")
    statements = [*present, *(f"possible {name}" for name in possible)]
    return Evidence(name_findings("cxr", statements), statements, lines)


def _read_lab(row: dict[str, Any]) -> Evidence:
    statements, lines = [], []
    labs = {name: reading for name, reading in row["labs"].items() if reading and name not in SPECIMEN_INDICES}
    for group, title in LAB_GROUPS.items():
        of_group = {name: reading for name, reading in labs.items() if LABS[name].group == group}
        abnormal = {name: reading for name, reading in of_group.items() if reading["flag"] in ("low", "high")}
        normal = [name for name, reading in of_group.items() if reading["flag"] == "normal"]
        statements += [f"{reading['flag']} {name}" for name, reading in abnormal.items()]
        clauses = [describe_lab(name, reading) for name, reading in abnormal.items()]
        if normal:
            clauses.append(f"normal: {', '.join(normal)}")
        if clauses:
            lines.append(f"{title}: {'; '.join(clauses)}.")
    return Evidence([f"lab: {statement}" for statement in statements], statements, lines)


def describe_lab(name: str, reading: dict[str, Any]) -> str:
    """`Creatinine 2.3 mg/dL, high (0.5 to 1.2)`"""
    unit = "" if LABS[name].unit in (None, "units", "ratio") else f" {LABS[name].unit}"
    low, high = reading["low"], reading["high"]
    limits = (
        f"{low:g} to {high:g}" if None not in (low, high) else f"from {low:g}" if high is None else f"up to {high:g}"
    )
    return f"{name} {reading['value']:g}{unit}, {reading['flag']} ({limits})"
