# SPDX-License-Identifier: Apache-2.0
"""Questions of the dataset, and the four-part prompts (role, task, guidance, format) that a teacher gets."""

import hashlib
import re
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from ..data.conversation import MODALITIES, list_modalities, text_part
from ..data.rows import Modality, Part
from .evidence import TITLES, Evidence, list_evidence


TEMPLATES = Path(__file__).parent / "templates"
PARTS = ("role", "task", "guidance", "format")


class Request(NamedTuple):
    """
    One answer to be written.

    Args:
        id (`str`): of the row: `{hadm_id}-ecg`, `-cxr`, `-lab` or `-diagnosis`.
        level (`str`), modalities (`list[str]`): as in the schema.
        row (`dict`): the admission, a row of the cohort.
        evidence (`dict[str, Evidence]`): of these modalities.
        messages (`list[dict[str, str]]`): the teacher's prompt.
        question (`list[Part]`): content parts of the dataset's question.
    """

    id: str
    level: str
    modalities: list[Modality]
    row: dict[str, Any]
    evidence: dict[Modality, Evidence]
    messages: list[dict[str, str]]
    question: list[Part]


@cache
def _read_template(path: Path) -> dict[str, str]:
    pieces = re.split(r"^# (\w+)\n", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {name: text.strip() for name, text in zip(pieces[1::2], pieces[2::2])}


def read_template(name: str, folder: Path = TEMPLATES) -> dict[str, str]:
    """
    The sections of a template file; a section begins with `# name`.

    Raises:
        ValueError: if a part is missing.
    """
    sections = _read_template(folder / f"{name}.txt")
    wanted = (*MODALITIES, "diagnosis") if name == "questions" else PARTS
    missing = [part for part in wanted if not sections.get(part)]
    if missing:
        raise ValueError(f"{folder / name}.txt: has no section {', '.join(missing)}; it needs {', '.join(wanted)}.")
    return sections


def make_requests(rows: list[dict[str, Any]], seed: int = 0, folder: Path = TEMPLATES) -> list[Request]:
    """A request for each modality of each admission, and one for its diseases, in the order of the rows."""
    requests = []
    for row in rows:
        evidence = list_evidence(row)
        for modality in evidence:
            requests.append(_make_request(row, modality, "physiology", {modality: evidence[modality]}, seed, folder))
        if evidence:
            requests.append(_make_request(row, "diagnosis", "diagnosis", evidence, seed, folder))
    return requests


def _make_request(
    row: dict[str, Any], name: str, level: str, evidence: dict[Modality, Evidence], seed: int, folder: Path
) -> Request:
    request_id = f"{row['hadm_id']}-{name}"
    template = read_template(name, folder)
    diseases = "; ".join(row["diseases"])
    lines = "\n".join(f"{TITLES[modality]}: what it shows and supports." for modality in evidence)
    filled = {
        part: template[part].replace("{diseases}", diseases if part == "format" else diseases or "none of the seven")
        for part in PARTS
    }
    filled["format"] = filled["format"].replace("{lines}", lines)
    listed = "\n\n".join(f"{TITLES[modality]}\n" + "\n".join(found.lines) for modality, found in evidence.items())
    messages = [
        {"role": "system", "content": f"{filled['role']}\n\n{filled['guidance']}\n\n{filled['format']}"},
        {"role": "user", "content": f"{filled['task']}\n\n{listed}"},
    ]
    questions = read_template("questions", folder)[name].splitlines()
    before, after = questions[pick(len(questions), seed, request_id)].split("{data}")
    question = [text_part(before), *list_modalities(list(evidence)), text_part(after)]
    return Request(request_id, level, list(evidence), row, evidence, messages, question)


def pick(number: int, *of: object) -> int:
    """An index below `number` that depends on the other arguments alone."""
    digest = hashlib.sha256(":".join(map(str, of)).encode()).digest()
    return int.from_bytes(digest[:8], "big") % number
