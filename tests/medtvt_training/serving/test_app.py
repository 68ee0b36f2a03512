# SPDX-License-Identifier: Apache-2.0
import json
import logging
import shutil

import pytest
import torch

from medtvt_training.serving.app import Limits
from modeling_medtvt import MedTVTForCausalLM


LAB = {"Creatinine": 2.3, "Potassium": {"value": 5.9, "unit": "mmol/L"}}
SHORT = {"max_new_tokens": 5}


def ask(text=None, **parts):
    content = [{"type": kind, kind: value} for kind, value in parts.items()]
    return {
        "messages": [{"role": "user", "content": [*content, *([{"type": "text", "text": text}] if text else [])]}],
        "max_tokens": 5,
    }


def read_events(response):
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_an_answer_is_the_pipelines(open_client, diagnose, patient, files, served):
    given = {"ecg": files("ecg.hea", "ecg.dat"), "cxr": files("cxr.png"), "lab": files("lab.csv")}
    about = {"patient": {"age": 71, "sex": "F"}, "question": "What is wrong?"}
    paths = {"ecg": patient / "ecg.hea", "cxr": patient / "cxr.png", "lab": patient / "lab.csv"}
    expected = diagnose(**{name: str(path) for name, path in paths.items()}, **about, **SHORT)
    with open_client() as client:
        response = client.post("/v1/diagnose", json={**given, **about, **SHORT})
        assert response.status_code == 200 and "\n" not in response.text
        result = response.json()
        assert "Research use only" in result.pop("notice")
        assert (result.pop("model"), result.pop("fingerprint")) == (served.name, served.fingerprint)
        assert result.pop("contributions") == pytest.approx(expected.pop("contributions"), abs=1e-4)
        assert result == expected


def test_labs_and_signals_come_as_json(open_client, diagnose):
    signal = torch.randn(12, 1000, generator=torch.Generator().manual_seed(0)).tolist()
    leads = ["I", "II", "III", "aVR", "aVF", "aVL", "V1", "V2", "V3", "V4", "V5", "V6"]
    ecg = {"signal": signal, "sampling_rate": 100, "leads": leads, "unit": "mV"}
    expected = diagnose(ecg=ecg, lab=LAB, **SHORT)
    with open_client() as client:
        result = client.post("/v1/diagnose", json={"ecg": ecg, "lab": LAB, **SHORT}).json()
    assert result["generated_text"] == expected["generated_text"] and result["warnings"] == expected["warnings"]


def test_influence_and_samples_as_in_the_pipeline(open_client):
    with open_client() as client:
        body = {"lab": LAB, "influence": True, "num_samples": 3, "seed": 4, **SHORT}
        first, second = (client.post("/v1/diagnose", json=body).json() for _ in range(2))
    assert set(first["influence"]["Sepsis"]) == {"lab"} and first["diseases"][0]["score"] is not None
    assert first == second


def test_chat_completion(open_client, diagnose, served):
    expected = diagnose(lab=LAB, question="Which disease?", **SHORT)
    with open_client() as client:
        answer = client.post("/v1/chat/completions", json=ask("Which disease?", lab=LAB)).json()
        drawn = client.post("/v1/chat/completions", json={**ask("Why?"), "temperature": 0.7, "seed": 3}).json()
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": expected["generated_text"]}
    assert answer["choices"][0]["finish_reason"] == "length" and answer["usage"]["completion_tokens"] == 5
    assert answer["result"]["warnings"] == expected["warnings"]
    assert answer["system_fingerprint"] == served.fingerprint and "Research use only" in answer["notice"]
    assert drawn["choices"][0]["message"]["content"]


def test_a_stream_is_the_answer_in_pieces(open_client, diagnose):
    expected = diagnose(lab=LAB, **SHORT)["generated_text"]
    with open_client() as client:
        response = client.post("/v1/chat/completions", json={**ask(lab=LAB), "stream": True})
        *chunks, last = read_events(response)
        refused = client.post("/v1/chat/completions", json={**ask(lab={"Creatinine": "x"}), "stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    pieces = [chunk["choices"][0]["delta"]["content"] for chunk in [*chunks, last]]
    assert "".join(pieces) == expected and sum(map(bool, pieces)) > 1
    assert last["choices"][0]["finish_reason"] == "length" and last["result"]["generated_text"] == expected
    assert all("Research use only" in chunk["notice"] for chunk in [*chunks, last])
    assert refused.status_code == 400 and "Creatinine" in refused.json()["error"]["message"]


REFUSED = [
    ({}, 400, "at least one of `ecg`, `cxr`, `lab`"),
    ({"lab": "/etc/passwd"}, 400, "lab: Input should be a valid dictionary"),
    ({"cxr": {"path": "/etc/passwd"}}, 400, "cxr: it holds no files; accepted is"),
    ({"ecg": {"files": {"../x.hea": "YQ=="}}}, 400, "no plain file name"),
    ({"ecg": {"files": {"a.edf": "not base64"}}}, 400, "ecg: file 1 is no base64"),
    ({"ecg": {"files": {"a.hea": "YQ==", "b.hea": "YQ=="}}}, 400, "2 of them .hea; accepted is"),
    ({"cxr": {"files": {"a.png": "YQ==", "b.png": "YQ=="}}}, 400, "cxr: its files cannot be used"),
    ({"cxr": {"files": {"a.png": "YWJj"}}}, 400, "a.png"),
    ({"lab": {"Creatinine": "high"}}, 400, "Creatinine: the value (text) is not a number"),
    ({"lab": LAB, "patient": {"age": 300}}, 400, "age"),
    ({"lab": LAB, "labs": {}}, 400, "labs: there is no such key; accepted are model, fingerprint"),
    ({"lab": LAB, "max_new_tokens": 1000}, 400, "accepted are 1 to 64"),
    ({"lab": LAB, "num_samples": 0}, 400, "num_samples: Input should be greater than or equal to 1"),
    ({"lab": LAB, "abstain": 0.1}, 400, "without calibration.json"),
    ({"lab": LAB, "num_samples": 2, "temperature": 0}, 400, "contradicts"),
    ({"lab": LAB, "model": "other"}, 404, "accepted is 'tiny'"),
    ({"lab": LAB, "fingerprint": "other"}, 409, "other weights; accepted is 0123456789abcdef"),
]


def test_what_is_refused_is_named_in_one_line(open_client, diagnose):
    with open_client() as client:
        for body, status, message in REFUSED:
            response = client.post("/v1/diagnose", json=body)
            error = response.json()["error"]
            assert (response.status_code, error["code"]) == (status, status), body
            assert message in error["message"] and "\n" not in response.text, response.text
            # no place on the server
            assert "/tmp" not in response.text and diagnose.model.config.name_or_path not in response.text


@pytest.mark.parametrize(
    "path, content, status, message",
    [
        ("/v1/diagnose", '{"lab": ', 400, "body: it is no JSON at character 8"),
        ("/v1/diagnose", "[" * 200_000, 400, "body"),
        ("/v1/diagnose", "[]", 400, "body: it is no JSON object"),
        ("/v1/nothing", "{}", 404, "accepted are /v1/chat/completions"),
        ("/v1/models", "{}", 405, "GET for /v1/models"),
        ("/v1/chat/completions", {**ask("a"), "n": 2}, 400, "n: Input should be less than or equal to 1"),
        ("/v1/chat/completions", {"messages": []}, 400, "messages: List should have at least 1 item"),
        ("/v1/chat/completions", {"messages": [{"role": "system", "content": "a"}]}, 400, "Input should be 'user'"),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            400,
            "messages.0.content.0: Input tag 'image_url'",
        ),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": [{"type": "lab", "lab": LAB}] * 2}]},
            400,
            "several parts are of type lab",
        ),
    ],
)
def test_foreign_requests_are_refused(open_client, path, content, status, message):
    content = content if isinstance(content, str) else json.dumps(content)
    with open_client() as client:
        response = client.post(path, content=content, headers={"content-type": "application/json"})
    assert response.status_code == status and message in response.json()["error"]["message"]
    assert "\n" not in response.text


def test_a_file_that_leads_out_of_the_request_is_not_opened(open_client, files, tmp_path, patient):
    shutil.copy(patient / "ecg.dat", tmp_path / "ecg.dat")
    header = (patient / "ecg.hea").read_text().replace("ecg.dat", str(tmp_path / "ecg.dat"))
    (patient / "away.hea").write_text(header)
    with open_client() as client:
        response = client.post("/v1/diagnose", json={"ecg": files("away.hea")})
    assert response.status_code == 400 and response.json()["error"]["message"].startswith("ecg")


def test_bodies_are_limited_before_they_are_read(open_client):
    def endless():
        for _ in range(1000):
            produced.append(1)
            yield b" " * 1000

    with open_client(max_request_mb=0.01) as client:
        stated = client.post("/v1/diagnose", json={"question": "a" * 20_000})
        produced: list[int] = []
        unstated = client.post("/v1/diagnose", content=endless(), headers={"content-type": "application/json"})
    for response in (stated, unstated):
        assert response.status_code == 413
        assert response.json()["error"]["message"] == (
            "body: it is too large; accepted are 10,000 bytes (--max-request-mb)."
        )


def test_a_bug_in_an_answer_is_no_fault_of_the_request(open_client, diagnose, monkeypatch, caplog):
    secret = "Mrs Example"

    def fail(*args, **kwargs):
        raise KeyError(secret)

    with monkeypatch.context() as patch, open_client() as client:
        patch.setattr(MedTVTForCausalLM, "generate", fail)
        response = client.post("/v1/diagnose", json={"lab": LAB, **SHORT})
        streamed = read_events(client.post("/v1/chat/completions", json={**ask(lab=LAB), "stream": True}))
        assert response.status_code == 500 and "KeyError" in response.json()["error"]["message"]
        assert streamed[-1]["error"]["code"] == 500
        patch.undo()
        assert client.post("/v1/diagnose", json={"lab": LAB, **SHORT}).status_code == 200
        assert client.get("/health").json()["status"] == "ok"
    assert secret not in caplog.text and "in fail" in caplog.text


def test_the_log_holds_no_patient(open_client, caplog):
    with caplog.at_level(logging.INFO), open_client() as client:
        client.post("/v1/diagnose?patient=Example", json={"question": "Is Mrs Example ill?", **SHORT})
        client.post("/v1/Example", json={})
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("medtvt_training")]
    assert len(lines) == 2 and lines[0].startswith("POST /v1/diagnose 200 ")
    assert lines[1].startswith("POST (no such path) 404 ") and "Example" not in "".join(lines)


def test_health_and_models(open_client, served):
    with open_client() as client:
        assert client.get("/health").json()["status"] == "ok"
        model = client.get("/v1/models").json()["data"][0]
    assert (model["id"], model["fingerprint"], model["stage"]) == (served.name, served.fingerprint, None)


@pytest.mark.parametrize("limits", [{"max_batch": 0}, {"timeout": -1}, {"max_request_mb": 0}])
def test_limits_leave_something(limits):
    with pytest.raises(ValueError, match="must be greater than 0"):
        Limits(**limits)
