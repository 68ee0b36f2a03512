# SPDX-License-Identifier: Apache-2.0
"""Tests of `medtvt labs`."""

import json

import pytest

from medtvt_training.cli import main
from processing_medtvt import LAB_DEFINITIONS, MedTVTLabFeatureExtractor


@pytest.fixture(scope="module")
def extractor():
    return MedTVTLabFeatureExtractor()


def test_json(capsys, extractor):
    assert main(["labs", "--json"]) == 0
    labs = json.loads(capsys.readouterr().out)
    assert [lab["name"] for lab in labs] == [lab.name for lab in LAB_DEFINITIONS]
    by_name = {lab["name"]: lab for lab in labs}
    assert by_name["Hemoglobin"]["reference"] == {"unisex": [12, 17.5], "F": [12, 15.5], "M": [13.5, 17.5]}
    assert "2339-0" in by_name["Glucose"]["loinc"] and "Harnstoff" in by_name["Urea Nitrogen"]["aliases"]
    # what is printed is what is read
    for lab in labs:
        middle = sum(lab["reference"]["unisex"] or (10, 10)) / 2
        for unit, factor in lab["units"].items():
            position = extractor.lab_names.index(lab["name"])
            readings = extractor.read({lab["name"]: (middle * factor, unit)})
            assert readings.measured[0, position] == pytest.approx(middle), (lab["name"], unit)


def test_text(capsys):
    assert main(["labs"]) == 0
    text = capsys.readouterr().out
    assert "women 12 to 15.5 g/dL, men 13.5 to 17.5 g/dL" in text and "unit       mg/dL, also umol/L" in text
    assert text.count("\n  unit ") == 50
