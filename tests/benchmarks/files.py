# SPDX-License-Identifier: Apache-2.0
"""Files to preprocess: real ones where a folder of them is given, else drawn by the synthetic cohort."""

from pathlib import Path

import numpy as np
from PIL import Image

from medtvt_training.synthetic.cxr import draw_cxr, write_cxr
from medtvt_training.synthetic.ecg import draw_ecg, write_ecg
from medtvt_training.synthetic.patient import draw_patient


PATIENTS = 4
FULL_SIZE = (2544, 3056)  # width and height of most films of MIMIC-CXR-JPG


def find_ecgs(cases: Path | None, folder: Path) -> list[Path]:
    """WFDB headers of 500 Hz and 10 s."""
    found = sorted(cases.glob("ecg/ptbxl/records500/*/*.hea")) if cases else []
    for index in () if found else range(PATIENTS):
        found.append(folder / f"{index}.hea")
        write_ecg(found[-1].with_suffix(""), draw_ecg(draw_patient(0, index).ecg, np.random.default_rng(index)))
    return found


def find_films(cases: Path | None, folder: Path) -> list[Path]:
    """Gray pictures of different sizes, PNG and JPEG."""
    paths = sorted([*cases.glob("cxr/nih/*.png"), *cases.glob("cxr/covid/*.jpg")]) if cases else []
    found = [path for path in paths if is_gray(path)]
    for index in () if found else range(PATIENTS):
        found.append(folder / f"{index}.png")
        write_cxr(found[-1], draw_cxr(draw_patient(0, index).film, np.random.default_rng(index)))
    return found


def is_gray(path: Path) -> bool:
    with Image.open(path) as image:
        return image.mode == "L"


def write_full_size(film: Path, target: Path) -> Path:
    """The film as a JPEG of a detector's size, with its noise."""
    picture = Image.open(film).convert("L").resize(FULL_SIZE, Image.Resampling.BICUBIC)
    noise = np.random.default_rng(0).normal(0, 2, FULL_SIZE[::-1])
    Image.fromarray((np.asarray(picture) + noise).clip(0, 255).astype(np.uint8)).save(target, quality=95)
    return target
