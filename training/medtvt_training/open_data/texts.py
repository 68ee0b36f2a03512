# SPDX-License-Identifier: Apache-2.0
"""
Questions and answers about one open record: what its labels say, in the lexicon's usual words, and nothing else.

A part of a reading of which nothing is known is left out of an answer; "nothing notable" stands where all of its
findings are known to be absent. A diagnosis names what the labels name, and gives the finding that is evidence for it.
"""

import re
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from processing_medtvt.findings_medtvt import PHRASES

from ..data.conversation import list_modalities, text_part
from ..data.rows import Part, QARow
from ..data.schema import LAB_NAMES
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
    READING_PARTS,
    TITLES,
    YES,
)
from .record import EVIDENCE, OpenRecord


# What a normal record shows: never missing from a part of which it is said that there is nothing notable
USUAL = ("ecg: sinus rhythm", "cxr: clear lungs", "cxr: normal heart size")
DIAGNOSIS = "-diagnosis"  # ends the id of a diagnosis row
_NO_NOUN = re.compile(r"\b(?:no|not|is|are)\b")  # cannot stand behind "show"
_Option = TypeVar("_Option")


def make_rows(record: OpenRecord, folder: str, rng: np.random.Generator) -> list[QARow]:
    """
    Physiology rows on all that is known, on a part of it, on a finding that is shown and on one that is not, as far as each
    is known; and a diagnosis row where a finding is shown.

    Args:
        folder (`str`): of the data set within the dataset, in front of the record's path.
        rng (`np.random.Generator`): Draws questions, and the part and the findings that are asked for.
    """
    modality = record.modality
    parts = {name: sentence for name in READING_PARTS[modality] if (sentence := _sentence(record, name))}
    rows = []
    if parts:
        question = _choose((PHYSIOLOGY_QUESTIONS[modality], *GENERAL_QUESTIONS), rng)
        rows.append(_row(record, folder, "", question, [text_part(" ".join(parts.values()), [modality])]))
        focus = _choose(list(parts), rng)
        question = _fill(_choose(FOCUSED_QUESTIONS, rng), group=focus)
        rows.append(_row(record, folder, "-part", question, [text_part(parts[focus], [modality])]))
    asked = [name for names in READING_PARTS[modality].values() for name in names]
    shown = [name for name in asked if name in record.shown]
    # what is usual is asked for where there is nothing else
    for kind, names in (
        ("-yes", [name for name in shown if name not in USUAL] or shown),
        ("-no", [name for name in asked if name in record.absent]),
    ):
        if names:
            name = _choose(names, rng)
            word = _choose([phrase for phrase in PHRASES[name] if not _NO_NOUN.search(phrase)], rng)
            answer = YES.format(PHRASES[name][0]) if kind == "-yes" else NO
            question = _fill(_choose(FINDING_QUESTIONS, rng), finding=word)
            rows.append(_row(record, folder, kind, question, [text_part(answer, [modality])]))
    if shown:
        question = _choose(DIAGNOSIS_QUESTIONS, rng)
        rows.append(_row(record, folder, DIAGNOSIS, question, _chain_of_evidence(record, shown, rng)))
    return rows


def _chain_of_evidence(record: OpenRecord, shown: list[str], rng: np.random.Generator) -> list[Part]:
    """Each finding, with the disease that it is evidence for; then the answer block."""
    clauses = []
    for name in shown:
        evident = [disease for disease in record.diseases if name in EVIDENCE[disease]]
        pointer = f", {_choose(POINTERS, rng)} {' and '.join(evident)}" if evident else ""
        clauses.append(_choose(PHRASES[name], rng) + pointer)
    none = "" if record.diseases else f"{_choose(NO_DISEASE, rng)}\n"
    reasoning = text_part(f"{TITLES[record.modality]}: {'; '.join(clauses)}.\n{none}", [record.modality])
    return [text_part("<think>"), reasoning, text_part(f"</think><answer>{'; '.join(record.diseases)}</answer>")]


def _sentence(record: OpenRecord, part: str) -> str | None:
    """One part of a reading, `Rhythm: sinus tachycardia.`, or None where nothing of it is known."""
    names = READING_PARTS[record.modality][part]
    text = ", ".join(PHRASES[name][0] for name in names if name in record.shown)
    if not text:
        if not all(name in record.absent for name in names if name not in USUAL) or set(names) & set(USUAL):
            return None
        text = NOTHING[0]
    return f"{part[0].upper()}{part[1:]}: {text}."


def _choose(options: Sequence[_Option], rng: np.random.Generator) -> _Option:
    return options[int(rng.integers(len(options)))]


def _fill(question: tuple[str, str], **words: str) -> tuple[str, str]:
    before, after = question
    return before.format(**words), after.format(**words)


def _row(record: OpenRecord, folder: str, name: str, question: tuple[str, str], completion: list[Part]) -> QARow:
    modality = record.modality
    path = f"{folder}/{record.path}"
    prompt = [text_part(question[0]), *list_modalities([modality]), text_part(question[1])]
    return {
        "id": f"{folder}-{record.id}{name}",
        "subject_id": f"{folder}-{record.subject_id}",
        "age": record.age,
        "sex": record.sex,
        "level": "diagnosis" if name == DIAGNOSIS else "physiology",
        "modalities": [modality],
        "prompt": [{"role": "user", "content": prompt}],
        "completion": [{"role": "assistant", "content": completion}],
        "ecg": path if modality == "ecg" else None,
        "cxr": path if modality == "cxr" else None,
        "lab": dict.fromkeys(LAB_NAMES),
        "diseases": record.diseases if name == DIAGNOSIS else [],
        "findings": record.shown,
        "absent_findings": record.absent,
    }
