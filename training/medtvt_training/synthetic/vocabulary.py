# SPDX-License-Identifier: Apache-2.0
"""Every wording of the synthetic cohort's questions and answers."""

from processing_medtvt.findings_medtvt import PHRASES

from ..data.wording import (
    DIAGNOSIS_QUESTIONS,
    FINDING_QUESTIONS,
    FOCUSED_QUESTIONS,
    GENERAL_QUESTIONS,
    NO,
    NO_DISEASE,
    NOTHING,
    PHYSIOLOGY_QUESTIONS,
    POINTERS,
    YES,
)
from .answers import UNSUPPORTED
from .findings import GROUPS
from .questions import NO_BUT, NOT_MEASURED


def answer_vocabulary() -> list[str]:
    """Texts to train a tokenizer on."""
    questions = (
        *DIAGNOSIS_QUESTIONS,
        *FINDING_QUESTIONS,
        *FOCUSED_QUESTIONS,
        *GENERAL_QUESTIONS,
        *PHYSIOLOGY_QUESTIONS.values(),
    )
    return [
        *(f" {text}" for pair in questions for text in pair),
        *(f"; {phrase}, {pointer}" for phrases in PHRASES.values() for phrase in phrases for pointer in POINTERS),
        *(f"{group.capitalize()}: " for groups in GROUPS.values() for group in groups),
        *(f" {group}" for groups in GROUPS.values() for group in groups),
        *(f" {text}" for text in (*NOTHING, *NO_DISEASE, *UNSUPPORTED, YES, NO, NO_BUT, NOT_MEASURED)),
    ]
