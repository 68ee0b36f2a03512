# SPDX-License-Identifier: Apache-2.0
import filecmp
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from medtvt_training import load_medtvt_qa
from medtvt_training.cli import main
from medtvt_training.data.conversation import MODALITIES, message_text, withhold
from medtvt_training.evaluation.fairness import (
    PUBLISHED_AUROC,
    format_fairness,
    measure_fairness,
    probe_auroc,
    sign_tables,
)
from medtvt_training.synthetic.answers import make_rows
from medtvt_training.synthetic.cohort import write_cohort
from medtvt_training.synthetic.findings import FINDINGS, GROUPS, read_lab_findings, supported_diseases
from medtvt_training.synthetic.patient import draw_patient, generators
from medtvt_training.synthetic.questions import KINDS, finding_shares
from modeling_medtvt.answers_medtvt import parse_answer
from processing_medtvt import MedTVTEcgFeatureExtractor
from processing_medtvt.claims_medtvt import read_claims, stated_findings
from processing_medtvt.evidence_medtvt import check_evidence
from processing_medtvt.findings_medtvt import PHRASES


PATIENTS = 40


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort") / "cohort"
    return write_cohort(folder, PATIENTS, seed=5, num_workers=1, progress=False)


def read_causes(folder: Path) -> list[Any]:
    return [json.loads(line) for line in (folder / "causes.jsonl").read_text().splitlines()]


def test_cohort_opens_as_dataset_with_patients_split(cohort):
    subjects = {split: set() for split in ("train", "validation", "test")}
    for stage, rows_a_patient in (("physiology", 13), ("diagnosis", 1)):
        for split, share in (("train", 0.8), ("validation", 0.1), ("test", 0.1)):
            dataset = load_medtvt_qa(cohort, stage, split, check_files=True)
            further = ("diagnosis-reduced", "diagnosis-alone", "diagnosis-labs")
            whole = [name for name in dataset["id"] if not name.endswith(further)]
            assert len(whole) == PATIENTS * share * rows_a_patient
            assert len(whole) == len(dataset) or (stage, split) == ("diagnosis", "train")
            subjects[split] |= set(dataset["subject_id"])
    assert len(set.union(*subjects.values())) == sum(map(len, subjects.values())) == PATIENTS


def test_one_modality_alone_names_only_what_its_findings_are_evidence_for(cohort):
    rows = list(load_medtvt_qa(cohort, "diagnosis", "train"))
    whole = {row["subject_id"]: row for row in rows if row["id"].endswith("-diagnosis")}
    alone = [row for row in rows if row["id"].endswith("-alone")]
    assert {len(row["modalities"]) for row in alone} == {1}
    for row in alone:
        text = message_text(row["completion"])
        reasoning, answer = text.split("</think>")
        assert set(row["diseases"]) <= set(whole[row["subject_id"]]["diseases"])
        assert all(disease in reasoning and disease in answer for disease in row["diseases"])
        assert ("seven diseases" in reasoning) == (not row["diseases"]) == (answer == "<answer></answer>")
    assert any(row["diseases"] for row in alone) and not all(row["diseases"] for row in alone)


def test_labs_alone_come_whole_and_with_all_diseases(cohort):
    rows = {row["id"]: row for row in load_medtvt_qa(cohort, "diagnosis", "train")}
    of_labs = {name: row for name, row in rows.items() if name.endswith("-diagnosis-labs")}
    assert 0 < len(of_labs) < PATIENTS / 2
    for name, row in of_labs.items():
        whole = rows[name.removesuffix("-labs")]
        assert row["modalities"] == ["lab"] and row["lab"] == whole["lab"] and row["diseases"] == whole["diseases"]


def test_rows_have_the_age_and_sex_of_their_patient(cohort):
    causes = {patient["subject_id"]: patient for patient in read_causes(cohort)}
    for row in load_medtvt_qa(cohort, "diagnosis", "train"):
        patient = causes[row["subject_id"]]
        assert (row["age"], row["sex"]) == (patient["age"], "M" if patient["male"] else "F")


def test_answers_cite_what_the_patient_has_and_nothing_else(cohort):
    causes = {patient["subject_id"]: patient for patient in read_causes(cohort)}
    for split in ("train", "validation", "test"):
        for row in load_medtvt_qa(cohort, "diagnosis", split):
            text = message_text(row["completion"])
            patient = causes[row["subject_id"]]
            answer = parse_answer(text)
            assert stated_findings(answer.reasoning) == set(row["findings"])
            of_given = {name for name in patient["findings"] if name[:3] in row["modalities"]}
            assert set(row["findings"]) == of_given or row["id"].endswith(("reduced", "alone"))
            assert set(answer.diseases) == set(row["diseases"])
            assert set(row["diseases"]) == set(patient["diseases"]) or row["id"].endswith("alone")
            assert answer.unknown == () and answer.reasoning
        for row in load_medtvt_qa(cohort, "physiology", split):
            (modality,) = row["modalities"]
            cited = stated_findings(message_text(row["completion"]))
            is_whole = row["id"].endswith((f"-{modality}", "-reduced"))
            assert cited == set(row["findings"]) if is_whole else cited <= set(row["findings"])
            assert all(name.startswith(modality) for name in row["findings"])


@pytest.mark.parametrize("modality", MODALITIES)
def test_withheld_modality_is_neither_offered_nor_cited(cohort, modality):
    for row in load_medtvt_qa(cohort, "diagnosis", "test"):
        less = withhold(row, modality)
        assert not any(part["type"] == modality for part in less["prompt"][0]["content"])
        text = message_text(less["completion"])
        assert stated_findings(parse_answer(text).reasoning) == set(less["findings"])
        assert less["findings"] == [name for name in row["findings"] if not name.startswith(modality)]
        assert parse_answer(text).diseases == parse_answer(message_text(row["completion"])).diseases


def test_a_patient_alone_is_the_patient_of_the_cohort(cohort, tmp_path):
    alone = write_cohort(tmp_path / "alone", 1, seed=5, first=17, progress=False)
    for name in ("records/000/5-000017.hea", "records/000/5-000017.dat", "films/000/5-000017.png"):
        assert filecmp.cmp(cohort / name, alone / name, shallow=False)
    assert read_causes(alone) == [read_causes(cohort)[17]]


def test_files_do_not_depend_on_the_number_of_processes(cohort, tmp_path):
    parallel = write_cohort(tmp_path / "parallel", PATIENTS, seed=5, num_workers=2, progress=False)
    for path in sorted(path for path in cohort.rglob("*") if path.is_file()):
        assert path.read_bytes() == (parallel / path.relative_to(cohort)).read_bytes(), path.name


def test_other_seed_other_patients():
    assert draw_patient(0, 3).lab != draw_patient(1, 3).lab
    assert draw_patient(0, 3) == draw_patient(0, 3)


def test_patients_without_label_are_kept_and_marked(cohort):
    none = [patient for patient in read_causes(cohort) if patient["none_of_the_seven"]]
    assert none and all(patient["diseases"] == [] for patient in none)


def test_labs_obey_their_identities():
    table = pd.DataFrame([draw_patient(2, i, "realistic").lab for i in range(300)]).astype(float)
    gap = table["Sodium"] + table["Potassium"] - table["Bicarbonate"] - table["Chloride"]
    assert (gap - table["Anion Gap"]).abs().max() <= 2.1  # four values rounded to whole numbers
    assert (table["Hematocrit"] - 100 * table["Hemoglobin"] / table["MCHC"]).abs().max() < 0.5
    ph = 6.1 + np.log10(table["Bicarbonate"] / (0.03 * table["pCO2"]))
    assert (ph - table["pH"]).abs().max() < 0.05
    panel = table[["pH", "pCO2", "pO2", "Base Excess"]].notna()
    assert 0.02 > (panel.any(axis=1) & ~panel.all(axis=1)).mean()  # panels go missing whole
    assert 0.3 < panel["pH"].mean() < 0.6


def test_late_disease_leaves_ecg_and_labs_alone():
    patients = [draw_patient(3, i, "realistic") for i in range(1500)]
    lactate = {True: [], False: []}
    for patient in patients:
        if "SEP" in patient.causes and patient.lab["White Blood Cells"] is not None:
            lactate["SEP" in patient.causes.late].append(patient.lab["White Blood Cells"])
    assert np.median(lactate[True]) < np.median(lactate[False]) - 1


def test_realistic_setting_is_as_hard_as_published():
    patients = [draw_patient(1, i, "realistic") for i in range(2500)]
    diseases = list(PUBLISHED_AUROC)
    codes = ("CAD", "ARF", "HTN", "AF", "PNA", "DM", "SEP")
    truth = np.array([[code in patient.causes.diseases for code in codes] for patient in patients])
    signs = {name: table for name, table in sign_tables(patients).items() if name in ("ecg", "lab")}
    found = probe_auroc(signs, truth, truth.any(1))
    for disease in diseases:
        # 0.05 holds for many patients; these are few
        assert found[disease]["ecg"]["value"] == pytest.approx(PUBLISHED_AUROC[disease][0], abs=0.09)
        assert found[disease]["lab"]["value"] == pytest.approx(PUBLISHED_AUROC[disease][2], abs=0.09)


def test_clear_setting_shows_more():
    shown = {
        setting: np.mean([len(draw_patient(4, i, setting).causes.treated) for i in range(400)])
        for setting in ("clear", "realistic")
    }
    assert shown["clear"] < shown["realistic"]


def rows_of(index: int) -> list[Any]:
    patient, files = draw_patient(7, index), {"ecg": "a.hea", "cxr": "a.png"}
    rng = generators(7, index)[6]
    return make_rows(patient.subject_id, patient.causes, patient.findings, files, patient.lab, rng, True)


def test_findings_have_phrases_groups_and_kinds():
    assert set(FINDINGS) <= set(PHRASES)
    assert all(finding.group in GROUPS[name[:3]] for name, finding in FINDINGS.items())
    assert all(name in FINDINGS for kind in KINDS for name in kind)
    assert finding_shares().keys() == FINDINGS.keys()


def test_questions_about_one_finding_are_answered_by_what_the_data_show():
    answers = {"Yes": 0, "No": 0, "Not measured": 0}
    for index in range(60):
        for row in rows_of(index):
            if "-asked-" in row["id"]:
                question = read_claims(
                    row["prompt"][0]["content"][0]["text"] + row["prompt"][0]["content"][-1]["text"]
                )
                (asked,) = {claim.finding for claim in question if claim.finding}
                text = message_text(row["completion"])
                kind = text.rstrip(".").split(",")[0]
                answers[kind] += 1
                assert (asked in row["findings"]) == (kind == "Yes")
                assert stated_findings(text) == {asked} if kind == "Yes" else asked not in stated_findings(text)
                labs = next(claim.labs for claim in question if claim.finding)
                if labs:
                    assert (kind == "Not measured") == all(row["lab"][name] is None for name in labs)
    assert 0.3 < answers["Yes"] / sum(answers.values()) < 0.7 and all(answers.values())


def test_withheld_labs_are_not_told_of():
    kept = []
    for index in range(60):
        whole = next(row for row in rows_of(index) if row["id"].endswith("-lab"))
        for row in (row for row in rows_of(index) if row["id"].endswith("-reduced")):
            left = {name: value for name, value in row["lab"].items() if value is not None}
            assert left.items() < {k: v for k, v in whole["lab"].items() if v is not None}.items()
            kept.append(len(left))
            labs = {name for claim in read_claims(message_text(row["completion"])) for name in claim.labs}
            assert all(name in left or "Aminotransferase" in name for name in labs)
            shown = {name for name in row["findings"] if name.startswith("lab")}
            assert shown == set(read_lab_findings(row["lab"], row["age"], row["sex"] == "M"))
            assert "ot measured" in message_text(row["completion"]) or len(left) > 4
    assert min(kept) == 1 and max(kept) > 20


def test_the_checker_agrees_with_the_labs_of_the_cohort():
    verdicts = []
    for index in range(60):
        row = rows_of(index)[-1]
        measured = {
            "ecg": None,
            "lab": {name: value for name, value in row["lab"].items() if value is not None},
            "has_cxr": False,
            "patient": {"age": row["age"], "sex": row["sex"]},
        }
        reasoning = parse_answer(message_text(row["completion"])).reasoning
        verdicts += [s["status"] for s in check_evidence(reasoning, measured).statements if s["modality"] == "lab"]
    assert "contradicted" not in verdicts and "not measured" not in verdicts
    assert verdicts.count("supported") > 0.9 * len(verdicts)


@pytest.mark.parametrize(
    ("finding", "others", "expected"),
    [
        ("cxr: edema", [], (["CAD"], [])),
        ("cxr: edema", ["lab: high Creatinine"], (["CAD"], ["ARF"])),
        ("cxr: pacemaker", [], ([], [])),
        ("cxr: sternotomy wires", [], ([], [])),
        ("lab: INR(PT) at least 1.8", [], ([], [])),
        ("cxr: left effusion", [], ([], [])),
        ("cxr: left effusion", ["cxr: left lower zone opacity"], (["PNA"], [])),
    ],
)
def test_evidence_is_a_sign_and_the_heart_comes_before_the_kidney(finding, others, expected):
    assert supported_diseases(finding, ("CAD", "ARF", "AF", "PNA"), [finding, *others]) == expected


def test_report_and_preview_of_a_small_cohort(tmp_path, capsys):
    folder = tmp_path / "cohort"
    assert main(["synthesize", "--patients", "200", "--out", str(folder), "--workers", "2"]) == 0
    report = measure_fairness(folder, num_workers=2, progress=False)
    assert report["shared_signals"] == 0
    f1 = report["sample_f1"]
    for name in ("question alone", "prior: always Hypertension"):
        assert f1["all signs"]["value"] > f1[name]["value"]
        low, high = f1[name]["share_interval"]
        assert low < f1[name]["share_of_ceiling"] < high
    assert f1["all signs"]["share_interval"] == [1, 1]
    assert "| all signs |" in format_fairness(report)
    assert main(["synthesize", "--out", str(folder), "--preview"]) == 0
    assert len(list((folder / "preview").glob("*.png"))) == 8
    assert "no real data" in capsys.readouterr().out


def test_shared_signals_are_noticed(tmp_path):
    folder = write_cohort(tmp_path / "cohort", 200, num_workers=2, progress=False)
    (folder / "films/000/0-000009.png").write_bytes((folder / "films/000/0-000000.png").read_bytes())
    assert measure_fairness(folder, num_workers=2, progress=False)["shared_signals"] == 1


def test_signals_are_read_by_the_processor(cohort):
    values = MedTVTEcgFeatureExtractor()(str(cohort / "records/000/5-000003.hea"))["ecg_values"]
    assert np.shape(values) == (1, 12, 1000)
    leads = dict(zip(MedTVTEcgFeatureExtractor().leads, values[0]))
    np.testing.assert_allclose(leads["III"], leads["II"] - leads["I"], atol=0.02)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"patients": 0}, "`patients` must be at least 1"),
        ({"patients": 1, "setting": "easy"}, "`setting` must be one of realistic, clear"),
        ({"patients": 1, "first": -1}, "must not be negative"),
        ({"patients": 10**12}, "GB left"),
    ],
)
def test_wrong_arguments_write_nothing(tmp_path, arguments, message):
    with pytest.raises((ValueError, OSError), match=message):
        write_cohort(tmp_path / "cohort", progress=False, **arguments)
    assert not list(tmp_path.iterdir())


def test_failed_run_leaves_nothing(tmp_path, monkeypatch):
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("medtvt_training.synthetic.patient.write_cxr", full)
    with pytest.raises(OSError, match="No space"):
        write_cohort(tmp_path / "cohort", 4, num_workers=1, progress=False)
    assert not list(tmp_path.iterdir())


def test_report_of_too_small_a_cohort_is_refused(cohort):
    with pytest.raises(ValueError, match="too few for a report"):
        measure_fairness(cohort, num_workers=1, progress=False)


def test_too_few_patients_for_a_report_are_not_drawn(tmp_path, capsys):
    folder = tmp_path / "cohort"
    assert main(["synthesize", "--patients", "199", "--out", str(folder), "--report"]) == 2
    assert "200 or more are needed" in capsys.readouterr().err and not folder.exists()
