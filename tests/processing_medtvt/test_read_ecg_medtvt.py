# SPDX-License-Identifier: Apache-2.0
"""ECG files of every kind: the right values, what is reported of them, and refusals that say why."""

import os
import shutil
import struct
import sys
import zlib
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.io

from processing_medtvt import MedTVTEcgFeatureExtractor, read_ecg_matlab_medtvt, recording_medtvt
from processing_medtvt.leads_ecg_medtvt import canonical_lead
from processing_medtvt.read_ecg_medtvt import ecg_files, read_path

from . import ecg_files as draw
from .ecg_files import LEADS, RATE, WRITERS, draw_ecg
from tests.toy import FIXTURES


MV: dict[str, Any] = {"sampling_rate": RATE, "leads": LEADS, "unit": "mV"}
EXTRACTOR = MedTVTEcgFeatureExtractor()
SIGNAL = draw_ecg()
EXPECTED = EXTRACTOR(SIGNAL, **MV)["ecg_values"][0]


def extract(item, **kwargs):
    found = EXTRACTOR(item, return_alterations=True, **kwargs)
    return found["ecg_values"][0], found["alterations"][0], found["patients"][0]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    for name, write in WRITERS.items():
        write(folder / name, SIGNAL)
    return folder


PATIENTS = {
    "muse.xml": (61, "F"), "philips.xml": (70, "M"), "scp.scp": (70, "F"), "edf.edf": (70, "F"),
    "ishne.ecg": (None, "M"), "dicom.dcm": (39, "M"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_drawn_values(files, tmp_path, name):
    """By its content, under a name that says nothing; and with what the header says of the patient."""
    path = shutil.copy(files / name, tmp_path / "recording.bin")
    values, notes, patient = extract(path, sampling_rate=RATE)
    np.testing.assert_allclose(values, EXPECTED, atol=0.004)
    assert (patient["age"], patient["sex"]) == PATIENTS.get(name, (None, None))
    assert not any("ECG?" in note or "contradict" in note for note in notes)
    if name != "table.csv":
        assert "500 Hz, scaled to uV as the file declares" in notes[0]
    assert any("derived from I and II" in note for note in notes) == (name == "muse.xml")
    assert any("the rhythm is used" in note for note in notes) == (name in ("muse.xml", "dicom.dcm"))
    assert ecg_files(path, "ecg") == [str(path)]


def test_a_calibration_pulse_never_reaches_the_model(files):
    long = MedTVTEcgFeatureExtractor(duration=11)(files / "philips.xml", return_alterations=True)
    np.testing.assert_allclose(long["ecg_values"][0, :, :1000], EXPECTED, atol=0.004)
    assert not long["ecg_values"][0, :, 1000:].any()
    assert "ecg: the calibration pulse (0.5 s) is left out" in long["alterations"][0]


def test_real_files_of_devices(tmp_path):
    philips = extract(FIXTURES / "ecg" / "philips_xml" / "2020-5-18_15-48-11.xml")
    assert philips[2] == {"age": 69.0, "sex": None} and any("calibration pulse" in note for note in philips[1])
    assert np.abs(philips[0]).max() < 3
    dicom = extract(FIXTURES / "ecg" / "dicom" / "ge_simulator_sample.dcm")
    assert (
        dicom[2] == {"age": 39.0, "sex": "M"} and "ecg: the rhythm is used, out of 2 waveforms in the file" in dicom[1]
    )
    for values in (philips[0], dicom[0]):
        np.testing.assert_allclose(values[2], values[1] - values[0], atol=0.02)


@pytest.mark.parametrize("name, age, sex", [("cinc2021/E07500", 78, "M"), ("ptbdb/s0010_re", 81, "F")])
def test_the_patient_of_a_wfdb_header(name, age, sex):
    assert extract(FIXTURES / "ecg" / name)[2] == {"age": age, "sex": sex}


DICOM = [
    ({"stored": 12}, 0.004, "sign taken from bit 12"),
    ({"big_endian": True}, 0.004, None),
    ({"unit": "mV", "scale": 0.0025}, 0.004, None),
    ({"padding": -32768}, 0.02, "10 missing samples in V6 interpolated"),
    ({"deflated": True}, 0.004, None),
]


@pytest.mark.parametrize("options, tolerance, note", DICOM)
def test_dicom_is_decoded_as_it_declares(tmp_path, options, tolerance, note):
    draw.write_dicom(tmp_path / "x", SIGNAL, **options)
    values, notes, _ = extract(tmp_path / "x")
    np.testing.assert_allclose(values, EXPECTED, atol=tolerance)
    assert note is None or any(note in text for text in notes)


def test_dicom_refusals(tmp_path):
    draw.write_dicom(tmp_path / "x", SIGNAL, unit="")
    with pytest.raises(ValueError, match="declares no sensitivity in a unit of voltage"):
        extract(tmp_path / "x")
    draw.write_dicom(tmp_path / "x", SIGNAL)
    with (
        pytest.MonkeyPatch.context() as patch,
        pytest.raises(ValueError, match="60000 values; at most 50000 are read"),
    ):
        patch.setattr(recording_medtvt, "MAX_VALUES", 50_000)
        extract(tmp_path / "x")
    draw.write_dicom(tmp_path / "x", SIGNAL, last=0)
    with pytest.raises(ValueError, match="of modality ECG holds no waveform"):
        extract(tmp_path / "x")
    draw.write_dicom(tmp_path / "x", SIGNAL)
    content = (tmp_path / "x").read_bytes()
    (tmp_path / "x").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="the DICOM waveform is cut short"):
        extract(tmp_path / "x")


RATES = [(256.4103, 2564, 1000), (62.5, 625, 1000), (100, 1000, 1000)]


@pytest.mark.parametrize("rate, samples, length", RATES)
def test_sample_counts_are_rounded(rate, samples, length):
    values = EXTRACTOR(draw_ecg(samples / rate, rate), rate, LEADS, "mV")["ecg_values"][0]
    assert values[:, length - 1].all()


def test_fractional_rates_are_those_of_the_file(tmp_path):
    signal = draw_ecg(11, 256.4)
    draw.write_edf(tmp_path / "x", signal[:, :2564], samples_per_record=1282, record_seconds=5)
    assert read_path(tmp_path / "x", "ecg").sampling_rate == 256.4
    draw.write_aecg(tmp_path / "x", signal, rate=256.4)
    assert read_path(tmp_path / "x", "ecg").sampling_rate == pytest.approx(256.4)


TIME = np.arange(SIGNAL.shape[1]) / RATE
TABLES = [
    ({"time": TIME}, {}, "500 Hz by the table's times"),
    (
        {"time": TIME * 1000, "heading": ["Time", *LEADS]},
        {"unit": "mV"},
        "500 Hz by the table's times, taken as milliseconds",
    ),
    ({"separator": ";", "decimal": ",", "first": "sep=;\n", "encoding": "utf-16"}, {"sampling_rate": 500}, None),
    ({"separator": "\t", "encoding": "utf-8-sig", "first": "# digitized\n"}, {"sampling_rate": 500}, None),
    ({"heading": [f"{lead}_mV" for lead in LEADS]}, {"sampling_rate": 500}, None),
    (
        {"heading": LEADS, "first": ",".join(LEADS) + "\n" + ",".join(["'mV'"] * 12) + "\n"},
        {"sampling_rate": 500},
        "units",
    ),
]


@pytest.mark.parametrize("options, kwargs, note", TABLES)
def test_tables_of_digitizers(tmp_path, options, kwargs, note):
    draw.write_csv(tmp_path / "x.csv", SIGNAL, **options)
    if note == "units":  # the second heading goes: a row of units stands under the first, as rdsamp writes it
        lines = (tmp_path / "x.csv").read_text().splitlines()
        (tmp_path / "x.csv").write_text("\n".join(lines[:2] + lines[3:]))
        note = None
    values, notes, _ = extract(tmp_path / "x.csv", **kwargs)
    np.testing.assert_allclose(values, EXPECTED, atol=0.002)
    assert note is None or any(text.startswith(f"ecg: {note}") for text in notes)


BAD_TABLES = [
    ("time,I,II,V1\n0,1,2,3\n0.1,1,2\n", "row 3 of the table has 3 cells, the heading 4"),
    ("time,I,II,V1\n0,1,2,3\n0.1,1,Zbigniew,3\n", "column 3 of the table holds something that is no number"),
    ("time,I,II\n" + "".join(f"{i / 500 + (i > 400)},1,2\n" for i in range(2000)), "not evenly spaced"),
    ("time,I,II\n" + "".join(f"{-i},1,2\n" for i in range(2000)), "do not increase"),
    ("time,I,II\n" + "".join(f"{i * 1e7},1,2\n" for i in range(2000)), "give no rate of an ECG"),
    ("I (mV),II\n" + "1,2\n" * 2000, "declares a unit for 1 of 2 leads"),
    ("I,II\n" + "1,2\n" * 2000, "no header with unit, rate; pass unit=, sampling_rate="),
    ("name,value\nCreatinine,1.2\n", "none of the ECG files that are read"),
]


@pytest.mark.parametrize("text, message", BAD_TABLES)
def test_bad_tables_are_refused(tmp_path, text, message):
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        extract(tmp_path / "x.csv")
    assert "Zbigniew" not in str(error.value)


def test_frames_and_masked_arrays():
    frame = pd.DataFrame(SIGNAL.T, columns=[f"{lead} [mV]" for lead in LEADS])
    for item, kwargs in ((frame.assign(time=TIME), {}), (frame, {"sampling_rate": 500}), (pd.DataFrame(SIGNAL.T), MV)):
        np.testing.assert_allclose(extract(item, **kwargs)[0], EXPECTED, atol=1e-6)
    mask = np.zeros(SIGNAL.shape, bool)
    mask[7, 100:105] = True
    spoiled = np.where(mask, 99, SIGNAL)
    for item in (np.ma.array(spoiled, mask=mask), [np.ma.array(row, mask=m) for row, m in zip(spoiled, mask)]):
        values, notes, _ = extract(item, **MV)
        assert "ecg: 5 missing samples in V2 interpolated" in notes and np.abs(values).max() < 5
    holes = pd.DataFrame(spoiled.T).astype("Float64").mask(mask.T)
    assert "ecg: 5 missing samples in V2 interpolated" in extract(holes, **MV)[1]


@pytest.mark.parametrize("key, version", [("feats", "5"), ("struct", "5"), ("struct with rate", "5"), ("val", "4")])
def test_bare_matlab_files(tmp_path, key, version):
    content = {key: SIGNAL}
    if key.startswith("struct"):
        content = {"ECG": {"sex": "Female", "age": 48, "data": SIGNAL, **({"fs": 500} if "rate" in key else {})}}
    scipy.io.savemat(tmp_path / "x.mat", content, format=version, do_compression=version == "5")
    kwargs = {name: value for name, value in MV.items() if "rate" not in key or name != "sampling_rate"}
    values, notes, patient = extract(tmp_path / "x.mat", **kwargs)
    np.testing.assert_allclose(values, EXPECTED, atol=1e-6)
    assert "ecg: MATLAB file: lead names and unit as given, not declared" in notes
    assert patient == ({"age": 48.0, "sex": "F"} if key.startswith("struct") else {"age": None, "sex": None})
    with pytest.raises(
        ValueError, match="no header with lead names, rate; pass leads=, sampling_rate=|lead names; pass leads="
    ):
        extract(tmp_path / "x.mat", unit="mV")


def test_matlab_bombs_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(read_ecg_matlab_medtvt, "MAX_BYTES", 5_000_000)
    monkeypatch.setattr(scipy.io, "loadmat", lambda *args: pytest.fail("the file was unpacked"))
    packed = zlib.compress(bytes(6_000_000), 9)
    header = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM" + struct.pack("<II", 15, len(packed))
    (tmp_path / "x.mat").write_bytes(header + packed)
    with pytest.raises(ValueError, match="more than 5000000 bytes"):
        extract(tmp_path / "x.mat", **MV)


CONTRADICTIONS = [
    ({"sampling_rate": 250}, "the file declares 500 Hz, sampling_rate= says 250"),
    ({"leads": [*LEADS[:3], "aVL", "aVR", *LEADS[5:]]}, "the file names its leads I, II, III, aVR"),
    ({"unit": "mV"}, "the unit of lead I that the file declares is not that of unit="),
]


@pytest.mark.parametrize("kwargs, message", CONTRADICTIONS)
def test_a_caller_may_not_contradict_the_file(files, kwargs, message):
    extract(files / "edf.edf", sampling_rate=500, leads=LEADS, unit="uV")
    with pytest.raises(ValueError, match=message):
        extract(files / "edf.edf", **kwargs)


def _replace(content, old, new):
    assert old in content
    return content.replace(old, new, 1)


DAMAGED = [
    ("muse.xml", lambda c: c[:-300], "the XML is damaged"),
    ("philips.xml", lambda c: c[:2000], "the XML is damaged"),
    (
        "muse.xml",
        lambda c: _replace(c, b"?>", b'?><!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>'),
        "XML entities",
    ),
    ("aecg.xml", lambda c: _replace(c, b"?>", b'?><!DOCTYPE x [<!ENTITY e "xx">]>'), "XML entities"),
    ("muse.xml", lambda c: c.replace(b"MICROVOLTS", b"COUNTS"), "declares no unit of voltage for lead I"),
    ("muse.xml", lambda c: _replace(c, b"<LeadDataCRC32>", b"<LeadDataCRC32>1"), "checksum"),
    ("scp.scp", lambda c: c[:-500] + bytes([c[-500] ^ 1]) + c[-499:], "a checksum of the SCP-ECG file does not fit"),
    ("scp.scp", lambda c: c[:-500], "the SCP-ECG file cannot be read"),
    ("edf.edf", lambda c: c[:3000], "the EDF file cannot be read"),
    ("ishne.ecg", lambda c: c[:400], "the ISHNE file cannot be read"),
]


@pytest.mark.parametrize("name, change, message", DAMAGED)
def test_damaged_files_get_one_line(files, tmp_path, name, change, message):
    (tmp_path / name).write_bytes(change((files / name).read_bytes()))
    with pytest.raises(ValueError, match=message) as error:
        extract(tmp_path / name)
    assert str(error.value).startswith(f"ecg: {tmp_path / name}: ") and "\n" not in str(error.value)


def test_compressed_waveforms_that_unpack_to_too_much_are_refused(files, tmp_path):
    text = (
        (files / "philips.xml")
        .read_text("utf-16")
        .replace('dataencoding="Base64"', 'dataencoding="Base64" compression="XLI"')
    )
    start = text.index('V6">') + 4
    codes = "".join(f"{code:010b}" for code in [0, *range(256, 1022), *[1021] * 120_000])  # strings that grow
    body = int(codes.ljust(-(-len(codes) // 8) * 8, "0"), 2).to_bytes(-(-len(codes) // 8), "big")
    bomb = draw.base64.b64encode(len(body).to_bytes(4, "little") + bytes(4) + body).decode()
    (tmp_path / "x.xml").write_text(text[:start] + bomb + text[text.index("</parsedwaveforms>") :], "utf-16")
    with pytest.raises(ValueError, match="unpack to more than 64000000 bytes"):
        extract(tmp_path / "x.xml")


def test_a_truncated_edf_is_read_and_noted(files, tmp_path):
    content = (files / "edf.edf").read_bytes()
    (tmp_path / "x").write_bytes(content[: -12 * 2 * RATE * 3])
    assert any("ends before the length that it declares" in note for note in extract(tmp_path / "x")[1])


def test_six_limb_leads_of_a_pocket_device_are_refused(tmp_path):
    draw.write_kardia(tmp_path / "x.json", SIGNAL)
    with pytest.raises(ValueError, match="lead V1, V2, V3, V4, V5, V6 is missing and cannot be derived"):
        extract(tmp_path / "x.json")


def test_missing_libraries_are_named(files, monkeypatch):
    monkeypatch.setitem(sys.modules, "ecgdatakit.parsing.parsers.edf", None)
    with pytest.raises(ImportError, match=r'EDF files need ecgdatakit: pip install "medtvt-r1\[formats\]"'):
        extract(files / "edf.edf")
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(ImportError, match=r'pip install "medtvt-r1\[dicom\]"'):
        extract(files / "dicom.dcm")


def test_the_parsers_bring_no_denoiser(files):
    extract(files / "muse.xml")
    assert not [name for name in sys.modules if name.startswith("ecgdatakit.processing")]


NAMES = {
    "I": ["i", "Lead I", "LEAD-I", "MDC_ECG_LEAD_I", "ECG I", "EKG I", "Lead I (Einthoven)", "DI", "D1", "ecg lead i"],
    "III": ["iii", "D3", "Lead III (Einthoven)"],
    "aVR": ["AVR", "avr", "a V R", "ECG aVR", "MDC_ECG_LEAD_aVR", "Lead aVR (Goldberger)"],
    "V1": ["v1", "V 1", "V_1", "ECG V1", "Lead V1 (Wilson)"],
    None: ["-aVR", "I-II", "V1-V2", "V7", "V3R", "MLII", "X", "", "ECG", "aVR (inverted)", "D4", "II 2", "VI"],
}  # fmt: skip


@pytest.mark.parametrize("lead", NAMES)
def test_lead_names(lead):
    assert {name: canonical_lead(name) for name in NAMES[lead]} == dict.fromkeys(NAMES[lead], lead)


@pytest.fixture
def record(tmp_path):
    """A WFDB record of format 16 at 250 Hz that a test may spoil."""
    signal = SIGNAL[:, ::2]
    lines = [f"rec {len(LEADS)} 250 {signal.shape[1]}", *(f"rec.dat 16 1000/mV 16 0 0 0 0 {lead}" for lead in LEADS)]
    (tmp_path / "rec.hea").write_text("\n".join(lines) + "\n")
    (tmp_path / "rec.dat").write_bytes(np.rint(signal * 1000).astype("<i2").T.tobytes())
    return tmp_path / "rec"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "ascii"])
@pytest.mark.parametrize("form", ["16", "16x1"], ids=["ours", "wfdb"])
@pytest.mark.parametrize("case", [str.lower, str.upper], ids=["lower", "upper"])
@pytest.mark.parametrize("first", ["rec 12 250 2500", "rec 12 250", "rec 12"])
def test_headers_as_they_are_found(record, encoding, form, case, first):
    """With a byte order mark, in capitals, without a length, without a rate."""
    text = record.with_suffix(".hea").read_text().replace("rec 12 250 2500", first).replace(".dat 16", f".dat {form}")
    record.with_suffix(".hea").unlink()
    (record.parent / case("rec.hea")).write_text(text, encoding=encoding)
    record.with_suffix(".dat").rename(record.parent / case("rec.dat"))
    item = record.parent / case("rec.hea")
    if first == "rec 12":
        with pytest.raises(ValueError, match="declares no sampling rate; pass sampling_rate="):
            extract(item)
    values, _, _ = extract(item, sampling_rate=250)
    np.testing.assert_allclose(values, EXPECTED, atol=0.06)  # each second sample: the noise differs
    assert [os.path.basename(file).lower() for file in ecg_files(item, "ecg", 250)] == ["rec.hea", "rec.dat"]


def test_too_much_is_refused_before_memory_is_taken(record):
    with open(record.with_suffix(".dat"), "wb") as file:
        file.truncate(10_000 * 3600 * 12 * 2)  # an hour at 10 kHz; sparse
    header = record.with_suffix(".hea")
    header.write_text(header.read_text().replace("250 2500", f"10000 {10_000 * 3600}"))
    with pytest.raises(ValueError, match="432000000 values; at most 25000000 are read"):
        extract(record)


def test_links_lead_into_the_store_of_the_same_repository_only(record):
    data = record.with_suffix(".dat")
    outside = record.parent.parent / "outside.dat"
    shutil.move(data, outside)
    data.symlink_to(outside)
    with pytest.raises(ValueError, match="a link that leads outside its folder"):
        extract(record)
    store = record.parent / ".git" / "annex" / "objects" / "Xx" / "key"
    store.parent.mkdir(parents=True)
    shutil.move(outside, store)
    data.unlink()
    data.symlink_to(store)
    assert extract(record)[0].any()


def test_a_lead_that_is_practically_zero_counts_as_dead(record):
    header = record.with_suffix(".hea")
    text = header.read_text()
    header.write_text(text.replace("1000/mV 16 0 0 0 0 V2", "1e300/mV 16 0 0 0 0 V2"))
    assert "ecg: lead V2 is practically zero" in extract(record)[1]
    for lead in LEADS[5:]:
        text = text.replace(f"1000/mV 16 0 0 0 0 {lead}\n", f"1000/nV 16 0 0 0 0 {lead}\n")
    header.write_text(text)
    with pytest.raises(ValueError, match="7 leads are constant or not recorded"):
        extract(record)
