# SPDX-License-Identifier: Apache-2.0
"""Rows with a modality withheld, or taken from another patient."""

from collections.abc import Sequence

import numpy as np

from ..data.conversation import withhold
from ..data.rows import Modality, QARow
from .predictions import patient_of


class SwappedRow(QARow):
    """A row with a modality of another patient, the donor."""

    donor_modality: Modality
    donor_id: str
    donor_diseases: list[str]
    donor_findings: list[str] | None


def make_variants(
    rows: Sequence[QARow], withheld: Sequence[Modality] = (), swapped: Sequence[Modality] = (), seed: int = 0
) -> dict[str, Sequence[QARow]]:
    """
    The rows as they are under `""`, without each of the withheld modalities under `"withhold-ecg"`, ..., and with each of
    the swapped ones of another patient under `"swap-ecg"`, ...
    """
    variants: dict[str, Sequence[QARow]] = {"": rows}
    variants |= {f"withhold-{name}": withhold_from_rows(rows, name) for name in withheld}
    variants |= {f"swap-{name}": swap_between_rows(rows, name, seed) for name in swapped}
    return variants


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
