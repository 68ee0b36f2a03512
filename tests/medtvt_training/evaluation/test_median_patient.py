# SPDX-License-Identifier: Apache-2.0
from typing import Any

import pytest

from medtvt_training.evaluation.median_patient import find_median_patient
from medtvt_training.synthetic.causes import DISEASE_OF_CODE
from medtvt_training.synthetic.patient import draw_patient


def make_record(index: int, right: bool) -> dict[str, Any]:
    """A test patient, whose diseases are all named or none of them."""
    diseases = [DISEASE_OF_CODE[code] for code in draw_patient(5, index).causes.diseases]
    named = "; ".join(diseases if right else [])
    return {
        "id": f"5-{index:06d}-diagnosis",
        "subject_id": f"5-{index:06d}",
        "diseases": diseases,
        "completion": f"<think>x</think><answer>{named}</answer>",
    }


ILL = [index for index in range(9, 400, 10) if draw_patient(5, index).causes.diseases][:5]


@pytest.mark.parametrize(
    ("right", "place", "f1"),
    [
        ([True, False, True, False, True], 0, 1.0),
        ([False, True, False, True, False], 0, 0.0),
        ([True, False, True, False], 1, 0.0),  # the lower median of an even number
        ([False, False, True, True, True], 2, 1.0),
    ],
)
def test_the_patient_of_median_f1_with_the_lowest_id(right, place, f1):
    records = [make_record(index, is_right) for index, is_right in zip(ILL, right)]
    assert find_median_patient(records) == (5, ILL[place], f1)
    assert find_median_patient(records[::-1]) == (5, ILL[place], f1)


def test_patients_without_a_disease_are_passed_over():
    healthy = [index for index in range(9, 999, 10) if not draw_patient(5, index).causes.diseases][:2]
    records = [make_record(index, True) for index in healthy]
    assert find_median_patient([*records, make_record(ILL[0], False)]) == (5, ILL[0], 0.0)
    with pytest.raises(ValueError, match="No patient has any"):
        find_median_patient(records)


@pytest.mark.parametrize("change", [{"subject_id": "5-000010"}, {"subject_id": "ward 7"}, {"diseases": []}])
def test_patients_of_elsewhere_are_refused(change):
    with pytest.raises(ValueError, match="test split of a synthetic cohort"):
        find_median_patient([{**make_record(ILL[0], True), **change}])
