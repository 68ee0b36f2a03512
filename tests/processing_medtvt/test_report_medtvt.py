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
from processing_medtvt.ecg_findings_medtvt import RULES
from processing_medtvt.measure_ecg_medtvt import find_waves
from processing_medtvt.report_ecg_medtvt import lay_out
from processing_medtvt.report_inputs_medtvt import DrawnEcg
from processing_medtvt.report_medtvt import RESEARCH_USE
from processing_medtvt.report_places_medtvt import ECG_PLACES


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
        self.text = " ".join(self.text.split())

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
    assert page.text.count(RESEARCH_USE) == 3  # above, below, and in the margin of each printed page
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
    sheets = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert len(sheets) == 4 and {sheet["width"] for sheet in sheets} == {"274mm"}
    assert all(sheet["viewbox"] == f"0 0 274 {sheet['height'].removesuffix('mm')}" for sheet in sheets)  # true size
    original, seen = (Image.open(io.BytesIO(content)) for content in page.pictures("jpeg"))
    assert (original.size, seen.size) == (Image.open(patient["cxr"]).size, (224, 224))
    assert len(source) < 2_000_000
    assert source == render_report(make_result(), processor, **patient, about={"Model": "my model"})


def test_nothing_is_loaded_from_elsewhere(processor, patient):
    source = render_report(make_result(), processor, **patient)
    page = Page(source)
    assert not {"script", "link", "iframe", "object", "embed"} & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        assert all(
            attributes[name].startswith(("data:", "#")) for name in ("src", "href", "srcset") if name in attributes
        )
    style = re.search("<style>(.*?)</style>", source, re.DOTALL)[1]
    assert "url(" not in style and "@import" not in style
    assert all(target.startswith("#") for target in re.findall(r"url\((.*?)\)", source))
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
    signal, leads, rate, _ = read_inputs(processor, **given).ecg
    assert (rate, list(leads)) == (500, LEADS)
    np.testing.assert_allclose(signal, ecg_array, atol=1e-6)  # the hole too
    fast = np.repeat(ecg_array, 4, axis=1)
    signal, _, rate, _ = read_inputs(processor, **{**given, "ecg": fast, "sampling_rate": 2000}).ecg
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
        "Labs ✗ contradicted raised creatinine, for Sepsis Creatinine 0.9 mg/dL",
        "X-ray – not checkable no effusion",
        "Other – not checkable who knows",
        "Labs Potassium 6.1 mEq/L, high",
        "Evidence: ✓ 0 supported, ✗ 1 contradicted, – 2 not checkable. Left out: 1 abnormal measurement.",
    ):
        assert said in text


def test_what_all_statements_of_a_modality_share_is_said_once(processor):
    note = "a film is not measured"
    statements = [make_statement(text, "cxr", "not checkable", measured=note) for text in ("effusion", "edema")]
    text = Page(render_report(make_result(evidence=statements), processor)).text
    assert f"X-ray: {note} – not checkable effusion – not checkable edema" in text


def test_units_that_are_none_are_not_written(processor):
    text = Page(render_report(make_result(), processor, lab={"pH": 7.3, "INR(PT)": 1.4, "Sodium": 140})).text
    assert "pH 7.3 ▼ low" in text and "INR(PT) 1.4 ▲ high" in text and "140 mEq/L" in text


def test_probabilities_scores_and_influence_are_shown_where_they_are(processor):
    diseases = [{**row, "probability": 0.25, "score": 0.75} for row in make_result()["diseases"]]
    diseases[0]["undecided"] = True
    influence = {disease: {"ecg": 0.125, "lab": -0.25} for disease in DISEASES}
    text = Page(render_report(make_result(diseases=diseases, influence=influence), processor)).text
    for said in ("Probability", "25%", "75%", "undecided", "+0.12", "-0.25"):
        assert said in text
    noise = dict.fromkeys(DISEASES, 0.2)
    text = Page(render_report(make_result(influence=influence, influence_noise=noise), processor)).text
    assert "(+0.12)" in text and "(-0.25)" not in text and "which is noise" in text
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
    page = Page(render_report(make_result(), processor, **patient, occlusion={"disease": "Pneumonia", **change}))
    pictures = page.pictures("jpeg")
    colored = [attributes for tag, attributes in page.tags if tag == "rect" and attributes.get("class") == "supports"]
    # the fourth half second of a lead, after 20 mm of margin
    assert [(float(part["x"]), float(part["width"]), part["fill-opacity"]) for part in colored] == [
        (57.5, 12.5, "0.6")
    ]
    before, after = (np.asarray(Image.open(io.BytesIO(content)), dtype=int) for content in pictures[1:])
    changed = np.abs(after - before).max(-1) > 40
    rows, columns = np.nonzero(changed)
    assert 40 < rows.min() and rows.max() < 100 and 125 < columns.min() and columns.max() < 185
    assert "for" in page.text and "+0.700" in page.text and "-0.200" in page.text


def test_occlusion_has_one_scale(processor, patient):
    change = {"ecg": np.full((12, 20), 0.01), "cxr": None, "lab": None}
    page = Page(render_report(make_result(), processor, **patient, occlusion={"disease": "Pneumonia", **change}))
    assert not [attributes for tag, attributes in page.tags if attributes.get("class") == "supports" and tag == "rect"]
    assert "Largest change: 0.01 nats" in page.text


@pytest.mark.parametrize("factor, gain", [(1, 10), (4, 5), (12, 1.25)])
def test_no_wave_leaves_its_strip(processor, ecg_array, factor, gain):
    ecg = DrawnEcg(ecg_array * factor / np.abs(ecg_array).max() * 2, LEADS, 500, None)
    pages = lay_out(ecg)
    assert {page.gain for page in pages} == {gain}
    for page in pages:
        assert page.height == sum(strip.height for strip in page.strips) <= 165
        for strip in page.strips:
            values = ecg.signal[LEADS.index(strip.lead)] * gain
            assert strip.middle - values.max() >= strip.top
            assert strip.middle - values.min() <= strip.top + strip.height


def test_statements_link_to_where_they_were_measured(processor, patient):
    creatinine = {**make_statement("raised creatinine", "lab", "supported"), "finding": "lab: high Creatinine"}
    axis = {**make_statement("left axis", "ecg", "contradicted"), "finding": "ecg: left axis"}
    absent = {**make_statement("raised troponin", "lab", "not measured"), "finding": "lab: high Troponin-T"}
    result = make_result(
        evidence=[
            {**creatinine, "measured": "Creatinine 2.3 mg/dL, high (0.5 to 1.2)"},
            {**axis, "measured": "axis 10 degrees"},
            {**absent, "measured": "Troponin-T not measured"},
        ]
    )
    source = render_report(result, processor, **patient)
    page = Page(source)
    statements = source[source.index('id="evidence"') : source.index('id="left-out"')]
    targets = re.findall(r'href="#([^"]+)"', statements)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids)) and len(targets) == 3 and set(targets) <= set(ids)
    (lab,) = [target for target in targets if target.startswith("lab-")]
    row = re.search(rf'<tr id="{lab}">(.*?)</tr>', source, re.DOTALL)
    assert "Creatinine" in row[1]
    assert "QRS in I" in page.text and "QRS in aVF" in page.text


def test_every_ecg_rule_has_a_place():
    assert set(RULES) <= set(ECG_PLACES)
    assert {lead for place in ECG_PLACES.values() for lead in place.leads} <= set(LEADS)


def test_waves_lie_where_they_were_drawn(processor, patient):
    waves = read_inputs(processor, ecg=patient["ecg"]).ecg.waves
    assert len(waves.onsets) > 5 and waves.spans["QRS"][0] == 0
    assert waves.spans["QRS"][1] <= waves.spans["ST"][1] <= waves.spans["QT"][1] < 0.7
    assert find_waves(np.zeros((12, 5000))) is None


def test_labs_are_sorted_by_how_far_they_are_out(processor):
    labs = {"Sodium": 140, "Potassium": 5.4, "Creatinine": 9.0, "pH_percentile": 0.2}
    source = render_report(make_result(), processor, lab=labs)
    rows = re.findall(r'<tr id="lab-\d+"><th scope="row">(.*?)</th>', source)
    assert rows == ["Creatinine", "Potassium", "Sodium", "pH"]


def test_the_undecided_zone_is_drawn(processor):
    diseases = [{**row, "probability": 0.5} for row in make_result()["diseases"]]
    diseases[0] |= {"undecided": True, "undecided_zone": [0.25, 0.75]}
    source = render_report(make_result(diseases=diseases), processor)
    assert 'class="zone" style="left:25.0%;width:50.0%"' in source and source.count('class="zone"') == 1


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
