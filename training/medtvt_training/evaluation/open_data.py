# SPDX-License-Identifier: Apache-2.0
"""
A model on open real data: what it says of real ECGs and films, and of labs with their patients' diagnoses.

Each record is asked the pipeline's question with its one modality. The data are folders in their published layout, or one
of `medtvt open-data`.
"""

import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from modeling_medtvt import DISEASES
from modeling_medtvt.calibration_medtvt import CALIBRATION_FILE, read_calibration

from ..data.load import load_medtvt_qa
from ..data.provenance import OPEN_DATA_FILE
from ..data.rows import QARow, Reject
from ..data.schema import SPLITS
from ..files import hash_folder, write_json, write_text
from ..mimic.cohort import build_cohort, read_cohort
from ..open_data.dataset import assign_folds, read_source
from ..open_data.record import NIH_FILMS, PTB_XL, Source
from .answerer import MedTVTAnswerer
from .open_metrics import measure_open_data, render_open_data
from .questions import ask_diagnosis
from .run import Scoring, open_model, predict


ALL = "all"


def evaluate_open_data(
    model_dir: str | os.PathLike,
    data: str | os.PathLike,
    out: str | os.PathLike,
    scoring: Scoring | None = None,
    *,
    split: str = "test",
    batch_size: int = 8,
    max_new_tokens: int | None = None,
    device: str | None = None,
) -> dict[str, Any]:
    """
    Answers and measures. A run that was stopped continues where it stopped.

    Args:
        model_dir (`str` or `os.PathLike`): Checkpoint folder.
        data (`str` or `os.PathLike`): A folder of `medtvt open-data`; or one that is or holds a folder of PTB-XL
            (ptbxl_database.csv), of films (labels.csv) or of the MIMIC-IV demo (hosp/).
        out (`str` or `os.PathLike`): Folder for predictions.jsonl, open_data.json and open_data.md.
        split (`str`): `"train"`, `"validation"`, `"test"`, or `"all"`, which is right only for weights that learned from none
            of the records. The demo has no splits, and is always taken as a whole.

    Returns:
        `dict`: content of open_data.json: `about`, `values`, `intervals` (95 %, by patient) and `counts` by metric.

    Raises:
        ValueError: if the model or the data do not open, or `out` holds another run.
    """
    scoring = scoring or Scoring()
    rows, rejects = read_open_rows(data, split)
    model, processor = open_model(model_dir, device)
    calibration_file = Path(model_dir, CALIBRATION_FILE)
    calibration = read_calibration(calibration_file) if calibration_file.exists() else None
    answerer = MedTVTAnswerer(
        model, processor, max_new_tokens=max_new_tokens, likelihood=True, order=DISEASES, calibration=calibration
    )
    about = {"model": hash_folder(model_dir), "split": split, "max_new_tokens": answerer.max_new_tokens}
    answers = {record["id"]: record for record in predict(rows, answerer, Path(out), about, batch_size)}
    kept = [row for row in rows if row["id"] in answers]
    results = measure_open_data(kept, [answers[row["id"]] for row in kept], scoring.resamples, scoring.seed)
    trained = [entry for entry in model.provenance.training_data if entry["access"] == "open"]
    results["about"] = {
        **about,
        "rejected": len(rejects) + len(rows) - len(kept),
        # a reader must know whether the weights may have seen these patients
        "trained_on_open_data": sorted({f"{entry['name']} ({entry['stage']})" for entry in trained}),
    }
    write_json(results, Path(out, "open_data.json"))
    write_text(render_open_data(results), Path(out, "open_data.md"))
    return results


def read_open_rows(folder: str | os.PathLike, split: str) -> tuple[list[QARow], list[Reject]]:
    """
    A row a record, asking for a diagnosis from its one modality, with `findings` and `absent_findings` (ECGs and films) or
    `diseases` (labs); and the records that cannot be used.

    Raises:
        ValueError: if there is no such split, or the folder holds none of the data sets.
    """
    if split not in (*SPLITS, ALL):
        raise ValueError(f"`split` must be one of {', '.join(SPLITS)}, {ALL}; got {split!r}.")
    folder, rejects = Path(folder), []  # type: ignore[var-annotated]
    splits = SPLITS if split == ALL else (split,)
    if (folder / OPEN_DATA_FILE).is_file():
        rows = list(_read_dataset(folder, splits))
    else:
        rows = []
        for place in (folder, *sorted(path for path in folder.glob("*") if path.is_dir())):
            if (place / "ptbxl_database.csv").is_file():
                rows += _read_published(PTB_XL, place, splits, rejects)
            elif (place / "labels.csv").is_file():
                rows += _read_published(NIH_FILMS, place / "labels.csv", splits, rejects)
            elif (place / "hosp").is_dir():
                rows += _read_demo(place)
    if not rows:
        raise ValueError(
            f"{folder} holds no record of the split {split}. It must be a folder of `medtvt open-data`, or be or hold one "
            "of PTB-XL (ptbxl_database.csv), of films (labels.csv) or of the MIMIC-IV demo (hosp/)."
        )
    return rows, rejects


def _read_dataset(folder: Path, splits: Sequence[str]) -> Iterator[QARow]:
    for split in splits:
        seen = set()
        for row in load_medtvt_qa(folder, "physiology", split):
            [modality] = row["modalities"]
            if row[modality] not in seen:
                seen.add(row[modality])
                yield ask_diagnosis(row["id"], modality, row[modality], row)


def _read_published(source: Source, path: Path, splits: Sequence[str], rejects: list[Reject]) -> Iterator[QARow]:
    split_of = assign_folds()
    root = path if path.is_dir() else path.parent
    for record in read_source(source, path, rejects):
        if split_of[record.fold] in splits:
            known: dict[str, Any] = {
                "findings": record.shown,
                "absent_findings": record.absent,
                "age": record.age,
                "sex": record.sex,
            }
            known["subject_id"] = f"{source.key}-{record.subject_id}"
            yield ask_diagnosis(f"{source.key}-{record.id}", record.modality, str(root / record.path), known)


def _read_demo(folder: Path) -> Iterator[QARow]:
    with tempfile.TemporaryDirectory() as place:
        cohort = build_cohort(Path(place, "cohort"), {"mimic-iv": folder}, allow_lab_mismatch=True)
        admissions, _ = read_cohort(cohort)
    for row in admissions:
        labs = {name: reading and reading["value"] for name, reading in row["labs"].items()}
        known: dict[str, Any] = {"age": row["age"], "sex": row["gender"], "diseases": row["diseases"]}
        known["subject_id"] = f"mimic-iv-{row['subject_id']}"
        yield ask_diagnosis(f"mimic-iv-{row['hadm_id']}", "lab", labs, known)
