# SPDX-License-Identifier: Apache-2.0
import base64
import functools
import io
import json
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import LlamaConfig, LlamaForCausalLM

from medtvt_training import cli
from medtvt_training.evaluation.baseline import PEERS, list_peers, run_baseline
from medtvt_training.evaluation.chat import draw_ecg_page, load_answerer, write_question
from medtvt_training.evaluation.endpoint import EndpointAnswerer
from medtvt_training.evaluation.gradient_boosting import GradientBoostingAnswerer
from medtvt_training.evaluation.run import Records, Scoring, predict
from medtvt_training.mimic.teachers import EndpointRefusedError, OpenAITeacher, TeacherError
from medtvt_training.synthetic.example_patient import write_example_patient
from modeling_medtvt import DISEASES

from tests.medtvt_training.evaluation.tiny_peers import CLASSES, tiny_answerer, write_tiny_peer
from tests.medtvt_training.mimic.misbehaving_server import misbehaving_server
from tests.toy import toy_tokenizer


def run_command(*arguments: Any) -> None:
    cli.run(["baseline", *map(str, arguments)])


def test_the_eight_of_the_paper():
    assert len(PEERS) == 8
    native = {name for name, peer in PEERS.items() if peer.native}
    assert set(PEERS) - native == {"Mini-InternVL-Chat-2B-V1-5", "Molmo-7B-O-0924"}
    assert {PEERS[name].class_name for name in native} == set(CLASSES.values())
    assert list_peers().count("| transformers | --model ") == 6
    assert list_peers().count("| a server (vLLM, SGLang) | --endpoint URL --model ") == 2


@pytest.mark.parametrize("model_type", sorted(CLASSES))
def test_every_native_class_answers(rows, model_type):
    answerer = tiny_answerer(model_type, max_new_tokens=3)
    assert type(answerer.model).__name__ == CLASSES[model_type]
    chosen = [rows[0], rows[3], rows[5]]  # all modalities, no X-ray, no labs
    answers = answerer.answer(answerer.prepare(chosen))
    assert len(answers) == 3 and all(isinstance(answer["completion"], str) for answer in answers)


def test_the_pictures_reach_the_model(rows):
    """Another ECG or X-ray, same labs: other logits."""
    answerer = tiny_answerer("llava", max_new_tokens=1)
    seen = []
    answerer.model.lm_head.register_forward_hook(lambda module, inputs, output: seen.append(output[0, -1].clone()))
    for changed in ({}, {"ecg": rows[1]["ecg"]}, {"cxr": rows[1]["cxr"]}):
        answerer.answer(answerer.prepare([{**rows[0], **changed}]))
    assert not torch.equal(seen[0], seen[1]) and not torch.equal(seen[0], seen[2])


def test_the_command_on_a_folder(data, tmp_path):
    folder = write_tiny_peer(tmp_path / "llava", "llava")
    run_command(
        *("--model", folder, "--data", data, "--out", tmp_path / "out", "--limit", 2),
        *("--max-new-tokens", 3, "--resamples", 10),
    )
    results = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert results["about"]["records"] == 2 and results["strict"]["parse_rate"] == 0


def test_text_only(rows, tmp_path):
    tokenizer = toy_tokenizer()
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    answerer = load_answerer(str(tmp_path), text_only=True, device="cpu", max_new_tokens=3)
    rows[0]["ecg"] = write_example_patient(tmp_path / "patient")["ecg"]  # noise cannot be measured
    text = answerer.prepare(rows[:1])[0][0]["content"]
    assert "heart_rate: " in text and "ECG measurements" in text and "Creatinine" in text and "You see" not in text
    assert isinstance(answerer.answer(answerer.prepare(rows[:1]))[0]["completion"], str)


def test_the_question(rows):
    row = {**rows[0], "lab": {**dict.fromkeys(rows[0]["lab"]), "Creatinine": 4.2, "Sodium": 120.0, "Potassium": 4.0}}
    text = write_question(row, with_images=True)
    assert "Creatinine: 4.2 mg/dL (high; reference 0.5 to 1.2)" in text
    assert "Sodium: 120 mEq/L (low;" in text and "Potassium: 4 mEq/L (normal;" in text and "Glucose" not in text
    assert "12-lead ECG" in text and "chest X-ray" in text and all(disease in text for disease in DISEASES)
    assert "ECG" not in write_question({**row, "modalities": ["lab"]}, with_images=True)


def test_the_ecg_page_is_drawn(rows):
    page = np.asarray(draw_ecg_page(rows[0]["ecg"]))
    assert page.ndim == 3 and page.shape[1] > 900
    assert (page != np.asarray(draw_ecg_page(rows[1]["ecg"]))).any()


def test_gradient_boosting_learns_what_is_there():
    def make(n: Any, seed: int) -> Any:
        rng = np.random.default_rng(seed)
        rows = []
        for i in range(n):
            creatinine, glucose = rng.uniform(0.5, 5), rng.uniform(60, 300)
            diseases = ["Acute Renal Failure"] * (creatinine > 2) + ["Diabetes Mellitus"] * (glucose > 180)
            lab = {**dict.fromkeys(names), "Creatinine": creatinine, "Glucose": glucose}
            rows.append({"id": str(i), "modalities": ["lab"], "lab": lab, "diseases": diseases})
        return rows

    from medtvt_training.data.schema import LAB_NAMES as names

    answerer = GradientBoostingAnswerer(make(200, 0), make(60, 1))
    test = make(60, 2)
    answers = answerer.answer(answerer.prepare(test))
    right = [
        answer["completion"]
        == f"<think></think><answer>{'; '.join(d for d in DISEASES if d in row['diseases'])}</answer>"
        for row, answer in zip(test, answers)
    ]
    assert np.mean(right) > 0.9
    assert all(answer["probabilities"]["Sepsis"] == 0 for answer in answers)  # no training row has it


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "Molmo-7B-O-0924"], "not in transformers"),
        (["--model", "OpenGVLab/Mini-InternVL-Chat-2B-V1-5"], "not in transformers"),
        (["--model", "gradient-boosting", "--level", "physiology"], "writes no text"),
        (["--model", "gradient-boosting", "--endpoint", "http://localhost:1/v1"], "needs no endpoint"),
        (["--model", "m", "--endpoint", "https://example.org/v1"], "MIMIC's data may go there only if"),
        (["--model", "m", "--endpoint", "example.org"], "must look like https"),
        (["--model", "m", "--acknowledge-data-use", "yes"], "belong to --endpoint"),
    ],
)
def test_refusals(data, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        run_command(*arguments, "--data", data, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_of_another_kind_is_refused(tmp_path):
    with pytest.raises(ValueError, match="does not open as an image-text-to-text model"):
        load_answerer(str(tmp_path), text_only=False, device="cpu")


class Questions(dict):
    """Answers whatever is asked, and keeps the questions."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Any] = []

    def __getitem__(self, content: Any) -> str:
        self.asked.append(content)
        return "<think>It shows atrial fibrillation.</think><answer>Atrial Fibrillation</answer>"


@pytest.mark.parametrize("text_only", [False, True])
def test_a_server_that_is_slow_fails_and_cuts_connections(data, rows, tmp_path, text_only, monkeypatch):
    patient = OpenAITeacher.__init__
    monkeypatch.setattr(OpenAITeacher, "__init__", lambda *a, **k: patient(*a, **k, backoff=0.01, max_retries=20))
    questions = Questions()
    with misbehaving_server(questions, fault_share=0.5, seed=1) as server:
        run = functools.partial(
            run_baseline,
            "molmo",
            Records(data),
            tmp_path,
            Scoring(resamples=0),
            batch_size=3,
            text_only=text_only,
            endpoint=server.url,
        )
        results = run()
        assert sum(count for fault, count in server.faults.items() if fault) > 0
        asked = len(questions.asked)
        assert run()["strict"] == results["strict"] and len(questions.asked) == asked  # nothing is asked twice
    lines = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert len(lines) == len(rows) and results["strict"]["parse_rate"] == 1
    assert all(line["evidence"]["statements"][0]["finding"] == "ecg: fibrillation" for line in lines)
    if text_only:
        assert all(isinstance(question, str) for question in questions.asked)
        return
    both = next(question for question in questions.asked if len(question) == 3)
    for part in both[:2]:
        head, content = part["image_url"]["url"].split(",")
        assert head == "data:image/png;base64"
        assert Image.open(io.BytesIO(base64.b64decode(content))).size[0] >= 40
    assert "You see a 12-lead ECG" in both[2]["text"]


def test_a_server_that_stays_silent_loses_nothing(data, rows, tmp_path):
    """Half of the answers fail for good; the next run asks for these alone."""

    class Client:
        def __init__(self, failing: int) -> None:
            self.failing, self.asked = failing, 0

        def answer(self, question: Any, key: str) -> str:
            self.asked += 1
            if self.asked <= self.failing:
                raise TeacherError("localhost gave no answer to a request (status 500).")
            return "<answer></answer>"

    first, second = Client(3), Client(0)
    about = {"model": "m", "settings": {}}
    client: Any = first
    assert len(predict(rows, EndpointAnswerer(client, False), tmp_path, about, 1)) == 3
    reasons = [json.loads(line)["reason"] for line in (tmp_path / "rejects.jsonl").read_text().splitlines()]
    assert len(reasons) == 3 and "status 500" in reasons[0]
    client = second
    assert len(predict(rows, EndpointAnswerer(client, False), tmp_path, about, 1)) == len(rows)
    assert second.asked == 3 and not (tmp_path / "rejects.jsonl").exists()


def test_a_server_that_refuses_ends_the_run(data, rows, tmp_path):
    class Refusing:
        asked = 0

        def answer(self, question: Any, key: str) -> str:
            self.asked += 1
            raise EndpointRefusedError("localhost refuses requests with status 401.")

    client: Any = Refusing()
    with pytest.raises(EndpointRefusedError, match="status 401"):
        predict(rows, EndpointAnswerer(client, False), tmp_path, {"model": "m"}, 2)
    assert client.asked == 2
