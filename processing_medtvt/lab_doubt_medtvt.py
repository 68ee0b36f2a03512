# SPDX-License-Identifier: Apache-2.0
"""
Doubt about the unit of a value that came without one.

Such a value is read in the lab's own unit. It is in doubt where that makes it abnormal and another unit in use makes it
normal, or where it makes it rarer than a value of a hospital patient should be and another unit does not. What the other
labs of the panel say is heard first: hemoglobin that fits the hematocrit is in g/dL, a differential that adds up to 100 is
in percent, and a panel whose other values fit mg/dL alone is in conventional units.
"""

from collections.abc import Sequence

import numpy as np

from .lab_definitions_medtvt import LAB_DEFINITIONS, LabDefinition
from .lab_synonyms_medtvt import COUNTERPARTS, UNITS


# Lab -> what nearly all values of hospital patients lie within, in the lab's own unit: about the first and the last
# percentile of a general hospital's results, widened where another unit can be told apart all the same.
USUAL_RANGES: dict[str, tuple[float, float]] = {
    "Lactate": (0.3, 8),
    "pCO2": (15, 130),
    "pO2": (20, 600),
    "Alanine Aminotransferase (ALT)": (3, 5000),
    "Albumin": (1, 6),
    "Alkaline Phosphatase": (15, 3000),
    "Aspartate Aminotransferase (AST)": (5, 8000),
    "Bilirubin, Total": (0.1, 30),
    "Calcium, Total": (5, 16),
    "Creatine Kinase (CK)": (8, 100000),
    "Creatinine": (0.2, 18),
    "Glucose": (40, 1000),
    "Magnesium": (1, 6),
    "Phosphate": (1, 14),
    "Urea Nitrogen": (2, 200),
    "Hematocrit": (12, 65),
    "Hemoglobin": (4, 22),
    "MCHC": (25, 40),
    "Platelet Count": (4, 2000),
    "Red Blood Cells": (1, 9),
    "White Blood Cells": (0.1, 300),
    "Absolute Basophil Count": (0, 10),
    "Absolute Eosinophil Count": (0, 20),
    "Absolute Lymphocyte Count": (0, 100),
    "Absolute Monocyte Count": (0, 20),
    "Absolute Neutrophil Count": (0, 100),
}
# By two of these, whose values in conventional and in SI units do not overlap, a panel shows which it uses.
_TELLING = ("Creatinine", "Glucose", "Calcium, Total", "Albumin", "Urea Nitrogen", "Bilirubin, Total")
_SETTLED_BY_PANEL = (
    "Bilirubin, Total",
    "Urea Nitrogen",
    "Magnesium",
    "Phosphate",
    "Calcium, Total",
    "Glucose",
    "Creatinine",
)
_DIFFERENTIAL = ("Neutrophils", "Lymphocytes", "Monocytes", "Eosinophils", "Basophils")
_LACTIC_ACIDOSIS = {
    "Bicarbonate": (-np.inf, 20),
    "Anion Gap": (18, np.inf),
    "Base Excess": (-np.inf, -4),
    "pH": (-np.inf, 7.3),
}


def find_doubts(values: np.ndarray, unitless: np.ndarray, labs: Sequence[LabDefinition]) -> list[tuple[int, str]]:
    """
    Doubtful values of a table.

    Args:
        values (`np.ndarray`): (samples, labs) in the labs' own units, NaN where absent.
        unitless (`np.ndarray`): (samples, labs), True where a value came without a unit.
        labs (`list[LabDefinition]`): The labs of the columns.

    Returns:
        Pairs of a sample's row and a note for a clinician.
    """
    if not unitless.any():
        return []
    columns = {lab.name: i for i, lab in enumerate(labs) if lab.is_default and unitless[:, i].any()}
    table = {lab.name: values[:, i] for i, lab in enumerate(labs) if lab.is_default}
    with np.errstate(invalid="ignore"):
        conventional = _uses_conventional_units(table, values.shape[0])
        differential = _differential_in_percent(table, values.shape[0])
        found = []
        for name, i in columns.items():
            lab, column = labs[i], values[:, i]
            normal = _within(column, lab.reference_low, lab.reference_high)
            usual = _within(column, *USUAL_RANGES.get(name, (-np.inf, np.inf)))
            settled = _settle(name, table, conventional, differential)
            noted = np.zeros(len(column), dtype=bool)
            for other, factor, where in _alternatives(lab):
                converted = column / factor
                # where the reference interval begins at zero, a number that becomes next to nothing is no sign of a unit
                low, high = other.reference_low or 0, other.reference_high or 0
                would_be_normal = _within(converted, max(low, 0.02 * high), high)
                would_be_usual = _within(converted, *USUAL_RANGES.get(other.name, (-np.inf, np.inf)))
                abnormal = ~normal & would_be_normal & ~settled
                if other is not lab:
                    abnormal |= (differential == -1) & ~np.isnan(column)
                if name == "Hemoglobin" and "Hematocrit" in table:
                    abnormal |= _fits_hematocrit(converted, table) & ~_fits_hematocrit(column, table)
                rare = ~usual & would_be_usual
                if name not in _SETTLED_BY_PANEL:
                    rare &= ~settled
                for row in np.flatnonzero((abnormal | rare) & unitless[:, i] & ~noted):
                    what = "normal" if would_be_normal[row] else "plausible"
                    text = f"lab: {name} {column[row]:g} taken as {lab.unit}; it would be {what} in {where}"
                    found.append((int(row), text))
                    noted[row] = True
    return sorted(found, key=lambda doubt: doubt[0])


def _within(values: np.ndarray, low: float | None, high: float | None) -> np.ndarray:
    return (values >= (-np.inf if low is None else low)) & (values <= (np.inf if high is None else high))


def _alternatives(lab: LabDefinition) -> list[tuple[LabDefinition, float, str]]:
    """(Lab that the value would be of, factor, unit in words) for every unit in use in which the number would differ."""
    if lab.reference_low is None:
        return []
    found: list[tuple[LabDefinition, float, str]] = []
    other = next((other for other in LAB_DEFINITIONS if other.name == COUNTERPARTS.get(lab.name)), None)
    if other is not None and lab.name in _DIFFERENTIAL:
        found.append((other, 1, f"{other.unit}, as {other.name}"))
    units = {**lab.units, **UNITS.get(lab.name, {})}
    return found + [(lab, factor, unit) for unit, factor in units.items() if factor != 1]


def _uses_conventional_units(table: dict[str, np.ndarray], rows: int) -> np.ndarray:
    """Where two labs fit conventional units alone and none fits SI units alone."""
    votes, contradicted = np.zeros(rows), np.zeros(rows, dtype=bool)
    for lab in LAB_DEFINITIONS:
        if lab.name in _TELLING and lab.name in table and lab.si_factor is not None:
            fits = _within(table[lab.name], *USUAL_RANGES[lab.name])
            fits_si = _within(table[lab.name] / lab.si_factor, *USUAL_RANGES[lab.name])
            votes += fits & ~fits_si
            contradicted |= fits_si & ~fits
    return (votes >= 2) & ~contradicted


def _differential_in_percent(table: dict[str, np.ndarray], rows: int) -> np.ndarray:
    """1 where the differential adds up to a hundred, -1 where it adds up to the white cell count, else 0."""
    parts = np.array([table.get(name, np.full(rows, np.nan)) for name in _DIFFERENTIAL])
    total = np.nansum(parts, axis=0)
    complete = ~np.isnan(parts[0]) & ~np.isnan(parts[1])
    share = total / table.get("White Blood Cells", np.full(rows, np.nan))
    are_counts = complete & (total < 30) & (total > 0) & (np.isnan(share) | _within(share, 0.75, 1.1))
    return np.where(total >= 75, 1, np.where(are_counts, -1, 0))


def _fits_hematocrit(hemoglobin: np.ndarray, table: dict[str, np.ndarray]) -> np.ndarray:
    """Where hemoglobin in g/dL and hematocrit in % give a concentration within red cells (MCHC, g/dL) that occurs."""
    return _within(100 * hemoglobin / table["Hematocrit"], 26, 40)


def _settle(name: str, table: dict[str, np.ndarray], conventional: np.ndarray, differential: np.ndarray) -> np.ndarray:
    """Where the rest of the panel says that a value is in the lab's own unit, though it is abnormal."""
    if name in _SETTLED_BY_PANEL:
        return conventional
    if name in _DIFFERENTIAL:
        return differential == 1
    if name == "Hemoglobin" and "Hematocrit" in table:
        return _fits_hematocrit(table[name], table)
    if name == "Lactate":
        signs = [_within(table[sign], *limits) for sign, limits in _LACTIC_ACIDOSIS.items() if sign in table]
        return np.any(signs, axis=0) if signs else np.zeros(len(conventional), dtype=bool)
    return np.zeros(len(conventional), dtype=bool)
