# SPDX-License-Identifier: Apache-2.0
"""Rows that ask the pipeline's question about one modality, for records that come with no question of their own."""

from collections.abc import Mapping
from typing import Any

from ..data.conversation import list_modalities, text_part
from ..data.rows import Modality, QARow
from ..data.schema import LAB_NAMES


def ask_diagnosis(name: str, modality: Modality, value: Any, known: Mapping[str, Any] | None = None) -> QARow:
    """
    A row of the diagnosis level.

    Args:
        name (`str`): Id of the row.
        modality (`str`): The only one that is given.
        value: Path of the record or the film, or values of labs by name.
        known (`Mapping`, *optional*): What is known of the patient: `subject_id`, `age`, `sex`, `diseases`, `findings`,
            `absent_findings`.
    """
    known = known or {}
    prompt = [text_part("Can you analyze my "), *list_modalities([modality])]
    diseases = list(known.get("diseases") or [])
    return {
        "id": name,
        "subject_id": known.get("subject_id") or name,
        "age": known.get("age"),
        "sex": known.get("sex"),
        "level": "diagnosis",
        "modalities": [modality],
        "prompt": [{"role": "user", "content": [*prompt, text_part(" to determine my probable conditions?")]}],
        # no text is compared with it
        "completion": [{"role": "assistant", "content": [text_part(f"<answer>{'; '.join(diseases)}</answer>")]}],
        "ecg": value if modality == "ecg" else None,
        "cxr": value if modality == "cxr" else None,
        "lab": {**dict.fromkeys(LAB_NAMES), **(value if modality == "lab" else {})},
        "diseases": diseases,
        "findings": known.get("findings"),
        "absent_findings": known.get("absent_findings"),
    }
