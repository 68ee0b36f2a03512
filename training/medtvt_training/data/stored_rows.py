# SPDX-License-Identifier: Apache-2.0
"""
The rows of a split as Arrow files that processes map into memory: checked and measured once, for all processes and runs.

A folder `rows-KEY` holds `00000.arrow` and so on, and `rows.json` once it is complete. Its key is that of the split's
file, of the roots of its paths and of what turns text into tokens. A file appears when it is whole, so that a run that was
killed goes on where it stopped.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, concatenate_datasets
from filelock import FileLock

from processing_medtvt import MedTVTProcessor

from ..files import new_file, read_json, write_json
from .collator import measure_rows
from .columns import read_column
from .load import find_rows, read_tables
from .rejects import Reject, drop_rejects
from .rows import Modality


FORMAT = 2
ROWS_A_FILE = 5000


def load_stored_rows(
    data: str | os.PathLike,
    level: str,
    split: str,
    folder: str | os.PathLike,
    processor: MedTVTProcessor,
    *,
    ecg_root: str | os.PathLike | None = None,
    cxr_root: str | os.PathLike | None = None,
    max_rejected: float = 0.01,
    part: tuple[int, int] = (0, 1),
    wait: Callable[[], None] = lambda: None,
) -> Dataset:
    """
    One level and split of a MedTVT-QA folder, mapped into memory. Where it is not stored yet, processes share the work.

    Args:
        data, level, split, ecg_root, cxr_root, max_rejected: As for [`load_medtvt_qa`].
        folder (`str` or `os.PathLike`): Where to store it. Holds a copy of the rows, which are patients' data.
        processor ([`MedTVTProcessor`]): Whose tokens are counted.
        part (`tuple[int, int]`): Number of this process, and how many there are.
        wait (`Callable`): Returns when all processes have called it.

    Returns:
        `datasets.Dataset`: the rows as of [`load_medtvt_qa`], with the columns of [`measure_rows`] and `split`.

    Raises:
        FileNotFoundError, ValueError: See [`load_medtvt_qa`].
        OSError: if the folder cannot be written.
    """
    roots: dict[Modality, str] = {"ecg": os.path.abspath(ecg_root or data), "cxr": os.path.abspath(cxr_root or data)}
    key = _key(find_rows(data, level, split), roots, processor, split)
    target = Path(folder) / f"rows-{key}"
    tables = _Tables(Path(data), level, split, roots, processor, target)
    if not tables.is_complete:
        target.mkdir(parents=True, exist_ok=True)
        tables.write(part)
        wait()
        with FileLock(target / ".lock"):  # the first completes it, where nodes have disks of their own too
            if not tables.is_complete:
                tables.complete()
    about = read_json(target / "rows.json")
    files = [Dataset.from_file(str(target / f"{i:05}.arrow")) for i in range(about["files"])]
    dataset = concatenate_datasets(files)
    return drop_rejects(dataset, about["rejects"], max_rejected, total=len(dataset) + len(about["rejects"]))


def remove_stored_rows(folder: Path) -> None:
    """Removes what [`load_stored_rows`] wrote to a folder; what is mapped into memory stays readable."""
    for stored in folder.glob("rows-*/rows.json"):
        shutil.rmtree(stored.parent, ignore_errors=True)


class _Tables:
    """The files of a split."""

    def __init__(
        self,
        data: Path,
        level: str,
        split: str,
        roots: dict[Modality, str],
        processor: MedTVTProcessor,
        target: Path,
    ) -> None:
        self.data, self.level, self.split, self.roots = data, level, split, roots
        self.processor, self.target = processor, target

    @property
    def is_complete(self) -> bool:
        return (self.target / "rows.json").exists()

    def _read(self) -> tuple[Iterator[tuple[Path, Callable[[], pa.Table]]], list[Reject]]:
        tables, rejects = read_tables(self.data, self.level, self.split, self.roots, ROWS_A_FILE)
        return ((self.target / f"{i:05}.arrow", table) for i, table in enumerate(tables)), rejects

    def write(self, part: tuple[int, int]) -> None:
        """Every n-th file that is missing, from that of this process on."""
        for i, (file, read) in enumerate(self._read()[0]):
            if i % part[1] != part[0] or file.exists():
                continue
            table = measure_rows(read(), self.processor)
            if "split" in table.column_names:  # a build from MIMIC says it in each row
                table = table.drop_columns("split")
            table = table.append_column("split", pa.array([self.split] * len(table)))
            with new_file(file) as temporary, pa.OSFile(str(temporary), "wb") as sink:
                with pa.ipc.new_stream(sink, table.schema) as writer:
                    writer.write_table(table, max_chunksize=500)

    def complete(self) -> None:
        self.write((0, 1))
        files, rejects = self._read()
        names = [file for file, _ in files]
        ids = [read_column(Dataset.from_file(str(file)), "id") for file in names]
        counts = pc.value_counts(pa.chunked_array([chunk for column in ids for chunk in column.chunks], pa.string()))
        twice = counts.filter(pc.greater(counts.field("counts"), 1)).field("values").to_pylist()
        if twice:
            raise ValueError(
                f"{len(twice)} ids of {self.level}/{self.split} occur more than once, such as {twice[0]}."
            )
        write_json({"format": FORMAT, "files": len(names), "rejects": rejects}, self.target / "rows.json")


def _key(files: list[Path], roots: dict[Modality, str], processor: MedTVTProcessor, split: str) -> str:
    tokenizer = processor.tokenizer
    backend = getattr(tokenizer, "backend_tokenizer", None)
    # padding and truncation are what the last call left behind, and count no tokens
    own = None if backend is None else {**json.loads(backend.to_str()), "padding": None, "truncation": None}
    text = [
        sorted(tokenizer.get_vocab().items()) if own is None else own,
        str(tokenizer.special_tokens_map),
        str(processor.chat_template),
        processor.num_modality_tokens,
    ]
    stats = [[str(file.absolute()), file.stat().st_size, file.stat().st_mtime_ns] for file in files]
    about = json.dumps([FORMAT, ROWS_A_FILE, stats, roots, split, text], sort_keys=True)
    return hashlib.sha256(about.encode(errors="surrogatepass")).hexdigest()[:16]
