# SPDX-License-Identifier: Apache-2.0
import time

import pytest

from processing_medtvt.claims_medtvt import read_claims
from processing_medtvt.findings_medtvt import PHRASES, WORDINGS


def _said(text):
    return [("not " if claim.negated else "") + str(claim.finding) for claim in read_claims(text)]


@pytest.mark.parametrize(
    "text, expected",
    [
        (
            "The ECG shows atrial fibrillation with rapid ventricular response.",
            ["ecg: fibrillation", "ecg: rapid response"],
        ),
        (
            "ECG: sinus tachycardia; QTc above 480 ms, pointing to Sepsis.",
            ["ecg: sinus tachycardia", "ecg: prolonged QTc"],
        ),
        ("The heart is not enlarged and the lungs are clear.", ["cxr: normal heart size", "cxr: clear lungs"]),
        (
            "No effusion, consolidation or pneumothorax.",
            ["not cxr: effusion", "not cxr: opacity", "not cxr: pneumothorax"],
        ),
        ("No effusion, cardiomegaly.", ["not cxr: effusion", "cxr: enlarged heart"]),
        ("No effusion but the heart is enlarged.", ["not cxr: effusion", "cxr: enlarged heart"]),
        ("There is no consolidation and no effusion.", ["not cxr: opacity", "not cxr: effusion"]),
        ("Pleural effusion is absent.", ["not cxr: effusion"]),
        ("Pulmonary oedema, pulmonary edema.", ["cxr: edema", "cxr: edema"]),
        ("Right lower zone opacity.", ["cxr: right lower zone opacity"]),
        ("Labs: raised creatinine; hyperkalaemia.", ["lab: high Creatinine", "lab: high Potassium"]),
        ("Creatinine is elevated at 3.1 mg/dL.", ["lab: high Creatinine", "lab: Creatinine 3.1"]),
        ("Raised creatinine (3.1 mg/dL) and potassium.", ["lab: high Creatinine", "lab: Creatinine 3.1"]),
        ("Sodium 128 mEq/L, low (135 to 145).", ["lab: Sodium 128", "lab: low Sodium"]),
        (
            "Normal creatinine, potassium and sodium.",
            [f"lab: normal {n}" for n in ("Creatinine", "Potassium", "Sodium")],
        ),
        ("Potassium is not elevated.", ["not lab: high Potassium"]),
        ("No hyperkalemia.", ["not lab: high Potassium"]),
        ("K 5.9, Na 128.", ["lab: Potassium 5.9", "lab: Sodium 128"]),
        ("INR of 1.8 or more.", ["lab: INR(PT) at least 1.8"]),
        ("glucose of 140 to 200", ["lab: Glucose between 140 and 200"]),
        ("Markedly elevated lactate.", ["lab: far high Lactate"]),
        ("QTc of 512 ms and a heart rate of 112.", ["ecg: qtc_ms", "ecg: heart_rate"]),
        ("ECG: nothing abnormal.", ["ecg: normal ECG"]),
    ],
)
def test_statements_are_read_with_their_negation(text, expected):
    assert _said(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "None of the seven diseases is supported.",
        "These findings suggest Atrial Fibrillation and Sepsis.",
        "No direct evidence in these data, yet possible: Hypertension.",
        "",
    ],
)
def test_conclusions_about_diseases_claim_nothing_of_the_data(text):
    assert read_claims(text) == []


def test_a_sentence_that_is_not_understood_is_listed_and_not_guessed():
    claims = read_claims("The patient has gout. Sinus rhythm.")
    assert [(claim.text, claim.finding) for claim in claims] == [
        ("The patient has gout", None),
        ("Sinus rhythm", "ecg: sinus rhythm"),
    ]


def test_markup_in_a_claim_stays_text():
    assert read_claims("<b>hyperkalemia</b>")[0].finding == "lab: high Potassium"


@pytest.mark.parametrize("piece", ["no effusion ", "potassium is ", "a ", "1.0 ", "sinus rhythm; ", "q waves in "])
def test_long_texts_are_read_in_linear_time(piece):
    def seconds(length):
        text = piece * (length // len(piece))
        started = time.process_time()
        read_claims(text)
        return time.process_time() - started

    seconds(1_000)
    # ten times as long takes about ten times as long, not a hundred
    assert seconds(100_000) < 25 * seconds(10_000) + 0.05


@pytest.mark.parametrize("finding", PHRASES)
def test_each_phrase_is_read_as_its_finding_and_as_nothing_else(finding):
    title = {"ecg": "ECG", "cxr": "CXR", "lab": "Labs"}[finding[:3]]
    assert len(set(PHRASES[finding])) == 3
    for phrase in PHRASES[finding]:
        for text in (phrase, f"{title}: {phrase}.", f"The test shows {phrase}, pointing to Sepsis; and {phrase}."):
            assert set(_said(text)) == {finding}


def test_every_finding_has_phrases_and_no_two_share_one():
    assert PHRASES.keys() >= WORDINGS.keys()
    phrases = [phrase.lower() for wordings in PHRASES.values() for phrase in wordings]
    assert len(set(phrases)) == len(phrases)
