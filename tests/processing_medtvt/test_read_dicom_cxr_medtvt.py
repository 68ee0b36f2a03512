# SPDX-License-Identifier: Apache-2.0
"""DICOM radiographs as their header declares them, against the film that they were written from."""

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian

from processing_medtvt import load_cxr
from processing_medtvt.read_cxr_medtvt import read_cxr

from .film_files import GREY, write_dicom
from tests.toy import FIXTURES


# 12-bit values that scaling by their range turns into GREY again; the lowest of all comes from a corner
WIDE = 120 + GREY.astype(np.uint16) * 15
SIGNED = WIDE.astype(np.int16) - 2000
PADDED = np.zeros(GREY.shape, bool)
PADDED[:15] = True
# What a table for WIDE holds, in 8 bits
SHOWN = np.clip(np.rint((np.arange(4096) - 120) / 15), 0, 255)


@pytest.fixture(autouse=True)
def _any_header(monkeypatch):
    """Headers that pydicom would refuse to write or warns of, as devices write them."""
    for mode in ("reading_validation_mode", "writing_validation_mode"):
        monkeypatch.setattr(pydicom.config.settings, mode, pydicom.config.IGNORE)


def read(tmp_path, stored, **header):
    big = header.get("TransferSyntaxUID") == ExplicitVRBigEndian
    if big and "PixelData" not in header:
        words = stored if stored.itemsize > 1 else stored.reshape(-1).view("<u2")
        header["PixelData"] = words.astype(words.dtype.newbyteorder(">")).tobytes()
    image, notes = load_cxr(write_dicom(tmp_path / "x.dcm", stored, **header))
    return np.asarray(image).astype(int), notes


def check(tmp_path, stored, expected=GREY, tolerance=0, **header):
    values, notes = read(tmp_path, stored, **header)
    np.testing.assert_allclose(values, expected, rtol=0, atol=tolerance)
    return notes


def table(entries, first=0, bits=12, vr="US", big=False, number=None):
    """A sequence of one LUT; `vr` "OW" keeps the words as they are, `vr` "packed" two entries of 8 bits a word."""
    item = pydicom.Dataset()
    item.LUTDescriptor = [len(entries) % 65536 if number is None else number, first, bits]
    item["LUTDescriptor"].VR = "SS" if first < 0 else "US"
    item.ModalityLUTType = "US"
    entries = np.asarray(entries)
    words = entries.astype(np.uint8).view("<u2") if vr == "packed" else entries.astype(np.uint16)
    order = ">u2" if big else "<u2"
    item.add_new(
        "LUTData", "US" if vr == "US" else "OW", words.tolist() if vr == "US" else words.astype(order).tobytes()
    )
    return [item]


@pytest.mark.parametrize(
    "stored, header",
    [
        (4095 - WIDE, {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"}),
        (WIDE, {"PresentationLUTShape": "IDENTITY"}),
        (WIDE, {"TransferSyntaxUID": ExplicitVRBigEndian}),
        (GREY, {"TransferSyntaxUID": ExplicitVRBigEndian}),
        (SIGNED, {"TransferSyntaxUID": ExplicitVRBigEndian}),
        ((SIGNED.astype("i4") & 0x1FFF).astype("u2"), {"BitsStored": 13, "PixelRepresentation": 1}),
        (WIDE | 0x8000, {"BitsStored": 12}),  # an overlay in a bit above
        (WIDE << 4, {"BitsStored": 12, "HighBit": 15}),
        (WIDE << 4, {"BitsStored": 12, "HighBit": 15, "TransferSyntaxUID": ExplicitVRBigEndian}),
        (WIDE << 2 | 0x4003, {"BitsStored": 12, "HighBit": 13}),  # bits above and below
        (((SIGNED.astype("i4") & 0x1FFF) << 3 | 7).astype("u2"), {"BitsStored": 13, "HighBit": 15, "PixelRepresentation": 1}),
        (WIDE.astype("u4") * 1000, {}),
        (WIDE, {"RescaleSlope": 2, "RescaleIntercept": -1000}),
        (4095 - WIDE, {"RescaleSlope": -1, "RescaleIntercept": 4095}),
        (GREY, {"RescaleSlope": 1, "RescaleIntercept": 0}),
        (WIDE, {"WindowCenter": [2032.5, 5], "WindowWidth": [3825, 7], "VOILUTFunction": "LINEAR_EXACT"}),
        (WIDE, {"WindowCenter": 2033, "WindowWidth": 3826}),
        (WIDE.astype("u4"), {"WindowCenter": 2032.5, "WindowWidth": 3825, "VOILUTFunction": "LINEAR_EXACT"}),
    ],
)  # fmt: skip
def test_bits_and_signs_and_windows(tmp_path, stored, header):
    check(tmp_path, stored, **header)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize("vr", ["US", "OW"])
def test_lookup_tables(tmp_path, vr, syntax):
    """Of 8, 12 and 16 bits; also where the entries have fewer bits than declared, or more."""
    options = {"vr": vr, "big": syntax == ExplicitVRBigEndian}
    for bits, entries in ((12, np.arange(4096)), (16, np.arange(4096) * 16), (12, np.arange(4096) // 2)):
        lut = table(entries, bits=bits, **options)
        check(tmp_path, WIDE, tolerance=1, ModalityLUTSequence=lut, TransferSyntaxUID=syntax)
    for bits, top in ((8, 255), (12, 4095), (16, 65535), (16, 4095), (12, 1023), (8, 4095)):
        lut = table(np.rint(SHOWN * (top / 255)), bits=bits, **options)
        notes = check(tmp_path, WIDE, VOILUTSequence=lut, TransferSyntaxUID=syntax)
        assert any("though its header says" in note for note in notes) == (top != 2**bits - 1)


@pytest.mark.parametrize(
    "stored, lut, header",
    [
        (WIDE, table(SHOWN, bits=8, vr="packed"), {}),
        (WIDE, table(SHOWN, bits=8, vr="packed", big=True), {"TransferSyntaxUID": ExplicitVRBigEndian}),
        (WIDE, table(np.pad(SHOWN, (0, 61440), constant_values=255), bits=8), {}),  # 65536 entries, declared as 0
        (WIDE, table(SHOWN[120:3946], first=120, bits=8), {}),
        (SIGNED, table(SHOWN, first=-2000, bits=8), {}),
        (SIGNED, table(SHOWN, first=65536 - 2000, bits=8), {}),  # the same as an unsigned number
        (WIDE, table(SHOWN, first=65536 - 2000, bits=8), {"RescaleSlope": 1, "RescaleIntercept": -2000}),
        (WIDE, table(SHOWN, bits=8) + table(255 - SHOWN, bits=8), {"WindowCenter": 1, "WindowWidth": 2}),
        (WIDE, table(255 - SHOWN, bits=8), {"PhotometricInterpretation": "MONOCHROME1"}),
    ],
)
def test_lookup_tables_for_display(tmp_path, stored, lut, header):
    check(tmp_path, stored, VOILUTSequence=lut, **header)


@pytest.mark.parametrize(
    "stored, padding, header",
    [
        (WIDE, 65535, {"PixelPaddingValue": 65535}),
        (WIDE, 0, {"PixelPaddingValue": 0}),
        (WIDE, 60050, {"PixelPaddingValue": 60000, "PixelPaddingRangeLimit": 60099}),
        (WIDE, 60050, {"PixelPaddingValue": 60099, "PixelPaddingRangeLimit": 60000}),
        (SIGNED, -32768, {"PixelPaddingValue": -32768}),
        (4095 - WIDE, 4095, {"PixelPaddingValue": 4095, "PhotometricInterpretation": "MONOCHROME1"}),
    ],
)
def test_padding_is_no_part_of_the_range_and_black(tmp_path, stored, padding, header):
    low, high = WIDE[~PADDED].min(), WIDE[~PADDED].max()
    expected = np.where(PADDED, 0, np.rint((WIDE.astype(float) - low) * (255 / (high - low))))
    notes = check(tmp_path, np.where(PADDED, padding, stored).astype(stored.dtype), expected, 1, **header)
    assert notes[0].startswith("cxr: 12.5% of the picture is padding")
    # under a window too
    window = {"WindowCenter": 2033 - (2000 if stored is SIGNED else 0), "WindowWidth": 3826}
    if "PhotometricInterpretation" not in header:
        stored = np.where(PADDED, padding, stored).astype(stored.dtype)
        check(tmp_path, stored, np.where(PADDED, 0, GREY), **header, **window)


@pytest.mark.parametrize(
    "header, message",
    [
        ({"BitsStored": 12, "HighBit": 8}, "12 bits stored of 16, the highest at 8"),
        ({"VOILUTSequence": table(SHOWN[:100], number=4096)}, "holds 100 of 4096 entries"),
        ({"WindowCenter": 60000, "WindowWidth": 10}, r"blank.*center 60000, width 10"),
        ({"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 65535}, "no pixel holds a measured value"),
    ],
)
def test_headers_that_cannot_be_applied(tmp_path, header, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, WIDE, **header)


def test_colors(tmp_path):
    colors = np.dstack([GREY, 255 - GREY, GREY // 2])
    common = {"SamplesPerPixel": 3, "PlanarConfiguration": 0}
    check(tmp_path, colors, colors, PhotometricInterpretation="RGB", **common)
    planes = {"PlanarConfiguration": 1, "PixelData": np.moveaxis(colors, -1, 0).tobytes()}
    check(tmp_path, colors, colors, PhotometricInterpretation="RGB", **common | planes)
    brightness = np.asarray(Image.fromarray(colors).convert("YCbCr"))
    check(tmp_path, brightness, colors, tolerance=3, PhotometricInterpretation="YBR_FULL", **common)


@pytest.mark.parametrize(
    "word", ["TÓRAX", "Poitrine", "W033 CHEST, PA", "EXAMINATION OF THE THORAX", "CHESTABDPELVIS"]
)
def test_words_for_a_chest(tmp_path, word):
    assert check(tmp_path, GREY, BodyPartExamined=word) == []
    assert check(tmp_path, GREY, BodyPartExamined=word.encode().decode("latin-1")) == []  # written in UTF-8


@pytest.mark.parametrize("word", ["HIP", "KNEES", "LSPINE", "THORACIC SPINE", "Hüfte"])
def test_words_for_other_body_parts(tmp_path, word):
    with pytest.raises(ValueError, match="body part"):
        read(tmp_path, GREY, BodyPartExamined=word)


@pytest.mark.parametrize(
    "header, note",
    [
        ({"BodyPartExamined": "Zbigniew"}, "does not state in words that are known here"),
        ({"Modality": "OT"}, "not known here as a radiograph"),
        ({"ViewPosition": "Zbigniew"}, "a view that is not known"),
        ({"PatientOrientation": ["R", "F"]}, "mirrored"),
        ({"PresentationLUTShape": "INVERSE"}, "contradicts itself"),
    ],
)
def test_words_that_tell_nothing_are_noted_and_not_quoted(tmp_path, header, note):
    (found,) = check(tmp_path, GREY, **header)
    assert note in found and "ZBIGNIEW" not in found.upper()


@pytest.mark.parametrize("view", ["PA", "A.P.", "AP SUPINE", "PA_ERECT", "POSTERO-ANTERIOR", None])
def test_frontal_views(tmp_path, view):
    assert check(tmp_path, GREY, ViewPosition=view) == []


@pytest.mark.parametrize(
    "header", [{"ViewPosition": "Lateral"}, {"ViewPosition": None, "PatientOrientation": ["P", "F"]}]
)
def test_other_views_are_warned_of_and_refused_if_strict(tmp_path, header):
    (found,) = check(tmp_path, GREY, **header)
    assert "view" in found
    with pytest.raises(ValueError, match="strict.*lateral|strict.*LATERAL"):
        load_cxr(tmp_path / "x.dcm", strict=True)


def test_codes_stand_in_for_missing_words(tmp_path):
    code = pydicom.Dataset()
    code.CodeMeaning = "Chest"
    assert check(tmp_path, GREY, BodyPartExamined=None, AnatomicRegionSequence=[code]) == []


@pytest.mark.parametrize(
    "header, age, sex",
    [
        ({"PatientAge": "057Y", "PatientSex": "M"}, 57, "M"),
        ({"PatientAge": "018M", "PatientSex": "f"}, 1.5, "F"),
        ({"PatientBirthDate": "19500601", "StudyDate": "20200531"}, 69, None),
        ({"PatientBirthDate": "20200601", "StudyDate": "19500531", "PatientSex": "O"}, None, None),
        ({"PatientAge": "old"}, None, None),
    ],
)
def test_the_patient(tmp_path, header, age, sex):
    film = read_cxr(write_dicom(tmp_path / "x.dcm", GREY, **header))
    assert film.patient == {"age": age, "sex": sex}
    assert film.declared["view"] == "PA" and film.declared["body_part"] == "CHEST" and film.declared["bits"] == 8


@pytest.mark.parametrize("path", sorted((FIXTURES / "films").glob("*.dcm")), ids=lambda path: path.stem)
def test_films_with_a_known_truth(path):
    truth = np.load(FIXTURES / "films" / "truth.npy")
    image, _ = load_cxr(path)
    values = np.asarray(image, dtype=float)
    measured = pydicom.dcmread(path).pixel_array != 65535
    assert np.corrcoef(values[measured], truth[measured])[0, 1] > 0.999
    assert values[measured].max() - values[measured].min() > 150
