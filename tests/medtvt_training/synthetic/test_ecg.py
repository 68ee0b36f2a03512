# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import wfdb
from scipy.signal import find_peaks

from medtvt_training.synthetic.ecg import draw_ecg, write_ecg
from medtvt_training.synthetic.signs import EcgSigns
from processing_medtvt import MedTVTEcgFeatureExtractor
from processing_medtvt.feature_extraction_medtvt_ecg import STANDARD_LEADS
from processing_medtvt.measure_ecg_medtvt import measure_ecg


CLEAN = EcgSigns(
    male=True,
    rhythm="sinus",
    rate=70,
    rr_variation=0.006,
    p_ms=100,
    pr_ms=170,
    qrs_ms=94,
    qtc_ms=415,
    axis=45,
    wander_mv=0,
    mains_mv=0,
    emg_mv=0,
)
NOISY = replace(CLEAN, wander_mv=0.12, mains_mv=0.01, emg_mv=0.006)
LEAD = {name: row for row, name in enumerate(STANDARD_LEADS)}
INFERIOR, LATERAL = ("II", "III", "aVF"), ("I", "V5", "V6")
SEEDS = range(4)


def draw(seed: int = 0, signs: Any = CLEAN, **changes: Any) -> Any:
    return draw_ecg(replace(signs, **changes), np.random.default_rng(seed))


def beat_of(signal: Any) -> Any:
    """`dict` of 1.1 s of each lead of one beat, from 0.3 s before QRS, level before QRS as zero; needs no noise."""
    speed = np.abs(np.diff(signal, axis=1)).sum(axis=0)
    start = 1000
    middle = start + np.argmax(speed[start : start + 450])
    fast = np.convolve(speed[middle - 110 : middle] > 0.012, np.ones(6), mode="valid")
    onset = middle - 110 + np.flatnonzero(fast == 0)[-1] + 5  # after six quiet samples
    beat = signal[:, onset - 150 : onset + 400]
    return dict(zip(STANDARD_LEADS, beat - beat[:, 148:149]))


def qrs_of(beat: Any, qrs_ms: Any = 94) -> dict[Any, Any]:
    return {name: values[150 : 151 + int(qrs_ms / 2)] for name, values in beat.items()}


def st_of(beat: Any, qrs_ms: Any = 94) -> dict[Any, Any]:
    j = 150 + int(qrs_ms / 2)
    return {name: values[j + 30 : j + 41].mean() for name, values in beat.items()}


def t_of(beat: Any, qrs_ms: Any = 94) -> dict[Any, Any]:
    """The wave farthest from zero after ST."""
    late = {name: values[150 + int(qrs_ms / 2) + 45 : 150 + 220] for name, values in beat.items()}
    return {name: values[np.abs(values).argmax()] for name, values in late.items()}


def spectrum_peak(values: Any, low: Any, high: Any) -> Any:
    power = np.abs(np.fft.rfft(values - values.mean())) ** 2
    frequencies = np.fft.rfftfreq(values.size, 1 / 500)
    power[(frequencies < low) | (frequencies > high)] = 0
    return frequencies[power.argmax()]


def test_signal():
    signal = draw(signs=NOISY)
    assert signal.shape == (12, 5000) and signal.dtype == np.float32
    np.testing.assert_array_equal(signal, draw(signs=NOISY))
    assert not np.array_equal(signal, draw(seed=1, signs=NOISY))
    i, ii, iii, avr, avf, avl = signal[:6]
    np.testing.assert_allclose(iii, ii - i, atol=1e-5)
    np.testing.assert_allclose(avr, -(i + ii) / 2, atol=1e-5)
    np.testing.assert_allclose(avf, (ii + iii) / 2, atol=1e-5)
    np.testing.assert_allclose(avl, (i - iii) / 2, atol=1e-5)


@pytest.mark.parametrize("male", [True, False])
@pytest.mark.parametrize("seed", SEEDS)
def test_normal(male, seed):
    beat = beat_of(draw(seed, male=male))
    qrs = qrs_of(beat)
    assert all(abs(level) < 0.03 for level in st_of(beat).values())
    t = t_of(beat)
    assert all(0.08 < t[name] < 0.95 for name in ("I", "II", "V3", "V4", "V5", "V6")) and t["aVR"] < 0
    growing = [qrs[name].max() for name in ("V1", "V2", "V3", "V4")]
    assert growing == sorted(growing) and growing[2] > 0.4
    assert qrs["V1"].max() < -qrs["V1"].min()
    assert max(np.ptp(qrs[name]) for name in list(LEAD)[:6]) > 0.5
    assert max(np.ptp(qrs[name]) for name in list(LEAD)[6:]) > 1.0
    assert max(qrs["V5"].max(), qrs["V6"].max()) - qrs["V1"].min() < 3.5
    assert qrs["aVL"].max() < 1.1 and qrs["aVL"].max() - qrs["V3"].min() < (2.8 if male else 2.0)
    # small septal Q waves only
    assert all(-qrs[name][:30].min() < 0.25 * qrs[name].max() for name in ("I", "II", "aVF", "V4", "V5", "V6"))
    p = {name: values[150 - 85 : 148] for name, values in beat.items()}
    assert 0.08 < p["II"].max() < 0.25 and p["V1"].min() > -0.06


def test_men_have_higher_voltages():
    heights = [[np.ptp(draw(seed, male=male)[9]) for seed in range(20)] for male in (True, False)]
    assert np.mean(heights[0]) > 1.1 * np.mean(heights[1])


INTERVALS = [
    {"rate": 52},
    {"rate": 125},
    {"qrs_ms": 76},
    {"qrs_ms": 108},
    {"qtc_ms": 370},
    {"qtc_ms": 500},
    {"axis": -55},
    {"axis": 85},
    {"axis": 110},
    {"conduction": "lbbb", "qrs_ms": 150, "axis": -20},
    {"conduction": "rbbb", "qrs_ms": 136},
    {"conduction": "rbbb_lafb", "qrs_ms": 140, "axis": -50},
    {"infarct": "inferior"},
    {"tented_t": True},
    {"rhythm": "paced", "qrs_ms": 160, "axis": -65},
    {"low_voltage": "generalized"},
]


@pytest.mark.parametrize("changes", INTERVALS, ids=str)
@pytest.mark.parametrize("noise", [CLEAN, NOISY], ids=["clean", "noisy"])
def test_intervals_and_axis_measure_as_stated(changes, noise):
    signs = replace(noise, **changes)
    for seed in range(2):
        found = measure_ecg(draw(seed, signs))
        assert found["heart_rate"] == pytest.approx(signs.rate, rel=0.01)
        assert found["rr_variation"] == pytest.approx(signs.rr_variation, abs=0.004)
        assert found["qrs_ms"] == pytest.approx(signs.qrs_ms, abs=13)
        assert found["qtc_ms"] == pytest.approx(signs.qtc_ms, abs=14)
        assert found["axis"] == pytest.approx(signs.axis, abs=7)


@pytest.mark.parametrize("changes", INTERVALS, ids=str)
def test_intervals_and_axis_measure_as_stated_in_varied_people(changes):
    signs = replace(NOISY, variety=1.0, **changes)
    errors = []
    for seed in range(5):
        found = measure_ecg(draw(seed, signs))
        assert found["heart_rate"] == pytest.approx(signs.rate, rel=0.01)
        errors.append([found[name] - getattr(signs, name) for name in ("qrs_ms", "qtc_ms", "axis")])
    assert (np.abs(np.median(errors, axis=0)) < [13, 14, 12]).all()


def test_varied_people_are_normal():
    """They differ more than the plain ones, and stay within the limits of normal adults."""
    levels, heights = [], []
    for seed in range(24):
        beat = beat_of(draw(seed, variety=1.0))
        # the machine's filter moves the level a little
        levels.append([st_of(beat)[name] for name in ("I", "II", "V2", "V3", "V5", "V6")])
        heights.append([np.ptp(qrs_of(beat)[name]) for name in ("II", "V2", "V5")])
        q = {name: -qrs_of(beat)[name][:12].min() for name in ("II", "V5")}
        assert all(depth < 0.25 * qrs_of(beat)[name].max() for name, depth in q.items())
        assert max(qrs_of(beat)["V5"].max(), qrs_of(beat)["V6"].max()) - qrs_of(beat)["V1"].min() < 3.6
    plain = [[np.ptp(qrs_of(beat_of(draw(seed)))[name]) for name in ("II", "V2", "V5")] for seed in range(24)]
    assert np.min(levels) > -0.06 and np.max(levels) < 0.2
    assert np.median(levels, axis=0)[2] > 0.04  # J lies high in V2
    assert (np.std(np.log(heights), axis=0) > 0.9 * np.std(np.log(plain), axis=0)).all()


def test_variety_leaves_the_beats_where_they_were():
    plain, varied = (measure_ecg(draw(3, signs=replace(NOISY, variety=variety))) for variety in (0.0, 1.0))
    assert plain["heart_rate"] == pytest.approx(varied["heart_rate"], rel=0.005)
    np.testing.assert_array_equal(draw(3, variety=1.0), draw(3, variety=1.0))


@pytest.mark.parametrize("p_ms, pr_ms", [(90, 130), (105, 170), (112, 240)])
def test_p_and_pr_measure_as_stated(p_ms, pr_ms):
    p = beat_of(draw(p_ms=p_ms, pr_ms=pr_ms))["II"][:149]
    seen = np.flatnonzero(p > 0.008)
    assert (150 - seen[0]) * 2 == pytest.approx(pr_ms, abs=10)
    assert (seen[-1] - seen[0]) * 2 == pytest.approx(p_ms, abs=12)


def test_left_atrium():
    beat = beat_of(draw(left_atrium=True, p_ms=128, pr_ms=180))
    assert -0.16 < beat["V1"][60:140].min() < -0.09
    assert np.sum(beat["V1"][60:140] < -0.05) * 2 >= 30


@pytest.mark.parametrize("variation", [0.13, 0.19, 0.26])
def test_fibrillation(variation):
    for seed in SEEDS:
        signal = draw(seed, rhythm="af", rate=90, rr_variation=variation, f_wave_mv=0.2)
        assert measure_ecg(signal)["rr_variation"] == pytest.approx(variation, abs=0.05)
        assert measure_ecg(signal)["heart_rate"] == pytest.approx(90, abs=6)
        # the same heart without waves: what is left are they
        waves = signal - draw(seed, rhythm="af", rate=90, rr_variation=variation, f_wave_mv=0)
        assert 4.4 <= spectrum_peak(waves[LEAD["V1"]], 1, 30) <= 8.2
        assert 2 * np.sqrt(2) * waves[LEAD["V1"]].std() == pytest.approx(0.2, rel=0.02)
        assert np.argmax(waves.std(axis=1)) == LEAD["V1"]


def test_flutter():
    signal = draw(rhythm="flutter", rate=150, rr_variation=0.004)
    found = measure_ecg(signal)
    assert found["heart_rate"] == pytest.approx(150, abs=1) and found["rr_variation"] < 0.02
    for name in INFERIOR:
        assert spectrum_peak(signal[LEAD[name]], 4, 6) == pytest.approx(5, abs=0.15)
    assert all(np.ptp(signal[LEAD[name]]) > 2 * 0.1 for name in INFERIOR)


@pytest.mark.parametrize("lvh", [0.1, 0.6, 1.5])
@pytest.mark.parametrize("male", [True, False])
def test_left_ventricular_hypertrophy(lvh, male):
    for seed in SEEDS:
        beat = beat_of(draw(seed, lvh=lvh, strain=True, male=male))
        qrs, st, t = qrs_of(beat), st_of(beat), t_of(beat)
        assert max(qrs["V5"].max(), qrs["V6"].max()) - qrs["V1"].min() == pytest.approx(3.5 + lvh, rel=0.04)
        for name in (*LATERAL, "aVL"):
            assert -0.21 < st[name] < -0.03 and t[name] < -0.1


@pytest.mark.parametrize("where", ["limb", "chest", "generalized"])
def test_low_voltage(where):
    for seed in SEEDS:
        qrs = qrs_of(beat_of(draw(seed, low_voltage=where)))
        limb, chest = (max(np.ptp(qrs[name]) for name in names) for names in (list(LEAD)[:6], list(LEAD)[6:]))
        assert (limb < 0.5) == (where != "chest") and (chest < 1.0) == (where != "limb")


@pytest.mark.parametrize("infarct, leads", [("inferior", INFERIOR), ("anterior", ("V3", "V4"))])
def test_q_waves(infarct, leads):
    for seed in SEEDS:
        beat = beat_of(draw(seed, infarct=infarct))
        for name in leads:
            qrs = qrs_of(beat)[name]
            positive = np.flatnonzero(qrs > 0.01)
            q = qrs[: positive[0]] if positive.size else qrs
            assert q.size * 2 >= 40, name
            assert -q.min() >= 0.24 * qrs.max() and -q.min() > 0.05
            assert -0.6 < t_of(beat)[name] < -0.08


@pytest.mark.parametrize("infarct", ["septal", "anteroseptal"])
def test_qs(infarct):
    beat = beat_of(draw(infarct=infarct))
    for name in ("V1", "V2"):
        assert qrs_of(beat)[name].max() < 0.03 and t_of(beat)[name] < -0.1
    assert (t_of(beat)["V3"] < 0) == (infarct == "anteroseptal")


ACUTE = [
    ("inferior", INFERIOR, ("aVL",)),
    ("anterior", ("V2", "V3", "V4"), ("II", "III", "aVF")),
    ("lateral", ("I", "aVL", "V5", "V6"), ("III",)),
]


@pytest.mark.parametrize("level", [0.1, 0.25])
@pytest.mark.parametrize("acute, raised, reciprocal", ACUTE)
def test_acute(acute, raised, reciprocal, level):
    st = st_of(beat_of(draw(acute=acute, acute_mv=level)))
    for name in raised:
        assert st[name] > max(level, 0.2 if name in ("V2", "V3") else 0) - 0.02, name
    assert max(st[name] for name in raised) < 0.45
    assert all(st[name] < -0.08 for name in reciprocal)


@pytest.mark.parametrize("level", [-0.06, -0.15])
@pytest.mark.parametrize(
    "ischaemia, leads",
    [("lateral", LATERAL), ("inferior/lateral", ("II", "V5", "V6")), ("extensive", ("I", "II", "V4", "V5"))],
)
def test_ischaemia(ischaemia, leads, level):
    beat = beat_of(draw(ischaemia=ischaemia, ischaemia_mv=level))
    st = st_of(beat)
    for name in leads:
        assert st[name] == pytest.approx(level, abs=0.03)
        assert np.ptp(beat[name][150 + 52 : 150 + 82]) < 0.05  # horizontal
    assert max(st.values()) < 0.16


def test_lateral_t():
    beat = beat_of(draw(ischaemia="lateral T"))
    assert all(t_of(beat)[name] < -0.1 and abs(st_of(beat)[name]) < 0.03 for name in (*LATERAL, "aVL"))


@pytest.mark.parametrize(
    "where, leads",
    [
        ("lateral", LATERAL),
        ("inferior", ("II",)),
        ("inferior/lateral", ("II", "V5", "V6")),
        ("anterior", ("V3", "V4")),
        ("extensive", ("I", "II", "V2", "V3", "V4", "V5", "V6")),
    ],
)
def test_nonspecific(where, leads):
    beat = beat_of(draw(nonspecific=where, nonspecific_mv=-0.04))
    for name in leads:
        assert st_of(beat)[name] == pytest.approx(-0.04, abs=0.02) and abs(t_of(beat)[name]) < 0.09


def test_left_bundle_branch_block():
    beat = beat_of(draw(conduction="lbbb", qrs_ms=150, axis=10))
    qrs, t = qrs_of(beat, 150), t_of(beat, 150)
    assert qrs["V1"][:65].max() < 0.02 and qrs["V1"].min() < -0.6  # then ST rises
    for name in LATERAL:
        assert qrs[name][:65].min() > -0.02
        assert find_peaks(qrs[name][:65], prominence=0.02)[0].size == 2  # notched
        assert t[name] < -0.08
    assert t["V1"] > 0.1


def test_right_bundle_branch_block():
    beat = beat_of(draw(conduction="rbbb", qrs_ms=136))
    qrs = qrs_of(beat, 136)
    r, s, r_prime = qrs["V1"][:20].max(), qrs["V1"][5:40].min(), qrs["V1"][35:].max()
    assert r > 0.02 and s < -0.05 and r_prime > max(r, 0.4)
    for name in ("I", "V6"):
        assert np.sum(qrs[name] < -0.05) * 2 > 40
    assert t_of(beat, 136)["V1"] < -0.05 and t_of(beat, 136)["V6"] > 0.05


def test_left_anterior_fascicular_block():
    qrs = qrs_of(beat_of(draw(conduction="rbbb_lafb", qrs_ms=136, axis=-50)), 136)
    for name in ("III", "aVF"):
        assert 0.03 < qrs[name][:20].max() < -qrs[name].min()
    assert qrs["aVL"][:20].min() < -0.02


def test_paced():
    signal = draw(rhythm="paced", qrs_ms=160, axis=-60)
    steps = np.abs(np.diff(signal, axis=1)).max(axis=0)
    spikes = np.flatnonzero((steps[1:] > 0.2) & (steps[:-1] <= 0.2))
    assert np.median(np.diff(spikes)) / 500 == pytest.approx(60 / 70, rel=0.02)
    before = signal[:, spikes[2] - 100 : spikes[2]]
    assert np.ptp(before, axis=1).max() < 0.02  # no P


@pytest.mark.parametrize("male", [True, False])
def test_potassium(male):
    for seed in SEEDS:
        t = t_of(beat_of(draw(seed, tented_t=True, male=male)))
        assert t["II"] > 0.6 and all(t[name] > 1.0 for name in ("V2", "V3", "V4"))
        high = beat_of(draw(seed, tented_t=True, male=male))["V3"]
        assert np.sum(high > 0.5 * t["V3"]) * 2 < 100  # narrow
        beat = beat_of(draw(seed, flat_t_u=True, male=male))
        assert abs(beat["V3"][150 + 47 + 40 : 150 + 185]).max() < 0.13
        assert beat["V3"][150 + 200 : 150 + 290].max() > 0.09


def test_poor_r_progression():
    for seed in SEEDS:
        qrs = qrs_of(beat_of(draw(seed, poor_r_progression=True)))
        assert all(0.02 < qrs[name].max() < 0.3 for name in ("V1", "V2", "V3"))
        assert qrs["V4"].max() > 0.3


def test_ventricular_premature_beats():
    for seed in SEEDS:
        with_pvcs, without = draw(seed, pvcs=2), draw(seed)
        differing = np.flatnonzero(np.abs(with_pvcs - without).sum(axis=0) > 0.3)
        starts = differing[np.flatnonzero(np.diff(differing, prepend=-1000) > 300)]
        assert starts.size == 2
        # afterwards the beats come where they would have come: a compensatory pause
        assert np.allclose(with_pvcs[:, -300:], without[:, -300:], atol=0.05)
        found = measure_ecg(with_pvcs)
        assert found["heart_rate"] == pytest.approx(70, abs=2) and found["rr_variation"] < 0.03


def test_atrial_premature_beats():
    signal = draw(pacs=1)
    beats = np.flatnonzero(np.diff((signal[LEAD["V1"]] < 0.5 * signal[LEAD["V1"]].min()).astype(int)) > 0)
    intervals = np.diff(beats) / 500
    early = int(np.argmin(intervals))
    assert intervals[early] < 0.75 * np.median(intervals)
    assert intervals[early] + intervals[early + 1] < 1.95 * np.median(intervals)  # less than compensatory
    window = slice(beats[early + 1] - 100, beats[early + 1] - 40)
    assert signal[LEAD["II"], window].min() < -0.03  # the P wave is inverted


def test_faults_of_acquisition():
    plain = draw()
    swapped = draw(limb_swap=True)
    np.testing.assert_allclose(swapped[LEAD["I"]], -plain[LEAD["I"]], atol=1e-5)
    np.testing.assert_allclose(swapped[LEAD["II"]], plain[LEAD["III"]], atol=1e-5)
    np.testing.assert_allclose(swapped[LEAD["aVR"]], plain[LEAD["aVL"]], atol=1e-5)
    np.testing.assert_array_equal(swapped[6:], plain[6:])
    misplaced = np.abs(draw(misplaced=True) - plain).max(axis=1)
    assert misplaced[6:10].max() > 0.1 and misplaced[:6].max() < 0.02
    lost = draw(dead_lead=7, gap=(3, 2.0, 0.5), signs=NOISY)
    assert not lost[7].any() and np.isnan(lost[3, 1000:1250]).all() and np.isnan(lost).sum() == 250


@pytest.mark.parametrize(
    "name, size, measure",
    [
        ("wander_mv", 0.4, lambda noise: np.ptp(noise, axis=1).mean()),
        ("mains_mv", 0.03, lambda noise: noise.std(axis=1).mean()),
        ("emg_mv", 0.02, lambda noise: noise.std(axis=1).mean()),
    ],
)
def test_noise(name, size, measure):
    noise = draw(**{name: size}) - draw()
    independent = noise[[0, 1, *range(6, 12)]]
    assert measure(independent) == pytest.approx(size, rel=0.05)
    if name == "mains_mv":
        assert all(spectrum_peak(lead, 1, 240) == pytest.approx(60) for lead in noise)
    if name == "wander_mv":
        assert all(spectrum_peak(lead, 0, 240) < 0.65 for lead in noise)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"lvh": 0.5, "low_voltage": "chest"}, "lvh"),
        ({"strain": True}, "strain"),
        ({"conduction": "lbbb", "infarct": "inferior"}, "infarct"),
        ({"rhythm": "paced", "acute": "inferior", "acute_mv": 0.2}, "acute"),
        ({"rhythm": "af", "pacs": 1}, "pacs"),
        ({"rhythm": "vf"}, "rhythm is 'vf'"),
        ({"infarct": "posterior"}, "infarct is 'posterior'"),
        ({"rate": 5}, "rate is 5"),
        ({"pvcs": 9}, "premature beats"),
    ],
)
def test_signs_that_cannot_be_seen_together(changes, message):
    with pytest.raises(ValueError, match=message):
        draw(**changes)


def test_write_and_read(tmp_path):
    signal = draw(signs=NOISY, gap=(1, 3.0, 0.2))
    write_ecg(tmp_path / "p-1_a", signal)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p-1_a.dat", "p-1_a.hea"]
    record = wfdb.rdrecord(str(tmp_path / "p-1_a"))
    assert record.sig_name == list(STANDARD_LEADS) and record.fs == 500 and set(record.units) == {"mV"}
    assert set(record.adc_gain) == {200} and set(record.baseline) == {0} and set(record.fmt) == {"16"}
    assert record.comments == ["Synthetic, no real patient"]
    np.testing.assert_allclose(record.p_signal.T, signal, atol=0.0026)
    digital = wfdb.rdrecord(str(tmp_path / "p-1_a"), physical=False)
    assert digital.checksum == digital.calc_checksum() and digital.init_value == digital.d_signal[0].tolist()
    values = MedTVTEcgFeatureExtractor()(str(tmp_path / "p-1_a.hea"))["ecg_values"]
    assert np.shape(values) == (1, 12, 1000) and np.isfinite(values).all()


@pytest.mark.parametrize(
    "name, signal, message",
    [
        ("a b", np.zeros((12, 5000)), "record name"),
        ("a.hea", np.zeros((12, 5000)), "record name"),
        ("a", np.zeros((5000, 12)), "shape"),
        ("a", np.full((12, 5000), 200.0), "200 mV"),
    ],
)
def test_write_refuses(tmp_path, name, signal, message):
    with pytest.raises(ValueError, match=message):
        write_ecg(tmp_path / name, signal)
    assert not list(tmp_path.iterdir())


def test_measures_despite_faults():
    whole = measure_ecg(draw(signs=NOISY))
    found = measure_ecg(draw(signs=NOISY, dead_lead=8, gap=(1, 4.0, 1.0)))
    assert np.isnan(found["r_v3"]) and np.isfinite(found["st_anterior"])
    for name in ("heart_rate", "qrs_ms", "qtc_ms", "axis", "sv1_rv56", "p_amplitude"):
        assert found[name] == pytest.approx(whole[name], rel=0.1), name


@pytest.mark.parametrize("signal", [np.zeros((12, 5000)), np.full((12, 5000), np.nan)], ids=["flat", "missing"])
def test_nothing_to_measure(signal):
    found = measure_ecg(signal)
    assert set(found) == set(measure_ecg(draw())) and all(np.isnan(value) for value in found.values())


def test_measure_refuses_other_shapes():
    with pytest.raises(ValueError, match="shape"):
        measure_ecg(np.zeros((5000, 12)))
