# SPDX-License-Identifier: Apache-2.0
"""What is said and what inputs state of a patient, merged by the processor."""

import pytest
from transformers import AutoProcessor

from processing_medtvt import MedTVTEcgFeatureExtractor, MedTVTLabFeatureExtractor


UNKNOWN = {"age": None, "sex": None}
LABS = {"Creatinine": 2.3}


@pytest.fixture(scope="module")
def processor(checkpoint):
    return AutoProcessor.from_pretrained(checkpoint)


@pytest.fixture
def state(monkeypatch):
    """Makes an extractor find age and sex in its inputs, as in a header or a FHIR bundle."""

    def make(extractor_class, age, sex):
        call = extractor_class.__call__

        def call_and_state(self, items, *args, strict=False, **kwargs):
            outputs = call(self, items, *args, **kwargs)
            outputs["patients"] = [{"age": age, "sex": sex} for _ in outputs["alterations"]]
            return outputs

        monkeypatch.setattr(extractor_class, "__call__", call_and_state)

    return make


@pytest.fixture
def ecg(ecg_array):
    leads = ["I", "II", "III", "aVR", "aVF", "aVL", "V1", "V2", "V3", "V4", "V5", "V6"]
    return {"ecg": ecg_array, "sampling_rate": 500, "leads": leads, "unit": "mV"}


@pytest.mark.parametrize(
    ("given", "merged", "contradicted"),
    [
        (None, {"age": 70, "sex": "F"}, False),
        ({"sex": "F"}, {"age": 70, "sex": "F"}, False),
        ({"age": 71}, {"age": 71, "sex": "F"}, False),  # a year passes between two dates
        ({"age": 40}, {"age": 40, "sex": "F"}, True),
        ({"sex": "M"}, {"age": 70, "sex": "M"}, True),
    ],
)
def test_what_is_said_comes_before_what_inputs_state(processor, state, ecg, given, merged, contradicted):
    state(MedTVTEcgFeatureExtractor, 70.0, None)
    state(MedTVTLabFeatureExtractor, None, "F")
    inputs = {"text": "<ecg> <lab>", **ecg, "lab": LABS, "patient": given}
    features = processor(**inputs, return_alterations=True, return_patients=True)
    assert features["patients"] == [merged]
    assert any(note.startswith("patient:") for note in features["alterations"][0]) == contradicted
    assert not {"patient", "patients"} & set(processor(**inputs))  # nothing of it among the model's inputs
    if contradicted:
        with pytest.raises(ValueError, match="Refused as `strict` asks. patient: one input states the"):
            processor(**inputs, strict=True)
    else:
        processor(**inputs, strict=True)


def test_inputs_of_two_patients_are_warned_of(processor, state, ecg):
    state(MedTVTEcgFeatureExtractor, 70.0, "M")
    state(MedTVTLabFeatureExtractor, 30.0, "F")
    notes = processor(text="<ecg> <lab>", **ecg, lab=LABS, return_alterations=True)["alterations"][0]
    assert len([note for note in notes if note.startswith("patient:")]) == 2


def test_one_entry_a_prompt(processor):
    given = [{"age": 4}, None, {"sex": "male"}]
    batch = {"text": ["a <lab>", "b", "c <lab>"], "lab": [LABS, None, LABS], "return_patients": True}
    expected = [{"age": 4.0, "sex": None}, UNKNOWN, {"age": None, "sex": "M"}]
    assert processor(**batch, patient=given)["patients"] == expected
    for wrong in (given[:2], {"age": 4}):
        with pytest.raises(ValueError, match="`patient` must be a list of 3 dicts"):
            processor(**batch, patient=wrong)
    with pytest.raises(ValueError, match="age"):
        processor(text="a", patient={"age": -1})
