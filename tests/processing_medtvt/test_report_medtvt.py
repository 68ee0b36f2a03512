# SPDX-License-Identifier: Apache-2.0
import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers import AutoProcessor

from medtvt_training.synthetic.example_patient import write_example_patient
from modeling_medtvt import DISEASES
from processing_medtvt import read_inputs, render_figure, render_report
from processing_medtvt.report_medtvt import RESEARCH_USE


LEADS = ["I", "II", "III", "aVR", "aVF", "aVL", "V1", "V2", "V3", "V4", "V5", "V6"]
ATTACK = '"><script src=https://evil.example/x.js></script><img src=x onerror=alert(1)>'


@pytest.fixture(scope="module")
def processor(checkpoint):
    return AutoProcessor.from_pretrained(checkpoint)


@pytest.fixture(scope="module")
def patient(tmp_path_factory):
    files = write_example_patient(tmp_path_factory.mktemp("patient"))
    return {modality: files[modality] for modality in ("ecg", "cxr", "lab")}


def make_statement(text, modality, status, negated=False, measured="", conclusion=""):
    return {
        **{"text": text, "modality": modality, "finding": None, "negated": negated, "status": status},
        **{"measured": measured, "conclusion": conclusion},
    }


def make_disease(label, named=False):
    return {"label": label, "named": named, "score": None, "probability": None, "evidence": 0}


def make_result(**changes):
    return {
        "diseases": [make_disease(disease, disease == "Pneumonia") for disease in DISEASES],
        "evidence": [make_statement("no P waves", "ecg", "supported")],
        "unmentioned": [],
        "influence": None,
        "patient": {"age": None, "sex": None},
        "reasoning": "ECG: no P waves.\nCXR: right lower zone opacity, pointing to Pneumonia.\nLabs: raised creatinine.",
        "answer": "Pneumonia",
        "contributions": {"ecg": 0.91, "cxr": 0.52, "lab": None},
        "warnings": ["ecg: resampled from 500 Hz to 100 Hz"],
        "generated_text": "<think>the text</think><answer>Pneumonia</answer>",
        **changes,
    }


class Page(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data

    def pictures(self, kind):
        sources = [attributes["src"] for tag, attributes in self.tags if tag == "img"]
        head = f"data:image/{kind};base64,"
        return [base64.b64decode(source.removeprefix(head)) for source in sources if source.startswith(head)]


def test_page_says_and_draws_everything(processor, patient):
    source = render_report(make_result(), processor, **patient, about={"Model": "my model"})
    page = Page(source)
    assert page.text.count(RESEARCH_USE) == 2
    for said in (
        *DISEASES,
        "supported",
        "no P waves",
        "0.91",
        "not given",
        "resampled from 500 Hz",
        "my model",
        "medtvt-r1",
        "transformers",
        "Creatinine",
        "0.5 to 1.2",
        "high",
        "Not measured, mean percentile used",
        "reference intervals",
        "<think>the text</think>",
    ):
        assert said in page.text, said
    (ecg,) = page.pictures("svg+xml")
    assert b"<svg" in ecg and b'width="765' in ecg  # 270 mm, in points
    original, seen = (Image.open(io.BytesIO(content)) for content in page.pictures("jpeg"))
    assert (original.size, seen.size) == (Image.open(patient["cxr"]).size, (224, 224))
    assert len(source) < 2_000_000
    assert source == render_report(make_result(), processor, **patient, about={"Model": "my model"})


def test_nothing_is_loaded_from_elsewhere(processor, patient):
    source = render_report(make_result(), processor, **patient)
    page = Page(source)
    assert not {"script", "link", "iframe", "object", "embed"} & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        assert all(attributes[name].startswith("data:") for name in ("src", "href", "srcset") if name in attributes)
    style = re.search("<style>(.*?)</style>", source, re.DOTALL)[1]
    assert "url(" not in style and "@import" not in style
    assert "default-src 'none'" in source
    for medium in ("prefers-color-scheme: dark", "media print", "max-width"):
        assert medium in style


@pytest.mark.parametrize(
    "changes",
    [
        {"reasoning": f"ECG: {ATTACK}", "evidence": []},
        {"evidence": [make_statement(ATTACK, "ecg", "supported", measured=ATTACK, conclusion=ATTACK)]},
        {"unmentioned": [{"modality": "ecg", "finding": f"ecg: {ATTACK}", "measured": ATTACK}]},
        {"reasoning": None, "generated_text": ATTACK},
        {"warnings": [ATTACK]},
        {"diseases": [make_disease(ATTACK, named=True)]},
    ],
)
def test_text_of_others_stays_text(processor, changes):
    page = Page(render_report(make_result(**changes), processor, about={ATTACK: ATTACK}))
    assert not {"script", "img"} & {tag for tag, _ in page.tags}
    assert "<script src=https://evil.example/x.js>" in page.text


def test_names_of_files_and_labs_stay_text(processor, patient, tmp_path):
    picture = tmp_path / "<img src=x onerror=alert(1)>.png"
    picture.write_bytes(Path(patient["cxr"]).read_bytes())
    labs = [{"name": ATTACK, "unit": ATTACK, "reference_low": 1, "reference_high": 2}]
    extractor = type(processor.lab_feature_extractor)(labs=labs, table_source=ATTACK)
    other = AutoProcessor.from_pretrained(processor.tokenizer.name_or_path)
    other.lab_feature_extractor = extractor
    occlusion = {"disease": ATTACK, "ecg": None, "cxr": None, "lab": {ATTACK: 1.0}}
    source = render_report(
        make_result(), other, cxr=picture, lab={ATTACK: 3.0}, about={"X-ray": picture.name}, occlusion=occlusion
    )
    page = Page(source)
    assert "script" not in {tag for tag, _ in page.tags}
    assert all("onerror" not in attributes for _, attributes in page.tags)
    assert picture.name in page.text


def test_scores_are_shares_of_answers(processor):
    diseases = [{**make_disease("Sepsis"), "score": 0.25}]
    text = Page(render_report(make_result(diseases=diseases), processor)).text
    assert "Share of drawn answers" in text and "25%" in text and "None of the seven diseases is named" in text


def test_without_inputs_nothing_is_drawn(processor):
    page = Page(render_report(make_result(), processor))
    assert "img" not in {tag for tag, _ in page.tags}


def test_ecg_is_drawn_as_recorded(processor, ecg_array):
    ecg_array[3, 1000:1100] = np.nan
    given = {"ecg": ecg_array, "sampling_rate": 500, "leads": LEADS, "unit": "mV"}
    signal, leads, rate = read_inputs(processor, **given).ecg
    assert (rate, list(leads)) == (500, LEADS)
    np.testing.assert_allclose(signal, ecg_array, atol=1e-6)  # the hole too
    fast = np.repeat(ecg_array, 4, axis=1)
    signal, _, rate = read_inputs(processor, **{**given, "ecg": fast, "sampling_rate": 2000}).ecg
    assert rate == 500 and signal.shape == (12, 5000) and np.isnan(signal[3, 1000:1100]).all()


def test_labs_are_flagged_against_their_range(processor):
    labs = {"Creatinine": 2.3, "Potassium": 4.0, "Sodium": 120, "pH_percentile": 0.2}
    inputs = read_inputs(processor, lab=labs)
    assert {row.name: row.flag for row in inputs.lab} == {
        "Creatinine": "high",
        "Potassium": "normal",
        "Sodium": "low",
        "pH": None,
    }
    assert len(inputs.absent) == 46 and "Creatinine" not in inputs.absent
    assert {row.name: row.percentile for row in inputs.lab}["pH"] == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("known", "words"),
    [
        ({"age": 71.0, "sex": "F"}, "Patient: 71 years, female."),
        ({"age": 0.5, "sex": None}, "Patient: 0.5 years, sex not known."),
        ({"age": None, "sex": None}, "Patient: age not known, sex not known."),
        (None, "Patient: age not known, sex not known."),
    ],
)
def test_the_page_says_who_the_patient_is(processor, known, words):
    changes = {} if known is None else {"patient": known}  # results of earlier versions have none
    assert words in Page(render_report(make_result(**changes), processor)).text


def test_each_statement_stands_with_its_verdict(processor):
    result = make_result(
        evidence=[
            make_statement(
                "raised creatinine", "lab", "contradicted", measured="Creatinine 0.9 mg/dL", conclusion="Sepsis"
            ),
            make_statement("effusion", "cxr", "not checkable", negated=True),
            make_statement("who knows", None, "not checkable"),
        ],
        unmentioned=[{"modality": "lab", "finding": "lab: high Potassium", "measured": "Potassium 6.1 mEq/L, high"}],
    )
    text = Page(render_report(result, processor)).text
    for said in (
        "Labscontradictedraised creatinine, for SepsisCreatinine 0.9 mg/dL",
        "X-raynot checkablenot: effusion",
        "not checkablewho knows",
        "LabsPotassium 6.1 mEq/L, high",
    ):
        assert said in text


def test_probabilities_scores_and_influence_are_shown_where_they_are(processor):
    diseases = [{**row, "probability": 0.25, "score": 0.75} for row in make_result()["diseases"]]
    diseases[0]["undecided"] = True
    influence = {disease: {"ecg": 0.125, "lab": -0.25} for disease in DISEASES}
    text = Page(render_report(make_result(diseases=diseases, influence=influence), processor)).text
    for said in ("Probability", "25%", "75%", "undecided", "+0.12", "-0.25"):
        assert said in text
    plain = Page(render_report(make_result(), processor)).text
    assert "Probability" not in plain and "Influence" not in plain


def test_a_saturated_gate_is_said_to_rank_nothing(processor):
    saturated = make_result(contributions={"ecg": 0.999, "cxr": 1.0, "lab": None})
    assert "ranks nothing" in Page(render_report(saturated, processor)).text
    assert "ranks nothing" not in Page(render_report(make_result(), processor)).text


def test_the_limits_of_the_weights_come_first(processor):
    text = Page(render_report(make_result(warnings=["ecg: padded", "model: imaginary patients only"]), processor)).text
    assert text.index("imaginary patients only") < text.index("Diseases") < text.index("ecg: padded")


def test_occlusion_is_drawn_over_the_inputs(processor, patient):
    change = {"ecg": np.zeros((12, 20)), "cxr": np.zeros((8, 8)), "lab": {"Creatinine": 0.7, "pH": -0.2}}
    change["ecg"][1, 3], change["cxr"][2, 5] = 2.0, -3.0
    plain = Page(render_report(make_result(), processor, **patient))
    page = Page(render_report(make_result(), processor, **patient, occlusion={"disease": "Pneumonia", **change}))
    svgs, pictures = page.pictures("svg+xml"), page.pictures("jpeg")
    assert svgs[0] == plain.pictures("svg+xml")[0]
    # lead II is drawn twice, and a stretch of it shows in its column and in the rhythm strip
    assert svgs[1].count(b"#d55e00") == 2
    before, after = (np.asarray(Image.open(io.BytesIO(content)), dtype=int) for content in pictures[1:])
    changed = np.abs(after - before).max(-1) > 40
    rows, columns = np.nonzero(changed)
    assert 40 < rows.min() and rows.max() < 100 and 125 < columns.min() and columns.max() < 185
    assert "for" in page.text and "+0.700" in page.text and "-0.200" in page.text


@pytest.mark.parametrize("modalities", [("ecg",), ("cxr",), ("lab",), ("cxr", "lab"), ("ecg", "cxr", "lab"), ()])
def test_figure_of_any_inputs(processor, patient, modalities, tmp_path):
    inputs = read_inputs(processor, **{modality: patient[modality] for modality in modalities})
    render_figure(inputs, "cost $1 & $2").savefig(tmp_path / "figure.png", dpi=40)
    assert Image.open(tmp_path / "figure.png").width == 424


def test_what_is_no_result_is_refused(processor, patient):
    with pytest.raises(ValueError, match="`result` must be one result of the pipeline; it has no .*diseases"):
        render_report({"error": "broken"}, processor)
    with pytest.raises(FileNotFoundError, match="no such file"):
        render_report(make_result(), processor, cxr="missing.png")
