# SPDX-License-Identifier: Apache-2.0
"""Prediction files: one JSON line per record, appended when it is generated, and a header file that identifies the run."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from modeling_medtvt import DISEASES, parse_answer
from processing_medtvt.patient_medtvt import MAX_AGE

from ..data.conversation import MODALITIES, message_text
from ..files import JsonlLog, keep_header, read_json, read_jsonl, write_json, write_jsonl, write_text
from .evidence_metrics import STATUSES


PREDICTIONS_FILE, HEADER_FILE, REJECTS_FILE = "predictions.jsonl", "run.json", "rejects.jsonl"
REQUIRED = ("id", "subject_id", "diseases", "reference", "completion")


def read_predictions(path: str | os.PathLike) -> list[dict]:
    """
    The checked lines of a predictions file. If the header of its run is in the same folder, no record may be missing.

    Raises:
        ValueError: naming the line and what is wrong with it: no JSON, a missing field, a text that is none, a label
            outside the seven, an id that stood before; or the ids that are missing or of another dataset.
    """
    records = read_jsonl(path)
    if not records:
        raise ValueError(f"{path} holds no prediction.")
    for number, record in enumerate(records, start=1):
        _check_record(record, f"{path}, line {number}")
    _check_ids([record["id"] for record in records], str(path))
    header_file = Path(path).with_name(HEADER_FILE)
    if Path(path).name == PREDICTIONS_FILE and header_file.is_file():
        header = read_json(header_file)
        ids = header.get("ids") if isinstance(header, dict) else None
        if not isinstance(ids, list) or not all(isinstance(name, str) for name in ids):
            raise ValueError(f"{header_file} does not list the `ids` of the run's records.")
        rejects_file = header_file.with_name(REJECTS_FILE)
        rejects = read_jsonl(rejects_file) if rejects_file.is_file() else []
        names = [reject.get("id") for reject in rejects if isinstance(reject, dict)]
        rejected = [name for name in names if isinstance(name, str)]
        check_same_ids(ids, [record["id"] for record in records], str(path), rejected)
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
            raise ValueError(f"{references}: record {i} names others than the seven: {', '.join(DISEASES)}.")
        record = {"id": str(i), "subject_id": str(i), "diseases": list(answer.diseases)}
        records.append({**record, "reference": reference, "completion": completion})
    return records


def _read_conversations(path: str | os.PathLike) -> list[tuple[str, str]]:
    records = read_json(path)
    try:
        pairs = [record["messages"][:2] for record in records]
        return [(message_text([question]), message_text([answer])) for question, answer in pairs]
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(
            f"{path} is no file of the authors, a JSON array of records with two `messages` each ({error!r})."
        ) from error


def _check_record(record: Any, where: str) -> None:
    if not isinstance(record, dict) or (missing := [key for key in REQUIRED if record.get(key) is None]):
        lacking = ", ".join(missing) if isinstance(record, dict) else "everything"
        raise ValueError(f"{where} lacks {lacking}; a prediction has {', '.join(REQUIRED)}.")
    for key in ("id", "subject_id", "reference", "completion"):
        if not isinstance(record[key], str):
            raise ValueError(f"{where}: `{key}` must be a string, got {type(record[key]).__name__}.")
    check_labels(record["diseases"], where)
    if (age := record.get("age")) is not None and not (_is_number(age) and 0 <= age <= MAX_AGE):
        raise ValueError(f"{where}: `age` must be a number of years in 0 to {MAX_AGE}, or null.")
    if record.get("sex") is not None and record["sex"] not in ("F", "M"):
        raise ValueError(f'{where}: `sex` must be "F", "M" or null.')
    for key in ("modalities", "labs_measured", "findings", "samples", "donor_diseases", "donor_findings"):
        values = record.get(key)
        if values is not None and not (isinstance(values, list) and all(isinstance(value, str) for value in values)):
            raise ValueError(f"{where}: `{key}` must be a list of strings.")
    if record.get("evidence") is not None:
        _check_evidence(record["evidence"], where)
    if record.get("donor_diseases") is not None:
        check_labels(record["donor_diseases"], where)
    for key, names, absent in (
        ("probabilities", DISEASES, False),
        ("calibrated", DISEASES, True),
        ("gates", MODALITIES, True),
    ):
        _check_numbers(record.get(key), names, absent, f"{where}: `{key}`")


def _check_evidence(found: Any, where: str) -> None:
    """Raises ValueError unless it has the form of [`EvidenceChecker`]."""
    is_one = isinstance(found, dict) and isinstance(found.get("statements"), list)
    is_one = is_one and all(map(_is_statement, found["statements"]))
    is_one = is_one and isinstance(found.get("unmentioned"), list) and _is_number(found.get("abnormal"))
    if not is_one or not len(found["unmentioned"]) <= found["abnormal"] < float("inf"):
        raise ValueError(
            f"{where}: `evidence` must be an object with statements (modality, finding, negated, status), unmentioned and "
            "abnormal, as `medtvt evaluate` writes it."
        )


def _is_statement(found: Any) -> bool:
    return (
        isinstance(found, dict)
        and isinstance(found.get("status"), str)
        and found["status"] in STATUSES.values()
        and isinstance(found.get("negated"), bool)
        and all(found.get(key) is None or isinstance(found[key], str) for key in ("modality", "finding"))
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _check_numbers(values: Any, names: Sequence[str], may_be_absent: bool, where: str) -> None:
    """Raises ValueError unless `values` is None or says a number from 0 to 1 for each of the names."""
    if values is None:
        return
    if not isinstance(values, dict) or set(values) != set(names):
        raise ValueError(f"{where} must be an object with {', '.join(names)}.")
    for name, value in values.items():
        if not (_is_number(value) and 0 <= value <= 1) and not (value is None and may_be_absent):
            raise ValueError(f"{where}: the value of {name} must be a number from 0 to 1.")


def check_labels(labels: Any, where: str) -> None:
    """
    Raises:
        ValueError: unless `labels` is a list of some of the seven diseases.
    """
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise ValueError(f"{where}: diseases must be a list of some of {', '.join(DISEASES)}.")
    if unknown := [label for label in labels if label not in DISEASES]:
        raise ValueError(f"{where}: {len(unknown)} labels are none of the seven diseases: {', '.join(DISEASES)}.")


def _check_ids(ids: Sequence[str], where: str) -> None:
    seen = set()
    for name in ids:
        if name in seen:
            raise ValueError(f"{where} has id {name!r} more than once.")
        seen.add(name)


def check_same_ids(expected: Iterable[str], found: Iterable[str], where: str, rejected: Iterable[str] = ()) -> None:
    """
    Raises:
        ValueError: if ids are missing, or of another dataset.
    """
    expected, found = set(expected), set(found)
    # an id may be a hospital's own, so none is quoted
    if foreign := found - expected:
        raise ValueError(f"{where} has {len(foreign)} ids of another dataset.")
    if missing := expected - found - set(rejected):
        raise ValueError(
            f"{where} lacks {len(missing)} of {len(expected)} records. A run that was stopped goes on when it is started "
            "again."
        )


def patient_of(row: Mapping) -> str:
    """Rows without a patient, as the authors' physiology files have them, stand for one each."""
    return row["subject_id"] or row["id"]


def describe_row(row: Mapping) -> dict:
    """What a line of predictions says of its row."""
    known = ("findings", "donor_modality", "donor_id", "donor_diseases", "donor_findings")
    return {
        "id": row["id"],
        "subject_id": patient_of(row),
        "age": row.get("age"),
        "sex": row.get("sex"),
        "diseases": list(row["diseases"] or []),
        "modalities": list(row["modalities"]),
        "labs_measured": [name for name, value in row["lab"].items() if value is not None and value == value],
        "reference": message_text(row["completion"]).strip(),
        **{key: row[key] for key in known if row.get(key) is not None},
    }


def copy_answers(source: Path, folder: Path, variant: str) -> None:
    """Starts a run with the answers of a finished one to equal rows, if it was not started before."""
    if not (folder / PREDICTIONS_FILE).exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_json({**read_json(source / HEADER_FILE), "variant": variant}, folder / HEADER_FILE)
        write_text((source / PREDICTIONS_FILE).read_text(encoding="utf-8"), folder / PREDICTIONS_FILE)


class PredictionWriter:
    """
    The predictions file of a run, for one that starts or goes on. Of several processes each writes a file of its own,
    predictions-{rank}.jsonl, which the first merges into predictions.jsonl in the end, or the next run where one died.

    Args:
        folder (`str` or `os.PathLike`): Made if missing.
        header (`dict`): What the predictions are of: `ids`, and whatever else must be the same for a run to go on.
        rank, count (`int`): Number of this process, and how many share the run.

    Attributes:
        done (`set[str]`): Ids of the records that have a prediction.

    Raises:
        ValueError: if the folder holds predictions of another dataset, model or setting.
        OSError: if another run has the folder open.
    """

    def __init__(self, folder: str | os.PathLike, header: dict, rank: int = 0, count: int = 1) -> None:
        self.folder = Path(folder)
        _check_ids(header["ids"], "The dataset")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.path, header_file = self.folder / PREDICTIONS_FILE, self.folder / HEADER_FILE
        if (self.path.exists() or self._shares()) and not header_file.exists():
            raise ValueError(f"{self.path} exists without {HEADER_FILE}, so nobody knows of what; remove or move it.")
        keep_header(header, header_file)
        with ExitStack() as stack:
            # the first process holds the merged file too, which keeps a second run out
            merged = stack.enter_context(JsonlLog(self.path)) if rank == 0 else None
            if merged is None or count > 1:
                self._log = stack.enter_context(JsonlLog(self.folder / f"{self.path.stem}-{rank}.jsonl"))
            else:
                self._log = merged
            self._merged = merged
            rejects = REJECTS_FILE if count == 1 else f"{Path(REJECTS_FILE).stem}-{rank}.jsonl"
            self._rejects = stack.enter_context(open(self.folder / rejects, "w", encoding="utf-8"))
            files = [self.path, *self._shares()]
            self.done = {record["id"] for file in files if file.exists() for record in read_jsonl(file)}
            self._stack = stack.pop_all()

    def _shares(self, name: str = PREDICTIONS_FILE) -> list[Path]:
        """Files that single processes wrote."""
        return sorted(self.folder.glob(f"{Path(name).stem}-*.jsonl"))

    def write(self, records: Iterable[dict]) -> None:
        """Appends records, with the system when this returns."""
        self._log.append(records)

    def reject(self, name: str, reason: str) -> None:
        """Lists a record whose inputs cannot be used."""
        self._rejects.write(json.dumps({"id": name, "reason": reason}) + "\n")
        self._rejects.flush()

    def merge(self, order: Sequence[str]) -> list[str]:
        """
        Moves what single processes wrote into predictions.jsonl and rejects.jsonl, in the given order of ids; for the
        first process, when all are done. Returns the reasons of rejected records.
        """
        if self._merged is None:
            raise ValueError("Only the first process merges what all have written.")
        files = self._shares()
        present = {record["id"] for record in read_jsonl(self.path)}
        new = {record["id"]: record for file in files for record in read_jsonl(file) if record["id"] not in present}
        self._merged.append(new[name] for name in order if name in new)
        rejects = [*self._shares(REJECTS_FILE), *self.folder.glob(REJECTS_FILE)]
        listed = {entry["id"]: entry for file in rejects for entry in read_jsonl(file)}
        answered = present | new.keys()  # a file that could not be read may have been repaired since
        entries = [listed[name] for name in order if name in listed and name not in answered]
        self._stack.close()
        for file in (*files, *rejects):
            file.unlink()
        if entries:
            write_jsonl(entries, self.folder / REJECTS_FILE)
        return [entry["reason"] for entry in entries]

    def __enter__(self) -> "PredictionWriter":
        return self

    def __exit__(self, *_: Any) -> None:
        self._stack.close()
