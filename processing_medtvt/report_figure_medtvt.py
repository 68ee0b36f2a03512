# SPDX-License-Identifier: Apache-2.0
"""A patient's inputs on one sheet, by matplotlib."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .plot_ecg_medtvt import plot_ecg
from .report_inputs_medtvt import DrawnInputs, LabRow
from .report_medtvt import RESEARCH_USE


MAX_LABS = 16
# Okabe and Ito's, which the color-blind can tell apart
OUTSIDE, INSIDE = "#d55e00", "#0072b2"


def render_figure(inputs: DrawnInputs, title: str = RESEARCH_USE) -> Any:
    """
    The inputs on one sheet: the ECG on its paper, the X-ray and what the model saw of it, the labs that lie farthest
    from the middle of their distribution.

    Args:
        inputs (`DrawnInputs`): From [`read_inputs`].
        title (`str`): Stands above; it is wrapped where it is long.

    Returns:
        `matplotlib.figure.Figure`: to save with `figure.savefig(file, dpi=...)`.

    Raises:
        ImportError: if matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("Drawing the inputs requires matplotlib: `pip install matplotlib`.") from error
    has_bottom = inputs.cxr is not None or inputs.lab is not None
    heights = [5.3] * (inputs.ecg is not None) + [3.6] * has_bottom
    figure = Figure(figsize=(10.6, sum(heights) + 0.5), facecolor="white", layout="constrained")
    figure.suptitle(title, fontsize=10, parse_math=False, wrap=True)
    grid = figure.add_gridspec(max(1, len(heights)), 1, height_ratios=heights or [1])
    if inputs.ecg is not None:
        plot_ecg(inputs.ecg.signal, inputs.ecg.leads, inputs.ecg.rate, ax=figure.add_subplot(grid[0]))
    if has_bottom:
        bottom = grid[len(heights) - 1].subgridspec(1, 3, width_ratios=(1, 1, 1.2))
        for column, (picture, name) in enumerate(zip(inputs.cxr or (), ("X-ray", "X-ray as the model saw it"))):
            axes = figure.add_subplot(bottom[column])
            axes.imshow(np.asarray(picture))
            axes.set_title(name, fontsize=9)
            axes.axis("off")
        if inputs.lab is not None:
            _draw_percentiles(figure.add_subplot(bottom[2]), inputs.lab)
    return figure


def _draw_percentiles(axes: Any, rows: Sequence[LabRow]) -> None:
    chosen = sorted(rows, key=lambda row: -abs(row.percentile - 0.5))[:MAX_LABS][::-1]
    for y, row in enumerate(chosen):
        color = OUTSIDE if row.flag in ("low", "high") else INSIDE
        axes.plot([0.5, row.percentile], [y, y], color=color, linewidth=1)
        axes.plot([row.percentile], [y], "o", color=color, markersize=4)
    axes.axvline(0.5, color="#999999", linewidth=0.6)
    axes.set_yticks(range(len(chosen)), [row.name for row in chosen], fontsize=7, parse_math=False)
    axes.set(xlim=(-0.03, 1.03))
    axes.tick_params(axis="x", labelsize=7)
    axes.set_title("Labs farthest from the middle, percentile", fontsize=9)


__all__ = ["render_figure"]
