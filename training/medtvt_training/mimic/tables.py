# SPDX-License-Identifier: Apache-2.0
"""
MIMIC's tables, read with DuckDB out of core. Columns are found by name and typed by us, never guessed; what a column
cannot be read as, and keys that occur with different contents, are reported and left out.
"""

import csv
import gzip
import re
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
from tqdm import tqdm

from processing_medtvt import LAB_DEFINITIONS
from processing_medtvt.lab_definitions_medtvt import LabDefinition


class MimicTable(NamedTuple):
    """
    Args:
        source (`str`): which folder it is in: `"mimic-iv"`, `"mimic-cxr"` or `"mimic-ecg"`.
        pattern (`str`): path below it without `.csv` or `.csv.gz`, with `*` for a version.
        columns (`dict[str, str]`): needed columns and their DuckDB types.
        key (`str`, *optional*): the column that tells rows apart.
    """

    source: str
    pattern: str
    columns: dict[str, str]
    key: str | None = None


CHEXPERT_LABELS = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Enlarged Cardiomediastinum",
    "Fracture",
    "Lung Lesion",
    "Lung Opacity",
    "No Finding",
    "Pleural Effusion",
    "Pleural Other",
    "Pneumonia",
    "Pneumothorax",
    "Support Devices",
)
REPORT_COLUMNS = tuple(f"report_{i}" for i in range(18))
# ms and degrees; what MIMIC-IV-ECG writes where nothing was measured
MEASURES = ("rr_interval", "p_onset", "p_end", "qrs_onset", "qrs_end", "t_end", "p_axis", "qrs_axis", "t_axis")
NOT_MEASURED = (29999, 32767, -32768, 65535)
_INT, _TEXT, _TIME, _REAL = "BIGINT", "VARCHAR", "TIMESTAMP", "DOUBLE"
TABLES = {
    "patients": MimicTable(
        "mimic-iv",
        "hosp/patients",
        {"subject_id": _INT, "gender": _TEXT, "anchor_age": _INT, "anchor_year": _INT},
        "subject_id",
    ),
    "admissions": MimicTable(
        "mimic-iv",
        "hosp/admissions",
        {"subject_id": _INT, "hadm_id": _INT, "admittime": _TIME, "dischtime": _TIME},
        "hadm_id",
    ),
    "diagnoses_icd": MimicTable(
        "mimic-iv",
        "hosp/diagnoses_icd",
        {"subject_id": _INT, "hadm_id": _INT, "icd_code": _TEXT, "icd_version": _INT},
    ),
    "d_icd_diagnoses": MimicTable("mimic-iv", "hosp/d_icd_diagnoses", {"icd_code": _TEXT, "icd_version": _INT}),
    "d_labitems": MimicTable(
        "mimic-iv", "hosp/d_labitems", {"itemid": _INT, "label": _TEXT, "fluid": _TEXT}, "itemid"
    ),
    "labevents": MimicTable(
        "mimic-iv",
        "hosp/labevents",
        {
            "labevent_id": _INT,
            "subject_id": _INT,
            "itemid": _INT,
            "charttime": _TIME,
            "valuenum": _REAL,
            "valueuom": _TEXT,
            "ref_range_lower": _REAL,
            "ref_range_upper": _REAL,
        },
    ),
    "record_list": MimicTable(
        "mimic-ecg",
        "record_list",
        {"subject_id": _INT, "study_id": _INT, "ecg_time": _TIME, "path": _TEXT},
        "study_id",
    ),
    "machine_measurements": MimicTable(
        "mimic-ecg",
        "machine_measurements",
        {"study_id": _INT, **dict.fromkeys(REPORT_COLUMNS, _TEXT), **dict.fromkeys(MEASURES, _REAL)},
        "study_id",
    ),
    "metadata": MimicTable(
        "mimic-cxr",
        "mimic-cxr-*-metadata",
        {
            "dicom_id": _TEXT,
            "subject_id": _INT,
            "study_id": _INT,
            "ViewPosition": _TEXT,
            "StudyDate": _TEXT,
            "StudyTime": _TEXT,
        },
        "dicom_id",
    ),
    "chexpert": MimicTable(
        "mimic-cxr", "mimic-cxr-*-chexpert", {"study_id": _INT, **dict.fromkeys(CHEXPERT_LABELS, _REAL)}, "study_id"
    ),
    "ext_icd": MimicTable("ext-icd", "records_w_diag_icd10", {"study_id": _INT, "subject_id": _INT}, "study_id"),
}


class MimicTables:
    """
    The tables of the given folders, opened with [`load`] or streamed with [`scan`].

    Args:
        folders (`dict[str, Path]`): Folder of each source.
        temporary (`Path`): Where DuckDB may spill.
        memory (`str`): DuckDB's memory limit, e.g. `"3GB"`.
        threads (`int`): DuckDB's threads.
    """

    def __init__(self, folders: dict[str, Path], temporary: Path, memory: str = "3GB", threads: int = 2) -> None:
        self.folders = folders
        self.files: dict[str, Path] = {}
        self.problems: list[dict[str, str]] = []
        settings: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": memory,
            "threads": threads,
            "temp_directory": str(temporary),
            "preserve_insertion_order": False,
            # nothing is fetched from anywhere
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        }
        try:
            self.connection = duckdb.connect(config=settings)
            # measured for our own bar, not printed
            self.connection.execute("SET enable_progress_bar = true; SET enable_progress_bar_print = false")
        except (duckdb.Error, ValueError) as error:
            raise ValueError(
                f"`memory` {memory!r} or `threads` {threads!r} is not accepted by DuckDB: {error}"
            ) from error

    def has(self, name: str) -> bool:
        """Whether the table's folder was given and holds it."""
        table = TABLES[name]
        return table.source in self.folders and bool(_find_files(self.folders[table.source], table.pattern))

    def scan(self, name: str, further: dict[str, str] | None = None) -> str:
        """
        A SQL subquery with the table's rows, all columns text, after its header was checked.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if a needed column is missing.
        """
        table = TABLES[name]
        folder = self.folders[table.source]
        found = _find_files(folder, table.pattern)
        if not found:
            raise FileNotFoundError(
                f"{folder} has no {table.pattern}.csv.gz or .csv, the table `{name}` of {table.source}."
            )
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise ValueError(f"{folder} has several files for the table `{name}`: {names}; leave one of them there.")
        file, columns = found[0], {**table.columns, **(further or {})}
        header = _read_header(file)
        missing = [column for column in columns if column.lower() not in {found.lower() for found in header}]
        if missing:
            raise ValueError(f"{file}: none of its {len(header)} columns is called {', '.join(missing)}.")
        self.files[name] = file
        types = ", ".join(f"{_literal(column)}: 'VARCHAR'" for column in header)
        return (
            f"(SELECT {', '.join(_identifier(column) for column in columns)} FROM read_csv({_literal(str(file))}, "
            "header = true, auto_detect = false, delim = ',', quote = '\"', escape = '\"', nullstr = '', "
            f"columns = {{{types}}}))"
        )

    def load(self, name: str, further: dict[str, str] | None = None) -> int:
        """
        Reads a table into a DuckDB table of its name. Rows that are the same in all needed columns count once; values
        of the wrong type become null, and keys with contradicting rows are dropped, both into `problems`.

        Returns:
            `int`: rows that it has.
        """
        columns = {**TABLES[name].columns, **(further or {})}
        key = TABLES[name].key
        self.run(f"CREATE TEMP TABLE raw AS SELECT DISTINCT * FROM {self.scan(name, further)}")
        casts = {column: f"TRY_CAST(trim({_identifier(column)}) AS {kind})" for column, kind in columns.items()}
        self._report_casts(name, "raw", {column: casts[column] for column, kind in columns.items() if kind != _TEXT})
        selected = ", ".join(f"{cast} AS {_identifier(column)}" for column, cast in casts.items())
        self.run(f"CREATE TEMP TABLE {name} AS SELECT DISTINCT {selected} FROM raw; DROP TABLE raw")
        if key:
            doubled = self.query(f"SELECT {key}, count(*) FROM {name} GROUP BY 1 HAVING count(*) > 1 ORDER BY 1")
            for value, rows in doubled:
                reason = (
                    f"{name}.{key} occurs in {rows} different rows; all left out" if value is not None else "no key"
                )
                self.problems.append({"table": name, "key": str(value), "reason": reason})
            self.run(
                f"DELETE FROM {name} WHERE {key} IS NULL OR {key} IN "
                f"(SELECT {key} FROM {name} GROUP BY 1 HAVING count(*) > 1)"
            )
        return self.query(f"SELECT count(*) FROM {name}")[0][0]

    def _report_casts(self, name: str, source: str, casts: dict[str, str]) -> None:
        counts = ", ".join(
            f"count(*) FILTER (WHERE {_identifier(column)} IS NOT NULL AND {cast} IS NULL)"
            for column, cast in casts.items()
        )
        for column, bad in zip(casts, self.query(f"SELECT {counts} FROM {source}")[0] if casts else ()):
            if bad:
                reason = f"{bad} values of {name}.{column} cannot be read as {TABLES[name].columns.get(column)}"
                self.problems.append({"table": name, "key": column, "reason": reason})

    def run(self, sql: str, progress: str | None = None) -> None:
        """Executes SQL; DuckDB's errors about the input become ValueError."""
        try:
            with _progress_bar(self.connection, progress):
                self.connection.execute(sql)
        except duckdb.OutOfMemoryException as error:
            raise ValueError(f"DuckDB ran out of its memory limit; give it more. {str(error)[:200]}") from error
        except (duckdb.BinderException, duckdb.CatalogException, duckdb.ParserException):
            raise  # of the query, not of the table
        except duckdb.Error as error:
            raise ValueError(f"A table cannot be read: {_describe(error)}") from error

    def query(self, sql: str) -> list[tuple]:
        """Rows of a SELECT."""
        self.run(sql)
        return self.connection.fetchall()

    def dicts(self, sql: str) -> list[dict[str, Any]]:
        """Rows of a SELECT by column name."""
        self.run(sql)
        names = [column[0] for column in self.connection.description]
        return [dict(zip(names, row)) for row in self.connection.fetchall()]

    def check_labitems(self, allow_mismatch: bool = False) -> list[LabDefinition]:
        """
        The labs whose item ids mean in this release what they mean in Symile-MIMIC: label and fluid of `d_labitems`.

        Raises:
            ValueError: naming every mismatch, unless `allow_mismatch`: then they are left out and reported.
        """
        self.load("d_labitems")
        found = {row[0]: row[1:] for row in self.query("SELECT itemid, label, fluid FROM d_labitems")}
        usable, mismatches = [], []
        for lab in LAB_DEFINITIONS:
            itemid = lab.itemids[0]
            label, fluid = found.get(itemid, (None, None))
            names = {name.casefold() for name in (lab.name, *lab.aliases)}
            if label is None:
                mismatches.append((itemid, f"not in d_labitems; expected {lab.name!r}"))
            elif label.casefold() not in names or (fluid or "").casefold() != "blood":
                mismatches.append((itemid, f"is {label!r} in {fluid!r}; expected {lab.name!r} in 'Blood'"))
            else:
                usable.append(lab)
        if mismatches and not allow_mismatch:
            listed = "".join(f"\n  itemid {itemid}: {reason}" for itemid, reason in mismatches)
            raise ValueError(
                f"{self.files['d_labitems']}: {len(mismatches)} of 50 item ids differ from those of Symile-MIMIC "
                f"(`--allow-lab-mismatch` treats them as not measured):{listed}"
            )
        for itemid, reason in mismatches:
            self.problems.append({"table": "d_labitems", "key": str(itemid), "reason": f"{reason}; not used"})
        return usable

    def describe_files(self) -> list[dict[str, Any]]:
        """Name, size, columns and, where the path tells it, version of every file used."""
        described = []
        for name, file in self.files.items():
            folder = self.folders[TABLES[name].source]
            version = re.findall(r"(?<!\d)\d+\.\d+(?:\.\d+)?(?!\d)", f"{folder.name}/{file.name}")
            described.append(
                {
                    "table": name,
                    "source": TABLES[name].source,
                    "file": file.name,
                    "bytes": file.stat().st_size,
                    "version": version[0] if version else None,
                    "columns": _read_header(file),
                }
            )
        return described


def _find_files(folder: Path, pattern: str) -> list[Path]:
    """The table's files: in its subfolder, or in the folder itself where that is what was given."""
    places = (pattern, pattern.rsplit("/", 1)[-1])
    return next(
        (
            found
            for place in places
            if (found := sorted({*folder.glob(f"{place}.csv"), *folder.glob(f"{place}.csv.gz")}))
        ),
        [],
    )


def _read_header(file: Path) -> list[str]:
    opener = gzip.open if file.suffix == ".gz" else open
    try:
        with opener(file, "rt", encoding="utf-8-sig", newline="") as lines:
            header = next(csv.reader(lines), [])
    except (OSError, EOFError, UnicodeDecodeError, zlib.error, csv.Error) as error:
        raise ValueError(f"{file}: its header cannot be read ({type(error).__name__}).") from error
    if len({column.lower() for column in header}) < len(header) or not all(header):
        raise ValueError(f"{file}: two of its {len(header)} columns have the same name, or one has none.")
    return header


def _describe(error: duckdb.Error) -> str:
    """What DuckDB says of a file, without the lines of it that it quotes: they hold patients' data."""
    lines = [line.strip() for line in str(error).splitlines()]
    told = (
        "CSV Error on Line",
        "Expected Number of Columns",
        "Value with unterminated quote",
        "Invalid unicode",
        "file = ",
    )
    kept = [line for line in lines if line.startswith(told) or "CSV Error on Line" in line]
    return " ".join([type(error).__name__, *kept])[:400]


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


@contextmanager
def _progress_bar(connection: duckdb.DuckDBPyConnection, title: str | None) -> Iterator[None]:
    """A bar of DuckDB's own estimate, for the one query that takes minutes."""
    if title is None:
        yield
        return
    done = threading.Event()
    with tqdm(total=100, desc=title, unit="%", bar_format="{l_bar}{bar}| {elapsed}") as bar:

        def watch() -> None:
            while not done.wait(0.5):
                bar.update(max(0, connection.query_progress() - bar.n))

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()
        bar.update(100 - bar.n)
