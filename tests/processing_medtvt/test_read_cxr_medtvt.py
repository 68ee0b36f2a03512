# SPDX-License-Identifier: Apache-2.0
import io
import struct
import sys
import zlib
from typing import Any

import numpy as np
import pydicom
import pytest
import torch
from PIL import Image

from processing_medtvt import load_cxr

from .film_files import GREY, write_dicom
from tests.toy import FIXTURES


IMAGE = Image.fromarray(GREY)


def pixels(cxr):
    image, alterations = load_cxr(cxr)
    assert image.mode in ("L", "RGB")
    return np.asarray(image.convert("RGB")), alterations


@pytest.mark.parametrize("kind", "png jpeg_name tiff bmp str palette opaque dicom dicom_no_name".split())
def test_lossless_files_agree(tmp_path, kind):
    path = tmp_path / {"jpeg_name": "x.jpg", "dicom_no_name": "IM0001", "tiff": "x.tif"}.get(kind, "x.png")
    if kind.startswith("dicom"):
        write_dicom(path)
    else:
        image = {"palette": IMAGE.convert("P"), "opaque": IMAGE.convert("LA")}.get(kind, IMAGE)
        image.save(path, format={"tiff": "TIFF", "bmp": "BMP"}.get(kind, "PNG"))
    values, alterations = pixels(str(path) if kind == "str" else path)
    np.testing.assert_array_equal(values, np.repeat(GREY[..., None], 3, axis=-1))
    assert alterations == []


SAME: list[Any] = [GREY, GREY[..., None], GREY[None], np.stack([GREY] * 3), np.dstack([GREY] * 3)]
SAME += [np.dstack([GREY] * 3 + [np.full_like(GREY, 255)]), GREY / 255, GREY.astype("u2"), GREY.astype("f4")]
SAME += [torch.from_numpy(GREY), torch.from_numpy(GREY / 255).requires_grad_(), torch.tensor(GREY).bfloat16()]
SAME += [IMAGE, IMAGE.convert("CMYK"), IMAGE.convert("I")]


@pytest.mark.parametrize("cxr", SAME, ids=lambda cxr: f"{type(cxr).__name__}-{getattr(cxr, 'dtype', None)}")
def test_arrays_agree(cxr):
    values, alterations = pixels(cxr)
    np.testing.assert_array_equal(values, np.repeat(GREY[..., None], 3, axis=-1))
    assert alterations == []


@pytest.mark.parametrize("kind", ["png", "uint16", "int32", "float32", "tensor"])
def test_wide_values_are_scaled_by_their_range(tmp_path, kind):
    wide = (120 + GREY.astype(np.uint16) * 15).astype(kind if kind in ("int32", "float32") else np.uint16)
    if kind == "png":
        Image.fromarray(wide).save(tmp_path / "x.png")
    cxr = {"png": tmp_path / "x.png", "tensor": torch.from_numpy(wide.astype(np.int64))}.get(kind, wide)
    values, alterations = pixels(cxr)
    np.testing.assert_array_equal(values[..., 0], GREY)
    assert alterations == ["cxr: grey values 120..3945 scaled to 0..255"]


def test_what_is_reported(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    IMAGE.save(tmp_path / "x.png", exif=exif)
    values, alterations = pixels(tmp_path / "x.png")
    np.testing.assert_array_equal(values[..., 0], np.rot90(GREY, -1))
    assert "EXIF orientation (6)" in alterations[0]
    values, alterations = pixels(np.dstack([GREY] * 3 + [np.full_like(GREY, 128)]))
    np.testing.assert_allclose(values[..., 0], GREY * (128 / 255), atol=1)
    assert "transparent" in alterations[0]
    assert "low contrast" in pixels(GREY // 4)[1][0]
    assert "elongated" in pixels(GREY[:, :50])[1][0]


RESCALED = {"RescaleSlope": 0.5, "RescaleIntercept": 100, "VOILUTFunction": "LINEAR_EXACT"}
RESCALED |= {"WindowCenter": [227.5, 1], "WindowWidth": [255, 1]}


@pytest.mark.parametrize(
    "stored, header, report",
    [
        (255 - GREY, {"PhotometricInterpretation": "MONOCHROME1"}, "MONOCHROME1"),
        (GREY.astype(np.uint16) * 16, {"BitsStored": 12}, "0..4080 scaled"),
        (GREY.astype(np.int16) - 500, {"WindowCenter": -372, "WindowWidth": 256}, "center -372, width 256"),
        (GREY.astype(np.uint16) * 2, RESCALED, "center 227.5, width 255"),
        (GREY, {"BodyPartExamined": None, "Modality": None}, "does not state"),
        (GREY, {"ViewPosition": "LL", "Modality": "DX"}, "'LL'"),
    ],
)
def test_dicom_values(tmp_path, stored, header, report):
    values, alterations = pixels(write_dicom(tmp_path / "x.dcm", stored, **header))
    np.testing.assert_array_equal(values[..., 0], GREY)
    assert len(alterations) == 1 and report in alterations[0]


def test_dicom_window_clips_and_lookup_table(tmp_path):
    values, _ = pixels(write_dicom(tmp_path / "w.dcm", WindowCenter=128, WindowWidth=65))
    np.testing.assert_array_equal(values[..., 0], np.rint(np.clip((GREY - 127.5) / 64 + 0.5, 0, 1) * 255))
    values, _ = pixels(write_dicom(tmp_path / "s.dcm", WindowCenter=128, WindowWidth=64, VOILUTFunction="SIGMOID"))
    np.testing.assert_array_equal(values[..., 0], np.rint(255 / (1 + np.exp(-4 * (GREY - 128.0) / 64))))
    lut = pydicom.Dataset()
    lut.add_new("LUTDescriptor", "US", [1024, 0, 8])
    lut.add_new("LUTData", "US", [i // 4 for i in range(1024)])
    values, _ = pixels(write_dicom(tmp_path / "l.dcm", GREY.astype(np.uint16) * 4, VOILUTSequence=[lut]))
    np.testing.assert_array_equal(values[..., 0], GREY)


@pytest.mark.parametrize(
    "header, message",
    [
        ({"BodyPartExamined": "HIP"}, "body part 'HIP'"),
        ({"Modality": "CT"}, "modality 'CT'"),
        ({"Modality": "ECG", "Rows": None, "Columns": None}, "no image"),
        ({"PixelData": None}, "cannot be decoded"),
        ({"NumberOfFrames": 2}, "2 DICOM frames"),
        ({"Rows": 60000, "Columns": 60000}, "at most 64000000"),
        ({"Rows": 7000, "Columns": 7000}, "cannot be decoded"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "PALETTE COLOR"),
        ({"WindowCenter": 100, "WindowWidth": 0}, "window width 0"),
        ({"TransferSyntaxUID": "1.2.840.10008.1.2.1.99"}, "Deflated"),
        ({"TransferSyntaxUID": "1.2.840.10008.1.2.4.100"}, "MPEG2"),
    ],
)
def test_dicom_refusals(tmp_path, header, message):
    path = write_dicom(tmp_path / "x.dcm", **header)
    with pytest.raises(ValueError, match=message) as error:
        load_cxr(path)
    assert str(path) in str(error.value) and "Secret" not in str(error.value)


@pytest.mark.parametrize(
    "syntax, options",
    [
        (pydicom.uid.JPEGBaseline8Bit, {"format": "JPEG", "quality": 95}),
        (pydicom.uid.JPEG2000Lossless, {"format": "JPEG2000", "no_jp2": True}),
    ],
)
def test_dicom_with_compressed_pixels(tmp_path, syntax, options):
    IMAGE.save(buffer := io.BytesIO(), **options)
    path = write_dicom(tmp_path / "x.dcm", TransferSyntaxUID=syntax, PixelData=buffer.getvalue())
    values, alterations = pixels(path)
    # two JPEG decoders may round the same coefficients differently
    np.testing.assert_allclose(values[..., 0].astype(int), np.asarray(Image.open(buffer)).astype(int), atol=1)
    assert alterations == []


def test_dicom_without_decoder_or_pydicom(tmp_path, monkeypatch):
    path = write_dicom(tmp_path / "x.dcm", TransferSyntaxUID=pydicom.uid.JPEGLosslessSV1)
    monkeypatch.setattr(type(pydicom.pixels.get_decoder(pydicom.uid.JPEGLosslessSV1)), "is_available", False)
    with pytest.raises(ImportError, match="no decoder is installed for DICOM transfer syntax JPEG Lossless"):
        load_cxr(path)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(ImportError, match=r'pip install "medtvt-r1\[dicom\]"'):
        load_cxr(path)
    IMAGE.save(tmp_path / "x.png")
    assert load_cxr(tmp_path / "x.png")[1] == []


@pytest.mark.parametrize(
    "cxr, message",
    [
        (None, "NoneType"),
        (np.where(GREY == 7, np.nan, GREY / 255), "NaN"),
        (np.where(GREY == 7, np.inf, GREY / 255), "infinite"),
        (GREY > 100, "dtype bool"),
        (GREY[None, None], "shape"),
        (np.zeros((0, 0)), "at least 32"),
        (GREY[:31], "at least 32"),
        (np.broadcast_to(GREY[0, 0], (10000, 10000)), "at most"),
        (np.tile(GREY, (6, 1)), "sides up to 4:1"),
        (np.full((50, 50), 9, np.uint8), "blank"),
        (np.full((50, 50), 5000.0), "blank"),
        (Image.new("RGB", (50, 50), "red"), "blank"),
    ],
)
def test_refused_values(cxr, message):
    with pytest.raises(ValueError, match=f"cxr.*{message}"):
        load_cxr(cxr)


def png_claiming(width, height):
    IMAGE.save(buffer := io.BytesIO(), "PNG")
    header = b"IHDR" + struct.pack(">II", width, height) + (data := buffer.getvalue())[24:29]
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "not an image"),
        (b"a text file\n" * 50, "not an image"),
        (b"\0" * 128 + b"DICM" + b"\xff" * 200, "DICOM header"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n", "not an image"),
        (png_claiming(100_000, 100_000), "64000000"),
        (png_claiming(9_000, 9_000), "64000000"),
        (png_claiming(500, 500), "truncated"),
    ],
)
def test_refused_files(tmp_path, data, message):
    path = tmp_path / "x.png"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message) as error:
        load_cxr(path)
    assert str(path) in str(error.value)


def test_truncated_jpeg_frames_folder_and_missing(tmp_path):
    IMAGE.save(buffer := io.BytesIO(), "JPEG")
    (tmp_path / "x.jpg").write_bytes(buffer.getvalue()[:-400])
    IMAGE.save(tmp_path / "x.tif", save_all=True, append_images=[IMAGE])
    for path, message in ((tmp_path / "x.jpg", "truncated"), (tmp_path / "x.tif", "2 pictures"), (tmp_path, "file")):
        with pytest.raises(ValueError, match=message):
            load_cxr(path)
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_cxr(tmp_path / "none.png")


LOW_CONTRAST = {"5f619d7e.jpg"}


@pytest.mark.parametrize("path", sorted(FIXTURES.glob("cxr/*/*")), ids=lambda path: path.name[:24])
def test_real_files(path):
    values, alterations = pixels(path)
    assert values.min() < 100 < values.max() and min(values.shape[:2]) >= 512
    assert [a.split(",")[0] for a in alterations] == ["cxr: low contrast"] * (path.name in LOW_CONTRAST)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_bytes_are_read_as_the_file(tmp_path, kind):
    IMAGE.save(tmp_path / "x.png")
    write_dicom(tmp_path / "x.dcm", GREY.astype(np.uint16) * 16, BitsStored=12)
    for path in (tmp_path / "x.png", tmp_path / "x.dcm"):
        image, notes = load_cxr(kind(path.read_bytes()))
        expected, expected_notes = load_cxr(path)
        np.testing.assert_array_equal(np.asarray(image), np.asarray(expected))
        assert notes == expected_notes
    with pytest.raises(ValueError, match=r"cxr \(bytes\): not an image"):
        load_cxr(kind(b"no picture"))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float64])
def test_masked_pixels_are_no_part_of_the_range(dtype):
    hidden = np.zeros(GREY.shape, bool)
    hidden[:9] = True
    values = np.where(hidden, 250, GREY // 2 * (1 if dtype == np.uint8 else 2)).astype(dtype)
    image, notes = load_cxr(np.ma.MaskedArray(values, hidden))
    np.testing.assert_array_equal(np.asarray(image), np.where(hidden, 0, values))
    assert notes[0] == "cxr: masked pixels drawn black"
    assert load_cxr(np.ma.MaskedArray(GREY, False))[1] == []
