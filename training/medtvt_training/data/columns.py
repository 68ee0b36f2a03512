# SPDX-License-Identifier: Apache-2.0
"""Whole columns of a dataset, read as Arrow: a `datasets.Dataset` would decode them row by row."""

from typing import Any

import pyarrow as pa
from datasets import Dataset


def read_column(dataset: Dataset, name: str) -> pa.ChunkedArray:
    """A column, in the dataset's order."""
    return dataset.select_columns([name]).with_format("arrow")[:][name]


def list_column(dataset: Dataset, name: str) -> list[Any]:
    """A column as Python values."""
    return read_column(dataset, name).to_pylist()
