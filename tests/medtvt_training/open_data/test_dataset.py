# SPDX-License-Identifier: Apache-2.0
import json
import os
import shutil

import pytest

from medtvt_training.data.conversation import message_text
from medtvt_training.data.load import load_medtvt_qa
from medtvt_training.data.provenance import training_data_entry
from medtvt_training.data.schema import SPLITS
from medtvt_training.open_data.dataset import assign_folds, write_open_data
from medtvt_training.open_data.films import hash_fold
from medtvt_training.sharing.cards import dataset_card
from processing_medtvt.claims_medtvt import read_claims

from .open_folders import write_films, write_ptb_xl


STATEMENTS = (
    "{'NORM': 100.0, 'SR': 0.0}",
    "{'AFIB': 0.0, 'IMI': 100.0}",
    "{'CLBBB': 100.0, 'SR': 0.0}",
    "{'NORM': 80.0, 'SBRAD': 0.0}",
    "{'NDT': 100.0, 'PVC': 0.0, 'SR': 0.0, 'LAFB': 100.0}",
)
# of patients whose films are for training, validation and testing
PATIENTS = {split: next(str(i) for i in range(99) if assign_folds()[hash_fold(str(i))] == split) for split in SPLITS}


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("open")
    rows = [{"scp_codes": codes} for codes in STATEMENTS]
    rows[0] |= {"age": "300.0", "sex": "0"}
    labels = [
        (f"{patient}_{label[0]}.jpg", patient, label)
        for patient in PATIENTS.values()
        for label in ("No Finding", "Pneumonia")
    ]
    return write_ptb_xl(folder / "ptb", rows), write_films(folder / "nih", labels)


@pytest.fixture(scope="module")
def dataset(sources, tmp_path_factory):
    folder = tmp_path_factory.mktemp("out") / "open"
    write_open_data(folder, ptb_xl=sources[0], films=sources[1])
    return folder


def read(folder, split, level="physiology"):
    return load_medtvt_qa(folder, level, split, check_files=True, max_rejected=0).to_list()


def test_rows_open_and_state_only_what_is_known(dataset):
    splits = {split: read(dataset, split) for split in SPLITS}
    patients = [{row["subject_id"] for row in rows} for rows in splits.values()]
    assert not patients[0] & patients[1] and not patients[1] & patients[2] and not patients[0] & patients[2]
    rows = [row for rows in splits.values() for row in rows]
    assert {row["modalities"][0] for row in rows} == {"ecg", "cxr"}
    for row in rows:
        assert not set(row["findings"]) & set(row["absent_findings"])
        for claim in read_claims(message_text(row["completion"])):
            assert claim.finding is None or (claim.finding in row["findings"] and not claim.negated), row["id"]
    normal = [row for row in rows if row["id"].startswith("ptb-xl-1")]
    assert {(row["age"], row["sex"]) for row in normal} == {(90.0, "M")}
    [whole] = [message_text(row["completion"]) for row in normal if row["id"] == "ptb-xl-1"]
    assert whole.count("nothing notable") == 3 and "sinus rhythm" in whole
    [blocked] = [message_text(row["completion"]) for row in rows if row["id"] == "ptb-xl-3"]
    assert "left bundle branch block" in blocked and "nothing notable" not in blocked
    yes, no = ([row for row in rows if row["id"].endswith(end)] for end in ("-yes", "-no"))
    assert yes and no and all(message_text(row["completion"]) == "No." for row in no)


def test_a_diagnosis_names_what_the_labels_name_with_its_evidence(dataset):
    rows = {row["id"]: row for split in SPLITS for row in read(dataset, split, "diagnosis")}
    diseases = {name: row["diseases"] for name, row in rows.items()}
    assert diseases["ptb-xl-1-diagnosis"] == [] == diseases["ptb-xl-3-diagnosis"]
    assert diseases["ptb-xl-2-diagnosis"] == ["Coronary Artery Disease", "Atrial Fibrillation"]
    assert sorted(map(tuple, diseases.values())).count(("Pneumonia",)) == 3
    for row in rows.values():
        text = message_text(row["completion"])
        reasoning, _, answer = text.partition("</think>")
        assert answer == f"<answer>{'; '.join(row['diseases'])}</answer>"
        assert all(disease in reasoning for disease in row["diseases"])
        assert ("none of the seven" in reasoning.lower()) == (not row["diseases"])
        claims = [claim for claim in read_claims(reasoning) if claim.finding]
        assert claims and all(claim.finding in row["findings"] and not claim.negated for claim in claims), row["id"]


def test_nothing_is_copied_and_terms_travel(dataset, sources):
    files = [path for path in dataset.rglob("*") if path.is_file() and not path.is_symlink()]
    assert {path.suffix for path in files} <= {".parquet", ".json", ".jsonl", ".md"}
    assert (dataset / "ptb-xl").resolve() == sources[0].resolve()
    entry = training_data_entry("encoders", dataset)
    assert entry["access"] == "open" and entry["modalities"] == "ecg, cxr" and "CC BY 4.0" in entry["license"]
    assert "Wagner" in entry["attribution"] and "NIH Clinical Center" in entry["attribution"]
    card = str(dataset_card(dataset))
    assert "Wagner" in card and "CC BY 4.0" in card and "noisy" in card


def test_the_same_seed_writes_the_same(sources, dataset, tmp_path):
    write_open_data(tmp_path / "again", ptb_xl=sources[0], films=sources[1])
    assert [row["prompt"] for row in read(tmp_path / "again", "test")] == [
        row["prompt"] for row in read(dataset, "test")
    ]


def test_folds(sources, tmp_path):
    content = write_open_data(tmp_path / "fold", ptb_xl=sources[0], test_folds=[6, 7], validation_folds=[8])
    assert content["sources"][0]["records"] == {"train": 2, "validation": 1, "test": 2}
    for test, validation in (([11], [9]), ([9], [9]), (range(1, 10), [10])):
        with pytest.raises(ValueError, match="Folds are 1 to 10"):
            write_open_data(tmp_path / "no", ptb_xl=sources[0], test_folds=test, validation_folds=validation)
    whole = write_open_data(tmp_path / "whole", ptb_xl=sources[0], test_folds=[], validation_folds=[])
    assert whole["sources"][0]["records"] == {"train": 5, "validation": 0, "test": 0}
    assert read(tmp_path / "whole", "train") and read(tmp_path / "whole", "train", "diagnosis")
    with pytest.raises(ValueError, match="validation has no record"):
        write_open_data(tmp_path / "no", ptb_xl=sources[0], validation_folds=[1])
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"scp_codes": "{'NORM': 100.0, 'FOO': 0.0}"}, "FOO are no statements of PTB-XL"),
        ({"scp_codes": "NORM"}, "row 6: `scp_codes` is no dict"),
        ({"scp_codes": "['NORM']"}, "row 6: `scp_codes` is no dict"),
        ({"scp_codes": "{}", "strat_fold": "11"}, "`strat_fold` is '11'"),
        ({"scp_codes": "{}", "ecg_id": "1"}, "stood before"),
        ({"scp_codes": "{}", "patient_id": "1000.0"}, "splits would share patients"),
    ],
)
def test_a_bad_table_is_refused_as_a_whole(row, words, tmp_path):
    folder = write_ptb_xl(tmp_path / "ptb", [*({"scp_codes": codes} for codes in STATEMENTS), row])
    with pytest.raises(ValueError, match=words):
        write_open_data(tmp_path / "out", ptb_xl=folder)
    assert not (tmp_path / "out").exists()


def test_records_that_cannot_be_used_are_listed(tmp_path):
    rows = [{"scp_codes": codes} for codes in STATEMENTS * 2]
    rows[5] |= {"filename_hr": "records500/00000/99999_hr", "filename_lr": "records100/00000/99999_lr"}
    rows[6] |= {"filename_hr": "../ptb/records500/00000/00012_hr"}
    rows[7] |= {"patient_id": ""}
    folder = write_ptb_xl(tmp_path / "ptb", rows)
    header = folder / "records500" / "00000" / "00260_hr.hea"
    header.write_text(header.read_text().replace("5000", "2500", 1))
    shutil.rmtree(folder / "records100")
    with pytest.raises(ValueError, match="5 of 10 rows cannot be used"):
        write_open_data(tmp_path / "out", ptb_xl=folder)
    write_open_data(tmp_path / "out", ptb_xl=folder, max_rejected=0.5)
    rejects = {reject["id"]: reject["reason"] for reject in map(json.loads, open(tmp_path / "out" / "rejects.jsonl"))}
    assert "neither" in rejects["ptb-xl-6"] and "leaves" in rejects["ptb-xl-7"] and "no patient" in rejects["ptb-xl-8"]
    assert all("12 leads of 5 s" in rejects[f"ptb-xl-{number}"] for number in (4, 9))


def test_the_record_at_100_hz_stands_in(tmp_path):
    folder = write_ptb_xl(tmp_path / "ptb", [{"scp_codes": codes} for codes in STATEMENTS])
    os.remove(folder / "records500" / "00000" / "00012_hr.hea")
    write_open_data(tmp_path / "out", ptb_xl=folder)
    assert {row["ecg"][-12:] for row in read(tmp_path / "out", "test")} == {"00012_lr.hea"}


def test_statements_that_we_do_not_know_are_named(tmp_path, caplog):
    codes = [*STATEMENTS, "{'XYZ': 100.0, 'SR': 0.0}"]
    folder = write_ptb_xl(tmp_path / "ptb", [{"scp_codes": text} for text in codes])
    write_open_data(tmp_path / "out", ptb_xl=folder)
    assert "XYZ (1)" in caplog.text


def test_films_of_another_kind(tmp_path):
    good = [(f"{patient}.jpg", patient, "No Finding") for patient in PATIENTS.values()]
    table = write_films(
        tmp_path / "a", [*good, ("x.jpg", "1", ""), ("y.jpg", "", "Pneumonia"), ("z.jpg", "1", "Pneumonia")]
    )
    os.remove(tmp_path / "a" / "z.jpg")
    write_open_data(tmp_path / "out", films=table, max_rejected=0.5)
    reasons = [json.loads(line)["reason"] for line in open(tmp_path / "out" / "rejects.jsonl")]
    assert reasons == ["the table gives it no label", "the table names no patient", "the film is not there"]
    for rows, words in (
        ([*good, ("x.jpg", "1", "Pnuemonia")], "unknown labels 'Pnuemonia'"),
        ([*good, good[0]], "row 4: its film stood before"),
        ([], "has no row"),
    ):
        folder = tmp_path / words[:3]
        with pytest.raises(ValueError, match=words):
            write_open_data(tmp_path / "no", films=write_films(folder, rows))
    (tmp_path / "other.csv").write_text("name,label\n")
    with pytest.raises(ValueError, match="no column file, patient"):
        write_open_data(tmp_path / "no", films=tmp_path / "other.csv")
    with pytest.raises(ValueError, match="nothing to read"):
        write_open_data(tmp_path / "no")
