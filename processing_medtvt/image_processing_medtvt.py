# SPDX-License-Identifier: Apache-2.0
"""Chest X-rays: from a file or an array to an 8-bit picture (`load_cxr`), and from there to `pixel_values`."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps
from transformers.image_processing_backends import PilBackend
from transformers.image_utils import PILImageResampling
from transformers.utils import is_torch_tensor

from .shown_name_medtvt import shown_name


# Below Pillow's own limit (89 megapixels), well above the largest detector (about 18) and film scanner (about 30).
MAX_PIXELS = 64_000_000
MIN_SIDE = 32
MAX_ASPECT = 4
# Nothing else is handed to a decoder: some of Pillow's other formats run external programs.
FILE_FORMATS = ("PNG", "JPEG", "JPEG2000", "TIFF", "BMP", "WEBP")
DICOM_MODALITIES = ("CR", "DX", "DR", "RG")
DICOM_CHEST_WORDS = ("CHEST", "THORAX", "TORAX", "LUNG")
DICOM_FRONTAL_VIEWS = ("PA", "AP")
ACCEPTED = (
    "a path (PNG, JPEG, JPEG 2000, TIFF, BMP, WebP or DICOM), a PIL image, or a NumPy array or torch tensor of shape "
    "(H, W), (H, W, 1), (H, W, 3), (H, W, 4), (1, H, W) or (3, H, W)"
)


class MedTVTImageProcessor(PilBackend):
    """
    Chest X-rays of any size to `pixel_values` of shape (B, 3, height, width), float32.

    Works with Pillow and NumPy alone, so that the values never depend on whether torchvision is installed. The
    defaults are those of `google/vit-base-patch16-224`. The MedTVT-R1 authors' evaluation transform, reproduced
    exactly, is `size={"shortest_edge": 400}, do_center_crop=True` with ImageNet's mean and standard deviation.

    `min_decode_size`, which [`MedTVTProcessor`] hands to [`load_cxr`], speeds up large JPEGs; grey levels then differ a
    little, so it is off (None) unless set.
    """

    resample = PILImageResampling.BILINEAR
    size = {"height": 224, "width": 224}
    crop_size = {"height": 224, "width": 224}
    image_mean = [0.5, 0.5, 0.5]
    image_std = [0.5, 0.5, 0.5]
    do_convert_rgb = True
    do_resize = True
    do_center_crop = False
    do_rescale = True
    do_normalize = True
    min_decode_size = None

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self._check_normalization(self.image_mean, self.image_std)

    def _validate_preprocess_kwargs(self, *args: Any, **kwargs: Any) -> None:
        # what a call says instead; transformers passes keywords only
        self._check_normalization(kwargs.get("image_mean"), kwargs.get("image_std"))
        super()._validate_preprocess_kwargs(*args, **kwargs)

    @staticmethod
    def _check_normalization(image_mean: Any, image_std: Any) -> None:
        for name, given in (("image_mean", image_mean), ("image_std", image_std)):
            values = np.atleast_1d(np.asarray(0.5 if given is None else given, dtype=float))
            if not np.isfinite(values).all() or (name == "image_std" and (values == 0).any()):
                raise ValueError(
                    f"`{name}` must be finite numbers{' other than 0' * (name == 'image_std')}, got {values}."
                )

    def convert_to_rgb(self, image: Any, input_data_format: Any = None) -> Any:
        """Three channels; those of a grey PIL image are views of one."""
        if isinstance(image, Image.Image) and image.mode == "L":
            return np.broadcast_to(np.asarray(image)[..., None], (image.height, image.width, 3))
        return super().convert_to_rgb(image, input_data_format=input_data_format)

    def resize(self, image: np.ndarray, size: Any, **kwargs: Any) -> np.ndarray:
        """As in transformers; where the channels of a (C, H, W) array are views of one, it is resized once."""
        if len(image) > 1 and image.strides[0] == 0:
            return super().resize(image[:1], size, **kwargs).repeat(len(image), axis=0)
        return super().resize(image, size, **kwargs)

    def center_crop(self, image: np.ndarray, size: Any, **kwargs: Any) -> np.ndarray:
        """
        The central `size.height` x `size.width` of a (C, H, W) array; a smaller image is padded with zeros first.

        As in torchvision, half a pixel of offset is rounded to even; transformers rounds it down.
        """
        height, width = image.shape[-2:]
        pad_y, pad_x = max(size.height - height, 0), max(size.width - width, 0)
        image = np.pad(image, ((0, 0), (pad_y // 2, pad_y - pad_y // 2), (pad_x // 2, pad_x - pad_x // 2)))
        top = round((image.shape[-2] - size.height) / 2)
        left = round((image.shape[-1] - size.width) / 2)
        return image[..., top : top + size.height, left : left + size.width]


def load_cxr(cxr: Any, min_decode_size: int | None = None) -> tuple[Image.Image, list[str]]:
    """
    Read one chest X-ray. Nothing in the pixels is judged: any picture opens unless it is blank or misshapen.

    Args:
        cxr: path of a PNG, JPEG, JPEG 2000, TIFF, BMP, WebP or DICOM file (told by content, not by name), PIL image,
            or NumPy array / torch tensor of shape (H, W), (H, W, 1 | 3 | 4) or (1 | 3, H, W). 8-bit values are kept;
            floats in 0..1 are multiplied by 255; wider values are scaled by the DICOM window or else by their range,
            unless they are all whole numbers in 0..255.
        min_decode_size (`int`, *optional*): Pixels. A JPEG file is decoded at 1/2, 1/4 or 1/8 of its size, the smallest
            at which both sides keep at least so many. Twice the side of what it is resized to changes grey levels by
            0.2 of 255 on average.

    Returns:
        `(image, alterations)`: a `PIL.Image.Image`, 8-bit grey (mode L) or RGB, in the picture's own size, and a list
        of sentences that say what was changed on the way or looks unusual.

    Raises:
        FileNotFoundError: the file is missing.
        ImportError: a DICOM file without pydicom installed, or in a compression that no installed decoder reads.
        ValueError: anything else that is not one chest X-ray: unreadable or truncated, more than one frame, NaN,
            blank, under 32 pixels on a side, over 64 million pixels, longer than 4:1, or a DICOM file whose header
            says that it is no radiograph or no chest.
    """
    alterations = []
    if isinstance(cxr, (str, os.PathLike)):
        name = f"'{shown_name(cxr)}'"
        image = _read_path(Path(cxr), name, alterations, min_decode_size)
    elif isinstance(cxr, Image.Image):
        name = "(PIL image)"
        image = _read_pil(cxr, name, alterations)
    elif isinstance(cxr, np.ndarray):
        name = "(array)"
        image = _read_array(cxr, name, alterations)
    elif is_torch_tensor(cxr):
        name = "(tensor)"
        cxr = cxr.detach().cpu()
        # NumPy has no bfloat16.
        image = _read_array((cxr.float() if cxr.is_floating_point() else cxr).numpy(), name, alterations)
    else:
        raise ValueError(f"cxr is a {type(cxr).__name__}; accepted is {ACCEPTED}.")
    _check_contents(image, name, alterations)
    if image.info:  # comments, EXIF, color profiles and texts may name a patient, and Pillow would write them again
        image = image.copy()
        image.info = {}
    return image, alterations


def _read_path(path, name, alterations, min_decode_size):
    if not path.exists():
        raise FileNotFoundError(f"cxr {name}: no such file.")
    if not path.is_file():
        raise ValueError(f"cxr {name}: not a file; one image file is expected.")
    with open(path, "rb") as file:
        is_dicom = file.read(132)[128:] == b"DICM"
        file.seek(0)
        if is_dicom:
            return _read_dicom(file, name, alterations)
        try:
            image = Image.open(file, formats=FILE_FORMATS)
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise ValueError(f"cxr {name}: larger than {MAX_PIXELS} pixels. {error}") from error
        # Pillow's plugins raise many types on broken headers; the cause is chained.
        except Exception as error:
            raise ValueError(
                f"cxr {name}: not an image that can be read; accepted are {', '.join(FILE_FORMATS)} and DICOM "
                "(with 'DICM' at byte 128)."
            ) from error
        return _read_pil(image, name, alterations, min_decode_size)


def _read_pil(image, name, alterations, min_decode_size=None):
    """Any PIL image, loaded or not, to 8-bit grey or RGB."""
    _check_size(*image.size, name)
    size = image.size
    try:
        frames = getattr(image, "n_frames", 1)
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        if min_decode_size is not None:
            image.draft(None, (min_decode_size, min_decode_size))
        if image.size != size:
            alterations.append(f"cxr: {size[0]} x {size[1]} pixels decoded as {image.width} x {image.height}")
        if orientation in range(2, 9):
            image = ImageOps.exif_transpose(image)
        else:
            image.load()
    # Decoders raise OSError, SyntaxError, struct.error and more on broken data; the cause is chained.
    except Exception as error:
        raise ValueError(f"cxr {name}: broken or truncated image ({error}).") from error
    if frames > 1:
        raise ValueError(f"cxr {name}: holds {frames} pictures; one is expected.")
    if orientation in range(2, 9):
        alterations.append(f"cxr: turned upright as its EXIF orientation ({orientation}) says")
    if image.mode.startswith("I") or image.mode == "F":
        return _read_array(np.asarray(image), name, alterations)
    return _to_grey_or_rgb(image, alterations)


def _to_grey_or_rgb(image, alterations):
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getextrema()[3][0] < 255:
            image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image)
            alterations.append("cxr: transparent parts drawn on black")
    return image if image.mode == "L" else image.convert("RGB")


def _read_array(array, name, alterations):
    if array.dtype.kind not in "uif":
        raise ValueError(f"cxr {name}: dtype {array.dtype}; accepted are integers and floats.")
    if array.ndim == 3 and array.shape[-1] not in (1, 3, 4) and array.shape[0] in (1, 3):
        array = np.moveaxis(array, 0, -1)
    if array.ndim != 2 and (array.ndim != 3 or array.shape[-1] not in (1, 3, 4)):
        raise ValueError(f"cxr {name}: shape {array.shape}; accepted is {ACCEPTED}.")
    height, width = array.shape[:2]
    _check_size(width, height, name)
    pixels = _to_uint8(array, name, alterations)
    return _to_grey_or_rgb(Image.fromarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels), alterations)


def _to_uint8(values, name, alterations):
    if values.dtype == np.uint8:
        return np.ascontiguousarray(values)
    is_float = values.dtype.kind == "f"
    values = values.astype(np.float64)
    low, high = float(values.min()), float(values.max())
    if not np.isfinite(high - low):
        raise ValueError(f"cxr {name}: holds NaN or infinite values; every pixel must be a number.")
    if is_float and low >= 0 and high <= 1:
        values = values * 255
    elif low < 0 or high > 255 or not np.array_equal(values, np.rint(values)):
        alterations.append(f"cxr: grey values {low:g}..{high:g} scaled to 0..255")
        # A constant array becomes zero here and is refused as blank later.
        values = (values - low) * (255 / (high - low) if high > low else 0)
    return np.rint(values).astype(np.uint8)


class DicomWindowError(ValueError):
    """A window that cannot be applied. Unlike pydicom's, its text quotes no header."""


def _import_pydicom():
    # Inside `try`, or loading this file as remote code would demand pydicom of everyone.
    try:
        import pydicom
        import pydicom.pixels
    except ImportError as error:
        raise ImportError('cxr: DICOM files need pydicom 3 or later: pip install "medtvt-r1[dicom]"') from error
    return pydicom


def _read_dicom(file, name, alterations):
    """
    A DICOM radiograph to 8-bit grey or RGB: modality LUT, then the first VOI LUT or window if there is one, then inversion of
    MONOCHROME1. No message repeats header text other than modality, body part, view and technical fields.
    """
    pydicom = _import_pydicom()
    try:
        syntax = pydicom.filereader.read_file_meta_info(file.name).TransferSyntaxUID
        # Inflating happens while reading, before any size could be checked.
        header = None if syntax.is_deflated else pydicom.dcmread(file, stop_before_pixels=True)
    # pydicom raises many types on broken files, and their text may quote the header.
    except Exception as error:
        raise ValueError(f"cxr {name}: its DICOM header cannot be read.") from error
    if header is None:
        raise ValueError(f"cxr {name}: {syntax.name} is not accepted; store it without deflation.")
    _check_dicom_header(header, name, alterations)
    _check_dicom_decoder(syntax, name)

    file.seek(0)
    try:
        dataset = pydicom.dcmread(file)
        values = _dicom_values(dataset, alterations)
    except DicomWindowError as error:
        raise ValueError(f"cxr {name}: its DICOM pixels cannot be shown: {error}.") from error
    # As above
    except Exception as error:
        raise ValueError(f"cxr {name}: its DICOM pixels cannot be decoded ({type(error).__name__}).") from error
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        alterations.append("cxr: inverted, since its DICOM header says MONOCHROME1 (white is low)")
        values = 255 - _to_uint8(values, name, alterations)
    return _read_array(values, name, alterations)


def _check_dicom_header(header, name, alterations):
    try:
        modality, body_part, view = (
            str(header.get(keyword) or "").upper()[:16] for keyword in ("Modality", "BodyPartExamined", "ViewPosition")
        )
        photometric = str(header.get("PhotometricInterpretation") or "")
        width, height, frames = (int(header.get(keyword) or 0) for keyword in ("Columns", "Rows", "NumberOfFrames"))
    # The text of pydicom's error may quote the header.
    except Exception as error:
        raise ValueError(f"cxr {name}: its DICOM header holds values that cannot be read.") from error
    if not width or not height:
        raise ValueError(f"cxr {name}: this DICOM file has no image (modality {modality or 'not stated'}).")
    if modality and modality not in DICOM_MODALITIES:
        raise ValueError(
            f"cxr {name}: DICOM modality {modality!r}; accepted are {', '.join(DICOM_MODALITIES)} or none stated."
        )
    if body_part and not any(word in body_part for word in DICOM_CHEST_WORDS):
        raise ValueError(
            f"cxr {name}: its DICOM header states body part {body_part!r}, not a chest; if the header is wrong, pass "
            "the picture itself (PNG or array)."
        )
    if frames > 1:
        raise ValueError(f"cxr {name}: holds {frames} DICOM frames; one is expected.")
    if not photometric.startswith(("MONOCHROME", "RGB", "YBR")):
        raise ValueError(
            f"cxr {name}: DICOM photometric interpretation {photometric[:16]!r}; accepted are MONOCHROME1, "
            "MONOCHROME2, RGB and YBR."
        )
    _check_size(width, height, name)
    if not body_part:
        alterations.append("cxr: its DICOM header does not state that this is a chest")
    if view and view not in DICOM_FRONTAL_VIEWS:
        alterations.append(f"cxr: its DICOM header states view {view!r}, not a frontal one (PA, AP)")


def _check_dicom_decoder(syntax, name):
    pydicom = _import_pydicom()
    try:
        decoder = pydicom.pixels.get_decoder(syntax)
    except NotImplementedError as error:
        raise ValueError(f"cxr {name}: DICOM transfer syntax {syntax.name} is not supported.") from error
    if not decoder.is_available:
        raise ImportError(
            f"cxr {name}: no decoder is installed for DICOM transfer syntax {syntax.name}; it needs one of: "
            f"{'; '.join(decoder.missing_dependencies)} (gdcm is python-gdcm on PyPI)."
        )


def _dicom_values(dataset, alterations):
    """Pixels (H, W) or (H, W, 3) as the header wants them shown: in 0..1 if it gives a VOI LUT or a window."""
    pydicom = _import_pydicom()
    values = pydicom.pixels.pixel_array(dataset)
    if dataset.SamplesPerPixel > 1:
        return values
    values = pydicom.pixels.apply_modality_lut(values, dataset)
    if dataset.get("VOILUTSequence"):
        alterations.append("cxr: grey values mapped to 0..255 by the lookup table of its DICOM header")
        return _apply_voi_lut(values, dataset.VOILUTSequence[0])
    if dataset.get("WindowCenter") is None or dataset.get("WindowWidth") is None:
        return values
    # Several windows may be given, the first is the default one.
    center, width = (float(np.ravel(dataset[keyword].value)[0]) for keyword in ("WindowCenter", "WindowWidth"))
    alterations.append(
        f"cxr: grey values mapped to 0..255 by the window of its DICOM header (center {center:g}, width {width:g})"
    )
    return _apply_window(values, center, width, dataset.get("VOILUTFunction") or "LINEAR")


def _apply_voi_lut(values, lut):
    """PS3.3 C.11.2.1.1, with an output range of 0..1. pydicom's own wraps around in long tables of 8-bit entries."""
    _, first, bits = lut.LUTDescriptor
    table = lut.LUTData
    table = np.frombuffer(table, "<u2") if isinstance(table, bytes) else np.asarray(table)
    index = np.clip(values.astype(np.float64) - first, 0, len(table) - 1).astype(np.intp)
    return np.clip(table[index] / (2**bits - 1), 0, 1)


def _apply_window(values, center, width, function):
    """PS3.3 C.11.2.1.2 and C.11.2.1.3, with an output range of 0..1."""
    if not width > 0:
        raise DicomWindowError(f"window width {width:g}, which must be positive")
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        raise DicomWindowError("its window has another function than LINEAR, LINEAR_EXACT and SIGMOID")
    values = values.astype(np.float64)
    if function == "SIGMOID":
        # tanh form of the standard's 1 / (1 + exp(-4 x)), which cannot overflow
        return 0.5 + 0.5 * np.tanh(2 * (values - center) / width)
    if function == "LINEAR":
        # The standard's definition for integer pixels; width 1 is a threshold.
        center, width = center - 0.5, max(width - 1, 1e-6)
    return np.clip((values - center) / width + 0.5, 0, 1)


def _check_size(width, height, name):
    short, long = sorted((width, height))
    if width * height > MAX_PIXELS:
        raise ValueError(f"cxr {name}: {width} x {height} pixels; at most {MAX_PIXELS} pixels are accepted.")
    if short < MIN_SIDE:
        raise ValueError(f"cxr {name}: {width} x {height} pixels; at least {MIN_SIDE} on each side are needed.")
    if long > MAX_ASPECT * short:
        raise ValueError(f"cxr {name}: {width} x {height} pixels; sides up to {MAX_ASPECT}:1 are accepted.")


def _check_contents(image, name, alterations):
    """Refuse a blank picture; report what a chest film rarely is: elongated or almost without contrast."""
    histograms = np.reshape(image.histogram(), (-1, 256))
    if (np.count_nonzero(histograms, axis=1) == 1).all():
        raise ValueError(f"cxr {name}: blank, all pixels have one value.")
    if max(image.size) > 2 * min(image.size):
        alterations.append(f"cxr: unusually elongated ({image.width} x {image.height} pixels)")
    # Percentiles, since a white letter on the film widens the full range.
    counts = np.cumsum(histograms[0] if image.mode == "L" else image.convert("L").histogram())
    low, high = np.searchsorted(counts, counts[-1] * np.array([0.01, 0.99]))
    if high - low < 100:
        alterations.append(f"cxr: low contrast, 98% of the pixels lie within {low}..{high} of 0..255")


__all__ = ["MedTVTImageProcessor", "load_cxr"]
