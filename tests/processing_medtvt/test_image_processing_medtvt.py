# SPDX-License-Identifier: Apache-2.0
import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file
from transformers import PretrainedConfig
from transformers.image_utils import SizeDict

# `transformers.AutoImageProcessor` is a stub without torchvision in 5.17; the module itself works.
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING, AutoImageProcessor

from processing_medtvt import MedTVTImageProcessor, load_cxr

from .film_files import GREY
from tests.toy import FIXTURES


PARITY = FIXTURES / "parity" / "preprocessing"
AUTHORS = {"size": {"shortest_edge": 400}, "do_center_crop": True}
AUTHORS |= {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
IMAGE = Image.fromarray(GREY)


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


@pytest.mark.parametrize("values", [{"image_std": [0.0, 1.0, 1.0]}, {"image_mean": [float("nan")] * 3}], ids=str)
def test_a_normalization_that_gives_no_numbers_is_refused(values):
    (name,) = values
    with pytest.raises(ValueError, match=f"`{name}` must be finite"):
        MedTVTImageProcessor(**values)
    with pytest.raises(ValueError, match=f"`{name}` must be finite"):
        MedTVTImageProcessor()(GREY, **values)


@pytest.mark.parametrize(
    "values",
    [
        {"size": {"height": 10**6, "width": 224}},
        {"size": {"shortest_edge": 0}},
        {"size": {"shortest_edge": 10**6}, "do_center_crop": True},
        {"crop_size": {"height": 224, "width": -1}},
        {"min_decode_size": 10**6},
    ],
    ids=str,
)
def test_sizes_that_give_no_picture_are_refused(values):
    name = next(iter(values))
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        MedTVTImageProcessor(**values)
    if name != "min_decode_size":
        with pytest.raises(ValueError, match=f"`{name}` must be"):
            MedTVTImageProcessor()(GREY, **values)
