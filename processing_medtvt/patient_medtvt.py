# SPDX-License-Identifier: Apache-2.0
"""What is known of a patient: age and sex."""

import numbers
from collections.abc import Mapping
from typing import Any, Literal, TypedDict


MAX_AGE = 130  # years
_SEXES: dict[str, Literal["F", "M"]] = {"f": "F", "female": "F", "m": "M", "male": "M"}
_UNKNOWN_SEXES = ("", "u", "unknown", "other", "o")  # administrative codes of hospital systems


class Patient(TypedDict):
    """What is known of a patient: `age` in years and `sex`, "F" or "M"; None where it is not known. They choose reference ranges, and never enter the model."""

    age: float | None
    sex: Literal["F", "M"] | None


def check_patient(patient: Any) -> Patient:
    """
    A patient as given by a program, checked.

    Args:
        patient (`dict`, *optional*): `age` in years and `sex` ("F", "M", "female" or "male", in any case); either may be
            missing or None. None: nothing is known.

    Raises:
        ValueError: another key, an age that is no number in 0 to 130, or another sex.
    """
    if patient is None:
        return Patient(age=None, sex=None)
    if not isinstance(patient, Mapping) or set(patient) - {"age", "sex"}:
        raise ValueError('patient: expected a dict with `age` (years) and `sex` ("F" or "M"), either may be missing.')
    return Patient(age=_check_age(patient.get("age")), sex=_check_sex(patient.get("sex")))


def _check_age(age: Any) -> float | None:
    if age is None or age != age:
        return None
    if isinstance(age, str) and age.strip().isascii() and age.strip().replace(".", "", 1).isdigit():
        age = float(age)
    if not isinstance(age, numbers.Real) or isinstance(age, bool) or not 0 <= float(age) <= MAX_AGE:
        raise ValueError(f"patient: `age` must be a number of years in 0 to {MAX_AGE}, or None.")
    return float(age)


def _check_sex(sex: Any) -> Literal["F", "M"] | None:
    if sex is None or sex != sex or (isinstance(sex, str) and sex.strip().casefold() in _UNKNOWN_SEXES):
        return None
    known = _SEXES.get(sex.strip().casefold()) if isinstance(sex, str) else None
    if known is None:
        raise ValueError('patient: `sex` must be "F", "M", "female" or "male", or None.')
    return known


def merge_patients(*patients: Patient) -> tuple[Patient, list[str]]:
    """
    One patient from several sources, most trusted first (what is given comes before what files state): the first known
    age and sex are kept.

    Returns:
        The patient, and a note for each contradiction. Ages less than two years apart are no contradiction, since files of
        one patient have several dates.
    """
    merged, notes = Patient(age=None, sex=None), []
    for patient in patients:
        age, sex = patient["age"], patient["sex"]
        if merged["age"] is None:
            merged["age"] = age
        elif age is not None and abs(age - merged["age"]) >= 2:
            notes.append(
                f"patient: one input states the age {age:g} and another {merged['age']:g}; {merged['age']:g} used"
            )
        if merged["sex"] is None:
            merged["sex"] = sex
        elif sex is not None and sex != merged["sex"]:
            notes.append(f"patient: one input states the sex {sex} and another {merged['sex']}; {merged['sex']} used")
    return merged, list(dict.fromkeys(notes))
