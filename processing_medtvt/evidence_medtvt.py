# SPDX-License-Identifier: Apache-2.0
"""
The evidence check: what a text says of a patient's data, held against what can be measured in them.

Labs and most of an ECG can be measured; of a film nothing can, reliably. A claim is supported or contradicted only
where the measurement is clear; near a limit it is not checkable. A check says nothing about a diagnosis.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple, TypedDict

from .claims_medtvt import Claim, read_claims
from .ecg_findings_medtvt import RULES, abnormal_ecg, ecg_intervals, judge_ecg
from .lab_definitions_medtvt import LAB_DEFINITIONS, LabDefinition, flag_value, reference_range
from .patient_medtvt import Patient


Status = Literal["supported", "contradicted", "not measured", "not checkable"]
LABS = {lab.name: lab for lab in LAB_DEFINITIONS}
# A value this near to a limit, as a share of the width of the range, is neither in nor out: assays differ by as much
GRAY_SHARE = 0.05
# "Greatly increased" from here on, as a multiple of the upper limit
FAR_FACTOR = 2.0
# How far a cited measure of the ECG may lie from the measured one; beyond twice as far it is wrong
ECG_TOLERANCES = {"heart_rate": 6.0, "pr_ms": 25.0, "qrs_ms": 20.0, "qtc_ms": 30.0}
ECG_UNITS = {"heart_rate": "per minute", "pr_ms": "ms", "qrs_ms": "ms", "qtc_ms": "ms"}
# Upper limits of speech that are not those of the range: a glucose taken at any hour is called high above 140 mg/dL
SPOKEN_LIMITS = {"Glucose": 140.0}
COMPARISONS: dict[str, Callable[[float, Sequence[float]], bool]] = {
    "above": lambda value, limits: value > limits[0],
    "at least": lambda value, limits: value >= limits[0],
    "below": lambda value, limits: value < limits[0],
    "at most": lambda value, limits: value <= limits[0],
    "between": lambda value, limits: limits[0] <= value <= limits[1],
}
# Said with another: a text that names one of the others leaves this one not out
IMPLIED_BY: dict[str, tuple[str, ...]] = {
    "Hematocrit": ("Hemoglobin", "Red Blood Cells"),
    "Red Blood Cells": ("Hemoglobin", "Hematocrit"),
    "Hemoglobin": ("Hematocrit", "Red Blood Cells"),
    "Absolute Neutrophil Count": ("Neutrophils", "White Blood Cells"),
    "Neutrophils": ("Absolute Neutrophil Count", "White Blood Cells"),
    "Lymphocytes": ("Neutrophils", "Absolute Lymphocyte Count"),
    "Absolute Lymphocyte Count": ("Lymphocytes",),
    "Absolute Monocyte Count": ("Monocytes", "White Blood Cells"),
    "PT": ("INR(PT)",),
    "INR(PT)": ("PT",),
    "Calculated Total CO2": ("Bicarbonate",),
    "Base Excess": ("Bicarbonate", "pH"),
    "RDW": ("RDW-SD",),
    "RDW-SD": ("RDW",),
    "MCH": ("MCV",),
    "Alanine Aminotransferase (ALT)": ("Aspartate Aminotransferase (AST)",),
    "Aspartate Aminotransferase (AST)": ("Alanine Aminotransferase (ALT)",),
    "ecg: fibrillation": ("ecg: rapid response",),
    "ecg: rapid response": ("ecg: fibrillation",),
    "ecg: sinus tachycardia": ("ecg: tachycardia",),
    "ecg: sinus bradycardia": ("ecg: bradycardia",),
    "ecg: left bundle branch block": ("ecg: paced",),
}


class Measurements(TypedDict):
    """
    What is known of a patient's data.

    Args:
        ecg (`Mapping[str, float]`, *optional*): as [`measure_ecg`] returns them; None without an ECG.
        lab (`Mapping[str, float]`, *optional*): values by the names of `LAB_DEFINITIONS`, in their units, without those
            that were not measured; None without labs.
        has_cxr (`bool`): whether there is a film.
        patient ([`Patient`]): chooses the reference ranges.
    """

    ecg: Mapping[str, float] | None
    lab: Mapping[str, float] | None
    has_cxr: bool
    patient: Patient


class Statement(TypedDict):
    """
    A claim of the text with its verdict. `measured` says in words what the claim was held against, or why it could not
    be; `conclusion` is what the text concludes from it.
    """

    text: str
    modality: str | None
    finding: str | None
    negated: bool
    status: Status
    measured: str
    conclusion: str


class Unmentioned(TypedDict):
    """An abnormal measurement that the text leaves out."""

    modality: str
    finding: str
    measured: str


class Measurement(TypedDict):
    """A measured value: `low` and `high` are the reference range, and `flag` says how the value lies to it."""

    modality: str
    name: str
    value: float
    unit: str | None
    low: float | None
    high: float | None
    flag: str | None


class Evidence(NamedTuple):
    """What [`check_evidence`] returns."""

    statements: list[Statement]
    unmentioned: list[Unmentioned]


def check_evidence(text: str, measured: Measurements) -> Evidence:
    """
    Holds the statements of a reasoning against measurements, and lists abnormal measurements that it leaves out, the
    gravest first.

    Args:
        text (`str`): a reasoning, without tags.
        measured ([`Measurements`]): of the same patient.
    """
    claims = read_claims(text)
    statements = [_judge(claim, measured) for claim in claims]
    return Evidence(statements, _list_unmentioned(claims, measured))


def list_measurements(measured: Measurements) -> list[Measurement]:
    """The intervals of the ECG, then the labs with the reference ranges of the patient's age and sex."""
    found: list[Measurement] = []
    for name, value in ecg_intervals(measured["ecg"] or {}).items():
        unit = {"heart rate": "per minute", "QRS axis": "degrees"}.get(name, "ms")
        value = float(round(value))
        found.append(Measurement(modality="ecg", name=name, value=value, unit=unit, low=None, high=None, flag=None))
    for name, value in (measured["lab"] or {}).items():
        lab = LABS.get(name)
        low, high = (None, None) if lab is None else reference_range(lab, measured["patient"])
        lab_unit, flag = None if lab is None else lab.unit, flag_value(value, low, high)
        found.append(Measurement(modality="lab", name=name, value=value, unit=lab_unit, low=low, high=high, flag=flag))
    return found


def _judge(claim: Claim, measured: Measurements) -> Statement:
    status: Status
    given = {"ecg": measured["ecg"] is not None, "cxr": measured["has_cxr"], "lab": measured["lab"] is not None}
    if claim.finding is None:
        status, words = "not checkable", "not understood"
    elif not given[str(claim.modality)]:
        names = {"ecg": "no ECG was given", "cxr": "no X-ray was given", "lab": "no labs were given"}
        status, words = "not measured", names[str(claim.modality)]
    elif claim.modality == "cxr":
        status, words = "not checkable", "a film is not measured"
    elif claim.finding == "lab: normal":
        abnormal = _abnormal_labs(measured)
        status = "contradicted" if abnormal else "supported"
        words = abnormal[0][1]["measured"] if abnormal else "all measured labs are in range"
    else:
        holds, words = (
            _measure_lab(claim, measured["lab"] or {}, measured["patient"])
            if claim.labs
            else _measure_ecg(claim, measured)
        )
        if words.endswith("not measured"):
            status = "not measured"
        elif holds is None:
            status = "not checkable"
        else:
            status = "contradicted" if holds == claim.negated else "supported"
    return {
        "text": claim.text,
        "modality": claim.modality,
        "finding": claim.finding,
        "negated": claim.negated,
        "status": status,
        "measured": words,
        "conclusion": claim.conclusion,
    }


def _measure_ecg(claim: Claim, measured: Measurements) -> tuple[bool | None, str]:
    values = measured["ecg"] or {}
    finding = str(claim.finding)
    if claim.relation != "value":
        if finding not in RULES:
            return None, "nothing measures it"
        return judge_ecg(finding, values)
    name = finding.removeprefix("ecg: ")
    value = values.get(name, float("nan"))
    if value != value:
        return None, f"{name.split('_')[0]} not measured"
    away = abs(value - claim.limits[0]) / ECG_TOLERANCES[name]
    return (True if away <= 1 else False if away > 2 else None), f"{value:.0f} {ECG_UNITS[name]}"


def _measure_lab(claim: Claim, values: Mapping[str, float], patient: Patient) -> tuple[bool | None, str]:
    """Of several labs one suffices; all that were measured must speak against the claim to contradict it."""
    known = {name: value for name in claim.labs if (value := values.get(name)) is not None}
    if not known:
        return None, f"{' and '.join(claim.labs)} not measured"
    verdicts = {name: _compare(claim, LABS[name], value, patient) for name, value in known.items()}
    words = "; ".join(describe_lab(LABS[name], known[name], patient) for name in known)
    if True in verdicts.values():
        return True, words
    return (None if None in verdicts.values() else False), words


def _compare(claim: Claim, lab: LabDefinition, value: float, patient: Patient) -> bool | None:
    """Whether what is said of a lab holds; None near a limit, or where the unit is not one of the lab's."""
    if claim.limits:
        factor = 1.0 if claim.unit is None else lab.factor_of(claim.unit)
        if factor is None:
            return None
        limits = [limit / factor for limit in claim.limits]
        if claim.relation in ("above", "below") and value == limits[0]:
            return None  # as rounded
        if claim.relation != "value":
            return COMPARISONS[str(claim.relation)](value, limits)
        # as rounded where it is written
        written = re.search(r"\d+(?:\.(\d+))?", claim.text)
        decimals = len(written[1] or "") if written else 0
        return abs(value - limits[0]) <= max(0.01 * abs(value), 0.51 * 10**-decimals / factor)
    return _compare_range(str(claim.relation), lab, value, patient)


def _compare_range(said: str, lab: LabDefinition, value: float, patient: Patient) -> bool | None:
    low, high = reference_range(lab, patient)
    if low is None or high is None:
        return None
    gray = GRAY_SHARE * (high - low)
    spoken = SPOKEN_LIMITS.get(lab.name, high)
    if said == "far high":
        return True if value >= FAR_FACTOR * spoken else False if value <= spoken else None
    # what lies between the range and the spoken limit is called either way
    is_high = True if value > spoken + gray else False if value < high - gray else None
    is_low = True if value < low - gray else False if value > low + gray else None
    if said == "high":
        return is_high
    if said == "low":
        return is_low
    return False if True in (is_high, is_low) else None if None in (is_high, is_low) else True


def describe_lab(lab: LabDefinition, value: float, patient: Patient | None = None) -> str:
    """`Creatinine 3.1 mg/dL, high (0.5 to 1.2)`"""
    low, high = reference_range(lab, patient)
    flag = flag_value(value, low, high)
    unit = "" if lab.unit in (None, "units", "ratio") else f" {lab.unit}"
    limits = "" if flag is None else f", {flag} ({low:g} to {high:g})"
    return f"{lab.name} {value:g}{unit}{limits}"


def _list_unmentioned(claims: Sequence[Claim], measured: Measurements) -> list[Unmentioned]:
    said = {name for claim in claims for name in (*claim.labs, claim.finding)}
    said |= {name for name, others in IMPLIED_BY.items() if said.intersection(others)}
    found = [entry for entry in _abnormal_labs(measured) if entry[1]["finding"].split(" ", 2)[2] not in said]
    for place, (finding, words) in enumerate(abnormal_ecg(measured["ecg"] or {})):
        if finding not in said:
            found.append((1 - place / 100, {"modality": "ecg", "finding": finding, "measured": words}))
    return [entry for _, entry in sorted(found, key=lambda pair: -pair[0])]


def _abnormal_labs(measured: Measurements) -> list[tuple[float, Unmentioned]]:
    """Labs clearly out of their range, the farthest first, each with how far."""
    patient, found = measured["patient"], []
    for name, value in (measured["lab"] or {}).items():
        distance = _distance(LABS[name], value, patient) if name in LABS else 0.0
        if distance > 0:
            flag = flag_value(value, *reference_range(LABS[name], patient))
            entry: Unmentioned = {
                "modality": "lab",
                "finding": f"lab: {flag} {name}",
                "measured": describe_lab(LABS[name], value, patient),
            }
            found.append((distance, entry))
    return sorted(found, key=lambda pair: -pair[0])


def _distance(lab: LabDefinition, value: float, patient: Patient) -> float:
    """How far beyond its range a value lies, in widths of the range; 0 inside and near a limit."""
    low, high = reference_range(lab, patient)
    if low is None or high is None:
        return 0.0
    beyond = max(value - SPOKEN_LIMITS.get(lab.name, high), low - value) / (high - low)
    return max(beyond - GRAY_SHARE, 0.0)


__all__ = [
    "Evidence",
    "Measurement",
    "Measurements",
    "Statement",
    "Unmentioned",
    "check_evidence",
    "describe_lab",
    "list_measurements",
]
