# SPDX-License-Identifier: Apache-2.0
import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from medtvt_training.evaluation.calibration import calibration_to_json, fit_calibration, fit_disease
from modeling_medtvt import DISEASES
from modeling_medtvt.calibration_medtvt import CALIBRATION_FILE, calibrate, read_calibration


def _patients(n, seed, slope=2.0, intercept=-1.0):
    """Raw probabilities whose true log-odds are slope logit(raw) + intercept, and who is ill."""
    rng = np.random.default_rng(seed)
    raw = rng.uniform(0.02, 0.98, n)
    truth = rng.random(n) < 1 / (1 + np.exp(-(slope * np.log(raw / (1 - raw)) + intercept)))
    return raw, truth


def test_the_map_finds_what_the_probabilities_are_distorted_by():
    raw, truth = _patients(20_000, 0)
    fitted = fit_disease(raw, truth)
    # standard errors of such a fit are near .03
    assert fitted.slope == pytest.approx(2.0, abs=0.15)
    assert fitted.intercept == pytest.approx(-1.0, abs=0.15)
    fresh, ill = _patients(20_000, 1)
    calibrated = np.array([calibrate(value, fitted) for value in fresh])
    bins = np.digitize(calibrated, np.linspace(0, 1, 11)[1:-1])
    error = sum(abs(calibrated[bins == b].sum() - ill[bins == b].sum()) for b in range(10)) / len(fresh)
    assert error < 0.02


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.2])
def test_thresholds_keep_their_risk_on_fresh_patients(alpha):
    missed, alarmed = [], []
    for seed in range(60):
        fitted = fit_disease(*_patients(300, seed))
        raw, ill = _patients(2000, 1000 + seed)
        probability = np.array([calibrate(value, fitted) for value in raw])
        missed.append((probability[ill] < fitted.misses[alpha]).mean())
        alarmed.append((probability[~ill] > fitted.false_alarms[alpha]).mean())
    # the guarantee is on average over fits; 60 of them have a standard error near .004
    assert np.mean(missed) < alpha + 0.012
    assert np.mean(alarmed) < alpha + 0.012
    # and it is no empty one
    assert np.mean(missed) > alpha / 3


@pytest.mark.parametrize("ill", [0, 9, 300])
def test_too_few_ill_or_others_get_no_map(ill):
    truth = np.arange(300) < ill
    fitted = fit_disease(np.linspace(0.1, 0.9, 300), truth)
    assert fitted.positives == ill
    assert (fitted.slope, fitted.operating_point, fitted.misses) == (None, None, {})
    assert calibrate(0.5, fitted) is None


@pytest.fixture
def folder(tmp_path):
    save_file({"weight": torch.arange(5.0)}, tmp_path / "model.safetensors")
    raw, truth = _patients(300, 3)
    labels = [list(DISEASES[:1]) if ill else [] for ill in truth]
    probabilities = [dict.fromkeys(DISEASES, float(value)) for value in raw]
    calibration = fit_calibration(probabilities, labels, DISEASES, tmp_path, "a cohort, validation")
    (tmp_path / CALIBRATION_FILE).write_text(json.dumps(calibration_to_json(calibration)))
    return tmp_path


def test_what_is_written_is_read_again(folder):
    calibration = read_calibration(folder / CALIBRATION_FILE)
    assert calibration.n == 300
    probabilities = calibration.apply(dict.fromkeys(DISEASES, 0.9))
    assert probabilities[DISEASES[0]] > 0.7
    assert probabilities[DISEASES[1]] is None
    assert calibration.is_undecided(DISEASES[0], 0.5, 0.05)
    assert not calibration.is_undecided(DISEASES[0], 0.999, 0.05)
    with pytest.raises(ValueError, match="guarantees"):
        calibration.is_undecided(DISEASES[0], 0.5, 0.33)


def test_other_weights_are_refused(folder):
    save_file({"weight": torch.arange(1.0, 6.0)}, folder / "model.safetensors")
    with pytest.raises(ValueError, match="other weights"):
        read_calibration(folder / CALIBRATION_FILE)


@pytest.mark.parametrize("text", ["", "[]", "{}", "[" * 6000, '{"diseases": 3}', "\x00"])
def test_what_is_no_calibration_is_refused(folder, text):
    (folder / CALIBRATION_FILE).write_text(text)
    with pytest.raises(ValueError, match="no calibration"):
        read_calibration(folder / CALIBRATION_FILE)


def test_a_number_that_is_not_finite_is_refused(folder):
    content = (folder / CALIBRATION_FILE).read_text()
    (folder / CALIBRATION_FILE).write_text(content.replace('"slope": ', '"slope": NaN, "was": ', 1))
    with pytest.raises(ValueError, match="no calibration"):
        read_calibration(folder / CALIBRATION_FILE)
