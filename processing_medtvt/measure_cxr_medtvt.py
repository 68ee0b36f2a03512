# SPDX-License-Identifier: Apache-2.0
"""Sizes and densities of a chest film, from its pixels alone."""

import numpy as np
from PIL import Image
from scipy.ndimage import uniform_filter1d


def measure_cxr(image: np.ndarray) -> dict[str, float]:
    """
    Simple figures of a film, from its pixels alone: a baseline's features, and checks of the drawing.

    Args:
        image (`np.ndarray`): (height, width) uint8, any size; patient's right on the left.

    Returns:
        `dict` of floats. Grey levels are 0..1 (white), lengths shares of the width or height. `mean`, `std`, `q05` ...
        `q95`; `grid_<row><column>` of 4 x 4 fields; `<side>_<zone>` (mean of the inner thorax), `_detail` (root mean
        square of what is finer than a hundredth of the width) and `_bands` (of horizontal structure);
        `difference_<zone>` (right - left); `heart_width`, `thorax_width` and their crude ratio `ctr`; `lung_height`.

    Raises:
        ValueError: if `image` is not (height, width) uint8.
    """
    if getattr(image, "dtype", None) != np.uint8 or image.ndim != 2:
        found = f"{image.dtype} of shape {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ValueError(f"The film is {found}; accepted: a uint8 array of shape (height, width).")
    side = 128
    picture = Image.fromarray(image)
    fine = np.asarray(picture.resize((2 * side, 2 * side), Image.Resampling.BOX), dtype=np.float32) / 255
    quarters = [fine[row::2, column::2] for row in range(2) for column in range(2)]
    small: np.ndarray = (quarters[0] + quarters[1] + quarters[2] + quarters[3]) / 4
    figures = {"mean": small.mean(), "std": small.std()}
    quantiles = (5, 25, 50, 75, 95)
    figures |= zip((f"q{q:02d}" for q in quantiles), np.percentile(small, quantiles))
    grid = small.reshape(4, side // 4, 4, side // 4).mean((1, 3))
    figures |= {f"grid_{row}{column}": grid[row, column] for row in range(4) for column in range(4)}

    middle, heart, wall = _borders(small)
    widths = (wall[0] + wall[1]) / side
    heart_width = np.percentile(heart, 75, axis=1).sum() / side
    # at least something, so that a picture of anything else is measured too
    thorax_width = max(np.percentile(widths, 90), heart_width, 0.4)
    figures |= {"heart_width": heart_width, "thorax_width": thorax_width, "ctr": heart_width / thorax_width}

    detail = sum((quarter - small) ** 2 for quarter in quarters) / 4
    bands = np.zeros_like(small)
    bands[2:-2] = (small[2:-2] - (small[4:] + small[:-4]) / 2) ** 2
    reach = round(0.42 * thorax_width * side)
    for name, rows_of_zone in (("upper", (20, 46)), ("middle", (46, 70)), ("base", (70, 92))):
        zone = slice(*rows_of_zone)
        for where, columns in (("right", (middle - reach, middle - 12)), ("left", (middle + 12, middle + reach))):
            area = zone, slice(max(columns[0], 0), max(columns[1], columns[0] + 1))
            figures[f"{where}_{name}"] = small[area].mean()
            figures[f"{where}_{name}_detail"] = np.sqrt(detail[area].mean())
            figures[f"{where}_{name}_bands"] = np.sqrt(bands[area].mean())
        figures[f"difference_{name}"] = figures[f"right_{name}"] - figures[f"left_{name}"]
    figures["lung_height"] = _lung_height(small, middle, reach)
    return {name: float(value) for name, value in figures.items()}


def _borders(small):
    """Column of the spine; distances of the borders of heart and inner chest wall from it, (2, rows) each."""
    size = len(small)
    block = uniform_filter1d(uniform_filter1d(small, 5, axis=0), 3, axis=1)[round(0.3 * size) : round(0.72 * size) : 2]
    first, last = round(0.44 * size), round(0.56 * size)
    middle = first + int(block[:, first:last].mean(0).argmax())
    near, far = round(0.12 * size), round(0.38 * size)
    hearts, walls, contrasts = [], [], []
    for half in (block[:, :middle][:, ::-1], block[:, middle:]):
        place = np.arange(half.shape[1])
        lung = near + half[:, near:far].argmin(1)[:, None]
        dark = np.take_along_axis(half, lung, 1)
        centre = np.median(half[:, 4:8], 1, keepdims=True)
        edge = np.where(place > lung, half, 0).argmax(1)[:, None]
        bright = np.take_along_axis(half, edge, 1)
        # halfway between tissue and lung
        hearts.append(((half < (centre + dark) / 2) & (place >= 4)).argmax(1))
        walls.append(((half > (dark + bright) / 2) & (place > lung)).argmax(1))
        contrasts.append((centre - dark)[:, 0])
    contrast = np.minimum(*contrasts)
    clear = contrast >= 0.6 * contrast.max()  # not below the diaphragm
    return middle, np.array(hearts)[:, clear], np.array(walls)[:, clear]


def _lung_height(small, middle, reach):
    """Rows, as a share, in which the lungs beside the spine are darker than halfway to the abdomen."""
    column = np.concatenate(
        [small[:, max(middle - reach, 0) : middle - 16], small[:, middle + 16 : middle + reach]], 1
    )
    column = np.median(column, 1)
    level = (np.percentile(column[20:90], 10) + np.percentile(column, 95)) / 2
    return (column[10:] < level).mean()
