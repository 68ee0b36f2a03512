# SPDX-License-Identifier: Apache-2.0
"""
Content parts of MedTVT-QA's conversations. A part says which modalities it belongs to, or cites as evidence, so that a
modality can be withheld from a question and its answer.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from .rows import Message, Modality, Part, QARow


MODALITIES: tuple[Modality, ...] = ("ecg", "cxr", "lab")
MODALITY_NAMES: dict[Modality, str] = {"ecg": "ECG", "cxr": "CXR", "lab": "lab result"}


def text_part(text: str, modalities: list[Modality] | None = None) -> Part:
    """A piece of text, and the modalities that it belongs to or cites."""
    return {"type": "text", "text": text, "modalities": modalities}


def list_modalities(modalities: Sequence[Modality]) -> list[Part]:
    """Content parts that read "ECG <ecg>, CXR <cxr> and lab result <lab>", for any subset."""
    parts: list[Part] = []
    for i, modality in enumerate(modalities):
        if i:
            parts.append(text_part(" and " if i == len(modalities) - 1 else ", ", list(modalities)))
        parts.append(text_part(f"{MODALITY_NAMES[modality]} ", [modality]))
        parts.append({"type": modality, "text": None, "modalities": [modality]})
    return parts


def withhold(row: QARow, modality: Modality) -> QARow:
    """
    The row without one of its modalities: the question no longer offers it, the answer no longer cites it, and what it
    says about the diseases stays.

    Raises:
        ValueError: if the parts of the row do not say which modality they belong to, or nothing would remain.
    """
    kept = [name for name in row["modalities"] if name != modality]
    if not kept:
        raise ValueError(f"Row {row['id']} has no modality but {modality!r}, so it cannot be withheld.")
    prompt: list[Message] = []
    for message in row["prompt"]:
        tagged = [i for i, part in enumerate(message["content"]) if part["modalities"]]
        if tagged:
            content = message["content"]
            content = [*content[: tagged[0]], *list_modalities(kept), *content[tagged[-1] + 1 :]]
            message = {**message, "content": content}
        prompt.append(message)
    if not any(part["modalities"] for message in row["prompt"] for part in message["content"]):
        raise ValueError(
            f"The prompt of row {row['id']} does not say which of its parts belong to a modality (`modalities`), so "
            f"{modality!r} cannot be withheld."
        )
    if not any(part["modalities"] for message in row["completion"] for part in message["content"]):
        raise ValueError(
            f"The completion of row {row['id']} does not say which evidence cites which modality (`modalities`), so "
            f"{modality!r} cannot be withheld."
        )
    completion: list[Message] = [
        {
            **message,
            "content": [part for part in message["content"] if modality not in (part["modalities"] or [])],
        }
        for message in row["completion"]
    ]
    # names of findings begin with the modality that shows them
    own = f"{modality}:"
    findings, absent = (
        names and [name for name in names if not name.startswith(own)]
        for names in (row.get("findings"), row.get("absent_findings"))
    )
    return {
        **row,
        "modalities": kept,
        "prompt": prompt,
        "completion": completion,
        "findings": findings,
        "absent_findings": absent,
    }


def message_text(messages: Sequence[Mapping[str, Any]]) -> str:
    """The text of a conversation's messages, in a row; modality parts as their placeholders."""
    pieces = []
    for message in messages:
        content = message["content"] or ()
        if isinstance(content, str):
            pieces.append(content)
        else:
            pieces += [part.get("text") or "" if part["type"] == "text" else f"<{part['type']}>" for part in content]
    return "".join(pieces)
