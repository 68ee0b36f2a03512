# SPDX-License-Identifier: Apache-2.0
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from medtvt_training import load_medtvt_qa
from medtvt_training.data.schema import FEATURES, LAB_NAMES
from processing_medtvt import LAB_DEFINITIONS

from tests.toy import write_toy_dataset


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return write_toy_dataset(tmp_path_factory.mktemp("small"), patients=3)


@pytest.fixture
def own(small, tmp_path):
    """A dataset folder that a test may damage."""
    return Path(shutil.copytree(small, tmp_path / "own"))


def rewrite(folder, change, level="diagnosis"):
    """Applies `change` to the list of rows of the training split."""
    file = folder / level / "train.parquet"
    rows = pq.read_table(file).to_pylist()
    change(rows)
    pq.write_table(pa.Table.from_pylist(rows, schema=FEATURES.arrow_schema), file)


def set_to(**values):
    return lambda rows: rows[1].update(values)


def test_importing_the_package_stays_light():
    code = "import sys, medtvt_training; print([m for m in ('datasets', 'torch', 'trl', 'medtvt_training.data.load') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_rows_have_the_schema_and_absolute_paths(toy, split):
    dataset = load_medtvt_qa(toy, "diagnosis", split)
    assert len(dataset) == 6
    assert set(FEATURES) == set(dataset.column_names)
    assert dataset.cache_files == []  # credentialed rows must not end in a cache folder
    for row in dataset:
        assert row["modalities"] == [m for m in ("ecg", "cxr") if row[m]] + ["lab"] * (
            row["lab"]["Creatinine"] is not None
        )
        assert row["cxr"] in (None, str(toy / "cxr" / f"{row['subject_id']}.png"))
        assert row["ecg"] in (None, str(toy / "ecg" / row["subject_id"]))


def test_physiology_rows(toy):
    dataset = load_medtvt_qa(toy, "physiology", "train")
    assert len(dataset) == 15
    assert {tuple(modalities) for modalities in dataset["modalities"]} == {("ecg",), ("cxr",), ("lab",)}


def test_roots_and_further_columns(own, tmp_path):
    file = own / "diagnosis" / "train.parquet"
    table = pq.read_table(file)
    pq.write_table(table.append_column("sensitivity", pa.array([{"level": "open"}] * 3)), file)
    dataset = load_medtvt_qa(own, "diagnosis", "train", ecg_root=tmp_path / "elsewhere")
    assert dataset[0]["ecg"] == str(tmp_path / "elsewhere" / "ecg" / "1000")
    assert dataset[0]["cxr"] == str(own / "cxr" / "1000.png")
    assert dataset[0]["sensitivity"] == {"level": "open"}


def test_types_of_other_writers_are_cast(own):
    expected = load_medtvt_qa(own, "diagnosis", "train").to_list()
    file = own / "diagnosis" / "train.parquet"
    table = pq.read_table(file).replace_schema_metadata(None)
    for name in ("id", "cxr"):
        table = table.set_column(table.column_names.index(name), name, table[name].cast(pa.large_string()))
    diseases = table["diseases"].cast(pa.large_list(pa.large_string()))
    table = table.set_column(table.column_names.index("diseases"), "diseases", diseases)
    pq.write_table(table, file)
    assert load_medtvt_qa(own, "diagnosis", "train").to_list() == expected


@pytest.mark.parametrize("arguments", [("diagnose", "train"), ("diagnosis", "val")])
def test_unknown_stage_or_split(toy, arguments):
    with pytest.raises(ValueError, match="must be one of"):
        load_medtvt_qa(toy, *arguments)


def test_no_dataset(tmp_path, own):
    with pytest.raises(FileNotFoundError, match="no folder"):
        load_medtvt_qa(tmp_path / "nothing", "diagnosis", "train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no MedTVT-QA folder"):
        load_medtvt_qa(tmp_path / "empty", "diagnosis", "train")
    (own / "diagnosis" / "test.parquet").unlink()
    with pytest.raises(FileNotFoundError, match="Found: .*diagnosis/train.parquet"):
        load_medtvt_qa(own, "diagnosis", "test")


def test_files_that_are_no_such_table(own):
    file = own / "diagnosis" / "train.parquet"
    table = pq.read_table(file)
    pq.write_table(table.drop_columns(["diseases", "lab"]), file)
    with pytest.raises(ValueError, match="no column lab, diseases"):
        load_medtvt_qa(own, "diagnosis", "train")
    wrong = table.drop_columns(["lab"]).append_column("lab", pa.array(["high"] * 3))
    pq.write_table(wrong, file)
    with pytest.raises(ValueError, match="train.parquet: a column"):
        load_medtvt_qa(own, "diagnosis", "train")
    file.write_bytes(b"PAR1 but no more")
    with pytest.raises(ValueError, match="not a readable Parquet"):
        load_medtvt_qa(own, "diagnosis", "train")


ANSWER = "<think>x</think><answer>{}</answer>"


def completion(text):
    return [{"role": "assistant", "content": [{"type": "text", "text": text, "modalities": None}]}]


def test_datasets_older_than_a_column_have_none_of_it(own):
    file = own / "diagnosis" / "train.parquet"
    later = ["age", "sex", "absent_findings"]
    pq.write_table(pq.read_table(file).drop_columns(later), file)
    dataset = load_medtvt_qa(own, "diagnosis", "train")
    for name in later:
        assert dataset.features[name] == FEATURES[name] and set(dataset[name]) == {None}


@pytest.mark.parametrize(
    "change, message",
    [
        (set_to(id="diagnosis-1000"), "row diagnosis-1000: its id occurs more than once"),
        (set_to(id=None), "row number 1: it has no id"),
        (set_to(level="physiology"), "row diagnosis-1001: its level is not that of its file"),
        (set_to(age=-1), "its age is not from 0 to 130 years"),
        (set_to(age=float("nan")), "its age is not from 0 to 130 years"),
        (set_to(sex="female"), "its sex is none of F, M, nor null"),
        (set_to(modalities=["ecg", "mri"]), "row diagnosis-1001: its modalities are"),
        (set_to(modalities=None), "row diagnosis-1001: its modalities or diseases are null"),
        (set_to(cxr=None), "row diagnosis-1001: it has the modality 'cxr', but no value"),
        (set_to(lab=dict.fromkeys(LAB_NAMES, float("nan"))), "it has the modality 'lab', but no value"),
        (set_to(cxr="../../etc/x.png"), "not relative to the dataset's root"),
        (set_to(ecg="/data/1001"), "not relative to the dataset's root"),
        (set_to(diseases=["Sepsis", "Gout"]), "row diagnosis-1001: its diseases are others than"),
        (set_to(findings=["cxr: x"], absent_findings=["cxr: x"]), "it has cxr: x in both `findings` and `absent_"),
        (set_to(prompt=[]), "its prompt must end"),
        (set_to(completion=completion(" ")), "its completion must be text"),
        (set_to(completion=completion("an <ecg>")), "holds a placeholder"),
        (set_to(completion=completion("Sepsis")), "no <answer> block"),
        (set_to(completion=completion(ANSWER.format("Gout"))), "its answer names others than"),
        (
            set_to(completion=completion(ANSWER.format("Sepsis")), diseases=["Pneumonia"]),
            r"its answer names Sepsis, its diseases are Pneumonia",
        ),
        (lambda rows: rows[1]["prompt"][0]["content"].pop(2), "its prompt has 2 parts"),
    ],
)  # fmt: skip
def test_rows_that_contradict_the_schema(own, change, message):
    rewrite(own, change)
    with pytest.raises(ValueError, match=message) as info:
        load_medtvt_qa(own, "diagnosis", "train")
    assert "1 of 3 rows" in str(info.value)


def damage(folder):
    (folder / "cxr" / "1000.png").write_bytes(b"no picture")
    (folder / "ecg" / "1001.dat").unlink()


def test_unreadable_rows_are_listed_and_left_out(own, tmp_path, caplog):
    damage(own)
    assert len(load_medtvt_qa(own, "diagnosis", "train")) == 3  # nothing is opened
    rejects_file = tmp_path / "out" / "rejects.jsonl"
    dataset = load_medtvt_qa(own, "diagnosis", "train", check_files=True, max_rejected=0.7, rejects_file=rejects_file)
    assert dataset["id"][:] == ["diagnosis-1002"]
    assert "2 of 3 rows" in caplog.text
    rejects = [json.loads(line) for line in rejects_file.read_text().splitlines()]
    assert [(r["id"], r["path"]) for r in rejects] == [
        ("diagnosis-1000", str(own / "cxr" / "1000.png")),
        ("diagnosis-1001", str(own / "ecg" / "1001")),
    ]
    assert "not an image" in rejects[0]["reason"] and "1001.dat" in rejects[1]["reason"]
    assert list(rejects_file.parent.iterdir()) == [rejects_file]


@pytest.mark.parametrize("max_rejected", [0.0, 0.6])
def test_too_many_unreadable_rows(own, max_rejected):
    damage(own)
    with pytest.raises(ValueError, match="2 of 3 rows cannot be used(.|\n)*row diagnosis-1000: cxr"):
        load_medtvt_qa(own, "diagnosis", "train", check_files=True, max_rejected=max_rejected)


def test_the_rejects_file_never_holds_those_of_another_run(own, tmp_path):
    rejects_file = tmp_path / "rejects.jsonl"
    rejects_file.write_text('{"id": "old"}\n')
    load_medtvt_qa(own, "diagnosis", "train", check_files=True, rejects_file=rejects_file)
    assert rejects_file.read_text() == ""


# The authors' layout


SAYS = "<think>It shows.</think><answer>Sepsis; Pneumonia</answer>"
QA = "train_{}_qa_dataset_gpt_add_spec_token.json"
DIAGNOSIS = "train_dig_qa_dataset_gpt_7_category_refine_add_spec_token.json"


def record(question, answer, **paths):
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}], **paths}


def symile_row(i, **labs):
    row = {
        "subject_id": 10000030 + i,
        "cxr_path": f"files/p10/p1000003{i}/c.jpg",
        "ecg_path": f"files/p1000/p1000003{i}/e",
    }
    for lab in LAB_DEFINITIONS:
        row[str(lab.itemids[0])] = labs.get(lab.name, "")
        row[f"{lab.itemids[0]}_percentile"] = 0.5
    return row


def write_csv(path, rows):
    path.write_text("\n".join(",".join(map(str, row)) for row in [rows[0], *(row.values() for row in rows)]))


@pytest.fixture
def authors(tmp_path):
    folder = tmp_path / "authors"
    (folder / "QA").mkdir(parents=True)
    question = "Can you read my ECG <ecg>, CXR <cxr> and blood work <lab>?"
    files = {
        QA.format("ecg"): [record("My ECG <ecg>?", "Sinus.", ECG=["files/p1000/p10000032/s4/4"])],
        QA.format("cxr"): [record("My CXR <cxr>?", "Clear.", image=["files/p10/p10000032/s5/a.jpg"])],
        QA.format("lab"): [record("My labs <lab>?", "High.", image=["x.jpg"])] * 2,
        DIAGNOSIS: [record(question, SAYS, ECG=["x"]), record("Only <ecg>?", SAYS, ECG=["x"])],
    }
    for name, records in files.items():
        (folder / "QA" / name).write_text(json.dumps(records))
    write_csv(folder / "train.csv", [symile_row(0, Creatinine=1.5), symile_row(1, Creatinine=2.5, Lactate=4)])
    write_csv(folder / "train_filtered_7_catagory.csv", [symile_row(2, Creatinine=1.5), symile_row(3, Lactate=4)])
    return folder


def test_authors_physiology(authors):
    rows = load_medtvt_qa(authors, "physiology", "train", ecg_root="/ecg", cxr_root="/cxr").to_list()
    assert [row["modalities"] for row in rows] == [["ecg"], ["cxr"], ["lab"], ["lab"]]
    assert rows[0]["ecg"] == "/ecg/files/p1000/p10000032/s4/4" and rows[0]["cxr"] is None
    assert rows[1]["cxr"] == "/cxr/files/p10/p10000032/s5/a.jpg"
    assert [row["subject_id"] for row in rows] == ["10000032", "10000032", "10000030", "10000031"]
    assert (rows[2]["lab"]["Creatinine"], rows[3]["lab"]["Creatinine"], rows[3]["lab"]["Lactate"]) == (1.5, 2.5, 4)
    assert rows[2]["lab"]["Lactate"] is None and rows[2]["age"] is None and rows[2]["sex"] is None
    assert rows[3]["id"] == "train_lab_qa_dataset_gpt_add_spec_token:1"
    assert [part["type"] for part in rows[0]["prompt"][0]["content"]] == ["text", "ecg", "text"]


def test_authors_diagnosis(authors):
    rows = load_medtvt_qa(authors, "diagnosis", "train").to_list()
    assert [row["modalities"] for row in rows] == [["ecg", "cxr", "lab"], ["ecg"]]
    assert rows[0]["diseases"] == ["Sepsis", "Pneumonia"]
    assert rows[0]["ecg"] == str(authors / "files/p1000/p10000032/e")  # of the table, not of the record
    assert rows[1]["cxr"] is None and rows[1]["lab"]["Lactate"] is None
    assert rows[0]["completion"][0]["content"][0]["text"] == SAYS


def test_authors_records_that_cannot_become_rows(authors, tmp_path):
    records = [
        record("<ecg>?", SAYS),
        record("<ecg>?", SAYS.replace("Sepsis", "Gout")),
        record("<ecg>?", "Sepsis"),
        record("<ecg> <ecg>?", SAYS),
        record("<lab>?", SAYS),
        {"messages": "none"},
    ]
    (authors / "QA" / DIAGNOSIS).write_text(json.dumps(records))
    write_csv(authors / "train_filtered_7_catagory.csv", [symile_row(i) for i in range(6)])
    rejects_file = tmp_path / "rejects.jsonl"
    dataset = load_medtvt_qa(authors, "diagnosis", "train", max_rejected=0.9, rejects_file=rejects_file)
    assert dataset["id"][:] == [f"{DIAGNOSIS.removesuffix('.json')}:0"]
    reasons = [json.loads(line)["reason"] for line in rejects_file.read_text().splitlines()]
    for reason, part in zip(
        reasons, ["names others than the seven", "no <answer>", "['ecg', 'ecg']", "['lab'] have no", "`messages`"]
    ):
        assert part in reason
    with pytest.raises(ValueError, match="5 of 6 rows"):
        load_medtvt_qa(authors, "diagnosis", "train")


def test_authors_table_of_other_length(authors):
    write_csv(authors / "train.csv", [symile_row(0)])
    with pytest.raises(ValueError, match="1 rows, .* 2 records.*joined by position"):
        load_medtvt_qa(authors, "physiology", "train")


def test_authors_missing_files(authors):
    with pytest.raises(FileNotFoundError, match="has no diagnosis/validation"):
        load_medtvt_qa(authors, "diagnosis", "validation")
    (authors / "train.csv").unlink()
    with pytest.raises(FileNotFoundError, match="train.csv"):
        load_medtvt_qa(authors, "physiology", "train")
    (authors / "QA" / DIAGNOSIS).write_text("{")
    with pytest.raises(ValueError, match="is no JSON"):
        load_medtvt_qa(authors, "diagnosis", "train")
