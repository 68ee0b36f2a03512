# SPDX-License-Identifier: Apache-2.0
"""Tests of what is known of a patient, and of the reference ranges that it chooses."""

import numpy as np
import pytest

from processing_medtvt import LAB_DEFINITIONS, check_patient, merge_patients, reference_range


NOBODY = {"age": None, "sex": None}


@pytest.mark.parametrize(
    "given, patient",
    [(None, NOBODY), ({}, NOBODY), ({"age": 71, "sex": "F"}, {"age": 71.0, "sex": "F"}), ({"sex": " Female "}, {"age": None, "sex": "F"}),
     ({"age": np.float32(0.5), "sex": "male"}, {"age": 0.5, "sex": "M"}), ({"age": "71.5"}, {"age": 71.5, "sex": None}),
     ({"age": float("nan"), "sex": "unknown"}, NOBODY)],
)  # fmt: skip
def test_check(given, patient):
    assert check_patient(given) == patient


@pytest.mark.parametrize(
    "given",
    [
        5,
        "F",
        {"age": -1},
        {"age": 131},
        {"age": "old"},
        {"age": True},
        {"sex": "X"},
        {"sex": 1},
        {"name": "x"},
        {"age": [71]},
    ],
)
def test_refused(given):
    with pytest.raises(ValueError, match="^patient: "):
        check_patient(given)


def test_merge():
    given, ecg, fhir = {"age": None, "sex": "F"}, {"age": 71.0, "sex": "M"}, {"age": 71.8, "sex": "F"}
    merged, notes = merge_patients(given, ecg, fhir)
    assert merged == {"age": 71.0, "sex": "F"}
    assert notes == ["patient: one input states the sex M and another F; F used"]
    _, notes = merge_patients(ecg, {"age": 35.0, "sex": None})
    assert notes == ["patient: one input states the age 35 and another 71; 71 used"]
    assert merge_patients() == (NOBODY, [])


@pytest.mark.parametrize(
    "lab, age, sex, limits",
    [("Hemoglobin", None, None, (12, 17.5)), ("Hemoglobin", None, "F", (12, 15.5)), ("Hemoglobin", 71, "M", (13.5, 17.5)),
     ("Sodium", 71, "M", (135, 145)), ("Hemoglobin", 9, "F", (None, None)), ("pO2", 70, None, (70, 100)), ("pO2", 95, "F", (60, 100)),
     ("H (hemolysis index, inferred)", 71, "F", (None, None))],
)  # fmt: skip
def test_reference_range(lab, age, sex, limits):
    definition = next(one for one in LAB_DEFINITIONS if one.name == lab)
    for form in (lab, definition, definition.to_dict()):
        assert reference_range(form, {"age": age, "sex": sex}) == limits


def test_a_definition_with_limits_of_its_own_keeps_them():
    lab = {"name": "Hemoglobin", "unit": "g/dL", "reference_low": 11, "reference_high": 16}
    assert reference_range(lab, {"age": 50, "sex": "F"}) == (11, 16)
