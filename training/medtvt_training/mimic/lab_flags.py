# SPDX-License-Identifier: Apache-2.0
"""Labs of an admission: units, impossible values, and flags from each row's own reference range."""

from typing import NamedTuple

from processing_medtvt import LAB_DEFINITIONS
from processing_medtvt.lab_definitions_medtvt import flag_value


LABS = {lab.name: lab for lab in LAB_DEFINITIONS}
# The seven groups of the 50 labs; the paper names none.
LAB_GROUPS = {
    "red_cells": "Red cells and hemoglobin",
    "white_cells": "White cells and differential",
    "platelets_coagulation": "Platelets and coagulation",
    "electrolytes_minerals": "Electrolytes and minerals",
    "renal_glucose": "Kidney function and glucose",
    "liver_protein_muscle": "Liver, protein and muscle",
    "blood_gas_perfusion": "Blood gas and perfusion",
}
# Analyzer's measures of the specimen (hemolysis, icterus, lipemia): in the tensor, never in a sentence
SPECIMEN_INDICES = {lab.name for lab in LAB_DEFINITIONS if lab.reference_low is None}


class LabReading(NamedTuple):
    """
    One lab in its unit of `LAB_DEFINITIONS`.

    Args:
        value (`float`), low, high (`float`, *optional*): the value and the reference range, the row's own where it has
            one.
        flag (`str`): `"low"`, `"normal"`, `"high"`, or `"unknown"` without a range.
    """

    value: float
    low: float | None
    high: float | None
    flag: str


def read_lab(
    name: str, value: float, unit: str | None, low: float | None, high: float | None
) -> tuple[LabReading | None, str | None]:
    """
    Converts and flags a row of `labevents`.

    Returns:
        `(reading, note)`: the reading, None if the value cannot be used; and what was changed or refused, None if
        nothing.
    """
    lab, note, factor = LABS[name], None, 1.0
    if unit and unit.strip():
        unit_factor = 1.0 if lab.name in SPECIMEN_INDICES else lab.factor_of(unit)
        if unit_factor is None:
            return None, f"{name}: unit {unit.strip()!r} is none of {', '.join(lab.units)}; left out"
        factor = unit_factor
        if factor != 1:
            note = f"{name}: converted from {unit.strip()} to {lab.unit}"
    value = float(f"{value / factor:.6g}")
    low, high = (x if x is None else float(f"{x / factor:.6g}") for x in (low, high))
    bounds = lab.plausible_low, lab.plausible_high
    if bounds[0] is not None and bounds[1] is not None and not bounds[0] <= value <= bounds[1]:
        return None, f"{name}: a value outside {lab.plausible_low} to {lab.plausible_high} {lab.unit}; left out"
    if low is not None and high is not None and low >= high:
        low = high = None
    if low is None and high is None:
        low, high = lab.reference_low, lab.reference_high
    return LabReading(value, low, high, flag_value(value, low, high) or "unknown"), note
