# SPDX-License-Identifier: Apache-2.0
"""What files say about a person beside the picture or the values stays out of pages and messages."""

import os

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from medtvt_training.stages.initialize import default_processor, tiny_tokenizer
from processing_medtvt import MedTVTEcgFeatureExtractor, MedTVTLabFeatureExtractor, load_cxr
from processing_medtvt.report_medtvt import read_inputs, render_figure, render_report


SECRET = "JOHN DOE 1950-01-01"
RESULT = {
    "diseases": [],
    "reasoning": None,
    "answer": None,
    "contributions": {"ecg": None, "cxr": None, "lab": None},
    "warnings": [],
    "generated_text": "",
}


def film():
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8))


def save_jpeg(path):
    exif = Image.Exif()
    exif[0x010E] = exif[0x9C9B] = SECRET
    film().save(path, "JPEG", comment=SECRET.encode(), exif=exif, icc_profile=SECRET.encode(), xmp=SECRET.encode())


def save_png(path):
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Comment", SECRET)
    texts.add_itxt("Patient", SECRET)
    film().save(path, "PNG", pnginfo=texts, icc_profile=SECRET.encode())


def save_tiff(path):
    film().save(path, "TIFF", description=SECRET, software=SECRET, icc_profile=SECRET.encode())


@pytest.mark.parametrize("save", [save_jpeg, save_png, save_tiff])
def test_pictures_bring_nothing_but_pixels(save, tmp_path):
    path = tmp_path / "film"
    save(path)
    assert SECRET.encode() in path.read_bytes()
    given = Image.open(path)
    for source in (path, given):
        image, _ = load_cxr(source)
        for kind in ("JPEG", "PNG", "TIFF"):
            image.save(tmp_path / f"again.{kind}", kind)
            assert SECRET.encode() not in (tmp_path / f"again.{kind}").read_bytes()
    assert given.info  # the caller's picture is left alone
    processor = default_processor(tiny_tokenizer())
    page = render_report(RESULT, processor, cxr=path)
    render_figure(read_inputs(processor, cxr=path)).savefig(tmp_path / "figure.png")
    import base64
    import re

    pictures = [base64.b64decode(found) for found in re.findall(r"data:image/jpeg;base64,([^\"]+)", page)]
    assert len(pictures) == 2
    for content in (page.encode(), (tmp_path / "figure.png").read_bytes(), *pictures):
        assert SECRET.encode() not in content


@pytest.mark.parametrize(
    "content",
    [
        f"name,value\nCreatinine,{SECRET}\n",
        f"name,value\n{SECRET},1\n",
        f"name,value\nCreatinine,1,{SECRET}\n",
        f"{SECRET},value\nCreatinine,1\n",
        f"name,value,unit\nCreatinine,1,{SECRET}\n",
        f"name,value\nCreatinine,1\n{SECRET}\n",
        f'name,value\n"{SECRET},1\n',
        SECRET,
    ],
)
def test_errors_about_lab_files_quote_no_cell(content, tmp_path):
    path = tmp_path / "labs.csv"
    path.write_text(content)
    with pytest.raises(ValueError, match="labs.csv") as error:
        MedTVTLabFeatureExtractor()(path)
    assert not any(word in str(error.value) for word in SECRET.split())


@pytest.mark.parametrize(
    "header",
    [
        SECRET,
        f"{SECRET}\nrec.dat 16 200/mV 16 0 0 0 0 I",
        f"rec 1 500 5000\n{SECRET}",
        f"rec 1 500 5000\n{SECRET.replace(' ', '/')} 16 200/mV 16 0 0 0 0 I",
        f"rec 1 500 5000\nrec.dat 16 0/mV 16 0 0 0 0 {SECRET}",
    ],
)
def test_errors_about_ecg_headers_quote_nothing(header, tmp_path):
    (tmp_path / "rec.hea").write_text(header)
    with pytest.raises(ValueError, match="rec.hea") as error:
        MedTVTEcgFeatureExtractor()(tmp_path / "rec.hea")
    assert not any(word in str(error.value) for word in SECRET.split())


def write_record(folder):
    folder.mkdir(parents=True)
    signal = np.random.default_rng(0).integers(-200, 200, (5000, 12)).astype("<i2")
    leads = "I II III aVR aVL aVF V1 V2 V3 V4 V5 V6".split()
    lines = ["rec 12 500 5000", *(f"rec.dat 16 200.0(0)/mV 16 0 0 0 0 {lead}" for lead in leads)]
    (folder / "rec.hea").write_text("\n".join(lines) + "\n")
    (folder / "rec.dat").write_bytes(signal.tobytes())
    return folder / "rec.hea"


def link(source, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    target.symlink_to(os.path.relpath(source, target.parent))


def test_a_signal_file_is_not_followed_out_of_its_folder(tmp_path):
    header = write_record(tmp_path / "record")
    (tmp_path / "record" / "rec.dat").rename(tmp_path / "outside.dat")
    link(tmp_path / "outside.dat", tmp_path / "record" / "rec.dat")
    with pytest.raises(ValueError, match="rec.dat is a link that leads outside its folder"):
        MedTVTEcgFeatureExtractor()(header)


def test_links_inside_a_folder_and_of_a_hub_cache_are_followed(tmp_path):
    header = write_record(tmp_path / "record")
    expected = MedTVTEcgFeatureExtractor()(header)["ecg_values"]
    (tmp_path / "record" / "rec.dat").rename(tmp_path / "record" / "real")
    link(tmp_path / "record" / "real", tmp_path / "record" / "rec.dat")
    np.testing.assert_array_equal(MedTVTEcgFeatureExtractor()(header)["ecg_values"], expected)
    repository = tmp_path / "hub" / "datasets--org--name"
    snapshot = repository / "snapshots" / "0123abc" / "ecg"
    write_record(repository / "written")
    (repository / "blobs").mkdir()
    for name in ("rec.hea", "rec.dat"):
        (repository / "written" / name).rename(repository / "blobs" / f"blob-{name}")
        link(repository / "blobs" / f"blob-{name}", snapshot / name)
    np.testing.assert_array_equal(MedTVTEcgFeatureExtractor()(snapshot / "rec.hea")["ecg_values"], expected)
