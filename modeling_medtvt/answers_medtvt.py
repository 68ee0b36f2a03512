# SPDX-License-Identifier: Apache-2.0
"""The answer format `<think>evidence</think><answer>Disease A; Disease B</answer>` and its one parser."""

from dataclasses import dataclass


DISEASES = (
    "Coronary Artery Disease",
    "Acute Renal Failure",
    "Hypertension",
    "Atrial Fibrillation",
    "Pneumonia",
    "Diabetes Mellitus",
    "Sepsis",
)

_LABELS = {disease.lower(): disease for disease in DISEASES}


@dataclass(frozen=True)
class ParsedAnswer:
    """
    Args:
        reasoning (`str`, *optional*): What stands between the first `<think>` and its end; None without such a block.
        answer (`str`, *optional*): What stands between the first `<answer>` and its end; None without such a block, ""
            where it is empty.
        diseases (`tuple[str]`): The known labels in the answer, each once, in the order of their first mention.
        unknown (`tuple[str]`): Entries of the answer that are none of the seven diseases.
    """

    reasoning: str | None
    answer: str | None
    diseases: tuple[str, ...]
    unknown: tuple[str, ...]


def _first_block(tag: str, text: str) -> str | None:
    # str.find is linear; a lazy regular expression would look for the end anew from every beginning
    start = text.find(f"<{tag}>")
    if start < 0:
        return None
    start += len(tag) + 2
    end = text.find(f"</{tag}>", start)
    return None if end < 0 else text[start:end].strip()


def parse_answer(text: str) -> ParsedAnswer:
    """
    Parses a completion. Entries of the answer are separated by semicolons; case, spacing and order do not matter, and
    a repeated label counts once. Of several answer blocks the first counts; text around it is ignored.
    """
    answer = _first_block("answer", text)
    entries = [" ".join(entry.split()) for entry in (answer or "").split(";")]
    entries = [entry for entry in entries if entry]
    return ParsedAnswer(
        reasoning=_first_block("think", text),
        answer=answer,
        diseases=tuple(dict.fromkeys(_LABELS[entry.lower()] for entry in entries if entry.lower() in _LABELS)),
        unknown=tuple(dict.fromkeys(entry for entry in entries if entry.lower() not in _LABELS)),
    )


__all__ = ["DISEASES", "ParsedAnswer", "parse_answer"]
