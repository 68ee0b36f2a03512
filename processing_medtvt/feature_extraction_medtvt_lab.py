# SPDX-License-Identifier: Apache-2.0
"""Feature extractor for the blood labs of MedTVT-R1."""

import csv
import difflib
import json
import math
import numbers
import os
import re
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from transformers.feature_extraction_utils import BatchFeature, FeatureExtractionMixin

from .lab_definitions_medtvt import LAB_DEFINITIONS, LabDefinition, normalize_unit
from .shown_name_medtvt import shown_name


PERCENTILE_SOURCES = ("reference_intervals", "fitted", "none")
MAX_LAB_FILE_BYTES = 1_000_000
_SUFFIX = "_percentile"
_REFERENCE_Z = 1.959964  # the reference interval holds the central 95 % of a normal distribution
_erf = np.vectorize(math.erf, otypes=[float])


def _normalize_name(name):
    return " ".join(str(name).split()).casefold()


def _is_pandas(value, class_name):
    # By name, not by import: pandas is not needed to run the model, and an import here would make it so.
    return any(base.__name__ == class_name and base.__module__.startswith("pandas") for base in type(value).__mro__)


def _is_absent(cell):
    """True for None, NaN, pandas' NA and blank text, alone or with a unit."""
    if isinstance(cell, tuple) and cell:
        cell = cell[0]
    elif isinstance(cell, Mapping):
        cell = cell.get("value")
    if isinstance(cell, str):
        return cell.strip().casefold() in ("", "nan")
    if isinstance(cell, numbers.Number):
        return cell != cell
    return cell is None or type(cell).__name__ in ("NAType", "NaTType")


def _to_array(cells):
    """Column of a table: float64 if it is numeric, else an object array (a tuple in a cell stays a tuple)."""
    kind = getattr(getattr(cells, "dtype", None), "kind", None)
    if kind in ("i", "u", "f"):
        return cells.to_numpy(dtype=float, na_value=np.nan) if hasattr(cells, "to_numpy") else cells.astype(float)
    cells = list(cells)
    if all(type(cell) is float for cell in cells):
        return np.array(cells, dtype=float)
    return np.fromiter(cells, dtype=object, count=len(cells))


def _to_number(value, where):
    if isinstance(value, str):
        if re.fullmatch(r"[+-]?\d+(,\d+)+", value.strip()):
            raise ValueError(f"{where}: the value has a comma; write decimals with a point and no thousands sign.")
        if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?inf(inity)?", value.strip(), re.ASCII | re.I):
            return float(value)
    elif isinstance(value, numbers.Number) and not isinstance(value, (bool, complex)):
        try:
            return float(value)
        except OverflowError as error:
            raise ValueError(f"{where}: the number is too large.") from error
    kind = "text" if isinstance(value, str) else type(value).__name__
    raise ValueError(
        f"{where}: the value ({kind}) is not a number. A number is needed, or None where the lab is absent."
    )


def _split_unit(cell, where):
    """A cell as (value, unit or None)."""
    if isinstance(cell, tuple):
        if len(cell) != 2:
            raise ValueError(f"{where}: a tuple of {len(cell)} is not a pair (value, unit).")
        value, unit = cell
    elif isinstance(cell, Mapping):
        if "value" not in cell or set(cell) - {"value", "unit"}:
            raise ValueError(f"{where}: a dict needs 'value' and may have 'unit'; found {sorted(map(str, cell))}.")
        value, unit = cell["value"], cell.get("unit")
    else:
        value, unit = cell, None
    if _is_absent(unit):
        unit = None
    elif not isinstance(unit, str):
        raise ValueError(f"{where}: the unit must be text, found {type(unit).__name__}.")
    return value, unit


def _read_csv(path):
    """Header and rows of a CSV file (comma or semicolon), cells stripped, blank lines dropped."""
    name = f"lab file {shown_name(path)}"
    if not os.path.exists(path):
        raise FileNotFoundError(f"{name}: no such file. A string is read as the path of a CSV file.")
    if not os.path.isfile(path):
        raise ValueError(f"{name}: not a regular file. A CSV file is needed.")
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name}: not UTF-8 text. A CSV file is needed.") from error
    if "\0" in text:
        raise ValueError(f"{name}: a binary file. A CSV file is needed.")
    lines = text.splitlines()
    delimiter = ";" if lines and ";" in lines[0] and "," not in lines[0] else ","
    try:
        rows = list(csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True))
    except csv.Error as error:
        raise ValueError(f"{name}: not a readable CSV file ({error}).") from error
    rows = {
        number: [cell.strip() for cell in row]
        for number, row in enumerate(rows, start=1)
        if any(cell.strip() for cell in row)
    }
    if len(rows) < 2:
        raise ValueError(f"{name}: no rows{'' if not rows else ' below the header'}.")
    header = rows.pop(next(iter(rows)))
    ragged = next((number for number, row in rows.items() if len(row) != len(header)), None)
    if ragged is not None:
        raise ValueError(
            f"{name}: row {ragged} has {len(rows[ragged])} cells and the header {len(header)}. A name with a "
            "comma must be quoted."
        )
    return header, list(rows.values())


def _read_lab_file(path):
    """Keys and cells of a file with the columns name, value and, if wanted, unit."""
    if os.path.isfile(path) and os.path.getsize(path) > MAX_LAB_FILE_BYTES:
        raise ValueError(
            f"lab file {shown_name(path)}: larger than {MAX_LAB_FILE_BYTES} bytes, too large for one patient's labs."
        )
    header, rows = _read_csv(path)
    columns = [name.casefold() for name in header]
    if sorted(columns) not in (["name", "value"], ["name", "unit", "value"]):
        raise ValueError(
            f"lab file {shown_name(path)}: expected the columns name,value or name,value,unit, found {len(header)} others. A long "
            "table of measurements (such as MIMIC's labevents, with itemid and charttime) must first be reduced to "
            "one value per lab; a wide table (one column per lab) can be read with pandas and passed as a DataFrame."
        )
    rows = [dict(zip(columns, row)) for row in rows]
    return [row["name"] for row in rows], [(row["value"], row.get("unit")) for row in rows]


def _to_step_function(name, table):
    """Checks one quantile table and returns (values float32, percentiles with a leading 0)."""
    if not isinstance(table, Mapping) or set(table) != {"values", "percentiles"}:
        raise ValueError(f"quantile_tables: {name} must be a dict of 'values' and 'percentiles'.")
    values, percentiles = np.asarray(table["values"]), np.asarray(table["percentiles"])
    if values.ndim != 1 or values.size == 0 or values.shape != percentiles.shape:
        raise ValueError(f"quantile_tables: {name} needs two lists of the same length, at least 1.")
    if values.dtype.kind not in "iuf" or percentiles.dtype.kind not in "iuf":
        raise ValueError(f"quantile_tables: {name} holds something else than numbers.")
    if not np.isfinite(values).all() or (np.diff(values) <= 0).any():
        raise ValueError(f"quantile_tables: the values of {name} must be finite and strictly ascending.")
    if not (percentiles[0] >= 0 and (np.diff(percentiles) >= 0).all() and math.isclose(percentiles[-1], 1)):
        raise ValueError(f"quantile_tables: the percentiles of {name} must ascend within 0..1 and end with 1.")
    # float32, so that a value which arrives as float32 meets the step it belongs to
    return values.astype(np.float32), np.concatenate([[0.0], percentiles])


def _fit_step_function(values, max_points):
    """Empirical CDF of `values` as a quantile table, and the mean percentile of `values`."""
    steps, counts = np.unique(values, return_counts=True)
    cumulative = np.cumsum(counts)
    mean = float((counts * cumulative).sum() / len(values) ** 2)
    if len(steps) > max_points:
        # The first step at or above each of max_points equidistant ranks: no rank is missed by more than 1/max_points.
        ranks = np.arange(1, max_points + 1) * len(values) / max_points
        kept = np.unique(np.searchsorted(cumulative, ranks))
        steps, cumulative = steps[kept], cumulative[kept]
    return {"values": steps.tolist(), "percentiles": (cumulative / len(values)).tolist()}, mean


def _check_plausible(lab, values, rows, names):
    if lab.plausible_low is None:
        return
    wrong = np.flatnonzero((values < lab.plausible_low) | (values > lab.plausible_high))
    if len(wrong):
        value, unit, low, high = values[wrong[0]], lab.unit or "", lab.plausible_low, lab.plausible_high
        fitting = [other for other, factor in lab.units.items() if factor != 1 and low <= value / factor <= high]
        hint = f" Is it in {fitting[0]}? Then pass (value, {fitting[0]!r})." if fitting else ""
        raise ValueError(
            f"{names[rows[wrong[0]]]}: {lab.name}: the value is not physiologically possible; accepted are {low:g} to {high:g} {unit}.{hint}"
        )


def _note_doubtful_units(lab, values, rows, notes):
    """A value without a unit that is abnormal in the lab's own unit and normal in the SI unit may well be in that one."""
    if lab.reference_low is None or lab.si_factor is None:
        return
    low, high = lab.reference_low, lab.reference_high
    in_si = values / lab.si_factor
    with np.errstate(invalid="ignore"):
        doubtful = rows & (low <= in_si) & (in_si <= high) & ~((low <= values) & (values <= high))
    for row in np.flatnonzero(doubtful):
        notes[row].append(f"lab: {lab.name} {values[row]:g} taken as {lab.unit}; it would be normal in {lab.si_unit}")


def _absent(column):
    if column.dtype != object:
        return np.isnan(column)
    return np.array([_is_absent(cell) for cell in column], dtype=bool)


def _open_table(table):
    """Column keys of a table, a function from the index of a key to its column, row count, what the table is."""
    if _is_pandas(table, "DataFrame"):
        return list(table.columns), lambda index: _to_array(table.iloc[:, index]), len(table), "a DataFrame"
    if isinstance(table, (str, os.PathLike)):
        header, rows = _read_csv(table)
        return header, lambda index: _to_array([row[index] for row in rows]), len(rows), Path(table).name
    if not isinstance(table, Mapping):
        raise TypeError(
            f"fit table: expected a DataFrame, a dict of arrays or a CSV path, found {type(table).__name__}."
        )
    columns = list(table.values())
    if any(isinstance(x, str) or not hasattr(x, "__len__") or getattr(x, "ndim", 1) != 1 for x in columns):
        raise ValueError("fit table: every entry of the dict must be a column (a list or a 1-D array).")
    return list(table), lambda index: _to_array(columns[index]), max(map(len, columns), default=0), "a dict of columns"


class MedTVTLabFeatureExtractor(FeatureExtractionMixin):
    r"""
    Turns blood labs into the lab tensor of MedTVT-R1: one percentile per lab, then one flag per lab (1 = present).

    The percentile of an absent lab is its mean percentile, as in Symile-MIMIC, where the tensor comes from. Nothing
    is tied to the 50 default labs: their names, order, units and tables are all saved in the config.

    Args:
        labs (`list[dict]`, *optional*):
            The labs in tensor order. Fields are those of `LabDefinition`; only `name` is required. Defaults to the 50
            labs of `LAB_DEFINITIONS`.
        percentile_source (`str`, *optional*, defaults to `"reference_intervals"`):
            How a measured value becomes a percentile:

            - `"reference_intervals"`: the reference interval is taken as the central 95 % of a normal distribution
              of healthy adults. This is NOT the hospital population the published model was trained on. A lab
              without a reference interval is treated as absent.
            - `"fitted"`: share of the fitted values at or below the value, from `quantile_tables` (see [`fit`]). A
              lab without a table is treated as absent.
            - `"none"`: measured values are refused, only percentiles are accepted.
        quantile_tables (`dict[str, dict]`, *optional*):
            Lab name -> `{"values": [...], "percentiles": [...]}`, a right-continuous step function with percentiles
            in 0..1: 0 below the first value, 1 at or above the last. Required by, and only legal with, `"fitted"`.
        mean_percentiles (`dict[str, float]`, *optional*):
            Lab name -> percentile used where the lab is absent; all labs. Defaults to 0.5 with
            `"reference_intervals"` and is required otherwise.
        table_source (`str`, *optional*):
            Where the tables or mean percentiles come from, in words.

    Raises:
        ValueError: malformed or contradictory arguments.
    """

    model_input_names = ["lab_values"]

    def __init__(
        self,
        labs: Sequence[Mapping[str, Any]] | None = None,
        percentile_source: str = "reference_intervals",
        quantile_tables: Mapping[str, Mapping[str, list[float]]] | None = None,
        mean_percentiles: Mapping[str, float] | None = None,
        table_source: str | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        labs = LAB_DEFINITIONS if labs is None else [LabDefinition.from_dict(lab) for lab in labs]
        self.labs = [lab.to_dict() for lab in labs]
        self.percentile_source = percentile_source
        self.quantile_tables = dict(quantile_tables) if quantile_tables else None
        if mean_percentiles is None and percentile_source == "reference_intervals":
            mean_percentiles = dict.fromkeys(self.lab_names, 0.5)
            table_source = table_source or "reference intervals of healthy adults, taken as normal distributions"
        self.mean_percentiles = mean_percentiles
        self.table_source = table_source
        self._prepare()

    @property
    def lab_names(self) -> list[str]:
        """`list[str]`: the labs in tensor order."""
        return [lab["name"] for lab in self.labs]

    def to_dict(self) -> dict[str, Any]:
        # Private attributes are lookups which follow from the config; they are no part of it.
        return {key: value for key, value in super().to_dict().items() if not key.startswith("_")}

    @classmethod
    def from_means(cls, means: str | os.PathLike | Mapping[str, float], **kwargs: Any) -> "MedTVTLabFeatureExtractor":
        """Extractor for the authors' tables, which hold ready percentiles, from their means file.

        Args:
            means (`str`, `os.PathLike` or `dict[str, float]`):
                JSON file or dict with the keys `<lab>_percentile` and the mean percentile of each lab. The labs are
                ordered by these keys sorted as strings, as the authors do.
            kwargs:
                Further arguments of the class.

        If every lab of the file is one of `LAB_DEFINITIONS`, by name or by first item id, the labs get these
        definitions (and names); else they have their names only, so that measured values cannot be converted.
        """
        table_source = "the given mean percentiles"
        if not isinstance(means, Mapping):
            table_source = f"mean percentiles of {Path(means).name}"
            try:
                means = json.loads(Path(means).read_text(encoding="utf-8"))
            except ValueError as error:
                raise ValueError(f"means file {means}: not a JSON file ({error}).") from error
            if not isinstance(means, Mapping):
                raise ValueError("means file: a JSON object of lab -> mean percentile is needed.")
        means = {str(key): mean for key, mean in means.items()}
        names = {key: key.removesuffix(_SUFFIX) for key in sorted(means)}
        known = {key: lab for lab in LAB_DEFINITIONS for key in (lab.name, str(lab.itemids[0]))}
        labs = [known.get(name) for name in names.values()]
        if None in labs:
            labs = [LabDefinition(name) for name in names.values()]
        mean_percentiles = {lab.name: means[key] for lab, key in zip(labs, names)}
        arguments = {"percentile_source": "none", "table_source": table_source, **kwargs}
        return cls(labs=[lab.to_dict() for lab in labs], mean_percentiles=mean_percentiles, **arguments)

    def fit(
        self, table: Any, source: str | None = None, max_points: int = 1000, allow_missing: bool = False
    ) -> "MedTVTLabFeatureExtractor":
        """Fits the quantile tables and mean percentiles on measured values. Changes this extractor and returns it.

        The rule is Symile-MIMIC's: percentile = share of the fitted values at or below the value, per lab, absent
        values left out. Fit on training rows only.

        Args:
            table (`pandas.DataFrame`, `dict` of 1-D arrays, or path of a CSV file):
                One row per sample and one column per lab, named by name, alias, LOINC code or MIMIC item id, in the
                units of `labs` (cells may also be `(value, unit)`). Other columns are ignored.
            source (`str`, *optional*):
                What the table is; goes into `table_source`. Defaults to the file name or the kind of table.
            max_points (`int`, *optional*, defaults to 1000):
                Labs with more distinct values get a table of at most so many steps, evenly spaced in rank; its
                percentiles are too low by less than 1 / max_points. The mean percentiles are exact.
            allow_missing (`bool`, *optional*, defaults to `False`):
                Whether labs without a column or without a value are accepted. They get no table, so their measured
                values are treated as absent, with the mean percentile 0.5; `table_source` lists them.

        Raises:
            ValueError: labs are missing, a cell is not a number, or a column looks like another unit.
        """
        if not isinstance(max_points, numbers.Integral) or max_points < 1:
            raise ValueError(f"max_points must be a positive integer, found {max_points!r}.")
        keys, get_column, rows, description = _open_table(table)
        names = [f"fit table row {row}" for row in range(rows)]
        located, _ = self._locate(keys, "fit table", ignore_unknown=True)
        tables, means = {}, {}
        for position, columns in located.items():
            values = self._fit_values(position, get_column(columns[False]), names) if False in columns else []
            if len(values):
                name = self.lab_names[position]
                tables[name], means[name] = _fit_step_function(values, max_points)
        missing = [name for name in self.lab_names if name not in tables]
        if not tables or (missing and not allow_missing):
            raise ValueError(
                f"fit table: no values for {len(missing)} of {len(self.labs)} labs: {'; '.join(missing)}. Pass "
                "allow_missing=True to fit the others; measured values of these labs are then treated as absent."
            )
        self.percentile_source = "fitted"
        self.quantile_tables = tables
        self.mean_percentiles = {**means, **dict.fromkeys(missing, 0.5)}
        self.table_source = f"fitted on {rows:,} rows of {source or description}"
        if missing:
            self.table_source += f"; without values and treated as absent: {'; '.join(missing)}"
        self._prepare()
        return self

    def __call__(self, lab: Any, return_tensors: str | None = None, return_alterations: bool = False) -> BatchFeature:
        """Lab tensor of one or several samples.

        Args:
            lab (`dict`, `pandas.Series`, `str`, `os.PathLike`, a list of these, or `pandas.DataFrame`):
                A sample is one of

                - a dict of lab -> value. A lab is given by name, alias, LOINC code or MIMIC item id, a value is a
                  number or numeric text, `(value, unit)` or `{"value": ..., "unit": ...}`; None, NaN and blank text
                  mean absent. Without a unit the lab's own unit is meant. The unit `"percentile"`, or a key
                  `<lab>_percentile`, gives the percentile itself, in 0..1. If both the lab and its percentile are
                  given, the lab decides whether it is present and the percentile is used;
                - a row of a table (Series): the same, but other columns are ignored;
                - the path of a CSV file with the columns `name,value` or `name,value,unit`.

                A DataFrame is one sample per row and by far the fastest way for many samples.
            return_tensors (`str`, *optional*):
                `"pt"` or `"np"`; a NumPy array if not given.
            return_alterations (`bool`, *optional*, defaults to `False`):
                Whether to add `alterations`: per sample a list of texts on what was ignored, converted or imputed.

        Returns:
            [`BatchFeature`] with `lab_values` float32 (batch, 2 * number of labs): the percentiles in 0..1, then the
            flags (1 = present, 0 = absent and set to the mean percentile).

        Raises:
            ValueError: unknown or repeated labs, text where a number is needed, an unknown unit, a value that is
                physiologically impossible in its unit, a measured value without a table, a sample without any value.
            FileNotFoundError: no such file.
            TypeError: another kind of input.
        """
        raw, given, names, notes = self._read(lab)
        values, present = self._to_percentiles(raw, given, names, notes)
        lab_values = np.concatenate([values, present], axis=1).astype(np.float32)
        data = {"lab_values": lab_values}
        if return_alterations:
            for row, absent in enumerate((~present).sum(axis=1)):
                if absent:
                    notes[row].append(f"lab: {absent} of {len(self.labs)} labs absent, mean percentile used")
            data["alterations"] = notes
        return BatchFeature(data, tensor_type=return_tensors, skip_tensor_conversion=["alterations"])

    def _prepare(self):
        """Checks the config and builds the lookups."""
        if not self.labs:
            raise ValueError("labs: at least one lab is needed.")
        self._definitions = [LabDefinition.from_dict(lab) for lab in self.labs]
        self._positions, self._unit_factors = {}, []
        for position, lab in enumerate(self._definitions):
            for key in (lab.name, *lab.aliases, *lab.itemids, *([lab.loinc] if lab.loinc else [])):
                other = self._positions.setdefault(_normalize_name(key), position)
                if other != position:
                    raise ValueError(f"labs: {key!r} stands for both {self.lab_names[other]} and {lab.name}.")
            self._unit_factors.append({normalize_unit(unit): factor for unit, factor in lab.units.items()})
        self._check_tables()
        self._steps = {}
        for name, table in (self.quantile_tables or {}).items():
            self._steps[name] = _to_step_function(name, table)
            self.quantile_tables[name] = {key: np.asarray(column).tolist() for key, column in table.items()}
        self.mean_percentiles = {name: float(mean) for name, mean in self.mean_percentiles.items()}
        self._means = np.array([self.mean_percentiles[name] for name in self.lab_names], dtype=float)

    def _check_tables(self):
        if self.percentile_source not in PERCENTILE_SOURCES:
            raise ValueError(
                f"percentile_source must be one of {PERCENTILE_SOURCES}, found {self.percentile_source!r}."
            )
        if (self.percentile_source == "fitted") != bool(self.quantile_tables):
            raise ValueError(
                "quantile_tables are required with percentile_source='fitted' and legal with it alone; found "
                f"percentile_source={self.percentile_source!r} and {len(self.quantile_tables or {})} tables."
            )
        if self.percentile_source == "reference_intervals" and all(x.reference_low is None for x in self._definitions):
            raise ValueError("percentile_source='reference_intervals', but no lab has a reference interval.")
        means, names = self.mean_percentiles or {}, self.lab_names
        unknown = (set(means) | set(self.quantile_tables or {})) - set(names)
        if unknown:
            raise ValueError(f"mean_percentiles or quantile_tables name labs that are not in labs: {sorted(unknown)}.")
        missing = [name for name in names if name not in means]
        if missing:
            raise ValueError(f"mean_percentiles are needed for all labs; missing are {missing}.")
        wrong = {
            name: mean for name, mean in means.items() if not isinstance(mean, numbers.Real) or not 0 <= mean <= 1
        }
        if wrong:
            raise ValueError(f"mean_percentiles must be numbers in 0..1; found {wrong}.")

    def _read(self, lab):
        """Measured values and given percentiles (samples, labs), NaN where absent; names and notes of the samples."""
        if _is_pandas(lab, "DataFrame"):
            keys, get_column, rows, _ = _open_table(lab)
            names = [f"lab[{row}]" for row in range(rows)]
            tables = [self._read_table(keys, get_column, names, ignore_unknown=True)]
        elif isinstance(lab, (list, tuple)):
            tables = [self._read_sample(sample, f"lab[{row}]") for row, sample in enumerate(lab)]
        else:
            tables = [self._read_sample(lab, "lab")]
        if not tables or not tables[0][2]:
            raise ValueError("lab: no samples. A dict, a table row, a CSV path or a list of these is needed.")
        raw, given, names, notes = zip(*tables)
        return np.concatenate(raw), np.concatenate(given), list(chain(*names)), list(chain(*notes))

    def _read_sample(self, sample, where):
        ignore_unknown = False
        if _is_pandas(sample, "Series"):
            keys, cells, ignore_unknown = list(sample.index), list(sample), True
        elif isinstance(sample, Mapping):
            keys, cells = list(sample), list(sample.values())
        elif isinstance(sample, (str, os.PathLike)):
            where = f"lab file {shown_name(sample)}"
            keys, cells = _read_lab_file(sample)
        else:
            raise TypeError(
                f"{where}: expected a dict of lab -> value, a table row (pandas Series), a CSV path, a DataFrame or a "
                f"list of these, found {type(sample).__name__}."
            )
        if not keys:
            raise ValueError(f"{where}: no labs given. At least one lab with a value is needed.")
        return self._read_table(keys, lambda column: _to_array([cells[column]]), [where], ignore_unknown)

    def _read_table(self, keys, get_column, names, ignore_unknown):
        located, ignored = self._locate(keys, names[0] if len(names) == 1 else "lab", ignore_unknown)
        raw, given = np.full((2, len(names), len(self.labs)), np.nan)
        notes = [[f"lab: ignored columns {', '.join(ignored)}"] if ignored else [] for _ in names]
        for position, columns in located.items():
            if True in columns:
                given[:, position], _ = self._read_column(position, get_column(columns[True]), {}, names, notes)
            if False in columns:
                column = get_column(columns[False])
                if True in columns:
                    # The lab decides whether it is present; where its percentile is given, it is not read further.
                    given[_absent(column), position] = np.nan
                    column = column.copy()
                    column[~np.isnan(given[:, position])] = np.nan
                factors = self._unit_factors[position]
                values, is_percentile = self._read_column(position, column, factors, names, notes)
                raw[~is_percentile, position] = values[~is_percentile]
                given[is_percentile, position] = values[is_percentile]
        wrong = np.argwhere((given < 0) | (given > 1))
        if len(wrong):
            row, position = wrong[0]
            raise ValueError(f"{names[row]}: {self.lab_names[position]}: the percentile is outside 0..1; 70 % is 0.7.")
        return raw, given, names, notes

    def _locate(self, keys, where, ignore_unknown):
        """Lab position -> {is percentile: index of the key}, and the keys that are no labs."""
        located, ignored = {}, []
        for index, key in enumerate(keys):
            name = _normalize_name(key)
            is_percentile = name not in self._positions and name.endswith(_SUFFIX)
            position = self._positions.get(name.removesuffix(_SUFFIX) if is_percentile else name)
            if position is None and not ignore_unknown:
                # what stands in a file may be anything about a patient; what a program passes is its own
                quoted = f"in row {index + 1} below the header" if where.startswith("lab file") else repr(key)
                raise ValueError(f"{where}: unknown lab {quoted}. {self._suggest(name)}")
            if position is None:
                ignored.append(str(key))
                continue
            first = located.setdefault(position, {}).setdefault(is_percentile, index)
            if first != index:
                name = self.lab_names[position]
                both = "two rows" if where.startswith("lab file") else f"{keys[first]!r} and {key!r}"
                raise ValueError(f"{where}: {both} are both {name}; give one of them.")
        if not located:
            raise ValueError(f"{where}: no lab among its {len(ignored)} columns. {self._suggest('')}")
        return located, ignored

    def _suggest(self, name):
        close = difflib.get_close_matches(name, self._positions, n=3) if re.search("[a-z]", name) else []
        close = dict.fromkeys(self.lab_names[self._positions[match]] for match in close)
        hint = f"Did you mean {' or '.join(map(repr, close))}? " if close else ""
        return hint + "Accepted are the lab_names of this extractor, their aliases, LOINC codes and MIMIC item ids."

    def _read_column(self, position, column, unit_factors, names, notes):
        """Numbers of one lab in its own unit, NaN where absent, and which of them were given as percentiles."""
        lab = self._definitions[position]
        values, is_percentile = column, np.zeros(len(column), dtype=bool)
        without_unit = np.ones(len(column), dtype=bool)
        if column.dtype == object:
            values = np.full(len(column), np.nan)
            for row, cell in enumerate(column):
                where = f"{names[row]}: {lab.name}"
                value, unit = _split_unit(cell, where)
                if _is_absent(value):
                    continue
                values[row] = _to_number(value, where)
                if unit is None:
                    continue
                without_unit[row] = False
                unit_key = normalize_unit(unit)
                is_percentile[row] = unit_key == "percentile"
                if not is_percentile[row] and unit_key not in unit_factors:
                    accepted = ", ".join([*(lab.units if unit_factors else []), "percentile"])
                    quoted = "its unit" if where.startswith("lab file") else f"unit {unit!r}"
                    raise ValueError(f"{where}: {quoted} is not accepted. Accepted are: no unit, {accepted}.")
                factor = unit_factors.get(unit_key, 1)
                values[row] /= factor
                if factor != 1:
                    notes[row].append(f"lab: {lab.name} converted from {unit} to {lab.unit}")
        infinite = np.isinf(values)
        if infinite.any():
            row = infinite.argmax()
            raise ValueError(f"{names[row]}: {lab.name}: {values[row]} is not a finite number.")
        if unit_factors:
            _note_doubtful_units(lab, values, without_unit, notes)
        return values, is_percentile

    def _to_percentiles(self, raw, given, names, notes):
        """Percentiles with the mean where absent, and what is present; both (samples, labs)."""
        by_reference = np.zeros(len(names), dtype=bool)
        for position, lab in enumerate(self._definitions):
            rows = np.flatnonzero(~np.isnan(raw[:, position]))
            if not len(rows):
                continue
            values = raw[rows, position]
            if self.percentile_source == "none":
                raise ValueError(
                    f"{names[rows[0]]}: {lab.name}: a measured value, but this extractor has no table "
                    f"to turn it into a percentile. Fit one with `extractor.fit(table)`, or give the percentile as "
                    f"'{lab.name}{_SUFFIX}' or (value, 'percentile')."
                )
            percentiles = self._percentiles_of(lab, values)
            if percentiles is None:
                table = "fitted table" if self.percentile_source == "fitted" else "reference interval"
                for row in rows:
                    notes[row].append(f"lab: {lab.name} has no {table}, treated as absent")
                continue
            _check_plausible(lab, values, rows, names)
            given[rows, position] = percentiles
            by_reference[rows] = self.percentile_source == "reference_intervals"
        for row in np.flatnonzero(by_reference):
            notes[row].append("lab: percentiles come from reference intervals, not from a fitted table")
        present = ~np.isnan(given)
        empty = np.flatnonzero(~present.any(axis=1))
        if len(empty):
            row = empty[0]
            others = f" (nor in {len(empty) - 1} other samples)" if len(empty) > 1 else ""
            raise ValueError(f"{names[row]}: no lab with a usable value{others}. {'. '.join(notes[row])}".strip())
        return np.where(present, given, self._means), present

    def _percentiles_of(self, lab, values):
        """Percentiles of measured values in the lab's unit; None if there is nothing to derive them from."""
        if self.percentile_source == "fitted":
            if lab.name not in self._steps:
                return None
            steps, percentiles = self._steps[lab.name]
            return percentiles[np.searchsorted(steps, values.astype(np.float32), side="right")]
        if lab.reference_low is None:
            return None
        middle = (lab.reference_low + lab.reference_high) / 2
        deviation = (lab.reference_high - middle) / _REFERENCE_Z
        return (1 + _erf((values - middle) / (deviation * math.sqrt(2)))) / 2

    def _fit_values(self, position, column, names):
        lab, notes = self._definitions[position], [[]] * len(names)
        values, is_percentile = self._read_column(position, column, self._unit_factors[position], names, notes)
        if is_percentile.any():
            raise ValueError(f"fit table: {lab.name} has percentiles; measured values are needed.")
        values = values[~np.isnan(values)]
        if len(values) and lab.plausible_low is not None:
            # Single wild values stay in, as in Symile's fit; a wrong median means a wrong unit.
            _check_plausible(lab, np.median(values, keepdims=True), [0], ["fit table, median"])
        return values
