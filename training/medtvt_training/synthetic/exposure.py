# SPDX-License-Identifier: Apache-2.0
"""From the density of a drawn chest to the gray levels of a film: position, scatter, dose, tone and collimation."""

import numpy as np
from PIL import Image, ImageDraw

from .anatomy import SIZE, soften, vary
from .signs import FilmSigns


MARGIN = 72  # pixels that lie around the drawing, in which what is at its border goes on
Matrix = tuple[float, ...]


def frame(signs: FilmSigns, rng: np.random.Generator, own_rng: np.random.Generator) -> Matrix:
    """The affine map from the film to the drawing: tilt, position and size. `own_rng` draws what `variety` adds."""
    turn = np.deg2rad(signs.rotation)
    sine, cosine = np.sin(turn), np.cos(turn)
    x, y = np.clip(rng.normal(0, 0.008, 2), -0.02, 0.02) + 0.5
    scale = min(rng.normal(0.935, 0.015), (1 - 2 * max(abs(x - 0.5), abs(y - 0.5))) / (cosine + abs(sine)))
    tall = 1.0
    if signs.variety:
        grow, tall, aside, down = signs.variety * np.clip(own_rng.normal(0, 1, 4), -2, 2)
        supine = signs.view == "AP"
        scale *= np.exp(signs.variety * (0.1 + 0.06 * supine) + 0.055 * grow)
        tall = np.exp(0.04 * tall)
        x, y = x + 0.018 * aside, y + (0.025 + 0.01 * supine) * down - 0.015 * signs.variety
    a, b = scale * cosine, scale * sine
    c, d = -b * tall, a * tall
    half = SIZE / 2
    return (a, b, x * SIZE - half * (a + b), c, d, y * SIZE - half * (c + d))


def transform(values: np.ndarray, matrix: Matrix) -> np.ndarray:
    """The drawing as it lies on the film."""
    padded = np.pad(values.astype(np.float32, copy=False), MARGIN, mode="edge")
    a, b, x, c, d, y = matrix
    matrix = (a, b, x + MARGIN, c, d, y + MARGIN)
    image = Image.fromarray(padded)
    return np.asarray(image.transform((SIZE, SIZE), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR))


def expose(film: np.ndarray, signs: FilmSigns, parts: dict[str, np.random.Generator]) -> np.ndarray:
    """Film density to gray levels."""
    rng, own_rng, variety = parts["noise"], parts["exposure"], signs.variety
    dose, grain, bright, blur = vary(rng, [1.35, 0.016, 0.0, 0.14], [0.07, 0.004, 0.02, 0.04])
    blur = min(max(blur, 0.05), 0.25)
    soften(film, blur)
    film = transform(film, frame(signs, parts["frame"], parts["position"]))
    contrast = 0.92 if signs.view == "AP" else 1.0  # scatter, no grid
    # three bytes are normal enough; their sum has the mean 382.5 and the standard deviation 128
    counts = rng.integers(256, size=(3, SIZE, SIZE), dtype=np.uint8).sum(0, dtype=np.float32)
    grain = max(grain, 0.006)
    if variety:
        film = _scatter(film, variety * (0.25 + 0.2 * (signs.view == "AP")), own_rng)
        grain *= float(np.exp(variety * own_rng.normal(-0.4, 0.5)))
        if own_rng.random() < 0.6 * variety:
            soften(counts, 0.2)  # grain of a reader's phosphor, larger than a pixel
    film = film + (grain / 128) * (counts - 382.5)
    table = np.linspace(0, 2, 4096)
    gray = 1.12 * (1 - np.exp(-dose * contrast * table)) + (0.04 if signs.view == "AP" else 0) + bright
    gray = np.clip(gray, 0, 1) ** signs.gamma
    if variety:
        gray = _tone(gray, signs, own_rng)
    gray = np.rint(255 * gray).astype(np.uint8)
    image = gray[np.clip(film * np.float32(4095 / 2), 0, 4095).astype(np.uint16)]
    return _collimate(image, signs, own_rng) if own_rng.random() < 0.4 * variety else image


def _scatter(film: np.ndarray, most: float, rng: np.random.Generator) -> np.ndarray:
    """Scattered rays veil the film with its own blurred image; the beam is uneven."""
    small = Image.fromarray(film).reduce(16)
    veil = np.asarray(small.resize((SIZE, SIZE), Image.Resampling.BICUBIC))
    share = rng.uniform(0.05, max(most, 0.06))
    slopes = rng.normal(0, 0.05, 2)
    place = np.linspace(-0.5, 0.5, SIZE, dtype=np.float32)
    uneven = np.float32(slopes[0]) * place[:, None] + np.float32(slopes[1]) * place
    return (1 - share) * film + share * veil + uneven * (film > 0.05)


def _tone(gray: np.ndarray, signs: FilmSigns, rng: np.random.Generator) -> np.ndarray:
    """The display curve of one site: steepness, darkest and brightest gray; bedside films are flat and bright."""
    supine, variety = signs.view == "AP", signs.variety
    steep = float(np.exp(rng.normal(0, 0.3) * variety))
    curve = gray ** np.exp(variety * rng.normal(0.38 - 0.15 * supine, 0.35))
    middle = float(rng.uniform(0.45, 0.65))
    curve = np.where(
        curve < middle, middle * (curve / middle) ** steep, 1 - (1 - middle) * ((1 - curve) / (1 - middle)) ** steep
    )
    low, high = rng.beta(1, 5 if not supine else 3) * 0.5, 1 - rng.beta(1, 5) * 0.3
    low, high = variety * low, 1 - variety * (1 - high)
    # the air beside the body stays dark
    return np.clip((low + (high - low) * curve) * np.clip(curve / 0.025, 0, 1), 0, 1)


def _collimate(image: np.ndarray, signs: FilmSigns, rng: np.random.Generator) -> np.ndarray:
    """Black (or, digitized, white) strips outside the beam, a little tilted."""
    sides = rng.random(4) < 0.55
    widths = np.where(sides, np.minimum(rng.gamma(1.3, 0.022, 4), [0.06, 0.07, 0.06, 0.1]), -0.05)
    left, top, right, low = (SIZE * widths).tolist()
    lean = rng.normal(0, 0.006, 4) * SIZE
    mask = Image.new("L", (SIZE, SIZE), 0)
    corners = [(left + lean[0], top + lean[1]), (SIZE - right, top - lean[1]), (SIZE - right - lean[2], SIZE - low)]
    corners.append((left - lean[0], SIZE - low + lean[3]))
    ImageDraw.Draw(mask).polygon(corners, fill=255)
    outside = 255 if rng.random() < 0.06 else int(rng.integers(0, 14))
    return np.where(np.asarray(mask) > 0, image, np.uint8(outside))
