# SPDX-License-Identifier: Apache-2.0
"""
The rows of MedTVT-QA: one question and answer a row.

A dataset folder holds `{physiology,diagnosis}/{train,validation,test}.parquet`, and the files that its rows name.
"""

from datasets import Features, List, Value

from processing_medtvt import LAB_DEFINITIONS

from .rows import LEVELS, SPLITS


SEXES = ("F", "M")
# Columns that datasets written before they existed lack
OPTIONAL_COLUMNS = ("age", "sex", "absent_findings")
LAB_NAMES = tuple(lab.name for lab in LAB_DEFINITIONS)
_MESSAGES = List(
    {
        "role": Value("string"),
        "content": List({"type": Value("string"), "text": Value("string"), "modalities": List(Value("string"))}),
    }
)
FEATURES = Features(
    {
        "id": Value("string"),
        "subject_id": Value("string"),
        # For reference ranges and subgroups, never an input of the model. Years at the time of the data; "F" or "M".
        "age": Value("float64"),
        "sex": Value("string"),
        "level": Value("string"),
        "modalities": List(Value("string")),
        "prompt": _MESSAGES,
        "completion": _MESSAGES,
        "ecg": Value("string"),
        "cxr": Value("string"),
        "lab": {name: Value("float64") for name in LAB_NAMES},
        "diseases": List(Value("string")),
        # What the data of this row show, where it is known (the synthetic cohort). A name begins with its modality,
        # as in "ecg: sinus rhythm".
        "findings": List(Value("string")),
        # Findings of the row's modalities that are known not to be shown, where some are not known either way (films
        # whose labels tell of two things). Null: whatever is not among `findings` is not shown.
        "absent_findings": List(Value("string")),
    }
)


__all__ = ["FEATURES", "LAB_NAMES", "LEVELS", "SPLITS"]
