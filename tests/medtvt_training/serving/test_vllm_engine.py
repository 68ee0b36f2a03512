# SPDX-License-Identifier: Apache-2.0
"""The client of vLLM, against a stand-in that speaks its protocol; `make vllm-test` holds it against vLLM itself."""

import base64
import io

import httpx
import pytest
import torch
from fastapi.testclient import TestClient

from medtvt_training.cli import main
from medtvt_training.evaluation.run import Records, Scoring, evaluate_model
from medtvt_training.files import read_jsonl
from medtvt_training.inference.load import load_pipeline
from medtvt_training.serving.app import create_app
from medtvt_training.serving.vllm_engine import EngineError, VllmEngine, write_with_vllm

from ...toy import write_checkpoint, write_toy_dataset
from .stand_in import URL, StandIn, put_in_place_of_the_network


LAB = {"Creatinine": 2.3}


@pytest.fixture
def connect(monkeypatch):
    """Puts something in the place of the network."""
    return lambda handler: put_in_place_of_the_network(monkeypatch, handler)


def open_remote(checkpoint):
    """The pipeline, whose texts the stand-in writes."""
    diagnose = load_pipeline(checkpoint)
    write_with_vllm(diagnose.model, diagnose.tokenizer, VllmEngine(URL))
    return diagnose


def test_answers_are_the_pipelines(connect, checkpoint, diagnose, patient):
    engine = StandIn(diagnose.model)
    connect(engine)
    remote = open_remote(checkpoint)
    inputs = {"ecg": str(patient / "ecg.hea"), "lab": LAB, "max_new_tokens": 6}
    answered, expected = remote(**inputs), diagnose(**inputs)
    assert answered.pop("contributions") == pytest.approx(expected.pop("contributions"), abs=1e-4, nan_ok=True)
    assert answered == expected
    sent = engine.requests[-1]
    assert set(sent["logit_bias"].values()) == {-100} and len(sent["logit_bias"]) == 3 and sent["temperature"] == 0
    # a batch is one request, without the padding
    several = remote(
        [{"lab": LAB}, {"lab": LAB, "question": "Which of the seven diseases?"}], batch_size=2, max_new_tokens=3
    )
    assert len(several) == 2 and len(engine.requests[-1]["prompt_embeds"]) == 2
    shapes = [
        torch.load(io.BytesIO(base64.b64decode(p)), weights_only=True).shape
        for p in engine.requests[-1]["prompt_embeds"]
    ]
    assert shapes[0] != shapes[1]


def test_samples_are_drawn_there(connect, checkpoint, diagnose):
    engine = StandIn(diagnose.model)
    connect(engine)
    remote = open_remote(checkpoint)
    result = remote(lab=LAB, num_samples=3, temperature=1.5, max_new_tokens=4)
    drawn = next(sent for sent in engine.requests if sent.get("n") == 3)
    assert drawn["temperature"] == 1.5 and drawn["top_k"] == 50 and "seed" in drawn
    assert all(disease["score"] is not None for disease in result["diseases"])
    with pytest.raises(ValueError, match="num_beams: not with"):
        remote(lab=LAB, num_beams=2)


def test_an_engine_of_other_weights_is_refused(connect, checkpoint, diagnose, tmp_path):
    connect(StandIn(diagnose.model))
    with pytest.raises(ValueError, match="serves other weights"):
        open_remote(write_checkpoint(tmp_path / "other", seed=1))


def gone(request):
    raise httpx.ConnectError("refused")


@pytest.mark.parametrize(
    "handler, message",
    [
        (gone, "does not answer"),
        (lambda request: httpx.Response(200, json={"data": []}), "lists no model"),
        (lambda request: httpx.Response(503, text="busy"), "failed at /v1/models with 503: busy"),
        (lambda request: httpx.Response(401, text="key?"), "refuses /v1/models with 401: key"),
    ],
)
def test_what_is_no_engine_is_refused(connect, checkpoint, handler, message):
    connect(handler)
    with pytest.raises((ValueError, EngineError), match=message):
        open_remote(checkpoint)


def test_a_batch_whose_engine_dies_goes_on_where_it_was(connect, checkpoint, diagnose, patient, tmp_path, capsys):
    table = patient / "many.csv"
    table.write_text("id,lab\n" + "".join(f"{i},lab.csv\n" for i in range(4)))
    command = ["diagnose", "--model", str(checkpoint), "--batch", str(table), "--out", str(tmp_path / "answers.jsonl")]
    command += ["--batch-size", "1", "--max-new-tokens", "3", "--engine", "vllm", "--engine-url", URL]
    connect(StandIn(diagnose.model, prompts=3))  # the first of them is asked whether its weights are these
    assert main(command) == 2 and "does not answer" in capsys.readouterr().err
    kept = list(read_jsonl(tmp_path / "answers.jsonl"))
    assert [record["id"] for record in kept] == ["0", "1"]
    connect(StandIn(diagnose.model))
    assert main(command) == 0 and "2 patients answered, 2 before" in capsys.readouterr().out
    assert list(read_jsonl(tmp_path / "answers.jsonl"))[:2] == kept


def test_an_evaluation_whose_engine_dies_goes_on_where_it_was(connect, checkpoint, diagnose, tmp_path):
    records = Records(write_toy_dataset(tmp_path / "data", 3))
    settings = {"scoring": Scoring(resamples=0), "batch_size": 1, "max_new_tokens": 3}
    connect(StandIn(diagnose.model, prompts=3))
    with pytest.raises(EngineError, match="does not answer"):
        evaluate_model(checkpoint, records, tmp_path / "out", engine=VllmEngine(URL), **settings)
    connect(StandIn(diagnose.model))
    evaluate_model(checkpoint, records, tmp_path / "out", engine=VllmEngine(URL), **settings)
    evaluate_model(checkpoint, records, tmp_path / "plain", **settings)
    found, expected = ({r["id"]: r["completion"] for r in read_jsonl(tmp_path / name / "predictions.jsonl")}
                       for name in ("out", "plain"))  # fmt: skip
    assert found == expected and len(found) == 3


def test_a_server_without_its_engine_says_so_and_goes_on(connect, checkpoint, diagnose, served):
    engine = StandIn(diagnose.model)
    connect(engine)
    with TestClient(create_app(open_remote(checkpoint), served), raise_server_exceptions=False) as client:
        body = {"lab": LAB, "max_new_tokens": 3}
        assert client.post("/v1/diagnose", json=body).status_code == 200
        engine.left = 0
        answer = client.post("/v1/diagnose", json=body)
        assert answer.status_code == 503 and "try again later" in answer.json()["error"]["message"]
        assert URL not in answer.text
        engine.left = None
        assert client.post("/v1/diagnose", json=body).status_code == 200


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["diagnose", "--engine-url", URL], "--engine-url belongs to"),
        (["evaluate", "--engine", "vllm", "--num-samples", "2"], "--num-samples is not with"),
        (["evaluate", "--engine", "vllm", "--open-data", "d"], "not with --open-data"),
        (["diagnose", "--engine", "vllm", "--engine-url", "http://127.0.0.1:9"], "vllm serve MODEL"),
    ],
)
def test_options_that_do_not_go_together(options, message, checkpoint, capsys):
    more = ["--data", "d", "--out", "o"] if options[0] == "evaluate" else ["--lab", "lab.csv"]
    assert main([*options, *more, "--model", str(checkpoint)]) == 2
    assert message in capsys.readouterr().err
