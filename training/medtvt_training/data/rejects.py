# SPDX-License-Identifier: Apache-2.0
"""Rows that cannot be used: listed, counted, left out."""

import logging
import os

from datasets import Dataset

from ..files import write_jsonl
from .rows import Modality, QARow, Reject


logger = logging.getLogger(__name__)


def make_reject(row: QARow, modality: Modality, reason: str) -> Reject:
    """A line of the rejects file."""
    return {"id": row["id"], "path": row[modality] if modality != "lab" else None, "reason": reason}


def check_rejects(
    rejects: list[Reject], total: int, max_rejected: float, rejects_file: str | os.PathLike | None = None
) -> set[str]:
    """
    Lists rejected rows in a file, and refuses too many.

    Args:
        rejects (`list[Reject]`): `id`, `path` and `reason`; a row may be in it several times.
        total (`int`): Number of all rows.
        max_rejected (`float`): Share of them above which the rejects are an error.
        rejects_file (`str` or `os.PathLike`, *optional*): Where to list them, one JSON object a line. Written also if
            there are none, so that it never holds those of another run.

    Returns:
        `set[str]`: ids of the rejected rows.

    Raises:
        ValueError: if too many rows, or all of them, are rejected.
    """
    if rejects_file is not None:
        write_jsonl(rejects, rejects_file)
    rejected = {reject["id"] for reject in rejects}
    if rejected and (len(rejected) > max_rejected * total or len(rejected) == total):
        examples = "".join(f"\n  row {reject['id']}: {reject['reason']}" for reject in rejects[:5])
        listed = f" All are listed in {rejects_file}." if rejects_file is not None else ""
        raise ValueError(
            f"{len(rejected)} of {total} rows cannot be used; `max_rejected` allows {max_rejected:.2%}, and one must "
            f"remain.{listed}{examples}"
        )
    return rejected


def drop_rejects(
    dataset: Dataset,
    rejects: list[Reject],
    max_rejected: float,
    rejects_file: str | os.PathLike | None = None,
    total: int | None = None,
) -> Dataset:
    """The dataset without the rejected rows; see [`check_rejects`]. `total` counts also rows that are not in it."""
    total = len(dataset) if total is None else total
    rejected = check_rejects(rejects, total, max_rejected, rejects_file)
    if not rejected:
        return dataset
    where = f"listed in {rejects_file}" if rejects_file is not None else "pass `rejects_file` to list them"
    logger.warning("%d of %d rows cannot be used and are left out (%s).", len(rejected), total, where)
    return dataset.select([i for i, row_id in enumerate(dataset["id"]) if row_id not in rejected])
