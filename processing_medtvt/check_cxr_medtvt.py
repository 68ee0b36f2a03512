# SPDX-License-Identifier: Apache-2.0
"""Whether a picture looks like a frontal chest film, upright and with bright bones: cheap measures, to warn by."""

import numpy as np
from PIL import Image


# The mean of 346 frontal films of NIH ChestX-ray14 (NIH Clinical Center; Wang et al. 2017), each shifted to fit best:
# left half of 12 x 12 fields, thousandths, standardized; mirrored to the right. `SHAPE` is the same after the mean of
# each row is taken off, which leaves spine, lungs and flanks.
DENSITY = (
    (-41, -48, -78, -101, -77, -17), (-4, -29, -94, -135, -101, -15), (7, -38, -120, -157, -107, -1),
    (9, -48, -132, -156, -88, 20), (5, -55, -130, -134, -49, 42), (1, -56, -113, -94, -10, 64),
    (-3, -49, -81, -44, 25, 83), (-5, -31, -34, 3, 54, 99), (1, 8, 25, 51, 82, 114),
    (20, 54, 77, 94, 110, 129), (35, 81, 105, 119, 130, 142), (39, 95, 120, 134, 144, 153),
)  # fmt: skip
SHAPE = (
    (5, 5, -17, -46, -16, 69), (82, 58, -31, -107, -65, 63), (126, 66, -74, -145, -72, 100),
    (133, 45, -104, -158, -51, 135), (112, 12, -125, -144, -8, 154), (77, -23, -132, -112, 31, 161),
    (33, -52, -122, -70, 54, 157), (-12, -70, -93, -30, 63, 142), (-56, -68, -52, -2, 60, 119),
    (-91, -54, -19, 17, 54, 92), (-111, -42, 1, 28, 50, 73), (-121, -34, 8, 32, 50, 66),
)  # fmt: skip
FIELDS = 16
SIDE = 12
# Of 1,222 frontal films, 0.7% lie below; of 44 lateral ones, 95%.
LEAST_SHAPE = 0.38
# By how much another way of looking at the picture must fit better: 0.1% of the films, over 99% of turned ones.
MARGIN = 0.2
LEAST_FIT = 1.1  # of that other way, which most pictures of other things do not reach
# Color that is no common tint, in grey levels: 13 in photographs of films, 24 to 44 in photographs of other things
MOST_COLOR = 15


def describe_doubts(image: Image.Image) -> list[str]:
    """
    Sentences on what speaks against an upright frontal chest film.

    Args:
        image: 8-bit grey (L) or RGB, of any size.
    """
    small = image.resize((8 * FIELDS, 8 * FIELDS), Image.Resampling.NEAREST)  # a sample of the pixels is enough
    doubts = []
    if image.mode == "RGB" and _measure_color(small) > MOST_COLOR:
        doubts.append("cxr: this looks like a color photograph or drawing, not like a chest film")
    fields = np.asarray(small.convert("L").resize((FIELDS, FIELDS), Image.Resampling.BOX), dtype=np.float64)
    density, shape = _correlate(fields)
    upright = (density + shape).max()
    ways = {"inverted (white is dark)": -(density + shape)}
    for quarters, name in enumerate(
        ("turned a quarter to the left", "upside down", "turned a quarter to the right"), 1
    ):
        ways[name] = sum(_correlate(np.rot90(fields, -quarters)))
    name, fit = max(((name, found.max()) for name, found in ways.items()), key=lambda way: way[1])
    if fit > upright + MARGIN and fit > LEAST_FIT:
        doubts.append(f"cxr: this looks like a chest film that is {name}, or like no chest film; nothing was changed")
    elif shape.max() < LEAST_SHAPE:
        doubts.append(
            "cxr: this does not look like a frontal chest film (lateral view, other body part, other picture?)"
        )
    return doubts


def _whole(half: tuple[tuple[int, ...], ...]) -> np.ndarray:
    template = np.hstack([half, np.array(half)[:, ::-1]]).astype(np.float64).ravel()
    return template / np.linalg.norm(template)


TEMPLATES = np.stack([_whole(DENSITY), _whole(SHAPE)], axis=1)


def _correlate(fields: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Correlation with `DENSITY` and with `SHAPE` at each place of a 12 x 12 window in the 16 x 16 fields."""
    windows = np.lib.stride_tricks.sliding_window_view(fields - fields.mean(), (SIDE, SIDE)).reshape(-1, SIDE, SIDE)
    squares = (windows**2).sum(axis=(1, 2))
    row_means = windows.mean(axis=2)
    # what is left of the squares without the mean of the window, and of each row
    left = np.stack([squares - SIDE**2 * row_means.mean(axis=1) ** 2, squares - SIDE * (row_means**2).sum(axis=1)])
    density, shape = (windows.reshape(-1, SIDE**2) @ TEMPLATES).T / np.sqrt(np.maximum(left, 1e-6))
    return density, shape


def _measure_color(small: Image.Image) -> float:
    """Grey levels by which the channels differ from what their common grey level tells: 0 in a film, tinted or not."""
    colors = np.asarray(small.resize((64, 64), Image.Resampling.NEAREST), dtype=np.float64).reshape(-1, 3)
    grey = colors.mean(axis=1) / 255
    terms = np.stack([np.ones_like(grey), grey, grey**2], axis=1)
    expected = terms @ np.linalg.lstsq(terms.T @ terms, terms.T @ colors, rcond=None)[0]
    return float(np.sqrt(((colors - expected) ** 2).sum(axis=1).mean()))


__all__ = ["describe_doubts"]
