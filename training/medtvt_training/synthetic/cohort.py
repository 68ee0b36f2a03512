# SPDX-License-Identifier: Apache-2.0
"""
The synthetic cohort: imaginary patients with known causes, as files and as MedTVT-QA.

A cohort folder holds `records/` (WFDB), `films/` (PNG), `labs.csv`, the questions and answers in
`{physiology,diagnosis}/{train,validation,test}.parquet`, `causes.jsonl` with what lies behind each patient (for evaluation
only, never an input) and `cohort.json` with the arguments that made it.
"""

import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from modeling_medtvt.output_folder import check_new_folder, new_folder

from ..data.schema import FEATURES, LAB_NAMES, LEVELS, SPLITS
from .answers import make_rows
from .causes import DISEASE_OF_CODE
from .patient import draw_patient, generators, subject_id, write_patient


BYTES_A_PATIENT = 400_000
CHUNK = 32


def _write_chunk(
    folder: Path, seed: int, indices: range, setting: str
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Question rows and causes of a few patients; their files are written."""
    rows, causes = [], []
    for index in indices:
        # at most a thousand patients a folder
        name = f"{index // 1000:03d}/{subject_id(seed, index)}"
        files = {"ecg": f"records/{name}.hea", "cxr": f"films/{name}.png"}
        patient = write_patient(folder, files, seed, index, setting)
        wording = generators(seed, index)[6]
        # whoever measures gets one diagnosis row a patient
        reduced = patient.split == "train"
        for row in make_rows(
            patient.subject_id, patient.causes, patient.findings, files, patient.lab, wording, reduced
        ):
            rows.append({"split": patient.split, **row})
        causes.append(
            {
                "subject_id": patient.subject_id,
                "split": patient.split,
                **asdict(patient.causes),
                "diseases": [DISEASE_OF_CODE[code] for code in patient.causes.diseases],
                "none_of_the_seven": not patient.causes.diseases,
                "ecg": asdict(patient.ecg),
                "cxr": asdict(patient.film),
                "findings": patient.findings,
            }
        )
    return rows, causes


def write_cohort(
    output_dir: str | os.PathLike,
    patients: int,
    seed: int = 0,
    setting: str = "clear",
    first: int = 0,
    num_workers: int | None = None,
    progress: bool = True,
) -> Path:
    """
    Writes a cohort folder. It appears only when it is complete.

    Args:
        patients (`int`): How many.
        seed (`int`): Two cohorts of different seeds share no patient.
        setting (`str`): `"clear"` or `"realistic"`, see [`Setting`].
        first (`int`): Index of the first patient: `first=17, patients=1` is patient 17 alone.
        num_workers (`int`, *optional*): Processes, by default one a core. The files do not depend on it.

    Raises:
        FileExistsError: if the folder exists and is not empty.
        OSError: if the disk has no room.
    """
    if patients < 1:
        raise ValueError(f"`patients` must be at least 1, got {patients}.")
    draw_patient(seed, first, setting)  # what is wrong with the arguments shows here
    check_new_folder(output_dir)
    parent = next(folder for folder in Path(output_dir).absolute().parents if folder.exists())
    needed, free = patients * BYTES_A_PATIENT, shutil.disk_usage(parent).free
    if needed > free:
        raise OSError(
            f"{patients} patients take about {needed / 1e9:.1f} GB, but {parent} has {free / 1e9:.1f} GB left."
        )
    chunks = [range(start, min(start + CHUNK, first + patients)) for start in range(first, first + patients, CHUNK)]
    rows, causes = [], []
    with new_folder(output_dir) as folder, tqdm(total=patients, unit="patient", disable=not progress) as bar:
        for new_rows, new_causes in _run(chunks, folder, seed, setting, num_workers or os.cpu_count() or 1):
            rows += new_rows
            causes += new_causes
            bar.update(len(new_causes))
        _write_tables(folder, rows, causes)
        made_by = {"seed": seed, "patients": patients, "first": first, "setting": setting, "synthetic": True}
        (folder / "cohort.json").write_text(json.dumps(made_by, indent=2) + "\n")
    return Path(output_dir)


def _run(
    chunks: list[range], folder: Path, seed: int, setting: str, num_workers: int
) -> Iterator[tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
    """Results of the chunks in their order."""
    if num_workers == 1 or len(chunks) == 1:
        yield from (_write_chunk(folder, seed, chunk, setting) for chunk in chunks)
        return
    with ProcessPoolExecutor(num_workers) as pool:
        try:
            n = len(chunks)
            yield from pool.map(_write_chunk, [folder] * n, [seed] * n, chunks, [setting] * n)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _write_tables(folder: Path, rows: list[dict[str, Any]], causes: list[dict[str, Any]]) -> None:
    for level in LEVELS:
        (folder / level).mkdir()
        for split in SPLITS:
            chosen = [
                {key: value for key, value in row.items() if key != "split"}
                for row in rows
                if row["level"] == level and row["split"] == split
            ]
            table = pa.Table.from_pylist(chosen, schema=FEATURES.arrow_schema)
            pq.write_table(table, folder / level / f"{split}.parquet")
    labs = [{"subject_id": row["subject_id"], **row["lab"]} for row in rows if row["id"].endswith("-diagnosis")]
    pd.DataFrame(labs, columns=["subject_id", *LAB_NAMES]).to_csv(folder / "labs.csv", index=False)
    with open(folder / "causes.jsonl", "w") as file:
        file.writelines(json.dumps(patient) + "\n" for patient in causes)
