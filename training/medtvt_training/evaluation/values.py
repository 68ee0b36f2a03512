# SPDX-License-Identifier: Apache-2.0
"""How values are written in tables."""

from collections.abc import Mapping, Sequence


RESEARCH_USE = "Research use only: not a medical device, not for the care of patients."


def format_value(value: float | None, limits: Sequence[float] | None = None) -> str:
    """A value with its interval, for a table."""
    if value is None:
        return "-"
    return f"{value:.3f}" + (f" [{limits[0]:.3f}, {limits[1]:.3f}]" if limits else "")


def format_entry(entry: Mapping | None) -> str:
    """A dict with `value` and `interval`."""
    return "-" if entry is None else format_value(entry["value"], entry["interval"])
