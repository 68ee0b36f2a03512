# SPDX-License-Identifier: Apache-2.0
"""Feature extractor for the blood labs of MedTVT-R1."""

import json
import numbers
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from transformers.feature_extraction_utils import BatchFeature, FeatureExtractionMixin

from .lab_definitions_medtvt import LAB_DEFINITIONS, LabDefinition
from .lab_doubt_medtvt import find_doubts
from .lab_names_medtvt import SUFFIX
from .lab_panel_medtvt import LabEntry, LabPanel, split_cell
from .lab_percentiles_medtvt import fit_step_function, percentile_in_reference, percentile_in_table, to_step_function
from .lab_readings_medtvt import LabReader, Readings
from .lab_tables_medtvt import is_pandas, open_table, to_array
from .patient_medtvt import Patient
from .read_fhir_medtvt import read_fhir
from .read_lab_medtvt import read_lab
from .shown_name_medtvt import shown_name


PERCENTILE_SOURCES = ("reference_intervals", "fitted", "none")
Unknown = Literal["ignore", "raise"]


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
        definitions = LAB_DEFINITIONS if labs is None else [LabDefinition.from_dict(lab) for lab in labs]
        self.labs = [lab.to_dict() for lab in definitions]
        self.percentile_source = percentile_source
        self.quantile_tables: dict[str, Any] | None = dict(quantile_tables) if quantile_tables else None
        if mean_percentiles is None and percentile_source == "reference_intervals":
            mean_percentiles = dict.fromkeys(self.lab_names, 0.5)
            table_source = table_source or "reference intervals of healthy adults, taken as normal distributions"
        self.mean_percentiles = mean_percentiles
        self.table_source = table_source
        self._prepare()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(labs={len(self.labs)}, table_source={self.table_source!r})"

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
        names = {key: key.removesuffix(SUFFIX) for key in sorted(means)}
        known = {key: lab for lab in LAB_DEFINITIONS for key in (lab.name, str(lab.itemids[0]))}
        are_known = all(name in known for name in names.values())
        labs = [known[name] if are_known else LabDefinition(name) for name in names.values()]
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
        keys, get_column, rows, description = open_table(table)
        readings = self._reader.read_table(keys, get_column, [f"fit table row {row}" for row in range(rows)], "ignore")
        tables, means = {}, {}
        for position, lab in enumerate(self._definitions):
            values = self._values_to_fit(lab, readings.measured[:, position], readings.given[:, position])
            if len(values):
                tables[lab.name], means[lab.name] = fit_step_function(values, max_points)
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

    def __call__(
        self,
        lab: Any,
        return_tensors: str | None = None,
        return_alterations: bool = False,
        unknown: Unknown = "ignore",
    ) -> BatchFeature:
        """Lab tensor of one or several samples.

        Args:
            lab (`dict`, `pandas.Series`, `str`, `os.PathLike`, a list of these, or `pandas.DataFrame`):
                A sample is one of

                - a dict of lab -> value. A lab is given by name, alias, LOINC code or MIMIC item id, a value is a
                  number or numeric text, `(value, unit)` or `{"value": ..., "unit": ...}`; None, NaN, blank text and
                  "n/a" mean absent. Without a unit the lab's own unit is meant. The unit `"percentile"`, or a key
                  `<lab>_percentile`, gives the percentile itself, in 0..1. If both the lab and its percentile are
                  given, the lab decides whether it is present and the percentile is used;
                - a row of a table (Series): the same;
                - the path of a CSV file as spreadsheets write it: a row a value with columns headed name, value, unit or
                  alike, or a row with a column a lab. Where a lab comes several times, times choose the newest value;
                - FHIR R4: an Observation or a Bundle, as a dict or as the path of a JSON file.

                What `read` returned is taken as well, in place of all samples.

                A DataFrame is one sample per row and by far the fastest way for many samples.

                A censored value ("<0.2") stands at its limit. A unit is read in any usual spelling, UCUM's too.
            return_tensors (`str`, *optional*):
                `"pt"` or `"np"`; a NumPy array if not given.
            return_alterations (`bool`, *optional*, defaults to `False`):
                Whether to add `alterations`: per sample a list of texts on what was ignored, converted, doubtful or
                imputed; and `patients`: per sample the age and sex that its file states ([`Patient`]).
            unknown (`"ignore"` or `"raise"`, *optional*, defaults to `"ignore"`):
                Whether labs that the extractor does not know are left out with a note, or refused.

        Returns:
            [`BatchFeature`] with `lab_values` float32 (batch, 2 * number of labs): the percentiles in 0..1, then the
            flags (1 = present, 0 = absent and set to the mean percentile).

        Raises:
            ValueError: a sample without any known lab or usable value, labs given twice, text where a number is needed, an
                unknown unit, a value that is physiologically impossible in its unit, a measured value without a table, a
                file that cannot be read, or FHIR of several patients.
            FileNotFoundError: no such file.
            TypeError: another kind of input.
        """
        readings = self.read(lab, unknown)
        values, present = self._to_percentiles(readings)
        lab_values = np.concatenate([values, present], axis=1).astype(np.float32)
        data: dict[str, Any] = {"lab_values": lab_values}
        if return_alterations:
            notes = readings.notes
            for row, text in find_doubts(readings.measured, readings.unitless, self._definitions):
                notes[row].append(text)
            for row, absent in enumerate((~present).sum(axis=1)):
                if absent:
                    notes[row].append(f"lab: {absent} of {len(self.labs)} labs absent, mean percentile used")
            data |= {"alterations": notes, "patients": readings.patients}
        return BatchFeature(data, tensor_type=return_tensors, skip_tensor_conversion=["alterations", "patients"])

    def read(self, lab: Any, unknown: Unknown = "ignore") -> Readings:
        """
        The measured values behind a lab tensor, in the labs' own units, for those who show them.

        Args:
            lab, unknown: As in `__call__`.

        Raises:
            ValueError, FileNotFoundError, TypeError: as `__call__`, before anything is turned into percentiles.
        """
        if isinstance(lab, Readings):
            return Readings.concatenate([lab])  # a copy: notes are added
        if unknown not in ("ignore", "raise"):
            raise ValueError(f"unknown must be 'ignore' or 'raise', found {unknown!r}.")
        if is_pandas(lab, "DataFrame"):
            keys, get_column, rows, _ = open_table(lab)
            names = [f"lab[{row}]" for row in range(rows)]
            parts = [self._reader.read_table(keys, get_column, names, unknown)] if rows else []
        elif isinstance(lab, (list, tuple)):
            parts = [self._read_sample(sample, f"lab[{row}]", unknown) for row, sample in enumerate(lab)]
        else:
            parts = [self._read_sample(lab, "lab", unknown)]
        if not parts:
            raise ValueError("lab: no samples. A dict, a table row, a file's path or a list of these is needed.")
        return Readings.concatenate(parts)

    def _read_sample(self, sample: Any, where: str, unknown: Unknown) -> Readings:
        if is_pandas(sample, "Series"):
            cells = list(sample)
            return self._reader.read_table(
                list(sample.index), lambda column: to_array([cells[column]]), [where], unknown
            )
        if isinstance(sample, (str, os.PathLike)):
            return self._reader.read_panel(read_lab(sample), f"lab file {shown_name(sample)}", unknown)
        if not isinstance(sample, Mapping):
            raise TypeError(
                f"{where}: expected a dict of lab -> value, a table row (pandas Series), a file's path, FHIR as a dict, a "
                f"DataFrame or a list of these, found {type(sample).__name__}."
            )
        if "resourceType" in sample:
            return self._reader.read_panel(read_fhir(sample, where), where, unknown)
        if not sample:
            raise ValueError(f"{where}: no labs given. At least one lab with a value is needed.")
        entries = [LabEntry(key, *split_cell(cell, f"{where}: {key}")) for key, cell in sample.items()]
        return self._reader.read_panel(LabPanel(entries, [], Patient(age=None, sex=None)), where, unknown)

    def _prepare(self) -> None:
        """Checks the config and builds the lookups."""
        if not self.labs:
            raise ValueError("labs: at least one lab is needed.")
        self._definitions = [LabDefinition.from_dict(lab) for lab in self.labs]
        self._reader = LabReader(self._definitions)
        self._check_tables()
        tables = self.quantile_tables or {}
        self._steps = {name: to_step_function(name, table) for name, table in tables.items()}
        for name, table in tables.items():
            tables[name] = {key: np.asarray(column).tolist() for key, column in table.items()}
        self.mean_percentiles = {name: float(mean) for name, mean in (self.mean_percentiles or {}).items()}
        self._means = np.array([self.mean_percentiles[name] for name in self.lab_names], dtype=float)

    def _check_tables(self) -> None:
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

    def _to_percentiles(self, readings: Readings) -> tuple[np.ndarray, np.ndarray]:
        """Percentiles with the mean where absent, and what is present; both (samples, labs)."""
        given, names, notes = readings.given, readings.names, readings.notes
        by_reference = np.zeros(len(names), dtype=bool)
        for position, lab in enumerate(self._definitions):
            rows = np.flatnonzero(~np.isnan(readings.measured[:, position]))
            if not len(rows):
                continue
            values = readings.measured[rows, position]
            if self.percentile_source == "none":
                raise ValueError(
                    f"{names[rows[0]]}: {lab.name}: a measured value, but this extractor has no table "
                    f"to turn it into a percentile. Fit one with `extractor.fit(table)`, or give the percentile as "
                    f"'{lab.name}{SUFFIX}' or (value, 'percentile')."
                )
            percentiles = self._percentiles_of(lab, values)
            if percentiles is None:
                table = "fitted table" if self.percentile_source == "fitted" else "reference interval"
                for row in rows:
                    notes[row].append(f"lab: {lab.name} has no {table}, treated as absent")
                continue
            wrong = _find_implausible(lab, values)
            if wrong is not None:
                sample = int(rows[wrong])
                where = readings.places[sample].get(position, f"{names[sample]}: {lab.name}")
                raise ValueError(f"{where}: {_explain_implausible(lab, values[wrong])}")
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

    def _percentiles_of(self, lab: LabDefinition, values: np.ndarray) -> np.ndarray | None:
        """Percentiles of measured values in the lab's unit; None if there is nothing to derive them from."""
        if self.percentile_source == "fitted":
            return percentile_in_table(self._steps[lab.name], values) if lab.name in self._steps else None
        return None if lab.reference_low is None else percentile_in_reference(lab, values)

    def _values_to_fit(self, lab: LabDefinition, measured: np.ndarray, given: np.ndarray) -> np.ndarray:
        if not np.isnan(given).all():
            raise ValueError(f"fit table: {lab.name} has percentiles; measured values are needed.")
        values = measured[~np.isnan(measured)]
        if len(values) and lab.plausible_low is not None:
            # Single wild values stay in, as in Symile's fit; a wrong median means a wrong unit.
            median = np.median(values, keepdims=True)
            if _find_implausible(lab, median) is not None:
                raise ValueError(f"fit table, median: {lab.name}: {_explain_implausible(lab, median[0])}")
        return values


def _find_implausible(lab: LabDefinition, values: np.ndarray) -> int | None:
    """The first value that is physiologically impossible."""
    if lab.plausible_low is None or lab.plausible_high is None:
        return None
    wrong = np.flatnonzero((values < lab.plausible_low) | (values > lab.plausible_high))
    return int(wrong[0]) if len(wrong) else None


def _explain_implausible(lab: LabDefinition, value: float) -> str:
    low, high = lab.plausible_low or 0, lab.plausible_high or 0
    fitting = [other for other, factor in lab.units.items() if factor != 1 and low <= value / factor <= high]
    hint = f" Is it in {fitting[0]}? Then pass (value, {fitting[0]!r})." if fitting else ""
    return f"the value is not physiologically possible; accepted are {low:g} to {high:g} {lab.unit or ''}.{hint}"


__all__ = ["MedTVTLabFeatureExtractor"]
