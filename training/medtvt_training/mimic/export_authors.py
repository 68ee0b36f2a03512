# SPDX-License-Identifier: Apache-2.0
"""A dataset in the authors' layout: JSON records, and tables whose rows belong to the records by position."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from modeling_medtvt.output_folder import new_folder
from processing_medtvt import LAB_DEFINITIONS

from ..data.authors_layout import AUTHORS_FILES, AuthorsSource
from ..data.conversation import message_text


def export_authors(dataset: Path, output_dir: Path) -> dict[str, int]:
    """
    Writes the files that `training.authors_data` names, and `labs_means.json`. Percentiles are fitted on the labs of the
    training file; the authors' layout has no validation split.

    Args:
        dataset (`Path`): A folder of `medtvt build-qa dataset`.

    Returns:
        `dict[str, int]`: records by file.

    Raises:
        FileNotFoundError: if a file of the dataset is missing.
    """
    counts, fitted = {}, None
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
                        means = {f"{itemid}_percentile": mean for itemid, (_, mean) in fitted.items()}
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


def _fit(rows: list[dict[str, Any]]) -> dict[int, tuple[np.ndarray, float]]:
    """Sorted values and mean percentile of each lab; 0.5 for one that nobody has."""
    fitted = {}
    for name, itemid in _ITEMIDS.items():
        values = np.sort([row["lab"][name] for row in rows if row["lab"][name] is not None])
        mean = float(np.mean(_percentile(values, values))) if len(values) else 0.5
        fitted[itemid] = (values, mean)
    return fitted


def _percentile(values: np.ndarray, x: float | np.ndarray) -> np.ndarray:
    """Share of the values that are not above x."""
    return np.searchsorted(values, x, side="right") / len(values)


def _write_table(path: Path, rows: list[dict[str, Any]], fitted: dict[int, tuple[np.ndarray, float]]) -> None:
    keys = ("subject_id", "hadm_id", "ecg_path", "cxr_path")
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*keys, *_ITEMIDS.values(), *(f"{itemid}_percentile" for itemid in _ITEMIDS.values())])
        for row in rows:
            values = [row["lab"][name] for name in _ITEMIDS]
            percentiles = [
                "" if value is None else float(_percentile(fitted[itemid][0], value)) if len(fitted[itemid][0]) else ""
                for itemid, value in zip(_ITEMIDS.values(), values)
            ]
            writer.writerow([row["subject_id"], row["hadm_id"], row["ecg"], row["cxr"], *values, *percentiles])
