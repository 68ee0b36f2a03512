# SPDX-License-Identifier: Apache-2.0
"""Where in the inputs a statement was measured: leads and a part of the beat, or rows of the lab table."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from .leads_ecg_medtvt import STANDARD_LEADS


INFERIOR = ("II", "III", "aVF")
# Part of the beat that is no part of it: the whole strip
RHYTHM = "rhythm"


class EcgPlace(NamedTuple):
    """Leads, and which part of the beat in them: a name of [`Waves`]' spans, or `RHYTHM`."""

    leads: tuple[str, ...]
    part: str


# Where the rules of `ecg_findings_medtvt.py` look, by the name of the finding without "ecg: "
_SAME_PLACE: dict[EcgPlace, tuple[str, ...]] = {
    EcgPlace(("II",), RHYTHM): (
        *("sinus rhythm", "sinus tachycardia", "sinus bradycardia", "fibrillation", "rapid response", "normal rate"),
        *("tachycardia", "bradycardia", "pause", "heart_rate", "normal ECG"),
        *("premature atrial beats", "premature ventricular beats"),
    ),
    EcgPlace(INFERIOR, RHYTHM): ("flutter",),
    EcgPlace(("V1",), "P"): ("left atrial enlargement",),
    EcgPlace(("II",), "PR"): ("prolonged PR", "normal PR", "pr_ms"),
    EcgPlace(("II",), "QRS"): ("paced", "normal QRS", "wide QRS", "qrs_ms"),
    EcgPlace(("II",), "QT"): ("prolonged QTc", "normal QTc", "qtc_ms"),
    EcgPlace(("I", "V1", "V6"), "QRS"): ("left bundle branch block", "right bundle branch block"),
    EcgPlace(("I", "aVF"), "QRS"): ("left axis", "right axis", "normal axis"),
    EcgPlace(("aVL", "V1", "V5", "V6"), "QRS"): ("LVH voltage",),
    EcgPlace(("I", "aVL", "V5", "V6"), "ST-T"): ("strain",),
    EcgPlace(STANDARD_LEADS, "QRS"): ("low voltage",),
    EcgPlace(("V3",), "QRS"): ("poor R progression",),
    EcgPlace(INFERIOR, "QRS"): ("inferior Q waves",),
    EcgPlace(("V3", "V4"), "QRS"): ("anterior Q waves",),
    EcgPlace(("V1", "V2", "V3", "V4"), "QRS"): ("anteroseptal Q waves",),
    EcgPlace(("V1", "V2"), "QRS"): ("septal Q waves",),
    EcgPlace(STANDARD_LEADS, "ST"): ("ST elevation", "ST depression", "normal ST"),
    EcgPlace(("V5", "V6"), "T"): ("lateral T inversion",),
    EcgPlace(("II", "V3", "V4", "V5", "V6"), "T"): ("nonspecific ST-T",),
    EcgPlace(STANDARD_LEADS, "T"): ("tented T",),
    EcgPlace(("V2", "V3", "V4"), RHYTHM): ("U waves",),
}
ECG_PLACES: dict[str, EcgPlace] = {f"ecg: {name}": place for place, names in _SAME_PLACE.items() for name in names}


def find_ecg_place(entry: Mapping[str, Any]) -> EcgPlace | None:
    """Where a statement of the reasoning, or a measurement that it leaves out, was measured in the ECG; None if nowhere."""
    if entry["modality"] != "ecg" or entry.get("status") == "not measured":
        return None
    return ECG_PLACES.get(str(entry["finding"]))


def find_labs(entry: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """Of the labs' names, those that such an entry was held against."""
    if entry["modality"] != "lab" or entry.get("status") == "not measured":
        return []
    parts = str(entry["measured"]).split("; ")
    longest_first = sorted(names, key=len, reverse=True)
    found = (next((name for name in longest_first if part.startswith(f"{name} ")), None) for part in parts)
    return [name for name in found if name is not None]


__all__ = ["ECG_PLACES", "RHYTHM", "EcgPlace", "find_ecg_place", "find_labs"]
