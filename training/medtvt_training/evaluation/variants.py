# SPDX-License-Identifier: Apache-2.0
"""Rows with modalities or single labs withheld, or with a modality of another patient."""

import zlib
from collections.abc import Sequence
from itertools import combinations

import numpy as np

from ..data.conversation import MODALITIES, withhold
from ..data.rows import Modality, QARow
from .predictions import patient_of


# What names of variants begin with
SUBSET, LABS_WITHHELD = "subset-", "labs-withheld-"


class SwappedRow(QARow):
    """A row with a modality of another patient, the donor."""

    donor_modality: Modality
    donor_id: str
    donor_diseases: list[str]
    donor_findings: list[str] | None


def make_variants(
    rows: Sequence[QARow],
    withheld: Sequence[Modality] = (),
    swapped: Sequence[Modality] = (),
    subsets: bool = False,
    labs_withheld: Sequence[float] = (),
    seed: int = 0,
) -> dict[str, Sequence[QARow]]:
    """
    The rows as they are under `""`, without each of the withheld modalities under `"withhold-ecg"`, ..., with each of the
    swapped ones of another patient under `"swap-ecg"`, ..., with each subset of the modalities alone under
    `"subset-ecg"`, `"subset-ecg+lab"`, ..., and without shares of their labs under `"labs-withheld-25"`, ...
    """
    variants: dict[str, Sequence[QARow]] = {"": rows}
    variants |= {f"withhold-{name}": withhold_from_rows(rows, name) for name in withheld}
    variants |= {f"swap-{name}": swap_between_rows(rows, name, seed) for name in swapped}
    if subsets:
        for size in range(1, len(MODALITIES) + 1):
            for subset in combinations(MODALITIES, size):
                if chosen := keep_in_rows(rows, subset):
                    variants[f"{SUBSET}{'+'.join(subset)}"] = chosen
    for share in labs_withheld:
        variants[f"{LABS_WITHHELD}{100 * share:g}"] = withhold_labs(rows, share, seed)
    return variants


def keep_in_rows(rows: Sequence[QARow], subset: Sequence[Modality]) -> list[QARow]:
    """The rows that have all of these modalities, with them alone."""
    kept = []
    for row in rows:
        if set(subset) <= set(row["modalities"]):
            for modality in MODALITIES:
                if modality in row["modalities"] and modality not in subset:
                    row = withhold(row, modality)
            kept.append(row)
    return kept


def withhold_labs(rows: Sequence[QARow], share: float, seed: int = 0) -> list[QARow]:
    """
    The rows that have labs, each without a share of those that were measured, drawn for each row and rounded down; a lab
    that a lower share withholds is withheld by a higher one too.

    Raises:
        ValueError: if the share is not in [0, 1), or no row has labs.
    """
    if not 0 <= share < 1:
        raise ValueError(f"The share of labs to withhold must be at least 0 and below 1, got {share:g}.")
    chosen: list[QARow] = []
    for row in rows:
        if "lab" in row["modalities"]:
            measured = [name for name, value in row["lab"].items() if value is not None and value == value]
            rng = np.random.default_rng(zlib.crc32(f"{seed} {row['id']}".encode()))
            gone = {measured[i] for i in rng.permutation(len(measured))[: int(share * len(measured))]}
            labs = {name: None if name in gone else value for name, value in row["lab"].items()}
            chosen.append({**row, "lab": labs})
    if not chosen:
        raise ValueError("No record has labs, so none can be withheld.")
    return chosen


def withhold_from_rows(rows: Sequence[QARow], modality: Modality) -> list[QARow]:
    """The rows that have the modality and another one, without it."""
    kept = [withhold(row, modality) for row in rows if modality in row["modalities"] and len(row["modalities"]) > 1]
    if not kept:
        raise ValueError(f"No record has {modality!r} and another modality, so it cannot be withheld.")
    return kept


def swap_between_rows(rows: Sequence[QARow], modality: Modality, seed: int = 0) -> list[SwappedRow]:
    """
    The rows that have the modality, each with that of another patient; `donor_id`, `donor_diseases` and
    `donor_findings` say whose, `donor_modality` what. Every row gives once and receives once.

    Raises:
        ValueError: if one patient has more than half of these rows.
    """
    rows = [row for row in rows if modality in row["modalities"]]
    order = np.random.default_rng(seed).permutation(len(rows))
    by_patient: dict[str, list[int]] = {}
    for i in order:
        by_patient.setdefault(patient_of(rows[i]), []).append(i)
    groups = list(by_patient.values())
    shift = max(map(len, groups), default=0)
    if 2 * shift > len(rows) or not rows:
        raise ValueError(f"{modality!r} cannot be swapped between {len(groups)} patients with {len(rows)} records.")
    # patients one after the other, moved by the longest of them: nobody meets their own
    receivers = [i for group in groups for i in group]
    donors = receivers[shift:] + receivers[:shift]
    swapped: dict[int, SwappedRow] = {}
    for i, j in zip(receivers, donors):
        donor = rows[j]
        swapped[i] = {
            **rows[i],
            "donor_modality": modality,
            "donor_id": donor["id"],
            "donor_diseases": donor["diseases"],
            "donor_findings": donor["findings"],
        }
        if modality == "lab":
            swapped[i]["lab"] = donor["lab"]
        else:
            swapped[i][modality] = donor[modality]
    return [swapped[i] for i in range(len(rows))]
