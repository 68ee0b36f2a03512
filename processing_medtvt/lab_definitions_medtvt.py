# SPDX-License-Identifier: Apache-2.0
"""The 50 blood labs of MedTVT-R1 (those of Symile-MIMIC) in the order of the lab tensor, and their reference ranges.

Item ids are those of MIMIC-IV; the first one of a lab is the one Symile-MIMIC uses, the others are the same analyte
under another id. LOINC codes follow MIMIC's own map. The reference intervals of the definitions are unisex textbook values
for adults, so they are too wide for sex-dependent labs (hemoglobin, hematocrit, creatinine, CK), for which
[`reference_range`] knows better, and hold for arterial blood only in the blood gases. The plausible range is far wider:
extremes ever survived, or what analyzers report. It exists to catch a value in the wrong unit, not to judge a patient.
"""

import copy
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from .lab_synonyms_medtvt import UNITS
from .lab_units_medtvt import find_factor, normalize_unit
from .patient_medtvt import Patient


def flag_value(value: float | None, low: float | None, high: float | None) -> str | None:
    """
    How a value lies to a reference range: `"low"`, `"normal"` or `"high"`. None without a value, or without a range. Either
    limit may be missing; a value at a limit is normal.
    """
    if value is None or (low is None and high is None):
        return None
    if low is not None and value < low:
        return "low"
    return "high" if high is not None and value > high else "normal"


class LabDefinition(NamedTuple):
    """One lab. Only `name` is required; whatever is `None` or empty is unknown and not used.

    A value in `si_unit` is a value in `unit` times `si_factor`; `other_units` maps further units to such factors.
    `aliases` are other spellings of the name, read without regard to case and spaces.
    """

    name: str
    itemids: tuple = ()
    loinc: str | None = None
    group: str | None = None
    unit: str | None = None
    reference_low: float | None = None
    reference_high: float | None = None
    si_unit: str | None = None
    si_factor: float | None = None
    plausible_low: float | None = None
    plausible_high: float | None = None
    aliases: tuple = ()
    other_units: dict | None = None

    @classmethod
    def from_dict(cls, lab: Mapping[str, Any]) -> "LabDefinition":
        """Checks the fields (ValueError) and makes a definition of them."""
        if not isinstance(lab, Mapping) or not isinstance(lab.get("name"), str) or not lab["name"].strip():
            raise ValueError(f"labs: every lab must be a dict with a 'name', found {lab!r}.")
        unknown = sorted(set(lab) - set(cls._fields))
        if unknown:
            raise ValueError(f"labs: {lab['name']} has unknown fields {unknown}; known are {cls._fields}.")
        definition = cls(**lab)
        for what in ("reference", "plausible"):
            pair = getattr(definition, f"{what}_low"), getattr(definition, f"{what}_high")
            numeric = all(isinstance(limit, (int, float)) and math.isfinite(limit) for limit in pair)
            if pair != (None, None) and not (numeric and pair[0] < pair[1]):
                raise ValueError(f"labs: {definition.name} needs {what}_low < {what}_high or neither; found {pair}.")
        if not all(isinstance(names, (list, tuple)) for names in (definition.itemids, definition.aliases)):
            raise ValueError(f"labs: {definition.name} needs lists as itemids and aliases.")
        spellings = {(normalize_unit(unit), factor) for unit, factor in definition.units.items()}
        if (
            (definition.si_unit is None) != (definition.si_factor is None)
            or (definition.unit is None and spellings)
            or not all(isinstance(factor, (int, float)) and factor > 0 for _, factor in spellings)
            or len(spellings) != len(dict(spellings))
        ):
            raise ValueError(
                f"labs: {definition.name} needs a 'unit' and one positive factor per further unit; found "
                f"{definition.units}."
            )
        return definition

    @property
    def units(self) -> dict[str, float]:
        """Every unit a value may come in -> how many of it are one `unit`."""
        units = {self.unit: 1, self.si_unit: self.si_factor, **(self.other_units or {})}
        return {unit: factor for unit, factor in units.items() if unit is not None}

    @property
    def is_default(self) -> bool:
        """Whether this is one of `LAB_DEFINITIONS`, by name, unit and reference interval."""
        other = _BY_NAME.get(self.name)
        return other is not None and self[4:7] == other[4:7]

    def factor_of(self, unit: str) -> float | None:
        """How many of `unit`, in any spelling, are one of the lab's own unit; None where it measures something else."""
        known = self.units
        if self.name in UNITS and self.unit == _BY_NAME[self.name].unit:
            known = {**UNITS[self.name], **known}
        return find_factor(known, unit)

    def to_dict(self) -> dict[str, Any]:
        """The known fields as a dict of JSON types (tuples become lists)."""
        fields = {key: list(value) if isinstance(value, tuple) else value for key, value in self._asdict().items()}
        return {key: copy.deepcopy(value) for key, value in fields.items() if value not in (None, [], {})}


_PER_UL = {"cells/uL": 1000}

# H, I and L measure how hemolyzed, icteric or lipemic the specimen is: no blood tests, hence no reference interval.
# fmt: off
LAB_DEFINITIONS = tuple(LabDefinition(*row) for row in (
    ("Base Excess", (50802,), "11555-0", "blood_gas_perfusion",
     "mEq/L", -2, 3, "mmol/L", 1, -40, 40, ("BE",)),
    ("Calculated Total CO2", (50804,), "34728-6", "blood_gas_perfusion",
     "mEq/L", 21, 30, "mmol/L", 1, 1, 100, ("TCO2", "Calculated TCO2")),
    ("Lactate", (50813,), "32693-4", "blood_gas_perfusion",
     "mmol/L", 0.5, 2.0, "mmol/L", 1, 0.05, 50, ("Lac", "Lactic Acid"), {"mg/dL": 1 / 0.111, "mEq/L": 1}),
    ("pCO2", (50818,), "11557-6", "blood_gas_perfusion",
     "mm Hg", 35, 45, "kPa", 0.1333, 7, 250, ("PaCO2",)),
    ("pH", (50820,), "11558-4", "blood_gas_perfusion",
     "units", 7.35, 7.45, "pH", 1, 6.3, 8.0, ("Blood pH",)),
    ("pO2", (50821,), "11556-8", "blood_gas_perfusion",
     "mm Hg", 80, 100, "kPa", 0.1333, 5, 800, ("PaO2",)),
    ("Alanine Aminotransferase (ALT)", (50861,), "1742-6", "liver_protein_muscle",
     "IU/L", 0, 40, "ukat/L", 0.01667, 0, 60000,
     ("ALT", "ALAT", "SGPT", "GPT", "ALT (SGPT)", "Alanine Aminotransferase")),
    ("Albumin", (50862,), "1751-7", "liver_protein_muscle",
     "g/dL", 3.5, 5.2, "g/L", 10, 0.5, 8, ("Alb",)),
    ("Alkaline Phosphatase", (50863,), "6768-6", "liver_protein_muscle",
     "IU/L", 40, 130, "ukat/L", 0.01667, 0, 20000, ("ALP", "Alk Phos", "alkaline phos.")),
    ("Anion Gap", (50868, 52500), "1863-0", "electrolytes_minerals",
     "mEq/L", 8, 20, "mmol/L", 1, -30, 100, ("AG",)),
    ("Aspartate Aminotransferase (AST)", (50878,), "1920-8", "liver_protein_muscle",
     "IU/L", 0, 40, "ukat/L", 0.01667, 0, 100000,
     ("AST", "ASAT", "SGOT", "GOT", "AST (SGOT)", "Aspartate Aminotransferase", "Asparate Aminotransferase (AST)")),
    ("Bicarbonate", (50882,), "1963-8", "electrolytes_minerals",
     "mEq/L", 22, 29, "mmol/L", 1, 1, 80, ("HCO3", "HCO3-", "Bicarb")),
    ("Bilirubin, Total", (50885,), "1975-2", "liver_protein_muscle",
     "mg/dL", 0.1, 1.2, "umol/L", 17.1, 0, 100, ("Total Bilirubin", "Bilirubin Total", "TBili", "T Bili")),
    ("Calcium, Total", (50893,), "17861-6", "electrolytes_minerals",
     "mg/dL", 8.4, 10.2, "mmol/L", 0.2495, 4, 25, ("Ca", "Calcium", "Total Calcium", "Calcium Total")),
    ("Chloride", (50902, 52535), "2075-0", "electrolytes_minerals",
     "mEq/L", 98, 107, "mmol/L", 1, 40, 200, ("Cl", "Cl-")),
    ("Creatine Kinase (CK)", (50910,), "2157-6", "liver_protein_muscle",
     "IU/L", 30, 200, "ukat/L", 0.01667, 0, 2000000, ("CK", "CPK", "Creatine Kinase")),
    ("Creatinine", (50912, 52546), "2160-0", "renal_glucose",
     "mg/dL", 0.5, 1.2, "umol/L", 88.42, 0.05, 50, ("Cr", "Crea", "Creat")),
    ("Glucose", (50931, 52569), "2345-7", "renal_glucose",
     "mg/dL", 70, 100, "mmol/L", 0.0555, 5, 3000, ("Glu", "Gluc")),
    ("H (hemolysis index, inferred)", (50934,), None, "liver_protein_muscle",
     "U (index)", None, None, "index", 1, 0, 10000, ("H", "Hemolysis Index")),
    ("I (icterus index, inferred)", (50947,), None, "liver_protein_muscle",
     "U (index)", None, None, "index", 1, 0, 10000, ("I", "Icterus Index")),
    ("Magnesium", (50960,), "19123-9", "electrolytes_minerals",
     "mg/dL", 1.6, 2.6, "mmol/L", 0.4114, 0.1, 30, ("Mg",)),
    ("Phosphate", (50970,), "2777-1", "electrolytes_minerals",
     "mg/dL", 2.7, 4.5, "mmol/L", 0.3229, 0.1, 50, ("PO4", "Phos", "Phosphorus")),
    ("Potassium", (50971, 52610), "2823-3", "electrolytes_minerals",
     "mEq/L", 3.5, 5.1, "mmol/L", 1, 1, 15, ("K", "K+")),
    ("Sodium", (50983, 52623), "2951-2", "electrolytes_minerals",
     "mEq/L", 135, 145, "mmol/L", 1, 80, 260, ("Na", "Na+")),
    ("Urea Nitrogen", (51006, 52647), "3094-0", "renal_glucose",
     "mg/dL", 7, 20, "mmol/L (urea)", 0.357, 0.5, 500, ("BUN", "Blood Urea Nitrogen"),
     {"mmol/L": 0.357, "mg/dL (urea)": 2.14}),
    ("Absolute Lymphocyte Count", (51133,), "731-0", "white_cells",
     "K/uL", 1.0, 4.0, "10^9/L", 1, 0, 1000, ("ALC", "Lymphocytes Absolute"), _PER_UL),
    ("Basophils", (51146,), "706-2", "white_cells",
     "%", 0, 1, "fraction", 0.01, 0, 100, ("Basos", "-basos")),
    ("Eosinophils", (51200,), "713-8", "white_cells",
     "%", 0, 6, "fraction", 0.01, 0, 100, ("Eos", "-eos")),
    ("Hematocrit", (51221, 51638), "4544-3", "red_cells",
     "%", 36, 51, "L/L", 0.01, 5, 80, ("Hct", "Haematocrit"), {"fraction": 0.01}),
    ("Hemoglobin", (51222, 50811), "718-7", "red_cells",
     "g/dL", 12.0, 17.5, "g/L", 10, 1, 26, ("Hb", "Hgb", "Haemoglobin"), {"mmol/L": 0.6206}),
    ("INR(PT)", (51237, 51675), "6301-6", "platelets_coagulation",
     "ratio", 0.9, 1.1, "ratio", 1, 0.3, 100, ("INR", "PT-INR", "PT - INR"), {"INR": 1}),
    ("Lymphocytes", (51244, 51245), "736-9", "white_cells",
     "%", 20, 40, "fraction", 0.01, 0, 100, ("Lymphs", "-lymphs", "Lymphocytes, Percent")),
    ("MCH", (51248,), "785-6", "red_cells",
     "pg", 27, 33, "pg", 1, 10, 60, ("Mean Corpuscular Hemoglobin",)),
    ("MCHC", (51249,), "786-4", "red_cells",
     "g/dL", 32, 36, "g/L", 10, 15, 50, ("Mean Corpuscular Hemoglobin Concentration",), {"%": 1}),
    ("MCV", (51250,), "787-2", "red_cells",
     "fL", 80, 100, "fL", 1, 30, 200, ("Mean Corpuscular Volume",)),
    ("Monocytes", (51254,), "5905-5", "white_cells",
     "%", 2, 10, "fraction", 0.01, 0, 100, ("Monos", "-monos")),
    ("Neutrophils", (51256,), "770-8", "white_cells",
     "%", 40, 70, "fraction", 0.01, 0, 100, ("Polys", "-polys", "Neuts")),
    ("Platelet Count", (51265,), "777-3", "platelets_coagulation",
     "K/uL", 150, 400, "10^9/L", 1, 0, 10000, ("Plt", "Platelets", "platelets x 1000"), _PER_UL),
    ("PT", (51274,), "5902-2", "platelets_coagulation",
     "sec", 10.0, 13.5, "s", 1, 3, 400, ("Prothrombin Time",)),
    ("PTT", (51275,), "14979-9", "platelets_coagulation",
     "sec", 25, 36, "s", 1, 10, 500, ("aPTT", "Partial Thromboplastin Time")),
    ("RDW", (51277,), "788-0", "red_cells",
     "%", 11.5, 14.5, "%", 1, 5, 60, ("RDW-CV",)),
    ("Red Blood Cells", (51279,), "789-8", "red_cells",
     "m/uL", 4.0, 6.0, "10^12/L", 1, 0.3, 12, ("RBC", "Red Blood Cell Count", "Erythrocytes")),
    ("White Blood Cells", (51301, 51300, 51755), "6690-2", "white_cells",
     "K/uL", 4.0, 11.0, "10^9/L", 1, 0, 1000,
     ("WBC", "WBC Count", "WBC x 1000", "White Blood Cell Count", "Leukocytes"), _PER_UL),
    ("L (lipemia index, inferred)", (51678,), None, "liver_protein_muscle",
     "U (index)", None, None, "index", 1, 0, 10000, ("L", "Lipemia Index")),
    ("Absolute Basophil Count", (52069,), "704-7", "white_cells",
     "K/uL", 0, 0.1, "10^9/L", 1, 0, 100, ("Basophils Absolute",), _PER_UL),
    ("Absolute Eosinophil Count", (52073,), "711-2", "white_cells",
     "K/uL", 0, 0.5, "10^9/L", 1, 0, 300, ("AEC", "Eosinophils Absolute"), _PER_UL),
    ("Absolute Monocyte Count", (52074,), "742-7", "white_cells",
     "K/uL", 0.2, 0.8, "10^9/L", 1, 0, 500, ("AMC", "Monocytes Absolute"), _PER_UL),
    ("Absolute Neutrophil Count", (52075,), "751-8", "white_cells",
     "K/uL", 1.5, 8.0, "10^9/L", 1, 0, 1000, ("ANC", "Neutrophils Absolute"), _PER_UL),
    ("Immature Granulocytes", (52135,), "38518-7", "white_cells",
     "%", 0, 1.0, "fraction", 0.01, 0, 100, ("IG", "IG%")),
    ("RDW-SD", (52172,), "21000-5", "red_cells",
     "fL", 35, 46, "fL", 1, 10, 250, ()),
))
# fmt: on

# The same intervals for one sex (labs.csv's remarks; transaminases: IFCC method at 37 degrees C without pyridoxal phosphate)
_REFERENCES_BY_SEX: dict[str, dict[str, tuple[float, float]]] = {
    "Alanine Aminotransferase (ALT)": {"F": (0, 33), "M": (0, 40)},
    "Alkaline Phosphatase": {"F": (40, 105), "M": (40, 130)},
    "Aspartate Aminotransferase (AST)": {"F": (0, 32), "M": (0, 40)},
    "Creatine Kinase (CK)": {"F": (30, 200), "M": (30, 320)},
    "Creatinine": {"F": (0.5, 1.1), "M": (0.5, 1.2)},
    "Hematocrit": {"F": (34, 45), "M": (40, 51)},
    "Hemoglobin": {"F": (12.0, 15.5), "M": (13.5, 17.5)},
    "Red Blood Cells": {"F": (3.9, 5.2), "M": (4.5, 6.0)},
}
_ADULT = 18  # years; children have other intervals, which stand nowhere here
_BY_NAME = {lab.name: lab for lab in LAB_DEFINITIONS}


def reference_range(
    lab: LabDefinition | Mapping[str, Any] | str, patient: Patient | None = None
) -> tuple[float | None, float | None]:
    """
    The reference interval of a lab for a patient, in the lab's unit.

    Args:
        lab (`LabDefinition`, `dict` or `str`): A definition, its dict from an extractor's config, or a name of
            `LAB_DEFINITIONS`.
        patient (`Patient`, *optional*): Sex chooses between the intervals of women and men; the lower limit of pO2 falls by
            1 mm Hg a year from 60 to 80 years. Without it, or with what is unknown, the unisex interval for adults.

    Returns:
        Lower and upper limit; `(None, None)` without an interval, and for a patient younger than 18 years, since all
        intervals are those of adults. A definition with limits of its own keeps them, whatever the sex.
    """
    if isinstance(lab, str):
        lab = _BY_NAME[lab]
    elif not isinstance(lab, LabDefinition):
        lab = LabDefinition.from_dict(lab)
    low, high = lab.reference_low, lab.reference_high
    age, sex = (patient["age"], patient["sex"]) if patient else (None, None)
    if low is None or (age is not None and age < _ADULT):
        return None, None
    if not lab.is_default:
        return low, high
    if lab.name == "pO2" and age is not None and age > 60:
        return low - min(age - 60, 20), high
    if sex is not None and lab.name in _REFERENCES_BY_SEX:
        return _REFERENCES_BY_SEX[lab.name][sex]
    return low, high
