# SPDX-License-Identifier: Apache-2.0
import pytest

from medtvt_training.data.labels import as_label_array, sample_f1


A, B = "Sepsis", "Pneumonia"


@pytest.mark.parametrize(
    ("truth", "named", "f1"),
    [
        ([A], [A], 1),
        ([A], [B], 0),
        ([A], [A, B], 2 / 3),
        ([], [], 1),
        ([A], [], 0),
        ([], [A], 0),
        ([A, B], [B, B], 2 / 3),
    ],
)
def test_sample_f1(truth, named, f1):
    assert sample_f1(as_label_array([truth]), as_label_array([named])).tolist() == pytest.approx([f1])


def test_no_row_is_no_row():
    assert as_label_array([]).shape == (0, 7) and sample_f1(as_label_array([]), as_label_array([])).shape == (0,)
