# SPDX-License-Identifier: Apache-2.0
"""
The authors' layout of MedTVT-QA: JSON records (`messages` and one list of paths) and, for what the records do not
hold, CSV tables of Symile-MIMIC. Text and signals are joined by row position, as in the authors' code; there is no id
to join by. What can be checked is that a table has as many rows as its JSON file, and a difference is refused.

Files are looked for in the folder and in its subfolder `QA`. ECG paths are relative to the root of MIMIC-IV-ECG,
X-ray paths to that of MIMIC-CXR-JPG. Of the labs, the measured values are used (columns named by item id), not the
ready percentiles; `processor.lab_feature_extractor.fit(<folder>/train.csv)` gives these percentiles back.
"""

import math
import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any, NamedTuple, cast

from modeling_medtvt import parse_answer
from processing_medtvt import LAB_DEFINITIONS
from processing_medtvt.processing_medtvt import PLACEHOLDER

from ..files import read_json
from .conversation import MODALITIES, text_part
from .rejects import Reject
from .rows import Message, Modality, Part, QARow
from .schema import LAB_NAMES


class AuthorsSource(NamedTuple):
    """A JSON file, the key of its list of paths with the column they belong to, and the table joined by position."""

    json: str
    path_key: str | None = None
    path_column: Modality | None = None
    csv: str | None = None


_PHYSIOLOGY = "train_{}_qa_dataset_gpt_add_spec_token.json"
AUTHORS_FILES = {
    ("physiology", "train"): (
        AuthorsSource(_PHYSIOLOGY.format("ecg"), path_key="ECG", path_column="ecg"),
        AuthorsSource(_PHYSIOLOGY.format("cxr"), path_key="image", path_column="cxr"),
        AuthorsSource(_PHYSIOLOGY.format("lab"), csv="train.csv"),
    ),
    ("diagnosis", "train"): (
        AuthorsSource(
            "train_dig_qa_dataset_gpt_7_category_refine_add_spec_token.json", csv="train_filtered_7_catagory.csv"
        ),
    ),
    ("diagnosis", "test"): (
        AuthorsSource("test_dig_qa_dataset_gpt_7_category_add_spec_token.json", csv="test_dip.csv"),
    ),
}


def find_authors_file(folder: Path, name: str) -> Path | None:
    """The file in the folder or in its subfolder `QA`."""
    return next((path for path in (folder / name, folder / "QA" / name) if path.is_file()), None)


def read_authors_rows(folder: Path, level: str, split: str) -> tuple[list[QARow], list[Reject]]:
    """Rows of our schema, and the records that cannot become one as rejects (`id`, `path`, `reason`)."""
    sources = AUTHORS_FILES.get((level, split))
    if sources is None:
        known = ", ".join(f"{level}/{split}" for level, split in AUTHORS_FILES)
        raise FileNotFoundError(f"{folder}: the authors' layout has no {level}/{split}; it has {known}.")
    rows: list[QARow] = []
    rejects: list[Reject] = []
    for source in sources:
        file = find_authors_file(folder, source.json)
        if file is None:
            raise FileNotFoundError(f"{folder}: {source.json} is neither in it nor in its subfolder QA.")
        records = _read_records(file)
        table = _read_table(folder, source, len(records))
        for i, record in enumerate(records):
            row_id = f"{file.stem}:{i}"
            try:
                rows.append(_convert(record, table[i] if table else {}, source, level, row_id))
            except ValueError as error:
                rejects.append({"id": row_id, "path": None, "reason": str(error)})
    return rows, rejects


def _read_records(file: Path) -> list[Any]:
    records = read_json(file)
    if not isinstance(records, list):
        raise ValueError(f"{file}: must be a JSON array of records; it is a {type(records).__name__}.")
    return records


def _read_table(folder: Path, source: AuthorsSource, num_records: int) -> list[dict[Hashable, Any]]:
    """One dict a record: the columns of a row of Symile-MIMIC; empty without a table."""
    if source.csv is None:
        return []
    import pandas as pd

    file = find_authors_file(folder, source.csv)
    if file is None:
        raise FileNotFoundError(
            f"{folder}: {source.csv}, the table whose rows belong to {source.json}, is neither in it nor in its "
            "subfolder QA."
        )
    try:
        table = pd.read_csv(file, low_memory=False)
    except (ValueError, OSError) as error:  # of pandas' parser, decoder and decompressors; they quote cells
        raise ValueError(f"{file}: not a readable CSV file in UTF-8 ({type(error).__name__}).") from error
    if len(table) != num_records:
        raise ValueError(
            f"{file} has {len(table)} rows, {source.json} {num_records} records. They are joined by position, so one "
            "belongs to other patients than the other; give the table that the records were made from."
        )
    missing = [name for name in _LAB_COLUMNS.values() if name not in table.columns]
    if missing:
        raise ValueError(f"{file}: has no column {', '.join(missing)} (labs by item id).")
    return table.astype(object).where(table.notna(), None).to_dict("records")


_LAB_COLUMNS = {lab.name: str(lab.itemids[0]) for lab in LAB_DEFINITIONS}


def _convert(record: Any, values: dict[Hashable, Any], source: AuthorsSource, level: str, row_id: str) -> QARow:
    prompt, completion = _split_messages(record)
    modalities = [part["type"] for message in prompt for part in message["content"] if part["type"] != "text"]
    paths = {"ecg": values.get("ecg_path"), "cxr": values.get("cxr_path")}
    if source.path_key is not None and source.path_column is not None:
        found = record.get(source.path_key)
        if not isinstance(found, list) or len(found) != 1 or not isinstance(found[0], str):
            raise ValueError(f"`{source.path_key}` must be a list of one path")
        paths[source.path_column] = found[0]
    if wrong := [name for name, path in paths.items() if not isinstance(path, str | None)]:
        raise ValueError(f"its {wrong[0]} path is no text")
    lab = {name: _to_number(name, values.get(column)) for name, column in _LAB_COLUMNS.items()}
    answer = parse_answer(completion)
    if level == "diagnosis" and (answer.answer is None or answer.unknown):
        raise ValueError(
            "its answer names others than the seven diseases" if answer.unknown else "it has no <answer> block"
        )
    given = {**paths, "lab": any(value is not None for value in lab.values())}
    missing = [modality for modality in modalities if not given[modality]]
    if missing or len(set(modalities)) < len(modalities):
        raise ValueError(
            f"its question has the placeholders {modalities}" + f", {missing} have no input" * bool(missing)
        )
    subject_id = values.get("subject_id")
    if subject_id is None:
        match = re.search(r"(?:^|/)p(\d{8})(?:/|$)", paths["ecg"] or paths["cxr"] or "")
        subject_id = match and match.group(1)
    return {
        "id": row_id,
        "subject_id": None if subject_id is None else str(subject_id),
        "age": None,
        "sex": None,
        "level": level,
        "modalities": [modality for modality in MODALITIES if modality in modalities],
        "prompt": prompt,
        "completion": [{"role": "assistant", "content": [text_part(completion)]}],
        "ecg": paths["ecg"] if "ecg" in modalities else None,
        "cxr": paths["cxr"] if "cxr" in modalities else None,
        "lab": lab if "lab" in modalities else dict.fromkeys(LAB_NAMES),
        "diseases": list(answer.diseases),
        "findings": None,
    }


def _to_number(name: str, value: Any) -> float | None:
    try:
        number = None if value is None else float(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"its {name} is no number") from error
    if number is not None and not math.isfinite(number):
        raise ValueError(f"its {name} is not finite")
    return number


def _split_messages(record: Any) -> tuple[list[Message], str]:
    """Messages of the prompt, placeholders turned into parts, and the text of the answer."""
    messages = record.get("messages") if isinstance(record, dict) else None
    if not isinstance(messages, list) or len(messages) < 2:
        raise ValueError("it has no `messages` with a question and an answer")
    for message in messages:
        if not isinstance(message, dict) or not all(isinstance(message.get(key), str) for key in ("role", "content")):
            raise ValueError("a message needs the texts `role` and `content`")
        if any("\ud800" <= character <= "\udfff" for character in message["role"] + message["content"]):
            raise ValueError("a message holds half a surrogate pair, which is no character")
    if messages[-1]["role"] != "assistant" or not messages[-1]["content"].strip():
        raise ValueError("its last message is no answer of the assistant")
    if PLACEHOLDER.search(messages[-1]["content"]):
        raise ValueError("its answer holds a placeholder")
    *asked, answer = messages
    prompt: list[Message] = [
        {"role": message["role"], "content": _split_text(message["content"])} for message in asked
    ]
    return prompt, answer["content"]


def _split_text(text: str) -> list[Part]:
    parts: list[Part] = []
    for i, piece in enumerate(PLACEHOLDER.split(text)):  # every second piece is the name of a placeholder
        if i % 2:
            parts.append({"type": piece, "text": None, "modalities": [cast(Modality, piece)]})
        elif piece:
            parts.append(text_part(piece))
    return parts
