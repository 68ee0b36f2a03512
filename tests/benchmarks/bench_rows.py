# SPDX-License-Identifier: Apache-2.0
"""
Start of SFT on many rows: `python -m tests.benchmarks.bench_rows --rows 1000000`.

Some thousand imaginary rows are stored as a run stores them, which is timed; then they are written again and again under
other ids, as if so many had been stored before, with a feature cache that has their entries. Timed is a fresh process, from
its start to its first step, with modality dropout and batches grouped by length; its memory is read there. No signal is
read: the entries are zeros.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from medtvt_training.data import feature_cache, stored_rows
from medtvt_training.data.collator import MedTVTDataCollator
from medtvt_training.data.feature_cache import FeatureCache
from medtvt_training.data.schema import FEATURES
from medtvt_training.stages import callbacks
from medtvt_training.stages.initialize import init_tiny
from medtvt_training.stages.run import run_stage
from modeling_medtvt.checkpoint_folder import open_checkpoint

from .harness import ROOT
from .padding import draw_rows


def write_data(folder: Path, patients: int) -> int:
    rows = draw_rows("diagnosis", patients)
    (folder / "diagnosis").mkdir(parents=True)
    for split, some in (("train", rows), ("validation", rows[:8])):
        pq.write_table(pa.Table.from_pylist(some, FEATURES.arrow_schema), folder / "diagnosis" / f"{split}.parquet")
    return len(rows)


def multiply(stored: Path, rows: int) -> int:
    """Stored rows, again and again under other ids, until there are as many as wanted."""
    with pa.OSFile(str(stored / "00000.arrow")) as source:
        table = pa.ipc.open_stream(source).read_all()
    column = table.column_names.index("id")
    files = -(-rows // len(table))
    for i in range(files):
        ids = pa.array([f"{i}-{j}" for j in range(len(table))])
        copy = table.set_column(column, "id", ids)
        with pa.OSFile(str(stored / f"{i:05}.arrow"), "wb") as sink, pa.ipc.new_stream(sink, copy.schema) as writer:
            writer.write_table(copy, max_chunksize=500)
    (stored / "rows.json").write_text(json.dumps({"format": 1, "files": files, "rejects": []}))
    return files * len(table)


def write_entries(cache: FeatureCache, rows: int):
    """An index of as many random digests for each modality, and files of features that take no space."""
    rng = np.random.default_rng(0)
    for store in cache._stores.values():
        store.open_for_writing(0, [])
        lines = np.full((rows, feature_cache.LINE_BYTES), ord("\n"), np.uint8)
        lines[:, :-1] = np.frombuffer(b"0123456789abcdef", np.uint8)[rng.integers(0, 16, (rows, 40), np.uint8)]
        (store.folder / "index.txt").write_bytes(lines.tobytes())
        os.truncate(store.folder / "features.bin", rows * (store.entry_bytes - feature_cache.LINE_BYTES))


def prepare(folder: Path, rows: int) -> tuple[float, int]:
    """Milliseconds that a row took to be checked, measured and stored; and how many rows there are in the end."""
    init_tiny(folder / "model")
    count = write_data(folder / "data", 4000)
    model, processor = open_checkpoint(folder / "model")
    start = time.perf_counter()
    stored_rows.load_stored_rows(folder / "data", "diagnosis", "train", folder / "cache", processor)
    took = 1e3 * (time.perf_counter() - start) / count
    (stored,) = (folder / "cache").glob("rows-*")
    total = multiply(stored, rows)
    cache = FeatureCache(folder / "cache", model, processor)
    write_entries(cache, total)
    for split in ("train", "validation"):
        dataset = stored_rows.load_stored_rows(folder / "data", "diagnosis", split, folder / "cache", processor)
        (folder / "cache" / f"built-{cache._built_key(dataset)}-0-{len(dataset)}.json").write_text("[]")
    return took, total


def start_run(folder: Path):
    """To the first step: prints the process's memory there, in MB."""

    def report(*args, **kwargs):
        status = Path("/proc/self/status").read_text().splitlines()
        wanted = ("VmHWM", "VmRSS", "RssAnon", "RssFile")
        sizes = {line.split(":")[0]: int(line.split()[1]) // 1024 for line in status if line.startswith(wanted)}
        print(json.dumps(sizes), flush=True)
        os._exit(0)

    def read_zeros(collator, row, modality):
        return torch.zeros(collator.features._stores[modality].shape)

    words = [f"--model={folder / 'model'}", f"--data={folder / 'data'}", f"--feature-cache={folder / 'cache'}"]
    words += [f"--out={folder / 'run'}", "--eval_strategy=no", "--eval_on_start=false", "--report_to=none"]
    with (
        mock.patch.object(MedTVTDataCollator, "_read", read_zeros),
        mock.patch.object(callbacks.SaveConfigCallback, "on_step_begin", report),
    ):
        run_stage("sft", "tiny", [*words, "--disable_tqdm=true", "--max_steps=1"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000])
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder); 4 GB at 10^6 rows")
    parser.add_argument("--start", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.start:
        start_run(args.start)
    for rows in args.rows:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            took, total = prepare(Path(folder), rows)
            print(f"{total:,} rows; to store one once takes {took:.1f} ms of one process", flush=True)
            start = time.perf_counter()
            command = [sys.executable, "-m", "tests.benchmarks.bench_rows", "--start", folder]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
            wall, own = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
            found = (done.stdout.splitlines() or [done.stderr])[-1]
            print(
                f"first step after {wall:.1f} s ({own.ru_utime + own.ru_stime:.1f} s of CPU so far); MB: {found[-2000:]}"
            )


if __name__ == "__main__":
    main()
