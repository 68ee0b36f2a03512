# SPDX-License-Identifier: Apache-2.0
"""Damaged films of every format that is read: an 8-bit picture, or one error that names the file and quotes none of it."""

import io
import random
import struct

import numpy as np
import pydicom
import pytest
from PIL import Image

from processing_medtvt.read_cxr_medtvt import read_cxr

from ..processing_medtvt.film_files import chain, draw_film, png, tiff, write_dicom
from .mutate import SECRET, mutate_bytes
from .test_fuzz import fuzz, read  # noqa: F401 (a fixture)


FILM = draw_film(64, 56)
WIDE = FILM.astype(np.uint16) * 15 + 120
COLORS = np.dstack([WIDE, WIDE[::-1], WIDE])


def saved(kind, values=FILM, **options):
    exif = Image.Exif()
    exif[270], exif[274] = SECRET, 6
    Image.fromarray(values).save(buffer := io.BytesIO(), kind, exif=exif, **options)
    return buffer.getvalue()


PICTURES = {
    "png": lambda: [
        saved("PNG"),
        png(WIDE, 0, tRNS=struct.pack(">H", 500)),
        png(COLORS, 2),
        png(np.dstack([WIDE, WIDE]), 4),
        png(FILM >> 4, 3, 4, PLTE=bytes(range(48))),
        saved("PNG", save_all=True, append_images=[Image.fromarray(255 - FILM)]),
    ],
    "jpeg": lambda: [
        saved("JPEG", comment=SECRET.encode()),
        saved("MPO", save_all=True, append_images=[Image.new("L", (9, 9))]),
        saved("JPEG", COLORS.astype(np.uint8), progressive=True),
    ],
    "tiff": lambda: [
        tiff(WIDE, ">", 0, orientation=6),
        tiff(WIDE.astype("i2"), ">", 0, compressed=True, predictor=2),
        tiff(np.moveaxis(COLORS, -1, 0), photometric=2, planar=2),
        tiff(np.dstack([COLORS, WIDE]), photometric=2, compressed=True, extra=1),
        tiff(FILM, photometric=3, colormap=np.arange(768) * 85),
        chain(tiff(FILM[::2, ::2].copy(), subfile=1), tiff(FILM >> 4, bits=4)),
    ],
    "others": lambda: [saved("WEBP"), saved("BMP"), saved("JPEG2000"), saved("JPEG2000", WIDE)],
}


def check_film(path, is_picture=True):
    film = read(lambda: read_cxr(path), str(path))
    if film:
        assert film.image.mode in ("L", "RGB") and film.image.size <= (8000, 8000) and not film.image.info
        assert all(note.startswith("cxr: ") and SECRET.upper() not in note.upper() for note in film.notes)
        assert film.patient["sex"] in ("F", "M", None)
        assert film.patient["age"] is None or 0 <= film.patient["age"] < 1000
    return bool(film)


@pytest.mark.parametrize("kind", PICTURES)
def test_pictures(fuzz, kind, tmp_path):  # noqa: F811
    sources = PICTURES[kind]()
    path = tmp_path / "film"

    def body(random: random.Random):
        path.write_bytes(mutate_bytes(random.choice(sources), random))
        return check_film(path)

    fuzz(body)


def lookup_table():
    item = pydicom.Dataset()
    item.LUTDescriptor, item.ModalityLUTType, item.LUTExplanation = [4096, 0, 12], "US", SECRET
    item.add_new("LUTData", "OW", np.arange(4096, dtype="<u2").tobytes())
    return [item]


DICOM_VALUES = ["", SECRET, "0", "-1", "1e300", "nan", "ZZZ", "999999", "12\\x", "057Y", "\\\\", "CHEST", "PA"]
DICOM_NUMBERS = [0, 1, 7, 8, 12, 15, 16, 31, 64, 255, 32768, 65535]


def damage(dataset, random):
    """One or two elements removed, or given another value or type."""
    for _ in range(random.randint(1, 2)):
        item = dataset
        for keyword in ("VOILUTSequence", "ModalityLUTSequence"):
            if keyword in dataset and dataset[keyword].VR == "SQ" and random.random() < 0.3:
                item = dataset[keyword].value[0]
        element = random.choice(list(item))
        if random.random() < 0.3:
            del item[element.tag]
        elif element.VR in ("US", "SS") and random.random() < 0.7:
            element.value = random.choice(DICOM_NUMBERS)
        elif random.random() < 0.8:
            item.add_new(element.tag, random.choice(["LO", "CS", "DS", "UN"]), random.choice(DICOM_VALUES))
            if item[element.tag].VR == "UN":
                item[element.tag].value = random.randbytes(8)
    return dataset


def test_dicom(fuzz, tmp_path, monkeypatch):  # noqa: F811
    for mode in ("reading_validation_mode", "writing_validation_mode"):
        monkeypatch.setattr(pydicom.config.settings, mode, pydicom.config.IGNORE)
    path = tmp_path / "film.dcm"
    common = {"BitsStored": 12, "PatientName": SECRET, "PatientAge": "057Y", "PatientSex": "F"}
    headers = [
        {"WindowCenter": 2000, "WindowWidth": 3000, "RescaleSlope": 1, "RescaleIntercept": 0},
        {"VOILUTSequence": lookup_table(), "PhotometricInterpretation": "MONOCHROME1"},
        {"ModalityLUTSequence": lookup_table(), "PixelPaddingValue": 120, "HighBit": 13},
    ]
    sources = [write_dicom(path, WIDE, **common | header).read_bytes() for header in headers]

    def body(random: random.Random):
        content = random.choice(sources)
        if random.random() < 0.6:
            path.write_bytes(mutate_bytes(content, random))
            return check_film(path)
        try:
            damage(pydicom.dcmread(io.BytesIO(content)), random).save_as(path)
        except Exception:
            return True  # pydicom does not write such
        return check_film(path)

    fuzz(body)
