# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import numpy as np
import pytest

from medtvt_training.synthetic.ecg import draw_ecg
from medtvt_training.synthetic.signs import EcgSigns
from processing_medtvt.measure_ecg_medtvt import measure_ecg


NORMAL = EcgSigns(
    male=False, rhythm="sinus", rate=70, rr_variation=0.02, p_ms=100, pr_ms=165, qrs_ms=92, qtc_ms=420, axis=40
)


def measure(seed: int, **signs) -> dict[str, float]:
    return measure_ecg(draw_ecg(replace(NORMAL, **signs), np.random.default_rng(seed)))


@pytest.mark.parametrize("mains_mv", [0, 0.05])
@pytest.mark.parametrize("low_voltage", [None, "limb", "chest"])
def test_mains_are_no_beats_and_leave_intervals(mains_mv, low_voltage):
    for seed in range(3):
        found = measure(seed, mains_mv=mains_mv, emg_mv=0.015, low_voltage=low_voltage)
        assert found["heart_rate"] == pytest.approx(70, rel=0.01)
        assert found["other_forms"] == 0
        assert found["qrs_ms"] == pytest.approx(92, abs=13)
        assert found["axis"] == pytest.approx(40, abs=8)


@pytest.mark.parametrize("p_ms, pr_ms", [(90, 130), (105, 180), (112, 240)])
def test_p_and_pr(p_ms, pr_ms):
    for seed in range(3):
        found = measure(seed, p_ms=p_ms, pr_ms=pr_ms)
        assert found["pr_ms"] == pytest.approx(pr_ms, abs=8)
        assert found["p_ms"] == pytest.approx(p_ms, abs=12)
        assert found["p_regularity"] > 0.8


@pytest.mark.parametrize("rate", [48, 70, 85])
@pytest.mark.parametrize("pvcs", [1, 3])
def test_wide_premature_beats_are_counted(rate, pvcs):
    for seed in range(3):
        found = measure(seed, rate=rate, pvcs=pvcs)
        # the first and the last beat are not judged
        assert 1 <= found["wide_beats"] <= found["other_forms"] <= pvcs
        assert found["heart_rate"] == pytest.approx(rate, rel=0.1)


def test_narrow_premature_beats_are_early():
    for seed in range(3):
        found = measure(seed, pacs=2)
        assert found["early_beats"] == 2 and found["shortest_rr"] < 0.75 and found["other_forms"] == 0


def test_missing_chest_leads_are_not_measured():
    signal = draw_ecg(NORMAL, np.random.default_rng(0))
    signal[6:] = np.nan
    found = measure_ecg(signal)
    assert all(np.isnan(found[name]) for name in ("chest_voltage", "q_ms_septal", "v1_end", "i_v6", "u_mv", "t_chest"))
    assert found["pr_ms"] == pytest.approx(165, abs=8) and found["limb_voltage"] > 0.5
