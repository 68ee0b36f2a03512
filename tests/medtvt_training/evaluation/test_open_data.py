# SPDX-License-Identifier: Apache-2.0
import json

import pytest

from medtvt_training import cli
from medtvt_training.evaluation.open_data import evaluate_open_data, read_open_rows
from medtvt_training.evaluation.run import Scoring
from medtvt_training.open_data.dataset import write_open_data

from ...toy import write_checkpoint
from ..mimic.mimic_folder import write_imaginary_hosp
from ..open_data.open_folders import write_films, write_ptb_xl
from ..open_data.test_dataset import PATIENTS, STATEMENTS


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A folder that holds PTB-XL's layout and films."""
    folder = tmp_path_factory.mktemp("published")
    write_ptb_xl(folder / "ptbxl", [{"scp_codes": codes} for codes in STATEMENTS])
    films = [
        (f"{patient}_{label[0]}.jpg", patient, label)
        for patient in PATIENTS.values()
        for label in ("No Finding", "Pneumonia")
    ]
    write_films(folder / "nih", films)
    return folder


def test_rows_of_published_folders_and_of_ours_are_the_same(published, tmp_path):
    films = published / "nih" / "labels.csv"
    write_open_data(tmp_path / "ours", ptb_xl=published / "ptbxl", films=films)
    for split in ("train", "test", "all"):
        ours, theirs = (
            {
                (row["subject_id"], *row["modalities"], *row["findings"], *row["absent_findings"])
                for row in read_open_rows(folder, split)[0]
            }
            for folder in (tmp_path / "ours", published)
        )
        assert ours == theirs and ours
    assert len(read_open_rows(published, "all")[0]) == 11


def test_from_folder_to_report(published, tmp_path, capsys):
    model = write_checkpoint(tmp_path / "model")
    settings = ["--model", str(model), "--open-data", str(published / "ptbxl"), "--out", str(tmp_path / "out")]
    assert cli.main(["evaluate", *settings, "--max-new-tokens", "8", "--resamples", "10"]) == 0
    assert "Real ECGs: 1 records of 1 patients" in capsys.readouterr().out
    results = json.loads((tmp_path / "out" / "open_data.json").read_text())
    assert results["counts"]["ecg/records"] == 1 and results["about"]["split"] == "test"
    assert results["about"]["trained_on_open_data"] == [] and (tmp_path / "out" / "open_data.md").is_file()
    for option in (["--limit", "3"], ["--data", "cohort"], ["--withhold", "ecg"], ["--withhold-labs"]):
        assert cli.main(["evaluate", *settings, *option]) == 2
        assert f"{option[0]} is not with --open-data" in capsys.readouterr().err
    # what is there already is taken up
    again = evaluate_open_data(model, published / "ptbxl", tmp_path / "out", Scoring(resamples=10), max_new_tokens=8)
    assert again["values"] == results["values"]
    with pytest.raises(ValueError, match="of another run"):
        evaluate_open_data(model, published, tmp_path / "out", split="all", max_new_tokens=8)


def test_labs_and_codes_in_the_layout_of_the_mimic_demo(tmp_path, capsys):
    model, demo = write_checkpoint(tmp_path / "model"), tmp_path / "demo"
    admissions = write_imaginary_hosp(demo / "mimic-iv-demo" / "hosp", patients=8)
    rows, rejects = read_open_rows(demo, "test")
    assert not rejects and {row["id"] for row in rows} == {f"mimic-iv-{hadm}" for _, hadm, _ in admissions}
    assert {row["subject_id"] for row in rows} == {f"mimic-iv-{subject}" for subject, *_ in admissions}
    assert all(row["modalities"] == ["lab"] and row["age"] in (60, 61) for row in rows)
    assert all(sum(value is not None for value in row["lab"].values()) > 20 for row in rows)
    diseases = {disease for row in rows for disease in row["diseases"]}
    assert diseases
    words = ["evaluate", "--model", model, "--open-data", demo, "--out", tmp_path / "out", "--max-new-tokens", 4]
    assert cli.main([*map(str, words), "--resamples", "10"]) == 0
    printed = capsys.readouterr().out
    assert (
        "Real labs (MIMIC-IV demo): 8 records of 8 patients" in printed
        and "a source of the synthetic cohort" in printed
    )
    results = json.loads((tmp_path / "out" / "open_data.json").read_text())
    for disease in diseases:
        ill = sum(disease in row["diseases"] for row in rows)
        assert results["counts"][f"lab/{disease}/auroc"] == [ill, 8 - ill]
        value = results["values"][f"lab/{disease}/auroc"]
        assert (value is None) == (ill in (0, 8)) and (value is None or 0 <= value <= 1)
    assert results["values"]["lab/macro/auroc"] is not None


def test_a_folder_without_open_data_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no record of the split test"):
        read_open_rows(tmp_path / "empty", "test")
    with pytest.raises(ValueError, match="`split` must be one of"):
        read_open_rows(tmp_path / "empty", "dev")
