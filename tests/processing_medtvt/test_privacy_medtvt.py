# SPDX-License-Identifier: Apache-2.0
"""What files say about a person beside the picture or the values stays out of pages and messages."""

import os
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image, PngImagePlugin

from medtvt_training.stages.initialize import default_processor
from processing_medtvt import (
    MedTVTEcgFeatureExtractor,
    MedTVTLabFeatureExtractor,
    load_cxr,
    read_inputs,
    render_figure,
    render_report,
)

from .film_files import GREY, write_dicom
from tests.toy import toy_tokenizer


SECRET = "JOHN DOE 1950-01-01"
RESULT: dict[str, Any] = {
    "diseases": [],
    "reasoning": None,
    "answer": None,
    "evidence": [],
    "unmentioned": [],
    "influence": None,
    "patient": {"age": None, "sex": None},
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


def save_other(kind):
    def save(path):
        exif = Image.Exif()
        exif[0x010E] = SECRET
        film().save(
            path, kind, comment=SECRET, exif=exif, xmp=SECRET.encode(), append_images=[film()], save_all=kind == "MPO"
        )

    return save


@pytest.mark.parametrize("save", [save_jpeg, save_png, save_tiff, *map(save_other, ("WEBP", "JPEG2000", "MPO"))])
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
    processor = default_processor(toy_tokenizer())
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


LEADS = "I II III aVR aVL aVF V1 V2 V3 V4 V5 V6".split()


@pytest.mark.parametrize(
    ("leads", "unit"),
    [
        ([SECRET, *LEADS[:-1]], "mV"),
        ([SECRET, *LEADS, "V1"], "mV"),
        (LEADS, SECRET.replace(" ", "/")),
    ],
    ids=["missing", "twice", "unit"],
)
def test_errors_about_recordings_quote_no_lead_or_unit_of_a_header(leads, unit, tmp_path):
    lines = [f"rec {len(leads)} 500 5000", *(f"rec.dat 16 200.0(0)/{unit} 16 0 0 0 0 {lead}" for lead in leads)]
    (tmp_path / "rec.hea").write_text("\n".join(lines))
    (tmp_path / "rec.dat").write_bytes(bytes(2 * 5000 * len(leads)))
    with pytest.raises(ValueError, match="rec.hea: .*(V6 is missing|V1 occurs twice|unit of lead I)") as error:
        MedTVTEcgFeatureExtractor()(tmp_path / "rec.hea")
    assert not any(word in str(error.value) for word in SECRET.split())


def test_a_signal_that_is_no_lead_goes_by_its_number(tmp_path):
    signal = np.random.default_rng(0).normal(size=(14, 5000))
    extractor = MedTVTEcgFeatureExtractor()
    notes = extractor(
        signal, sampling_rate=500, leads=[*LEADS, SECRET, "vx"], unit="mV", return_alterations=True
    )["alterations"][0]  # fmt: skip
    assert "ecg: ignored leads signal 13, vx" in notes


@pytest.mark.parametrize(
    "lab",
    [
        {"Creatinine": 4711.0},
        {"Creatinine": "4711,0"},
        {"Creatinine": "4711 mg"},
        {"Creatinine": [4711]},
        {"Creatinine": (4711, "mg/dL", 1)},
        {"Creatinine": 1, "Sodium_percentile": 4711},
        pd.DataFrame({"Creatinine": [1, 4711]}),
    ],
    ids=str,
)
def test_errors_about_labs_name_the_lab_and_not_its_value(lab):
    with pytest.raises(ValueError, match="Creatinine|Sodium") as error:
        MedTVTLabFeatureExtractor()(lab)
    assert "4711" not in str(error.value)


@pytest.mark.parametrize(
    "elements",
    [
        {"WindowCenter": SECRET, "WindowWidth": SECRET},
        {"WindowCenter": "1", "WindowWidth": "2", "VOILUTFunction": SECRET},
        {"RescaleSlope": SECRET, "RescaleIntercept": SECRET},
    ],
    ids=lambda elements: ", ".join(elements),
)
def test_errors_about_dicom_pixels_quote_no_header(elements, tmp_path, monkeypatch):
    pydicom = pytest.importorskip("pydicom")
    for mode in ("reading_validation_mode", "writing_validation_mode"):
        monkeypatch.setattr(pydicom.config.settings, mode, pydicom.config.IGNORE)
    path = write_dicom(tmp_path / "film.dcm", GREY.astype(np.uint16) * 16, BitsStored=12)
    dataset = pydicom.dcmread(path)
    for keyword, text in elements.items():
        dataset.add_new(keyword, "LO", text)
    dataset.save_as(path)
    with pytest.raises(ValueError, match="film.dcm.*DICOM") as error:
        load_cxr(path)
    assert not any(word in str(error.value) for word in SECRET.split())


def test_a_conversation_that_is_none_is_not_quoted():
    with pytest.raises(ValueError, match="got a str") as error:
        default_processor(toy_tokenizer()).apply_chat_template(SECRET)
    assert SECRET not in str(error.value)


@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize("read", [MedTVTEcgFeatureExtractor(), MedTVTLabFeatureExtractor(), load_cxr])
def test_a_file_name_cannot_write_to_the_terminal(read, exists, tmp_path):
    path = tmp_path / "a\x1b[31mb\nc\u202e.csv"
    if exists:
        path.write_text("nothing")
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        read(os.fspath(path))
    assert str(error.value).isprintable() and r"a\x1b[31mb\nc" in str(error.value)
