# SPDX-License-Identifier: Apache-2.0
"""
Reader of lab files: CSV as spreadsheets and hospitals write it, long (one row a value) or wide (one column a lab), and FHIR
JSON. It returns what the file states; which labs and units are meant is decided by the extractor.
"""

import csv
import io
import os
import re
import unicodedata
from pathlib import Path
from typing import NamedTuple

from .lab_numbers_medtvt import NumberStyle
from .lab_panel_medtvt import LabEntry, LabPanel, is_absent
from .lab_times_medtvt import read_time, read_times
from .lab_units_medtvt import normalize_unit
from .patient_medtvt import Patient, check_patient, merge_patients
from .read_fhir_medtvt import MAX_FHIR_BYTES, parse_fhir
from .shown_name_medtvt import shown_name


MAX_LAB_FILE_BYTES = 1_000_000
_MAX_LINES_ABOVE_HEADER = 20
_DELIMITERS = (",", ";", "\t", "|")

# Role of a column -> its usual headers, the surest first, in lower case without punctuation (see `_simplify`)
_HEADERS = {
    "name": (
        *("test", "test name", "testname", "lab", "lab name", "labname", "lab test", "analyte", "parameter", "component", "component name"),
        *("analysis", "investigation", "exam", "examination", "determination", "measurement name", "label", "item", "itemname", "item name"),
        *("observation", "observation name", "description", "display", "bezeichnung", "analyt", "untersuchung", "messgröße", "analyse"),
        *("examen", "prueba", "parametro", "paramètre", "esame", "onderzoek", "bepaling", "variable", "marker", "biomarker", "name"),
    ),
    "value": (
        *("value", "result", "results", "result value", "test result", "lab result", "labresult", "observed value", "measured value", "reading"),
        *("measurement", "wert", "ergebnis", "messwert", "befund", "valor", "resultado", "résultat", "resultat", "valeur", "risultato", "valore"),
        *("uitslag", "waarde", "observation value", "numeric result"),
    ),
    "number": ("valuenum", "value num", "numeric value", "value as number", "result numeric", "value numeric"),
    "unit": (
        *("unit", "units", "uom", "valueuom", "value uom", "unit of measure", "units of measure", "unit of measurement", "result unit"),
        *("result units", "value unit", "units name", "einheit", "einheiten", "unidad", "unidades", "unité", "unités", "unita", "unità"),
        *("eenheid", "labmeasurenamesystem", "lab unit", "test unit", "dimension"),
    ),
    "loinc": ("loinc", "loinc code", "loinc num", "loinc number", "loinc nr", "loinccode", "code", "test code", "lab code"),
    "itemid": ("itemid", "item id"),
    "time": (
        *("charttime", "collection time", "collection date time", "collection date", "collected", "collection datetime", "collected at"),
        *("date collected", "drawn", "draw time", "draw date", "sample time", "sample date", "sampled", "specimen date", "specimen time"),
        *("datetime", "date time", "date and time", "timestamp", "time", "date", "test date", "result date", "result time", "observation date"),
        *("observation time", "observation datetime", "effective datetime", "effectivedatetime", "labresultoffset", "offset", "datum"),
        *("zeitpunkt", "entnahme", "entnahmezeit", "abnahmezeit", "fecha", "fecha y hora", "data", "zeit", "uhrzeit"),
    ),
    "comparator": ("comparator", "operator", "modifier", "result modifier", "value modifier"),
    "specimen": ("specimen", "specimen type", "fluid", "sample type", "material", "specimen source", "matrix", "probenmaterial"),
    "patient": (
        *("subject id", "patient", "patient id", "patientid", "patient identifier", "pid", "mrn", "person id", "patientunitstayid"),
        *("patient name", "patienten id", "patientennummer", "subject", "id"),
    ),
    "sex": ("sex", "gender", "patient sex", "patient gender", "geschlecht"),
    "age": ("age", "patient age", "age years", "age in years", "alter"),
}  # fmt: skip
_ROLES = {header: (role, rank) for role, headers in _HEADERS.items() for rank, header in enumerate(headers)}
_LOINC = re.compile(r"\d{1,6}-\d")
_VALUE_WITH_UNIT = re.compile(r"([<>≤≥=]*\s*[\d.,]*\d)\s*([^\d\s.,()*!][^\d\s]*(?:\s?\S+)?)")


class Row(NamedTuple):
    """Cells of a row, stripped, and its number in the file, from 1."""

    number: int
    cells: list[str]


def read_lab(path: str | os.PathLike) -> LabPanel:
    """
    What a lab file states: CSV, or JSON of FHIR.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that cannot be read; it is named, with row and column, and never quoted.
    """
    name = f"lab file {shown_name(path)}"
    content = _read_bytes(path, MAX_FHIR_BYTES)
    text = _decode(content, name)
    if text.lstrip()[:1] in ("{", "["):
        return parse_fhir(text, name)
    if len(content) > MAX_LAB_FILE_BYTES:
        raise ValueError(f"{name}: larger than {MAX_LAB_FILE_BYTES} bytes, too large for one patient's labs.")
    rows = _split_rows(text, name)
    start = next((i for i, row in enumerate(rows[:_MAX_LINES_ABOVE_HEADER]) if _is_long(_find_roles(row.cells))), None)
    header, *body = rows[start or 0 :]
    if not body:
        raise ValueError(f"{name}: no rows below the header.")
    roles = _find_roles(header.cells)
    needed = (
        len(header.cells) if start is None else 1 + max(roles.get(role, 0) for role in ("name", "value", "number"))
    )
    body = _check_widths(header, body, name, needed)
    _check_one_patient(body, roles, name)
    patient = _read_patient(body, roles, name)
    notes = [f"lab: {start} lines above the header of {shown_name(path)} not read"] if start else []
    if start is not None:
        entries = _read_long(body, roles, name, notes)
    elif "name" in roles and (dated := _find_dates(header.cells)):
        entries = _read_dated(header, body, roles, dated, name, notes)
    else:
        entries = _read_wide(header, body, roles, name, notes)
    return LabPanel(entries, notes, patient)


def read_rows(path: str | os.PathLike) -> list[Row]:
    """Header and rows of a CSV file with one column a lab, all of the header's width."""
    name = f"lab file {shown_name(path)}"
    header, *body = _split_rows(_decode(_read_bytes(path, None), name), name)
    if not body:
        raise ValueError(f"{name}: no rows below the header.")
    return [header, *_check_widths(header, body, name, len(header.cells))]


def _read_bytes(path: str | os.PathLike, max_bytes: int | None) -> bytes:
    name = f"lab file {shown_name(path)}"
    if not os.path.exists(path):
        raise FileNotFoundError(f"{name}: no such file. A string is read as the path of a CSV or FHIR JSON file.")
    if not os.path.isfile(path):
        raise ValueError(f"{name}: not a regular file. A CSV or FHIR JSON file is needed.")
    if max_bytes is not None and os.path.getsize(path) > max_bytes:
        raise ValueError(f"{name}: larger than {max_bytes} bytes, too large for one patient's labs.")
    return Path(path).read_bytes()


def _decode(content: bytes, name: str) -> str:
    """UTF-8, UTF-16 or Windows-1252, as spreadsheets write them."""
    encodings = ["utf-8-sig", "cp1252"]
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        encodings = ["utf-16"]
    elif content[:200].count(b"\0") > len(content[:200]) / 3:
        encodings = ["utf-16-le" if content[1:2] == b"\0" else "utf-16-be"]
    text = None
    for encoding in encodings:
        try:
            text = content.decode(encoding)
            break
        except UnicodeDecodeError:
            continue
    if text is None or any(unicodedata.category(c) == "Cc" and c not in "\t\r\n\f" for c in set(text)):
        raise ValueError(f"{name}: a binary file, not text. A CSV or FHIR JSON file is needed.")
    return text


def _split_rows(text: str, name: str) -> list[Row]:
    """Rows that are not blank, by the delimiter that the file names in a line `sep=;`, or that gives a header."""
    first_line = text.lstrip().split("\n", 1)[0].strip().strip('"')
    named = re.fullmatch(r"sep=(.|\\t)", first_line, re.IGNORECASE)
    delimiters = _DELIMITERS if named is None else ({"\\t": "\t"}.get(named[1], named[1]),)
    if named is None and first_line.casefold() == "sep=":
        delimiters = ("\t",)  # the tab is stripped
    best: list[Row] = []
    problem = None
    for delimiter in delimiters:
        try:
            rows = _parse(text, delimiter)
        except csv.Error as error:
            if _is_long(_find_roles(first_line.split(delimiter))):
                raise ValueError(f"{name}: not a readable CSV file ({error}).") from error
            problem = problem or error
            continue
        if named is not None:
            rows = rows[1:]
        if any(_is_long(_find_roles(row.cells)) for row in rows[:_MAX_LINES_ABOVE_HEADER]):
            best = rows
            break
        if rows and (not best or len(rows[0].cells) > len(best[0].cells)):
            best = rows
    if not best and problem is not None:
        raise ValueError(f"{name}: not a readable CSV file ({problem}).") from problem
    if not best:
        raise ValueError(f"{name}: no rows.")
    return best


def _parse(text: str, delimiter: str) -> list[Row]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    rows = [Row(number, [_strip(cell) for cell in cells]) for number, cells in enumerate(reader, start=1)]
    return [row for row in rows if any(row.cells)]


def _strip(cell: str) -> str:
    """A cell without spaces around it, and without the formula ="text" by which spreadsheets keep a text as it is."""
    cell = cell.strip()
    return cell[2:-1].strip() if cell.startswith('="') and cell.endswith('"') and len(cell) > 2 else cell


def _check_widths(header: Row, body: list[Row], name: str, needed: int) -> list[Row]:
    """All rows of the header's width: blank cells at the end may be too many, or missing behind the first `needed` ones."""
    width, found = len(header.cells), []
    for row in body:
        if any(row.cells[width:]) or len(row.cells) < needed:
            raise ValueError(
                f"{name}: row {row.number} has {len(row.cells)} cells and the header {width}. A name with a comma must be "
                "quoted, and so must a number with a decimal comma."
            )
        found.append(Row(row.number, row.cells[:width] + [""] * (width - len(row.cells))))
    return found


def _simplify(header: str) -> str:
    return " ".join(re.sub(r"[^\w]|_", " ", header.casefold()).split())


def _find_roles(header: list[str]) -> dict[str, int]:
    """Role -> index of the column whose header says so; the surest header where several do."""
    best: dict[str, tuple[int, int]] = {}
    for index, cell in enumerate(header):
        role, rank = _ROLES.get(_simplify(cell), (None, 0))
        if role is not None and (role not in best or rank < best[role][0]):
            best[role] = (rank, index)
    return {role: index for role, (_, index) in best.items()}


def _is_long(roles: dict[str, int]) -> bool:
    return ("value" in roles or "number" in roles) and bool({"name", "loinc", "itemid"} & set(roles))


def _column(body: list[Row], roles: dict[str, int], role: str) -> list[str]:
    return [row.cells[roles[role]] for row in body] if role in roles else [""] * len(body)


def _check_one_patient(body: list[Row], roles: dict[str, int], name: str) -> None:
    stated = [(row.number, row.cells[roles["patient"]]) for row in body] if "patient" in roles else []
    stated = [(number, patient) for number, patient in stated if patient]
    other = next((number for number, patient in stated if patient != stated[0][1]), None)
    if other is not None:
        raise ValueError(
            f"{name}: row {other} is of another patient than row {stated[0][0]}. One patient's labs are needed."
        )


def _read_patient(body: list[Row], roles: dict[str, int], name: str) -> Patient:
    """Age and sex where columns state them; what is no age or sex is as good as not stated."""
    found: dict[str, str] = {}
    for role in ("age", "sex"):
        stated = {cell for cell in _column(body, roles, role) if not is_absent(cell)}
        if len(stated) == 1:
            found[role] = stated.pop()
    known = []
    for role, text in found.items():
        try:
            known.append(check_patient({role: text}))
        except ValueError:
            continue
    return merge_patients(*known)[0]


def _read_long(body: list[Row], roles: dict[str, int], name: str, notes: list[str]) -> list[LabEntry]:
    names, units = _column(body, roles, "name"), _column(body, roles, "unit")
    loincs = _column(body, roles, "loinc")
    if "name" not in roles:
        names = loincs
    # a code of the laboratory's own says nothing here; the name does
    loincs = [text if _LOINC.fullmatch(text) else "" for text in loincs]
    codes = [loinc or itemid for loinc, itemid in zip(loincs, _column(body, roles, "itemid"))]
    texts = [_choose_value(*pair) for pair in zip(_column(body, roles, "value"), _column(body, roles, "number"))]
    times, comparators = read_times(_column(body, roles, "time"), notes), _column(body, roles, "comparator")
    style = NumberStyle(texts)
    entries = []
    for row, text, unit, *rest in zip(
        body, texts, units, names, codes, times, comparators, _column(body, roles, "specimen")
    ):
        written_name, code, time, comparator, specimen = rest
        if not written_name and not code:
            if is_absent(text):
                continue
            raise ValueError(f"{name}: row {row.number}: a value without the name of its lab.")
        with_unit = _VALUE_WITH_UNIT.fullmatch(text)
        if with_unit and not style.is_number(text) and (is_absent(unit) or _is_same_unit(unit, with_unit[2])):
            text, unit = with_unit[1], with_unit[2]
        number = style.convert(text, f"{name}: row {row.number}")
        sign = comparator if comparator in ("<", "<=", ">", ">=") else None
        place = f"row {row.number}"
        entries.append(LabEntry(written_name, number, unit or None, sign, time, code or None, place, specimen or None))
    if not entries:
        raise ValueError(f"{name}: no rows with a lab below the header.")
    notes.extend(style.notes)
    return entries


def _is_same_unit(first: str, second: str) -> bool:
    return normalize_unit(first) == normalize_unit(second)


def _choose_value(text: str, number: str) -> str:
    """MIMIC's labevents have text in one column and its number in another; the text knows the sign of a censored value."""
    if is_absent(number) or NumberStyle.is_number(text):
        return text
    return number


def _read_wide(header: Row, body: list[Row], roles: dict[str, int], name: str, notes: list[str]) -> list[LabEntry]:
    if len(body) > 1 and "time" not in roles:
        raise ValueError(
            f"{name}: {len(body)} rows, and no columns that are headed name and value. Accepted are a row a value, headed "
            "name,value,unit or alike, or one row with a column a lab; several such rows need a column with their times."
        )
    times = read_times(_column(body, roles, "time"), notes)
    no_labs = {index for role, index in roles.items() if role not in ("value", "unit", "number")}
    style = NumberStyle(cell for row in body for index, cell in enumerate(row.cells) if index not in no_labs)
    entries = []
    for row, time in zip(body, times):
        for index, (written_name, cell) in enumerate(zip(header.cells, row.cells)):
            if index in no_labs or not written_name or (len(body) > 1 and is_absent(cell)):
                continue
            place = f"column {index + 1}" + (f" of row {row.number}" if len(body) > 1 else "")
            number = style.convert(cell, f"{name}: {place}")
            entries.append(LabEntry(written_name, number, time=time, place=place))
    if not entries:
        raise ValueError(f"{name}: no columns with labs; expected a row a value, headed name,value,unit or alike.")
    notes.extend(style.notes)
    return entries


def _find_dates(header: list[str]) -> list[int]:
    """The columns that are headed by a date."""
    return [i for i, cell in enumerate(header) if any(read_time(cell, order) is not None for order in (False, True))]


def _read_dated(
    header: Row, body: list[Row], roles: dict[str, int], dated: list[int], name: str, notes: list[str]
) -> list[LabEntry]:
    """A cumulative report: a row a lab, a column a date."""
    times = read_times([header.cells[index] for index in dated], notes)
    style = NumberStyle(row.cells[index] for row in body for index in dated)
    entries = []
    for row, written_name, unit in zip(body, _column(body, roles, "name"), _column(body, roles, "unit")):
        for index, time in zip(dated, times):
            place = f"row {row.number}, column {index + 1}"
            if not written_name or is_absent(row.cells[index]):
                continue
            number = style.convert(row.cells[index], f"{name}: {place}")
            entries.append(LabEntry(written_name, number, unit or None, time=time, place=place))
    if not entries:
        raise ValueError(f"{name}: no value below the dates of its header.")
    notes.extend(style.notes)
    return entries
