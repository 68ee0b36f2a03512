# SPDX-License-Identifier: Apache-2.0
"""
Findings: what a reader may say about an ECG, a film or a panel of the synthetic cohort, when it is true, and in which
words. The words are unambiguous, so that a text can be checked against the patient: see `cited_findings`. Names and
phrases keep their British spelling: released weights and datasets hold them.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from .signs import EcgSigns, FilmSigns


class Finding(NamedTuple):
    """
    Args:
        group (`str`): part of the reading that it belongs to.
        phrases (`tuple[str]`): wordings; no phrase of one finding occurs within another's.
        supports (`tuple[str]`): codes of the diseases that it is evidence for, where the patient has them.
    """

    group: str
    phrases: tuple[str, ...]
    supports: tuple[str, ...] = ()


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
    "lab": ("kidney and minerals", "glucose", "acid-base and perfusion", "blood cells", "liver and clotting"),
}
# Names begin with the modality that shows them.
FINDINGS = {
    "ecg: sinus rhythm": Finding("rhythm", ("sinus rhythm at a normal rate", "regular sinus beats, normal rate")),
    "ecg: sinus tachycardia": Finding("rhythm", ("sinus tachycardia", "fast sinus rate above 100")),
    "ecg: sinus bradycardia": Finding("rhythm", ("sinus bradycardia", "slow sinus rate below 60")),
    "ecg: fibrillation": Finding(
        "rhythm", ("irregularly irregular beats without P waves", "no P waves, RR intervals wholly irregular"), ("AF",)
    ),
    "ecg: flutter": Finding("rhythm", ("sawtooth flutter waves, 2:1", "flutter waves at 300, conducted 2:1"), ("AF",)),
    "ecg: rapid response": Finding("rhythm", ("rapid ventricular response", "ventricles above 100")),
    "ecg: paced": Finding("rhythm", ("ventricular pacing", "paced rhythm")),
    "ecg: premature atrial beats": Finding("rhythm", ("premature atrial beats", "early atrial beats"), ("AF",)),
    "ecg: premature ventricular beats": Finding("rhythm", ("premature ventricular beats", "wide early beats")),
    "ecg: left atrial enlargement": Finding(
        "conduction and axis", ("broad P waves of the left atrium", "P terminal force in V1")
    ),
    "ecg: prolonged PR": Finding("conduction and axis", ("PR above 200 ms", "first degree AV delay")),
    "ecg: left bundle branch block": Finding("conduction and axis", ("left bundle branch block", "LBBB")),
    "ecg: right bundle branch block": Finding("conduction and axis", ("right bundle branch block", "RBBB")),
    "ecg: left axis": Finding("conduction and axis", ("left axis deviation", "axis turned left")),
    "ecg: right axis": Finding("conduction and axis", ("right axis deviation", "axis turned right")),
    "ecg: prolonged QTc": Finding("conduction and axis", ("prolonged QTc", "QTc above 480 ms")),
    "ecg: LVH voltage": Finding("voltages", ("LVH voltage", "voltages of a thick left ventricle"), ("HTN",)),
    "ecg: strain": Finding("voltages", ("strain pattern", "lateral repolarisation strain"), ("HTN",)),
    "ecg: low voltage": Finding("voltages", ("low QRS voltage", "small QRS complexes")),
    "ecg: poor R progression": Finding("voltages", ("poor R wave progression", "R waves slow to grow up to V3")),
    "ecg: inferior Q waves": Finding("ST-T", ("Q waves in II, III, aVF", "old inferior infarct"), ("CAD",)),
    "ecg: anterior Q waves": Finding("ST-T", ("Q waves in V3-V4", "old anterior infarct"), ("CAD",)),
    "ecg: anteroseptal Q waves": Finding("ST-T", ("Q waves in V1-V4", "old anteroseptal infarct"), ("CAD",)),
    "ecg: septal Q waves": Finding("ST-T", ("Q waves in V1-V2", "old septal infarct"), ("CAD",)),
    "ecg: ST elevation": Finding("ST-T", ("ST elevation with reciprocal depression", "acute ST elevation"), ("CAD",)),
    "ecg: ST depression": Finding("ST-T", ("horizontal ST depression", "ischaemic ST depression"), ("CAD",)),
    "ecg: lateral T inversion": Finding("ST-T", ("lateral T inversion", "inverted T in V5-V6"), ("CAD",)),
    "ecg: nonspecific ST-T": Finding("ST-T", ("nonspecific ST-T changes", "slight ST-T changes, nonspecific")),
    "ecg: tented T": Finding("ST-T", ("tented T waves", "tall narrow T waves"), ("ARF",)),
    "ecg: U waves": Finding("ST-T", ("flat T with U waves", "prominent U waves")),
    "cxr: normal heart size": Finding("heart and vessels", ("heart not enlarged", "normal heart size")),
    "cxr: enlarged heart": Finding(
        "heart and vessels", ("enlarged heart", "cardiothoracic ratio above the limit"), ("HTN", "CAD", "AF")
    ),
    "cxr: wide aorta": Finding("heart and vessels", ("wide calcified aorta", "unfolded aorta"), ("HTN",)),
    "cxr: oedema": Finding("lungs", ("pulmonary oedema", "Kerley lines and upper vessel distension"), ("ARF",)),
    "cxr: clear lungs": Finding("lungs", ("clear lungs", "no opacity in the lungs")),
    **{
        f"cxr: {zone} opacity": Finding("lungs", (f"{zone} opacity", f"shadowing of the {zone}"), ("PNA",))
        for zone in ZONES.values()
    },
    "cxr: interstitial opacity": Finding(
        "lungs", ("interstitial opacities on both sides", "reticular shadowing of both lungs"), ("PNA",)
    ),
    "cxr: atelectasis": Finding("lungs", ("basal atelectasis", "linear bands at the base")),
    "cxr: hyperinflation": Finding("lungs", ("hyperinflated lungs", "low flat diaphragms")),
    "cxr: right effusion": Finding("pleura", ("right pleural effusion", "blunt right costophrenic angle"), ("PNA",)),
    "cxr: left effusion": Finding("pleura", ("left pleural effusion", "blunt left costophrenic angle"), ("PNA",)),
    "cxr: bilateral effusions": Finding("pleura", ("bilateral pleural effusions", "both costophrenic angles blunt")),
    "cxr: tube": Finding("devices", ("endotracheal tube", "tube in the trachea")),
    "cxr: line": Finding("devices", ("central venous line", "venous catheter in the superior vena cava")),
    "cxr: pacemaker": Finding("devices", ("pacemaker below the clavicle", "implanted pacemaker"), ("AF",)),
    "cxr: sternotomy wires": Finding("devices", ("sternotomy wires", "wires of a prior bypass operation"), ("CAD",)),
    "lab: high creatinine": Finding("kidney and minerals", ("raised creatinine", "creatinine above range"), ("ARF",)),
    "lab: very high creatinine": Finding(
        "kidney and minerals", ("greatly increased creatinine", "creatinine far beyond range"), ("ARF",)
    ),
    "lab: normal creatinine": Finding("kidney and minerals", ("normal creatinine", "creatinine within range")),
    "lab: high urea": Finding("kidney and minerals", ("raised urea nitrogen", "urea nitrogen above range"), ("ARF",)),
    "lab: high potassium": Finding("kidney and minerals", ("hyperkalaemia", "raised potassium"), ("ARF",)),
    "lab: low potassium": Finding("kidney and minerals", ("hypokalaemia", "low potassium")),
    "lab: low sodium": Finding("kidney and minerals", ("hyponatraemia", "low sodium")),
    "lab: high phosphate": Finding("kidney and minerals", ("raised phosphate", "phosphate above range"), ("ARF",)),
    "lab: low calcium": Finding("kidney and minerals", ("low calcium", "hypocalcaemia")),
    "lab: high glucose": Finding("glucose", ("glucose above 200", "frank hyperglycaemia"), ("DM",)),
    "lab: raised glucose": Finding("glucose", ("glucose of 140 to 200", "moderate hyperglycaemia"), ("DM",)),
    "lab: normal glucose": Finding("glucose", ("glucose below 140", "no hyperglycaemia")),
    "lab: low bicarbonate": Finding(
        "acid-base and perfusion", ("low bicarbonate", "bicarbonate below 20"), ("SEP", "ARF")
    ),
    "lab: wide gap": Finding("acid-base and perfusion", ("wide anion gap", "anion gap above 20"), ("ARF",)),
    "lab: high lactate": Finding("acid-base and perfusion", ("raised lactate", "lactate above 2"), ("SEP",)),
    "lab: low pH": Finding("acid-base and perfusion", ("acidaemia", "pH below 7.30")),
    "lab: low pO2": Finding("acid-base and perfusion", ("low pO2", "pO2 below 60"), ("PNA",)),
    "lab: leucocytosis": Finding("blood cells", ("leucocytosis", "white cells above 12"), ("SEP", "PNA")),
    "lab: normal white cells": Finding("blood cells", ("white cells in range", "normal white count")),
    "lab: low white cells": Finding("blood cells", ("leucopenia", "white cells below 4")),
    "lab: neutrophilia": Finding("blood cells", ("neutrophils above 85%", "marked neutrophil shift"), ("SEP", "PNA")),
    "lab: low platelets": Finding("blood cells", ("low platelets", "thrombocytopenia"), ("SEP",)),
    "lab: anaemia": Finding("blood cells", ("anaemia", "haemoglobin below 10")),
    "lab: low albumin": Finding("liver and clotting", ("low albumin", "albumin below 3"), ("SEP",)),
    "lab: high INR": Finding("liver and clotting", ("INR of 1.8 or more", "INR as under anticoagulation"), ("AF",)),
    "lab: high bilirubin": Finding("liver and clotting", ("raised bilirubin", "bilirubin above 2"), ("SEP",)),
    "lab: high transaminases": Finding("liver and clotting", ("raised transaminases", "ALT or AST above 100")),
    "lab: high CK": Finding("liver and clotting", ("raised creatine kinase", "creatine kinase above 400"), ("CAD",)),
}
NORMAL = {
    name for name in FINDINGS if name.startswith(("ecg: sinus rhythm", "cxr: normal", "cxr: clear", "lab: normal"))
}
_NAME_OF_PHRASE = {phrase.lower(): name for name, finding in FINDINGS.items() for phrase in finding.phrases}
# longest first, so that a phrase is never taken for a part of it
_PHRASES = re.compile(
    "|".join(rf"(?<!\w){re.escape(p)}(?!\w)" for p in sorted(_NAME_OF_PHRASE, key=len, reverse=True)), re.IGNORECASE
)
# laboratory findings: (name of the lab, lowest and highest value, finding)
_LAB_RULES = (
    ("Creatinine", 2.5, None, "lab: very high creatinine"),
    ("Creatinine", 1.35, 2.5, "lab: high creatinine"),
    ("Creatinine", None, 1.2, "lab: normal creatinine"),
    ("Urea Nitrogen", 26, None, "lab: high urea"),
    ("Potassium", 5.5, None, "lab: high potassium"),
    ("Potassium", None, 3.3, "lab: low potassium"),
    ("Sodium", None, 131, "lab: low sodium"),
    ("Phosphate", 4.6, None, "lab: high phosphate"),
    ("Calcium, Total", None, 7.9, "lab: low calcium"),
    ("Glucose", 200, None, "lab: high glucose"),
    ("Glucose", 140, 200, "lab: raised glucose"),
    ("Glucose", None, 140, "lab: normal glucose"),
    ("Bicarbonate", None, 20, "lab: low bicarbonate"),
    ("Anion Gap", 21, None, "lab: wide gap"),
    ("Lactate", 2.1, None, "lab: high lactate"),
    ("pH", None, 7.3, "lab: low pH"),
    ("pO2", None, 60, "lab: low pO2"),
    ("White Blood Cells", 12, None, "lab: leucocytosis"),
    ("White Blood Cells", 4, 11, "lab: normal white cells"),
    ("White Blood Cells", None, 4, "lab: low white cells"),
    ("Neutrophils", 85, None, "lab: neutrophilia"),
    ("Platelet Count", None, 150, "lab: low platelets"),
    ("Hemoglobin", None, 10, "lab: anaemia"),
    ("Albumin", None, 3, "lab: low albumin"),
    ("INR(PT)", 1.8, None, "lab: high INR"),
    ("Bilirubin, Total", 2, None, "lab: high bilirubin"),
    ("Alanine Aminotransferase (ALT)", 100, None, "lab: high transaminases"),
    ("Aspartate Aminotransferase (AST)", 100, None, "lab: high transaminases"),
    ("Creatine Kinase (CK)", 400, None, "lab: high CK"),
)


def cited_findings(text: str) -> set[str]:
    """Names of the findings that a text states in the cohort's words; case does not matter."""
    return {_NAME_OF_PHRASE[match.lower()] for match in _PHRASES.findall(text)}


def read_findings(ecg: EcgSigns, film: FilmSigns, lab: dict[str, float | None]) -> list[str]:
    """Names of all findings that a patient's data show, in the order of `FINDINGS`."""
    present = {*_read_ecg(ecg), *_read_film(film), *_read_lab(lab)}
    return [name for name in FINDINGS if name in present]


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
    named = {"aorta": "wide aorta", "wires": "sternotomy wires"}
    for sign in ("oedema", "atelectasis", "hyperinflation", "aorta", "tube", "line", "pacemaker", "wires"):
        if getattr(film, sign):
            yield f"cxr: {named.get(sign, sign)}"


def _read_lab(lab: dict[str, float | None]) -> Iterator[str]:
    for name, low, high, finding in _LAB_RULES:
        value = lab[name]
        # the lower bound belongs to what is high, the upper one to nothing
        if value is not None and (low is None or value >= low) and (high is None or value < high):
            yield finding
