# SPDX-License-Identifier: Apache-2.0
import json
import shutil

import datasets
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor, GenerationConfig, LlamaConfig, LlamaForCausalLM, TextStreamer, pipeline
from transformers.pipelines.pt_utils import KeyDataset

from medtvt_training.stages.initialize import init_tiny
from medtvt_training.synthetic.example_patient import write_example_patient
from modeling_medtvt import DISEASES, MedicalDiagnosisPipeline, MedTVTForCausalLM, Provenance, parse_answer
from modeling_medtvt.calibration_medtvt import CALIBRATION_FILE, fingerprint_weights
from processing_medtvt.feature_extraction_medtvt_ecg import STANDARD_LEADS

from .test_modeling_medtvt import count_rows
from tests.toy import SUBSETS, toy_tokenizer


KEYS = {
    *(
        "version",
        "warnings",
        "diseases",
        "reasoning",
        "answer",
        "evidence",
        "unmentioned",
        "contributions",
        "influence",
        "influence_noise",
    ),
    *("patient", "text_source", "generated_text", "measurements"),
}


@pytest.fixture(scope="module")
def diagnose(checkpoint):
    return pipeline("medical-diagnosis", model=str(checkpoint))


@pytest.fixture(scope="module")
def patient(tmp_path_factory):
    files = write_example_patient(tmp_path_factory.mktemp("patient"))
    return {modality: str(files[modality]) for modality in ("ecg", "cxr", "lab")}


@pytest.fixture
def says(diagnose, monkeypatch):
    """Makes the model say given texts, so that what is made of an answer can be tested with random weights."""

    def say(*texts):
        def generate(input_ids, num_return_sequences=1, **kwargs):
            said = texts[:num_return_sequences]  # drawn ones, or the first as the greedy one
            rows = [list(diagnose.processor.tokenizer.encode(text, add_special_tokens=False)) for text in said]
            width = max(map(len, rows))
            rows = [row + [diagnose.processor.tokenizer.pad_token_id] * (width - len(row)) for row in rows]
            return torch.cat([input_ids.repeat_interleave(num_return_sequences, 0), torch.tensor(rows)], 1)

        monkeypatch.setattr(diagnose.model, "generate", generate)

    return say


def test_keywords_give_one_dict(diagnose, patient):
    assert isinstance(diagnose, MedicalDiagnosisPipeline)
    result = diagnose(**patient, max_new_tokens=8)
    assert set(result) == KEYS
    assert {disease["label"] for disease in result["diseases"]} == set(DISEASES)
    assert all(disease["score"] is None for disease in result["diseases"])
    assert all(0 < result["contributions"][modality] < 1 for modality in patient)
    assert "ecg: resampled from 500 Hz to 100 Hz" in result["warnings"]
    assert any("untrained" in warning for warning in result["warnings"])
    assert "answer: 1 of 1 generated texts were cut at 8 tokens" in result["warnings"]
    assert diagnose(patient, max_new_tokens=8) == result


@pytest.mark.parametrize("other", ["synthetic", "credentialed"])
def test_weights_that_saw_no_patient_say_so(diagnose, patient, other, monkeypatch):
    entries = [{"stage": "pt", "name": "a", "access": "synthetic"}, {"stage": "sft", "name": "b", "access": other}]
    monkeypatch.setattr(diagnose.model.provenance, "training_data", entries)
    warnings = diagnose(lab=patient["lab"], max_new_tokens=2)["warnings"]
    assert any("imaginary patients only" in warning for warning in warnings) == (other == "synthetic")


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([("synthetic", None), ("open", "ecg, cxr")], "imaginary patients, and open real ECGs and films"),
        ([("open", "cxr"), ("open", "ecg")], "open real ECGs and films"),
        ([("synthetic", None), ("open", None)], "imaginary patients, and open real data"),
        ([("synthetic", None)], "imaginary patients only"),
        ([("open", "ecg"), ("credentialed", None)], None),
        ([], None),
    ],
)
def test_whom_the_weights_learned_from(entries, words):
    data = [{"access": access} | ({"modalities": names} if names else {}) for access, names in entries]
    assert Provenance(training_data=data).describe_patients() == words


def test_weights_that_saw_open_patients_say_so(diagnose, patient, monkeypatch):
    entries = [{"stage": "pt", "access": "synthetic"}, {"stage": "pt", "access": "open", "modalities": "ecg"}]
    monkeypatch.setattr(diagnose.model.provenance, "training_data", entries)
    warnings = diagnose(lab=patient["lab"], max_new_tokens=2)["warnings"]
    assert any("open real ECGs; what it says of a real patient is not validated" in warning for warning in warnings)


@pytest.mark.parametrize("batch_size", [1, 3, 8])
@pytest.mark.parametrize("kind", ["list", "generator", "dataset", "torch dataset"])
def test_batches_of_mixed_modalities_equal_singles(diagnose, patient, batch_size, kind):
    patients = [
        {m: patient[m] for m in subset} | {"question": f"What is it{'?' * i}"} for i, subset in enumerate(SUBSETS)
    ]
    singles = [diagnose(item, max_new_tokens=6) for item in patients]
    if kind == "torch dataset":
        inputs = KeyDataset([{"patient": item} for item in patients], "patient")
    elif kind == "dataset":
        columns = ("ecg", "cxr", "lab", "question")
        inputs = datasets.Dataset.from_dict(
            {"id": range(8), **{c: [item.get(c) for item in patients] for c in columns}}
        )
    else:
        inputs = patients if kind == "list" else (item for item in patients)
    outputs = diagnose(inputs, batch_size=batch_size, max_new_tokens=6)
    assert isinstance(outputs, list) == (kind == "list")
    equal = 0
    for subset, output, single in zip(SUBSETS, outputs, singles, strict=True):
        contributions = {m: value for m, value in output["contributions"].items() if value is not None}
        assert contributions == {m: pytest.approx(single["contributions"][m], rel=1e-4) for m in subset}
        equal += {**output, "contributions": None} == {**single, "contributions": None}
    assert equal >= 6  # of random weights two logits may tie but for rounding, which a batch's shape decides


def test_encoders_run_once_a_patient_whatever_the_number_of_samples(diagnose, patient, monkeypatch):
    rows = count_rows(diagnose.model, monkeypatch)
    diagnose(**patient, num_samples=5, influence=True, max_new_tokens=4)
    assert rows == {"ecg": [1], "cxr": [1], "lab": [1]}


def test_answer_is_parsed_and_named_diseases_come_first(diagnose, patient, says):
    says("<think>irregular rhythm</think><answer>sepsis;  Atrial Fibrillation; sepsis; Gout</answer>")
    result = diagnose(lab=patient["lab"])
    assert [(d["label"], d["named"]) for d in result["diseases"]][:3] == [
        ("Atrial Fibrillation", True),
        ("Sepsis", True),
        ("Coronary Artery Disease", False),
    ]
    assert result["reasoning"] == "irregular rhythm"
    assert any("'Gout'" in warning for warning in result["warnings"])


def test_scores_are_shares_of_the_sampled_answers(diagnose, patient, says):
    says(
        "<think>a</think><answer>Pneumonia</answer>",
        "<think>b</think><answer>Sepsis; Pneumonia</answer>",
        "<think>c</think><answer>Pneumonia; Sepsis</answer>",
        "no answer",
    )
    result = diagnose(cxr=patient["cxr"], num_samples=4)
    scores = {disease["label"]: disease["score"] for disease in result["diseases"]}
    assert scores["Pneumonia"] == 0.75 and scores["Sepsis"] == 0.5 and scores["Hypertension"] == 0.0
    assert [disease["label"] for disease in result["diseases"]][:2] == ["Pneumonia", "Sepsis"]
    # named is what more than half name, and the text shown names just that
    assert [disease["label"] for disease in result["diseases"] if disease["named"]] == ["Pneumonia"]
    assert (result["reasoning"], result["answer"], result["text_source"]) == ("a", "Pneumonia", "drawn answer")
    assert any("1 of 4" in warning for warning in result["warnings"])


def test_the_greedy_answer_is_shown_where_no_draw_names_what_most_name(diagnose, patient, says):
    says(
        "<think>a</think><answer>Pneumonia; Sepsis</answer>",
        "<think>b</think><answer>Sepsis; Hypertension</answer>",
        "<think>c</think><answer>Pneumonia; Hypertension</answer>",
    )
    result = diagnose(cxr=patient["cxr"], num_samples=3)
    named = {disease["label"] for disease in result["diseases"] if disease["named"]}
    assert named == {"Pneumonia", "Sepsis", "Hypertension"}
    assert (result["text_source"], result["answer"]) == ("greedy answer", "Pneumonia; Sepsis")
    assert any("greedy" in warning for warning in result["warnings"])


def test_statements_are_held_against_the_inputs(diagnose, says):
    says(
        "<think>Labs: raised creatinine, pointing to Acute Renal Failure; hyponatremia.</think><answer>Sepsis</answer>"
    )
    result = diagnose(lab={"Creatinine": 3.1, "Sodium": 140, "Potassium": 6.2})
    assert [(s["text"], s["status"]) for s in result["evidence"]] == [
        ("raised creatinine", "supported"),
        ("hyponatremia", "contradicted"),
    ]
    assert [entry["finding"] for entry in result["unmentioned"]] == ["lab: high Potassium"]
    evidence = {disease["label"]: disease["evidence"] for disease in result["diseases"]}
    assert (evidence["Acute Renal Failure"], evidence["Sepsis"]) == (1, 0)


def test_what_the_model_takes_is_measured_whatever_is_missing(diagnose, monkeypatch, ecg_array):
    ecg_array[4:] = 0
    given = {"ecg": ecg_array, "sampling_rate": 500, "leads": list(STANDARD_LEADS), "unit": "mV"}
    monkeypatch.setattr(diagnose.processor.ecg_feature_extractor, "max_dead_leads", 9)
    assert set(diagnose(**given, max_new_tokens=4)) == KEYS


@pytest.mark.parametrize("subset", [("ecg", "cxr", "lab"), ("lab",)])
def test_influence_is_the_change_of_probability_without_a_modality(diagnose, patient, subset):
    given = {modality: patient[modality] for modality in subset}
    result = diagnose(**given, influence=True, max_new_tokens=4)
    assert set(result["influence"]) == set(DISEASES)
    assert all(set(of_modality) == set(subset) for of_modality in result["influence"].values())
    assert any(value for of_modality in result["influence"].values() for value in of_modality.values())
    noise = result["influence_noise"]  # one modality has no other order
    assert noise is None if len(subset) == 1 else set(noise) == set(DISEASES) and any(noise.values())
    in_batch = diagnose([given, {"question": "What is it?"}], influence=True, max_new_tokens=4, batch_size=2)
    for disease, of_modality in result["influence"].items():
        # another batch shape, hence other rounding
        assert in_batch[0]["influence"][disease] == pytest.approx(of_modality, abs=1e-3)
    assert in_batch[1]["influence"] is None and in_batch[1]["influence_noise"] is None


@pytest.fixture(scope="module")
def calibrated(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("calibrated") / "model"
    shutil.copytree(checkpoint, folder)
    entry = {
        **{"positives": 50, "slope": 0.5, "intercept": -1.0, "operating_point": 0.3},
        **{"misses": {"0.1": 0.0}, "false_alarms": {"0.1": 1.0}},
    }
    content = {
        **{
            "weights": fingerprint_weights(folder),
            "order": DISEASES,
            "n": 200,
            "date": "2026-01-01",
            "data": "a cohort",
        },
        "diseases": {
            disease: entry if disease != "Sepsis" else {**entry, "slope": None, "intercept": None}
            for disease in DISEASES
        },
    }
    (folder / CALIBRATION_FILE).write_text(json.dumps(content))
    return folder


def test_probabilities_come_from_the_calibration_beside_the_weights(diagnose, calibrated, patient):
    of_calibrated = pipeline("medical-diagnosis", model=str(calibrated))
    results = of_calibrated([patient, {"lab": {"Sodium": 140}}], max_new_tokens=4, abstain=0.1, batch_size=2)
    for result in results:
        for disease in result["diseases"]:
            if disease["label"] == "Sepsis":  # had no map
                assert disease["probability"] is None and disease["undecided"]
            else:
                assert 0 < disease["probability"] < 1 and disease["undecided"]
    assert all(d["probability"] is None for d in diagnose(**patient, max_new_tokens=4)["diseases"])
    with pytest.raises(ValueError, match="medtvt calibrate"):
        diagnose(**patient, abstain=0.1)


def test_a_calibration_of_other_weights_is_refused(calibrated, tmp_path):
    shutil.copytree(calibrated, tmp_path / "other")
    weights = load_file(tmp_path / "other" / "model.safetensors")
    save_file(
        {name: tensor + 1 for name, tensor in weights.items()},
        tmp_path / "other" / "model.safetensors",
        {"format": "pt"},
    )
    with pytest.raises(ValueError, match="other weights"):
        pipeline("medical-diagnosis", model=str(tmp_path / "other"))


@pytest.mark.parametrize(
    "text, answer, diseases",
    [
        ("<answer>Sepsis</answer> trailing", "Sepsis", ("Sepsis",)),
        ("<answer> </answer>", "", ()),
        ("<answer>Sepsis", None, ()),
        ("", None, ()),
        ("<answer>Sepsis</answer><answer>Pneumonia</answer>", "Sepsis", ("Sepsis",)),
        ("<answer>\nhypertension ;;\n DIABETES  mellitus</answer>", "hypertension ;;\n DIABETES  mellitus",
         ("Hypertension", "Diabetes Mellitus")),
    ],
)  # fmt: skip
def test_answer_parser(text, answer, diseases):
    parsed = parse_answer(text)
    assert (parsed.answer, parsed.diseases) == (answer, diseases)


def test_questions(diagnose, patient, monkeypatch):
    prompts = []
    processor_call = type(diagnose.processor).__call__

    def record(self, text=None, **kwargs):
        prompts.append(text)
        return processor_call(self, text=text, **kwargs)

    monkeypatch.setattr(type(diagnose.processor), "__call__", record)
    diagnose(**patient, max_new_tokens=2)
    diagnose(lab=patient["lab"], max_new_tokens=2)
    diagnose(ecg=patient["ecg"], question="Is it <ecg> regular?", max_new_tokens=2)
    diagnose(cxr=patient["cxr"], question="Is the heart large?", max_new_tokens=2)
    diagnose(question="What is sepsis?", max_new_tokens=2)
    assert [prompt.removeprefix("<|begin_of_text|>") for prompt in prompts] == [
        "Can you analyze my ECG <ecg>, CXR <cxr> and lab result <lab> to determine my probable conditions?",
        "Can you analyze my lab result <lab> to determine my probable conditions?",
        "Is it <ecg> regular?",
        "Given my CXR <cxr>: Is the heart large?",
        "What is sepsis?",
    ]


def test_arrays_and_streaming(diagnose, ecg_array, capsys):
    leads = diagnose.processor.ecg_feature_extractor.leads
    result = diagnose(
        ecg=ecg_array,
        sampling_rate=500,
        leads=leads,
        unit="mV",
        streamer=TextStreamer(diagnose.processor.tokenizer, skip_prompt=True, skip_special_tokens=True),
        max_new_tokens=6,
    )
    assert capsys.readouterr().out.strip() == result["generated_text"].strip()


def test_sampled_answers_follow_the_seed(diagnose, patient):
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        drawn.append(diagnose(**patient, do_sample=True, max_new_tokens=12)["generated_text"])
    assert drawn[0] == drawn[1] != drawn[2]


def test_batches_are_padded_on_the_left_whatever_the_tokenizer_says(checkpoint, diagnose):
    questions = [{"question": "What is it?"}, {"question": "What is it, and why is it not something else?"}]
    right = AutoProcessor.from_pretrained(checkpoint)
    right.tokenizer.padding_side = "right"
    padded = pipeline("medical-diagnosis", model=diagnose.model, processor=right)
    assert padded(questions, batch_size=2, max_new_tokens=8) == [diagnose(q, max_new_tokens=8) for q in questions]
    assert right.tokenizer.padding_side == "right"


@pytest.mark.parametrize(
    "kwargs",
    [{"generation_config": GenerationConfig(max_new_tokens=3, num_return_sequences=2, do_sample=True)},
     {"stop_strings": ["zzz"], "max_new_tokens": 3}, {"num_beams": 2, "max_new_tokens": 3}],
)  # fmt: skip
def test_generation_keywords_are_forwarded(diagnose, kwargs):
    assert set(diagnose(question="What is it?", **kwargs)) == KEYS


def test_save_pretrained_saves_the_processor_too(diagnose, patient, tmp_path):
    diagnose.save_pretrained(tmp_path)
    again = pipeline("medical-diagnosis", model=str(tmp_path))
    assert again(**patient, max_new_tokens=6) == diagnose(**patient, max_new_tokens=6)


def test_default_checkpoint():
    diagnose = pipeline("medical-diagnosis")
    assert set(diagnose(lab={"Creatinine": 4.0}, max_new_tokens=4)) == KEYS


# Bad input


@pytest.mark.parametrize(
    "kwargs, error, match",
    [
        ({"ecg": "chest.png"}, ValueError, "chest.png"),
        ({"cxr": "rec.hea"}, ValueError, "rec.hea"),
        ({"lab": "chest.png"}, ValueError, "chest.png"),
        ({"ecg": np.zeros((12, 5000))}, ValueError, "sampling_rate"),
        ({"lab": {"Sodium": 140}, "max_new_token": 4}, TypeError, "max_new_token; did you mean `max_new_tokens`"),
        ({"lab": {"Sodium": 140}, "image": "x"}, TypeError, "image"),
        ({"lab": {"Sodium": 140}, "num_return_sequences": 2}, TypeError, "num_samples"),
        ({"lab": {"Sodium": 140}, "num_samples": 0}, ValueError, "at least 1"),
        ({"lab": {"Sodium": 140}, "num_samples": "3"}, ValueError, "whole number"),
        ({"lab": {"Sodium": 140}, "return_dict_in_generate": True}, TypeError, "return_dict_in_generate"),
        ({"inputs": {"lab": {"Sodium": 140}, "question": ["a"]}}, TypeError, "`question` must be a string"),
        ({"lab": {"Sodium": 140}, "num_samples": 2, "do_sample": False}, ValueError, "contradicts"),
        ({"lab": {"Sodium": 140}, "on_error": "ignore"}, ValueError, "'raise' or 'skip'"),
        ({"question": "Here <ecg>?"}, ValueError, "no `ecg` input"),
        ({}, ValueError, "Nothing to answer"),
        ({"inputs": []}, ValueError, "empty list"),
        ({"inputs": "rec"}, TypeError, "must be a dict"),
        ({"inputs": [3]}, TypeError, "Item 0: A patient is a dict"),
        ({"inputs": {"xray": 1}}, TypeError, "'xray'"),
        ({"inputs": {"lab": {"Sodium": 140}}, "cxr": "a.png"}, TypeError, "not both"),
    ],
)
def test_bad_input_gets_one_clear_error(diagnose, patient, tmp_path, monkeypatch, kwargs, error, match):
    monkeypatch.chdir(tmp_path)
    shutil.copy(patient["cxr"], "chest.png")
    for suffix in (".hea", ".dat"):
        shutil.copy(patient["ecg"].removesuffix(".hea") + suffix, f"rec{suffix}")
    with pytest.raises(error, match=match):
        diagnose(**kwargs)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_one_bad_item_is_named_or_skipped(diagnose, patient, batch_size):
    patients = [patient, {"lab": {"Sodium": 1}}, {"cxr": patient["cxr"]}, {"ecg": "nowhere"}, {"question": 3}]
    with pytest.raises(ValueError, match="Item 1: .*Sodium"):
        diagnose(patients, batch_size=batch_size, max_new_tokens=2)
    results = diagnose(patients, batch_size=batch_size, max_new_tokens=2, on_error="skip")
    assert [set(result) == KEYS for result in results] == [True, False, True, False, False]
    assert "Item 1" in results[1]["error"] and "Sodium" in results[1]["error"] and "nowhere" in results[3]["error"]


@pytest.mark.parametrize("known", [{"age": 71, "sex": "F"}, {"age": 17.5}, {"sex": "male"}])
def test_age_and_sex_never_enter_the_model(diagnose, patient, known):
    without = diagnose(**patient, max_new_tokens=8)
    assert without["patient"] == {"age": None, "sex": None}
    expected = {"age": known.get("age"), "sex": {"F": "F", "male": "M", None: None}[known.get("sex")]}
    for result in (
        diagnose(**patient, patient=known, max_new_tokens=8),
        diagnose({**patient, "patient": known}, max_new_tokens=8),
        diagnose({**patient, **known}, max_new_tokens=8),  # as columns of a table
    ):
        changed = {"patient": expected, "unmentioned": result["unmentioned"], "evidence": result["evidence"]}
        changed["measurements"] = result["measurements"]
        assert result == {**without, **changed}
    tensors = [
        {
            name: value
            for name, value in diagnose.preprocess({"index": None, "item": item}).items()
            if torch.is_tensor(value)
        }
        for item in (patient, {**patient, "patient": known})
    ]
    assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])


@pytest.mark.parametrize("known", [{"age": 300}, {"sex": "X"}, {"name": "Jones"}, "F", {"age": "old"}])
def test_what_is_no_age_or_sex_is_refused(diagnose, patient, known):
    with pytest.raises(ValueError, match="patient"):
        diagnose(lab=patient["lab"], patient=known)
    with pytest.raises(TypeError, match="as `patient` or as age, not both"):
        diagnose(lab=patient["lab"], patient={"sex": "F"}, age=4)


def test_a_table_of_patients_as_a_dataset(diagnose, patient, tmp_path):
    cells = [
        ("id", "ecg", "cxr", "lab", "question", "sampling_rate", "leads", "unit", "age", "sex"),
        ("one", patient["ecg"], patient["cxr"], patient["lab"], "", "", "", "", "71", "F"),
        ("two", "", "", patient["lab"], "What is it?", "", "", "", "", ""),
        ("three", "", patient["cxr"], "", "", "", "", "", "", "M"),
    ]
    (tmp_path / "table.csv").write_text("\n".join(",".join(row) for row in cells))
    table = datasets.Dataset.from_csv(str(tmp_path / "table.csv"), cache_dir=str(tmp_path / "cache"))
    results = list(diagnose(table, batch_size=2, max_new_tokens=4))
    known = [{"age": 71.0, "sex": "F"}, {"age": None, "sex": None}, {"age": None, "sex": "M"}]
    assert [result["patient"] for result in results] == known
    present = [{m for m, value in result["contributions"].items() if value is not None} for result in results]
    assert present == [{"ecg", "cxr", "lab"}, {"lab"}, {"cxr"}]


@pytest.mark.parametrize("leads", ["I,II,III,aVR,aVF,aVL,V1,V2,V3,V4,V5,V6", "I II III aVR aVF aVL V1 V2 V3 V4 V5 V6"])
def test_leads_of_a_table_are_one_cell(diagnose, ecg_array, leads):
    given = {"ecg": ecg_array, "sampling_rate": 500, "unit": "mV"}
    whole = diagnose({**given, "leads": leads.replace(",", " ").split()}, max_new_tokens=4)
    assert diagnose({**given, "leads": leads}, max_new_tokens=4) == whole


@pytest.mark.parametrize("weight", ["lab_encoder.fc1.weight", "perception.gate.bias"])
def test_a_weight_that_is_no_number_is_named(checkpoint, diagnose, weight):
    model = MedTVTForCausalLM.from_pretrained(checkpoint)
    with torch.no_grad():
        model.model.get_parameter(weight).fill_(torch.inf if weight.startswith("lab") else torch.nan)
    other = pipeline("medical-diagnosis", model=model, processor=diagnose.processor)
    with pytest.raises(ValueError, match=f"cannot answer: its weight model.{weight} holds NaN or infinity"):
        other(lab={"Sodium": 140}, max_new_tokens=2)


def test_inputs_that_become_no_numbers_are_not_blamed_on_the_weights(checkpoint, monkeypatch):
    diagnose = pipeline("medical-diagnosis", model=str(checkpoint))
    no_numbers = staticmethod(lambda values, *_: np.full_like(np.asarray(values, dtype=np.float32), np.nan))
    monkeypatch.setattr(type(diagnose.processor), "_scatter", no_numbers)
    with pytest.raises(ValueError, match="not finite, though its weights are"):
        diagnose(cxr=np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8), max_new_tokens=2)


def test_folders_that_are_no_medtvt_checkpoint(checkpoint, tmp_path):
    with pytest.raises((OSError, ValueError), match="nothing"):
        pipeline("medical-diagnosis", model=str(tmp_path / "nothing"))
    llama = LlamaConfig(
        vocab_size=700, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    LlamaForCausalLM(llama).save_pretrained(tmp_path / "llama")
    toy_tokenizer().save_pretrained(tmp_path / "llama")
    with pytest.raises((TypeError, ValueError), match="processor|of type 'llama'"):
        pipeline("medical-diagnosis", model=str(tmp_path / "llama"))
    MedTVTForCausalLM.from_pretrained(checkpoint).save_pretrained(tmp_path / "bare")
    with pytest.raises((OSError, ValueError), match="bare"):
        pipeline("medical-diagnosis", model=str(tmp_path / "bare"))


def test_processor_and_model_must_agree_on_the_number_of_tokens(checkpoint, diagnose, tmp_path):
    other = MedTVTForCausalLM.from_pretrained(init_tiny(tmp_path / "k2", num_modality_tokens=2))
    with pytest.raises(ValueError, match="num_modality_tokens"):
        pipeline("medical-diagnosis", model=other, processor=diagnose.processor)
