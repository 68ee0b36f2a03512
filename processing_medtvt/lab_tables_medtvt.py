# SPDX-License-Identifier: Apache-2.0
"""Tables of labs with one row a sample, as columns: DataFrames, dicts of columns, CSV files."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .read_lab_medtvt import read_rows


def is_pandas(value: Any, class_name: str) -> bool:
    """By name, not by import: pandas is not needed to run the model, and an import here would make it so."""
    return any(base.__name__ == class_name and base.__module__.startswith("pandas") for base in type(value).__mro__)


def to_array(cells: Any) -> np.ndarray:
    """Column of a table: float64 if it is numeric, else an object array (a tuple in a cell stays a tuple)."""
    kind = getattr(getattr(cells, "dtype", None), "kind", None)
    if kind in ("i", "u", "f"):
        return cells.to_numpy(dtype=float, na_value=np.nan) if hasattr(cells, "to_numpy") else cells.astype(float)
    cells = list(cells)
    if all(type(cell) is float for cell in cells):
        return np.array(cells, dtype=float)
    return np.fromiter(cells, dtype=object, count=len(cells))


def open_table(table: Any) -> tuple[list, Callable[[int], np.ndarray], int, str]:
    """
    Column keys of a table, a function from the index of a key to its column, row count, what the table is.

    Raises:
        TypeError: no DataFrame, dict or path.
        ValueError: a dict with an entry that is no column, a file that cannot be read.
    """
    if is_pandas(table, "DataFrame"):
        return list(table.columns), lambda index: to_array(table.iloc[:, index]), len(table), "a DataFrame"
    if isinstance(table, (str, os.PathLike)):
        header, *rows = read_rows(table)
        cells = [row.cells for row in rows]
        return header.cells, lambda index: to_array([row[index] for row in cells]), len(rows), Path(table).name
    if not isinstance(table, Mapping):
        raise TypeError(
            f"fit table: expected a DataFrame, a dict of arrays or a CSV path, found {type(table).__name__}."
        )
    columns = list(table.values())
    if any(isinstance(x, str) or not hasattr(x, "__len__") or getattr(x, "ndim", 1) != 1 for x in columns):
        raise ValueError("fit table: every entry of the dict must be a column (a list or a 1-D array).")
    return list(table), lambda index: to_array(columns[index]), max(map(len, columns), default=0), "a dict of columns"
