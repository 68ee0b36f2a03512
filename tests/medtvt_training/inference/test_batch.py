# SPDX-License-Identifier: Apache-2.0
import csv
import json

import pytest

from medtvt_training.cli import main
from medtvt_training.files import JsonlLog, read_jsonl
from medtvt_training.inference.batch import Batch, report_file
from medtvt_training.inference.load import load_pipeline
from medtvt_training.inference.patient_table import read_patient_table
from medtvt_training.synthetic.example_patient import write_example_patient
from modeling_medtvt import DISEASES


TABLE = """\
id,ecg,cxr,lab,age,sex
all,ecg.hea,cxr.png,lab.csv,71,F
no film,ecg,,lab.csv,,
missing,nowhere.hea,,lab.csv,,
../../up,,cxr.png,,,
old,,,lab.csv,300,
outside,,,../lab.csv,,
damaged,,broken.png,,,
labs,,,lab.csv,64,male
"""
REJECTED = {"missing", "old", "outside", "damaged"}
ANSWERED = ["all", "no film", "../../up", "labs"]


@pytest.fixture(scope="module")
def diagnose(checkpoint):
    return load_pipeline(checkpoint)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    write_example_patient(folder)
    (folder / "broken.png").write_bytes((folder / "cxr.png").read_bytes()[:500])
    (folder / "patients.csv").write_text(TABLE)
    return folder / "patients.csv"


@pytest.fixture
def start(diagnose, table, tmp_path):
    """A run, with the texts short."""

    def run(header=None, batch_size=3, **settings):
        batch = Batch(diagnose, read_patient_table(table), tmp_path / "answers.jsonl", header or {"model": "m"})
        return batch, batch.run(batch_size, max_new_tokens=3, **settings)

    return run


def test_a_table_is_answered_and_what_cannot_be_is_listed(start, tmp_path):
    _, counts = start()
    assert counts == (4, 0, 4)
    records = {record["id"]: record for record in read_jsonl(tmp_path / "answers.jsonl")}
    assert list(records) == ANSWERED
    assert records["all"]["patient"] == {"age": 71.0, "sex": "F"}
    assert records["labs"]["patient"] == {"age": 64.0, "sex": "M"}
    assert [m for m, value in records["no film"]["contributions"].items() if value is None] == ["cxr"]
    rejects = {reject["id"]: reject for reject in read_jsonl(tmp_path / "answers.rejects.jsonl")}
    assert set(rejects) == REJECTED
    assert "nowhere.hea" in rejects["missing"]["reason"] and rejects["missing"]["path"].endswith("nowhere.hea")
    assert "age" in rejects["old"]["reason"] and "leads out of" in rejects["outside"]["reason"]
    assert not any(reject["reason"].startswith("Item") for reject in rejects.values())
    assert "Research use only" in json.loads((tmp_path / "answers.run.json").read_text())["notice"]


@pytest.mark.parametrize("stop_after", [0, 1, 3])
def test_a_run_that_was_killed_loses_and_doubles_nothing(start, tmp_path, monkeypatch, stop_after):
    whole, _ = start()
    expected = {name: result["patient"] for name, result in whole.results.items()}
    for file in tmp_path.iterdir():
        file.unlink()
    append, appended = JsonlLog.append, []

    def stop(self, records):
        if len(appended) == stop_after:
            self._write(b'{"id": "all", "torn')  # as a kill in the middle of a line leaves it
            raise KeyboardInterrupt
        appended.extend(records)
        append(self, records)

    with monkeypatch.context() as patch:
        patch.setattr(JsonlLog, "append", stop)
        with pytest.raises(KeyboardInterrupt):
            start()
    batch, counts = start()
    assert counts == (4 - stop_after, stop_after, 4)
    records = read_jsonl(tmp_path / "answers.jsonl")
    assert sorted(record["id"] for record in records) == sorted(ANSWERED)
    assert {name: result["patient"] for name, result in batch.results.items()} == expected
    assert start()[1] == (0, 4, 4)
    assert read_jsonl(tmp_path / "answers.jsonl") == records


def test_drawn_answers_hang_on_seed_and_patient_alone(start, tmp_path):
    first, _ = start(seed=3, num_samples=2)
    lines = (tmp_path / "answers.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "answers.jsonl").write_bytes(b"".join(lines[:1]))
    again, counts = start(seed=3, num_samples=2, batch_size=1)
    assert counts.before == 1 and again.results == first.results


def test_answers_of_another_run_are_left_alone(start, table, tmp_path):
    start()
    before = (tmp_path / "answers.jsonl").read_bytes()
    with pytest.raises(ValueError, match=r"answers.run.json is of another run \(model differ\)"):
        start(header={"model": "another"})
    with JsonlLog(tmp_path / "answers.jsonl"), pytest.raises(OSError, match="in use by another process"):
        start()
    table.write_text(TABLE.replace("no film,ecg,", "no film,,"))
    try:
        with pytest.raises(ValueError, match="line 2: the patient is not in the table, or their row has changed"):
            start()
    finally:
        table.write_text(TABLE)
    (tmp_path / "answers.run.json").unlink()
    with pytest.raises(ValueError, match="exists without answers.run.json"):
        start()
    assert (tmp_path / "answers.jsonl").read_bytes() == before


def test_a_file_that_was_mended_is_answered_by_the_next_run(start, table, tmp_path):
    start()
    broken = table.with_name("broken.png")
    content = broken.read_bytes()
    broken.write_bytes(table.with_name("cxr.png").read_bytes())
    try:
        batch, counts = start()
    finally:
        broken.write_bytes(content)
    assert counts == (1, 4, 3) and "damaged" in batch.results


def test_the_command_writes_a_table_and_a_report_a_patient(checkpoint, table, tmp_path, capsys):
    words = ["diagnose", "--model", checkpoint, "--batch", table, "--out", tmp_path / "a.jsonl", "--max-new-tokens", 3]
    words += ["--csv", tmp_path / "a.csv", "--html-dir", tmp_path / "pages", "--fhir-dir", tmp_path / "fhir"]
    assert main([str(word) for word in words]) == 0
    assert "4 patients answered; 4 cannot be: " in capsys.readouterr().out
    with open(tmp_path / "a.csv", newline="") as file:
        rows = {row["id"]: row for row in csv.DictReader(file)}
    assert len(rows) == 8 and set(DISEASES) < set(rows["all"])
    assert {name for name, row in rows.items() if row["no answer because"]} == REJECTED
    pages = sorted(path.name for path in (tmp_path / "pages").iterdir())
    assert pages == ["..%2F..%2Fup.html", "all.html", "labs.html", "no%20film.html"]
    reports = sorted(path.name for path in (tmp_path / "fhir").iterdir())
    assert reports == [name.replace(".html", ".json") for name in pages]
    assert "71 years, female" in (tmp_path / "pages" / "all.html").read_text()
    (tmp_path / "pages" / "all.html").unlink()  # a page that is missing is made again
    assert main([str(word) for word in words]) == 0
    assert len(list((tmp_path / "pages").iterdir())) == 4


def test_a_table_has_the_numbers_that_there_are(diagnose, table, tmp_path):
    batch = Batch(diagnose, read_patient_table(table), tmp_path / "a.jsonl", {})
    rows = [{"label": label, "named": False, "score": None, "probability": 0.25} for label in DISEASES]
    rows[0] |= {"probability": None, "undecided": True}
    batch.results["all"] = {"diseases": rows, "answer": "", "warnings": []}
    batch.write_table(tmp_path / "a.csv")
    with open(tmp_path / "a.csv", newline="") as file:
        found = {row["id"]: row for row in csv.DictReader(file)}
    assert found["all"][f"{DISEASES[0]} probability"] == "" and found["all"][f"{DISEASES[0]} undecided"] == "1"
    assert found["all"][f"{DISEASES[1]} probability"] == "0.25" and found["labs"][f"{DISEASES[1]} probability"] == ""
    assert f"{DISEASES[0]} score" not in found["all"]


def test_names_of_reports_are_names_of_files(tmp_path):
    for name in ("../x", "..", "a/b\\c", "\u2028", "x" * 400, "é" * 80, "CON:"):
        file = report_file(tmp_path, name)
        assert (
            file.parent == tmp_path and len(file.name.encode()) < 200 and file.resolve().parent == tmp_path.resolve()
        )
        file.write_text("")
    assert len(list(tmp_path.iterdir())) == 7


def test_none_that_can_be_answered_is_an_error(diagnose, tmp_path):
    (tmp_path / "t.csv").write_text("id,lab\n1,none.csv\n")
    batch = Batch(diagnose, read_patient_table(tmp_path / "t.csv"), tmp_path / "a.jsonl", {})
    with pytest.raises(ValueError, match="None of the 1 patients can be answered; see .*a.rejects.jsonl"):
        batch.run()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batch", "t.csv"], "--batch needs --out FILE"),
        (["--batch", "t.csv", "--out", "a", "--ecg", "x", "--json"], "--ecg, --json cannot be used with --batch"),
        (["--out", "a", "--html-dir", "b"], "--out, --html-dir belong to --batch"),
        (["--batch", "t.csv", "--out", "a", "--batch-size", "0"], "--batch-size must be at least 1"),
        (["--lab", "x", "--occlusion", "Sepsis"], "name a file with --report"),
        (["--lab", "x", "--occlusion", "Gout", "--report", "r"], "--occlusion must be one of Coronary"),
        (["--lab", "x", "--unit", "mV"], "belong to an ECG"),
    ],
)
def test_options_that_do_not_go_together(options, message, capsys):
    assert main(["diagnose", *options]) == 2
    assert message in capsys.readouterr().err
