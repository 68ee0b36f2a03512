# SPDX-License-Identifier: Apache-2.0
"""
The rows of MedTVT-QA: one question and answer a row.

A dataset folder holds `{physiology,diagnosis}/{train,validation,test}.parquet`, and the files that its rows name.
"""

from typing import Literal, TypedDict

from datasets import Features, List, Value

from processing_medtvt import LAB_DEFINITIONS


Modality = Literal["ecg", "cxr", "lab"]


class Part(TypedDict):
    """
    A piece of a message: a text, or the place of a modality (then `type` names it and `text` is None). `modalities` are
    those that it belongs to or, in a completion, that its evidence cites; None where it cites none.
    """

    type: str
    text: str | None
    modalities: list[Modality] | None


class Message(TypedDict):
    """A message of a conversation."""

    role: str
    content: list[Part]


class QARow(TypedDict):
    """A row of MedTVT-QA. Of a modality that it lacks, the path or all labs are None."""

    id: str
    subject_id: str | None
    level: str
    modalities: list[Modality]
    prompt: list[Message]
    completion: list[Message]
    ecg: str | None
    cxr: str | None
    lab: dict[str, float | None]
    diseases: list[str]
    findings: list[str] | None


LEVELS = ("physiology", "diagnosis")
SPLITS = ("train", "validation", "test")
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
    }
)
