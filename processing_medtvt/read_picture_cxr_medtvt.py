# SPDX-License-Identifier: Apache-2.0
"""Pictures that Pillow decodes (PNG, JPEG, JPEG 2000, TIFF, BMP, WebP) as 8-bit grey or RGB, at their own polarity and depth."""

import io
import struct
import sys
from collections.abc import Callable
from typing import IO, Any, NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps

from .grey_levels_medtvt import MAX_PIXELS, PictureRows, check_size, to_uint8


# Nothing else is handed to a decoder: some of Pillow's other formats run external programs.
FILE_FORMATS = ("PNG", "JPEG", "JPEG2000", "TIFF", "BMP", "WEBP")
MAX_TIFF_PAGES = 16
# TIFF tags
SUBFILE_TYPE, OLD_SUBFILE_TYPE, BITS, PHOTOMETRIC, PLANAR, SAMPLE_FORMAT = 254, 255, 258, 262, 284, 339


class Decoded(NamedTuple):
    """A picture; of 16-bit channels, the lower bytes and what is opaque (Pillow has no mode for these)."""

    image: Image.Image
    lower: Image.Image | None = None
    alpha: Image.Image | None = None


def read_picture_file(
    file: IO[bytes], name: str, notes: list[str], min_decode_size: int | None = None
) -> tuple[Image.Image, dict[str, Any]]:
    """
    An open file to an 8-bit grey (L) or RGB picture, and what the file declares: `format`, `bits`, `polarity`.

    Raises:
        ValueError: if it is no picture, damaged, too large or small, or holds several.
    """
    image, white_is_zero = _open(file, name)
    return read_picture(image, name, notes, min_decode_size, file, white_is_zero)


def _open(file: IO[bytes], name: str) -> tuple[Image.Image, bool]:
    """The picture, not yet decoded, and whether zero means white though Pillow was told otherwise."""
    try:
        try:
            return Image.open(file, formats=FILE_FORMATS), False
        except Image.UnidentifiedImageError:
            # Pillow knows some wide grey TIFFs only where zero is black.
            content = _as_black_is_zero(file)
            if content is None:
                raise
            return Image.open(io.BytesIO(content), formats=("TIFF",)), True
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"cxr {name}: larger than {MAX_PIXELS} pixels. {error}") from error
    # Pillow's plugins raise many types on broken headers; the cause is chained.
    except Exception as error:
        raise ValueError(
            f"cxr {name}: not an image that can be read: of another kind, damaged, or stored in a rare way (such as "
            f"JPEG of 12 bits). Accepted are {', '.join(FILE_FORMATS)} and DICOM (with 'DICM' at byte 128)."
        ) from error


def _as_black_is_zero(file: IO[bytes]) -> bytes | None:
    """The content of a classic TIFF whose first directory says WhiteIsZero, with that word turned; None for any other."""
    file.seek(0)
    head = file.read(8)
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(head[:4])
    if order is None or len(head) < 8:
        return None
    (start,) = struct.unpack(order + "I", head[4:])
    file.seek(start)
    (count,) = struct.unpack(order + "H", file.read(2).ljust(2, b"\0"))
    directory = file.read(12 * count)
    for at in range(0, len(directory) - 11, 12):
        tag, _, _, value = struct.unpack(order + "HHIH", directory[at : at + 10])
        if tag == PHOTOMETRIC and value == 0:
            file.seek(0)
            content = bytearray(file.read())
            struct.pack_into(order + "H", content, start + 2 + at + 8, 1)
            return bytes(content)
    return None


def read_picture(
    image: Image.Image,
    name: str,
    notes: list[str],
    min_decode_size: int | None = None,
    file: IO[bytes] | None = None,
    white_is_zero: bool = False,
) -> tuple[Image.Image, dict[str, Any]]:
    """As [`read_picture_file`], of a Pillow image, decoded or not; `file` is what it was opened from."""
    try:
        if file is None and isinstance(image, ImageFile.ImageFile) and image.fp and _has_deep_channels(image):
            file = _copy_content(image.fp)  # the caller's image is left as it is
            image = Image.open(file, formats=FILE_FORMATS)
        pictures = _count_pictures(image, notes)
    # Decoders raise OSError, SyntaxError, struct.error and more on broken data; the cause is chained.
    except Exception as error:
        raise ValueError(f"cxr {name}: broken or truncated image ({error}).") from error
    if pictures > 1:
        raise ValueError(f"cxr {name}: holds at least {pictures} pictures; one is expected.")
    check_size(*image.size, name)
    try:
        declared = _declared(image, white_is_zero)
        decoded = _decode(image, file, min_decode_size, notes)
    # As above
    except Exception as error:
        raise ValueError(f"cxr {name}: broken or truncated image ({error}).") from error
    if "polarity" in declared:
        notes.append("cxr: inverted, since its TIFF header says WhiteIsZero (white is low)")
    return _to_8_bit(decoded, declared, name, notes), declared


def _copy_content(file: IO[bytes]) -> io.BytesIO:
    """The whole file, which is left where it stood: Pillow goes on reading from there."""
    at = file.tell()
    file.seek(0)
    content = io.BytesIO(file.read())
    file.seek(at)
    return content


def _tag(image: Image.Image, tag: int, default: Any = None) -> Any:
    """A tag of a TIFF; the default for any other picture."""
    value = image.tag_v2.get(tag, default) if image.format == "TIFF" and hasattr(image, "tag_v2") else default
    return value[0] if isinstance(value, tuple) and value else value


def _declared(image: Image.Image, white_is_zero: bool) -> dict[str, Any]:
    depths = {"1": 1, "I": 32, "F": 32}
    bits = 16 if image.mode.startswith("I;16") or _has_deep_channels(image) else depths.get(image.mode, 8)
    declared: dict[str, Any] = {"format": image.format, "bits": _tag(image, BITS, bits)}
    if image.format == "TIFF" and hasattr(image, "tag_v2"):
        declared["byte_order"] = {b"II": "little", b"MM": "big"}.get(image.tag_v2.prefix)
        if _tag(image, SAMPLE_FORMAT) == 2:
            declared["signed"] = True
    if white_is_zero or _tag(image, PHOTOMETRIC) == 0:
        declared["polarity"] = "WhiteIsZero"
    return declared


def _count_pictures(image: Image.Image, notes: list[str]) -> int:
    """
    Pictures in the file, counted up to 2 in a TIFF, whose directories would all have to be walked. Of a TIFF with smaller
    copies or masks beside the picture, and of a phone's JPEG with more than one view, the picture is chosen.
    """
    if image.format == "MPO":
        notes.append("cxr: the first picture of the file, a photograph with further views or previews beside it")
        return 1
    if image.format != "TIFF" or not hasattr(image, "tag_v2"):
        return getattr(image, "n_frames", 1)
    here, page = image.tell(), 0
    full: list[int] = []
    while len(full) < 2 and page < MAX_TIFF_PAGES:
        try:
            image.seek(page)
        except EOFError:
            break
        except SyntaxError:  # a page of a kind that Pillow does not decode; its tags are there
            pass
        # reduced copies (bit 0) and transparency masks (bit 2) are no pictures of their own
        if not int(_tag(image, SUBFILE_TYPE, 0)) & 5 and _tag(image, OLD_SUBFILE_TYPE) != 2:
            full.append(page)
        page += 1
    if len(full) == 1 and page > 1 and page < MAX_TIFF_PAGES:
        notes.append("cxr: the full picture of a TIFF that also holds smaller copies or masks")
        here = full[0]
    if page > 1:
        image.seek(here)
    return 2 if page == MAX_TIFF_PAGES else max(1, len(full))


def _decode(image: Any, file: IO[bytes] | None, min_decode_size: int | None, notes: list[str]) -> Decoded:
    size, lower, mode = image.size, None, _raw_mode(image)
    if file is not None and _has_deep_channels(image):
        lower = _open_lower_bytes(image, file)
    elif mode in ("I;16BS", "I;32BS", "F;32BF") and image.tile[0][0] == "libtiff":
        # libtiff gives the machine's byte order, for which Pillow takes the file's in these modes
        _change_raw_mode(image, lambda mode: mode.replace("B", "N"))
    elif image.mode in ("RGB", "CMYK") and _tag(image, BITS) == 16:
        notes.append("cxr: read at the upper 8 bits of its 16 bits a channel")
    # Pillow spreads 2 and 4 bits over 0..255, but not the value that stands for "transparent".
    elif (factor := {"L;2": 85, "L;4": 17}.get(mode)) and "transparency" in image.info:
        image.info["transparency"] *= factor
    if min_decode_size is not None:
        image.draft("", (min_decode_size, min_decode_size))
    if image.size != size:
        notes.append(f"cxr: {size[0]} x {size[1]} pixels decoded as {image.width} x {image.height}")
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    image = _load_upright(image, orientation)
    if orientation in range(2, 9):
        notes.append(f"cxr: turned upright as its EXIF orientation ({orientation}) says")
    if lower is None:
        return Decoded(image)
    if mode.startswith("LA"):
        return Decoded(*image.split()[:3])
    alpha = image.getchannel(3) if image.mode == "RGBA" else None
    if alpha and mode.startswith("RGBa"):
        alpha = alpha.point([0] + [255] * 255)
    return Decoded(image, _load_upright(lower, orientation), alpha)


def _raw_mode(image: Any) -> str:
    """How Pillow will unpack the picture; empty once it is decoded."""
    tiles = getattr(image, "tile", None)
    arguments = tiles[0][3] if tiles else ""
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments or "")


def _has_deep_channels(image: Any) -> bool:
    """Whether this is color, or grey with transparency, of 16 bits a channel, not yet decoded."""
    mode = _raw_mode(image)
    if _tag(image, PLANAR) == 2 and _tag(image, BITS) == 16:
        return mode == "R"  # Pillow takes the planes for 8 bits; compressed ones it reads at 8 bits
    return mode[:-1] in ("RGB;16", "RGBX;16", "RGBA;16", "RGBa;16", "LA;16")


def _open_lower_bytes(image: Any, file: IO[bytes]) -> Image.Image:
    """
    A second image on the same file, told to unpack the other byte of each channel. Pillow has no mode of 16 bits a
    channel, and keeps the upper byte.
    """
    lower: Any = Image.open(_copy_content(file), formats=FILE_FORMATS)
    if image.tell():
        lower.seek(image.tell())
    swapped = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}

    def unpack(mode: str, is_lower: bool) -> str:
        if mode.startswith("LA"):
            return "RGBA"  # the four bytes of grey and alpha
        if ";" not in mode:
            mode += ";16B" if image.tag_v2.prefix == b"MM" else ";16L"
        mode = mode.replace("a", "A")  # colors multiplied by alpha stay so: it is how they look on black
        return mode[:-1] + swapped[mode[-1]] if is_lower else mode

    _change_raw_mode(image, lambda mode: unpack(mode, False))
    _change_raw_mode(lower, lambda mode: unpack(mode, True))
    return lower


def _change_raw_mode(image: Any, change: Callable[[str], str]) -> None:
    for i, tile in enumerate(image.tile):
        arguments = tile[3]
        changed = change(arguments) if isinstance(arguments, str) else (change(arguments[0]), *arguments[1:])
        image.tile[i] = tile._replace(args=changed)


def _load_upright(image: Any, orientation: int) -> Image.Image:
    image.load()
    return ImageOps.exif_transpose(image) if orientation in range(2, 9) else image


def _to_8_bit(decoded: Decoded, declared: dict[str, Any], name: str, notes: list[str]) -> Image.Image:
    image, lower, alpha = decoded
    transparent = image.info.get("transparency")
    if lower is not None:
        values: Any = PictureRows(image, lower, channels=3 if image.mode.startswith("RGB") else 1)
    elif image.mode.startswith("I") or image.mode == "F":
        values = PictureRows(image)
    elif declared.get("signed"):
        values = np.asarray(image).view(np.int8)
    else:
        return to_grey_or_rgb(image, name, notes)
    ignored = None
    if alpha is not None and np.asarray(alpha).min() < 255:
        ignored = np.asarray(alpha) == 0
    elif transparent is not None:
        ignored = (values[0 : image.height] == transparent).reshape(image.height, image.width, -1).all(axis=2)
    pixels = to_uint8(values, name, notes, ignored)
    if "polarity" in declared:
        pixels = 255 - pixels
    picture = Image.fromarray(pixels)
    if ignored is not None and (alpha is not None or ignored.any()):
        cover = alpha or Image.fromarray(np.where(ignored, 0, 255).astype(np.uint8))
        picture = Image.composite(picture, Image.new(picture.mode, picture.size), cover)
        notes.append("cxr: transparent parts drawn on black")
    return picture


def to_grey_or_rgb(image: Any, name: str, notes: list[str]) -> Image.Image:
    """A decoded 8-bit Pillow image as mode L or RGB, on black where it is transparent."""
    try:
        if image.mode == "La":  # Pillow converts it to nothing else
            image = image.convert("LA")
        if image.has_transparency_data:
            image = image.convert("RGBA")
            if np.asarray(image.getchannel(3)).min() < 255:
                image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image)
                notes.append("cxr: transparent parts drawn on black")
        return image if image.mode == "L" else image.convert("RGB")
    # such as a palette that is missing, at which Pillow raises AssertionError
    except Exception as error:
        raise ValueError(f"cxr {name}: its colors (Pillow mode {image.mode}) cannot be read.") from error


__all__ = ["FILE_FORMATS", "read_picture", "read_picture_file", "to_grey_or_rgb"]
