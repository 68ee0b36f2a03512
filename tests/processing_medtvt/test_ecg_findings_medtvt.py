# SPDX-License-Identifier: Apache-2.0
import re
from dataclasses import replace

import numpy as np
import pytest

from medtvt_training.synthetic.ecg import draw_ecg
from medtvt_training.synthetic.findings import FINDINGS
from medtvt_training.synthetic.signs import EcgSigns
from processing_medtvt.ecg_findings_medtvt import RULES, abnormal_ecg, judge_ecg
from processing_medtvt.measure_ecg_medtvt import measure_ecg


NORMAL = EcgSigns(
    male=True,
    rhythm="sinus",
    rate=72,
    rr_variation=0.02,
    p_ms=98,
    pr_ms=160,
    qrs_ms=90,
    qtc_ms=415,
    axis=45,
)
LVH = {"lvh": 0.8, "strain": True}
# finding -> signs with which it is seen
PRESENT: dict[str, dict] = {
    "sinus rhythm": {},
    "sinus tachycardia": {"rate": 112},
    "sinus bradycardia": {"rate": 50},
    "fibrillation": {"rhythm": "af", "rate": 85, "rr_variation": 0.19},
    "flutter": {"rhythm": "flutter", "rate": 150, "rr_variation": 0.005},
    "rapid response": {"rhythm": "af", "rate": 125, "rr_variation": 0.2},
    "paced": {"rhythm": "paced", "rate": 70, "rr_variation": 0.004, "qrs_ms": 160, "axis": -65},
    "premature atrial beats": {"pacs": 2},
    "premature ventricular beats": {"pvcs": 2},
    "left atrial enlargement": {"left_atrium": True, "p_ms": 130, "pr_ms": 180},
    "prolonged PR": {"pr_ms": 240},
    "left bundle branch block": {"conduction": "lbbb", "qrs_ms": 150},
    "right bundle branch block": {"conduction": "rbbb", "qrs_ms": 136},
    "left axis": {"axis": -55},
    "right axis": {"axis": 112},
    "prolonged QTc": {"qtc_ms": 510},
    "LVH voltage": {"lvh": 0.8},
    "strain": LVH,
    "low voltage": {"low_voltage": "generalized"},
    "poor R progression": {"poor_r_progression": True},
    "inferior Q waves": {"infarct": "inferior"},
    "anterior Q waves": {"infarct": "anterior"},
    "anteroseptal Q waves": {"infarct": "anteroseptal"},
    "septal Q waves": {"infarct": "septal"},
    "ST elevation": {"acute": "inferior", "acute_mv": 0.3},
    "ST depression": {"ischaemia": "lateral", "ischaemia_mv": -0.14},
    "lateral T inversion": {"ischaemia": "lateral T"},
    "nonspecific ST-T": {"nonspecific": "extensive", "nonspecific_mv": 0.0},
    "tented T": {"tented_t": True},
    "U waves": {"flat_t_u": True, "rate": 65},
    "tachycardia": {"rate": 112},
    "bradycardia": {"rate": 50},
    "wide QRS": {"conduction": "lbbb", "qrs_ms": 150},
    "pause": {"rate": 34, "rr_variation": 0.06, "pvcs": 1},
}
# what a normal ECG shows -> signs with which it is not seen
NORMALITY: dict[str, dict] = {
    "normal rate": {"rate": 115},
    "normal PR": {"pr_ms": 240},
    "normal QRS": {"conduction": "rbbb", "qrs_ms": 140},
    "normal axis": {"axis": -60},
    "normal QTc": {"qtc_ms": 510},
    "normal ST": {"acute": "anterior", "acute_mv": 0.3},
    "normal ECG": {"conduction": "lbbb", "qrs_ms": 150},
}
SEEDS = (1, 2)


def measure(seed: int, **signs) -> dict[str, float]:
    return measure_ecg(draw_ecg(replace(NORMAL, **signs), np.random.default_rng(seed)))


@pytest.fixture(scope="module")
def normal() -> list[dict[str, float]]:
    return [measure(seed) for seed in SEEDS]


def test_every_finding_of_an_ecg_has_a_rule():
    assert {name for name in FINDINGS if name.startswith("ecg: ")} <= set(RULES)
    assert {f"ecg: {name}" for name in [*PRESENT, *NORMALITY]} == set(RULES)


@pytest.mark.parametrize("finding", PRESENT)
def test_a_drawn_sign_is_seen_and_is_not_seen_in_a_normal_ecg(finding, normal):
    for seed, without in zip(SEEDS, normal):
        verdict, words = judge_ecg(f"ecg: {finding}", measure(seed, **PRESENT[finding]))
        assert verdict is True, words
        if finding != "sinus rhythm":
            assert judge_ecg(f"ecg: {finding}", without)[0] is False


@pytest.mark.parametrize("finding", NORMALITY)
def test_what_is_normal(finding, normal):
    for seed, without in zip(SEEDS, normal):
        assert judge_ecg(f"ecg: {finding}", without)[0] is True
        assert judge_ecg(f"ecg: {finding}", measure(seed, **NORMALITY[finding]))[0] is False


@pytest.mark.parametrize(
    "finding, signs",
    [
        ("prolonged QTc", {"qtc_ms": 479}),
        ("prolonged PR", {"pr_ms": 202}),
        ("sinus bradycardia", {"rate": 59.4, "rr_variation": 0.01}),
        ("prolonged PR", {"rate": 140}),  # P lies on T
        ("poor R progression", {"conduction": "lbbb", "qrs_ms": 150}),
        ("left axis", {"limb_swap": True}),
        ("LVH voltage", {"rhythm": "paced", "qrs_ms": 160, "axis": -65}),
        ("prolonged QTc", {"qtc_ms": 460}),  # T of real ECGs seems to end early
        ("prolonged PR", {"pr_ms": 220}),  # and P to begin early
        ("sinus rhythm", {"rate": 50}),
        ("ST depression", {"conduction": "rbbb", "qrs_ms": 140}),
        *(("normal ECG", signs) for signs in ({"rate": 50}, {"axis": -55}, {"lvh": 0.8})),  # readers let it pass
    ],
)
def test_what_cannot_be_told_stays_open(finding, signs):
    for seed in SEEDS:
        verdict, words = judge_ecg(f"ecg: {finding}", measure(seed, **signs))
        assert verdict is None, words


@pytest.mark.parametrize(
    "finding, signs, said",
    [
        ("prolonged QTc", {"qtc_ms": 510}, r"QTc 5\d\d ms \(prolonged above 480\)"),
        ("fibrillation", {"rhythm": "af", "rr_variation": 0.19}, r"RR intervals vary by 1\d%"),
        ("fibrillation", {}, "regular P waves"),
        ("fibrillation", {"rhythm": "af", "rr_variation": 0.19}, "no regular P waves"),
        ("left axis", {"limb_swap": True}, "arm electrodes seem exchanged"),
    ],
)
def test_the_measurement_is_said(finding, signs, said):
    assert re.search(said, judge_ecg(f"ecg: {finding}", measure(1, **signs))[1])


def test_absent_leads_leave_findings_open():
    signal = draw_ecg(replace(NORMAL, lvh=0.8, infarct="septal"), np.random.default_rng(0))
    signal[6:] = np.nan
    measured = measure_ecg(signal)
    for finding in ("LVH voltage", "septal Q waves", "right bundle branch block", "U waves", "tented T"):
        verdict, words = judge_ecg(f"ecg: {finding}", measured)
        assert verdict is not True
        assert "nan" not in words
    assert judge_ecg("ecg: septal Q waves", measured) == (None, "not measured")
    assert judge_ecg("ecg: sinus rhythm", measured)[0] is True


@pytest.mark.parametrize("measured", [{}, measure_ecg(np.zeros((12, 5000)))], ids=["nothing", "flat"])
def test_nothing_measured_says_nothing(measured):
    assert {judge_ecg(finding, measured) for finding in RULES} == {(None, "not measured")}
    assert abnormal_ecg(measured) == []


def test_abnormal_findings_come_gravest_first(normal):
    assert [abnormal_ecg(measured) for measured in normal] == [[], []]
    found = abnormal_ecg(measure(1, acute="inferior", acute_mv=0.3, rate=112, pr_ms=160))
    names = [name for name, _ in found]
    assert names[0] == "ecg: ST elevation" and "ecg: sinus tachycardia" in names
    assert "mV" in found[0][1]


def test_an_unknown_finding_is_refused():
    with pytest.raises(ValueError, match="'ecg: sine wave' has no rule; accepted are ecg: sinus rhythm"):
        judge_ecg("ecg: sine wave", {})
