# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from medtvt_training.evaluation.open_metrics import (
    auroc_metric,
    cited_findings,
    measure_open_data,
    render_open_data,
)
from medtvt_training.open_data.scp_codes import read_statements
from modeling_medtvt import DISEASES


FORMS_AND_RHYTHMS = {"SR", "AFIB"}


def make_ecg(number, codes, text, probability=0.5):
    """A row of a patient of its own, and an answer about it."""
    shown, absent = read_statements(codes, "", FORMS_AND_RHYTHMS)
    row = {"id": str(number), "subject_id": str(number), "modalities": ["ecg"], "findings": shown}
    probabilities = {**dict.fromkeys(DISEASES, 0.5), "Atrial Fibrillation": probability}
    answer = {"completion": f"<think>ECG: {text}.</think><answer></answer>", "probabilities": probabilities}
    return {**row, "absent_findings": absent}, answer


NORMAL, FIBRILLATION = {"NORM": 100, "SR": 0}, {"AFIB": 0, "IMI": 100}


def test_citations_and_probabilities_of_ecgs():
    said_af = "irregularly irregular rhythm without P waves"
    pairs = [
        make_ecg(0, NORMAL, "sinus rhythm at a normal rate", 0.1),
        make_ecg(1, NORMAL, "sinus rhythm at a normal rate, Q waves in II, III and aVF", 0.2),
        make_ecg(2, NORMAL, "no ST depression", 0.6),
        make_ecg(3, FIBRILLATION, f"{said_af}; ST elevation", 0.9),
        make_ecg(4, FIBRILLATION, "Q waves in II, III and aVF", 0.5),
    ]
    results = measure_open_data([row for row, _ in pairs], [answer for _, answer in pairs], resamples=20)
    values = {key.removeprefix("ecg/"): value for key, value in results["values"].items()}
    assert values["ecg: fibrillation/sens"] == 0.5 and values["ecg: fibrillation/spec"] == 1
    assert values["ecg: inferior Q waves/spec"] == pytest.approx(2 / 3)
    assert values["normal_with_abnormal_cited"] == pytest.approx(1 / 3)  # what is denied is not cited
    assert values["abnormal_by_count/auroc"] == pytest.approx((2 * 3 - 0.5) / 6 + 0 * 1)
    assert values["af_by_probability/auroc"] == pytest.approx(5 / 6)
    assert values["af_by_probability/spec_at_full_sens"] == pytest.approx(2 / 3)
    # true: two rhythms, AF, a Q wave; false: a Q wave; ST elevation beside an infarct is open
    assert values["cited_true"] == pytest.approx(4 / 5)
    assert results["counts"]["ecg/af_by_probability/auroc"] == [2, 3]
    low, high = results["intervals"]["ecg/normal_with_abnormal_cited"]
    assert low <= 1 / 3 <= high
    results["about"] = {"split": "test", "trained_on_open_data": ["mine (encoders)"]}
    text = render_open_data(results)
    assert (
        "Real ECGs: 5 records of 5 patients" in text
        and "| ecg: fibrillation | 2 | 0.50" in text
        and "mine (encoders)" in text
    )


def test_only_normal_ecgs_leave_other_measures_undefined():
    row, answer = make_ecg(0, NORMAL, "sinus rhythm")
    results = measure_open_data([row], [answer], resamples=5)
    assert results["values"]["ecg/af_by_probability/auroc"] is None
    assert "no record" in results["undefined"]["ecg/af_by_probability/auroc"]


def test_auroc_within_strata():
    rng = np.random.default_rng(0)
    truth, scores = rng.random(60) < 0.4, rng.integers(0, 8, 60).astype(float)
    kept, strata = rng.random(60) < 0.9, rng.integers(0, 3, 60)
    ones = np.ones((1, 60))
    [plain] = auroc_metric(truth, scores, kept).compute(ones)
    assert plain == pytest.approx(roc_auc_score(truth[kept], scores[kept]))
    [within] = auroc_metric(truth, scores, kept, strata).compute(ones)
    won = pairs = 0.0
    for stratum in range(3):
        own = kept & (strata == stratum)
        number = (truth & own).sum() * (~truth & own).sum()
        won, pairs = won + number * roc_auc_score(truth[own], scores[own]), pairs + number
    assert within == pytest.approx(won / pairs)
    # a score that is the stratum tells nothing within it
    assert auroc_metric(truth, strata.astype(float), kept, strata).compute(ones)[0] == 0.5


def test_what_follows_from_a_citation():
    text = "CXR: opacity in the right lower zone; left pleural effusion; no pneumothorax.\n<answer>Pneumonia</answer>"
    cited = cited_findings(text)
    assert {
        "cxr: opacity",
        "cxr: right lower zone opacity",
        "cxr: effusion",
    } <= cited and "cxr: pneumothorax" not in cited
