# SPDX-License-Identifier: Apache-2.0
"""
The example patient of the demo, by a rule: of the test patients of a synthetic cohort that have any of the diseases, the one
whose F1 is the median.

`python -m medtvt_training.evaluation.median_patient results/predictions.jsonl` prints the two constants that
`medtvt_training.synthetic.example_patient` holds. New weights, new predictions, new patient.
"""

import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from modeling_medtvt import parse_answer
from processing_medtvt.check_cxr_medtvt import describe_doubts

from ..data.labels import as_label_array, sample_f1
from ..synthetic.causes import DISEASE_OF_CODE
from ..synthetic.example_patient import write_example_patient
from ..synthetic.patient import draw_patient
from .predictions import read_predictions


def find_median_patient(records: Sequence[Mapping[str, Any]]) -> tuple[int, int, float]:
    """
    Seed, index and F1 of the record with the median F1, among those of patients with a disease: a healthy one would leave
    nothing to show. Of an even number it is the lower median. Of equal ones it is the lowest id whose film is read without
    a doubt, since a doubt would be about the drawing.

    Args:
        records: Lines of predictions of the test split of a cohort in the setting `"clear"`, as [`read_predictions`] gives.

    Raises:
        ValueError: if a record is of another split, or of no such cohort.
    """
    for record in records:
        _draw(record)
    records = [record for record in records if record["diseases"]]
    if not records:
        raise ValueError("No patient has any of the diseases.")
    truth = as_label_array([record["diseases"] for record in records])
    f1 = sample_f1(truth, as_label_array([parse_answer(record["completion"]).diseases for record in records]))
    median = np.sort(f1)[(len(f1) - 1) // 2]
    equal = sorted((records[int(i)] for i in np.flatnonzero(f1 == median)), key=lambda record: record["id"])
    chosen = next((record for record in equal if not _has_doubts(*_draw(record))), equal[0])
    return *_draw(chosen), float(median)


def _has_doubts(seed: int, index: int) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        return bool(describe_doubts(Image.open(write_example_patient(folder, seed, index)["cxr"])))


def _draw(record: Mapping[str, Any]) -> tuple[int, int]:
    """Seed and index of a record, checked by drawing its patient."""
    seed, _, index = record["subject_id"].partition("-")
    if seed.isdecimal() and index.isdecimal():
        patient = draw_patient(int(seed), int(index))
        drawn = {DISEASE_OF_CODE[code] for code in patient.causes.diseases}
        if patient.split == "test" and drawn == set(record["diseases"]):
            return int(seed), int(index)
    raise ValueError("The predictions must be of the test split of a synthetic cohort in the setting `clear`.")


if __name__ == "__main__":
    found_seed, found_index, found_f1 = find_median_patient(read_predictions(sys.argv[1]))
    print(f"EXAMPLE_SEED, EXAMPLE_INDEX = {found_seed}, {found_index}  # F1 {found_f1:.3f}")
