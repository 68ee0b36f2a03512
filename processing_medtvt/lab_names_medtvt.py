# SPDX-License-Identifier: Apache-2.0
"""Which lab a name, LOINC code or MIMIC item id means."""

import difflib
import re
import unicodedata
from collections.abc import Sequence
from typing import Any, NamedTuple

from .lab_definitions_medtvt import LabDefinition
from .lab_synonyms_medtvt import ALIASES, LOINC_CODES, OTHER_LABS, UNITS, UREA, UREA_NAMES, UREA_UNITS
from .lab_units_medtvt import find_factor


SUFFIX = "_percentile"
_UREA_NITROGEN = "Urea Nitrogen"
# Words that say what was examined or nothing at all
_EMPTY_WORDS = (
    "serum",
    "plasma",
    "blood",
    "whole blood",
    "arterial",
    "level",
    "lvl",
    "value",
    "result",
    "total count",
)
_WITH_UNIT = re.compile(r"(.*[^\s,(\[])[\s,]*[(\[]([^()\[\]]*(?:\([^()]*\))?[^()\[\]]*)[)\]]")
_SPECIMEN_PREFIX = re.compile(r"^(?:f?[psb]|ab)-\s*(?=\w{2})")


class Meaning(NamedTuple):
    """
    What a name means.

    Args:
        position (`int`): Of the lab in the tensor.
        is_percentile (`bool`): Whether the value is a percentile.
        unit (`str`, *optional*): Unit that the name or code itself states, for a value without one.
        is_urea (`bool`): Whether the value is urea and the lab the nitrogen in it.
        remark (`str`, *optional*): In what the code differs from the lab.
    """

    position: int
    is_percentile: bool = False
    unit: str | None = None
    is_urea: bool = False
    remark: str | None = None


def normalize_name(name: Any) -> str:
    """One spelling per name: case and spaces."""
    return " ".join(str(name).split()).casefold()


def _loosen(name: str) -> str:
    """Punctuation and underscores as spaces; # and % tell a count from a share and stay."""
    return " ".join(re.sub(r"[^\w#%+]|_", " ", unicodedata.normalize("NFKC", name)).split())


class LabNames:
    """
    The names of an extractor's labs: those of its config, and where a lab is one of the 50, what hospitals call it.

    Raises:
        ValueError: a name of the config that stands for two labs.
    """

    def __init__(self, labs: Sequence[LabDefinition]):
        self._labs = labs
        self._known: dict[str, Meaning] = {}
        for position, lab in enumerate(labs):
            for key in (lab.name, *lab.aliases, *lab.itemids, *([lab.loinc] if lab.loinc else [])):
                other = self._known.setdefault(normalize_name(key), Meaning(position)).position
                if other != position:
                    raise ValueError(f"labs: {key!r} stands for both {labs[other].name} and {lab.name}.")
        positions = {lab.name: position for position, lab in enumerate(labs) if lab.is_default}
        for name, position in positions.items():
            for alias in ALIASES.get(name, ()):
                self._known.setdefault(normalize_name(alias), Meaning(position))
        if _UREA_NITROGEN in positions:
            urea = Meaning(positions[_UREA_NITROGEN], is_urea=True)
            for alias in UREA_NAMES:
                self._known.setdefault(normalize_name(alias), urea)
            positions[UREA] = positions[_UREA_NITROGEN]
        for code, (name, unit, remark) in LOINC_CODES.items():
            if name in positions:
                meaning = Meaning(positions[name], unit=unit, is_urea=name == UREA, remark=remark)
                self._known.setdefault(code, meaning)
        self._loose: dict[str, Meaning] = {}
        for key, meaning in self._known.items():
            self._loose.setdefault(_loosen(key), meaning)

    def find(self, name: Any, code: str | None = None) -> Meaning | None:
        """The meaning of an entry; None if it is none of the labs. A code decides, whatever the name says."""
        if code is not None:
            return self._known.get(normalize_name(code))
        key = normalize_name(name)
        if key in self._known:
            return self._known[key]
        if key.endswith(SUFFIX):
            found = self.find(key.removesuffix(SUFFIX))
            return None if found is None else Meaning(found.position, is_percentile=True)
        return self._find_loosely(key) or self._find_with_unit(str(name))

    def _find_loosely(self, key: str) -> Meaning | None:
        for text in (key, _SPECIMEN_PREFIX.sub("", key)):
            loose = _loosen(text)
            if loose in self._loose:
                return self._loose[loose]
            for word in _EMPTY_WORDS:
                for shorter in (loose.removesuffix(f" {word}"), loose.removeprefix(f"{word} ")):
                    if shorter in self._loose:
                        return self._loose[shorter]
        return None

    def _find_with_unit(self, name: str) -> Meaning | None:
        """A name that ends with a unit in brackets, such as a spreadsheet's "Glucose (mmol/L)"."""
        parts = _WITH_UNIT.fullmatch(" ".join(name.split()))
        if parts is None:
            return None
        found = self._known.get(normalize_name(parts[1])) or self._find_loosely(normalize_name(parts[1]))
        if found is None or self.factor_of(found, parts[2]) is None:
            return None
        return found._replace(unit=parts[2])

    def factor_of(self, meaning: Meaning, unit: str) -> float | None:
        """How many of `unit` are one of the lab's own unit; None where the unit measures something else."""
        if meaning.is_urea and (factor := find_factor(UREA_UNITS, unit)) is not None:
            return factor
        return self._labs[meaning.position].factor_of(unit)

    def name_other(self, name: Any) -> str | None:
        """The usual name of a lab that is known in medicine and not to the model; None for anything else."""
        return _OTHERS.get(_loosen(normalize_name(name)))

    def suggest(self, name: Any) -> str:
        """A hint at labs that are spelled much like a name, in full sentences; none for a lab that means something else."""
        key = normalize_name(name)
        close: list[str] = []
        if len(key) > 4 and self.name_other(name) is None:
            close = difflib.get_close_matches(key, self._known, n=3, cutoff=0.85)
        names = dict.fromkeys(self._labs[self._known[match].position].name for match in close)
        hint = f"Did you mean {' or '.join(map(repr, names))}? " if names else ""
        return hint + "Accepted are the lab_names of this extractor, their aliases, LOINC codes and MIMIC item ids."


class KnownNames(NamedTuple):
    """
    Args:
        aliases (`list[str]`): Other names.
        loinc (`list[str]`): LOINC codes.
        units (`dict[str, float]`): Units -> how many of them are one of the lab's own unit.
    """

    aliases: list[str]
    loinc: list[str]
    units: dict[str, float]


def list_names(lab: LabDefinition) -> KnownNames:
    """Everything that one of `LAB_DEFINITIONS` may be called, and its units; every spelling of these units is read."""
    is_nitrogen = lab.name == _UREA_NITROGEN
    meant = (lab.name, UREA) if is_nitrogen else (lab.name,)
    codes = [code for code, meaning in LOINC_CODES.items() if meaning.lab in meant]
    aliases = [*lab.aliases, *ALIASES.get(lab.name, ()), *(UREA_NAMES if is_nitrogen else ())]
    units = {**lab.units, **UNITS.get(lab.name, {})}
    return KnownNames(list(dict.fromkeys(aliases)), [*([lab.loinc] if lab.loinc else []), *codes], units)


_OTHERS = {_loosen(normalize_name(name)): name for name in OTHER_LABS}
