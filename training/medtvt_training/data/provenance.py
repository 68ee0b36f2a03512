# SPDX-License-Identifier: Apache-2.0
"""What data weights were trained on, and who may have them."""

import csv
import os
import re
from pathlib import Path

from modeling_medtvt import Provenance

from ..files import read_json


# What may be done with weights trained on data of each kind, from the freest
ACCESS = ("synthetic", "open", "credentialed")
# Beside the rows that `medtvt open-data` writes: sources, their terms and counts
OPEN_DATA_FILE = "open_data.json"


def training_data_entry(stage: str, data_dir: str | os.PathLike) -> dict[str, str]:
    """
    What a training stage adds to the list `training_data` of its model's [`~modeling_medtvt.Provenance`], which travels
    with the weights.

    A folder with a cohort.json that says so is synthetic. One with an open_data.json, one whose rows all say
    `access: open`, as those that `medtvt build-qa --open-data` writes, and PTB-XL (CC BY 4.0) are open. Any other holds
    patients' data and counts as credentialed.

    Returns:
        `dict`: `stage`, `name` (of the folder) and `access`, one of `ACCESS`; for a folder of `medtvt open-data` also
        `modalities`, as in "ecg, cxr", and the `sources` with their `license` and `attribution`.

    Raises:
        ValueError: if open_data.json is damaged.
    """
    folder = Path(data_dir)
    access = "credentialed"
    if (folder / OPEN_DATA_FILE).is_file():
        return {"stage": stage, "name": folder.resolve().name, "access": "open", **_read_terms(folder)}
    if _is_synthetic(folder):
        access = "synthetic"
    elif _says_open(folder) or _is_ptb_xl(folder):
        access = "open"
    return {"stage": stage, "name": folder.resolve().name, "access": access}


def _read_terms(folder: Path) -> dict[str, str]:
    content = read_json(folder / OPEN_DATA_FILE)
    try:
        sources = content["sources"]
        return {
            "modalities": ", ".join(dict.fromkeys(source["modality"] for source in sources)),
            "sources": "; ".join(
                f"{source['name']} ({sum(source['records'].values())} records)" for source in sources
            ),
            "license": "; ".join(f"{source['name']}: {source['license']}" for source in sources),
            "attribution": " ".join(source["attribution"] for source in sources),
        }
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{folder / OPEN_DATA_FILE} is not as `medtvt open-data` writes it.") from error


def _is_synthetic(folder: Path) -> bool:
    file = folder / "cohort.json"
    content = read_json(file) if file.is_file() else None
    return isinstance(content, dict) and content.get("synthetic") is True


def _says_open(folder: Path) -> bool:
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    files = sorted(folder.glob("*/*.parquet"))
    for file in files:
        if "access" not in pq.read_schema(file).names:
            return False
        if set(pc.unique(pq.read_table(file, columns=["access"])["access"]).to_pylist()) - {"open"}:
            return False
    return bool(files)


def _is_ptb_xl(folder: Path) -> bool:
    """By the name of its table and the names of its records, which no other data set shares."""
    file = folder / "ptbxl_database.csv"
    if not file.is_file():
        return False
    with open(file, encoding="utf-8", errors="replace", newline="") as lines:
        rows = list(csv.DictReader(lines))
    name = re.compile(r"records500/\d{5}/\d{5}_hr")
    return bool(rows) and all(name.fullmatch(row.get("filename_hr") or "") for row in rows)


def read_access(model_dir: str | os.PathLike) -> str:
    """
    The most restricted data that a folder's weights were trained on, as it says itself: `"none"` for untrained ones, one
    of `ACCESS`, or `"unknown"` for trained ones that do not say.

    Raises:
        ValueError: if there is no config, or what it says is malformed.
    """
    if not (Path(model_dir) / "config.json").is_file():
        raise ValueError(f"{model_dir} is no model folder: it has no config.json.")
    provenance = Provenance.from_pretrained(model_dir)
    accesses = [entry["access"] for entry in provenance.training_data]
    if any(access not in ACCESS for access in accesses):
        raise ValueError(f"{model_dir}: `training_data` needs an `access` out of {', '.join(ACCESS)} each.")
    if not accesses:
        return "none" if provenance.stage is None else "unknown"
    return max(accesses, key=ACCESS.index)
