# SPDX-License-Identifier: Apache-2.0
"""Chest X-rays from a file, bytes, a picture or an array to an 8-bit picture (`load_cxr`), with what the file declares."""

import io
import os
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from PIL import Image, ImageFile
from transformers.utils import is_torch_tensor

from .check_cxr_medtvt import describe_doubts
from .grey_levels_medtvt import check_size, to_uint8
from .patient_medtvt import Patient
from .read_dicom_cxr_medtvt import read_dicom_file
from .read_picture_cxr_medtvt import read_picture, read_picture_file, to_grey_or_rgb
from .shown_name_medtvt import shown_name


ACCEPTED = (
    "a path or the bytes of a file (PNG, JPEG, JPEG 2000, TIFF, BMP, WebP or DICOM), a PIL image, or a NumPy array or "
    "torch tensor of shape (H, W), (H, W, 1), (H, W, 3), (H, W, 4), (1, H, W) or (3, H, W)"
)


class Film(NamedTuple):
    """
    A chest X-ray as it was read.

    Args:
        image: 8-bit grey (mode L) or RGB, in the picture's own size, bright where the film is dense.
        notes: sentences that say what was changed on the way or looks unusual.
        patient: age and sex, where a DICOM header tells.
        declared: what the file says of itself: `format`, `bits` a value, `polarity` ("MONOCHROME1", "WhiteIsZero"),
            `byte_order` of a TIFF, `view` and `body_part` of a DICOM file.
    """

    image: Image.Image
    notes: list[str]
    patient: Patient
    declared: dict[str, Any]


def load_cxr(cxr: Any, min_decode_size: int | None = None, strict: bool = False) -> tuple[Image.Image, list[str]]:
    """
    Read one chest X-ray. Any picture opens unless it is blank or misshapen; one that does not look like a frontal chest
    film, or whose header says so, is noted.

    Args:
        cxr: path or bytes of a PNG, JPEG, JPEG 2000, TIFF, BMP, WebP or DICOM file (told by content, not by name), PIL
            image, or NumPy array / torch tensor of shape (H, W), (H, W, 1 | 3 | 4) or (1 | 3, H, W). 8-bit values are
            kept; floats in 0..1 are multiplied by 255; wider values are scaled by the DICOM window or else by their
            range, unless they are all whole numbers in 0..255. What is masked, transparent or padding is no part of
            the range, and black.
        min_decode_size (`int`, *optional*): Pixels. A JPEG file is decoded at 1/2, 1/4 or 1/8 of its size, the smallest
            at which both sides keep at least so many. Twice the side of what it is resized to changes grey levels by
            0.2 of 255 on average.
        strict (`bool`): Whether a picture that may be no frontal chest film is refused, not only noted.

    Returns:
        `(image, notes)`: a `PIL.Image.Image`, 8-bit grey (mode L) or RGB, in the picture's own size, and a list
        of sentences that say what was changed on the way or looks unusual.

    Raises:
        FileNotFoundError: the file is missing.
        ImportError: a DICOM file without pydicom installed, or in a compression that no installed decoder reads.
        ValueError: anything else that is not one chest X-ray: unreadable or truncated, more than one frame, NaN,
            blank, under 32 pixels on a side, over 64 million pixels, longer than 4:1, or a DICOM file whose header
            says that it is no radiograph or no chest; with `strict`, any doubt that it is a frontal chest film.
    """
    film = read_cxr(cxr, min_decode_size, strict)
    return film.image, film.notes


def read_cxr(cxr: Any, min_decode_size: int | None = None, strict: bool = False) -> Film:
    """As [`load_cxr`], with the patient and what the file declares."""
    notes: list[str] = []
    doubts: list[str] = []
    declared: dict[str, Any] = {}
    patient = Patient(age=None, sex=None)
    name = _name(cxr)
    if isinstance(cxr, Image.Image):
        image, declared = read_picture(cxr, name, notes)
    elif isinstance(cxr, np.ndarray):
        image = _read_array(cxr, name, notes)
    elif is_torch_tensor(cxr):
        cxr = cxr.detach().cpu()
        # NumPy has no bfloat16.
        image = _read_array((cxr.float() if cxr.is_floating_point() else cxr).numpy(), name, notes)
    else:
        with _open(cxr, name) as file:
            is_dicom = file.read(132)[128:] == b"DICM"
            file.seek(0)
            if is_dicom:
                image, doubts, patient, declared = read_dicom_file(file, name, notes)
            else:
                image, declared = read_picture_file(file, name, notes, min_decode_size)
    _check_contents(image, name, notes)
    doubts += describe_doubts(image)
    if doubts and strict:
        raise ValueError(f"cxr {name}: refused as `strict` asks. {' '.join(doubts)}")
    # Comments, EXIF, color profiles and texts may name a patient, and Pillow would write them again.
    if image.info or isinstance(image, ImageFile.ImageFile):
        image = image.copy()
        image.info = {}
    return Film(image, notes + doubts, patient, declared)


def _name(cxr: Any) -> str:
    """What messages call the input."""
    if isinstance(cxr, (str, os.PathLike)):
        return f"'{shown_name(cxr)}'"
    kinds = ((Image.Image, "PIL image"), (np.ndarray, "array"), ((bytes, bytearray, memoryview), "bytes"))
    found = [name for kind, name in kinds if isinstance(cxr, kind)]
    if not found and not is_torch_tensor(cxr):
        raise ValueError(f"cxr is a {type(cxr).__name__}; accepted is {ACCEPTED}.")
    return f"({found[0] if found else 'tensor'})"


def _open(cxr: Any, name: str) -> IO[bytes]:
    if not isinstance(cxr, (str, os.PathLike)):
        return io.BytesIO(cxr)
    path = Path(cxr)
    if not path.exists():
        raise FileNotFoundError(f"cxr {name}: no such file.")
    if not path.is_file():
        raise ValueError(f"cxr {name}: not a file; one image file is expected.")
    return open(path, "rb")


def _read_array(array: np.ndarray, name: str, notes: list[str]) -> Image.Image:
    if array.dtype.kind not in "uif":
        raise ValueError(f"cxr {name}: dtype {array.dtype}; accepted are integers and floats.")
    if array.ndim == 3 and array.shape[-1] not in (1, 3, 4) and array.shape[0] in (1, 3):
        array = np.moveaxis(array, 0, -1)
    if array.ndim != 2 and (array.ndim != 3 or array.shape[-1] not in (1, 3, 4)):
        raise ValueError(f"cxr {name}: shape {array.shape}; accepted is {ACCEPTED}.")
    height, width = array.shape[:2]
    check_size(width, height, name)
    ignored: np.ndarray | None = None
    if isinstance(array, np.ma.MaskedArray):
        mask, array = np.ma.getmaskarray(array), array.data
        if mask.any():
            ignored = np.asarray(mask.reshape(height, width, -1).any(axis=2))
            notes.append("cxr: masked pixels drawn black")
    pixels = to_uint8(array, name, notes, ignored)
    return to_grey_or_rgb(Image.fromarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels), name, notes)


def _check_contents(image: Image.Image, name: str, notes: list[str]) -> None:
    """Refuse a blank picture; note what a chest film rarely is: elongated or almost without contrast."""
    histograms = np.reshape(image.histogram(), (-1, 256))
    if (np.count_nonzero(histograms, axis=1) == 1).all():
        reason = f" ({'; '.join(note.removeprefix('cxr: ') for note in notes)})" if notes else ""
        raise ValueError(f"cxr {name}: blank, all pixels have one value{reason}.")
    if max(image.size) > 2 * min(image.size):
        notes.append(f"cxr: unusually elongated ({image.width} x {image.height} pixels)")
    # Percentiles, since a white letter on the film widens the full range.
    counts = np.cumsum(histograms[0] if image.mode == "L" else image.convert("L").histogram())
    low, high = np.searchsorted(counts, counts[-1] * np.array([0.01, 0.99]))
    if high - low < 100:
        notes.append(f"cxr: low contrast, 98% of the pixels lie within {low}..{high} of 0..255")


__all__ = ["Film", "load_cxr", "read_cxr"]
