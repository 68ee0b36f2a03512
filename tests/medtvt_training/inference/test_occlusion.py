# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoProcessor

from medtvt_training.cli import main
from medtvt_training.evaluation.occlusion_agreement import occlusion_agreement
from medtvt_training.inference.occlusion import REPEATS, occlude
from medtvt_training.synthetic.cohort import write_cohort
from medtvt_training.synthetic.example_patient import write_example_patient
from medtvt_training.synthetic.patient import draw_patient
from modeling_medtvt import MedicalDiagnosisPipeline

from tests.toy import build_model


TEXT = (
    "<think>ECG: no P waves, which fits Sepsis; fine.\nLabs: pH of 7.2, as in Sepsis.</think><answer>Sepsis</answer>"
)


@pytest.fixture(scope="module")
def diagnose(checkpoint: Path) -> Any:
    processor = AutoProcessor.from_pretrained(checkpoint)
    return MedicalDiagnosisPipeline(
        model=build_model(processor.tokenizer), processor=processor, task="medical-diagnosis"
    )


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Any]:
    files = write_example_patient(tmp_path_factory.mktemp("patient"))
    return {modality: files[modality] for modality in ("ecg", "cxr", "lab")}


@pytest.fixture
def hears(diagnose: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Lets only a part of a modality reach its encoder: a mask of ones where the model hears, and zeros elsewhere."""

    def hear(modality: str, mask: Any) -> None:
        name = f"get_{modality}_features"
        encode = getattr(type(diagnose.model), name)
        monkeypatch.setattr(diagnose.model, name, lambda values: encode(diagnose.model, values * mask), raising=False)

    return hear


def counting(falls: Any) -> bool:
    """Where taking a part away changes the score, by more than rounding does."""
    changes = np.abs(falls)
    assert changes.max() > 1e-4
    return changes > 0.05 * changes.max()


def test_falls_are_differences_of_log_probabilities(diagnose, patient):
    found = occlude(diagnose, {"lab": patient["lab"]}, TEXT, "Sepsis")
    assert found["ecg"] is None and found["cxr"] is None
    features = diagnose.preprocess({"index": None, "item": {"lab": patient["lab"]}})
    encoded = diagnose.tokenizer(TEXT, add_special_tokens=False, return_offsets_mapping=True)
    ids = torch.cat([features["input_ids"][0], torch.tensor(encoded["input_ids"])])[None]
    named = [TEXT.index("ECG"), TEXT.index("Labs"), TEXT.index("Sepsis</")]
    ends = [TEXT.index(";"), TEXT.index(".</"), TEXT.index("</answer")]
    scored = [any(a < e and b > s for s, e in zip(named, ends)) for a, b in encoded["offset_mapping"]]

    def score(lab_values: Any) -> Any:
        with torch.no_grad():
            logits = diagnose.model(input_ids=ids, lab_values=lab_values).logits.log_softmax(-1)
        start = len(ids[0]) - len(scored)
        return sum(float(logits[0, start + i - 1, ids[0, start + i]]) for i, wanted in enumerate(scored) if wanted)

    labs = features["lab_values"].clone()
    assert found["score"] == pytest.approx(score(labs), abs=1e-3)
    position = diagnose.processor.lab_feature_extractor.lab_names.index("Creatinine")
    labs[0, position], labs[0, 50 + position] = 0.5, 0
    assert found["lab"]["Creatinine"] == pytest.approx(found["score"] - score(labs), abs=1e-3)


def test_shapes_and_one_encoding_of_what_is_not_occluded(diagnose, patient, monkeypatch):
    calls = []
    encode = diagnose.model.get_cxr_features
    monkeypatch.setattr(diagnose.model, "get_cxr_features", lambda values: calls.append(len(values)) or encode(values))
    found = occlude(diagnose, patient, TEXT, "Sepsis", stretch_seconds=2.5, regions=3, batch_size=4)
    assert (found["ecg"].shape, found["cxr"].shape) == ((12, 4), (3, 3))
    assert sum(calls) == 1 + REPEATS + 9
    assert set(found["noise"]) == {"ecg", "cxr", "lab"} and all(value > 0 for value in found["noise"].values())
    values = list(found["lab"].values())
    assert np.isfinite([*found["ecg"].ravel(), *found["cxr"].ravel(), *values]).all()
    assert np.ptp(found["ecg"]) > 0 and np.ptp(found["cxr"]) > 0 and np.ptp(values) > 0
    again = occlude(diagnose, patient, TEXT, "Sepsis", stretch_seconds=2.5, regions=3, batch_size=64)
    np.testing.assert_allclose(again["ecg"], found["ecg"], atol=1e-3)


def test_points_at_the_stretch_that_counts(diagnose, patient, hears):
    mask = torch.zeros(12, 1000)
    mask[7, 250:500] = 1
    hears("ecg", mask)
    falls = occlude(diagnose, patient, TEXT, "Sepsis", ["ecg"], stretch_seconds=2.5)["ecg"]
    assert np.argwhere(counting(falls)).tolist() == [[7, 1]]


def test_points_at_the_region_that_counts(diagnose, patient, hears):
    mask = torch.zeros(3, 224, 224)
    mask[:, 140:168, 28:56] = 1
    hears("cxr", mask)
    rows, columns = np.nonzero(counting(occlude(diagnose, patient, TEXT, "Sepsis", ["cxr"])["cxr"]))
    # what is taken away is three cells wide and high
    assert sorted(set(rows)) == [4, 5, 6] and sorted(set(columns)) == [0, 1, 2] and len(rows) == 9


def test_points_at_the_lab_that_counts(diagnose, patient, hears):
    names = diagnose.processor.lab_feature_extractor.lab_names
    mask = torch.zeros(100)
    mask[[names.index("pH"), 50 + names.index("pH")]] = 1
    hears("lab", mask)
    falls = occlude(diagnose, patient, TEXT, "Sepsis", ["lab"])["lab"]
    assert [name for name, counts in zip(falls, counting(list(falls.values()))) if counts] == ["pH"]


@pytest.mark.parametrize(
    ("text", "disease", "inputs", "said"),
    [
        (TEXT, "Pneumonia", True, "does not name Pneumonia"),
        ("", "Sepsis", True, "does not name Sepsis"),
        (TEXT, "Gout", True, "must be one of"),
        (TEXT, "Sepsis", False, "nothing to take away"),
    ],
)
def test_what_cannot_be_explained_is_refused(diagnose, patient, text, disease, inputs, said):
    patient = {"lab": patient["lab"]} if inputs else {"question": "What is sepsis?"}
    with pytest.raises(ValueError, match=said):
        occlude(diagnose, patient, text, disease)


def find_patient() -> Any:
    """Index of a test patient with all three causes."""
    for index in range(9, 20_000, 10):
        patient = draw_patient(0, index)
        if (
            {"PNA", "CAD", "ARF"} <= set(patient.causes.diseases)
            and patient.film.opacity in ("lobar", "patchy")
            and patient.ecg.ischaemia in ("lateral", "extensive")
            and patient.lab["Creatinine"] is not None
        ):
            return index
    raise AssertionError("no such patient")


def test_agreement_counts_hits_and_chance(checkpoint, tmp_path, monkeypatch):
    cohort = write_cohort(tmp_path / "cohort", 1, first=find_patient(), num_workers=1, progress=False)
    found = occlusion_agreement(checkpoint, cohort, n=2)
    # untrained weights name nothing
    assert all(check["patients"] == 0 and check["not_named"] == 1 for check in found.values())
    every = "; ".join(("Pneumonia", "Coronary Artery Disease", "Acute Renal Failure"))
    result = {
        "diseases": [{"label": label, "named": True} for label in every.split("; ")],
        "generated_text": f"<think>x</think><answer>{every}</answer>",
    }
    monkeypatch.setattr(MedicalDiagnosisPipeline, "__call__", lambda self, *args, **kwargs: result)
    found = occlusion_agreement(checkpoint, cohort, n=2)
    for check in found.values():
        assert check["patients"] == 1 and check["rate"] == check["hits"] and not check["not_named"]
        assert 0 < check["chance"] < 0.5 and 0 < check["p_value"] <= 1


def test_command_writes_report_and_figure(patient, tmp_path, capsys):
    page, picture = tmp_path / "out.html", tmp_path / "out.png"
    command = ["diagnose", "--lab", patient["lab"], "--max-new-tokens", "4"]
    assert main([*command, "--report", str(page), "--figure", str(picture)]) == 0
    assert "MedTVT-R1 report" in page.read_text() and picture.read_bytes()[:4] == b"\x89PNG"
    assert main([*command, "--occlusion", "Sepsis"]) == 2
    assert main([*command, "--occlusion", "Sepsis", "--report", str(tmp_path / "no.html")]) == 2
    assert "does not name Sepsis" in capsys.readouterr().err
    assert not (tmp_path / "no.html").exists()
