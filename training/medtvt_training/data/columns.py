# SPDX-License-Identifier: Apache-2.0
"""Whole columns of a dataset, read as Arrow: a `datasets.Dataset` would decode them row by row."""

import hashlib
from typing import Any

import pyarrow as pa
from datasets import Dataset


def read_column(dataset: Dataset, name: str) -> pa.ChunkedArray:
    """A column, in the dataset's order."""
    return dataset.select_columns([name]).with_format("arrow")[:][name]


def hash_ids(dataset: Dataset) -> str:
    """SHA-256 of the column `id`, in its order."""
    digest = hashlib.sha256()
    for chunk in read_column(dataset, "id").chunks:  # a list of a million is large
        digest.update("".join(f"{row_id}\n" for row_id in chunk.to_pylist()).encode(errors="surrogatepass"))
    return digest.hexdigest()


def list_column(dataset: Dataset, name: str) -> list[Any]:
    """A column as Python values."""
    return read_column(dataset, name).to_pylist()
