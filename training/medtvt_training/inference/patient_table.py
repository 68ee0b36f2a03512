# SPDX-License-Identifier: Apache-2.0
"""A table with a row a patient: where the inputs are, and what is known beside them."""

import csv
import io
import os
from pathlib import Path
from typing import Any, NamedTuple

from modeling_medtvt.pipeline_medtvt import split_leads

from ..files import fingerprint


PATHS = ("ecg", "cxr", "lab")
COLUMNS = ("id", *PATHS, "question", "sampling_rate", "leads", "unit", "age", "sex")


class TablePatient(NamedTuple):
    """
    A row of the table.

    Args:
        id (`str`): As the table has it; no other row has it.
        fingerprint (`str`): Of what the row says, to tell whether it has changed.
        inputs (`dict`): What the pipeline takes, with absolute paths; what the row leaves empty is left out.
        problem (`str`, *optional*): Why the row cannot be used, where that shows before its files are opened.
        path (`str`, *optional*): The path that is to blame, as the table has it.
    """

    id: str
    fingerprint: str
    inputs: dict[str, Any]
    problem: str | None = None
    path: str | None = None


def read_patient_table(path: str | os.PathLike, root: str | os.PathLike | None = None) -> list[TablePatient]:
    """
    The patients of a CSV file (UTF-8; comma, semicolon or tab) with the column `id` and any of `ecg`, `cxr`, `lab`,
    `question`, `sampling_rate`, `leads`, `unit`, `age`, `sex`.

    Args:
        path (`str` or `os.PathLike`): The table.
        root (`str` or `os.PathLike`, *optional*): Folder that its paths are relative to, and that they have to stay
            inside; the table's own by default.

    Raises:
        ValueError: if it is no such table. Rows are named by their number, and cells are not quoted.
        OSError: if it cannot be read.
    """
    header, rows = _read_csv(Path(path))
    folder = Path(root if root is not None else Path(path).parent).resolve()
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder, so the paths of {path} cannot be relative to it.")
    patients: list[TablePatient] = []
    first: dict[str, int] = {}
    for number, row in rows:
        cells = {name: cell.strip() for name, cell in zip(header, row) if cell.strip()}
        if "id" not in cells:
            raise ValueError(f"{path}: row {number} has no id.")
        if cells["id"] in first:
            raise ValueError(f"{path}: rows {first[cells['id']]} and {number} have the same id.")
        first[cells["id"]] = number
        patients.append(_make_patient(cells, folder))
    return patients


def _read_csv(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The names of the columns, and the rows that are not blank with their numbers."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no table of patients: byte {error.start} is not UTF-8.") from error
    first_line = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=first_line.count)
    try:
        lines = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise ValueError(f"{path} is no table of comma-separated values: a quote or a cell is damaged.") from error
    numbered = [(number, line) for number, line in enumerate(lines, start=1) if any(cell.strip() for cell in line)]
    if len(numbered) < 2:
        raise ValueError(
            f"{path} holds no patient: a header with {', '.join(COLUMNS)}, and a row a patient are needed."
        )
    header = [name.strip().casefold() for name in numbered[0][1]]
    # a file without a header has a patient's cells in its place, so none is quoted
    for position, name in enumerate(header, start=1):
        if name not in COLUMNS or header.index(name) != position - 1:
            problem = "twice" if name in COLUMNS else "unknown"
            raise ValueError(f"{path}: the name of column {position} is {problem}; columns are {', '.join(COLUMNS)}.")
    if "id" not in header:
        raise ValueError(f"{path} has no column id; columns are {', '.join(COLUMNS)}.")
    for number, line in numbered[1:]:
        if len(line) != len(header):
            raise ValueError(
                f"{path}: row {number} has {len(line)} cells and the header {len(header)}. A cell with a "
                f"{'tab' if delimiter == chr(9) else delimiter} must be quoted."
            )
    return header, numbered[1:]


def _make_patient(cells: dict[str, str], folder: Path) -> TablePatient:
    inputs: dict[str, Any] = {name: cell for name, cell in cells.items() if name != "id"}
    row = fingerprint(f"{name}={cell}" for name, cell in sorted(inputs.items()))[:16]
    for name in PATHS:
        if name not in inputs:
            continue
        try:
            resolved = (folder / inputs[name]).resolve()
        except (OSError, RuntimeError, ValueError):  # too long, a loop of links, a null byte
            return TablePatient(cells["id"], row, {}, f"{name}: the path is none.", cells[name])
        if not resolved.is_relative_to(folder):
            reason = f"{name}: the path leads out of {folder}; choose a folder that holds all files with --root."
            return TablePatient(cells["id"], row, {}, reason, cells[name])
        inputs[name] = str(resolved)
    if "sampling_rate" in inputs:
        try:
            inputs["sampling_rate"] = float(inputs["sampling_rate"])
        except ValueError:
            return TablePatient(cells["id"], row, {}, "ecg: sampling_rate must be a number, in Hz.", cells.get("ecg"))
    if "leads" in inputs:
        inputs["leads"] = split_leads(inputs["leads"])
    return TablePatient(cells["id"], row, inputs)
