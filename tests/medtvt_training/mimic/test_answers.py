# SPDX-License-Identifier: Apache-2.0
import csv
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from medtvt_training.data.authors_layout import AUTHORS_FILES
from medtvt_training.data.conversation import message_text, withhold
from medtvt_training.data.load import load_medtvt_qa
from medtvt_training.mimic.access import check_outside_git
from medtvt_training.mimic.answers import STORE, write_answers
from medtvt_training.mimic.dataset import write_dataset
from medtvt_training.mimic.export_authors import export_authors
from medtvt_training.mimic.prompts import Request, make_requests, read_template
from medtvt_training.mimic.review import export_review, import_review
from medtvt_training.mimic.stats import write_stats
from medtvt_training.mimic.store import AnswerStore
from medtvt_training.mimic.teachers import (
    ACKNOWLEDGMENT,
    EndpointRefusedError,
    LocalTeacher,
    OpenAITeacher,
    TeacherError,
)
from medtvt_training.mimic.template_teacher import TemplateTeacher
from medtvt_training.mimic.verify import check_answer, split_parts
from medtvt_training.sharing.cards import dataset_card

from .invented_cohort import invent_admission, write_invented_cohort
from .misbehaving_server import misbehaving_server


GOOD = (
    "<think>ECG: atrial fibrillation.\nCXR: pleural effusion.\nLabs: high Creatinine of 2.0 mg/dL.\n"
    "Conclusion: both fit.\n</think><answer>Acute Renal Failure; Atrial Fibrillation</answer>"
)


@pytest.fixture
def requests() -> dict[Any, Any]:
    return {request.id.split("-")[1]: request for request in make_requests([invent_admission(0)])}


@pytest.fixture
def build(tmp_path: Path) -> Any:
    build = write_invented_cohort(tmp_path / "build", 30)
    write_answers(build, TemplateTeacher())
    return build


def test_template_answers_pass_and_load(build):
    write_dataset(build, build / "dataset")
    rows = load_medtvt_qa(build / "dataset", "diagnosis", "train")
    row = rows[0]
    assert row["age"] == 60 and row["sex"] == "F"
    assert row["hadm_id"] == 20000000 and row["ecg_study_id"] == 40000000 and row["access"] == "credentialed"
    assert "atrial fibrillation" in message_text(row["completion"]) and row["findings"][0] == "ecg: fibrillation"
    without = withhold(row, "ecg")
    assert "ECG:" not in message_text(without["completion"]) and "Labs:" in message_text(without["completion"])
    physiology = load_medtvt_qa(build / "dataset", "physiology", "train")
    assert len(physiology) == 3 * len(rows)
    card = dataset_card(build / "dataset")
    for said in ("Human review: **not done**", "Data Use Agreement", "| diagnosis | train |", "| `age` | float64 |"):
        assert said in card.text
    assert card.data.license == "other" and "20000000" not in card.text


def test_two_builds_are_the_same_bytes(build, tmp_path):
    other = write_invented_cohort(tmp_path / "other", 30)
    write_answers(other, TemplateTeacher())
    for folder in (build, other):
        write_dataset(folder, folder / "dataset")
    files = sorted(path.relative_to(build) for path in (build / "dataset").rglob("*") if path.is_file())
    assert len(files) == 8
    for file in files:
        assert (build / file).read_bytes() == (other / file).read_bytes()


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("<answer>Acute", "Acute", "<think>"),
        ("Acute Renal Failure; Atrial", "Atrial", "answer block"),
        ("</answer>", "; Sepsis</answer>", "answer block"),
        ("CXR: pleural", "Film: pleural", "lines begin"),
        ("2.0 mg", "3.7 mg", "numbers"),
        ("high Creatinine", "low Creatinine", "calls Creatinine low"),
        ("high Creatinine", "high Lactate", "Lactate, which was not measured"),
        ("ECG: atrial", "ECG: left bundle branch block, atrial", "bundle branch block"),
        ("CXR: pleural", "CXR: pneumothorax, pleural", "pneumothorax"),
        ("both fit", "sepsis fits", "sepsis"),
        ("both fit", "Dr. Who agrees", "a person"),
        ("both fit", "seen on 3/4", None),
        ("both fit", "seen on 2150-03-04", "a date"),
        ("both fit", "patient 20000000", "an id"),
        ("both fit", "as ___ says", "de-identification gap"),
        ("both fit", "word " * 500, "words"),
        ("both fit", "no pneumothorax and no sepsis", None),
    ],
)
def test_checks(requests, old, new, problem):
    assert old in GOOD and check_answer(GOOD, requests["diagnosis"]) == []
    problems = check_answer(GOOD.replace(old, new, 1), requests["diagnosis"])
    if problem is None:
        assert not any("claims" in found for found in problems)
    else:
        assert problem in "; ".join(problems)


def test_parts_are_the_answer_again(requests):
    parts = split_parts(GOOD, requests["diagnosis"])
    assert "".join(part["text"] for part in parts) == GOOD
    assert [part["modalities"] for part in parts] == [None, ["ecg"], ["cxr"], ["lab"], ["ecg", "cxr", "lab"], None]


def test_prompts_have_four_parts_and_no_ids(requests):
    for request in requests.values():
        text = json.dumps(request.messages)
        assert "{" not in "".join(message["content"] for message in request.messages)
        assert not any(number in text for number in ("10000000", "20000000", "40000000", "50000000"))
    assert set(read_template("ecg")) == {"role", "task", "guidance", "format"}


class Stubborn(TemplateTeacher):
    """Its first answers are bad, and bad to the end for the ECG."""

    identity = {"teacher": "stubborn"}
    attempts = 3

    def answer(self, request: Request, attempt: int = 0) -> str:
        if attempt == 0 or request.id.endswith("ecg"):
            return "Pneumothorax of 99 mm, see Dr. Who."
        return super().answer(request)


def test_regenerated_then_rejected(tmp_path):
    build = write_invented_cohort(tmp_path / "build", 2)
    assert write_answers(build, Stubborn()) == {"accepted": 6, "rejected": 2, "asked": 18}
    assert write_answers(build, Stubborn())["asked"] == 0
    rejected = [json.loads(line) for line in (build / "rejected_answers.jsonl").read_text().splitlines()]
    assert [entry["id"] for entry in rejected] == ["20000000-ecg", "20000001-ecg"] and rejected[0]["attempt"] == 2


def test_torn_store_is_continued_and_damage_is_named(tmp_path):
    file = tmp_path / "answers.jsonl"
    with AnswerStore(file) as store:
        store.put("a", "one")
        store.put("a", "another")
        with pytest.raises(OSError, match="in use"):
            AnswerStore(file)
    with open(file, "ab") as torn:
        torn.write(b'{"key": "b", "ans')
    with AnswerStore(file) as store:
        assert len(store) == 1 and store.get("a") == "one" and store.get("b") is None
        store.put("b", "two")
    with AnswerStore(file) as store:
        assert store.get("b") == "two"
    file.write_bytes(b"\n" + file.read_bytes())
    with pytest.raises(ValueError, match="line 1, is no JSON"):
        AnswerStore(file)


def test_a_misbehaving_endpoint_loses_and_repeats_nothing(tmp_path, caplog):
    build = write_invented_cohort(tmp_path / "build", 50)
    requests = make_requests([invent_admission(i) for i in range(50)])
    answers = {request.messages[-1]["content"]: TemplateTeacher().answer(request) for request in requests}
    assert len(answers) == 200
    with caplog.at_level(logging.INFO), misbehaving_server(answers, delay=0.001) as server:
        teacher = OpenAITeacher(server.url, "m", max_retries=40, backoff=0.001, concurrency=8)
        assert write_answers(build, teacher) == {"accepted": 200, "rejected": 0, "asked": 200}
        assert write_answers(build, teacher)["asked"] == 0
        keys = [json.loads(line)["key"] for line in (build / STORE).read_text().splitlines()]
        assert sorted(keys) == sorted(server.generated) == sorted(server.sent.elements())
        assert all(server.faults[fault] for fault in ("429", "500", "cut before", "cut within", "malformed"))
    run = json.loads((build / "runs.jsonl").read_text().splitlines()[0])
    assert (run["host"], run["model"], run["records"]) == ("127.0.0.1", "m", 200)
    assert "effusion" not in caplog.text


def test_an_endpoint_that_fails_keeps_what_it_answered(tmp_path):
    build = write_invented_cohort(tmp_path / "build", 5)
    requests = make_requests([invent_admission(i) for i in range(5)])
    answers = {request.messages[-1]["content"]: TemplateTeacher().answer(request) for request in requests}
    with misbehaving_server(answers, fault_share=0.5, delay=0) as server:
        with pytest.raises(TeacherError, match="run the same command again"):
            write_answers(build, OpenAITeacher(server.url, "m", max_retries=0, concurrency=2))
        first = len(server.generated)
        counts = write_answers(build, OpenAITeacher(server.url, "m", max_retries=40, backoff=0.001))
    assert counts["accepted"] == 20 and 0 < counts["asked"] < 20 and first < 20
    with misbehaving_server({}, fault_share=1, delay=0) as server:
        refused = OpenAITeacher(server.url.replace("/v1", "/"), "m", max_retries=0)
    with pytest.raises(TeacherError):
        refused.answer(requests[0])


@pytest.mark.parametrize(
    ("endpoint", "problem"),
    [
        ("https://api.example.org/v1", "not this machine"),
        ("http://127.0.0.1.example.org/v1", "not this machine"),
        ("http://192.168.0.1:8000/v1", "not this machine"),
        ("http://127.0.0.1@example.org/v1", "must look like"),
        ("http://127.0.0.1\\@example.org/v1", "must look like"),
        ("ftp://127.0.0.1/v1", "must look like"),
        ("127.0.0.1:8000", "must look like"),
    ],
)
def test_nothing_leaves_without_the_acknowledgment(endpoint, problem):
    with pytest.raises(ValueError, match=problem):
        OpenAITeacher(endpoint, "m", acknowledgment="yes")
    if problem == "not this machine":
        assert OpenAITeacher(endpoint, "m", acknowledgment=ACKNOWLEDGMENT).host
    for needed in ("retains no data", "trains on no data", "no human review"):
        assert needed in ACKNOWLEDGMENT


def test_loopback_needs_none_and_a_redirect_is_not_followed(requests):
    import http.server
    import threading

    class Redirect(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(307)
            self.send_header("Location", "http://example.org/")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Redirect)
    threading.Thread(target=server.handle_request, daemon=True).start()
    for endpoint in ("http://localhost:1/v1", "http://[::1]:1/v1"):
        OpenAITeacher(endpoint, "m")
    with pytest.raises(EndpointRefusedError, match="307"):
        OpenAITeacher(f"http://127.0.0.1:{server.server_port}/v1", "m").answer(requests["ecg"])
    server.server_close()


def test_a_local_model_is_asked_and_its_nonsense_rejected(tmp_path, tokenizer):
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(tmp_path / "chat")
    tokenizer.save_pretrained(tmp_path / "chat")
    with pytest.raises(ValueError, match="chat template"):
        LocalTeacher(tmp_path / "chat")
    (tmp_path / "chat" / "chat_template.jinja").write_text("{% for m in messages %}{{ m['content'] }}\n{% endfor %}")
    build = write_invented_cohort(tmp_path / "build", 1)
    counts = write_answers(build, LocalTeacher(tmp_path / "chat", attempts=2, max_tokens=40))
    assert counts["accepted"] + counts["rejected"] == 4 and counts["asked"] >= 4


def test_review_is_counted_and_applied(build):
    csv_file, page = export_review(build, 3)
    with open(csv_file, newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 and page.read_text().count("<article") == 3 and "<think>" not in page.read_text()
    for row, verdict in zip(rows, ("accept", "edit", "reject")):
        row["verdict"] = verdict
    rows[1]["edited_answer"] = rows[1]["answer"].replace(". ", ".  ").replace(".\n", " indeed.\n") + " "
    rows[1]["edited_answer"] = rows[1]["edited_answer"].strip()

    def write(entries: Any) -> None:
        with open(csv_file, "w", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            writer.writerows(entries)

    for bad in (
        {"verdict": "fine"},
        {"id": "7-ecg"},
        {"answer_sha256": "0"},
        {"verdict": "edit", "edited_answer": "No."},
    ):
        write([rows[0], {**rows[1], **bad}])
        with pytest.raises(ValueError, match="line 3"):
            import_review(build, csv_file)
    write(rows)
    assert import_review(build, csv_file) == {"accepted": 1, "edited": 1, "rejected": 1, "open": 0}
    counts = write_dataset(build, build / "dataset")
    assert counts["review"] == {"accepted": 1, "edited": 1, "rejected": 1}
    assert sum(counts["rows"].values()) == 119
    assert export_review(build, 200)[1].read_text().count("<article") == 117


def test_statistics_are_of_the_training_split(build):
    tables = write_stats(build)
    train = sum(
        json.loads(line)["split"] == "train"
        for line in [json.dumps(invent_admission(i), default=str) for i in range(30)]
    )
    assert f"| atrial fibrillation | {train} | 761 |" in tables["table_4"]
    assert f"| Acute Renal Failure | N179 | Acute kidney failure, unspecified | {train} | 2379 |" in tables["table_5"]
    assert f"| Acute Renal Failure | {train} | 3081 | 3081 | {train} |" in tables["figure_2b"]


def test_authors_layout_loads(build):
    write_dataset(build, build / "dataset")
    counts = export_authors(build / "dataset", build / "authors")
    assert set(counts) == {source.json for sources in AUTHORS_FILES.values() for source in sources}
    ours = load_medtvt_qa(build / "dataset", "diagnosis", "train")
    theirs = load_medtvt_qa(build / "authors", "diagnosis", "train")
    assert [message_text(row["completion"]) for row in ours] == [message_text(row["completion"]) for row in theirs]
    assert [row["lab"] for row in ours] == [row["lab"] for row in theirs]


def test_outputs_stay_out_of_git(tmp_path):
    (tmp_path / ".git").mkdir()
    with pytest.raises(ValueError, match="git repository"):
        check_outside_git(tmp_path / "a" / "b")
