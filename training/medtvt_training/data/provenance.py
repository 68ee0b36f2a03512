# SPDX-License-Identifier: Apache-2.0
"""What data weights were trained on, and who may have them."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from ..files import read_json


# What may be done with weights trained on data of each kind, from the freest
ACCESS = ("synthetic", "open", "credentialed")


# Where weights come from


def training_data_entry(stage: str, data_dir: str | os.PathLike) -> dict:
    """
    What a training stage adds to the list `training_data` of its model's config, which travels with the weights.

    A folder with a cohort.json that says so is synthetic; any other holds patients' data and counts as credentialed.

    Returns:
        `dict`: `stage`, `name` (of the folder) and `access`, one of `ACCESS`.
    """
    cohort = Path(data_dir) / "cohort.json"
    synthetic = cohort.is_file() and json.loads(cohort.read_text(encoding="utf-8")).get("synthetic") is True
    access = "synthetic" if synthetic else "credentialed"
    return {"stage": stage, "name": Path(data_dir).resolve().name, "access": access}


def read_access(model_dir: str | os.PathLike) -> str:
    """
    The most restricted data that a folder's weights were trained on, as its config says: `"none"` for untrained ones, one
    of `ACCESS`, or `"unknown"` for trained ones that do not say.

    Raises:
        ValueError: if there is no config, or its `training_data` is malformed.
    """
    config = read_json(Path(model_dir) / "config.json")
    entries = config.get("training_data") or []
    if not isinstance(entries, list) or any(
        not isinstance(x, Mapping) or x.get("access") not in ACCESS for x in entries
    ):
        raise ValueError(
            f"{model_dir}/config.json: `training_data` needs an `access` out of {', '.join(ACCESS)} each."
        )
    if not entries:
        return "none" if config.get("stage") is None else "unknown"
    return max((entry["access"] for entry in entries), key=ACCESS.index)
