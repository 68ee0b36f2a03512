# SPDX-License-Identifier: Apache-2.0
"""The fifty laboratory values of a patient: causes, identities between analytes, assay noise and missing panels."""

import numpy as np

from processing_medtvt import LAB_DEFINITIONS
from processing_medtvt.lab_definitions_medtvt import LabDefinition

from .causes import Causes


DECIMALS = {"pH": 2, "Red Blood Cells": 2, "Absolute Basophil Count": 2, "Absolute Eosinophil Count": 2}
WHOLE = {
    *("Sodium", "Chloride", "Bicarbonate", "Anion Gap", "Glucose", "Urea Nitrogen", "Platelet Count", "MCV"),
    *("Base Excess", "Calculated Total CO2", "pCO2", "pO2", "Creatine Kinase (CK)"),
    *("Alanine Aminotransferase (ALT)", "Aspartate Aminotransferase (AST)", "Alkaline Phosphatase"),
    *("H (hemolysis index, inferred)", "I (icterus index, inferred)", "L (lipemia index, inferred)"),
}
# coefficient of variation of the assay
ASSAY = {
    **dict.fromkeys(("Sodium", "Chloride"), 0.008),
    **dict.fromkeys(("Potassium", "Hemoglobin"), 0.012),
    **dict.fromkeys(("Calcium, Total", "Glucose"), 0.02),
    **dict.fromkeys(("Creatinine", "Urea Nitrogen", "White Blood Cells"), 0.03),
    **dict.fromkeys(("Bicarbonate", "Platelet Count", "INR(PT)"), 0.04),
    **dict.fromkeys(("Bilirubin, Total", "Creatine Kinase (CK)", "Alkaline Phosphatase"), 0.04),
    **dict.fromkeys(("Alanine Aminotransferase (ALT)", "Aspartate Aminotransferase (AST)"), 0.04),
}
GASES = ("pH", "pCO2", "pO2", "Base Excess", "Calculated Total CO2")
DIFFERENTIAL = ("Neutrophils", "Lymphocytes", "Monocytes", "Eosinophils", "Basophils")
ABSOLUTE = {name: f"Absolute {name[:-1]} Count" for name in DIFFERENTIAL}
INDICES = ("H (hemolysis index, inferred)", "I (icterus index, inferred)", "L (lipemia index, inferred)")
# Panels go missing whole: share of patients with and without sepsis in whom they are measured. A gas is also drawn
# where pneumonia leaves a patient short of breath.
PANELS = {
    GASES: (0.76, 0.32),
    ("Alanine Aminotransferase (ALT)", "Aspartate Aminotransferase (AST)", "Bilirubin, Total"): (0.94, 0.59),
    ("Albumin",): (0.82, 0.48),
    DIFFERENTIAL: (0.93, 0.79),
    ("Creatine Kinase (CK)",): (0.56, 0.30),
    ("PT", "INR(PT)"): (0.92, 0.82),
    ("PTT",): (0.90, 0.80),
    ("Calcium, Total", "Phosphate"): (0.95, 0.865),
    ("Magnesium",): (0.95, 0.875),
    INDICES: (0.105, 0.105),
    ("RDW-SD",): (0.42, 0.42),
}
GAS_IN_PNEUMONIA = 0.62
LACTATE_WITH_GAS, LACTATE_WITHOUT_GAS = 0.93, 0.35


def draw_labs(rng: np.random.Generator, causes: Causes) -> tuple[dict[str, float | None], dict[str, float]]:
    """
    Draws a panel.

    Returns:
        `tuple`: the measured values by the names of `LAB_DEFINITIONS`, rounded as a laboratory prints them, None where not
        measured; and the true values in the blood of what acts on the ECG (`Potassium`, `Calcium, Total`).
    """
    true = _blood(rng, causes)
    blood = {name: true[name] for name in ("Potassium", "Calcium, Total")}
    if "HAEMOLYSIS" in causes:  # in the tube, not in the patient
        true["Potassium"] += abs(rng.normal(0, 1.2))
        true["H (hemolysis index, inferred)"] *= 8
    measured = {name: value * (1 + ASSAY.get(name, 0) * rng.normal()) for name, value in true.items()}
    measured = _derive(measured)
    sepsis = causes.active("SEP")
    missing: set[str] = set()
    with_gas = True
    for panel, (in_sepsis, otherwise) in PANELS.items():
        share = in_sepsis if sepsis else otherwise
        if panel is GASES and causes.active("PNA"):
            share = max(share, GAS_IN_PNEUMONIA)
        if rng.random() >= share:
            missing.update(panel)
            with_gas &= panel is not GASES
    if rng.random() >= (LACTATE_WITH_GAS if with_gas else LACTATE_WITHOUT_GAS):
        missing.add("Lactate")
    # further down the same order form
    has_differential, has_liver = "Neutrophils" not in missing, "Albumin" not in missing
    if rng.random() >= 0.4 or not has_differential:
        missing.update(ABSOLUTE.values())
    if rng.random() >= 0.34 or not has_differential:
        missing.add("Immature Granulocytes")
    if "Bilirubin, Total" in missing and not (has_liver and rng.random() < 0.1):
        missing.add("Alkaline Phosphatase")
    if rng.random() < 0.01:  # nothing but a gas, or a clotted tube
        missing.update(rng.permutation([lab.name for lab in LAB_DEFINITIONS])[:20])
    return {
        lab.name: None if lab.name in missing else _print(lab, measured[lab.name]) for lab in LAB_DEFINITIONS
    }, blood


def _print(lab: LabDefinition, value: float) -> float:
    if lab.plausible_low is not None and lab.plausible_high is not None:
        value = min(max(value, lab.plausible_low), lab.plausible_high)
    return round(float(value), 0 if lab.name in WHOLE else DECIMALS.get(lab.name, 1))


class _Draws:
    """Random numbers of one patient. Their order is part of the cohort: the same seed must give the same patient."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self._normal, self._half_normal = iter(rng.normal(size=40)), iter(np.abs(rng.normal(size=12)))

    def normal(self) -> float:
        return next(self._normal)

    def half_normal(self) -> float:
        return next(self._half_normal)

    def ln(self, median: float, spread: float) -> float:
        return float(median * np.exp(spread * self.normal()))

    def gaussian(self, mean: float, spread: float) -> float:
        return float(mean + spread * self.normal())


def _blood(rng: np.random.Generator, causes: Causes) -> dict[str, float]:
    """Independent analytes as they are in the blood. The order of the names is that in which assay noise is drawn."""
    draws = _Draws(rng)
    ln, gaussian = draws.ln, draws.gaussian
    decades = causes.decades
    # sterile inflammation acts as a little less sepsis
    inflamed = max(causes.s("SEP"), 0.85 * causes.s("INF"))
    kidney = _kidney(draws, causes)
    renal = max(np.log(kidney["Creatinine"]), 0)
    acids, glucose = _metabolism(draws, causes, renal, inflamed)
    albumin = gaussian(3.6, 0.55) - 0.06 * decades - 0.8 * inflamed - 0.15 * causes.active("PNA")
    inr = ln(2.2, 0.35) if "WARFARIN" in causes.treated else ln(1.14, 0.14) + 0.15 * draws.half_normal()
    liver = draws.normal()
    # lungs that fail retain far more than fast breathing blows off
    z = draws.normal()
    breathing = np.exp((0.22 if z > 0 else 0.08) * z) * (1.12 if "COPD" in causes else 1)
    carbon_dioxide = 41 * (max(acids["Bicarbonate"], 5) / 24) ** 0.6 * breathing
    return {
        **kidney,
        **acids,
        "Phosphate": max(gaussian(3.4, 0.8) + 0.7 * renal, 1.0),
        "Glucose": glucose,
        "Sodium": gaussian(137.6, 3.6) - 1.6 * (glucose - 112) / 100 + 1.5 * ("DEHYDRATION" in causes),
        "Magnesium": ln(1.9, 0.15),
        "Albumin": float(np.clip(albumin, 1.2, 5.3)),
        "Calcium, Total": gaussian(8.8, 0.6) + 0.8 * (albumin - 3.6) - 0.5 * inflamed,
        **_white_cells(draws, causes, inflamed),
        "Platelet Count": ln(215, 0.4) * np.exp(-0.5 * inflamed),
        "INR(PT)": inr * np.exp(0.3 * inflamed),
        "PTT": ln(30, 0.18),
        "Creatine Kinase (CK)": ln(90, 1.0) * (5 if "ACUTE_MI" in causes else 1),
        **_red_cells(draws, causes, inflamed),
        "Alanine Aminotransferase (ALT)": float(27 * np.exp(0.75 * liver)),
        "Aspartate Aminotransferase (AST)": float(35 * np.exp(0.74 * (0.8 * liver + 0.6 * draws.normal()))),
        "Alkaline Phosphatase": ln(93, 0.36),
        "Bilirubin, Total": ln(0.5, 0.8) * np.exp(0.5 * inflamed),
        "pCO2": carbon_dioxide,
        "pO2": ln(102, 0.7) * (0.7 if causes.active("PNA") else 1),
        "H (hemolysis index, inferred)": ln(13, 0.7),
        "I (icterus index, inferred)": ln(1, 0.5),
        "L (lipemia index, inferred)": ln(12, 0.5),
    }


def _kidney(draws: _Draws, causes: Causes) -> dict[str, float]:
    decades, arf = causes.decades, causes.s("ARF")
    ckd, esrd, dry = "CKD" in causes, "ESRD" in causes, "DEHYDRATION" in causes
    creatinine = draws.ln(0.92 if causes.male else 0.74, 0.24) * 1.03**decades
    creatinine *= np.exp((0.35 if esrd else 1.15) * arf)
    creatinine *= (1.5 if ckd else 1) * (3.2 if esrd else 1) * (1.13 if dry else 1)
    urea = 14.5 * 1.05**decades * (creatinine / 0.85) ** 0.65 * draws.ln(1, 0.3)
    urea *= 1.28 if dry else 1
    urea *= 1.2 if "HF" in causes else 1
    z = draws.normal()
    potassium = 4.1 + 0.45 * z + 0.2 * max(z, 0) ** 2
    for acts, shift in ((causes.active("ARF"), 0.2), (esrd, 0.3)):
        half_normal = draws.half_normal()
        potassium += (shift + 0.5 * half_normal) * acts
    return {"Creatinine": creatinine, "Urea Nitrogen": urea, "Potassium": potassium}


def _metabolism(draws: _Draws, causes: Causes, renal: float, inflamed: float) -> tuple[dict[str, float], float]:
    """Lactate, bicarbonate and anion gap; and glucose."""
    lactate = draws.ln(1.6, 0.42) * np.exp(0.6 * inflamed)
    excess = max(lactate - 2, 0)
    shared = draws.normal()  # bicarbonate and gap mirror each other
    bicarbonate = 25.3 + 3.4 * shared - 2.3 * renal - 3.5 * inflamed - 0.8 * excess + 1.5 * ("COPD" in causes)
    gap = 14.3 + 2.6 * (-0.45 * shared + 0.89 * draws.normal()) + 1.9 * renal + 0.8 * excess
    z = draws.normal()
    if "DM" in causes and "DM" not in causes.treated:
        glucose = 205 * np.exp(0.4 * z)
    else:
        median = 122 if "DM" in causes else 112
        glucose = median * np.exp((0.38 if z > 0 else 0.2) * z)
    glucose *= 1.13 if inflamed else 1
    if "DM" in causes and draws.rng.random() < 0.01:  # ketoacidosis
        glucose, bicarbonate, gap = 480 * np.exp(0.2 * z), draws.gaussian(12, 2), draws.gaussian(25, 2)
    return {"Lactate": lactate, "Bicarbonate": max(bicarbonate, 4.0), "Anion Gap": max(gap, 5.0)}, glucose


def _white_cells(draws: _Draws, causes: Causes, inflamed: float) -> dict[str, float]:
    sep, pna = causes.s("SEP"), causes.s("PNA")
    return {
        "White Blood Cells": draws.ln(8.6, 0.4) * np.exp(1.1 * inflamed + 0.3 * pna),
        "Neutrophils": float(np.clip(draws.gaussian(70, 11) + 22 * inflamed + 10 * pna, 15, 96)),
        "Monocytes": draws.ln(6.7, 0.45),
        "Eosinophils": draws.ln(0.9, 1.1),
        "Basophils": draws.ln(0.3, 0.6),
        "Immature Granulocytes": draws.ln(0.5, 0.41) * (1 + (sep > 0)),
    }


def _red_cells(draws: _Draws, causes: Causes, inflamed: float) -> dict[str, float]:
    decades = causes.decades
    hemoglobin = draws.gaussian(11.7, 2.1) - 0.25 * decades - 1.1 * ("CKD" in causes) - 0.4 * bool(inflamed)
    return {
        "Hemoglobin": float(np.clip(hemoglobin, 5, 18.5)),
        "MCV": draws.gaussian(91, 7),
        "MCHC": draws.gaussian(32.6, 1.4),
        "RDW": draws.ln(14.6, 0.13) * 1.012**decades,
    }


def _derive(lab: dict[str, float]) -> dict[str, float]:
    """What a laboratory calculates from its measurements."""
    ph = 6.1 + np.log10(lab["Bicarbonate"] / (0.03 * lab["pCO2"]))
    hematocrit = 100 * lab["Hemoglobin"] / lab["MCHC"]
    others = lab["Monocytes"] + lab["Eosinophils"] + lab["Basophils"]
    # the five shares make a hundred, and neutrophils keep what they were drawn with
    scale = min(1.0, (100 - lab["Neutrophils"]) * 0.7 / others)
    shares = {name: lab[name] * scale for name in ("Monocytes", "Eosinophils", "Basophils")}
    shares |= {"Neutrophils": lab["Neutrophils"], "Lymphocytes": 100 - lab["Neutrophils"] - others * scale}
    return {
        **lab,
        **shares,
        **{ABSOLUTE[name]: lab["White Blood Cells"] * share / 100 for name, share in shares.items()},
        "Chloride": lab["Sodium"] + lab["Potassium"] - lab["Bicarbonate"] - lab["Anion Gap"],
        "pH": ph,
        "Calculated Total CO2": lab["Bicarbonate"] + 0.03 * lab["pCO2"],
        "Base Excess": 0.93 * (lab["Bicarbonate"] - 24.4 + 14.8 * (ph - 7.4)),
        "Hematocrit": hematocrit,
        "Red Blood Cells": 10 * hematocrit / lab["MCV"],
        "MCH": lab["MCHC"] * lab["MCV"] / 100,
        "PT": 10.9 * lab["INR(PT)"],
        "RDW-SD": 0.036 * lab["RDW"] * lab["MCV"],
    }
