# SPDX-License-Identifier: Apache-2.0
"""The ECG feature extractor on synthetic arrays, written WFDB records, the parity fixture and every real file."""

import itertools
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
import wfdb
from safetensors.numpy import load_file

from processing_medtvt.feature_extraction_medtvt_ecg import MedTVTEcgFeatureExtractor, read_item

from tests.toy import FIXTURES


PARITY = FIXTURES / "parity" / "preprocessing"
CASES = FIXTURES / "ecg"
LEADS = ["I", "II", "III", "aVR", "aVF", "aVL", "V1", "V2", "V3", "V4", "V5", "V6"]
LIMB = LEADS[:6]
MV = {"sampling_rate": 500, "leads": LEADS, "unit": "mV"}


def ecg(seconds=10.0, rate=500):
    """(12, samples) in mV: slow random waves that obey Einthoven's and Goldberger's laws, leads as in LEADS."""
    time = np.arange(round(seconds * rate)) / rate
    rng = np.random.default_rng(0)
    waves = [sum(a * np.sin(2 * np.pi * f * time + p) for f, a, p in rng.uniform(0.3, 3, (4, 3))) for _ in range(8)]
    one, two = waves[0] / 4, waves[1] / 4
    limb = [one, two, two - one, -(one + two) / 2, two - one / 2, one - two / 2]
    return np.stack([*limb, *(wave / 4 for wave in waves[2:])])


def without(signal, *names):
    """Arguments of a call with some leads left out."""
    kept = [lead for lead in LEADS if lead not in names]
    return {"ecg": signal[[LEADS.index(lead) for lead in kept]], **MV, "leads": kept}


def spoil(lead, value=np.nan, where=slice(None)):
    signal = ecg()
    signal[LEADS.index(lead), where] = value
    return signal


@pytest.fixture
def extractor():
    return MedTVTEcgFeatureExtractor()


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("written")
    kwargs = {"fmt": ["16"] * 12, "adc_gain": [1000.0] * 12, "baseline": [0] * 12, "write_dir": str(folder)}
    wfdb.wrsamp("rec", 500, ["mV"] * 12, LEADS, p_signal=ecg().T, **kwargs)
    return folder


@pytest.fixture
def record(written, tmp_path):
    """Path without extension of a 500 Hz record that a test may spoil."""
    for suffix in (".hea", ".dat"):
        shutil.copy(written / f"rec{suffix}", tmp_path)
    return tmp_path / "rec"


def run(extractor, *args, **kwargs):
    """Values and alterations of a single recording, without the doubts whether these waves are an ECG (they are not)."""
    features = extractor(*args, return_alterations=True, **kwargs)
    assert features["ecg_values"].shape == (1, 12, 1000) and features["ecg_values"].dtype == np.float32
    assert np.isfinite(features["ecg_values"]).all()
    doubts = ("is this an ECG?", "some are wrong")
    return features["ecg_values"][0], [note for note in features["alterations"][0] if not note.endswith(doubts)]


def test_parity_with_the_reference():
    expected = load_file(PARITY / "expected.safetensors")
    clean, notes = run(MedTVTEcgFeatureExtractor(), PARITY / "ecg" / "rec_clean")
    np.testing.assert_allclose(clean, expected["ecg.rec_clean"], atol=1e-6, rtol=0)
    assert notes == ["ecg: resampled from 500 Hz to 100 Hz"]

    zero, notes = run(MedTVTEcgFeatureExtractor(nan_policy="zero"), PARITY / "ecg" / "rec_nan")
    np.testing.assert_allclose(zero, expected["ecg.rec_nan"], atol=1e-6, rtol=0)
    assert not zero[[3, 8]].any() and "ecg: lead V3 set to zero because of 3 missing samples" in notes

    filled, notes = run(MedTVTEcgFeatureExtractor(), PARITY / "ecg" / "rec_nan")
    others = np.delete(np.arange(12), [3, 8])
    np.testing.assert_allclose(filled[others], zero[others], atol=1e-6, rtol=0)
    assert np.ptp(filled[[3, 8]], axis=1).min() > 0.1
    assert notes[:2] == ["ecg: 1 missing sample in aVR interpolated", "ecg: 3 missing samples in V3 interpolated"]


def test_round_trip(tmp_path):
    changed = MedTVTEcgFeatureExtractor(leads=["ii", "V1"], sampling_rate=250, duration=5, nan_policy="zero")
    changed.save_pretrained(tmp_path)
    for copy in (MedTVTEcgFeatureExtractor.from_pretrained(tmp_path), MedTVTEcgFeatureExtractor(**changed.to_dict())):
        assert copy.to_dict() == changed.to_dict()
        assert copy.leads == ["II", "V1"] and copy(ecg(), **MV)["ecg_values"].shape == (1, 2, 1250)


BAD_CONFIGURATIONS = [("leads", ["I", "i"]), ("leads", ["V7"]), ("nan_policy", 1), ("max_dead_leads", 13)]
BAD_CONFIGURATIONS += [("duration", value) for value in (0, 1e9, "10", np.nan)]
BAD_CONFIGURATIONS += [("sampling_rate", value) for value in (0, 1e12, True, None)]


@pytest.mark.parametrize("key, value", BAD_CONFIGURATIONS)
def test_bad_configuration_is_refused(key, value):
    with pytest.raises(ValueError, match=key):
        MedTVTEcgFeatureExtractor(**{key: value})


def test_every_kind_of_input_gives_the_same_values(extractor, record):
    signal = wfdb.rdrecord(str(record)).p_signal
    expected = extractor(signal, **MV)["ecg_values"]
    for item in (
        str(record), record, record.with_suffix(".hea"), record.with_suffix(".dat"),
        wfdb.rdrecord(str(record)), wfdb.rdrecord(str(record), physical=False), {"signal": signal.T, **MV},
    ):  # fmt: skip
        np.testing.assert_array_equal(extractor(item)["ecg_values"], expected)
    for array in (signal.T, torch.tensor(signal, requires_grad=True), signal.tolist(), list(signal.T)):
        np.testing.assert_array_equal(extractor(array, **MV)["ecg_values"], expected)


DESCRIBED = "500(7)/mV 16 3 0 0 0"
WRITTEN_OUT = [
    {},
    {"1000.0(0)/mV 16 0": DESCRIBED[:-4]},
    {"(0)": ""},
    {"(0)/mV 16 0": "/mV 16 11"},
    {"1000.0(0)/mV": "2e2(-40)/uV"},
    {".dat 16": ".dat 16+24"},
]
LEFT_TO_WFDB = [{"(0)/mV": ""}, {".dat 16": ".dat 16:2"}, {".dat 16": ".dat 16x1"}, {"16 0": "16"}, {"/mV": "/mV/x"}]


@pytest.mark.parametrize("changes", WRITTEN_OUT + LEFT_TO_WFDB, ids=str)
def test_records_are_read_as_wfdb_reads_them(record, changes, monkeypatch):
    """Format 16 by our own reader, which must leave to wfdb what it does not know."""
    header, data = record.with_suffix(".hea"), record.with_suffix(".dat")
    samples = np.fromfile(data, "<i2").reshape(-1, 12)
    samples[[3, 7, 7], [0, 0, 11]] = -32768  # missing
    data.write_bytes(bytes(24) + samples.tobytes())
    text = header.read_text()
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    header.write_text(text)
    expected = wfdb.rdrecord(str(record))
    if changes in WRITTEN_OUT:
        monkeypatch.setattr(wfdb, "rdrecord", lambda *args: pytest.fail("wfdb was called"))
    found = read_item(str(record), "ecg", None, None, None)
    np.testing.assert_array_equal(found.signal, expected.p_signal.T)
    assert (list(found.leads), list(found.units)) == (expected.sig_name, expected.units)
    assert float(found.sampling_rate) == expected.fs


def test_batches_and_tensors(extractor, record):
    batch = extractor([record, {"signal": ecg(5), **MV}], return_tensors="pt", return_alterations=True)
    assert isinstance(batch["ecg_values"], torch.Tensor) and batch["ecg_values"].shape == (2, 12, 1000)
    assert [len(notes) for notes in batch["alterations"]] == [2, 3]
    assert extractor(np.stack([ecg()] * 3), **MV)["ecg_values"].shape == (3, 12, 1000)
    assert extractor([ecg(), ecg(3)], **MV, return_tensors="np")["ecg_values"].shape == (2, 12, 1000)
    assert "alterations" not in extractor(record)


def test_names_with_dots(extractor, record):
    folder = record.parent / "mimic-iv-ecg-1.0.d"
    folder.mkdir()
    (folder / "rec.v2.hea").write_text(record.with_suffix(".hea").read_text())
    (folder / "rec.dat").write_bytes(record.with_suffix(".dat").read_bytes())
    expected = extractor(record)["ecg_values"]
    for name in ("rec.v2", "rec.v2.hea"):
        np.testing.assert_array_equal(extractor(folder / name)["ecg_values"], expected)


@pytest.mark.parametrize("unit, factor", [("Volts", 1e-3), ("uV", 1e3), ("µV", 1e3), ("\u03bcv", 1e3), ("nV", 1e6)])
def test_units(extractor, unit, factor):
    expected = run(extractor, ecg(), **MV)[0]
    np.testing.assert_allclose(run(extractor, ecg() * factor, **{**MV, "unit": unit})[0], expected)
    mixed = np.concatenate([ecg()[:11], ecg()[11:] * factor])
    np.testing.assert_allclose(run(extractor, mixed, **{**MV, "unit": ["mV"] * 11 + [unit]})[0], expected)


def test_leads_are_selected_by_name(extractor):
    shuffled = np.random.default_rng(1).permutation(12)
    names = ["i", "LEAD II", "lead-iii", "MDC_ECG_LEAD_aVR", "AVF", "a v l"]
    names += ["v1", "V 2", "V_3", "V-4", "Lead V5", "mdc_ecg_lead_v6"]
    names = [names[i] for i in shuffled] + ["vx", "-aVR"]
    signal = np.concatenate([ecg()[shuffled], np.full((2, 5000), np.nan)])
    # The unit of an unused signal does not matter.
    values, notes = run(extractor, signal, sampling_rate=500, leads=names, unit=["mV"] * 12 + ["mmHg", "mmHg"])
    np.testing.assert_array_equal(values, run(extractor, ecg(), **MV)[0])
    assert notes[0] == "ecg: ignored leads vx, -aVR"


@pytest.mark.parametrize("pair", list(itertools.combinations(LIMB, 2)), ids="-".join)
def test_limb_leads_are_derived_from_any_two(extractor, pair):
    dropped = [lead for lead in LIMB if lead not in pair]
    values, notes = run(extractor, **without(ecg(), *dropped))
    np.testing.assert_allclose(values, run(extractor, ecg(), **MV)[0], atol=1e-6)
    assert notes[:4] == [f"ecg: lead {lead} derived from {pair[0]} and {pair[1]}" for lead in dropped]


def test_a_limb_lead_of_nan_is_derived_and_a_dead_one_is_no_source(extractor):
    values, notes = run(extractor, spoil("II"), **MV)
    np.testing.assert_allclose(values, run(extractor, ecg(), **MV)[0], atol=1e-6)
    assert "ecg: lead II derived from I and III" in notes

    values, notes = run(extractor, **without(spoil("I", 0.0), "aVL"))
    np.testing.assert_allclose(values[5], run(extractor, ecg(), **MV)[0][5], atol=1e-6)
    assert notes[:2] == ["ecg: lead aVL derived from II and III", "ecg: lead I is constant"]


@pytest.mark.parametrize("value", [np.nan, 0.7])
@pytest.mark.parametrize("dead", [slice(6, 12), slice(0, 6)], ids=["precordial", "limb"])
def test_six_dead_leads_are_accepted_and_seven_refused(extractor, value, dead):
    signal = ecg()
    signal[dead] = value
    values, notes = run(extractor, signal, **MV)
    np.testing.assert_allclose(values[dead], 0 if np.isnan(value) else value, atol=1e-6)
    state = "not recorded, set to zero" if np.isnan(value) else "constant"
    assert sum(state in note for note in notes) == 6
    signal[[5, 6]] = value
    with pytest.raises(ValueError, match="7 leads are constant or not recorded"):
        extractor(signal, **MV)


def test_a_lead_that_is_mostly_missing_counts_as_not_recorded(extractor):
    signal = ecg()
    signal[8, 2000:] = np.nan
    values, notes = run(extractor, signal, **MV)
    assert not values[8].any() and "ecg: lead V3 not recorded, set to zero" in notes
    signal[:, 2000:] = np.nan
    with pytest.raises(ValueError, match="no finite sample|leads are constant or not recorded"):
        extractor(signal, **MV)


def test_a_lead_is_judged_by_the_part_that_is_used(extractor):
    signal = ecg(20)
    signal[7, :5000], signal[8, :5000] = 0.5, np.nan
    _, notes = run(extractor, signal, **MV)
    assert notes[:2] == ["ecg: lead V2 is constant", "ecg: lead V3 not recorded, set to zero"]


def test_gaps_are_interpolated_in_time(extractor):
    ramp = np.linspace(0, 1, 1000) + np.arange(12)[:, None] / 10
    holes = ramp.copy()
    holes[7, 100:150], holes[7, 300], holes[8, :2], holes[8, -1] = np.nan, np.inf, np.nan, -np.inf
    given = holes.copy()
    values, notes = run(extractor, given, **{**MV, "sampling_rate": 100})
    np.testing.assert_array_equal(given, holes)  # the caller's array is left alone
    np.testing.assert_allclose(values[7], ramp[7], atol=1e-6)
    np.testing.assert_allclose(values[8, [0, 1, -1]], ramp[8, [2, 2, -2]], atol=1e-6)
    assert notes == ["ecg: 51 missing samples in V2 interpolated", "ecg: 3 missing samples in V3 interpolated"]


PADDED = "recording lasts 7.3 s, padded with zeros to 10 s"
CUT = "only the first 10 s of 38.4 s used"
LENGTHS: list[tuple[float, float, list[str]]] = [
    (10, 100, []),
    (7.3, 100, [PADDED]),
    (7.3, 400, ["resampled from 400 Hz to 100 Hz", PADDED]),
]
LENGTHS += [(38.4, 1000, ["resampled from 1000 Hz to 100 Hz", CUT]), (10, 62.5, ["resampled from 62.5 Hz to 100 Hz"])]


@pytest.mark.parametrize("seconds, rate, expected_notes", LENGTHS)
def test_rate_and_length(extractor, seconds, rate, expected_notes):
    values, notes = run(extractor, ecg(seconds, rate), **{**MV, "sampling_rate": rate})
    assert notes == [f"ecg: {note}" for note in expected_notes]
    length = min(1000, round(seconds * 100))
    assert not values[:, length:].any()
    inner = slice(100, length - 100)  # the FFT rings at the ends of a wave that is not periodic
    np.testing.assert_allclose(values[:, inner], ecg(10, 100)[:, inner], atol=0.05)


@pytest.mark.parametrize("factor, note", [(20, "peak amplitude .* exceeds 10 mV"), (1e-3, "suspiciously small")])
def test_odd_amplitudes_are_reported(extractor, factor, note):
    _, notes = run(extractor, ecg() * factor, **MV)
    assert any(re.search(note, text) for text in notes)


BAD_ARRAYS = [
    ([], {}, "list is empty"),
    (ecg()[0], {}, "shape"),
    (ecg()[:11], {}, r"shape \(11, 5000\) with 12 lead names"),
    ([[1.0, 2.0], [1.0]], {}, "not a rectangular array"),
    (ecg() + 1j, {}, "real numbers"),
    (ecg(), {"leads": [*LEADS[:11], "V7"]}, "lead V6 is missing and cannot be derived"),
    (ecg(), {"leads": ["v 1", *LEADS[1:]]}, "lead V1 occurs twice"),
    (ecg(), {"leads": [f"ch{i}" for i in range(12)]}, "V1, V2, V3, V4, V5, V6 is missing.*found ch0"),
    (ecg(), {"leads": ["I", *"abcde", *LEADS[6:]]}, "lead II, III, .* is missing and the limb leads recorded are I;"),
    (ecg(), {"leads": "I"}, "leads must be a list"),
    (ecg(), {"unit": "mmHg"}, "the unit of lead I is not one of"),
    (ecg(), {"unit": ["mV"]}, "1 units for 12 leads"),
    (ecg(), {"unit": None}, "missing unit"),
    ({"signal": ecg(), "fs": 500}, dict.fromkeys(MV), "needs exactly signal"),
    ({"signal": ecg(), **MV}, {}, "sampling_rate, leads, unit given, but a dict item states its own"),
    ({1: 2}, dict.fromkeys(MV), "needs exactly signal"),
    (json.loads("[" * 900 + "]" * 900), {}, "more than two dimensions"),
    ("s3://bucket/rec.hea", dict.fromkeys(MV), "not a local path"),
    (ecg(2), {}, "last 2 s; accepted are 2.5 to 3600 s"),
    (np.full((12, 5000), np.nan), {}, "no finite sample"),
    (ecg() * 1000, {}, "exceeds 100 mV; is the unit wrong"),
    *[(ecg(), {"sampling_rate": rate}, "sampling rate") for rate in (0, np.nan, -5, 1e9, "fast")],
]


@pytest.mark.parametrize("item, changes, message", BAD_ARRAYS)
def test_bad_input_is_refused(extractor, item, changes, message):
    with pytest.raises(ValueError, match=message):
        extractor(item, **{**MV, **changes})


@pytest.mark.parametrize("item", [None, 7, [1.0, 2.0], object()])
def test_other_types_are_refused(extractor, item):
    with pytest.raises(TypeError, match="accepted are the path of a WFDB record"):
        extractor(item)


def test_errors_name_the_item_of_a_batch(extractor, record):
    with pytest.raises(FileNotFoundError, match=r"ecg\[1\]: there is no WFDB record"):
        extractor([record, record.parent / "missing.hea"])


BAD_HEADERS = [
    ("500 5000", "500 5001", "120000 bytes, the header promises 120024"),
    ("500 5000", "", "declares no sampling rate"),
    ("500 5000", "500 -1", "header's first line"),
    ("1000.0", "1e400", "gain 1e400"),
    ("rec 12", "rec 13", "announces 13 signals and describes 12"),
    ("rec 12", "rec 0", "announces 0 signals"),
    ("rec 12", "rec/2 12", "multi-segment"),
    ("rec.dat 16", "rec.dat 516", "signal format 516"),
    ("rec.dat 16", "rec.dat sixteen", "header's line of signal 1"),
    ("1000.0", "0", "gain 0"),
    ("1000.0", "high", "header's line of signal 1"),
    ("/mV", "/µV", "other than ASCII"),
    ("/mV", "/mmHg", "the unit of lead I is not one of"),
    ("rec.dat 16", "rec.v2.dat 212", "wfdb cannot read"),
]
BAD_HEADERS += [("500 5000", f"{rate} 5000", "sampling rate") for rate in ("0", "49", "1000000000")]
BAD_HEADERS += [("500 5000", f"{rate} 5000", "header's first line") for rate in ("nan", "-5", "5e2")]
OUTSIDE = ("/etc/passwd", "../rec.dat", "..", "http://x/rec.dat", "~", "a\\b")
BAD_HEADERS += [("rec.dat", name, "not a plain name") for name in OUTSIDE]


@pytest.mark.parametrize("old, new, message", BAD_HEADERS)
def test_bad_headers_are_refused(extractor, record, old, new, message):
    shutil.copy(f"{record}.dat", record.parent / "rec.v2.dat")
    text = Path(f"{record}.hea").read_text()
    assert old in text
    Path(f"{record}.hea").write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        extractor(record)


def test_absurd_length_is_refused_before_anything_is_allocated(extractor, record, monkeypatch):
    monkeypatch.setattr(wfdb, "rdrecord", lambda *args: pytest.fail("wfdb was called"))
    Path(f"{record}.hea").write_text(Path(f"{record}.hea").read_text().replace("5000", "1000000000000"))
    with pytest.raises(ValueError, match="1000000000000 samples at 500 Hz last"):
        extractor(record)


GARBAGE = [b"", b"# only a comment\n", bytes(range(256)) * 8, b"\x00" * 100, b"rec a b c\n", b"#" * 2**20]


@pytest.mark.parametrize("content", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_headers_are_refused(extractor, record, content):
    record.with_suffix(".hea").write_bytes(content)
    with pytest.raises(ValueError, match=r"rec.hea: the header"):
        extractor(record)


@pytest.mark.parametrize("removed, path", [(".dat", "rec"), (".hea", "rec.dat"), (".hea", "rec")])
def test_missing_files_are_refused(extractor, record, removed, path):
    record.with_suffix(removed).unlink()
    with pytest.raises(FileNotFoundError, match="rec"):
        extractor(record.parent / path)


REAL = sorted(CASES.rglob("*.hea"))
REFUSED = {
    CASES / "not_12_lead/A00001.hea": "V1, V2, V3, V4, V5, V6 is missing.*found ECG",
    **dict.fromkeys(CASES.glob("code15/*.mat"), "no header with lead names"),
}


@pytest.mark.parametrize("path", [path for path in REAL if path not in REFUSED], ids=lambda p: p.stem)
def test_real_records_open(extractor, path):
    values, notes = run(extractor, path)
    # Rounding of the stored samples and, in s0010_re, a little noise: Einthoven's law still tells the leads apart.
    one, two, three, avr, avf, avl = values[:6]
    for lead, law in ((three, two - one), (avr, -(one + two) / 2), (avf, two - one / 2), (avl, one - two / 2)):
        np.testing.assert_allclose(lead, law, atol=0.05)
    constant = {"JS20004": ["V2", "V4", "V6"]}.get(path.stem, [])
    assert [note for note in notes if "constant" in note] == [f"ecg: lead {lead} is constant" for lead in constant]
    assert ("ecg: peak amplitude 11.4 mV exceeds 10 mV" in notes) == (path.stem == "JS20011")
    assert ("ecg: ignored leads vx, vy, vz" in notes) == (path.stem == "s0010_re")


@pytest.mark.parametrize("path", REFUSED, ids=lambda path: path.name)
def test_real_files_of_other_kinds_are_refused(extractor, path):
    with pytest.raises(ValueError, match=REFUSED[path]):
        extractor(path)


def test_matlab_struct_is_refused(extractor, tmp_path):
    # as CPSC 2018 has them: a struct, where a WFDB .mat holds one array
    scipy.io.savemat(tmp_path / "x.mat", {"ECG": {"sex": "Female", "age": 48, "data": ecg()}})
    with pytest.raises(ValueError, match="no header with lead names"):
        extractor(tmp_path / "x.mat")


@pytest.mark.parametrize("patient", ["00012", "00190", "00260", "00348"])
def test_ptbxl_at_100_and_500_hz_agree(extractor, patient):
    low, high = (run(extractor, next(CASES.rglob(f"{patient}_{rate}.hea")))[0] for rate in ("lr", "hr"))
    for lead, a, b in zip(LEADS, low, high, strict=True):
        assert np.corrcoef(a, b)[0, 1] > 0.95, lead
