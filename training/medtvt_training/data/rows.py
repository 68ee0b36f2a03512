# SPDX-License-Identifier: Apache-2.0
"""Types of a row of MedTVT-QA and of its conversations."""

from typing import Literal, NotRequired, TypedDict


Modality = Literal["ecg", "cxr", "lab"]
LEVELS = ("physiology", "diagnosis")
SPLITS = ("train", "validation", "test")


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
    """
    A row of MedTVT-QA. Of a modality that it lacks, the path or all labs are None. `age` (years) and `sex`, None where
    not known, are for reference ranges and subgroups, never an input of the model. `absent_findings`: those known not to be
    shown; None: whatever is not among `findings` is not.
    """

    id: str
    subject_id: str | None
    age: float | None
    sex: Literal["F", "M"] | None
    level: str
    modalities: list[Modality]
    prompt: list[Message]
    completion: list[Message]
    ecg: str | None
    cxr: str | None
    lab: dict[str, float | None]
    diseases: list[str]
    findings: list[str] | None
    absent_findings: NotRequired[list[str] | None]


class Reject(TypedDict):
    """A line of the rejects file: the row, its file where that is to blame, and why."""

    id: str
    path: str | None
    reason: str
