# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint's weights were trained on: a small file beside them, on which no architecture depends."""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from transformers.utils import cached_file


PROVENANCE_NAME = "provenance.json"
STAGES = ("pt", "sft", "rft")
_REAL = {"ecg": "ECGs", "cxr": "films", "lab": "labs"}


@dataclass
class Provenance:
    """
    Args:
        stage (`str`, *optional*): Training stage that the weights come from, `"pt"`, `"sft"` or `"rft"`. None for a
            model that was not trained on MedTVT-QA: its answers mean nothing, and the pipeline says so.
        training_data (`list[dict]`): What each training stage so far learned from: `stage`, `name` of the dataset and
            `access` to it (`"synthetic"`, `"open"` or `"credentialed"`), which decides who may get the weights. Open real
            data may have `modalities` ("ecg, cxr"), `sources`, `license` and `attribution`.

    Raises:
        ValueError: if there is no such stage, or an entry of `training_data` lacks its `access`.
    """

    stage: str | None = None
    training_data: list[dict[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.stage not in (None, *STAGES):
            raise ValueError(f"`stage` is one of {', '.join(STAGES)} or None.")
        if not isinstance(self.training_data, list) or not all(
            isinstance(entry, dict) and isinstance(entry.get("access"), str) for entry in self.training_data
        ):
            raise ValueError("`training_data`: every entry needs `access`, which is synthetic, open or credentialed.")

    def describe_patients(self) -> str | None:
        """Whom the weights learned from, as in "imaginary patients, and open real ECGs and films"; None if credentialed."""
        accesses = {entry["access"] for entry in self.training_data}
        if not accesses or not accesses <= {"synthetic", "open"}:
            return None
        if accesses == {"synthetic"}:
            return "imaginary patients only"
        shown = {
            name
            for entry in self.training_data
            for name in entry.get("modalities", "").split(", ")
            if entry["access"] == "open"
        }
        kinds = " and ".join(plural for name, plural in _REAL.items() if name in shown) or "data"
        return f"{'imaginary patients, and ' if 'synthetic' in accesses else ''}open real {kinds}"

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike, **hub_kwargs: Any) -> "Provenance":
        """
        Of a checkpoint folder or Hub repository: what its provenance.json says or, in a folder of an older version, its
        config.json; an empty one where neither says anything.

        Args:
            hub_kwargs: `revision`, `cache_dir`, `token`, … as for `from_pretrained` of the model.

        Raises:
            ValueError: if the file is damaged.
        """
        for file_name in (PROVENANCE_NAME, "config.json"):
            try:
                path = cached_file(name, file_name, **hub_kwargs)
            except OSError:  # the folder, or the repository, has none
                continue
            if path is not None:
                return cls._read(Path(path))
        return cls()

    @classmethod
    def _read(cls, path: Path) -> "Provenance":
        try:
            content = json.loads(path.read_bytes())
            if not isinstance(content, dict):
                raise ValueError(f"it holds a {type(content).__name__}, not a JSON object.")
            return cls(content.get("stage"), content.get("training_data") or [])
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}: {error}") from error

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        """Writes provenance.json. There is none beside weights that were trained on nothing."""
        path = Path(folder) / PROVENANCE_NAME
        if self == Provenance():
            path.unlink(missing_ok=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")


__all__ = ["Provenance"]
