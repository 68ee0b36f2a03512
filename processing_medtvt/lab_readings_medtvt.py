# SPDX-License-Identifier: Apache-2.0
"""From what a source states to numbers in the labs' own units: names, units, censored and repeated values."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from .lab_definitions_medtvt import LabDefinition
from .lab_names_medtvt import LabNames, Meaning, normalize_name
from .lab_panel_medtvt import LabEntry, LabPanel, is_absent, read_number, split_cell
from .lab_synonyms_medtvt import COUNTERPARTS, UREA_UNITS
from .lab_units_medtvt import normalize_unit
from .patient_medtvt import Patient


_NOT_BLOOD = (
    *("urin", "csf", "cerebrospinal", "liquor", "ascit", "pleura", "stool", "feces", "faeces", "saliva", "sputum", "synovia"),
    *("joint", "peritone", "dialys", "fluid", "sweat", "amnio"),
)  # fmt: skip
_MAX_PLACES = 8  # named in a note


class Readings(NamedTuple):
    """
    Args:
        measured (`np.ndarray`): (samples, labs) in the labs' own units, NaN where absent.
        given (`np.ndarray`): (samples, labs), percentiles that were given as such, NaN elsewhere.
        unitless (`np.ndarray`): (samples, labs), True where a measured value came without a unit.
        names (`list[str]`): What errors call each sample.
        notes (`list[list[str]]`): What was left out, converted or decided, a list a sample.
        patients (`list[Patient]`): What each sample's source states of the patient.
        places (`list[dict[int, str]]`): What errors call single values, by the position of the lab, a dict a sample.
    """

    measured: np.ndarray
    given: np.ndarray
    unitless: np.ndarray
    names: list[str]
    notes: list[list[str]]
    patients: list[Patient]
    places: list[dict[int, str]]

    @classmethod
    def concatenate(cls, parts: Sequence["Readings"]) -> "Readings":
        """The samples of all parts."""
        return cls(
            np.concatenate([part.measured for part in parts]),
            np.concatenate([part.given for part in parts]),
            np.concatenate([part.unitless for part in parts]),
            [name for part in parts for name in part.names],
            [list(notes) for part in parts for notes in part.notes],
            [patient for part in parts for patient in part.patients],
            [places for part in parts for places in part.places],
        )


class _Unit(NamedTuple):
    """Where a value goes, by its name and unit: `factor` is None for a percentile."""

    position: int
    factor: float | None
    is_stated: bool
    notes: tuple[str, ...] = ()


class LabReader:
    """Reads panels and tables for the labs of an extractor."""

    def __init__(self, labs: Sequence[LabDefinition]):
        self.labs = labs
        self.names = LabNames(labs)
        self._positions = {lab.name: position for position, lab in enumerate(labs)}

    def read_panel(self, panel: LabPanel, where: str, unknown: Literal["ignore", "raise"]) -> Readings:
        """
        One patient's entries.

        Raises:
            ValueError: no entry that is known, two values for one lab without times, a unit that cannot be meant, a value
                that is no number; with `unknown="raise"` a lab that is not known.
        """
        readings = self._start([where], panel.notes, panel.patient)
        notes = readings.notes[0]
        located = self._locate(panel.entries, where, unknown, notes)
        self._read_percentiles(located, where, readings)
        candidates: dict[int, list[tuple[LabEntry, Meaning, _Unit]]] = {}
        for entry, meaning in located:
            if meaning.is_percentile:
                continue
            if is_absent(entry.value):
                # the lab decides whether it is present
                readings.given[0, meaning.position] = np.nan
            elif np.isnan(readings.given[0, meaning.position]):
                unit = self._find_unit(meaning, entry.unit, _place(where, entry, self.labs[meaning.position]), where)
                candidates.setdefault(unit.position, []).append((entry, meaning, unit))
        repeated = []
        for position, found in candidates.items():
            entry, meaning, unit = self._choose(found, position, where, notes)
            if len(found) > 1 and entry.time is not None:
                repeated.append(f"{self.labs[position].name} ({len(found)} values)")
            place = _place(where, entry, self.labs[position])
            readings.places[0][position] = place
            self._store(readings, 0, unit, entry.value, entry.comparator, place)
            if meaning.remark:
                notes.append(f"lab: {self.labs[position].name} is {meaning.remark}")
        if repeated:
            notes.append(f"lab: the newest value used of {', '.join(repeated)}")
        self._check_percentiles(readings)
        return readings

    def read_table(
        self,
        keys: list,
        get_column: Callable[[int], np.ndarray],
        names: list[str],
        unknown: Literal["ignore", "raise"],
    ) -> Readings:
        """
        A table with one row a sample and one column a lab.

        Args:
            keys (`list`): Names of the columns.
            get_column (`Callable`): From the index of a key to its column, (samples,) of floats or objects.
            names (`list[str]`): What errors call each sample.

        Raises:
            ValueError: as `read_panel`, and for two columns of one lab.
        """
        readings = self._start(names)
        entries = [LabEntry(key, None) for key in keys]
        notes: list[str] = []
        where = names[0] if len(names) == 1 else "lab"
        located: dict[int, dict[bool, tuple[int, Meaning]]] = {}
        for index, meaning in self._locate_columns(entries, where, unknown, notes):
            kinds = located.setdefault(meaning.position, {})
            first, _ = kinds.setdefault(meaning.is_percentile, (index, meaning))
            if first != index:
                name = self.labs[meaning.position].name
                raise ValueError(f"{where}: {keys[first]!r} and {keys[index]!r} are both {name}; give one of them.")
        for sample in readings.notes:
            sample.extend(notes)
        for position, kinds in located.items():
            if True in kinds:
                index, meaning = kinds[True]
                self._read_column(readings, meaning, get_column(index))
            if False in kinds:
                index, meaning = kinds[False]
                column = get_column(index)
                if True in kinds:
                    # The lab decides whether it is present; where its percentile is given, it is not read further.
                    readings.given[_absent(column), position] = np.nan
                    column = column.copy()
                    column[~np.isnan(readings.given[:, position])] = np.nan
                self._read_column(readings, meaning, column)
        self._check_percentiles(readings)
        return readings

    def _start(self, names: list[str], notes: Sequence[str] = (), patient: Patient | None = None) -> Readings:
        measured, given = np.full((2, len(names), len(self.labs)), np.nan)
        unitless = np.zeros(measured.shape, dtype=bool)
        patients = [patient or Patient(age=None, sex=None) for _ in names]
        places: list[dict[int, str]] = [{} for _ in names]
        return Readings(measured, given, unitless, names, [list(notes) for _ in names], patients, places)

    def _locate(
        self, entries: list[LabEntry], where: str, unknown: str, notes: list[str]
    ) -> list[tuple[LabEntry, Meaning]]:
        """The entries that are labs of the extractor, each with its meaning; notes on the others."""
        blood = [e for e in entries if not (e.specimen and any(word in e.specimen.casefold() for word in _NOT_BLOOD))]
        if len(blood) < len(entries):
            notes.append(f"lab: {len(entries) - len(blood)} values left out, since they are not of blood")
        located, others = [], []
        for entry in blood:
            meaning = self.names.find(entry.name, entry.code)
            if meaning is None:
                others.append(entry)
            else:
                located.append((entry, meaning))
        if others and (unknown == "raise" or not located):
            raise ValueError(f"{where}: {self._explain_unknown(others, bool(located), 'entries')}")
        if not located:
            raise ValueError(f"{where}: no labs of blood given. At least one lab with a value is needed.")
        if others:
            notes.append(f"lab: left out, not known to the model: {self._list_unknown(others)}")
        return located

    def _locate_columns(
        self, entries: list[LabEntry], where: str, unknown: str, notes: list[str]
    ) -> list[tuple[int, Meaning]]:
        located = [(index, self.names.find(entry.name)) for index, entry in enumerate(entries)]
        others = [entries[index] for index, meaning in located if meaning is None]
        known = [(index, meaning) for index, meaning in located if meaning is not None]
        if (others and unknown == "raise") or not known:
            raise ValueError(f"{where}: {self._explain_unknown(others, bool(known), 'columns')}")
        if others:
            notes.append(f"lab: ignored columns {', '.join(str(entry.name) for entry in others)}")
        return known

    def _explain_unknown(self, others: list[LabEntry], any_known: bool, kind: str) -> str:
        nothing = "" if any_known else f"no lab among its {len(others)} {kind}; "
        if not others:
            return f"{nothing}{self.names.suggest('')}"
        first = others[0]
        # what stands in a file may be anything about a patient; what a program passes is its own
        quoted = repr(first.name)
        if first.place:
            other = self.names.name_other(first.name)
            quoted = f"in {first.place}" + (f", {other}" if other else "")
        return f"{nothing}unknown lab {quoted}. {self.names.suggest(first.name)}"

    def _list_unknown(self, others: list[LabEntry]) -> str:
        named, places = [], []
        for entry in others:
            usual = self.names.name_other(entry.name)
            if usual is not None:
                named.append(usual)
            elif entry.place:
                places.append(entry.place)
            else:
                hint = self.names.suggest(entry.name)
                hint = f" ({hint.split('?')[0].replace('Did', 'did', 1)}?)" if hint.startswith("Did") else ""
                named.append(f"{entry.name}{hint}")
        if places:
            more = f" and {len(places) - _MAX_PLACES} more" if len(places) > _MAX_PLACES else ""
            named.append(", ".join(dict.fromkeys(places[:_MAX_PLACES])) + more)
        return ", ".join(dict.fromkeys(named))

    def _find_unit(self, meaning: Meaning, unit: Any, where: str, source: str) -> _Unit:
        """What a unit says of a value by a name. `where` names the value in an error, `source` where it comes from."""
        position, lab = meaning.position, self.labs[meaning.position]
        if is_absent(unit):
            unit = meaning.unit
        elif not isinstance(unit, str):
            raise ValueError(f"{where}: the unit must be text, found {type(unit).__name__}.")
        if unit is None:
            if meaning.is_percentile:
                return _Unit(position, None, True)
            if meaning.is_urea:
                note = f"lab: {lab.name} from urea without a unit, taken as mg/dL of urea; many laboratories report mmol/L"
                return _Unit(position, UREA_UNITS["mg/dL"], False, (note,))
            return _Unit(position, 1, False)
        if normalize_unit(unit) == "percentile":
            return _Unit(position, None, True)
        factor = None if meaning.is_percentile else self.names.factor_of(meaning, unit)
        if factor is None and not meaning.is_percentile:
            # the same cells as a share and as a count
            other = self._positions.get(COUNTERPARTS.get(lab.name, ""))
            factor = None if other is None else self.labs[other].factor_of(unit)
            if other is not None and factor is not None:
                note = f"lab: {lab.name} in {unit} read as {self.labs[other].name}"
                return _Unit(other, factor, True, (note,))
        if factor is None:
            accepted = ", ".join([*([] if meaning.is_percentile else lab.units), "percentile"])
            quoted = "its unit" if source.startswith("lab file") else f"unit {unit!r}"
            raise ValueError(f"{where}: {quoted} is not accepted. Accepted are: no unit, {accepted}.")
        source_unit = f"urea in {unit}" if meaning.is_urea else unit
        note = f"lab: {lab.name} converted from {source_unit} to {lab.unit}"
        return _Unit(position, factor, True, (note,) if factor != 1 else ())

    def _choose(
        self, found: list[tuple[LabEntry, Meaning, _Unit]], position: int, where: str, notes: list[str]
    ) -> tuple[LabEntry, Meaning, _Unit]:
        """The one value of a lab that is used."""
        if len(found) == 1:
            return found[0]
        name = self.labs[position].name
        nitrogen = [candidate for candidate in found if not candidate[1].is_urea]
        if nitrogen and len(nitrogen) < len(found):
            notes.append(f"lab: {name} is given, so urea is left out")
            return self._choose(nitrogen, position, where, notes)
        times = [entry.time for entry, _, _ in found if entry.time is not None]
        if len(times) < len(found):
            first, second = (entry.place or repr(entry.name) for entry, _, _ in found[:2])
            advice = "; give one of them" + (", or a column with the time of each" if found[0][0].place else "")
            raise ValueError(f"{where}: {first} and {second} are both {name}{advice}.")
        newest = max(times)
        chosen = [candidate for candidate in found if candidate[0].time == newest]
        if len({(str(entry.value), str(entry.unit)) for entry, _, _ in chosen}) > 1:
            notes.append(f"lab: {name} has several values at the newest time, the last of them used")
        return chosen[-1]

    def _store(
        self, readings: Readings, row: int, unit: _Unit, value: Any, comparator: str | None, where: str
    ) -> None:
        lab = self.labs[unit.position]
        number, sign = read_number(value, where)
        if number != number:
            return
        comparator = comparator or sign
        if comparator:
            of = "" if unit.factor is None or unit.factor == 1 else " before conversion"
            text = f"lab: {lab.name} stated as {comparator} {number:g}, taken as {number:g}{of}"
            readings.notes[row].append(text)
        readings.notes[row].extend(unit.notes)
        if unit.factor is None:
            readings.given[row, unit.position] = number
        else:
            readings.measured[row, unit.position] = number / unit.factor
            readings.unitless[row, unit.position] = not unit.is_stated

    def _read_percentiles(self, located: list[tuple[LabEntry, Meaning]], where: str, readings: Readings) -> None:
        """The entries that are percentiles by their name."""
        first: dict[int, LabEntry] = {}
        for entry, meaning in located:
            if not meaning.is_percentile:
                continue
            lab = self.labs[meaning.position]
            other = first.setdefault(meaning.position, entry)
            if other is not entry:
                places = (e.place or repr(e.name) for e in (other, entry))
                raise ValueError(f"{where}: {' and '.join(places)} are both {lab.name}; give one of them.")
            if not is_absent(entry.value):
                place = _place(where, entry, lab)
                unit = self._find_unit(meaning, entry.unit, place, where)
                self._store(readings, 0, unit, entry.value, entry.comparator, place)

    def _read_column(self, readings: Readings, meaning: Meaning, column: np.ndarray) -> None:
        """One column of a table into the readings."""
        position, lab, rows = meaning.position, self.labs[meaning.position], len(column)
        if column.dtype != object:
            infinite = np.isinf(column)
            if infinite.any():
                row = int(infinite.argmax())
                raise ValueError(f"{readings.names[row]}: {lab.name}: {column[row]} is not a finite number.")
            unit = self._find_unit(meaning, None, lab.name, "")
            target = readings.given if unit.factor is None else readings.measured
            target[:rows, position] = column if unit.factor in (None, 1) else column / unit.factor
            readings.unitless[:rows, position] = not unit.is_stated
            for noted in np.flatnonzero(~np.isnan(column)) if unit.notes else ():
                readings.notes[noted].extend(unit.notes)
            return
        for row, cell in enumerate(column):
            if is_absent(cell):
                continue
            where = f"{readings.names[row]}: {lab.name}"
            value, unit_text = split_cell(cell, where)
            unit = self._find_unit(meaning, unit_text, where, readings.names[row])
            self._store(readings, row, unit, value, None, where)

    def _check_percentiles(self, readings: Readings) -> None:
        wrong = np.argwhere((readings.given < 0) | (readings.given > 1))
        if len(wrong):
            row, position = wrong[0]
            raise ValueError(
                f"{readings.names[row]}: {self.labs[position].name}: the percentile is outside 0..1; 70 % is 0.7."
            )


def _place(where: str, entry: LabEntry, lab: LabDefinition) -> str:
    name = lab.name
    if not entry.place and normalize_name(entry.name) != normalize_name(name):
        name = f"{name} (given as {str(entry.name)!r})"
    return ": ".join(filter(None, (where, entry.place, name)))


def _absent(column: np.ndarray) -> np.ndarray:
    if column.dtype != object:
        return np.isnan(column)
    return np.array([is_absent(cell) for cell in column], dtype=bool)
