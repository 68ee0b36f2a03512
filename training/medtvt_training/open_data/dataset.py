# SPDX-License-Identifier: Apache-2.0
"""
Writes open records as a MedTVT-QA folder.

It holds `{physiology,diagnosis}/{train,validation,test}.parquet`, a link to each data set's folder, which the rows' paths begin with,
`open_data.json` with sources, terms and counts, `build.md` with the same for the folder's card, and `rejects.jsonl`. No signal and no film is copied.
"""

import os
import zlib
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from modeling_medtvt.output_folder import check_new_folder, new_folder

from ..data.provenance import OPEN_DATA_FILE
from ..data.rejects import check_rejects
from ..data.rows import QARow, Reject
from ..data.schema import FEATURES, LEVELS, SPLITS
from ..files import write_json, write_jsonl, write_text
from .films import read_films
from .ptb_xl import read_ptb_xl
from .record import FOLDS, NIH_FILMS, PTB_XL, OpenRecord, Source
from .texts import make_rows


ROWS_AT_A_TIME = 4096
TEST_FOLDS, VALIDATION_FOLDS = (10,), (9,)


def write_open_data(
    output_dir: str | os.PathLike,
    *,
    ptb_xl: str | os.PathLike | None = None,
    films: str | os.PathLike | None = None,
    test_folds: Collection[int] = TEST_FOLDS,
    validation_folds: Collection[int] = VALIDATION_FOLDS,
    seed: int = 0,
    max_rejected: float = 0.01,
) -> dict[str, Any]:
    """
    Writes a dataset folder, which appears only when it is complete.

    Args:
        ptb_xl (`str` or `os.PathLike`, *optional*): Folder of PTB-XL.
        films (`str` or `os.PathLike`, *optional*): Table of films and their labels.
        test_folds, validation_folds (`Collection[int]`): Folds, 1 to 10, of which patients those splits take, or none; the
            rest is for training. PTB-XL has folds of its own, films are dealt by a hash of the patient.
        seed (`int`): Of wordings and of the findings that are asked for.
        max_rejected (`float`): Share of a data set's records that may be left out, listed in rejects.jsonl.

    Returns:
        `dict`: content of open_data.json.

    Raises:
        ValueError: if there is no source, folds overlap or leave a split empty, or a source refuses.
        FileExistsError: if the folder exists and is not empty.
    """
    sources: list[tuple[Source, Path]] = []
    if ptb_xl is not None:
        sources.append((PTB_XL, Path(ptb_xl).resolve()))
    if films is not None:
        sources.append((NIH_FILMS, Path(films).resolve()))
    if not sources:
        raise ValueError("There is nothing to read: name a folder of PTB-XL or a table of films.")
    split_of = assign_folds(test_folds, validation_folds)
    check_new_folder(output_dir)
    with new_folder(output_dir) as folder:
        for level in LEVELS:
            (folder / level).mkdir()
        described: list[dict[str, Any]] = []
        rejects: list[Reject] = []
        with ExitStack() as stack:
            schema = FEATURES.arrow_schema
            writers = {
                (level, split): stack.enter_context(pq.ParquetWriter(folder / level / f"{split}.parquet", schema))
                for level in LEVELS
                for split in SPLITS
            }
            for source, path in sources:
                found: list[Reject] = []
                made = _write_source(folder, source, path, split_of, writers, seed, max_rejected, found)
                described.append(made)
                rejects += [{**reject, "id": f"{source.key}-{reject['id']}"} for reject in found]
        content = {
            "access": "open",
            "sources": described,
            "test_folds": sorted(test_folds),
            "validation_folds": sorted(validation_folds),
            "seed": seed,
        }
        asked = [split for split in SPLITS if split in split_of.values()]
        if empty := [split for split in asked if not any(source["patients"][split] for source in described)]:
            raise ValueError(f"The split {', '.join(empty)} has no record; choose other folds.")
        write_json(content, folder / OPEN_DATA_FILE)
        write_jsonl(rejects, folder / "rejects.jsonl")
        write_text(_describe(content), folder / "build.md")
    return content


def read_source(source: Source, path: Path, rejects: list[Reject]) -> Iterator[OpenRecord]:
    """The records of a data set; see [`read_ptb_xl`] and [`read_films`]."""
    return read_ptb_xl(path, rejects) if source is PTB_XL else read_films(path, rejects)


def assign_folds(test: Collection[int] = TEST_FOLDS, validation: Collection[int] = VALIDATION_FOLDS) -> dict[int, str]:
    """
    Fold to split. PTB-XL's authors propose 9 and 10 for validation and test.

    Raises:
        ValueError: if folds overlap, or none remain for training.
    """
    chosen = [*test, *validation]
    if not set(chosen) <= set(FOLDS) or len(set(chosen)) < len(chosen) or len(chosen) >= len(FOLDS):
        raise ValueError(
            f"Folds are 1 to {len(FOLDS)}, each in one split, and some must remain for training; got {sorted(test)} for "
            f"test and {sorted(validation)} for validation."
        )
    return {fold: "test" if fold in test else "validation" if fold in validation else "train" for fold in FOLDS}


def _write_source(
    folder: Path,
    source: Source,
    path: Path,
    split_of: dict[int, str],
    writers: dict[tuple[str, str], pq.ParquetWriter],
    seed: int,
    max_rejected: float,
    rejects: list[Reject],
) -> dict[str, Any]:
    waiting: dict[tuple[str, str], list[QARow]] = {place: [] for place in writers}
    records, rows = dict.fromkeys(SPLITS, 0), dict.fromkeys(SPLITS, 0)
    patients: dict[str, set[str]] = {split: set() for split in SPLITS}
    silent = 0
    for record in read_source(source, path, rejects):
        split = split_of[record.fold]
        rng = np.random.default_rng([seed, zlib.crc32(f"{source.key} {record.id}".encode())])
        made = make_rows(record, source.key, rng)
        if not made:
            silent += 1
            continue
        records[split] += 1
        rows[split] += len(made)
        patients[split].add(record.subject_id)
        for row in made:
            waiting[row["level"], split].append(row)
        for place, of_place in waiting.items():
            if len(of_place) >= ROWS_AT_A_TIME:
                _flush(of_place, writers[place])
    for place, remaining in waiting.items():
        _flush(remaining, writers[place])
    total = sum(records.values()) + silent + len(rejects)
    check_rejects(rejects, total, max_rejected)
    (folder / source.key).symlink_to(path if path.is_dir() else path.parent, target_is_directory=True)
    return {
        **{name: getattr(source, name) for name in ("key", "name", "modality", "license", "attribution", "labels")},
        "records": records,
        "rows": rows,
        "patients": {split: len(found) for split, found in patients.items()},
        "rejected": len(rejects),
        "nothing_known": silent,
    }


def _describe(content: dict[str, Any]) -> str:
    lines = ["## Sources\n"]
    for source in content["sources"]:
        number = sum(source["records"].values())
        lines += [
            f"- {source['name']}: {number:,} records, {source['rejected']:,} rejected. License: {source['license']}. Labels: "
            f"{source['labels']}. {source['attribution']}"
        ]
    lines.append(
        "\nA record's labels tell of some findings only: `findings` are shown, `absent_findings` are not, and no row states "
        "any other. Questions and answers were written by a program from the labels."
    )
    return "\n".join(lines) + "\n"


def _flush(rows: list[QARow], writer: pq.ParquetWriter) -> None:
    if rows:
        writer.write_table(pa.Table.from_pylist(rows, schema=FEATURES.arrow_schema))  # type: ignore[arg-type]
        rows.clear()
