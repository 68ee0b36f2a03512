# SPDX-License-Identifier: Apache-2.0
"""The client of vLLM, against a stand-in that speaks its protocol; `make vllm-test` holds it against vLLM itself."""

import base64
import io
import json

import httpx
import pytest
import torch

from medtvt_training.serving.vllm_engine import load_vllm_pipeline

from ...toy import write_checkpoint


URL = "http://engine.test"
LAB = {"Creatinine": 2.3}


class StandIn:
    """/v1/models and /v1/completions, answered by a model in this process."""

    def __init__(self, model):
        self.model, self.requests = model, []

    def __call__(self, request):
        if request.url.path == "/v1/models":
            return httpx.Response(200, json={"object": "list", "data": [{"id": "served"}]})
        body = json.loads(request.content)
        self.requests.append(body)
        if body["model"] != "served":
            return httpx.Response(404, json={"error": {"message": "no such model"}})
        choices = [
            self.complete(prompt, body, n) | {"index": place * body.get("n", 1) + n}
            for place, prompt in enumerate(body["prompt_embeds"])
            for n in range(body.get("n", 1))
        ]
        return httpx.Response(200, json={"choices": choices[::-1]})

    @torch.no_grad()
    def complete(self, prompt, body, n):
        embeds = torch.load(io.BytesIO(base64.b64decode(prompt)), weights_only=True)[None]
        drawn = (
            {"do_sample": True, "temperature": body["temperature"]} if body["temperature"] else {"do_sample": False}
        )
        torch.manual_seed(body.get("seed", 0) + n)
        mask = torch.ones(embeds.shape[:2], dtype=torch.long)
        tokens = self.model.generate(
            inputs_embeds=embeds, attention_mask=mask, max_new_tokens=body["max_tokens"], **drawn
        )[0]
        scores = self.model(inputs_embeds=embeds).logits[0, -1].log_softmax(-1)
        return {"token_ids": tokens.tolist(), "logprobs": {"token_logprobs": [scores[tokens[0]].item()]}}


@pytest.fixture
def connect(monkeypatch):
    """Puts something in the place of the network."""
    client = httpx.Client

    def put(handler):
        monkeypatch.setattr(httpx, "Client", lambda **kw: client(transport=httpx.MockTransport(handler), **kw))

    return put


def test_answers_are_the_pipelines(connect, checkpoint, diagnose, patient):
    engine = StandIn(diagnose.model)
    connect(engine)
    remote = load_vllm_pipeline(checkpoint, URL)
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
    remote = load_vllm_pipeline(checkpoint, URL)
    result = remote(lab=LAB, num_samples=3, temperature=1.5, max_new_tokens=4)
    drawn = next(sent for sent in engine.requests if sent.get("n") == 3)
    assert drawn["temperature"] == 1.5 and "seed" in drawn
    assert all(disease["score"] is not None for disease in result["diseases"])
    with pytest.raises(ValueError, match="num_beams: not with"):
        remote(lab=LAB, num_beams=2)


def test_an_engine_of_other_weights_is_refused(connect, checkpoint, diagnose, tmp_path):
    connect(StandIn(diagnose.model))
    with pytest.raises(ValueError, match="serves other weights"):
        load_vllm_pipeline(write_checkpoint(tmp_path / "other", seed=1), URL)


def gone(request):
    raise httpx.ConnectError("refused")


@pytest.mark.parametrize(
    "handler, message",
    [
        (gone, "does not answer"),
        (lambda request: httpx.Response(200, json={"data": []}), "lists no model"),
        (lambda request: httpx.Response(503, text="busy"), "refuses /v1/models with 503: busy"),
    ],
)
def test_what_is_no_engine_is_refused(connect, checkpoint, handler, message):
    connect(handler)
    with pytest.raises(ValueError, match=message):
        load_vllm_pipeline(checkpoint, URL)
