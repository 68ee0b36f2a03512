# SPDX-License-Identifier: Apache-2.0
"""Reads PTB-XL in its published layout, row by row: ptbxl_database.csv, scp_statements.csv, records500/ or records100/."""

import ast
import csv
import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from processing_medtvt.read_ecg_wfdb_medtvt import check_header, find_header

from ..data.rows import Reject
from .record import EVIDENCE, FOLDS, OpenRecord, check_path
from .scp_codes import KNOWN, read_statements


logger = logging.getLogger(__name__)
TABLE, STATEMENTS = "ptbxl_database.csv", "scp_statements.csv"
COLUMNS = ("ecg_id", "patient_id", "age", "sex", "scp_codes", "heart_axis", "strat_fold", "filename_lr", "filename_hr")
SECONDS = 10
LEADS = 12
# An age above 89 is published as 300
OLDEST = 90


def read_ptb_xl(folder: str | os.PathLike, rejects: list[Reject]) -> Iterator[OpenRecord]:
    """
    The records of PTB-XL, or of a folder with some of its rows. The whole table is checked before the first comes.

    Args:
        rejects (`list[Reject]`): Takes the records that cannot be used: a file is missing, damaged, not 10 s long or
            without 12 leads, or the row names no patient.

    Raises:
        ValueError: if a file or column is missing, a row cannot be read, a code is not in scp_statements.csv, an id occurs
            twice, or a patient is in two folds.
    """
    folder = Path(folder)
    without_likelihood, known = _read_statement_table(folder / STATEMENTS)
    _check_table(folder / TABLE, known)
    for number, row in _rows(folder / TABLE):
        codes, fold = _read_codes(row, f"{folder / TABLE}, row {number}"), int(row["strat_fold"])
        path, reason = _find_file(folder, row)
        if not row["patient_id"].strip():
            reason = "the table names no patient"
        if reason:
            rejects.append({"id": row["ecg_id"], "path": path or None, "reason": reason})
            continue
        shown, absent = read_statements(codes, row["heart_axis"].strip(), without_likelihood)
        age, sex = _read_age(row["age"]), _read_sex(row["sex"])
        patient = str(int(float(row["patient_id"])))
        diseases = [disease for disease, names in EVIDENCE.items() if any(name in shown for name in names)]
        yield OpenRecord(row["ecg_id"], patient, "ecg", path, fold, shown, absent, diseases, age, sex)


def _rows(file: Path) -> Iterator[tuple[int, dict[str, str]]]:
    if not file.is_file():
        raise ValueError(f"{file.parent} has no {file.name}; --ptb-xl takes the folder that PTB-XL unpacks to.")
    with open(file, encoding="utf-8", newline="") as lines:
        reader = csv.DictReader(lines)
        if missing := [name for name in COLUMNS if name not in (reader.fieldnames or ())]:
            raise ValueError(f"{file} has no column {', '.join(missing)}; PTB-XL's table has {', '.join(COLUMNS)}.")
        for number, row in enumerate(reader, start=1):
            yield number, {name: row[name] or "" for name in COLUMNS}


def _read_statement_table(file: Path) -> tuple[set[str], set[str]]:
    """The codes that stand without a likelihood (forms and rhythms), and all."""
    if not file.is_file():
        raise ValueError(f"{file.parent} has no {file.name}, which says what the codes of {TABLE} are.")
    with open(file, encoding="utf-8", newline="") as lines:
        reader = csv.DictReader(lines)
        names = reader.fieldnames or []
        if missing := [name for name in ("form", "rhythm") if name not in names]:
            raise ValueError(f"{file} has no column {', '.join(missing)}; it is not PTB-XL's.")
        rows = {row[names[0]]: row for row in reader}
    return {code for code, row in rows.items() if row["form"] or row["rhythm"]}, set(rows)


def _check_table(file: Path, known: set[str]) -> None:
    folds: dict[str, str] = {}
    ids: set[str] = set()
    codes: Counter[str] = Counter()
    for number, row in _rows(file):
        where = f"{file}, row {number}"
        if not row["ecg_id"] or row["ecg_id"] in ids:
            raise ValueError(f"{where}: `ecg_id` is empty, or stood before.")
        ids.add(row["ecg_id"])
        if row["strat_fold"] not in map(str, FOLDS):
            raise ValueError(f"{where}: `strat_fold` is {row['strat_fold']!r}; it is 1 to 10.")
        if row["patient_id"] and folds.setdefault(row["patient_id"], row["strat_fold"]) != row["strat_fold"]:
            raise ValueError(f"{where}: its patient is in another fold too, so splits would share patients.")
        codes.update(_read_codes(row, where).keys())
    if not ids:
        raise ValueError(f"{file} has no row.")
    if unknown := sorted(codes.keys() - known):
        raise ValueError(
            f"{file}: {', '.join(unknown)} are no statements of PTB-XL; {STATEMENTS} beside it lists {len(known)}."
        )
    if silent := sorted(codes.keys() - KNOWN):
        counts = ", ".join(f"{code} ({codes[code]})" for code in silent)
        logger.warning("No finding is known for these statements, which are left out: %s.", counts)


def _read_codes(row: Mapping[str, str], where: str) -> dict[str, float]:
    try:
        codes = ast.literal_eval(row["scp_codes"])
        return {str(code): float(likelihood) for code, likelihood in codes.items()}
    except (ValueError, SyntaxError, AttributeError, TypeError, RecursionError, MemoryError) as error:
        raise ValueError(f"{where}: `scp_codes` is no dict of statement to likelihood.") from error


def _find_file(folder: Path, row: Mapping[str, str]) -> tuple[str, str | None]:
    """The record at 500 Hz or, where that is not there, at 100 Hz; and why it cannot be used."""
    names = [row["filename_hr"], row["filename_lr"]]
    for name in names:
        if reason := check_path(name):
            return name, reason
    path = next((f"{name}.hea" for name in names if (folder / f"{name}.hea").is_file()), None)
    if path is None:
        return f"{names[0]}.hea", "neither the record at 500 Hz nor the one at 100 Hz is there"
    try:
        header = check_header(find_header(str(folder / path), "ecg"), path)
    except (ValueError, OSError) as error:
        return path, str(error)
    seconds = header.n_samples / header.sampling_rate
    if abs(seconds - SECONDS) > 0.01 or len(header.signals) != LEADS:
        return path, f"it has {len(header.signals)} leads of {seconds:g} s; PTB-XL's have {LEADS} of {SECONDS} s"
    return path, None


def _read_age(value: str) -> float | None:
    age = float(value) if value.strip() else None
    return None if age is None else min(age, float(OLDEST))


def _read_sex(value: str) -> Literal["F", "M"] | None:
    # 0 is male and 1 female, as the paper says
    return {"0": "M", "1": "F"}.get(value.strip().removesuffix(".0"))  # type: ignore[return-value]
