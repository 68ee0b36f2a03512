# SPDX-License-Identifier: Apache-2.0
import argparse
import gzip
import json
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from medtvt_training.commands import build_qa
from medtvt_training.data.load import load_medtvt_qa
from medtvt_training.mimic.cohort import build_cohort, check_splits, draw_split, read_cohort

from .mimic_folder import CODES, write_mimic
from tests.toy import FIXTURES


@pytest.fixture(scope="module")
def mimic(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return write_mimic(tmp_path_factory.mktemp("mimic"), patients=6)


@pytest.fixture(scope="module")
def cohort(mimic: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
    return build_cohort(tmp_path_factory.mktemp("build") / "cohort", mimic, threads=1)


def link_labs(mimic: dict[str, Path], out: Path, **kwargs: Any) -> Any:
    """Without signals, which take the time."""
    return build_cohort(out, {"mimic-iv": mimic["mimic-iv"]}, threads=1, **kwargs)


def edit(file: Path, old: str, new: str, count: int = 1) -> None:
    """Replaces text in a table, gzipped or not."""
    zipped = file.with_name(file.name + ".gz")
    text = gzip.decompress(zipped.read_bytes()).decode() if zipped.exists() else file.read_text()
    assert old in text
    zipped.unlink(missing_ok=True)
    file.write_text(text.replace(old, new, count))


@pytest.fixture
def own_mimic(mimic: dict[str, Path], tmp_path: Path) -> dict[Any, Any]:
    return {name: shutil.copytree(folder, tmp_path / name) for name, folder in mimic.items()}


def rejects(cohort: Path) -> list[Any]:
    return [json.loads(line) for line in (cohort / "rejects.jsonl").read_text().splitlines()]


def test_every_modality_is_linked_and_joined_by_ids(cohort, mimic):
    rows, build = read_cohort(cohort)
    assert len(rows) == 6 and build["arguments"]["modalities"] == ["ecg", "cxr", "lab"]
    assert [row["gender"] for row in rows] == list("FMFMFM")
    for row in rows:
        assert row["age"] == 61  # 60 in the anchor year, admitted in the next
        assert row["ecg_time"] == row["admittime"] - timedelta(hours=2)
        assert (mimic["mimic-ecg"] / f"{row['ecg_path']}.hea").is_file()
        assert (mimic["mimic-cxr"] / row["cxr_path"]).is_file() and f"s{row['cxr_study_id']}" in row["cxr_path"]
        assert (
            row["cxr_report"].startswith("There is a left pleural effusion.") and "improved" not in row["cxr_report"]
        )
        assert row["ecg_measures"]["rate"] == 75 and row["cxr_labels"]["Pneumonia"] == -1
    assert rows[0]["labs"]["Creatinine"]["value"] < 9  # the earlier one
    assert rows[0]["ecg_statements"][0] == "consider acute st elevation mi"
    assert "age not entered" not in str(rows[2]["ecg_statements"]) and "age not entered" in str(rows[2]["ecg_labels"])


def test_labels_and_patients_without_one(cohort):
    rows, _ = read_cohort(cohort)
    assert [row["diseases"] for row in rows] == [
        ["Acute Renal Failure", "Hypertension"],
        ["Hypertension", "Atrial Fibrillation"],
        ["Coronary Artery Disease", "Diabetes Mellitus"],
        ["Pneumonia", "Sepsis"],
        [],
        [],
    ]
    assert len(CODES[5]) == 0 and [entry["key"] for entry in rejects(cohort)] == ["20000005"]


def test_the_same_folders_give_the_same_bytes(mimic, tmp_path):
    files = [link_labs(mimic, tmp_path / name) / "cohort.parquet" for name in "ab"]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_paper_rules_keep_labeled_admissions_from_admission_on(own_mimic, tmp_path):
    labs = own_mimic["mimic-iv"] / "hosp" / "labevents.csv"
    edit(labs, "2150-03-01 13:00:00", "2150-03-01 11:00:00", -1)  # of the first patient, now before admission
    symile, _ = read_cohort(link_labs(own_mimic, tmp_path / "symile"))
    paper, _ = read_cohort(link_labs(own_mimic, tmp_path / "paper", rules="paper"))
    assert len(symile) == 6 and symile[0]["labs"]["Creatinine"]["value"] < 9
    assert [row["hadm_id"] for row in paper] == [20000000, 20000001, 20000002, 20000003]
    assert paper[0]["labs"]["Creatinine"]["value"] == 9 and paper[0]["labs"]["Sodium"] is None


def test_codes_of_the_paper_are_exact_strings(mimic, tmp_path):
    rows, _ = read_cohort(link_labs(mimic, tmp_path / "cohort", codes="paper"))
    assert rows[2]["diseases"] == ["Coronary Artery Disease"]  # not E1122
    assert rows[1]["diseases"] == ["Hypertension", "Atrial Fibrillation"]  # ICD-9, converted


@pytest.mark.parametrize(
    "table", ["labevents", "admissions", "patients", "d_labitems", "diagnoses_icd", "d_icd_diagnoses"]
)
def test_a_missing_table_is_named(own_mimic, tmp_path, table):
    for file in (own_mimic["mimic-iv"] / "hosp").glob(f"{table}.csv*"):
        file.unlink()
    with pytest.raises(FileNotFoundError, match=table):
        link_labs(own_mimic, tmp_path / "cohort")
    assert not (tmp_path / "cohort").exists()


def test_a_missing_column_is_named(own_mimic, tmp_path):
    edit(own_mimic["mimic-iv"] / "hosp" / "labevents.csv", "valuenum", "value_number")
    with pytest.raises(ValueError, match="none of its 16 columns is called valuenum"):
        link_labs(own_mimic, tmp_path / "cohort")


def test_an_item_id_of_another_lab_is_named_or_left_out(own_mimic, tmp_path):
    edit(own_mimic["mimic-iv"] / "hosp" / "d_labitems.csv", "50912,Creatinine,", "50912,Urine Creatinine,")
    with pytest.raises(ValueError, match="50912: is 'Urine Creatinine'"):
        link_labs(own_mimic, tmp_path / "cohort")
    rows, _ = read_cohort(link_labs(own_mimic, tmp_path / "cohort", allow_lab_mismatch=True))
    assert all(row["labs"]["Creatinine"] is None for row in rows) and rows[0]["labs"]["Sodium"]


def test_bad_rows_are_listed_and_left_out(own_mimic, tmp_path):
    hosp = own_mimic["mimic-iv"] / "hosp"
    edit(hosp / "admissions.csv", "2150-03-06 12:00:00", "2150-02-01 12:00:00")  # 20000000 leaves before it comes
    edit(hosp / "admissions.csv", "2150-03-02 12:00:00", "soon")  # 20000001
    with open(hosp / "admissions.csv", "a") as file:
        file.write("20000002,10000002,2151-01-01 00:00:00,2151-01-02 00:00:00,\n")  # a key with two meanings
    edit(hosp / "patients.csv", "10000003,", "10000099,")
    edit(hosp / "labevents.csv", "mg/dL", "furlong", 1)
    cohort = link_labs(own_mimic, tmp_path / "cohort")
    assert [row["hadm_id"] for row in read_cohort(cohort)[0]] == [20000004, 20000005]
    reasons = {entry["key"]: entry["reason"] for entry in rejects(cohort)}
    assert "out of order" in reasons["20000000"] and "time" in reasons["20000001"]
    assert "2 different rows" in reasons["20000002"] and "not in patients" in reasons["20000003"]


def test_unusable_files_are_listed_and_the_next_candidate_is_taken(own_mimic, tmp_path):
    ecg, cxr = own_mimic["mimic-ecg"], own_mimic["mimic-cxr"]
    lines = (ecg / "record_list.csv").read_text().splitlines()
    first, second = lines[1].split(","), lines[2].split(",")
    (ecg / f"{first[4]}.dat").unlink()
    (ecg / f"{second[4]}.hea").write_text("nonsense")
    later = f"{first[0]},49000000,49000000,2150-03-01 20:00:00,{lines[3].split(',')[4]}"
    outside = f"{second[0]},48000000,48000000,2150-03-02 13:00:00,../../etc/passwd"
    (ecg / "record_list.csv").write_text("\n".join([*lines, later, outside]) + "\n")
    films = sorted(cxr.glob("files/*/*/*/*.jpg"))
    films[2].unlink()
    films[3].write_bytes(films[3].read_bytes()[:200])
    cohort = build_cohort(tmp_path / "cohort", own_mimic, threads=1)
    rows, _ = read_cohort(cohort)
    assert [row["hadm_id"] for row in rows] == [20000000, 20000004, 20000005]
    assert rows[0]["ecg_study_id"] == 49000000
    listed = {entry["key"]: entry["reason"] for entry in rejects(cohort)}
    assert {first[4], second[4], "../../etc/passwd"} <= set(listed)
    assert listed[str(films[2].relative_to(cxr))] == "its file is absent"
    flow = json.loads((cohort / "flow.json").read_text())
    assert all(step["admissions_in"] - step["left_out"] == step["admissions_out"] for step in flow)
    assert [step["admissions_out"] for step in flow] == [6, 6, 6, 6, 4, 4, 3, 3]


def test_labels_of_ext_icd_are_those_of_the_ecg(own_mimic, tmp_path):
    folder = tmp_path / "ext"
    folder.mkdir()
    ids = [(40000000 + i, 10000000 + i) for i in range(6)]
    lines = [
        "subject_id,study_id,all_diag_all",
        *(f"{subject},{study},\"['A419', 'Z00']\"" for study, subject in ids[:5]),
    ]
    (folder / "records_w_diag_icd10.csv").write_text("\n".join(lines) + "\n")
    folders = {name: own_mimic[name] for name in ("mimic-iv", "mimic-ecg")}
    cohort = build_cohort(tmp_path / "cohort", {**folders, "ext-icd": folder}, labels="ext-icd", threads=1)
    rows, _ = read_cohort(cohort)
    assert [row["diseases"] for row in rows] == [["Sepsis"]] * 5 + [[]]


def test_a_split_depends_on_the_patient_alone():
    splits = [draw_split(subject, 0) for subject in range(10000000, 10002000)]
    assert splits == [draw_split(subject, 0) for subject in range(10000000, 10002000)]
    assert 1540 < splits.count("train") < 1660 and 150 < splits.count("test") < 250
    with pytest.raises(ValueError, match="subject_id"):
        check_splits([{"subject_id": 1, "split": "train"}, {"subject_id": 1, "split": "test"}])


def test_real_demo_tables(tmp_path):
    cohort = link_labs({"mimic-iv": FIXTURES / "labs" / "mimic-iv-demo-2.2"}, tmp_path / "cohort")
    rows, build = read_cohort(cohort)
    assert len(rows) == 106 and len({row["subject_id"] for row in rows}) == 40
    assert {reading["flag"] for row in rows for reading in row["labs"].values() if reading} >= {
        "low",
        "normal",
        "high",
    }
    assert build["files"][0]["version"] == "2.2"


def test_one_command_and_its_continuation(mimic, tmp_path, capsys):
    def build_all(*further: Any) -> None:
        parser = argparse.ArgumentParser()
        build_qa.add_arguments(parser)
        out = ["--out", str(tmp_path / "build"), "--mimic-iv", str(mimic["mimic-iv"]), "--threads", "1"]
        build_qa.run(parser.parse_args(["all", *out, *further]))

    build_all()
    rows = load_medtvt_qa(tmp_path / "build" / "dataset", "diagnosis", "train")
    assert all(row["modalities"] == ["lab"] and row["ecg"] is None for row in rows)
    assert "| admissions | 6 | 0 | 6 | 6 |" in capsys.readouterr().out
    card = (tmp_path / "build" / "dataset" / "README.md").read_text()
    assert "# dataset" in card and "| admissions | 6 | 0 | 6 | 6 |" in card
    shutil.rmtree(tmp_path / "build" / "dataset")  # as if it had been stopped before
    build_all()
    assert "0 asked" in capsys.readouterr().out
    with pytest.raises(ValueError, match="other arguments"):
        build_all("--rules", "paper")
