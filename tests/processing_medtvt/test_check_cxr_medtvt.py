# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageOps

from medtvt_training.stages.initialize import default_processor, tiny_tokenizer
from processing_medtvt import MedTVTImageProcessor, load_cxr
from processing_medtvt.check_cxr_medtvt import describe_doubts

from .film_files import draw_film
from tests.toy import FIXTURES


FILMS = sorted(FIXTURES.glob("cxr/*/*"))


def film(path):
    return Image.open(path).convert("L")


@pytest.mark.parametrize("path", FILMS, ids=lambda path: path.name[:24])
def test_real_films(path):
    """No doubt as they are, nor a little turned, cropped, darkened or tinted; the right one where they stand wrong."""
    image = film(path)
    width, height = image.size
    tinted = ImageOps.colorize(image, (10, 10, 30), (230, 240, 255))
    dark = image.point([level // 3 for level in range(256)])
    cropped = image.crop((width // 20, height // 20, width - width // 20, height - height // 20))
    for right in (image, image.convert("RGB"), tinted, dark, cropped, image.rotate(4), ImageOps.mirror(image)):
        assert describe_doubts(right) == []
    wrong = {"inverted": ImageOps.invert(image), "upside down": image.rotate(180)}
    wrong |= {
        "quarter to the left": image.rotate(90, expand=True),
        "quarter to the right": image.rotate(-90, expand=True),
    }
    for name, picture in wrong.items():
        (doubt,) = describe_doubts(picture)
        assert name in doubt


def noise():
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 300), dtype=np.uint8))


def screenshot():
    image = Image.new("L", (800, 600), 255)
    draw = ImageDraw.Draw(image)
    for y in range(60, 580, 20):
        draw.text((20, y), "Sodium 140 mmol/L  Potassium 4.1 mmol/L " * 2, fill=0)
    draw.rectangle((0, 0, 800, 40), fill=60)
    return image


def side_view():
    """A crude lateral film: one lung behind the heart, the spine along one side."""
    y, x = np.mgrid[0:1:200j, 0:1:160j]
    body = 120 + 60 * (y > 0.8) + 70 * np.exp(-(((x - 0.85) / 0.08) ** 2))
    lung = 90 * np.exp(-(((x - 0.5) / 0.25) ** 2) - ((y - 0.45) / 0.3) ** 2)
    return Image.fromarray(np.clip(body - lung, 0, 255).astype(np.uint8))


@pytest.mark.parametrize("draw", [noise, screenshot, side_view])
def test_other_pictures(draw):
    (doubt,) = describe_doubts(draw())
    assert "does not look like a frontal chest film" in doubt


def test_color_photographs():
    colors = np.random.default_rng(0).integers(0, 255, (6, 6, 3), dtype=np.uint8)
    picture = Image.fromarray(colors).resize((300, 300), Image.Resampling.BICUBIC)
    assert any("color photograph" in doubt for doubt in describe_doubts(picture))


def test_strict_refuses_what_is_only_noted_otherwise(tmp_path):
    inverted = Image.fromarray(255 - draw_film())
    _, notes = load_cxr(inverted)
    assert "inverted" in notes[-1]
    with pytest.raises(ValueError, match="`strict`.*inverted"):
        load_cxr(inverted, strict=True)
    assert load_cxr(draw_film(), strict=True)[1] == []
    MedTVTImageProcessor(strict=True).save_pretrained(tmp_path)
    assert MedTVTImageProcessor.from_pretrained(tmp_path).strict is True


def test_the_processor_notes_and_refuses_too():
    processor = default_processor(tiny_tokenizer())
    for picture, count in ((noise(), 1), (draw_film(), 0)):
        (notes,) = processor(cxr=picture, return_alterations=True)["alterations"]
        assert sum("does not look like" in note for note in notes) == count
    processor.image_processor.strict = True
    assert processor(cxr=draw_film()).pixel_values.shape == (1, 3, 224, 224)
    with pytest.raises(ValueError, match="does not look like a frontal chest film"):
        processor(cxr=noise())
