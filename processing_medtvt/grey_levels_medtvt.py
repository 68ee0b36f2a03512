# SPDX-License-Identifier: Apache-2.0
"""From the numbers of a film, of any depth, to 8-bit pictures; in strips, so that memory stays bounded."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image


# Below Pillow's own limit (89 megapixels), well above the largest detector (about 18) and film scanner (about 30).
MAX_PIXELS = 64_000_000
MIN_SIDE = 32
MAX_ASPECT = 4
STRIP = 2**19  # values that are converted at a time


class PictureRows:
    """
    The values of a decoded picture, read by rows: `rows[a:b]` is an array of shape (b - a, W) or (b - a, W, C).

    Args:
        image: a Pillow image of a grey mode of more than 8 bits, or the upper bytes of 16-bit channels.
        lower: the lower bytes of these channels.
        channels: how many of the channels hold the picture.
    """

    def __init__(self, image: Image.Image, lower: Image.Image | None = None, channels: int = 1):
        self.images = [image] if lower is None else [image, lower]
        self.channels = channels
        self.shape = (image.height, image.width) if channels == 1 else (image.height, image.width, channels)

    def __getitem__(self, rows: slice) -> np.ndarray:
        box = (0, rows.start, self.images[0].width, rows.stop)
        strips = [np.asarray(image.crop(box)) for image in self.images]
        if self.channels > 1:
            strips = [strip[..., : self.channels] for strip in strips]
        return strips[0] if len(strips) == 1 else strips[0].astype(np.uint16) * 256 + strips[1]


def check_size(width: int, height: int, name: str) -> None:
    """Refuses what is too large to decode, too small for a film, or no film's shape."""
    short, long = sorted((width, height))
    if width * height > MAX_PIXELS:
        raise ValueError(f"cxr {name}: {width} x {height} pixels; at most {MAX_PIXELS} pixels are accepted.")
    if short < MIN_SIDE:
        raise ValueError(f"cxr {name}: {width} x {height} pixels; at least {MIN_SIDE} on each side are needed.")
    if long > MAX_ASPECT * short:
        raise ValueError(f"cxr {name}: {width} x {height} pixels; sides up to {MAX_ASPECT}:1 are accepted.")


def to_uint8(
    values: Any,
    name: str,
    notes: list[str],
    ignored: np.ndarray | None = None,
    show: Callable[[np.ndarray], np.ndarray] | None = None,
) -> np.ndarray:
    """
    Grey values of any depth to 0..255.

    Args:
        values: array of shape (H, W) or (H, W, C), or [`PictureRows`].
        name (`str`): what messages call the input.
        notes (`list[str]`): receives a sentence where values are scaled.
        ignored (`np.ndarray`, *optional*): (H, W) bool, pixels that hold no measured value. They are no part of the
            range, and black in the result.
        show (*optional*): what is to be done with the values first, element by element.

    Returns:
        uint8 of the same shape: whole numbers in 0..255 as they are, floats in 0..1 times 255, all else scaled by its
        range.

    Raises:
        ValueError: if a value is NaN or infinite.
    """
    if isinstance(values, np.ndarray) and values.dtype == np.uint8 and ignored is None and show is None:
        return np.ascontiguousarray(values)
    low, high, is_float, whole = _find_range(values, name, ignored, show)
    offset, factor = 0.0, 1.0
    if is_float and low >= 0 and high <= 1:
        factor = 255.0
    elif low < 0 or high > 255 or not whole:
        notes.append(f"cxr: grey values {low:g}..{high:g} scaled to 0..255")
        # A constant array becomes zero here and is refused as blank later.
        offset, factor = low, 255 / (high - low) if high > low else 0.0
    pixels = np.empty(values.shape, np.uint8)
    for rows in _strips(values.shape):
        strip = _shown(values[rows], show).astype(np.float64)
        pixels[rows] = np.rint(np.clip((strip - offset) * factor, 0, 255))
    if ignored is not None:
        pixels[ignored] = 0
    return pixels


def _strips(shape: tuple[int, ...]) -> Iterator[slice]:
    step = max(1, STRIP // int(np.prod(shape[1:])))
    for start in range(0, shape[0], step):
        yield slice(start, min(start + step, shape[0]))


def _shown(strip: np.ndarray, show: Callable[[np.ndarray], np.ndarray] | None) -> np.ndarray:
    return strip if show is None else show(strip)


def _find_range(
    values: Any, name: str, ignored: np.ndarray | None, show: Callable[[np.ndarray], np.ndarray] | None
) -> tuple[float, float, bool, bool]:
    """Lowest and highest value, whether they are floats, and whether all are whole numbers."""
    low, high, is_float, whole = np.inf, -np.inf, False, True
    for rows in _strips(values.shape):
        strip = _shown(values[rows], show)
        is_float = strip.dtype.kind == "f"
        if ignored is not None:
            strip = strip[~ignored[rows]]
        if not strip.size:
            continue
        least, most = float(strip.min()), float(strip.max())
        if not np.isfinite(most - least):
            raise ValueError(f"cxr {name}: holds NaN or infinite values; every pixel must be a number.")
        low, high = min(low, least), max(high, most)
        whole = whole and (not is_float or np.array_equal(strip, np.rint(strip)))
    if low > high:
        raise ValueError(f"cxr {name}: blank, no pixel holds a measured value.")
    return low, high, is_float, whole


__all__ = ["MAX_PIXELS", "PictureRows", "check_size", "to_uint8"]
