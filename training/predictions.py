# SPDX-License-Identifier: Apache-2.0
"""Prediction files: one JSON line a record, written as it is made, with a header file beside them that says of what."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from modeling_medtvt import DISEASES, parse_answer

from .data import write_text


PREDICTIONS_FILE, HEADER_FILE, REJECTS_FILE = "predictions.jsonl", "run.json", "rejects.jsonl"
REQUIRED = ("id", "subject_id", "diseases", "reference", "completion")


def message_text(messages: Sequence[Mapping]) -> str:
    """The text of a conversation's messages, in a row; modality parts as their placeholders."""
    pieces = []
    for message in messages:
        if isinstance(message["content"], str):
            pieces.append(message["content"])
        else:
            pieces += [
                part["text"] or "" if part["type"] == "text" else f"<{part['type']}>" for part in message["content"]
            ]
    return "".join(pieces)


def read_predictions(path: str | os.PathLike) -> list[dict]:
    """
    The checked lines of a predictions file. Where its header lies beside it, they must be all that the run was to make.

    Raises:
        ValueError: naming the line and what is wrong with it: no JSON, a missing field, a text that is none, a label
            outside the seven, an id that stood before; or the ids that are missing or of another dataset.
    """
    records = _read_lines(path)
    if not records:
        raise ValueError(f"{path} holds no prediction.")
    for number, record in enumerate(records, start=1):
        _check_record(record, f"{path}, line {number}")
    _check_ids([record["id"] for record in records], str(path))
    header_file = Path(path).with_name(HEADER_FILE)
    if Path(path).name == PREDICTIONS_FILE and header_file.is_file():
        header = json.loads(header_file.read_text(encoding="utf-8"))
        rejects_file = header_file.with_name(REJECTS_FILE)
        rejected = {reject["id"] for reject in _read_lines(rejects_file)} if rejects_file.is_file() else set()
        check_same_ids(header["ids"], [record["id"] for record in records], str(path), rejected)
    return records


def read_authors_predictions(path: str | os.PathLike, references: str | os.PathLike) -> list[dict]:
    """
    Records of two files of the authors: JSON arrays of `{"messages": [question, answer]}`, joined by position. They name
    no patients, so each record stands for one.

    Raises:
        ValueError: if lengths or questions differ: then the predictions are of another dataset.
    """
    predicted, expected = (_read_conversations(file) for file in (path, references))
    if len(predicted) != len(expected):
        raise ValueError(f"{path} has {len(predicted)} records, {references} {len(expected)}: not of one dataset.")
    records = []
    for i, ((question, completion), (asked, reference)) in enumerate(zip(predicted, expected)):
        if question != asked:
            raise ValueError(f"{path}: record {i} answers another question than record {i} of {references}.")
        answer = parse_answer(reference)
        if answer.unknown:
            raise ValueError(f"{references}: record {i} names {answer.unknown}; known are {', '.join(DISEASES)}.")
        record = {"id": str(i), "subject_id": str(i), "diseases": list(answer.diseases)}
        records.append({**record, "reference": reference, "completion": completion})
    return records


def _read_conversations(path) -> list[tuple[str, str]]:
    try:
        records = json.loads(Path(path).read_text(encoding="utf-8"))
        return [tuple(message_text([record["messages"][i]]) for i in (0, 1)) for record in records]
    except (json.JSONDecodeError, TypeError, KeyError, IndexError) as error:
        raise ValueError(
            f"{path} is no file of the authors, a JSON array of records with two `messages` each ({error!r})."
        ) from error


def _read_lines(path) -> list[dict]:
    """A last line without its end, which a killed run leaves, is no line."""
    text = Path(path).read_text(encoding="utf-8")
    records = []
    for number, line in enumerate(text[: text.rfind("\n") + 1].splitlines(), start=1):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number} is no JSON ({error}).") from error
    return records


def _check_record(record, where: str):
    if not isinstance(record, dict) or (missing := [key for key in REQUIRED if record.get(key) is None]):
        lacking = ", ".join(missing) if isinstance(record, dict) else "everything"
        raise ValueError(f"{where} lacks {lacking}; a prediction has {', '.join(REQUIRED)}.")
    for key in ("id", "subject_id", "reference", "completion"):
        if not isinstance(record[key], str):
            raise ValueError(f"{where}: `{key}` must be a string, got {type(record[key]).__name__}.")
    check_labels(record["diseases"], where)


def check_labels(labels, where: str):
    """
    Raises:
        ValueError: unless `labels` is a list of some of the seven diseases.
    """
    unknown = [label for label in labels if label not in DISEASES] if isinstance(labels, list) else [labels]
    if unknown:
        raise ValueError(f"{where}: {unknown} are none of the seven diseases: {', '.join(DISEASES)}.")


def _check_ids(ids: Sequence[str], where: str):
    seen = set()
    for name in ids:
        if name in seen:
            raise ValueError(f"{where} has id {name!r} more than once.")
        seen.add(name)


def check_same_ids(expected: Iterable[str], found: Iterable[str], where: str, rejected: Iterable[str] = ()):
    """
    Raises:
        ValueError: if ids are missing, or of another dataset.
    """
    expected, found = set(expected), set(found)
    if foreign := sorted(found - expected):
        raise ValueError(f"{where} has {len(foreign)} ids of another dataset, such as {foreign[0]!r}.")
    if missing := sorted(expected - found - set(rejected)):
        raise ValueError(
            f"{where} lacks {len(missing)} of {len(expected)} records, such as {missing[0]!r}. A run that was stopped "
            "goes on when it is started again."
        )


def fingerprint(values: Iterable[str]) -> str:
    """SHA-256 of strings, in their order."""
    digest = hashlib.sha256()
    for value in values:
        digest.update(hashlib.sha256(value.encode()).digest())
    return digest.hexdigest()


def hash_folder(folder: str | os.PathLike) -> str:
    """SHA-256 of what decides a checkpoint's answers: its weights, configs and tokenizer, names and contents."""
    digest = hashlib.sha256()
    for file in sorted(Path(folder).iterdir()):
        if file.suffix in (".safetensors", ".json", ".jinja", ".model", ".txt"):
            digest.update(file.name.encode())
            with open(file, "rb") as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()


def write_json(content, path: Path):
    """Writes a file that appears only when it is complete."""
    write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", path)


class PredictionWriter:
    """
    The predictions file of a run, for one that starts or goes on.

    Args:
        folder (`str` or `os.PathLike`): Made if missing.
        header (`dict`): What the predictions are of: `ids`, and whatever else must be the same for a run to go on.

    Raises:
        ValueError: if the folder holds predictions of another dataset, model or setting.
    """

    def __init__(self, folder: str | os.PathLike, header: dict):
        self.folder = Path(folder)
        _check_ids(header["ids"], "The dataset")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.path, header_file = self.folder / PREDICTIONS_FILE, self.folder / HEADER_FILE
        if self.path.exists() and not header_file.exists():
            raise ValueError(f"{self.path} exists without {HEADER_FILE}, so nobody knows of what; remove or move it.")
        if header_file.exists():
            before = json.loads(header_file.read_text(encoding="utf-8"))
            if differing := sorted(key for key in {*before, *header} if before.get(key) != header.get(key)):
                raise ValueError(
                    f"{self.folder} holds predictions of another run ({', '.join(differing)} differ); choose another "
                    "folder, or remove it."
                )
        else:
            write_json(header, header_file)
        self.done = set()
        if self.path.exists():
            self._drop_half_line()
            self.done = {record["id"] for record in _read_lines(self.path)}
        self._stream = open(self.path, "a", encoding="utf-8")
        self._rejects = open(self.folder / REJECTS_FILE, "w", encoding="utf-8")

    def _drop_half_line(self):
        with open(self.path, "rb+") as stream:
            content = stream.read()
            stream.truncate(content.rfind(b"\n") + 1)

    def write(self, records: Iterable[dict]):
        """Appends records, on disk when this returns."""
        for record in records:
            self._stream.write(json.dumps(record, ensure_ascii=False) + "\n")
        self._stream.flush()

    def reject(self, name: str, reason: str):
        """Lists a record whose inputs cannot be used."""
        self._rejects.write(json.dumps({"id": name, "reason": reason}, ensure_ascii=False) + "\n")
        self._rejects.flush()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._stream.close()
        self._rejects.close()
        rejects = self.folder / REJECTS_FILE
        if not rejects.stat().st_size:
            rejects.unlink()
