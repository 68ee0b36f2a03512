# SPDX-License-Identifier: Apache-2.0
"""Subgroups, matched prior, selective prediction and the rows of others, from predictions alone."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from medtvt_training import cli
from medtvt_training.evaluation.matched_prior import fit_prior, measure_matched_prior, prior_inputs, strata_of
from medtvt_training.evaluation.published import render_published
from medtvt_training.evaluation.score import score_records
from medtvt_training.evaluation.selective import COVERAGES, measure_selective, reliability
from medtvt_training.evaluation.subgroups import group_records, measure_subgroups, render_subgroups
from modeling_medtvt import DISEASES


def draw_records(number: int = 240, seed: int = 0) -> list[dict[str, Any]]:
    """Patients of both sexes and all ages, with answers that are right more often than not."""
    rng = np.random.default_rng(seed)
    records = []
    for i in range(number):
        age, sex = float(rng.integers(20, 95)), "FM"[int(rng.integers(2))]
        ill = {disease: rng.random() < 0.2 + age / 200 for disease in DISEASES}
        probability = {d: float(np.clip(0.3 + 0.3 * ill[d] + 0.2 * rng.normal(), 0.01, 0.99)) for d in DISEASES}
        truth = [d for d in DISEASES if ill[d]]
        named = "; ".join(d for d in DISEASES if probability[d] > 0.45)
        records.append(
            {
                "id": str(i),
                "subject_id": str(i),
                "age": age,
                "sex": sex,
                "modalities": ["ecg", "lab"] if i % 3 else ["lab"],
                "labs_measured": ["Creatinine", *(["Lactate"] if rng.random() < 0.5 else [])],
                "site": ["north", "south", "far"][i % 2 if i % 40 else 2],
                "diseases": truth,
                "reference": f"<think>x</think><answer>{'; '.join(truth)}</answer>",
                "completion": f"<think>x</think><answer>{named}</answer>",
                "probabilities": probability,
            }
        )
    return records


@pytest.fixture(scope="module")
def records() -> list[dict[str, Any]]:
    return draw_records()


def test_subgroups_are_those_records_alone(records):
    found = measure_subgroups(records, None, resamples=50, seed=0)
    assert set(found) == {"age", "sex"}
    for sex, entry in found["sex"]["groups"].items():
        alone = score_records([record for record in records if record["sex"] == sex], resamples=0)
        assert entry["records"] == alone["about"]["records"]
        assert entry["f1_samples"]["value"] == pytest.approx(alone["strict"]["f1_samples"])
        assert entry["auroc_macro"]["value"] == pytest.approx(alone["strict"]["auroc_macro"])
        assert entry["ece_macro"]["value"] == pytest.approx(alone["strict"]["ece_macro"])
        low, high = entry["f1_samples"]["interval"]
        assert low < entry["f1_samples"]["value"] < high
    values = [entry["f1_samples"]["value"] for entry in found["age"]["groups"].values()]
    gap = found["age"]["gaps"]["f1_samples"]
    assert gap["value"] == pytest.approx(max(values) - min(values)) and gap["high"] != gap["low"]


def test_small_groups_and_other_columns(records):
    found = measure_subgroups(records, ["site", "modalities"], resamples=0, seed=0)
    assert found["site"]["too_few"] == {"far": 6} and set(found["site"]["groups"]) == {"north", "south"}
    assert set(found["modalities"]["groups"]) == {"ecg + lab", "lab"}
    assert "too few records (30 are needed): far (6)" in render_subgroups(found)
    with pytest.raises(ValueError, match="No prediction has `ward`"):
        measure_subgroups(records, ["ward"], resamples=0, seed=0)
    with pytest.raises(ValueError, match="240 different values"):
        measure_subgroups(records, ["subject_id"], resamples=0, seed=0)
    with pytest.raises(ValueError, match="`age` must be a number of years"):
        group_records([{"age": "old"}], "age")


def test_a_disease_with_one_class_in_a_group_is_left_out_for_all(records):
    changed = [
        {**r, "diseases": [d for d in r["diseases"] if d != "Sepsis"]} if r["sex"] == "F" else r for r in records
    ]
    found = measure_subgroups(changed, ["sex"], resamples=20, seed=0)["sex"]
    assert found["left_out"] == ["Sepsis"]
    men = [record for record in changed if record["sex"] == "M"]
    per_disease = score_records(men, resamples=0)["strict"]["per_disease"]
    expected = np.mean([per_disease[d]["auroc"] for d in DISEASES if d != "Sepsis"])
    assert found["groups"]["M"]["auroc_macro"]["value"] == pytest.approx(expected)
    none = measure_subgroups([{**r, "diseases": []} for r in records], ["sex"], resamples=0, seed=0)["sex"]
    assert none["groups"]["F"]["auroc_macro"]["undefined"] == "no disease has both classes in every group"


def test_predictions_without_age_and_sex(records):
    bare = [{key: value for key, value in record.items() if key not in ("age", "sex")} for record in records]
    results = score_records(bare, resamples=0)
    assert results["subgroups"]["age"] == {
        "groups": {},
        "gaps": {},
        "too_few": {},
        "not_recorded": 240,
        "left_out": [],
    }
    assert results["matched_prior"]["sees"] == ["modalities", "labs measured"]
    assert results["selective"]["subgroups"] == {}
    some = [{**record, "age": None} if i < 5 else record for i, record in enumerate(records)]
    assert measure_subgroups(some, None, 0, 0)["age"]["not_recorded"] == 5


def test_a_model_that_guesses_the_prior_is_seen(records):
    inputs, sees = prior_inputs(records)
    assert sees == ["age", "sex", "modalities", "labs measured"]
    subjects = [record["subject_id"] for record in records]
    guessing = []
    priors = {}
    for disease in DISEASES:
        truth = np.array([disease in record["diseases"] for record in records])
        priors[disease] = fit_prior(inputs, truth, subjects)
    for i, record in enumerate(records):
        guessing.append({**record, "probabilities": {d: float(priors[d][i]) for d in DISEASES}})
    guess = measure_matched_prior(guessing, resamples=0, seed=0)
    seeing = measure_matched_prior(records, resamples=20, seed=0)
    assert guess is not None and seeing is not None
    assert guess["macro"]["crude"]["value"] == pytest.approx(guess["macro"]["prior"]["value"])
    assert abs(guess["macro"]["within"]["value"] - 0.5) < 0.06
    assert seeing["macro"]["within"]["value"] > 0.75
    # by hand: pairs within each fifth
    truth = np.array(["Sepsis" in record["diseases"] for record in records])
    scores = np.array([record["probabilities"]["Sepsis"] for record in records])
    strata = strata_of(priors["Sepsis"])
    right = pairs = 0.0
    for number in np.unique(strata):
        chosen = strata == number
        size = truth[chosen].sum() * (~truth[chosen]).sum()
        right, pairs = right + roc_auc_score(truth[chosen], scores[chosen]) * size, pairs + size
    assert seeing["per_disease"]["Sepsis"]["within"]["value"] == pytest.approx(right / pairs)


def test_a_rare_disease_has_no_prior(records):
    changed = [{**r, "diseases": [d for d in r["diseases"] if d != "Sepsis"]} for r in records]
    found = measure_matched_prior(changed, resamples=0, seed=0)
    assert found is not None and found["left_out"] == ["Sepsis"] and "Sepsis" not in found["per_disease"]


def test_the_surest_answers_are_kept(records):
    found = measure_selective(records, ["sex"], resamples=20, seed=0)
    assert found is not None
    sepsis = found["per_disease"]["Sepsis"]
    truth = np.array(["Sepsis" in record["diseases"] for record in records])
    scores = np.array([record["probabilities"]["Sepsis"] for record in records])
    named = scores > 0.45
    wrong = truth != named
    order = np.argsort(-np.where(named, scores, 1 - scores), kind="stable")
    assert sepsis["error"]["value"] == pytest.approx(wrong.mean())
    assert sepsis["error_kept"]["value"] == pytest.approx(wrong[order[:192]].mean())
    risks = wrong[order].cumsum() / np.arange(1, 241)
    assert sepsis["aurc"]["value"] == pytest.approx(risks.mean())
    curve = dict(sepsis["risk_coverage"])
    assert list(curve) == list(COVERAGES) and curve[1.0] == pytest.approx(wrong.mean())
    groups = found["subgroups"]["sex"]
    answered = sum(entry["answered"]["value"] * entry["records"] for entry in groups.values()) / len(records)
    assert answered == pytest.approx(0.8)
    assert measure_selective([{**r, "probabilities": None} for r in records], ["sex"], 0, 0) is None


def test_reliability_by_hand():
    truth = np.array([True, False, True, True])
    found = reliability(truth, np.array([0.11, 0.19, 0.95, 1.0]))
    assert [entry["records"] for entry in found] == [2, 2] and [entry["ill"] for entry in found] == [0.5, 1.0]
    assert [entry["probability"] for entry in found] == pytest.approx([0.15, 0.975])


def test_published_rows_stand_beside_the_run(records):
    results = score_records(records, resamples=20)
    text = render_published(results)
    assert "0.824 [0.816, 0.832]" in text and "| 0.774 |" in text and "hospital diagnoses" in text
    low, high = results["intervals"]["strict"]["auroc_macro"]
    assert f"{results['strict']['auroc_macro']:.3f} [{low:.3f}, {high:.3f}]" in text
    assert "0.519 | 0.655 | 0.519 | 0.457 | 0.389 |" in text and "375 test records" in text
    bare = [{**record, "probabilities": None} for record in records]
    assert "S4" not in render_published(score_records(bare, resamples=0))  # nothing to hold beside it


def test_the_command_groups_by_a_column(records, tmp_path, capsys):
    path = tmp_path / "lines.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    arguments = ["metrics", "--predictions", str(path), "--out", str(tmp_path / "out"), "--resamples", "20"]
    assert cli.main([*arguments, "--by", "site", "sex"]) == 0
    printed = capsys.readouterr().out
    assert "AUROC, mean over the diseases" in printed and "Research use only" in printed
    report = (tmp_path / "out" / "report.md").read_text()
    for heading in ("Beside published numbers", "Subgroups", "Matched prior", "Calibration and selective prediction"):
        assert f"## {heading}" in report
    assert "| north |" in report and "undefined and not shown" in report and "| undefined |" not in report
    for name in ("reliability", "risk_coverage", "subgroups_site", "subgroups_sex"):
        assert Path(tmp_path, "out", f"{name}.png").stat().st_size > 5_000
    assert cli.main([*arguments, "--by", "ward"]) == 2
    assert "No prediction has `ward`" in capsys.readouterr().err
