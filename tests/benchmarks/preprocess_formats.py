# SPDX-License-Identifier: Apache-2.0
"""Files of hospital systems: from the file to the model's tensor, over the decoding alone by the library that we call."""

import importlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom

from processing_medtvt import MedTVTEcgFeatureExtractor, MedTVTImageProcessor, load_cxr
from processing_medtvt import read_ecg_vendor_medtvt as vendor

from .files import FULL_SIZE
from .harness import Row, Settings
from .preprocessing import compare
from tests.processing_medtvt import ecg_files, film_files


CALLS = 4
WRITERS: dict[str, tuple[Callable[..., Any], Any]] = {
    "GE MUSE XML": (ecg_files.write_muse, vendor.MUSE),
    "Philips XML": (ecg_files.write_philips, vendor.PHILIPS),
    "HL7 aECG": (ecg_files.write_aecg, vendor.AECG),
    "SCP-ECG": (ecg_files.write_scp, vendor.SCP),
    "EDF": (ecg_files.write_edf, vendor.EDF),
}


def measure(settings: Settings) -> list[Row]:
    importlib.import_module("ecgdatakit.parsing.parsers")  # absent, the measurement is skipped
    with tempfile.TemporaryDirectory() as folder:
        signal = ecg_files.draw_ecg()
        rows = [compare_ecg(Path(folder), signal, kind, settings.repeats) for kind in WRITERS]
        dicom_ecg, dicom_film = Path(folder, "ecg.dcm"), Path(folder, "film.dcm")
        ecg_files.write_dicom(dicom_ecg, signal)
        film_files.write_dicom(dicom_film, film_files.draw_film(FULL_SIZE[1], FULL_SIZE[0]).astype(np.uint16) * 16)
        return [
            *rows,
            compare_with(
                "DICOM waveform", "pydicom", extract(dicom_ecg), decode_waveform(dicom_ecg), settings.repeats
            ),
            compare_with(
                "DICOM film, 2544 x 3056", "pydicom", look(dicom_film), decode_film(dicom_film), settings.repeats
            ),
        ]


def compare_ecg(folder: Path, signal: np.ndarray, kind: str, repeats: int) -> Row:
    write, form = WRITERS[kind]
    path = folder / form.module
    write(path, signal)
    parser = getattr(importlib.import_module(f"ecgdatakit.parsing.parsers.{form.module}"), form.parser)
    return compare_with(kind, "ecgdatakit", extract(path), lambda: parser(**form.arguments).parse(path), repeats)


def compare_with(kind: str, library: str, ours: Callable, alone: Callable, repeats: int) -> Row:
    sides = {
        "medtvt": (lambda: [ours() for _ in range(CALLS)], CALLS),
        f"{library} alone": (lambda: [alone() for _ in range(CALLS)], CALLS),
    }
    ratios, speeds = compare(sides, repeats)
    return Row("preprocess-formats", f"files/s over decoding by {library} alone, {kind}", ratios, note=speeds)


def extract(path: Path) -> Callable:
    extractor = MedTVTEcgFeatureExtractor()
    return lambda: extractor(path)["ecg_values"]


def look(path: Path) -> Callable:
    processor = MedTVTImageProcessor()
    return lambda: processor(load_cxr(path)[0], return_tensors="np")["pixel_values"]


def decode_waveform(path: Path) -> Callable:
    return lambda: pydicom.dcmread(path).waveform_array(0)


def decode_film(path: Path) -> Callable:
    return lambda: pydicom.dcmread(path).pixel_array
