# SPDX-License-Identifier: Apache-2.0
"""A dataset in the authors' layout: JSON records, and tables whose rows belong to the records by position."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from modeling_medtvt.output_folder import new_folder
from processing_medtvt import LAB_DEFINITIONS, MedTVTLabFeatureExtractor

from ..data.authors_layout import AUTHORS_FILES, AuthorsSource
from ..data.conversation import message_text


def export_authors(dataset: Path, output_dir: Path) -> dict[str, int]:
    """
    Writes the files that `medtvt_training.data.authors_layout` names, and `labs_means.json`. Percentiles are fitted on the labs of the
    training file; the authors' layout has no validation split.

    Args:
        dataset (`Path`): A folder of `medtvt build-qa dataset`.

    Returns:
        `dict[str, int]`: records by file.

    Raises:
        FileNotFoundError: if a file of the dataset is missing.
        ValueError: if no training row has a lab.
    """
    counts: dict[str, int] = {}
    fitted: MedTVTLabFeatureExtractor | None = None
    with new_folder(output_dir) as folder:
        (folder / "QA").mkdir()
        for (level, split), sources in AUTHORS_FILES.items():
            rows = pq.read_table(dataset / level / f"{split}.parquet").to_pylist()
            for source in sources:
                modality = source.json.split("_")[1] if level == "physiology" else None
                chosen = [row for row in rows if modality is None or row["modalities"] == [modality]]
                # the authors' loader has one place for each signal
                chosen = [row for row in chosen if modality or len(row["modalities"]) == 3]
                records = [_make_record(row, source) for row in chosen]
                text = json.dumps(records, indent=1, ensure_ascii=False)
                (folder / "QA" / source.json).write_text(text, encoding="utf-8")
                counts[source.json] = len(records)
                if source.csv:
                    if fitted is None:
                        fitted = _fit(chosen)
                        means = {
                            f"{_ITEMIDS[name]}_percentile": mean
                            for name, mean in (fitted.mean_percentiles or {}).items()
                        }
                        (folder / "QA" / "labs_means.json").write_text(json.dumps(means, indent=1) + "\n")
                    _write_table(folder / "QA" / source.csv, chosen, fitted)
    return counts


_ITEMIDS = {lab.name: lab.itemids[0] for lab in LAB_DEFINITIONS}


def _make_record(row: dict[str, Any], source: AuthorsSource) -> dict[str, Any]:
    record = {
        "messages": [
            {"role": "user", "content": message_text(row["prompt"][:1])},
            {"role": "assistant", "content": message_text(row["completion"])},
        ],
        "id": row["id"],
    }
    if source.path_key and source.path_column:
        record[source.path_key] = [row[source.path_column]]
    elif row["ecg"]:
        record["ECG"] = [row["ecg"]]
    return record


def _fit(rows: list[dict[str, Any]]) -> MedTVTLabFeatureExtractor:
    """The labs' quantile tables, with a step for every value."""
    steps = max(1, len(rows))
    return MedTVTLabFeatureExtractor().fit(_lab_table(rows), "training rows", max_points=steps, allow_missing=True)


def _lab_table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame([row["lab"] for row in rows], columns=list(_ITEMIDS), dtype=float)


def _write_table(path: Path, rows: list[dict[str, Any]], extractor: MedTVTLabFeatureExtractor) -> None:
    keys = ("subject_id", "hadm_id", "ecg_path", "cxr_path")
    found: Sequence[np.ndarray] = extractor(_lab_table(rows))["lab_values"] if rows else []
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*keys, *_ITEMIDS.values(), *(f"{itemid}_percentile" for itemid in _ITEMIDS.values())])
        for row, lab_values in zip(rows, found):
            percentiles, flags = np.split(lab_values.astype(float), 2)
            cells = [percentile.round(7) if flag else "" for percentile, flag in zip(percentiles, flags)]
            values = [row["lab"][name] for name in _ITEMIDS]
            writer.writerow([row["subject_id"], row["hadm_id"], row["ecg"], row["cxr"], *values, *cells])
