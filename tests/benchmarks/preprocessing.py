# SPDX-License-Identifier: Apache-2.0
"""Samples per second on one core, over the straightforward way to the same numbers: what its measurements share."""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from .harness import divide, interleave, medians, timed


def compare(sides: dict[str, tuple[Callable, int]], repeats: int) -> tuple[list[float], str]:
    """
    Ratios of the first side's samples/s to the second's, and the medians, with one thread of torch.

    Args:
        sides: name -> what to run, and of how many samples.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = interleave({name: partial(timed, run, "cpu") for name, (run, _) in sides.items()}, repeats)
    finally:
        torch.set_num_threads(threads)
    speeds = {name: [sides[name][1] / seconds for seconds in runs] for name, runs in found.items()}
    return divide(*speeds.values()), medians(speeds, "samples/s")


def check_equal(found: np.ndarray, expected: np.ndarray, tolerance: float) -> str:
    """A note on the largest difference; AssertionError where it is above the tolerance."""
    difference = np.abs(found.astype(np.float64) - expected.astype(np.float64)).max()
    assert found.shape == expected.shape and difference <= tolerance, (found.shape, expected.shape, difference)
    return f"largest difference {difference:.1g}"
