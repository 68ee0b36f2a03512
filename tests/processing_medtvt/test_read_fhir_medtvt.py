# SPDX-License-Identifier: Apache-2.0
"""Tests of FHIR R4: Observations and Bundles, validated by fhir.resources, and what is refused."""

import copy
import json

import numpy as np
import pytest
from fhir.resources.R4B.bundle import Bundle
from fhir.resources.R4B.observation import Observation

from processing_medtvt.feature_extraction_medtvt_lab import MedTVTLabFeatureExtractor


LOINC, UCUM = "http://loinc.org", "http://unitsofmeasure.org"
SECRET = "Zbigniew"


def observation(code, value=None, unit=None, system=LOINC, **elements):
    found = {
        "resourceType": "Observation",
        "status": "final",
        "code": {"coding": [{"system": system, "code": code}]},
        "subject": {"reference": "Patient/p1"},
        "effectiveDateTime": "2024-05-01T08:00:00+02:00",
    }
    if value is not None:
        found["valueQuantity"] = {"value": value, "unit": unit, "system": UCUM, "code": unit}
    return found | elements


def bundle(*resources, patient=True):
    resources = [
        *([{"resourceType": "Patient", "id": "p1", "gender": "female", "birthDate": "1953-04-30"}] if patient else []),
        *resources,
    ]
    entries = [{"fullUrl": f"http://example.org/{i}", "resource": resource} for i, resource in enumerate(resources)]
    return {"resourceType": "Bundle", "type": "collection", "entry": entries}


PANEL = [
    observation("14682-9", 106.104, "umol/L"),
    observation("2951-2", 140, "mmol/L"),
    observation("26464-8", 7.25, "10*3/uL"),
    observation("6301-6", 1.0, "{INR}"),
    observation("20570-8", 0.4, "L/L"),
    observation("2744-1", 7.4, "[pH]"),
    observation("2019-8", 40, "mm[Hg]"),
    observation("1742-6", 30, "U/L"),
    observation("787-2", 90, "fL"),
]
EXPECTED = {
    **{
        "Creatinine": 1.2,
        "Sodium": 140,
        "WBC": 7.25,
        "INR": 1.0,
        "Hct": 40,
        "pH": 7.4,
        "pCO2": 40,
        "ALT": 30,
        "MCV": 90,
    },
}


@pytest.fixture(scope="module")
def extractor():
    return MedTVTLabFeatureExtractor()


def notes_of(extractor, content):
    return extractor(content, return_alterations=True)["alterations"][0]


@pytest.mark.parametrize("form", ["bundle", "file", "list", "lines", "one", "nested", "contained", "bom"])
def test_forms(extractor, tmp_path, form):
    content, path = bundle(*PANEL), tmp_path / "labs.json"
    Bundle.model_validate(content)
    expected = EXPECTED
    if form == "file":
        path.write_text(json.dumps(content, indent=1))
        content = path
    elif form == "bom":
        path.write_bytes(json.dumps(content).encode("utf-8-sig"))
        content = path
    elif form in ("list", "lines"):
        path.write_text("\n".join(map(json.dumps, PANEL)) if form == "lines" else json.dumps(PANEL))
        content = path
    elif form == "one":
        content, expected = PANEL[0], {"Creatinine": 1.2}
        Observation.model_validate(content)
    elif form == "nested":
        content = bundle(bundle(*PANEL, patient=False))
    elif form == "contained":
        content = {"resourceType": "DiagnosticReport", "status": "final", "code": {"text": "x"}, "contained": PANEL}
    output = extractor(content, return_alterations=True)
    np.testing.assert_allclose(output["lab_values"], extractor(expected)["lab_values"], atol=1e-6)
    known = form in ("bundle", "file", "nested", "bom")
    assert output["patients"] == [{"age": 71.0 if known else None, "sex": "F" if known else None}]


def test_a_panel_of_components_and_a_blood_pressure(extractor):
    parts = [{key: PANEL[i][key] for key in ("code", "valueQuantity")} for i in range(3)]
    panel = observation("24321-2", component=parts)
    Observation.model_validate(panel)
    output = extractor(panel, return_alterations=True)
    expected = extractor({"Creatinine": 1.2, "Sodium": 140, "WBC": 7.25})["lab_values"]
    np.testing.assert_allclose(output["lab_values"], expected, atol=1e-6)


def test_censored_absent_and_withdrawn(extractor):
    censored = observation("32693-4", 0.2, "mmol/L")
    censored["valueQuantity"]["comparator"] = "<"
    text = observation("2160-0", valueString="> 1.5")
    reason = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/data-absent-reason", "code": "error"}]}
    absent = observation("2951-2", dataAbsentReason=reason)
    wrong = observation("2823-3", 9.9, "mmol/L", status="entered-in-error")
    coded = observation("2075-0", valueCodeableConcept={"text": "hemolyzed"})
    content = bundle(censored, text, absent, wrong, coded, observation("3094-0", 14, "mg/dL", status="preliminary"))
    Bundle.model_validate(content)
    output = extractor(content, return_alterations=True)
    expected = extractor({"Lactate": 0.2, "Creatinine": 1.5, "BUN": 14})["lab_values"]
    np.testing.assert_array_equal(output["lab_values"], expected)
    notes = output["alterations"][0]
    for note in (
        "lab: Lactate stated as < 0.2, taken as 0.2",
        "lab: Creatinine stated as > 1.5, taken as 1.5",
        "lab: entry 4 has no value, as it states itself",
        "lab: entry 5 left out, its status is entered-in-error",
        "lab: entry 6 left out, its value is no number",
        "lab: entry 7 is preliminary",
    ):
        assert note in notes


def test_the_newest_observation(extractor):
    old = observation("2160-0", 1.9, "mg/dL", effectiveDateTime="2024-04-30")
    new = observation("38483-4", 1.2, "mg/dL", effectivePeriod={"end": "2024-05-02T01:00:00Z"})
    del new["effectiveDateTime"]
    for content in (bundle(old, new), bundle(new, old)):
        Bundle.model_validate(content)
        np.testing.assert_array_equal(extractor(content)["lab_values"], extractor({"Creatinine": 1.2})["lab_values"])
        assert "lab: the newest value used of Creatinine (2 values)" in notes_of(extractor, content)


def test_a_code_decides_and_a_name_helps_out(extractor):
    urine = observation("5792-7", 5, "mg/dL")
    urine["code"]["text"] = "Glucose"
    local = observation("K", 4, "mmol/L", system="http://lab.example.org")
    local["code"]["text"] = "Potassium"
    item = observation("50912", 1.2, "mg/dL", system="http://mimic.mit.edu/fhir/mimic/CodeSystem/mimic-d-labitems")
    output = extractor(bundle(urine, local, item), return_alterations=True)
    np.testing.assert_array_equal(output["lab_values"], extractor({"Potassium": 4, "Creatinine": 1.2})["lab_values"])
    assert "lab: left out, not known to the model: entry 2" in output["alterations"][0]
    with pytest.raises(ValueError, match="unknown lab in entry 2"):
        extractor(bundle(urine, local), unknown="raise")


@pytest.mark.parametrize(
    "birth, gender, patient",
    [("1953", "male", {"age": 71.3, "sex": "M"}), (None, "other", {"age": None, "sex": None}), ("2025-01-01", None, {"age": None, "sex": None})],
)  # fmt: skip
def test_patient(extractor, birth, gender, patient):
    content = bundle(*PANEL)
    content["entry"][0]["resource"] = {"resourceType": "Patient", "id": "p1"}
    content["entry"][0]["resource"] |= {k: v for k, v in (("birthDate", birth), ("gender", gender)) if v}
    Bundle.model_validate(content)
    assert extractor(content, return_alterations=True)["patients"] == [patient]


@pytest.mark.parametrize(
    "reference", ["Patient/p1", "http://example.org/fhir/Patient/p1", "Patient/p1/_history/2", "http://example.org/0"]
)
def test_one_patient_by_several_references(extractor, reference):
    other = observation("3094-0", 14, "mg/dL", subject={"reference": reference})
    assert extractor(bundle(*PANEL, other))["lab_values"][0, 50:].sum() == len(PANEL) + 1


def change(path, value):
    content = copy.deepcopy(bundle(*PANEL))
    place = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return content


ENTRY = ("entry", 3, "resource")
# fmt: off
REFUSED = [
    (bundle(*PANEL, observation("3094-0", 14, "mg/dL", subject={"reference": "Patient/p2"})), "entry 11 is of another patient than entry 1"),
    (bundle(*PANEL, {"resourceType": "Patient", "id": "p2"}), "entry 11 is of another patient than entry 1"),
    ({"resourceType": "Patient"}, "no Observation of FHIR"), (bundle(), "no Observation of FHIR"),
    (bundle(observation("30522-7", 5, "mg/L")), "no lab among its 1 entries; unknown lab in entry 2"),
    (change((*ENTRY, "valueQuantity", "value"), SECRET), "entry 4: `value` must be a number"),
    (change((*ENTRY, "valueQuantity", "code"), SECRET), "entry 4: White Blood Cells: its? ?unit|entry 4: White Blood Cells: unit"),
    (change((*ENTRY, "valueQuantity", "comparator"), "~"), "entry 4: the comparator is none of"),
    (change((*ENTRY, "valueQuantity"), [SECRET]), "entry 4: `valueQuantity` must be an object"),
    (change((*ENTRY, "code"), {"coding": SECRET}), "entry 4: `coding` must be a list"),
    (change((*ENTRY, "code"), None), "entry 4: a value without a `code`"), (change((*ENTRY, "status"), 5), "entry 4: `status` must be text"),
    (change((*ENTRY, "valueQuantity", "value"), 1e30), "entry 4|not physiologically possible"),
    (change(("entry", 3, "resource"), {"a": 1}), "entry 4: no resource of FHIR"), (change(("entry",), 5), "`entry` must be a list"),
]
# fmt: on


@pytest.mark.parametrize("content, message", REFUSED, ids=range(len(REFUSED)))
@pytest.mark.parametrize("as_file", [False, True])
def test_refused(extractor, tmp_path, content, message, as_file):
    if as_file:
        (tmp_path / "labs.json").write_text(json.dumps(content))
        content = tmp_path / "labs.json"
    with pytest.raises(ValueError, match=message) as error:
        extractor(content)
    assert not as_file or ("labs.json" in str(error.value) and SECRET not in str(error.value))


@pytest.mark.parametrize(
    "text",
    ["{", '{"resourceType": "Bundle"', "[" * 100000, '{"a": ' * 100000, "[]", "[1]", '{"resourceType": 5}', "[{}]"],
)
def test_json_that_is_no_fhir(extractor, tmp_path, text):
    (tmp_path / "labs.json").write_text(text)
    with pytest.raises(ValueError, match="labs.json"):
        extractor(tmp_path / "labs.json")
