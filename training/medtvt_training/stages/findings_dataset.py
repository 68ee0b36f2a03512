# SPDX-License-Identifier: Apache-2.0
"""Inputs with the findings that they show: from a MedTVT-QA cohort or a table in the layout of PTB-XL."""

import ast
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from processing_medtvt import MedTVTProcessor

from ..data.inputs import RAW_INPUTS
from ..data.load import load_medtvt_qa
from ..data.rows import Modality


logger = logging.getLogger(__name__)
SPLITS = ("train", "validation")


def read_cohort(folder: str | os.PathLike, modality: Modality) -> dict[str, list[dict]]:
    """
    The physiology rows of a MedTVT-QA folder that belong to one modality, each input once.

    Returns:
        `dict`: split to rows with `id`, the modality (path or labs), `findings` and `absent_findings`.

    Raises:
        ValueError: if no row belongs to it, or the rows do not list their findings.
    """
    splits = read_inputs(folder, modality, SPLITS)
    for split, rows in splits.items():
        if not rows:
            raise ValueError(
                f"{folder}: no row of physiology/{split} is about the {modality} alone and lists its `findings`, which "
                "the encoder is to learn. Leave this modality out with `--modalities`, or use another dataset."
            )
    return splits


def read_inputs(folder: str | os.PathLike, modality: Modality, splits: Sequence[str]) -> dict[str, list[dict]]:
    """As [`read_cohort`], but a split may have no row about the modality alone that lists its findings."""
    found = {}
    for split in splits:
        dataset = load_medtvt_qa(folder, "physiology", split)
        unique: dict[str, Any] = {}
        unlabelled = 0
        for row in dataset.select_columns(["id", "modalities", modality, "findings", "absent_findings"]):
            if row["modalities"] == [modality]:
                if row["findings"] is None:
                    unlabelled += 1
                else:
                    unique.setdefault(str(row[modality]), row)
        if unlabelled:
            logger.warning(
                "%s, %s: %d rows of %s do not list their findings and are left out.",
                folder,
                split,
                unlabelled,
                modality,
            )
        found[split] = list(unique.values())
    fill_absent(found)
    return found


def fill_absent(splits: dict[str, list[dict]]) -> None:
    """
    Gives rows that do not list their `absent_findings` those that other rows of the training split show. What none shows is
    not known: the data may have no name for it.
    """
    named = {finding for row in splits["train"] for finding in row["findings"]}
    for rows in splits.values():
        for row in rows:
            if row.get("absent_findings") is None:
                row["absent_findings"] = sorted(named.difference(row["findings"]))


def read_ptb_xl(labels: str | os.PathLike, statements: str | os.PathLike | None = None) -> dict[str, list[dict]]:
    """
    Rows of a table in the layout of PTB-XL: `filename_hr` (relative to the table's folder), `scp_codes` (a dict of
    statement to likelihood, as text) and `strat_fold` (1-8 are for training, 9 for validation).

    Args:
        labels (`str` or `os.PathLike`): ptbxl_database.csv, or a table like it.
        statements (`str` or `os.PathLike`, *optional*): scp_statements.csv, whose first column holds the statement, and
            `diagnostic` and `diagnostic_class`. With it, the findings are the diagnostic superclasses.

    Raises:
        ValueError: if columns are missing, codes are not readable, or a split has no row.
    """
    table = _read_table(labels, ["filename_hr", "scp_codes", "strat_fold"])
    classes = None
    if statements is not None:
        codes = _read_table(statements, ["diagnostic", "diagnostic_class"])
        codes = codes[codes["diagnostic"] == 1]
        classes = dict(zip(codes.iloc[:, 0], codes["diagnostic_class"]))
    splits: dict[str, list[dict]] = {"train": [], "validation": []}
    for number, (name, codes, fold) in enumerate(zip(table["filename_hr"], table["scp_codes"], table["strat_fold"])):
        try:
            findings = list(ast.literal_eval(codes))
        except (ValueError, SyntaxError) as error:
            raise ValueError(f"{labels}, row {number}: `scp_codes` is no dict of statements: {codes!r}.") from error
        if classes is not None:
            findings = sorted({classes[code] for code in findings if code in classes})
        split = "train" if fold <= 8 else "validation" if fold == 9 else None
        if split:
            path = os.path.join(os.path.dirname(os.path.abspath(labels)), name)
            splits[split].append({"id": name, "ecg": path, "findings": findings})
    for split, rows in splits.items():
        if not rows:
            raise ValueError(f"{labels}: no row for {split}; `strat_fold` 1-8 is for training, 9 for validation.")
    fill_absent(splits)
    return splits


def _read_table(file: str | os.PathLike, columns: list[str]) -> pd.DataFrame:
    table = pd.read_csv(file)
    if missing := [name for name in columns if name not in table.columns]:
        raise ValueError(f"{file} has no column {', '.join(missing)}; the layout is that of PTB-XL.")
    return table


def frequent_findings(modality: Modality, rows: Sequence[dict], minimum: int) -> list[str]:
    """
    Names of the findings that at least `minimum` rows are known to show, and as many not to.

    Raises:
        ValueError: if there are none.
    """
    shown = Counter(finding for row in rows for finding in set(row["findings"]))
    absent = Counter(finding for row in rows for finding in set(row["absent_findings"]))
    kept = sorted(name for name in shown if min(shown[name], absent[name]) >= minimum)
    if not kept:
        raise ValueError(
            f"No finding of the {modality} is shown, and not shown, by {minimum} training inputs (`min_positives`); "
            f"there are {len(rows)} inputs with {len(shown)} findings."
        )
    if left_out := sorted(set(shown) - set(kept)):
        logger.warning(
            "%s: %d findings are too rare, or too common, to learn: %s.", modality, len(left_out), "; ".join(left_out)
        )
    return kept


def label_findings(row: Mapping[str, Any], names: Sequence[str]) -> np.ndarray:
    """(findings,) float32 of a row with `findings` and `absent_findings`: 1 shown, 0 not shown, NaN not known."""
    shown, absent = row["findings"], row.get("absent_findings")
    if absent is None:
        return np.array([float(name in shown) for name in names], dtype=np.float32)
    labels = [1.0 if name in shown else 0.0 if name in absent else np.nan for name in names]
    return np.array(labels, dtype=np.float32)


def findings_loss(
    logits: torch.Tensor, labels: torch.Tensor, positive_weight: torch.Tensor | None = None
) -> torch.Tensor:
    """
    Binary cross-entropy over the known labels, 0 where there are none.

    Args:
        logits, labels (`torch.Tensor`): (..., findings), labels as of [`label_findings`].
        positive_weight (`torch.Tensor`, *optional*): (findings,), what a shown finding counts.
    """
    known = ~labels.isnan()
    loss = nn.functional.binary_cross_entropy_with_logits(
        logits, labels.nan_to_num(), reduction="none", pos_weight=positive_weight
    )
    return (loss * known).sum() / known.sum().clamp(min=1)


class FindingsDataset(Dataset):
    """
    Inputs of one modality in a memory map, decoded once, and their findings.

    ECGs are stored in mV, labs as percentiles and flags (float32), X-rays as resized pictures before rescaling and
    normalisation (uint8).

    Args:
        ids (`list[str]`): Names of the inputs.
        values (`np.ndarray`): (inputs, ...).
        labels (`np.ndarray`): (inputs, findings), as of [`label_findings`].
    """

    def __init__(self, ids: list[str], values: np.ndarray, labels: np.ndarray) -> None:
        self.ids, self.values, self.labels = ids, values, labels

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict:
        values = torch.from_numpy(np.array(self.values[index]))
        return {"id": self.ids[index], "values": values, "labels": torch.from_numpy(self.labels[index])}

    @classmethod
    def read(
        cls,
        rows: list[dict],
        modality: Modality,
        processor: MedTVTProcessor,
        findings: list[str],
        file: Path,
        num_workers: int = 0,
        max_rejected: float = 0.01,
    ) -> "FindingsDataset":
        """
        Reads the inputs of rows.

        Args:
            file (`Path`): Where to put the memory map.
            num_workers (`int`): Processes that read files.
            max_rejected (`float`): Share of the inputs that may be left out because they cannot be read.

        Raises:
            ValueError: if more cannot be read.
        """
        loader = DataLoader(
            _Reader(rows, modality, processor), batch_size=None, num_workers=num_workers, collate_fn=_same
        )
        kept: list[dict] = []
        problems: list[str] = []
        values: Any = None  # the memory map, once the shape is known
        for row, value in zip(rows, tqdm(loader, desc=f"{modality} inputs", total=len(rows))):
            if isinstance(value, str):
                problems.append(f"{row['id']}: {value}")
                continue
            if values is None:
                shape = (len(rows), *value.shape)
                values = np.lib.format.open_memmap(file, mode="w+", dtype=value.dtype, shape=shape)
            values[len(kept)] = value
            kept.append(row)
        if len(problems) > max_rejected * len(rows) or not kept:
            raise ValueError(
                f"{len(problems)} of {len(rows)} {modality} inputs cannot be read, more than `max_rejected` "
                f"({max_rejected:.2%}) allows:" + "".join(f"\n  {problem}" for problem in problems[:5])
            )
        for problem in problems:
            logger.warning("Left out: %s", problem)
        labels = np.stack([label_findings(row, findings) for row in kept])
        return cls([row["id"] for row in kept], values[: len(kept)], labels)


def collate_findings(items: list[dict]) -> dict:
    """A batch of [`FindingsDataset`], with `ids` for errors."""
    batch = {name: torch.stack([item[name] for item in items]) for name in ("values", "labels")}
    return {**batch, "ids": [item["id"] for item in items]}


class _Reader(Dataset):
    """What is stored of a row's input, or why it cannot be read."""

    def __init__(self, rows: list[dict], modality: Modality, processor: MedTVTProcessor) -> None:
        self.rows, self.modality, self.processor = rows, modality, processor

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> np.ndarray | str:
        # a picture's pixels are bytes until they are rescaled, a quarter of the space
        is_picture = self.modality == "cxr"
        given: dict[str, Any] = {self.modality: [self.rows[index][self.modality]]}
        if is_picture:
            given["images_kwargs"] = {"do_rescale": False, "do_normalize": False}
        try:
            values = self.processor(**given)
        except (ValueError, TypeError, OSError) as error:
            return str(error)
        return values[RAW_INPUTS[self.modality]][0].astype(np.uint8 if is_picture else np.float32)


def _same(item: Any) -> Any:
    return item
