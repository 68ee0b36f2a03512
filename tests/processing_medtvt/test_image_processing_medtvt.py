# SPDX-License-Identifier: Apache-2.0
import io
import json
import struct
import sys
import zlib

import numpy as np
import pydicom
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file
from transformers import PretrainedConfig
from transformers.image_utils import SizeDict

# `transformers.AutoImageProcessor` is a stub without torchvision in 5.17; the module itself works.
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING, AutoImageProcessor

from processing_medtvt import MedTVTImageProcessor, load_cxr

from ..conftest import FIXTURES


PARITY = FIXTURES / "parity" / "preprocessing"
AUTHORS = {"size": {"shortest_edge": 400}, "do_center_crop": True}
AUTHORS |= {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
# A smooth grey picture, 120 rows, 100 columns, using the whole of 0..255.
GREY = np.add.outer(np.arange(120), np.arange(100)).astype(np.float64)
GREY = np.rint(GREY / GREY.max() * 255).astype(np.uint8)
IMAGE = Image.fromarray(GREY)


def pixels(cxr):
    image, alterations = load_cxr(cxr)
    assert image.mode in ("L", "RGB")
    return np.asarray(image.convert("RGB")), alterations


def write_dicom(path, values=GREY, **header):
    """A DICOM radiograph; a header keyword given as None is left out."""
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    syntax = pydicom.uid.UID(header.pop("TransferSyntaxUID", pydicom.uid.ExplicitVRLittleEndian))
    dataset.file_meta.TransferSyntaxUID = syntax
    bits = values.dtype.itemsize * 8
    defaults = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.1", "SOPInstanceUID": "1.2.3", "PatientName": "Secret^Name"}
    defaults |= {"Modality": "CR", "BodyPartExamined": "CHEST", "ViewPosition": "PA", "SamplesPerPixel": 1}
    defaults |= {"Rows": values.shape[0], "Columns": values.shape[1], "PhotometricInterpretation": "MONOCHROME2"}
    defaults |= {"BitsAllocated": bits, "BitsStored": bits, "HighBit": header.get("BitsStored", bits) - 1}
    defaults |= {"PixelRepresentation": int(values.dtype.kind == "i"), "PixelData": values.tobytes()}
    for keyword, value in (defaults | header).items():
        if value is not None:
            setattr(dataset, keyword, value)
    if syntax.is_encapsulated:
        dataset.PixelData = pydicom.encaps.encapsulate([header.get("PixelData", b"none")])
    if "PixelData" in dataset:
        dataset["PixelData"].VR = "OW"
    dataset.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize("name", ["cxr_gray", "cxr_rgb", "cxr_odd"])
def test_authors_transform(name):
    expected = load_file(PARITY / "expected.safetensors")[f"cxr.{name}"]
    image, _ = load_cxr(PARITY / "cxr" / f"{name}.png")
    values = MedTVTImageProcessor(**AUTHORS)(image, return_tensors="pt").pixel_values
    assert values.shape == (1, 3, 224, 224) and values.dtype == torch.float32
    np.testing.assert_allclose(values[0], expected, rtol=0, atol=1e-6)


def test_defaults():
    values = MedTVTImageProcessor()([load_cxr(GREY)[0], load_cxr(GREY.T)[0]], return_tensors="np").pixel_values
    assert values.shape == (2, 3, 224, 224)
    np.testing.assert_allclose([values.min(), values.max()], [-1, 1], atol=1e-6)


@pytest.mark.parametrize("settings", [{}, AUTHORS, {"do_resize": False}, {"do_normalize": False}])
def test_a_grey_picture_is_processed_as_its_rgb_copy(settings):
    processor = MedTVTImageProcessor(**settings)
    image, _ = load_cxr(IMAGE)
    assert image.mode == "L"
    values, expected = (
        processor(picture, return_tensors="np").pixel_values for picture in (image, image.convert("RGB"))
    )
    assert values.dtype == expected.dtype
    np.testing.assert_array_equal(values, expected)


def test_decoding_at_reduced_size(tmp_path):
    """Only JPEGs, only as far as asked, and said so; the processor's config keeps it."""
    large = IMAGE.resize((2000, 2400), Image.Resampling.BICUBIC)
    large.save(tmp_path / "x.jpg", quality=95)
    large.save(tmp_path / "x.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    large.rotate(90, expand=True).save(tmp_path / "turned.jpg", quality=95, exif=turned)
    full = MedTVTImageProcessor()(load_cxr(tmp_path / "x.jpg")[0], return_tensors="np").pixel_values
    for name in ("x.jpg", "turned.jpg"):
        image, alterations = load_cxr(tmp_path / name, min_decode_size=448)
        assert image.size == (500, 600)
        assert alterations[0].endswith(f"pixels decoded as {'500 x 600' if name == 'x.jpg' else '600 x 500'}")
        values = MedTVTImageProcessor()(image, return_tensors="np").pixel_values
        assert 0 < np.abs(values - full).mean() * 127.5 < 0.5  # grey levels
    for name, size in (("x.jpg", 1001), ("x.png", 448)):
        image, alterations = load_cxr(tmp_path / name, min_decode_size=size)
        assert image.size == (2000, 2400) and alterations == []
    MedTVTImageProcessor(min_decode_size=448).save_pretrained(tmp_path)
    assert MedTVTImageProcessor.from_pretrained(tmp_path).min_decode_size == 448


@pytest.mark.parametrize("height, width, top, left", [(9, 7, 2, 2), (11, 9, 4, 2), (4, 5, 0, 0)])
def test_center_crop_rounds_half_to_even(height, width, top, left):
    image = np.arange(height * width).reshape(1, height, width)
    crop = MedTVTImageProcessor().center_crop(image, SizeDict(height=4, width=4))
    np.testing.assert_array_equal(crop, image[:, top : top + 4, left : left + 4])
    assert MedTVTImageProcessor().center_crop(image, SizeDict(height=20, width=20)).sum() == image.sum()


def test_save_and_load(tmp_path):
    class DummyConfig(PretrainedConfig):
        model_type = "medtvt-dummy"

    processor = MedTVTImageProcessor(**AUTHORS)
    processor.save_pretrained(tmp_path)
    saved = (tmp_path / "preprocessor_config.json").read_text()
    assert json.loads(saved)["image_processor_type"] == "MedTVTImageProcessor"
    AutoImageProcessor.register(
        DummyConfig, image_processor_classes={"pil": MedTVTImageProcessor, "torchvision": MedTVTImageProcessor}
    )
    try:
        for loader in (MedTVTImageProcessor, AutoImageProcessor):
            loaded = loader.from_pretrained(tmp_path)
            assert type(loaded) is MedTVTImageProcessor and loaded.to_dict() == processor.to_dict()
    finally:
        del IMAGE_PROCESSOR_MAPPING._extra_content[DummyConfig]


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


SAME = [GREY, GREY[..., None], GREY[None], np.stack([GREY] * 3), np.dstack([GREY] * 3)]
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


@pytest.mark.parametrize("values", [{"image_std": [0.0, 1.0, 1.0]}, {"image_mean": [float("nan")] * 3}], ids=str)
def test_a_normalization_that_gives_no_numbers_is_refused(values):
    (name,) = values
    with pytest.raises(ValueError, match=f"`{name}` must be finite"):
        MedTVTImageProcessor(**values)
    with pytest.raises(ValueError, match=f"`{name}` must be finite"):
        MedTVTImageProcessor()(GREY, **values)
