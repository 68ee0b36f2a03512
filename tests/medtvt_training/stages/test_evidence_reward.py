# SPDX-License-Identifier: Apache-2.0
"""What completions earn that try to earn more than they deserve; and what an honest one does."""

import math

import pytest

from medtvt_training.data.load import load_medtvt_qa
from medtvt_training.stages.evidence_reward import evidence_f1, evidence_reward, measure_row
from medtvt_training.stages.initialize import default_processor
from medtvt_training.stages.rewards import REWARDS
from modeling_medtvt import DISEASES


LABS = {"Creatinine": 3.1, "Potassium": 6.1, "Sodium": 139.0, "Chloride": 101.0}
MEASURED = {"ecg": None, "lab": LABS, "has_cxr": True, "patient": {"age": 60.0, "sex": "M"}}
# high creatinine, high potassium, and by the drawn signs a large heart
SIGNS = ["cxr: enlarged heart", "cxr: clear lungs", "lab: high Creatinine", "lab: high Potassium"]
TRUTH = ["Acute Renal Failure"]
HONEST = "CXR: enlarged heart; clear lungs.\nLabs: raised creatinine; hyperkalemia; normal sodium."
EVERYTHING = (
    "CXR: enlarged heart; normal heart size; clear lungs; hyperinflated lungs; right pleural effusion; "
    "left pleural effusion; pacemaker below the clavicle; sternotomy wires.\n"
    "Labs: raised creatinine; low creatinine; hyperkalemia; hypokalemia; hyponatremia; hypernatremia; low chloride; "
    "high chloride; raised lactate; leukocytosis; thrombocytopenia; low albumin."
)
NEGATIONS = (
    "CXR: no pacemaker, no sternotomy wires.\nLabs: no hyponatremia; no hypernatremia; normal chloride; normal sodium."
)


def write(reasoning, answer="Acute Renal Failure"):
    return f"<think>{reasoning}</think><answer>{answer}</answer>"


# completion, then what it earns: format, jaccard, empty, evidence
TABLE = {
    "honest": (write(HONEST), 1, 1, 0, 1),
    "half of it": (write("Labs: raised creatinine."), 1, 1, 0, 2 / 4),
    "every finding": (write(EVERYTHING), 1, 1, 0, 6 / 22),
    "every disease": (write(HONEST, "; ".join(DISEASES)), 1, 1 / 7, 0, 1),
    "findings in the answer": (write("", f"Acute Renal Failure; {HONEST}"), 1, 1 / 5, 0, 0),
    "findings behind the answer": (write("") + HONEST, 0, 1, 0, 0),
    "repeated": (write(f"{HONEST}\n" * 5), 1, 1, 0, 1),
    "repeated falsehood": (write(f"{HONEST}\n" + "Labs: hyponatremia.\n" * 5), 1, 1, 0, 6 / 7),
    "false negations": (write("CXR: no enlarged heart.\nLabs: no hyperkalemia; normal creatinine."), 1, 1, 0, 0),
    "true negations alone": (write(NEGATIONS), 1, 1, 0, 0),
    "true negations besides": (write(f"{HONEST}\n{NEGATIONS}"), 1, 1, 0, 1),
    "not measured": (write(f"{HONEST}\nLabs: raised lactate."), 1, 1, 0, 6 / 7),
    "another language": (write("Radio: coeur augmenté.\nLabo: créatinine élevée; hyperkaliémie."), 1, 1, 0, 0),
    "nothing": (write("", ""), 1, 0, 0, 0),
    "no think block": ("<answer>Acute Renal Failure</answer>", 0, 1, 0, 0),
    "second think block": (write("") + write(HONEST), 0, 1, 0, 0),
}
HEALTHY = {"ecg": None, "lab": {"Creatinine": 0.9, "Sodium": 139.0}, "has_cxr": True, "patient": MEASURED["patient"]}
HEALTHY_TABLE = {
    "says none": (write("CXR: normal heart size.\nLabs: normal creatinine.", ""), 1, 0, 1, 1),
    "says nothing": (write("", ""), 1, 0, 1, 1),
    "names one": (write("Labs: normal creatinine.", "Sepsis"), 1, 0, 0, 1),
    "names none of the seven": (write("", "None"), 1, 0, 0, 1),
    "semicolons": (write("", " ; "), 1, 0, 1, 1),
    "no answer block": ("<think>Labs: normal creatinine.</think>", 0, 0, 0, 1),
    "a finding": (write("Labs: raised creatinine.", ""), 1, 0, 1, 0),
}


def earn(completion, measured, signs, truth):
    columns = {"diseases": [truth], "measured": [measured], "findings": [signs]}
    names = ("format", "jaccard", "empty", "evidence")
    return [REWARDS[name](prompts=[""], completions=[completion], **columns)[0] for name in names]


@pytest.mark.parametrize("case", TABLE)
def test_what_completions_earn(case):
    completion, *expected = TABLE[case]
    assert earn(completion, MEASURED, SIGNS, TRUTH) == pytest.approx(expected)


@pytest.mark.parametrize("case", HEALTHY_TABLE)
def test_what_completions_earn_without_a_disease(case):
    completion, *expected = HEALTHY_TABLE[case]
    signs = ["cxr: normal heart size", "lab: normal Creatinine"]
    assert earn(completion, HEALTHY, signs, []) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("reasoning", "known", "unknown"),
    [
        (HONEST, 1, 1),
        ("CXR: normal heart size.\nLabs: raised creatinine; hyperkalemia.", 4 / 6, 1),
        ("Labs: raised creatinine; hyperkalemia.", 4 / 5, 1),
        ("CXR: right pleural effusion.\nLabs: raised creatinine.", 2 / 5, 2 / 3),
        ("Labs: creatinine 3.1; potassium above 5.5.", 4 / 5, 1),
        ("", 0, 0),
    ],
)
def test_without_known_signs_a_film_counts_neither_way(reasoning, known, unknown):
    assert evidence_f1(reasoning, MEASURED, SIGNS) == pytest.approx(known)
    assert evidence_f1(reasoning, MEASURED, None) == pytest.approx(unknown)


@pytest.mark.parametrize("missing", ["ecg", "lab", "cxr"])
def test_a_statement_about_an_absent_modality_costs(missing):
    statement = {"ecg": "ECG: sinus tachycardia.", "lab": "Labs: raised creatinine.", "cxr": "CXR: enlarged heart."}
    measured = {**MEASURED, "lab": None, "has_cxr": False}
    assert evidence_f1("", measured) == 1 and evidence_f1(statement[missing], measured) == 0


def test_signs_decide_what_measurements_of_the_ecg_leave_open():
    measured = {**MEASURED, "ecg": {"heart_rate": math.nan}, "lab": None}
    signs = ["ecg: left axis", "ecg: sinus rhythm"]
    assert evidence_f1("ECG: left axis deviation.", measured, signs) == 1
    assert evidence_f1("ECG: right axis deviation.", measured, signs) == 0
    assert evidence_f1("ECG: no left axis deviation.", measured, signs) == 0


def test_rows_are_measured(toy, tokenizer):
    row = load_medtvt_qa(toy, "diagnosis", "train")[0]
    processor = default_processor(tokenizer)
    measured = measure_row({**row, "age": 70.0, "sex": "F"}, processor)
    assert measured["lab"] == {name: value for name, value in row["lab"].items() if value is not None}
    assert measured["has_cxr"] and measured["ecg"] and measured["patient"] == {"age": 70.0, "sex": "F"}
    without = measure_row({**row, "modalities": ["cxr"]}, processor)
    assert without["ecg"] is None and without["lab"] is None
    with pytest.raises(ValueError, match=f"Row {row['id']}: it cannot be measured"):
        measure_row({**row, "ecg": "nowhere"}, processor)


def test_known_signs_are_optional():
    assert evidence_reward(prompts=[""], completions=[write(HONEST)], measured=[MEASURED]) == [1]
