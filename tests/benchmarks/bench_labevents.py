# SPDX-License-Identifier: Apache-2.0
"""
`medtvt build-qa cohort` on a generated `labevents`: `python -m tests.benchmarks.bench_labevents --rows 5000000`.
Time and peak memory of the process that links; no ECGs and films, so every admission meets the big table.
"""

import argparse
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

import duckdb

from medtvt_training.mimic.cohort import build_cohort
from processing_medtvt import LAB_DEFINITIONS

from tests.medtvt_training.mimic.mimic_folder import write_imaginary_hosp


def generate(hosp: Path, rows: int, patients: int, threads: int):
    """Rows at random times of the patients' year; seven in ten are of the fifty labs."""
    write_imaginary_hosp(hosp, patients)
    itemids = ", ".join(str(lab.itemids[0]) for lab in LAB_DEFINITIONS)
    connection = duckdb.connect(config={"threads": threads, "memory_limit": "2GB"})
    connection.execute(
        f"""COPY (SELECT i AS labevent_id, 10000000 + hash(i) % {patients} AS subject_id, NULL AS hadm_id, i AS specimen_id,
            CASE WHEN hash(i, 1) % 10 < 7 THEN [{itemids}][1 + (hash(i, 2) % 50)::INT] ELSE 51514 END AS itemid,
            NULL AS order_provider_id, TIMESTAMP '2150-03-01' + INTERVAL 1 MINUTE * (hash(i, 3) % 2000000)::INT AS charttime,
            NULL AS storetime, '___' AS value, 1 + (hash(i, 4) % 60) / 10 AS valuenum, NULL AS valueuom,
            1 AS ref_range_lower, 5 AS ref_range_upper, NULL AS flag, 'ROUTINE' AS priority, 'comment, quoted' AS comments
            FROM range({rows}) t(i)) TO '{hosp / "labevents.csv.gz"}' (HEADER, COMPRESSION gzip)"""
    )


def link(folder: Path, memory: str, threads: int):
    start = time.monotonic()
    build_cohort(folder / "cohort", {"mimic-iv": folder / "mimic-iv"}, memory=memory, threads=threads)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print((folder / "cohort" / "flow.md").read_text())
    print(f"{time.monotonic() - start:.0f} s, peak {peak:.2f} GB")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--patients", type=int, default=2000)
    parser.add_argument("--memory", default="3GB")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        start = time.monotonic()
        generate(folder / "mimic-iv" / "hosp", args.rows, args.patients, args.threads)
        size = (folder / "mimic-iv" / "hosp" / "labevents.csv.gz").stat().st_size
        print(
            f"{args.rows:,} rows, {size / 1e6:.0f} MB gzipped, generated in {time.monotonic() - start:.0f} s",
            flush=True,
        )
        process = multiprocessing.get_context("spawn").Process(target=link, args=(folder, args.memory, args.threads))
        process.start()
        process.join()


if __name__ == "__main__":
    main()
