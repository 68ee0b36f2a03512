# SPDX-License-Identifier: Apache-2.0
"""X-rays: `MedTVTImageProcessor` over PIL at full size, identical numbers asserted; and its decode at reduced size."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from processing_medtvt import MedTVTImageProcessor, load_cxr

from .files import find_films, write_full_size
from .harness import Row, Settings
from .preprocessing import check_equal, compare


SIDE = 224


def measure(settings: Settings) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        films = find_films(settings.cases, Path(folder))
        full_size = write_full_size(films[0], Path(folder) / "full_size.jpg")
        return [compare_films([*films, full_size], settings.repeats), compare_reduced(full_size, settings.repeats)]


def straightforward_film(path: Path) -> np.ndarray:
    """PIL at full size, then the resize and the scaling of the image processor's defaults."""
    picture = Image.open(path).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return ((np.asarray(picture, dtype=np.float32) / 255 - 0.5) / 0.5).transpose(2, 0, 1)


def compare_films(films: list[Path], repeats: int) -> Row:
    processor = MedTVTImageProcessor()

    def medtvt() -> Any:
        return np.stack([processor(load_cxr(path)[0], return_tensors="np")["pixel_values"][0] for path in films])

    def straightforward() -> Any:
        return np.stack([straightforward_film(path) for path in films])

    note = check_equal(medtvt(), straightforward(), 1e-5)
    sides = {"medtvt": (medtvt, len(films)), "PIL": (straightforward, len(films))}
    ratios, speeds = compare(sides, repeats)
    what = f"samples/s over PIL at full size, {len(films)} gray PNG and JPEG files"
    return Row("preprocess-films", what, ratios, at_least=1.2, note=f"{speeds}, {note}")


def compare_reduced(film: Path, repeats: int) -> Row:
    """The opt-in decode at reduced size."""
    what = "samples/s of the reduced-size decode over PIL at full size, JPEG of 2544 x 3056"
    processor = MedTVTImageProcessor()

    def medtvt() -> Any:
        return processor(load_cxr(film, min_decode_size=2 * SIDE)[0], return_tensors="np")["pixel_values"][0]

    # in gray levels of 0..255, of which the processor makes -1..1
    difference = np.abs(medtvt() - straightforward_film(film)) * 127.5
    sides = {
        "medtvt": (lambda: [medtvt() for _ in range(4)], 4),
        "PIL": (lambda: [straightforward_film(film) for _ in range(4)], 4),
    }
    ratios, speeds = compare(sides, repeats)
    note = f"{speeds}, gray levels differ by {difference.mean():.2f} on average, {difference.max():.0f} at most"
    return Row("preprocess-films", what, ratios, at_least=2, note=note)
