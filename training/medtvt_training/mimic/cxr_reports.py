# SPDX-License-Identifier: Apache-2.0
"""
Radiology reports of MIMIC-CXR: findings and impression alone, without what one film cannot show (comparisons, history,
who was called) and without de-identification gaps.
"""

import re
from pathlib import Path


KEPT_SECTIONS = ("findings", "impression", "findings and impression", "findings/impression", "conclusion")
_HEADING = re.compile(r"^[ \t]*([A-Z][A-Z /&,()-]{3,40}):", re.MULTILINE)
# Wordings of change that leave a sentence whole when they go
_COMPARISON_PHRASES = re.compile(
    r"(?:^|,?\s)(?:(?:as|when)\s+)?(?:in comparison|compared?|in contrast)\s+(?:to|with)\b[^,.;]*[,]?"
    r"|,?\s*\bsince\s+(?:the\s+)?(?:prior|previous|study|exam\w*|film|radiograph|_+)[^,.;]*"
    r"|\bas (?:before|previously (?:seen|noted|described))\b"
    r"|\b(?:again|unchanged|stable|stably|persistent|persistently|redemonstrated|re-demonstrated)\b(?:\s+(?:seen|noted|demonstrated))?",
    re.IGNORECASE,
)
# Where one of these is left, the sentence is about another time, another film or a person
_DROPPED = re.compile(
    r"_{2,}|\b(?:prior|previous\w*|compar\w+|interval\w*|new|newly|improv\w+|worsen\w+|increased? (?:since|from)"
    r"|decreased? (?:since|from)|change[sd]?|unchanged|former\w*|earlier|recent\w*|progress\w+|resol\w+"
    r"|history|status post|s/p|known|discussed|telephone\w*|phone[d]?|paged?|notified|communicat\w+|dr\.?|findings were"
    r"|recommend\w*|follow-?up|clinical correlation|request\w*|year-old|yo|patient's name|study of|today)\b"
    r"|\d{1,2}[:/]\d{2}|\b(?:19|20|21)\d\d\b",
    re.IGNORECASE,
)
_ORDINALS = re.compile(r"(?<![\w.])\d{1,2}\.\s+(?=[A-Z])")


def read_report(text: str) -> str:
    """
    Findings and impression of a report as sentences that stand alone; `""` if it has neither, or nothing remains.
    """
    headings = list(_HEADING.finditer(text))
    sentences = []
    for heading, after in zip(headings, [*headings[1:], None]):
        if heading.group(1).strip().lower() in KEPT_SECTIONS:
            sentences += _sentences(text[heading.end() : after.start() if after else len(text)])
    cleaned = [_without_comparison(sentence) for sentence in sentences]
    return " ".join(dict.fromkeys(sentence for sentence in cleaned if sentence))


def report_path(folder: Path, subject_id: int, study_id: int) -> Path:
    """Where MIMIC-CXR keeps a study's report."""
    return folder / "files" / f"p{str(subject_id)[:2]}" / f"p{subject_id}" / f"s{study_id}.txt"


def _sentences(section: str) -> list[str]:
    section = _ORDINALS.sub("", re.sub(r"\s+", " ", section).strip())
    return re.split(r"(?<=[.!?])\s+(?=[A-Z(])", section.replace("Dr. ", "Dr "))


def _without_comparison(sentence: str) -> str:
    sentence = _COMPARISON_PHRASES.sub(" ", sentence)
    sentence = re.sub(r"\s+([,.;])", r"\1", re.sub(r"\s+", " ", sentence)).strip(" ,;")
    if _DROPPED.search(sentence) or len(re.findall(r"[A-Za-z]{2,}", sentence)) < 2:
        return ""
    sentence = sentence[0].upper() + sentence[1:]
    return sentence if sentence.endswith((".", "!", "?")) else f"{sentence}."
