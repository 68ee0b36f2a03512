# SPDX-License-Identifier: Apache-2.0
"""An ECG for the report: ten seconds of each lead on its own strip of paper, as numbers for an SVG template."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .report_inputs_medtvt import DrawnEcg
from .report_places_medtvt import RHYTHM, EcgPlace


# Leads that share a sheet of paper
SHEETS = (("I", "II", "III"), ("aVR", "aVL", "aVF"), ("V1", "V2", "V3"), ("V4", "V5", "V6"))
SECONDS, MM_PER_SECOND = 10, 25
# mm/mV; the first with which no sheet is higher than landscape A4
GAINS = (10.0, 5.0, 2.5, 1.25)
MAX_HEIGHT = 165  # mm
LEFT, RIGHT = 20, 4  # mm; name and calibration pulse stand left of the traces
# of the path: 0.05 mm, a sample of 500 Hz
PER_MM = 20
# The change in nats that occlusion shows in full color, the same in every picture: one, a factor of 2.7
FULL_COLOR = 1.0


class Rectangle(NamedTuple):
    """In mm on the page; `color` is a class of the style sheet."""

    x: float
    y: float
    width: float
    height: float
    color: str = ""
    opacity: float = 1.0


class Strip(NamedTuple):
    """One lead: `middle` is the height of zero in mm from the top of the page, `path` its trace in `PER_MM` steps."""

    lead: str
    top: int
    height: int
    middle: int
    path: str


class EcgPage(NamedTuple):
    """Leads of one sheet, mm wide and high; `gain` in mm/mV."""

    name: str
    width: int
    height: int
    gain: float
    strips: list[Strip]


def lay_out(ecg: DrawnEcg) -> list[EcgPage]:
    """Sheets of three leads, all at one gain with which every wave stays on its strip."""
    sheets = [[lead for lead in leads if lead in ecg.leads] for leads in SHEETS]
    for gain in GAINS:
        extents = {lead: _extent(ecg.signal[ecg.leads.index(lead)], gain) for lead in ecg.leads}
        if max(sum(sum(extents[lead]) for lead in leads) for leads in sheets) <= MAX_HEIGHT:
            break
    pages = []
    for number, leads in enumerate(sheets):
        strips, top = [], 0
        for lead in leads:
            up, down = extents[lead]
            path = _trace(ecg.signal[ecg.leads.index(lead)], ecg.rate, gain)
            strips.append(Strip(lead, top, up + down, top + up, path))
            top += up + down
        pages.append(EcgPage(f"ecg-{number}", LEFT + SECONDS * MM_PER_SECOND + RIGHT, top, gain, strips))
    return pages


def _extent(values: np.ndarray, gain: float) -> tuple[int, int]:
    """Paper above and below zero in mm, whole squares of 5 mm; the pulse of 1 mV fits in too."""
    values = values[np.isfinite(values)] * gain
    up, down = max(values.max(initial=0), gain) + 2, max(-values.min(initial=0), 3) + 1
    return 5 * math.ceil(up / 5), 5 * math.ceil(down / 5)


def _trace(values: np.ndarray, rate: float, gain: float) -> str:
    """Relative steps, which are short; the pen is lifted over gaps."""
    values = values[: round(SECONDS * rate)]
    x = np.rint(np.arange(values.size) / rate * MM_PER_SECOND * PER_MM).astype(int)
    known = np.isfinite(values)
    y = np.rint(np.where(known, values, 0) * gain * PER_MM).astype(int)
    parts = []
    for run in np.split(np.flatnonzero(known), np.flatnonzero(np.diff(np.flatnonzero(known)) > 1) + 1):
        if run.size:
            steps = np.stack([np.diff(x[run]), np.diff(y[run])], axis=1)
            parts.append(f"M{x[run[0]]} {y[run[0]]}l" + " ".join(map(str, steps.ravel())) if run.size > 1 else "")
    return "".join(parts)


def mark_places(page: EcgPage, ecg: DrawnEcg, place: EcgPlace) -> list[Rectangle]:
    """What a place covers on a page; the whole strip where the part of the beat was not found."""
    spans = [(0.0, float(SECONDS))]
    if place.part != RHYTHM and ecg.waves is not None and place.part in ecg.waves.spans:
        start, end = ecg.waves.spans[place.part]
        spans = [(max(onset + start, 0), min(onset + end, SECONDS)) for onset in ecg.waves.onsets]
    marked = []
    for strip in page.strips:
        if strip.lead in place.leads:
            for start, end in spans:
                x, width = LEFT + start * MM_PER_SECOND, (end - start) * MM_PER_SECOND
                if width > 0:
                    marked.append(Rectangle(round(x, 2), strip.top + 0.5, round(width, 2), strip.height - 1))
    return marked


def color_stretches(page: EcgPage, leads: Sequence[str], change: Any) -> list[Rectangle]:
    """(leads, stretches) of occlusion on a page."""
    change = np.asarray(change)
    width = SECONDS * MM_PER_SECOND / change.shape[1]
    colored = []
    for strip in page.strips:
        for i, value in enumerate(change[list(leads).index(strip.lead)]):
            share = min(abs(float(value)) / FULL_COLOR, 1)
            if share > 0.02:
                color = "supports" if value > 0 else "opposes"
                place = (round(LEFT + i * width, 2), strip.top + 0.5, round(width, 2), strip.height - 1)
                colored.append(Rectangle(*place, color, round(0.6 * share, 3)))
    return colored


__all__ = ["FULL_COLOR", "EcgPage", "Rectangle", "Strip", "color_stretches", "lay_out", "mark_places"]
