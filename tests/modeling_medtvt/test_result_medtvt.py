# SPDX-License-Identifier: Apache-2.0
import copy
import json
import pickle

import pytest
from transformers import AutoProcessor

import medtvt_training
import modeling_medtvt
import processing_medtvt
from modeling_medtvt import DISEASES, DiagnosisBatch, DiagnosisResult


def make_result(text="raised creatinine"):
    statement = {"text": text, "modality": "lab", "finding": None, "negated": False, "status": "supported"}
    return DiagnosisResult(
        warnings=["model: imaginary patients only", "lab: converted"],
        diseases=[
            {"label": label, "named": label == "Sepsis", "probability": 0.25, "score": None, "evidence": 0}
            for label in DISEASES
        ],
        evidence=[{**statement, "measured": "Creatinine 2.3 mg/dL", "conclusion": "Sepsis"}],
        unmentioned=[{"modality": "lab", "finding": "lab: high Potassium", "measured": "Potassium 6.1 mEq/L"}],
    )


def test_a_result_is_a_dict_with_attributes():
    result = make_result()
    assert isinstance(result, dict) and result.diseases is result["diseases"] and "evidence" in dir(result)
    assert type(result.to_dict()) is dict and result.to_dict() == result and json.loads(json.dumps(result)) == result
    for other in (copy.deepcopy(result), pickle.loads(pickle.dumps(result))):
        assert other == result and type(other) is DiagnosisResult
    with pytest.raises(AttributeError, match="no 'disease'; it has warnings, diseases"):
        result.disease  # noqa: B018


def test_a_notebook_shows_limits_first_and_escapes_text():
    result = make_result("<script>alert(1)</script>")
    assert "<script>" in json.dumps(result)  # which is text there
    shown = result._repr_html_()
    assert shown.index("imaginary patients only") < shown.index("Sepsis") and "25%" in shown
    assert "Creatinine 2.3 mg/dL" in shown and "Potassium 6.1" in shown and "<script>" not in shown
    assert "✓ supported" in shown and "Share of answers" not in shown  # one answer has no shares


def test_a_notebook_shows_a_batch_as_a_table():
    shown = DiagnosisBatch([make_result(), DiagnosisResult(error="no <file>")])._repr_html_()
    assert shown.count("<tr>") == 3 and "no &lt;file&gt;" in shown and "lab: converted" in shown
    assert "Research use only" in shown


def test_reprs_are_short(checkpoint):
    processor = AutoProcessor.from_pretrained(checkpoint)
    for part in (
        processor,
        processor.ecg_feature_extractor,
        processor.lab_feature_extractor,
        processor.image_processor,
    ):
        assert repr(part).startswith(type(part).__name__) and len(repr(part)) < 250


def test_the_packages_say_their_version():
    assert modeling_medtvt.__version__ == processing_medtvt.__version__ == medtvt_training.__version__
