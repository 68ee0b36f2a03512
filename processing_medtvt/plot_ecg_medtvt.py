# SPDX-License-Identifier: Apache-2.0
"""An ECG on standard paper: 25 mm/s, 10 mm/mV or less where a wave would leave the paper."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .leads_ecg_medtvt import LEADS_BY_KEY, STANDARD_LEADS


LAYOUT = [("I", "aVR", "V1", "V4"), ("II", "aVL", "V2", "V5"), ("III", "aVF", "V3", "V6")]
RHYTHM_LEAD = "II"
MM_PER_SECOND = 25
GAINS = (10.0, 5.0, 2.5, 1.25)  # mm/mV
SECONDS = 10
# millimetres; the calibration pulse lies left of the traces
ROW_HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 30, 15, 5, 10, 5
THIN, THICK, TRACE = "#f8d5d5", "#e9a3a3", "#101018"
BOLD: dict[str, Any] = {"fontsize": 9, "fontweight": "bold", "color": TRACE, "family": "DejaVu Sans"}


def plot_ecg(
    signal: np.ndarray,
    leads: Sequence[str] = STANDARD_LEADS,
    sampling_rate: float = 500,
    title: str | None = None,
    ax: Any = None,
) -> Any:
    """
    Draw the usual page: 2.5 s of each lead in three rows of four, and ten seconds of lead II below.

    One unit of the axes is a millimetre of paper. The figure made here has the true size in inches, so at any dpi
    25 mm are one second and 10 mm one millivolt; save it without `bbox_inches="tight"`, which would change that. Where a
    wave would reach beyond the neighboring row or the paper, the gain is halved, and written below.

    Args:
        signal (`np.ndarray`): (12, samples) in mV. Only the first ten seconds are drawn; NaN leaves a hole.
        leads (`Sequence[str]`, *optional*, defaults to MIMIC-IV-ECG's order): names of the rows, in any order.
        sampling_rate (`float`, *optional*, defaults to 500): in Hz.
        title (`str`, *optional*): written above the traces.
        ax (`matplotlib.axes.Axes`, *optional*): drawn into instead of a new figure.

    Returns:
        `matplotlib.figure.Figure`: to save with `figure.savefig(file, dpi=...)`.

    Raises:
        ValueError: if the shape or the lead names are not those of twelve leads.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as err:
        raise ImportError("Plotting an ECG requires matplotlib: `pip install matplotlib`.") from err

    traces = _by_lead(signal, leads)
    if not (np.isfinite(sampling_rate) and sampling_rate > 0):
        raise ValueError(f"sampling_rate: got {sampling_rate}; accepted is a positive number of Hz.")
    rows = len(LAYOUT) + 1
    width = LEFT + SECONDS * MM_PER_SECOND + RIGHT
    height = TOP + rows * ROW_HEIGHT + BOTTOM
    if ax is None:
        figure = Figure(figsize=(width / 25.4, height / 25.4), facecolor="white")
        ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(-LEFT, width - LEFT), ylim=(0, height), aspect="equal")
    ax.axis("off")
    _draw_grid(ax, width, height)

    gain = _choose_gain(traces, sampling_rate, height)
    for row, names in enumerate([*LAYOUT, (RHYTHM_LEAD,)]):
        _draw_row(ax, names, traces, sampling_rate, gain, _middle(row))
    small = BOLD | {"fontsize": 7, "fontweight": "normal"}
    ax.text(width - LEFT - 2, 1.5, f"{MM_PER_SECOND} mm/s   {gain:g} mm/mV", ha="right", **small)
    if title:
        ax.text(0, height - 3, title, va="top", parse_math=False, **BOLD)
    return ax.figure


def _middle(row: int) -> float:
    """The height of zero of a row, from the top one."""
    return BOTTOM + (len(LAYOUT) + 0.5 - row) * ROW_HEIGHT


def _choose_gain(traces: dict[str, np.ndarray], sampling_rate: float, height: int) -> float:
    """The first of `GAINS` with which no wave passes the middle of the next row or the edge of the paper."""
    samples = round(SECONDS * sampling_rate)
    reach = []
    for row, names in enumerate([*LAYOUT, (RHYTHM_LEAD,)]):
        values = np.concatenate([traces[name][:samples] for name in names])
        up = min(height - _middle(row), ROW_HEIGHT) - 1
        down = min(_middle(row), ROW_HEIGHT) - 1
        reach += [np.fmax.reduce(values, initial=0) / up, -np.fmin.reduce(values, initial=0) / down]
    return next((gain for gain in GAINS if max(reach) * gain <= 1), GAINS[-1])


def _draw_row(
    ax: Any, names: Sequence[str], traces: dict[str, np.ndarray], sampling_rate: float, gain: float, middle: float
) -> None:
    """The leads of one row beside each other, after a calibration pulse; `middle` is the height of zero."""
    seconds = SECONDS / len(names)
    x: list[np.ndarray] = []
    y: list[np.ndarray] = []
    for column, name in enumerate(names):
        first, last = (round(sampling_rate * seconds * (column + i)) for i in (0, 1))
        values = traces[name][first:last]
        # NaN lifts the pen between the leads
        x += [(first + np.arange(values.size)) / sampling_rate * MM_PER_SECOND, np.array([np.nan])]
        y += [middle + gain * values, np.array([np.nan])]
        start = column * seconds * MM_PER_SECOND
        ax.text(start + 1.5, middle + 9, name, va="bottom", **BOLD)
        if column:
            ax.plot([start, start], [middle - 3, middle + 3], color=TRACE, linewidth=0.5)
    ax.plot(np.concatenate(x), np.concatenate(y), color=TRACE, linewidth=0.8, solid_joinstyle="round")
    pulse_x = np.array([-10, -8.5, -8.5, -3.5, -3.5, -2])  # 1 mV for 200 ms
    ax.plot(pulse_x, middle + gain * np.array([0, 0, 1, 1, 0, 0]), color=TRACE, linewidth=0.8)


def _by_lead(signal: Any, leads: Sequence[str]) -> dict[str, np.ndarray]:
    """`dict` from the twelve names to their samples."""
    signal, names = np.asarray(signal), [LEADS_BY_KEY.get(str(lead).upper()) for lead in leads]
    if sorted(map(str, names)) != sorted(STANDARD_LEADS):
        raise ValueError(
            f"leads: got {', '.join(map(str, leads))}; needed, in any order: {', '.join(STANDARD_LEADS)}."
        )
    if signal.ndim != 2 or len(signal) != len(names) or signal.dtype.kind not in "iuf" or not signal.size:
        raise ValueError(f"signal: {signal.dtype} of shape {signal.shape}; accepted is (12, samples) of real numbers.")
    if np.isinf(signal).any():
        raise ValueError("signal: infinite values; accepted are numbers in mV and NaN.")
    return dict(zip(map(str, names), signal.astype(float)))


def _draw_grid(ax: Any, width: int, height: int) -> None:
    """Lines every millimetre, stronger every five, counted from zero seconds."""
    from matplotlib.collections import LineCollection

    for color, linewidth, strong in ((THIN, 0.4, False), (THICK, 0.6, True)):
        across = [x for x in range(-LEFT, width - LEFT + 1) if (x % 5 == 0) == strong]
        up = [y for y in range(height + 1) if (y % 5 == 0) == strong]
        lines = [((x, 0), (x, height)) for x in across] + [((-LEFT, y), (width - LEFT, y)) for y in up]
        ax.add_collection(LineCollection(lines, colors=color, linewidths=linewidth, zorder=0), autolim=False)
