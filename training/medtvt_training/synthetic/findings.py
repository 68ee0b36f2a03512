# SPDX-License-Identifier: Apache-2.0
"""
Findings of the synthetic cohort: when each is true, the part of a reading that it belongs to, and what it is evidence for.
Names and words are those of `processing_medtvt.findings_medtvt`.
"""

from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

from processing_medtvt.evidence_medtvt import FAR_FACTOR
from processing_medtvt.lab_definitions_medtvt import reference_range
from processing_medtvt.patient_medtvt import Patient

from .signs import EcgSigns, FilmSigns


class Finding(NamedTuple):
    """
    Args:
        group (`str`): part of the reading that it belongs to.
        supports (`tuple[str]`): codes of the diseases that it is evidence for, where the patient has them. Treatments and
            devices are evidence for none.
    """

    group: str
    supports: tuple[str, ...] = ()


class LabRule(NamedTuple):
    """
    Args:
        labs (`tuple[str]`): of which one suffices.
        holds (`Callable`): whether it is so, of a value and the reference range of the patient.
    """

    labs: tuple[str, ...]
    holds: Callable[[float, float, float], bool]


ZONES = {
    "right base": "right lower zone",
    "left base": "left lower zone",
    "right middle": "right mid zone",
    "left middle": "left mid zone",
    "right upper": "right upper zone",
    "left upper": "left upper zone",
}
GROUPS = {
    "ecg": ("rhythm", "conduction and axis", "voltages", "ST-T"),
    "cxr": ("heart and vessels", "lungs", "pleura", "devices"),
    "lab": ("kidney and minerals", "blood sugar", "acid-base and perfusion", "blood cells", "liver and clotting"),
}
TRANSAMINASES = ("Alanine Aminotransferase (ALT)", "Aspartate Aminotransferase (AST)")
FINDINGS = {
    "ecg: sinus rhythm": Finding("rhythm"),
    "ecg: sinus tachycardia": Finding("rhythm"),
    "ecg: sinus bradycardia": Finding("rhythm"),
    "ecg: fibrillation": Finding("rhythm", ("AF",)),
    "ecg: flutter": Finding("rhythm", ("AF",)),
    "ecg: rapid response": Finding("rhythm"),
    "ecg: paced": Finding("rhythm"),
    "ecg: premature atrial beats": Finding("rhythm", ("AF",)),
    "ecg: premature ventricular beats": Finding("rhythm"),
    "ecg: left atrial enlargement": Finding("conduction and axis", ("HTN", "AF")),
    "ecg: prolonged PR": Finding("conduction and axis"),
    "ecg: left bundle branch block": Finding("conduction and axis"),
    "ecg: right bundle branch block": Finding("conduction and axis"),
    "ecg: left axis": Finding("conduction and axis"),
    "ecg: right axis": Finding("conduction and axis"),
    "ecg: prolonged QTc": Finding("conduction and axis"),
    "ecg: LVH voltage": Finding("voltages", ("HTN",)),
    "ecg: strain": Finding("voltages", ("HTN",)),
    "ecg: low voltage": Finding("voltages"),
    "ecg: poor R progression": Finding("voltages"),
    "ecg: inferior Q waves": Finding("ST-T", ("CAD",)),
    "ecg: anterior Q waves": Finding("ST-T", ("CAD",)),
    "ecg: anteroseptal Q waves": Finding("ST-T", ("CAD",)),
    "ecg: septal Q waves": Finding("ST-T", ("CAD",)),
    "ecg: ST elevation": Finding("ST-T", ("CAD",)),
    "ecg: ST depression": Finding("ST-T", ("CAD",)),
    "ecg: lateral T inversion": Finding("ST-T", ("CAD",)),
    "ecg: nonspecific ST-T": Finding("ST-T"),
    "ecg: tented T": Finding("ST-T", ("ARF",)),
    "ecg: U waves": Finding("ST-T"),
    "cxr: normal heart size": Finding("heart and vessels"),
    "cxr: enlarged heart": Finding("heart and vessels", ("HTN", "CAD")),
    "cxr: wide aorta": Finding("heart and vessels", ("HTN",)),
    # the heart first: what fills the lungs is mostly heart failure
    "cxr: edema": Finding("heart and vessels", ("CAD", "HTN", "ARF")),
    "cxr: clear lungs": Finding("lungs"),
    **{f"cxr: {zone} opacity": Finding("lungs", ("PNA",)) for zone in ZONES.values()},
    "cxr: interstitial opacity": Finding("lungs", ("PNA",)),
    "cxr: atelectasis": Finding("lungs"),
    "cxr: hyperinflation": Finding("lungs"),
    "cxr: right effusion": Finding("pleura", ("PNA",)),
    "cxr: left effusion": Finding("pleura", ("PNA",)),
    "cxr: bilateral effusions": Finding("pleura"),
    "cxr: tube": Finding("devices"),
    "cxr: line": Finding("devices"),
    "cxr: pacemaker": Finding("devices"),
    "cxr: sternotomy wires": Finding("devices"),
    "lab: high Creatinine": Finding("kidney and minerals", ("ARF",)),
    "lab: far high Creatinine": Finding("kidney and minerals", ("ARF",)),
    "lab: normal Creatinine": Finding("kidney and minerals"),
    "lab: high Urea Nitrogen": Finding("kidney and minerals", ("ARF",)),
    "lab: high Potassium": Finding("kidney and minerals", ("ARF",)),
    "lab: low Potassium": Finding("kidney and minerals"),
    "lab: low Sodium": Finding("kidney and minerals"),
    "lab: high Phosphate": Finding("kidney and minerals", ("ARF",)),
    "lab: low Calcium, Total": Finding("kidney and minerals"),
    "lab: Glucose above 200": Finding("blood sugar", ("DM",)),
    "lab: Glucose between 140 and 200": Finding("blood sugar"),  # stress raises it as far
    "lab: Glucose below 140": Finding("blood sugar"),
    "lab: low Bicarbonate": Finding("acid-base and perfusion", ("SEP", "ARF")),
    "lab: high Anion Gap": Finding("acid-base and perfusion", ("ARF",)),
    "lab: high Lactate": Finding("acid-base and perfusion", ("SEP",)),
    "lab: low pH": Finding("acid-base and perfusion"),
    "lab: high pH": Finding("acid-base and perfusion"),
    "lab: high pCO2": Finding("acid-base and perfusion"),
    "lab: low pO2": Finding("acid-base and perfusion", ("PNA",)),
    "lab: high White Blood Cells": Finding("blood cells", ("SEP", "PNA")),
    "lab: normal White Blood Cells": Finding("blood cells"),
    "lab: low White Blood Cells": Finding("blood cells", ("SEP",)),
    "lab: Neutrophils above 85": Finding("blood cells", ("SEP", "PNA")),
    "lab: low Platelet Count": Finding("blood cells", ("SEP",)),
    "lab: low Hemoglobin": Finding("blood cells"),
    "lab: low Albumin": Finding("liver and clotting", ("SEP",)),
    "lab: INR(PT) at least 1.8": Finding("liver and clotting"),
    "lab: high Bilirubin, Total": Finding("liver and clotting", ("SEP",)),
    f"lab: high {' or '.join(TRANSAMINASES)}": Finding("liver and clotting"),
    "lab: high Creatine Kinase (CK)": Finding("liver and clotting"),
}


def _low(value: float, low: float, high: float) -> bool:
    return value < low


def _high(value: float, low: float, high: float) -> bool:
    return value > high


def _normal(value: float, low: float, high: float) -> bool:
    return low <= value <= high


LAB_RULES = {
    "lab: high Creatinine": LabRule(("Creatinine",), lambda value, low, high: high < value < FAR_FACTOR * high),
    "lab: far high Creatinine": LabRule(("Creatinine",), lambda value, low, high: value >= FAR_FACTOR * high),
    "lab: Glucose above 200": LabRule(("Glucose",), lambda value, low, high: value > 200),
    "lab: Glucose between 140 and 200": LabRule(("Glucose",), lambda value, low, high: 140 <= value <= 200),
    "lab: Glucose below 140": LabRule(("Glucose",), lambda value, low, high: value < 140),
    "lab: Neutrophils above 85": LabRule(("Neutrophils",), lambda value, low, high: value > 85),
    "lab: INR(PT) at least 1.8": LabRule(("INR(PT)",), lambda value, low, high: value >= 1.8),
    f"lab: high {' or '.join(TRANSAMINASES)}": LabRule(TRANSAMINASES, _high),
}
for _name in FINDINGS:
    if _name.startswith("lab: ") and _name not in LAB_RULES:
        _direction, _lab = _name.removeprefix("lab: ").split(" ", 1)
        LAB_RULES[_name] = LabRule((_lab,), {"low": _low, "high": _high, "normal": _normal}[_direction])
# labs that the findings of a group rest on
GROUP_LABS = {
    group: tuple(
        dict.fromkeys(lab for name, rule in LAB_RULES.items() if FINDINGS[name].group == group for lab in rule.labs)
    )
    for group in GROUPS["lab"]
}


def read_findings(
    ecg: EcgSigns, film: FilmSigns, lab: dict[str, float | None], age: float | None = None, male: bool | None = None
) -> list[str]:
    """
    Names of all findings that a patient's data show, in the order of `FINDINGS`.

    Args:
        lab (`dict[str, float | None]`): values by the names of `LAB_DEFINITIONS`, None where not measured.
        age (`float`, *optional*), male (`bool`, *optional*): choose the reference ranges.
    """
    present = {*_read_ecg(ecg), *_read_film(film), *read_lab_findings(lab, age, male)}
    return [name for name in FINDINGS if name in present]


def supported_diseases(name: str, diseases: Collection[str], findings: Collection[str]) -> list[str]:
    """Codes of those of a patient's diseases that a finding is evidence for, beside the patient's other findings."""
    codes = [code for code in FINDINGS[name].supports if code in diseases]
    if name.endswith("effusion") and not any(
        other.endswith(("zone opacity", "interstitial opacity")) for other in findings
    ):
        return []  # beside an opacity it belongs to pneumonia, alone it says nothing
    return codes


def _read_ecg(ecg: EcgSigns) -> Iterator[str]:
    sinus = ecg.rhythm == "sinus"
    q_waves = f"ecg: {ecg.infarct} Q waves"
    block = ecg.conduction or ""
    yield from (
        name
        for name, present in {
            "ecg: sinus rhythm": sinus and 60 <= ecg.rate <= 100,
            "ecg: sinus tachycardia": sinus and ecg.rate > 100,
            "ecg: sinus bradycardia": sinus and ecg.rate < 60,
            "ecg: fibrillation": ecg.rhythm == "af",
            "ecg: flutter": ecg.rhythm == "flutter",
            "ecg: rapid response": ecg.rhythm == "af" and ecg.rate > 100,
            "ecg: paced": ecg.rhythm == "paced",
            "ecg: premature atrial beats": ecg.pacs > 0,
            "ecg: premature ventricular beats": ecg.pvcs > 0,
            "ecg: left atrial enlargement": sinus and ecg.left_atrium,
            "ecg: prolonged PR": sinus and ecg.pr_ms > 200,
            "ecg: left bundle branch block": block == "lbbb",
            "ecg: right bundle branch block": block.startswith("rbbb"),
            "ecg: left axis": ecg.axis < -30,
            "ecg: right axis": ecg.axis > 90,
            "ecg: prolonged QTc": ecg.qtc_ms > 480,
            "ecg: LVH voltage": ecg.lvh > 0,
            "ecg: strain": ecg.strain,
            "ecg: low voltage": ecg.low_voltage,
            "ecg: poor R progression": ecg.poor_r_progression,
            q_waves: ecg.infarct,
            "ecg: ST elevation": ecg.acute,
            "ecg: ST depression": ecg.ischaemia and ecg.ischaemia != "lateral T",
            "ecg: lateral T inversion": ecg.ischaemia == "lateral T",
            "ecg: nonspecific ST-T": ecg.nonspecific,
            "ecg: tented T": ecg.tented_t,
            "ecg: U waves": ecg.flat_t_u,
        }.items()
        if present
    )


def _read_film(film: FilmSigns) -> Iterator[str]:
    large = film.ctr > (0.51 if film.view == "PA" else 0.545)
    yield "cxr: enlarged heart" if large else "cxr: normal heart size"
    if film.opacity == "interstitial":
        yield "cxr: interstitial opacity"
    elif film.opacity:
        yield from (f"cxr: {ZONES[zone]} opacity" for zone in film.opacity_zones)
    elif not film.oedema:
        yield "cxr: clear lungs"
    if film.effusion:
        yield "cxr: bilateral effusions" if film.effusion == "both" else f"cxr: {film.effusion} effusion"
    named = {"oedema": "edema", "aorta": "wide aorta", "wires": "sternotomy wires"}
    for sign in ("oedema", "atelectasis", "hyperinflation", "aorta", "tube", "line", "pacemaker", "wires"):
        if getattr(film, sign):
            yield f"cxr: {named.get(sign, sign)}"


def read_lab_findings(
    lab: dict[str, float | None], age: float | None = None, male: bool | None = None
) -> Iterator[str]:
    """Names of the findings that labs show."""
    patient = Patient(age=age, sex=None if male is None else "M" if male else "F")
    ranges = {
        name: limits
        for name, value in lab.items()
        if value is not None and None not in (limits := reference_range(name, patient))
    }
    for finding, rule in LAB_RULES.items():
        if any(name in ranges and rule.holds(lab[name], *ranges[name]) for name in rule.labs):
            yield finding
