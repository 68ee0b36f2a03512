# SPDX-License-Identifier: Apache-2.0
import base64
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from PIL import Image
from transformers import pipeline

from medtvt_training.sharing.push import push


SYNTHETIC = {"stage": "sft", "name": "cohort", "access": "synthetic"}
CREDENTIALED = {"stage": "sft", "name": "mimic", "access": "credentialed"}


class Hub(ThreadingHTTPServer):
    """The few endpoints of the Hub that a push uses. `fails` is a path at which it answers 500, or hangs up."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.private: bool | None = None
        self.files: dict[str, bytes] = {}
        self.tags: list[str] = []
        self.commits, self.fails, self.hangs_up = 0, "", False


class HubHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *args: Any) -> None:
        pass

    def answer(self, content: Any, status: Any = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> Any:
        hub = self.server
        if self.path.endswith("/refs"):
            tags = [{"name": tag, "ref": f"refs/tags/{tag}", "targetCommit": "c" * 40} for tag in hub.tags]
            return self.answer({"branches": [], "converts": [], "tags": tags})
        if self.path.startswith("/api/models/"):
            return self.answer({"id": "org/name", "private": hub.private, "sha": "c" * 40, "siblings": []})
        self.answer({}, 404)

    def do_POST(self) -> Any:
        hub = self.server
        if hub.hangs_up and hub.fails in self.path:
            self.rfile.read(1000)
            self.close_connection = True
            return self.connection.close()
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if hub.fails and hub.fails in self.path:
            return self.answer({"error": "disk full"}, 507)
        if self.path == "/api/repos/create":
            if hub.private is None:
                hub.private = json.loads(body).get("private") or json.loads(body).get("visibility") == "private"
                return self.answer({"url": f"{hub.url}/org/name", "name": "org/name", "id": "1"})
            return self.answer({"error": "You already created this model repo", "url": f"{hub.url}/org/name"}, 409)
        if "/preupload/" in self.path:
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
            return self.answer({"files": files})
        if "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    hub.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            hub.commits += 1
            return self.answer(
                {"commitOid": "c" * 40, "commitUrl": f"{hub.url}/org/name/commit/{'c' * 40}", "success": True}
            )
        if "/tag/" in self.path:
            hub.tags.append(json.loads(body)["tag"])
            return self.answer({})
        self.answer({"errors": [], "warnings": []})  # validate-yaml


@pytest.fixture
def hub() -> Iterator[Any]:
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def folder(checkpoint: Path, tmp_path: Path) -> Path:
    return shutil.copytree(checkpoint, tmp_path / "model")


def trained_on(folder: Path, *entries: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "stage": "sft", "training_data": list(entries)}))


def test_one_commit_that_opens(hub, folder, tmp_path, caplog):
    caplog.set_level("INFO", logger="medtvt_training")
    trained_on(folder, SYNTHETIC)
    names = push(folder, "org/name", tag="v0.1.0", endpoint=hub.url, token="hf_x")
    assert (hub.commits, hub.tags, hub.private) == (1, ["v0.1.0"], False)
    assert sorted(hub.files) == sorted(names)
    assert {"config.json", "model.safetensors", "modeling_medtvt.py", "pipeline_medtvt.py", "README.md"} <= set(names)
    listed = re.findall(r"^ +[\d,]+  (\S+)$", caplog.text, re.MULTILINE)
    assert listed == names
    arrived = tmp_path / "arrived"
    arrived.mkdir()
    for name, content in hub.files.items():
        (arrived / name).write_bytes(content)
    assert "synthetic" in str(ModelCard.load(arrived / "README.md")) or "drawn" in str(
        ModelCard.load(arrived / "README.md")
    )
    assert json.loads((arrived / "provenance.json").read_text())["training_data"] == [SYNTHETIC]
    diagnose = pipeline("medical-diagnosis", model=str(arrived), trust_remote_code=True)
    assert diagnose(lab={"Sodium": 140}, max_new_tokens=2)["contributions"]["lab"] > 0


def test_dry_run_contacts_nobody(folder, caplog):
    caplog.set_level("INFO", logger="medtvt_training")
    names = push(folder, "org/name", dry_run=True, endpoint="http://127.0.0.1:9")
    assert "model.safetensors" in names and "Dry run" in caplog.text


@pytest.mark.parametrize(
    ("fails", "hangs_up"), [("/commit/", False), ("/commit/", True), ("/preupload/", False), ("/repos/create", False)]
)
def test_failure_in_the_middle_publishes_nothing(hub, folder, fails, hangs_up, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between the tries of huggingface_hub
    hub.fails, hub.hangs_up = fails, hangs_up
    with pytest.raises(OSError, match="org/name: the Hub did not take it, and nothing was published"):
        push(folder, "org/name", tag="v1", endpoint=hub.url, token="hf_x")
    assert (hub.commits, hub.files, hub.tags) == (0, {}, [])
    hub.fails, hub.hangs_up = "", False
    push(folder, "org/name", tag="v1", endpoint=hub.url, token="hf_x")  # the next try is whole
    assert (hub.commits, hub.tags) == (1, ["v1"])


def test_failing_tag_says_what_is_up(hub, folder):
    hub.fails = "/tag/"
    with pytest.raises(OSError, match="commit c+ is up, but not the tag 'v1'"):
        push(folder, "org/name", tag="v1", endpoint=hub.url, token="hf_x")


def test_version_stays_what_it_was(hub, folder):
    hub.private, hub.tags = False, ["v1"]
    with pytest.raises(ValueError, match="has a tag 'v1' already"):
        push(folder, "org/name", tag="v1", endpoint=hub.url, token="hf_x")
    assert hub.commits == 0


@pytest.mark.parametrize(
    ("entries", "said"),
    [((SYNTHETIC, CREDENTIALED), "on data under credentialed access"), ((), "does not say on what data")],
)
def test_credentialed_weights_do_not_go_public(hub, folder, entries, said):
    trained_on(folder, *entries)
    with pytest.raises(ValueError, match=f"{said}.*--private.*--allow-credentialed-public"):
        push(folder, "org/name", endpoint=hub.url, token="hf_x")
    assert hub.private is None  # not even asked
    hub.private = False  # public already, whatever is asked for
    with pytest.raises(ValueError, match="would be public"):
        push(folder, "org/name", private=True, endpoint=hub.url, token="hf_x")
    assert hub.commits == 0
    push(folder, "org/name", allow_credentialed_public=True, endpoint=hub.url, token="hf_x")
    assert hub.commits == 1


def test_credentialed_weights_go_to_a_private_repository(hub, folder):
    trained_on(folder, CREDENTIALED)
    push(folder, "org/name", private=True, endpoint=hub.url, token="hf_x")
    assert hub.private and hub.commits == 1
    assert "credentialed" in hub.files["README.md"].decode()


@pytest.mark.parametrize(
    "name", ["test.parquet", "labs.csv", "p.jsonl", "r/1.hea", "r/1.dat", "x.DCM", "films/1.png", "a.tar.gz"]
)
def test_data_is_refused(folder, name):
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"x")
    with pytest.raises(ValueError, match=f"holds data.*{re.escape(path.name)}"):
        push(folder, "org/name", dry_run=True)


def test_pictures_of_the_card_go_up_and_strange_files_do_not(folder):
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Mine\n![report](assets/report.png)\n")
    (folder / "assets").mkdir()
    Image.new("RGB", (8, 8)).save(folder / "assets" / "report.png")
    (folder / "notes.txt").write_text("mine")
    names = push(folder, "org/name", dry_run=True)
    assert "assets/report.png" in names and "notes.txt" not in names


def test_adapter_alone(hub, folder):
    trained_on(folder, SYNTHETIC)
    adapter = {"peft_type": "LORA", "r": 8, "modules_to_save": ["perception"], "base_model_name_or_path": str(folder)}
    (folder / "adapter_config.json").write_text(json.dumps(adapter))
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    with pytest.raises(ValueError, match="holds an adapter: add --adapter-only"):
        push(folder, "org/name", dry_run=True)
    with pytest.raises(ValueError, match="--base-model ORG/NAME"):
        push(folder, "org/name", adapter_only=True, dry_run=True)
    names = push(folder, "org/name", adapter_only=True, base_model="org/base", endpoint=hub.url, token="hf_x")
    assert "model.safetensors" not in names
    assert json.loads(hub.files["adapter_config.json"])["base_model_name_or_path"] == "org/base"
    assert all(str(folder) not in content.decode() for content in hub.files.values())


@pytest.mark.parametrize("repo", ["name", "a/b/c", "or g/name", "org/na--me.."])
def test_name_of_repository_is_checked(folder, repo):
    with pytest.raises(ValueError):
        push(folder, repo, dry_run=True)


PUSH_TO_HUB = """
import sys
from transformers import AutoModelForCausalLM, AutoProcessor, Trainer, TrainingArguments
import modeling_medtvt
model, processor = AutoModelForCausalLM.from_pretrained(sys.argv[1]), AutoProcessor.from_pretrained(sys.argv[1])
if sys.argv[3] == "trainer":
    training = TrainingArguments(sys.argv[2], hub_model_id="org/name", hub_token="hf_x", report_to=[], use_cpu=True)
    Trainer(model, training, processing_class=processor).push_to_hub()
else:
    model.push_to_hub("org/name", token="hf_x")
    processor.push_to_hub("org/name", token="hf_x")
"""


@pytest.mark.parametrize("pushed_by", ["model and processor", "trainer"])
def test_push_to_hub_of_transformers(hub, folder, tmp_path, pushed_by):
    # the libraries read the address of the Hub when they are imported
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-c", PUSH_TO_HUB, str(folder), str(tmp_path / "out"), pushed_by]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    arrived = tmp_path / "arrived"
    arrived.mkdir()
    for name, content in hub.files.items():
        if "/" not in name:
            (arrived / name).write_bytes(content)
    assert "README.md" in hub.files
    result = pipeline("medical-diagnosis", model=str(arrived))(lab={"Sodium": 140}, max_new_tokens=2)
    assert result["contributions"]["lab"] > 0
