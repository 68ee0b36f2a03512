# SPDX-License-Identifier: Apache-2.0
"""
Units of labs: their spellings, UCUM's among them, and how many of one are one of another.

A unit belongs to a dimension, such as mass per volume, in which all units differ by powers of ten. What leads from one
dimension to another (grams to moles) hangs on the lab and stands in its definition. So one table does for all labs, and
glucose may come in g/L though its definition names mg/dL and mmol/L alone. The same letters may mean two things: G/L is
grams per liter of hemoglobin and giga (10^9) per liter of platelets. The lab decides.
"""

import re
import unicodedata
from collections.abc import Mapping
from functools import lru_cache


_VOLUMES = {"l": 0, "dl": -1, "100ml": -1, "cl": -2, "ml": -3, "ul": -6, "nl": -9, "pl": -12}
_MASSES = {"kg": 3, "g": 0, "gm": 0, "gms": 0, "gr": 0, "mg": -3, "mgs": -3, "ug": -6, "ng": -9, "pg": -12}
_MOLES = {"mol": 0, "mmol": -3, "mmols": -3, "mm": -3, "umol": -6, "umols": -6, "nmol": -9, "pmol": -12}
_EQUIVALENTS = {"eq": 0, "meq": -3, "mval": -3, "ueq": -6}
_ENZYME_UNITS = {
    **dict.fromkeys(("u", "iu", "unit", "units", "unite", "unites", "ui", "e", "ie"), 0),
    **{"ku": 3, "kiu": 3, "mu": -3, "miu": -3},
}
_KATALS = {"kat": 0, "mkat": -3, "ukat": -6, "nkat": -9}
_NUMBERS = {
    **dict.fromkeys(("", "cells", "cell", "#", "count"), 0),
    **dict.fromkeys(("k", "th", "ths", "thou", "thous", "thousand", "thousands", "tsd", "tys", "e3"), 3),
    **dict.fromkeys(("lakh", "lakhs"), 5),
    **dict.fromkeys(("m", "mi", "mio", "mil", "mill", "mln", "million", "millions", "e6"), 6),
    **dict.fromkeys(("g", "gpt", "giga", "bil", "billion", "e9"), 9),
    **dict.fromkeys(("t", "tpt", "tera", "e12"), 12),
    **{f"10^{power}": power for power in range(2, 13)},
}


def _per_volume(amounts: Mapping[str, int]) -> dict[str, int]:
    return {f"{name}/{volume}": a - v for name, a in amounts.items() for volume, v in _VOLUMES.items()}


# Dimension -> spelling (see `normalize_unit`) -> power of ten. A lab's own unit is looked up in this order.
DIMENSIONS: dict[str, dict[str, int]] = {
    "ratio": dict.fromkeys(("ratio", "inr", "1"), 0),
    "ph": dict.fromkeys(("ph", "phunits", "phunit", "units", "unit", "u", "1"), 0),
    "index": dict.fromkeys(("uindex", "index", "u", "unit", "units", "1"), 0),
    "mass": {**_per_volume(_MASSES), "mg%": -2, "mgs%": -2, "g%": 1, "gm%": 1, "gms%": 1},
    "moles": _per_volume(_MOLES),
    "equivalents": _per_volume(_EQUIVALENTS),
    "enzyme units": _per_volume(_ENZYME_UNITS),
    "katals": _per_volume(_KATALS),
    "cells": {**_per_volume(_NUMBERS), "10^3": 9, "10^6": 12, "10^9": 9, "10^12": 12},
    "fraction": {
        **dict.fromkeys(("fraction", "l/l", "1", "ratio", "ml/ml", "g/g"), 0),
        **dict.fromkeys(("%", "percent", "pct", "pc", "vol%", "%vol", "%cv", "cv%", "/100", "/100wbc", "/100wbcs"), -2),
        **dict.fromkeys(("ml/dl", "/100leukocytes", "%wbc", "%ofwbc", "%oftotal"), -2),
    },
    "mmHg": dict.fromkeys(("mmhg", "torr"), 0),
    "pascal": {"pa": 0, "hpa": 2, "mbar": 2, "kpa": 3},
    "time": {**dict.fromkeys(("s", "sec", "secs", "second", "seconds", "sek"), 0), "ms": -3, "msec": -3},
    "mass of a cell": {"pg": 0, "pg/cell": 0, "uug": 0, "ng": 3, "fg": -3},
    "moles of a cell": {"fmol": 0, "fmol/cell": 0, "amol": -3, "pmol": 3},
    "volume of a cell": dict.fromkeys(("fl", "fl/cell", "um3", "um^3", "u3", "u^3", "cubicmicron"), 0),
}  # fmt: skip

_CUBIC_MILLIMETER = re.compile(r"(?<=/)(?:mm\^?\*?3|cumm|cmm|mmcu|mmc|mmk)(?![a-z])")
_POWER_OF_TEN = re.compile(r"^[x×*]?10(?:\^|\*\*?|e\+?|x|exp)?(3|4|5|6|9|10|11|12)(?=/|ul|cell|$)")


@lru_cache(maxsize=1024)
def normalize_unit(unit: str) -> str:
    """
    One spelling per unit: lower case without spaces and brackets, u for micro and mc, /ul for cubic millimeters, 10^3/ul for
    notations such as x10³/µL, 10*3/mm3, 10E3/mcL or x10(3). UCUM's annotations in braces are left out.
    """
    unit = unicodedata.normalize("NFKC", unit).casefold().replace("μ", "u").replace("−", "-")
    unit = re.sub(r"^\s*\{([^{}]*)\}\s*$", r"\1", unit)
    unit = re.sub(r"\{[^{}]*\}", "", unit)
    unit = re.sub(r"[\s()\[\]]", "", unit)
    unit = re.sub(r"[⁄∕]|(?<=[a-z])per(?=[a-z])", "/", unit)
    unit = re.sub(r"[.·∙⋅]?(dl|ml|ul|l)\^?-1$", r"/\1", unit)
    unit = re.sub(r"[.·∙⋅]?mm\^?-3$", "/mm3", unit)
    unit = re.sub(r"mc(?=mol|l$|l/|kat|g)", "u", unit)
    unit = re.sub(r"(?<=/)(?:liter|litre|litro|lt)s?$", "l", unit)
    unit = _CUBIC_MILLIMETER.sub("ul", unit)
    unit = _POWER_OF_TEN.sub(r"10^\1", unit)
    return re.sub(r"^(10\^\d+)(?:cells?)?/?(?=[a-z])", r"\1/", unit)


def find_factor(units: Mapping[str, float], unit: str) -> float | None:
    """
    How many of `unit` are one of the unit with the factor 1; None if `unit` measures something else.

    Args:
        units (`dict[str, float]`): Units of a lab -> how many of them are one of its own unit.
        unit (`str`): Any spelling of one of these, or of a unit that differs from one of them by a power of ten.
    """
    key = normalize_unit(unit)
    known = {normalize_unit(name): factor for name, factor in units.items()}
    if key in known:
        return known[key]
    for name, factor in known.items():
        powers = next((table for table in DIMENSIONS.values() if name in table), {})
        if key in powers:
            return _shift(factor, powers[name] - powers[key])
    return None


def _shift(factor: float, power: int) -> float:
    """A factor times a power of ten; division where that is exact."""
    return factor * 10**power if power >= 0 else factor / 10**-power
