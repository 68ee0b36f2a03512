# SPDX-License-Identifier: Apache-2.0
"""Questions and answers about one open record: what its labels say, in the lexicon's words, and nothing else."""

from collections.abc import Sequence

import numpy as np

from processing_medtvt.findings_medtvt import PHRASES

from ..data.conversation import list_modalities, text_part
from ..data.rows import Modality, QARow
from ..data.schema import LAB_NAMES
from .record import OpenRecord


# {modality} stands between the halves
READING_QUESTIONS: dict[Modality, tuple[tuple[str, str], ...]] = {
    "ecg": (("What information can be derived from the ", "?"), ("Describe the findings of my ", ".")),
    "cxr": (("What does the ", " show?"), ("Describe the findings of my ", ".")),
}
FINDING_QUESTIONS = (("Does my ", " show {phrase}?"), ("Is there {phrase} in my ", "?"))


def make_rows(record: OpenRecord, folder: str, rng: np.random.Generator) -> list[QARow]:
    """
    A row with all that is known to be shown, and one each about a finding that is and one that is not.

    Args:
        folder (`str`): of the data set within the dataset, in front of the record's path.
        rng (`np.random.Generator`): Draws which findings are asked for, and the wording.
    """
    rows = []
    if record.shown:
        before, after = _choose(READING_QUESTIONS[record.modality], rng)
        text = _sentence(", ".join(_phrase(name, rng) for name in record.shown))
        rows.append(_row(record, folder, "", before, after, text))
    for kind, names in (("yes", record.shown), ("no", record.absent)):
        if names:
            phrase = _phrase(_choose(names, rng), rng)
            before, after = (part.format(phrase=phrase) for part in _choose(FINDING_QUESTIONS, rng))
            text = f"Yes, {phrase}." if kind == "yes" else f"No, no {phrase}."
            rows.append(_row(record, folder, f"-{kind}", before, after, text))
    return rows


def _choose(options: Sequence, rng: np.random.Generator):  # type: ignore[no-untyped-def, type-arg]
    return options[int(rng.integers(len(options)))]


def _phrase(name: str, rng: np.random.Generator) -> str:
    return str(_choose(PHRASES[name], rng))


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _row(record: OpenRecord, folder: str, name: str, before: str, after: str, text: str) -> QARow:
    modality = record.modality
    path = f"{folder}/{record.path}"
    prompt = [text_part(before), *list_modalities([modality]), text_part(after)]
    return {
        "id": f"{folder}-{record.id}{name}",
        "subject_id": f"{folder}-{record.subject_id}",
        "age": record.age,
        "sex": record.sex,
        "level": "physiology",
        "modalities": [modality],
        "prompt": [{"role": "user", "content": prompt}],
        "completion": [{"role": "assistant", "content": [text_part(text, [modality])]}],
        "ecg": path if modality == "ecg" else None,
        "cxr": path if modality == "cxr" else None,
        "lab": dict.fromkeys(LAB_NAMES),
        "diseases": [],
        "findings": record.shown,
        "absent_findings": record.absent,
    }
