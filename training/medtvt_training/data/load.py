# SPDX-License-Identifier: Apache-2.0
"""Loads MedTVT-QA, in the schema of this package or as the authors' files."""

import functools
import os
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path, PurePath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Features
from datasets.table import table_cast

from modeling_medtvt import DISEASES, parse_answer
from processing_medtvt import MedTVTEcgFeatureExtractor, MedTVTLabFeatureExtractor, load_cxr
from processing_medtvt.patient_medtvt import MAX_AGE
from processing_medtvt.processing_medtvt import PLACEHOLDER

from .authors_layout import AUTHORS_FILES, find_authors_file, read_authors_rows
from .conversation import MODALITIES, message_text
from .inputs import has_input
from .rejects import Reject, drop_rejects, make_reject
from .rows import Modality, QARow
from .schema import FEATURES, LEVELS, OPTIONAL_COLUMNS, SEXES, SPLITS


def load_medtvt_qa(
    folder: str | os.PathLike,
    level: str,
    split: str,
    *,
    ecg_root: str | os.PathLike | None = None,
    cxr_root: str | os.PathLike | None = None,
    max_rejected: float = 0.01,
    check_files: bool = False,
    rejects_file: str | os.PathLike | None = None,
) -> Dataset:
    """
    One level and split of a MedTVT-QA folder. Signals stay on disk until a collator or the feature cache reads them, and
    the rows stay in memory: no copy of them is written anywhere.

    Args:
        folder (`str` or `os.PathLike`): Holds `{level}/{split}.parquet` with the columns of `medtvt_training.data.schema`, or the
            authors' JSON and CSV files, whose texts and signals are joined by row position, as they do; see
            `medtvt_training.data.authors_layout`.
        level (`str`): `"physiology"` or `"diagnosis"`.
        split (`str`): `"train"`, `"validation"` or `"test"`.
        ecg_root, cxr_root (`str` or `os.PathLike`, *optional*): What the paths of the rows are relative to, if not to
            `folder`.
        max_rejected (`float`): Share of rows that may be left out because they cannot be read.
        check_files (`bool`): Whether to open every file now.
        rejects_file (`str` or `os.PathLike`, *optional*): JSON lines (`id`, `path`, `reason`) of the rows left out.

    Returns:
        `datasets.Dataset`: the schema's columns and any further ones of the file; `ecg` and `cxr` as absolute paths.

    Raises:
        FileNotFoundError: if the folder holds no such dataset, level or split.
        ValueError: if columns or rows contradict the schema, or more than `max_rejected` of the rows cannot be read.
    """
    [file, *_] = find_rows(folder, level, split)
    folder = Path(folder)
    rejects: list[Reject] = []
    if file.suffix == ".parquet":
        table = _read_parquet(file)
    else:
        table, rejects = _read_authors_table(folder, level, split)
    _check_rows(table, level)
    dataset = Dataset(_resolve_paths(table, {"ecg": ecg_root or folder, "cxr": cxr_root or folder}))
    total = len(dataset) + len(rejects)
    if check_files:
        rejects += _unreadable_rows(dataset)
    return drop_rejects(dataset, rejects, max_rejected, rejects_file, total)


def find_rows(folder: str | os.PathLike, level: str, split: str) -> list[Path]:
    """
    The files that the rows of a level and split are in: one of ours, or those of the authors' layout.

    Raises:
        FileNotFoundError: if the folder holds no such dataset, level or split.
        ValueError: if there is no such level or split in any dataset.
    """
    for name, value, accepted in (("level", level, LEVELS), ("split", split, SPLITS)):
        if value not in accepted:
            raise ValueError(f"`{name}` must be one of {', '.join(accepted)}; got {value!r}.")
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder.")
    parquet = folder / level / f"{split}.parquet"
    if parquet.is_file():
        return [parquet]
    names = [name for sources in AUTHORS_FILES.values() for source in sources for name in (source.json, source.csv)]
    authors = [file for name in names if name and (file := find_authors_file(folder, name))]
    if any(file.suffix == ".json" for file in authors):
        return authors
    found = sorted(str(path.relative_to(folder)) for path in folder.glob("*/*.parquet"))
    raise FileNotFoundError(
        f"{folder} has no {level}/{split}.parquet, nor files of the authors' layout. "
        + (f"Found: {', '.join(found)}." if found else "It is no MedTVT-QA folder.")
    )


def read_tables(
    folder: Path, level: str, split: str, roots: dict[Modality, str], rows: int
) -> tuple[Iterator[Callable[[], pa.Table]], list[Reject]]:
    """
    The rows of a level and split in tables of at most so many, each checked when it is asked for, with absolute paths;
    and the records that cannot become a row.

    Raises:
        FileNotFoundError, ValueError: See [`load_medtvt_qa`]; an id that occurs in two tables is not seen.
    """
    [file, *_] = find_rows(folder, level, split)
    rejects: list[Reject] = []
    if file.suffix == ".parquet":
        tables = _stream_parquet(file, rows)
    else:
        table, rejects = _read_authors_table(folder, level, split)
        tables = (table.slice(start, rows) for start in range(0, len(table), rows))

    def check(table: pa.Table) -> pa.Table:
        table = _conform(table, file) if file.suffix == ".parquet" else table
        _check_rows(table, level)
        return _resolve_paths(table, roots)

    return (functools.partial(check, table) for table in tables), rejects


def _read_authors_table(folder: Path, level: str, split: str) -> tuple[pa.Table, list[Reject]]:
    rows, rejects = read_authors_rows(folder, level, split)
    return pa.Table.from_pylist(rows, schema=FEATURES.arrow_schema), rejects


def _stream_parquet(file: Path, rows: int) -> Iterator[pa.Table]:
    """Without holding more than some of the file."""
    try:
        with pq.ParquetFile(file) as parquet:
            empty = True
            for batch in parquet.iter_batches(rows):
                empty = False
                yield pa.Table.from_batches([batch])
            if empty:
                yield parquet.schema_arrow.empty_table()
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{file}: not a readable Parquet file ({error}).") from error


def _read_parquet(file: Path) -> pa.Table:
    try:
        table = pq.read_table(file)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{file}: not a readable Parquet file ({error}).") from error
    return _conform(table, file)


def _conform(table: pa.Table, file: Path) -> pa.Table:
    """The columns of the schema, and then any further ones."""
    missing = [name for name in FEATURES if name not in table.column_names]
    for name in [name for name in missing if name in OPTIONAL_COLUMNS]:
        table = table.append_column(name, pa.nulls(len(table), FEATURES.arrow_schema.field(name).type))
        missing.remove(name)
    if missing:
        raise ValueError(f"{file}: has no column {', '.join(missing)}; a MedTVT-QA file has {', '.join(FEATURES)}.")
    try:
        further = Features.from_arrow_schema(table.drop_columns(list(FEATURES)).schema)
        features = Features({**FEATURES, **further})
        return table_cast(table.select(list(features)), features.arrow_schema)
    except (TypeError, ValueError, pa.ArrowException) as error:
        schema = FEATURES.arrow_schema
        odd = [name for name in FEATURES if table.schema.field(name).type != schema.field(name).type]
        raise ValueError(
            f"{file}: a column is not of the schema's type, among {', '.join(odd) or 'the further ones'}."
        ) from error


def _check_rows(table: pa.Table, level: str) -> None:
    """Raises ValueError with the ids of the first rows that contradict the schema."""
    problems, seen = [], set()
    rows = chain.from_iterable(map(_to_rows, table.select(list(FEATURES)).to_batches(1000)))
    for i, row in enumerate(rows):
        problem = _find_problem(row, level)
        if problem is None and row["id"] in seen:
            problem = "its id occurs more than once"
        seen.add(row["id"])
        if problem:
            problems.append(f"{row['id'] or f'number {i}'}: {problem}")
    if problems:
        examples = "".join(f"\n  row {problem}" for problem in problems[:5])
        raise ValueError(f"{len(problems)} of {len(table)} rows contradict the schema of MedTVT-QA:{examples}")


def _to_rows(batch: pa.RecordBatch) -> list[QARow]:
    try:
        return batch.to_pylist()
    except UnicodeDecodeError as error:
        raise ValueError("A text of the rows is not UTF-8, so they cannot be read.") from error


def _find_problem(row: QARow, level: str) -> str | None:
    if not row["id"]:
        return "it has no id"
    if row["level"] != level:
        return f"its level is not that of its file, {level}"
    if row["age"] is not None and not 0 <= row["age"] <= MAX_AGE:
        return f"its age is not from 0 to {MAX_AGE} years"
    if row["sex"] is not None and row["sex"] not in SEXES:
        return f"its sex is none of {', '.join(SEXES)}, nor null"
    modalities, diseases = row["modalities"], row["diseases"]
    if modalities is None or diseases is None:
        return "its modalities or diseases are null; a row without any has an empty list"
    if len(set(modalities)) < len(modalities) or not set(modalities) <= set(MODALITIES):
        return f"its modalities are others than {', '.join(MODALITIES)}, each once"
    for modality in modalities:
        if not has_input(row, modality):
            return f"it has the modality {modality!r}, but no value in the column `{modality}`"
    for column, value in (("ecg", row["ecg"]), ("cxr", row["cxr"])):
        path = PurePath(value or "")
        if path.is_absolute() or ".." in path.parts:
            return f"the path in the column `{column}` is not relative to the dataset's root"
    unknown = [disease for disease in diseases if disease not in DISEASES]
    if unknown or len(set(diseases)) < len(diseases):
        return f"its diseases are others than {', '.join(DISEASES)}, each once"
    if both := set(row["findings"] or ()) & set(row["absent_findings"] or ()):
        return f"it has {', '.join(sorted(both))} in both `findings` and `absent_findings`"
    return _find_text_problem(row, modalities) or (_find_answer_problem(row) if level == "diagnosis" else None)


def _find_text_problem(row: QARow, modalities: list[Modality]) -> str | None:
    prompt, completion = row["prompt"] or [], row["completion"] or []
    if any(message is None for message in prompt + completion):
        return "a message is null"
    if not prompt or prompt[-1]["role"] == "assistant":
        return "its prompt must end with a message that is not the assistant's"
    if [message["role"] for message in completion] != ["assistant"]:
        return "its completion must be one message of the assistant"
    if any(message["content"] is None for message in prompt + completion):
        return "a message has no content"
    parts = [part for message in prompt + completion for part in message["content"]]
    if any(part is None or part["type"] is None for part in parts):
        return "a part of a message is null, or has no type"
    if any(part["type"] == "text" and PLACEHOLDER.search(part["text"] or "") for part in parts):
        return "a text part holds a placeholder; a modality is a part of its own type"
    typed = [part["type"] for message in prompt for part in message["content"] if part["type"] != "text"]
    if sorted(map(str, typed)) != sorted(modalities):
        return (
            f"its prompt has {len(typed)} parts that are no text; its modalities are {', '.join(modalities) or 'none'}"
        )
    if any(part["type"] != "text" for part in completion[0]["content"]) or not message_text(completion).strip():
        return "its completion must be text"
    return None


def _find_answer_problem(row: QARow) -> str | None:
    answer = parse_answer(message_text(row["completion"]))
    if answer.answer is None:
        return "its completion has no <answer> block"
    if answer.unknown:
        return f"its answer names others than {', '.join(DISEASES)}"
    if set(answer.diseases) != set(row["diseases"]):
        return f"its answer names {', '.join(answer.diseases) or 'none'}, its diseases are {', '.join(row['diseases']) or 'none'}"
    return None


def _resolve_paths(table: pa.Table, roots: Mapping[Modality, str | os.PathLike]) -> pa.Table:
    for modality, root in roots.items():
        root = os.path.abspath(root)
        paths = [os.path.join(root, path) if path else None for path in table[modality].to_pylist()]
        table = table.set_column(table.column_names.index(modality), modality, pa.array(paths, pa.string()))
    return table


def _unreadable_rows(dataset: Dataset) -> list[Reject]:
    """Rejects for the rows with a file or panel that this package's readers refuse."""
    readers: dict[Modality, Callable[[Any], object]] = {
        "ecg": MedTVTEcgFeatureExtractor(),
        "cxr": load_cxr,
        "lab": MedTVTLabFeatureExtractor(),
    }
    reasons: dict[tuple[Modality, str], str | None] = {}
    rejects: list[Reject] = []
    for row in dataset.select_columns(["id", "modalities", *MODALITIES]):
        for modality in row["modalities"]:
            source = row[modality]
            key = source if isinstance(source, str) else row["id"]
            if (modality, key) not in reasons:
                try:
                    readers[modality](source)
                    reasons[modality, key] = None
                except (ValueError, TypeError, OSError) as error:
                    reasons[modality, key] = str(error)
            if reason := reasons[modality, key]:
                rejects.append(make_reject(row, modality, reason))
    return rejects
