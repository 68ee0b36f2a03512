# SPDX-License-Identifier: Apache-2.0
"""Pictures of every depth, polarity, byte order and layout against the film that they were written from."""

import io
import struct
import tracemalloc

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from processing_medtvt import load_cxr
from processing_medtvt.read_cxr_medtvt import read_cxr

from .film_files import GREY, chain, png, tiff
from tests.toy import FIXTURES


# 12-bit values that scaling by their range turns into GREY again
WIDE = 120 + GREY.astype(np.uint16) * 15
KINDS = {"u1": GREY, "u2": WIDE, "u4": WIDE.astype("u4"), "i1": (GREY.astype("i2") - 128).astype("i1")}
KINDS |= {"i2": WIDE.astype("i2") - 2000, "i4": WIDE.astype("i4") - 2000, "f4": WIDE.astype("f4") / 8}
COLORS = np.dstack([GREY, 255 - GREY, GREY // 2])
WIDE_COLORS = np.dstack([WIDE, WIDE[::-1], WIDE])
SCALED_COLORS = np.dstack([GREY, GREY[::-1], GREY])
OPAQUE = np.full_like(WIDE, 65535)


def check(content, expected, tolerance=0):
    image, notes = load_cxr(content)
    values = np.asarray(image).astype(int)
    if values.ndim > expected.ndim:
        expected = np.repeat(expected[..., None], 3, axis=2)
    np.testing.assert_allclose(values, expected, rtol=0, atol=tolerance)
    return notes


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", KINDS)
def test_grey_tiff(kind, order, photometric, compressed):
    """0 is WhiteIsZero. Predictors only where values are compressed, and only of whole numbers."""
    if kind == "u4" and order == ">":  # Pillow reads no such file
        with pytest.raises(ValueError, match="stored in a rare way"):
            load_cxr(tiff(KINDS[kind], order, photometric, compressed=compressed))
        return
    for predictor in (1, 2) if compressed and kind != "f4" else (1,):
        content = tiff(KINDS[kind], order, photometric, compressed=compressed, predictor=predictor)
        notes = check(content, GREY if photometric else 255 - GREY)
        assert any("WhiteIsZero" in note for note in notes) == (photometric == 0)


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("order", "<>")
def test_tiff_of_a_few_bits(bits, order):
    values = GREY >> (8 - bits)
    expected = np.rint(values * (255 / (2**bits - 1)))
    check(tiff(values, order, 1, bits=bits), expected)
    check(tiff(values, order, 0, bits=bits), 255 - expected)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("order", "<>")
def test_color_tiff(order, compressed):
    options = {"order": order, "photometric": 2, "compressed": compressed}
    check(tiff(COLORS, **options), COLORS)
    check(tiff(WIDE_COLORS, **options), SCALED_COLORS)
    check(tiff(np.dstack([WIDE_COLORS, OPAQUE]), extra=2, **options), SCALED_COLORS)
    check(tiff(np.dstack([WIDE_COLORS, OPAQUE]), extra=1, **options), SCALED_COLORS)
    check(tiff(np.dstack([WIDE_COLORS, WIDE]), extra=0, **options), SCALED_COLORS)
    planes = tiff(np.moveaxis(WIDE_COLORS, -1, 0), planar=2, **options)
    if compressed:  # Pillow reads them at 8 bits, which is said
        assert "upper 8 bits" in load_cxr(planes)[1][0]
    else:
        check(planes, SCALED_COLORS)
    check(tiff(np.moveaxis(COLORS, -1, 0), planar=2, **options), COLORS)
    ramp = np.arange(255, -1, -1) * 257
    check(tiff(GREY, order, 3, compressed=compressed, colormap=np.tile(ramp, 3)), 255 - GREY)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_grey_png_and_what_is_transparent_in_it(bits):
    values = WIDE if bits == 16 else GREY >> (8 - bits)
    expected = GREY if bits == 16 else np.rint(values * (255 / (2**bits - 1))).astype(int)
    check(png(values, 0, bits), expected)
    if bits == 1:
        return
    key = int(values[60, 50])
    assert 0 < key < values.max()
    notes = check(png(values, 0, bits, tRNS=key.to_bytes(2, "big")), np.where(values == key, 0, expected))
    assert notes[-1] == "cxr: transparent parts drawn on black"
    if bits <= 8:
        palette = np.repeat(np.linspace(0, 255, 2**bits).round().astype(np.uint8), 3).tobytes()
        check(png(values, 3, bits, PLTE=palette), expected)


def test_deep_colors_and_transparency_in_png():
    cover = np.where(np.arange(120)[:, None] < 20, 0, 65535).astype(np.uint16) + np.zeros_like(WIDE)
    # what is transparent is no part of the range
    hidden = np.where(cover == 0, 60000, WIDE).astype(np.uint16)
    least = WIDE[20:].min()
    expected = np.where(cover == 0, 0, np.rint((WIDE.astype(float) - least) * (255 / (WIDE.max() - least))))
    check(png(np.dstack([hidden, cover]), 4), expected)
    check(png(np.dstack([hidden] * 3 + [cover]), 6), expected)
    check(png(WIDE_COLORS, 2), SCALED_COLORS)
    key = b"".join(int(value).to_bytes(2, "big") for value in WIDE_COLORS[60, 50])
    shown = ~(WIDE_COLORS == WIDE_COLORS[60, 50]).all(axis=2)
    check(png(WIDE_COLORS, 2, tRNS=key), SCALED_COLORS * shown[..., None])
    given = Image.open(io.BytesIO(png(WIDE_COLORS, 2)))
    check(given, SCALED_COLORS)
    assert given.load() is not None and given.getpixel((50, 60)) == tuple(WIDE_COLORS[60, 50] >> 8)  # left as it was


UPRIGHT = {2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: np.transpose}
UPRIGHT |= {6: np.rot90, 7: lambda a: np.rot90(a, 2).T, 8: lambda a: np.rot90(a, -1)}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation_in_every_format(orientation):
    stored = np.ascontiguousarray(UPRIGHT[orientation](GREY))
    exif = Image.Exif()
    exif[274] = orientation
    contents = [tiff(stored, orientation=orientation), tiff(120 + stored.astype("u2") * 15, orientation=orientation)]
    contents.append(png(120 + np.dstack([stored] * 3).astype("u2") * 15, 2, eXIf=exif.tobytes()[6:]))
    for options in ({"format": "PNG"}, {"format": "WEBP", "lossless": True}, {"format": "JPEG", "quality": 100}):
        Image.fromarray(stored).save(buffer := io.BytesIO(), exif=exif, **options)
        contents.append(buffer.getvalue())
    for content in contents:
        notes = check(content, GREY, tolerance=2)
        assert any(f"EXIF orientation ({orientation})" in note for note in notes)


@pytest.mark.parametrize(
    "mode", ["LA", "La", "PA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "F", "I;16", "I;16L", "I;16B"]
)
def test_modes_of_pillow(mode):
    image = Image.fromarray(GREY)
    way = {"La": ["LA"], "PA": ["P"], "RGBa": ["RGBA"], "RGBX": ["RGB"], "HSV": ["RGB"], "YCbCr": ["RGB"]}.get(
        mode, []
    )
    if mode.startswith("I;16"):
        image = Image.frombytes(mode, image.size, WIDE.astype(">u2" if mode == "I;16B" else "<u2").tobytes())
    else:
        for step in [*way, mode]:
            image = image.convert(step)
    check(image, GREY, tolerance=1)


def test_one_picture_beside_copies_and_masks():
    """A phone's JPEG, and a TIFF with a smaller copy or a mask, show one picture; others with two are refused."""
    small = GREY[::2, ::2].copy()
    Image.fromarray(GREY).save(
        buffer := io.BytesIO(), "MPO", quality=100, save_all=True, append_images=[Image.new("L", (9, 9))]
    )
    check(buffer.getvalue(), GREY, tolerance=3)
    for pages in ((tiff(GREY), tiff(small, subfile=1)), (tiff(small, subfile=1), tiff(WIDE))):
        assert "smaller copies" in check(chain(*pages), GREY)[0]
    check(chain(tiff(GREY[::8, ::8].copy(), subfile=1), tiff(WIDE)), GREY)  # too small by itself
    large = tiff(np.zeros((40, 9000), np.uint8).reshape(9000, 40), subfile=0)
    with pytest.raises(ValueError, match="40 x 9000 pixels"):
        load_cxr(chain(tiff(small, subfile=1), large))
    check(chain(tiff(GREY), tiff(GREY >> 7, bits=1, photometric=4, subfile=4)), GREY)
    check(chain(tiff(small, subfile=1), tiff(WIDE_COLORS, photometric=2)), SCALED_COLORS)
    for kind in ("PNG", "WEBP"):
        Image.fromarray(GREY).save(
            buffer := io.BytesIO(), kind, save_all=True, append_images=[Image.fromarray(255 - GREY)]
        )
        with pytest.raises(ValueError, match="at least 2 pictures"):
            load_cxr(buffer.getvalue())


def test_directories_of_a_tiff_are_not_all_walked(monkeypatch):
    page = tiff(GREY)
    (start,) = struct.unpack("<I", page[4:8])
    (count,) = struct.unpack("<H", page[start : start + 2])
    directory = page[start : start + 2 + 12 * count]
    step = len(directory) + 4
    content = page[:start] + b"".join(directory + struct.pack("<I", start + (i + 1) * step) for i in range(5000))
    visited = []
    seek = TiffImagePlugin.TiffImageFile.seek
    monkeypatch.setattr(TiffImagePlugin.TiffImageFile, "seek", lambda self, n: (visited.append(n), seek(self, n)))
    with pytest.raises(ValueError, match="at least 2 pictures"):
        load_cxr(content)
    assert max(visited) <= 1


@pytest.mark.parametrize("channels", [1, 3])
def test_memory_is_bounded(channels):
    """Of a large 16-bit picture that is small as a file; Pillow's own buffers are not counted."""
    side = 2000
    content = png(
        np.arange(side * side * channels, dtype=np.uint16).reshape(side, side, channels) // 997, {1: 0, 3: 2}[channels]
    )
    tracemalloc.start()
    try:
        image, _ = load_cxr(content)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert image.size == (side, side)
    assert peak < 4 * side * side * channels + 50e6


@pytest.mark.parametrize(
    "name, message",
    [("palette_without_PLTE.png", "colors .*cannot be read"), ("tiff_La_mode.tif", "stored in a rare way")],
)
def test_files_that_pillow_cannot_show(name, message):
    with pytest.raises(ValueError, match=message):
        load_cxr(FIXTURES / "films" / name)


@pytest.mark.parametrize("name", ["tiff16_white_is_zero.tif", "rgb16_with_12bit_values.png", "phone_mpo.jpg"])
def test_films_with_a_known_truth(name):
    truth = np.load(FIXTURES / "films" / "truth.npy")
    image, _ = load_cxr(FIXTURES / "films" / name)
    values = np.asarray(image.convert("L"), dtype=float)
    assert np.corrcoef(values.ravel(), truth.ravel())[0, 1] > 0.995


def test_what_a_file_declares():
    assert read_cxr(tiff(WIDE, ">", 0)).declared == {
        "format": "TIFF", "bits": 16, "byte_order": "big", "polarity": "WhiteIsZero"
    }  # fmt: skip
    assert read_cxr(png(WIDE, 0)).declared == {"format": "PNG", "bits": 16}
    film = read_cxr(GREY)
    assert film.declared == {} and film.patient == {"age": None, "sex": None}
