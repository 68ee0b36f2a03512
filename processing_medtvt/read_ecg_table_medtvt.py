# SPDX-License-Identifier: Apache-2.0
"""Tables with a row a sample and a column a lead: a digitizer's CSV, PhysioNet's `rdsamp -csv`, a DataFrame."""

import csv
import io
import re
from pathlib import Path
from typing import Any

import numpy as np

from .leads_ecg_medtvt import canonical_lead, millivolts
from .recording_medtvt import MAX_SAMPLING_RATE, MAX_VALUES, MIN_SAMPLING_RATE, Recording, check_size


MAX_BYTES = 20 * MAX_VALUES
# "V1 [uV]", "II (mV)", "aVR_mV"
WITH_UNIT = re.compile(r"(?P<name>.*?)\s*[\[(_,/ ]\s*(?P<unit>[^\s\[\](),_/]+)\s*[\])]?")
TIME = re.compile(
    r"(elapsed[\s_]*)?(t|times?|time[\s_-]?stamps?|zeit|temps|tiempo|sec(onds?)?|milliseconds?)", re.IGNORECASE
)
SECONDS = {"s": 1.0, "sec": 1.0, "second": 1.0, "seconds": 1.0, "ms": 1e-3, "msec": 1e-3, "us": 1e-6, "\u03bcs": 1e-6}
SECONDS |= {"millisecond": 1e-3, "milliseconds": 1e-3}


def is_table(head: bytes) -> bool:
    """Whether a file's first bytes are a table's: text whose first lines hold a lead's name and a separator."""
    text = _decode(head)
    return text is not None and _find_heading(text.splitlines()[:50]) is not None


def read_table(path: str, name: str) -> Recording:
    """
    A text table whose heading names the leads. The rate comes from the time column, the unit from the heading or a row
    below it, where they are there.

    Raises:
        ValueError: if the file is too large or no such table.
    """
    if Path(path).stat().st_size > MAX_BYTES:
        raise ValueError(f"{name}: the table has more than {MAX_BYTES} bytes; cut the recording first.")
    text = _decode(Path(path).read_bytes())
    lines = (text or "").splitlines()
    start = _find_heading(lines[:50])
    if start is None:
        raise ValueError(f"{name}: the table has no heading with lead names (time, I, II, ... V6).")
    separator = _separator(lines[start])
    try:
        rows = [row for row in csv.reader(io.StringIO("\n".join(lines[start:])), delimiter=separator) if any(row)]
    except csv.Error as err:
        raise ValueError(f"{name}: the table is damaged: a cell is too long.") from err
    heading = [cell.strip().strip("'") for cell in rows[0]]
    below = [cell.strip().strip("'") for cell in rows[1]] if len(rows) > 1 else []
    has_units = len(below) == len(heading) and any(millivolts(cell) for cell in below)
    body = rows[2:] if has_units else rows[1:]
    check_size(len(heading), len(body), name)
    for number, row in enumerate(body, start=start + 2 + has_units):
        if len(row) < len(heading) or any(cell.strip() for cell in row[len(heading) :]):
            raise ValueError(f"{name}: row {number} of the table has {len(row)} cells, the heading {len(heading)}.")
    columns = [
        _numbers([row[i] for row in body], f"{name}: column {i + 1} of the table")
        if canonical_lead(_name_and_unit(label)[0]) or _is_time(label)
        else None
        for i, label in enumerate(heading)
    ]
    return _from_columns(heading, columns, below if has_units else None, name)


def read_frame(frame: Any, name: str) -> Recording:
    """A DataFrame whose columns are named as the leads, maybe with a column of times or times as its index."""
    heading = [str(column) for column in frame.columns]
    columns: list[np.ndarray | None] = []
    for label, (_, column) in zip(heading, frame.items()):
        wanted = canonical_lead(_name_and_unit(label)[0]) or _is_time(label)
        try:
            columns.append(column.to_numpy(dtype=np.float64, na_value=np.nan) if wanted else None)
        except (TypeError, ValueError) as err:
            raise ValueError(f"{name}: the array must hold real numbers; one of the columns does not.") from err
    if frame.index.name and _is_time(str(frame.index.name)) and not any(map(_is_time, heading)):
        heading, columns = [str(frame.index.name), *heading], [frame.index.to_numpy(dtype=np.float64), *columns]
    return _from_columns(heading, columns, None, name)


def has_lead_columns(frame: Any) -> bool:
    """Whether a DataFrame's columns name leads."""
    return sum(canonical_lead(_name_and_unit(str(column))[0]) is not None for column in frame.columns) >= 2


def _from_columns(
    heading: list[str], columns: list[np.ndarray | None], below: list[str] | None, name: str
) -> Recording:
    leads, units, signals, notes, rate = [], [], [], [], None
    for i, (label, values) in enumerate(zip(heading, columns)):
        if values is None:
            continue
        lead, unit = _name_and_unit(label)
        if below is not None and unit is None:
            unit = below[i]
        if canonical_lead(lead):
            leads.append(lead)
            units.append(unit)
            signals.append(values)
        elif rate is None:
            rate, note = _rate(values, unit, name)
            notes.append(note)
    declared = [unit for unit in units if unit]
    if declared and len(declared) < len(units):
        raise ValueError(f"{name}: the table declares a unit for {len(declared)} of {len(units)} leads; all or none.")
    signal = np.stack(signals)
    return Recording(name, signal, rate, leads, [str(unit) for unit in units] if declared else None, notes)


def _decode(content: bytes) -> str | None:
    """Text as spreadsheets write it; None if it is none."""
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return content[: len(content) // 2 * 2].decode("utf-16", errors="replace")
    if b"\x00" in content:
        return None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", errors="replace")


def _find_heading(lines: list[str]) -> int | None:
    """The line that names two leads or more."""
    for number, line in enumerate(lines):
        try:
            cells = next(csv.reader([line], delimiter=_separator(line)), [])
        except csv.Error:
            return None
        if sum(canonical_lead(_name_and_unit(cell.strip().strip("'"))[0]) is not None for cell in cells) >= 2:
            return number
    return None


def _separator(line: str) -> str:
    return max(";\t,|", key=line.count)


def _name_and_unit(label: str) -> tuple[str, str | None]:
    """A heading's name and unit; None where it has no unit."""
    found = WITH_UNIT.fullmatch(label)
    if found and canonical_lead(label) is None:
        unit = found["unit"].casefold()
        if (canonical_lead(found["name"]) and millivolts(unit)) or (TIME.fullmatch(found["name"]) and unit in SECONDS):
            return found["name"], found["unit"]
    return label, None


def _is_time(label: str) -> bool:
    return TIME.fullmatch(_name_and_unit(label)[0].strip()) is not None


def _numbers(cells: list[str], where: str) -> np.ndarray:
    """Cells as numbers, empty ones as NaN; a decimal comma is one where no cell has a point."""
    cells = [cell.strip().strip("'") for cell in cells]
    if any("," in cell for cell in cells) and not any("." in cell for cell in cells):
        cells = [cell.replace(",", ".") for cell in cells]
    try:
        if "_" not in "".join(cells):  # float() would take 1_000
            return np.array([float(cell) for cell in cells])
    except ValueError:
        pass  # cells that are no plain numbers: empty, times of day, or wrong
    try:
        return np.array([_number(cell) for cell in cells])
    except ValueError:
        raise ValueError(f"{where} holds something that is no number.") from None


def _number(cell: str) -> float:
    if cell.lower() in ("", "-", "na", "n/a", "nan", "null", "none"):
        return np.nan
    if clock := re.fullmatch(r"(?:(\d+):)?(\d+):(\d+(?:\.\d*)?)", cell):  # 0:00.004
        return int(clock[1] or 0) * 3600 + int(clock[2]) * 60 + float(clock[3])
    if not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", cell):
        raise ValueError("not a number")
    return float(cell)


def _rate(times: np.ndarray, unit: str | None, name: str) -> tuple[float, str]:
    """Sampling rate by a time column. Where that has no unit, only one of s, ms and us gives the rate of an ECG."""
    steps = np.diff(times)
    if times.size < 2 or not np.isfinite(steps).all() or steps.min() < 1e-9 or times[-1] - times[0] > 1e12:
        raise ValueError(f"{name}: the times of the table do not increase from row to row.")
    step = (times[-1] - times[0]) / steps.size
    if np.abs(times - times[0] - step * np.arange(times.size)).max() > step:
        raise ValueError(f"{name}: the times of the table are not evenly spaced; rows are missing.")
    declared = SECONDS.get((unit or "").casefold())
    for factor, word in ((1.0, "seconds"), (1e-3, "milliseconds"), (1e-6, "microseconds")):
        rate = 1 / (step * factor)
        if factor == declared or (declared is None and MIN_SAMPLING_RATE <= rate <= MAX_SAMPLING_RATE):
            rate = round(rate) if abs(rate - round(rate)) < 1e-3 * rate else rate
            assumed = "" if declared else f", taken as {word}"
            return rate, f"{rate:g} Hz by the table's times{assumed}"
    limits = f"{MIN_SAMPLING_RATE} to {MAX_SAMPLING_RATE} Hz"
    raise ValueError(f"{name}: the times of the table give no rate of an ECG ({limits}).")


__all__ = ["has_lead_columns", "is_table", "read_frame", "read_table"]
