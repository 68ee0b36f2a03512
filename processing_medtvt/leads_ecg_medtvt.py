# SPDX-License-Identifier: Apache-2.0
"""Names, units and geometry of the twelve standard leads."""

import re
from typing import Any

import numpy as np


# Share of leads I and II in every limb lead (Einthoven's triangle, Goldberger's augmented leads).
LIMB_LEADS = {
    "I": (1.0, 0.0),
    "II": (0.0, 1.0),
    "III": (-1.0, 1.0),
    "aVR": (-0.5, -0.5),
    "aVF": (-0.5, 1.0),
    "aVL": (1.0, -0.5),
}
# The order of MIMIC-IV-ECG, on which the encoder was trained: aVF comes before aVL.
STANDARD_LEADS = (*LIMB_LEADS, "V1", "V2", "V3", "V4", "V5", "V6")
LEADS_BY_KEY = {lead.upper(): lead for lead in STANDARD_LEADS}

MILLIVOLTS = {"v": 1e3, "mv": 1.0, "\u03bcv": 1e-3, "uv": 1e-3, "nv": 1e-6}  # casefold() turns the micro sign into mu
MILLIVOLTS.update({"volt": 1e3, "millivolt": 1.0, "microvolt": 1e-3, "nanovolt": 1e-6})

# "AVR", "Lead avR", "ECG V1", "MDC_ECG_LEAD_aVR", "Lead I (Einthoven)", the DI, D2 of French, Spanish and Portuguese
# devices. No minus sign: "-aVR" is an inverted lead, and "I-II" another one.
LEAD_NAME = re.compile(
    r"(?:MDC[\s_-]*)?(?:E[CK]G[\s_:-]*)?(?:LEAD[\s_:-]*)?"
    r"(?:D?(?P<roman>I{1,3})|D(?P<number>[123])|A[\s_-]?V[\s_-]?(?P<augmented>[RLF])|V[\s_-]?(?P<chest>[1-6]))"
    r"(?:\s*\((?:EINTHOVEN|GOLDBERGER|WILSON)\))?",
    re.IGNORECASE,
)


def canonical_lead(name: Any) -> str | None:
    """Standard name of a lead ("AVR", "ECG avR", "MDC_ECG_LEAD_aVR" -> "aVR"), None for any other signal."""
    found = LEAD_NAME.fullmatch(str(name).strip())
    if found is None:
        return None
    if found["chest"]:
        return f"V{found['chest']}"
    if found["augmented"]:
        return f"aV{found['augmented'].upper()}"
    return found["roman"].upper() if found["roman"] else "I" * int(found["number"])


def shown_leads(names: list[Any]) -> list[str]:
    """
    Names as messages show them. In a file they are free text, which may name a person: what is neither a standard lead
    nor as short as one ("vx", "-aVR", "V3R") goes by its number.
    """
    return [
        str(name).strip()
        if canonical_lead(name) or re.fullmatch(r"-?[A-Za-z]{1,3}\d{0,2}[Rr]?", str(name).strip())
        else f"signal {number}"
        for number, name in enumerate(names, start=1)
    ]


def millivolts(unit: Any) -> float | None:
    """Millivolts in one of a unit ("uV" -> 0.001), None for what is no unit of voltage."""
    return MILLIVOLTS.get(re.sub(r"(?<=volt)s$", "", str(unit).strip().casefold()))


def derive_limb_lead(lead: str, sources: list[str], signals: dict[str, np.ndarray]) -> np.ndarray:
    """The limb leads span a plane, so any one is a weighted sum of any two others."""
    weights = np.linalg.solve(np.array([LIMB_LEADS[source] for source in sources]).T, LIMB_LEADS[lead])
    return weights[0] * signals[sources[0]] + weights[1] * signals[sources[1]]


__all__ = [
    "LEADS_BY_KEY",
    "LIMB_LEADS",
    "STANDARD_LEADS",
    "canonical_lead",
    "derive_limb_lead",
    "millivolts",
    "shown_leads",
]
