# SPDX-License-Identifier: Apache-2.0
"""Tests of the lab feature extractor: order, percentiles, accepted and refused input, the authors' numbers."""

import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file
from transformers.dynamic_module_utils import get_imports

from processing_medtvt.feature_extraction_medtvt_lab import MedTVTLabFeatureExtractor
from processing_medtvt.lab_definitions_medtvt import LAB_DEFINITIONS
from processing_medtvt.lab_names_medtvt import list_names

from tests.toy import FIXTURES


NAMES, ITEMIDS = [lab.name for lab in LAB_DEFINITIONS], [lab.itemids[0] for lab in LAB_DEFINITIONS]
CREATININE = NAMES.index("Creatinine")
H = NAMES.index("H (hemolysis index, inferred)")
LABS, MEANS = [{"name": "a"}, {"name": "b"}], {"a": 0.5, "b": 0.5}
ONE_LAB = {"labs": [{"name": "a"}], "percentile_source": "none", "mean_percentiles": {"a": 0.5}}


@pytest.fixture(scope="module")
def reference():
    return MedTVTLabFeatureExtractor()


@pytest.fixture
def small():
    """Two labs, fitted: a on 1, 2, 2, 4 and b on 10 only."""
    table = {"a": [1.0, 2.0, 2.0, 4.0], "b": [10.0, np.nan, None, np.nan]}
    return MedTVTLabFeatureExtractor(LABS, "none", mean_percentiles=MEANS).fit(table, source="four patients")


def percentile(extractor, lab, name="Creatinine"):
    return float(extractor(lab)["lab_values"][0, extractor.lab_names.index(name)])


def alterations(extractor, lab):
    return extractor(lab, return_alterations=True)["alterations"][0]


def test_shape_flags_and_order(reference):
    output = reference([{"Creatinine": 1.0}, {"H_percentile": 0.9, "2160-0": None}], return_tensors="pt")
    values = output["lab_values"]
    assert values.shape == (2, 100) and str(values.dtype) == "torch.float32"
    assert reference.lab_names == NAMES and reference.model_input_names == ["lab_values"]
    assert values[0, 50:].nonzero().flatten().tolist() == [CREATININE]
    assert values[1, 50:].nonzero().flatten().tolist() == [H]
    assert values[1, H] == pytest.approx(0.9) and values[1, CREATININE] == 0.5


@pytest.mark.parametrize("lab", [lab for lab in LAB_DEFINITIONS if lab.loinc], ids=lambda lab: lab.name)
def test_reference_interval_is_the_central_95_percent(reference, lab):
    low, high = lab.reference_low, lab.reference_high
    for value, expected in ((low, 0.025), ((low + high) / 2, 0.5), (high, 0.975)):
        assert percentile(reference, {lab.name: value}, lab.name) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("value, expected", [(0.9, 0), (1, 0.25), (1.9, 0.25), (2, 0.75), (4, 1), (99, 1)])
def test_fit_is_the_exact_step_function(small, value, expected):
    assert percentile(small, {"a": value}, "a") == expected


def test_fit_means_and_source(small):
    assert small.mean_percentiles == {"a": (0.25 + 0.75 + 0.75 + 1) / 4, "b": 1.0}
    assert small.percentile_source == "fitted" and small.table_source == "fitted on 4 rows of four patients"
    assert percentile(small, {"b": 10}, "a") == 0.6875


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("max_points", [1, 7, 100])
def test_thinned_table_is_off_by_less_than_one_step(ties, max_points):
    values = np.random.default_rng(0).lognormal(size=5000)
    values = values.round(2) if ties else values
    extractor = MedTVTLabFeatureExtractor(**ONE_LAB).fit({"a": values}, max_points=max_points)
    assert len(extractor.quantile_tables["a"]["values"]) <= max_points
    queries = np.concatenate([values, [0.0, 1e6]])
    exact = np.searchsorted(np.sort(values), queries, side="right") / len(values)
    error = exact - extractor(pd.DataFrame({"a": queries}))["lab_values"][:, 0]
    assert -1e-6 < error.min() and error.max() < 1 / max_points + 1e-6


def test_float32_values_meet_their_step():
    table = {"a": [0.7, 0.9, 1.1]}
    extractor = MedTVTLabFeatureExtractor(**ONE_LAB).fit(table)
    frame = pd.DataFrame(table, dtype="float32")
    np.testing.assert_allclose(extractor(frame)["lab_values"][:, 0], [1 / 3, 2 / 3, 1], atol=1e-6)


@pytest.mark.parametrize("key", ["Creatinine", " CREATININE ", "2160-0", 50912, "50912", "52546", "Crea"])
def test_keys(reference, key):
    assert reference({key: 1.2})["lab_values"][0, 50 + CREATININE] == 1


@pytest.mark.parametrize("value", [1.2, " 1.2 ", np.float32(1.2), (1.2, None), {"value": "1.2"}, (1.2, " MG/dl ")])
def test_values(reference, value):
    assert percentile(reference, {"Creatinine": value}) == pytest.approx(0.975, abs=1e-6)


@pytest.mark.parametrize("value", [None, np.nan, "", " ", "NaN", pd.NA, pd.NaT, (None, "mg/dL"), {"value": np.nan}])
def test_absent_values(reference, value):
    flags = reference({"Creatinine": value, "Sodium": 140})["lab_values"][0, 50:]
    assert flags.sum() == 1 and flags[CREATININE] == 0


# fmt: off
UNITS = [  # name, value, unit, the same in the lab's own unit
    ("Creatinine", 88.42, "µmol/L", 1.0), ("Creatinine", 88.42, "μmol/l", 1.0), ("Creatinine", 88.42, "mcmol/L", 1.0),
    ("Urea Nitrogen", 3.57, "mmol/L", 10), ("Urea Nitrogen", 21.4, "mg/dL urea", 10), ("Sodium", 140, "mmol/L", 140),
    ("Hemoglobin", 8.6884, "mmol/L", 14), ("Hemoglobin", 140, "g/L", 14), ("Hematocrit", 0.4, "L/L", 40),
    ("Lactate", 9, "mg/dL", 9 * 0.111), ("MCHC", 34, "%", 34), ("ALP", 80, "U/L", 80), ("ALP", 80, "Units/L", 80),
    ("WBC", 7, "x10⁹/L", 7), ("WBC", 7, "10*3/uL", 7), ("WBC", 7, "K/mcL", 7), ("WBC", 7000, "cells/µL", 7),
    ("RBC", 5, "10^12/L", 5), ("RBC", 5, "M/mcL", 5), ("pCO2", 5.332, "kPa", 40), ("pCO2", 40, "mmHg", 40),
    ("pH", 7.4, "Units", 7.4), ("INR", 1.0, "", 1.0), ("PT", 12, "s", 12), ("aPTT", 30, "Seconds", 30),
    ("Magnesium", 2, "mEq/L", 2 / 0.8228), ("Creatinine", 0.08842, "mmol/L", 1.0), ("MCH", 1.8618, "fmol", 30),
]
# fmt: on


@pytest.mark.parametrize("name, value, unit, same_as", UNITS)
def test_units(reference, name, value, unit, same_as):
    expected = reference({name: same_as})["lab_values"]
    for cell in ((value, unit), {"value": value, "unit": unit}):
        np.testing.assert_allclose(reference({name: cell})["lab_values"], expected, atol=1e-6)
    converted = any("converted" in text for text in alterations(reference, {name: (value, unit)}))
    assert converted == (value != same_as)


# fmt: off
GIVEN = [  # lab, percentile, flag
    ({"Creatinine": (0.7, "Percentile")}, 0.7, 1), ({"50912_percentile": 0.7}, 0.7, 1),
    ({"Creatinine_Percentile": "0.7"}, 0.7, 1), ({"Creatinine": None, "Creatinine_percentile": 0.7}, 0.5, 0),
    ({"Creatinine": "", "2160-0_percentile": 0.7}, 0.5, 0), ({"Creatinine": "?", "Crea_percentile": 0.7}, 0.7, 1),
    ({"Creatinine": 1.2, "Creatinine_percentile": None}, 0.975, 1),
]
# fmt: on


@pytest.mark.parametrize("lab, expected, present", GIVEN)
def test_given_percentiles(reference, lab, expected, present):
    lab["Sodium"] = 140
    for item in (lab, pd.Series(lab, dtype=object), pd.DataFrame([lab])):
        output = reference(item)["lab_values"]
        assert output[0, [CREATININE, 50 + CREATININE]] == pytest.approx([expected, present], abs=1e-6)


@pytest.mark.parametrize("text", ["name,value\n", "name;value\n", "\ufeffName , VALUE , unit\n"])
def test_csv_file(reference, tmp_path, text):
    mark = ";" if ";" in text else ","
    rows = [["Creatinine", "1.2"], ["2951-2", " 140 "], ['"Bilirubin, Total"', ""], ["50813_percentile", "0.25"]]
    unit = [["mg/dL"], [""], ["mg/dL"], ["percentile"]] if "unit" in text else [[]] * 4
    path = tmp_path / "labs.csv"
    path.write_text(text + "\n".join(mark.join(r + u) for r, u in zip(rows, unit)) + "\n\n", encoding="utf-8")
    expected = reference({"Creatinine": 1.2, "Sodium": 140, "Lactate": (0.25, "percentile")})["lab_values"]
    np.testing.assert_array_equal(reference(path)["lab_values"], expected)
    np.testing.assert_array_equal(reference([str(path)] * 2)["lab_values"], np.repeat(expected, 2, axis=0))


def test_frame_series_and_dicts_agree(small):
    frame = pd.DataFrame({"hadm_id": [1, 2], "b": [10, 9], "a": ["3", None], "a_percentile": [None, 0.1]})
    expected = [[0.75, 1, 1, 1], [0.6875, 0, 0, 1]]
    rows = [row for _, row in frame.iterrows()]
    dicts = [row.drop("hadm_id").to_dict() for row in rows]
    for labs in (frame, rows, dicts, frame.astype({"b": "Float64"})):
        np.testing.assert_array_equal(small(labs)["lab_values"], np.float32(expected))


def test_alterations(reference, small):
    row = pd.Series({"subject_id": 1, "H": 20, "hadm_id": 2, "Creatinine": (88.42, "µmol/L")})
    assert alterations(reference, row) == [
        "lab: ignored columns subject_id, hadm_id",
        "lab: Creatinine converted from µmol/L to mg/dL",
        "lab: H (hemolysis index, inferred) has no reference interval, treated as absent",
        "lab: percentiles come from reference intervals, not from a fitted table",
        "lab: 49 of 50 labs absent, mean percentile used",
    ]
    output = small([{"a": 1, "b": 1}, {"a": 1}], return_tensors="pt", return_alterations=True)
    assert output["alterations"] == [[], ["lab: 1 of 2 labs absent, mean percentile used"]]
    assert output.to("cpu").convert_to_tensors("pt")["alterations"] == output["alterations"]


# fmt: off
BAD_INPUT = [
    ({}, "no labs given"), ([], "no samples"), (pd.DataFrame({"Creatinine": []}), "no samples"),
    ({"Creatinine": None}, "no lab with a usable value"), ({"H": 3}, "usable value. lab: H .* no reference interval"),
    (pd.DataFrame({"Creatinine": [1, None, None]}), r"lab\[1\]: no lab with a usable value .nor in 1 other"),
    ({"Creatinin": 1}, "unknown lab 'Creatinin'. Did you mean 'Creatinine'"),
    ({"CRP": 1, "Foo": 2}, "no lab among its 2 entries; unknown lab 'CRP'. Accepted"),
    (pd.Series({"hadm_id": 1}), "no lab among its 1 columns"),
    ({"Creatinine": 1, 50912: 1}, "'Creatinine' and 50912 are both Creatinine"),
    (pd.DataFrame([[1, 2]], columns=["WBC", "White Blood Cells"]), "'WBC' and 'White Blood Cells' are both"),
    ([{"Creatinine": 1}, {"Creatinine": "NEG"}], r"lab\[1\]: Creatinine: .*is not a number"),
    (pd.DataFrame({"Creatinine": [True]}), "is not a number"), ({"Creatinine": "1,2"}, "has a comma"),
    ({"Creatinine": float("inf")}, "inf is not a finite"), ({"Creatinine": "-inf"}, "-inf is not a finite number"),
    (pd.DataFrame({"Creatinine": [1, np.inf]}), r"lab\[1\]: Creatinine: inf is not a finite"),
    ({"Creatinine": 10**400}, "too large"), ({"Natrium": 1}, "lab: Sodium .given as 'Natrium'.: the value is not physio"), ({"Creatinine": (1, 2)}, "unit must be text"),
    ({"Creatinine": (1, "mm Hg")}, "unit 'mm Hg' is not accepted.*mg/dL, umol/L, percentile"),
    ({"Phosphate": (2, "mEq/L")}, "'mEq/L' is not accepted"), ({"PT": (85, "%")}, "unit '%' is not accepted"), ({"Creatinine": (1, "mg/dL", 3)}, "not a pair"),
    ({"Creatinine": {"value": 1, "uom": "mg/dL"}}, "may have 'unit'; found .'uom', 'value'"),
    ({"Creatinine_percentile": 70}, "percentile is outside 0..1; 70 % is 0.7"), ({"Creatinine": (-0.1, "percentile")}, "outside 0..1"),
    ({"Creatinine_percentile": (0.7, "mg/dL")}, "unit 'mg/dL' is not accepted. Accepted are: no unit, percentile"),
    ({"Creatinine": 88}, "Creatinine: the value is not .* 0.05 to 50 mg/dL. Is it in umol/L"),
    ({"Calcium, Total": 2.4}, "Is it in mmol/L"), ({"Hemoglobin": 140}, "Is it in g/L"),
    ({"White Blood Cells": 7000}, "Is it in cells/uL"), ({"pH": 72}, "6.3 to 8 units.$"),
    (pd.DataFrame({"Creatinine": [1, 88]}), r"lab\[1\]: Creatinine: the value is not physio"),
]
BAD_FILES = [
    (b"", "no rows"), (b"name,value\n", "no rows below the header"), (b"name,value\0\n", "binary"),
    (b"\x89PNG\r\n\x1a\n\xff", "binary file, not text"), (b"name,value\nK,4,mmol/L\n", "3 cells and the header 2"),
    (b"name,value\nBilirubin, Total,1\n", "must be quoted"), (b'name,value\n"Creatinine,1\n', "not a readable CSV"),
    (b"lab,remark\nK,4\n", "no lab among its 1 entries"), (b"name;value\nK;4,234\n", "row 2: a comma before three digits"),
    (b"name,value\nK,4\nPotassium,4\n", "row 2 and row 3 are both"), (b"name,value\nK,4\n" * 200000, "too large"),
]
# fmt: on


@pytest.mark.parametrize("lab, message", BAD_INPUT)
def test_bad_input(reference, lab, message):
    with pytest.raises(ValueError, match=message):
        reference(lab)


@pytest.mark.parametrize("value", ["300-400", "___", "1_0", "POS", "1 2", True, [1.0], object()])
def test_not_a_number(reference, value):
    with pytest.raises(ValueError, match="Creatinine: .* is not a number"):
        reference({"Creatinine": value})


@pytest.mark.parametrize("lab", [None, 1.0, np.zeros(100), [1.0], b"labs.csv"])
def test_wrong_type(reference, lab):
    with pytest.raises(TypeError, match="expected a dict of lab -> value"):
        reference(lab)


@pytest.mark.parametrize("content, message", BAD_FILES)
def test_bad_csv_file(reference, tmp_path, content, message):
    (tmp_path / "labs.csv").write_bytes(content)
    with pytest.raises(ValueError, match=f"labs.csv.*{message}"):
        reference(tmp_path / "labs.csv")


def test_missing_file_and_folder(reference, tmp_path):
    with pytest.raises(FileNotFoundError, match="no_such.csv"):
        reference(str(tmp_path / "no_such.csv"))
    with pytest.raises(ValueError, match="not a regular file"):
        reference(tmp_path)


# fmt: off
BAD_LABS: list[tuple[Any, str]] = [
    ([], "at least one lab"), (["a"], "must be a dict with"), ([{"name": "a", "units": "g"}], "unknown fields"),
    ([{"name": "a"}, {"name": "A "}], "stands for both"), ([{"name": "a", "aliases": "abc"}], "lists as itemids"),
    ([{"name": "a", "reference_low": 2, "reference_high": 1}], "reference_low < reference_high"),
    ([{"name": "a", "plausible_low": 2}], "plausible_low < plausible_high"),
    ([{"name": "a", "unit": "g", "si_unit": "kg"}], "positive factor"),
    ([{"name": "a", "unit": "g", "other_units": {"G": 2}}], "one positive factor"),
    (LABS, "no lab has a reference interval"),
]
BAD_TABLES: list[tuple[Any, str]] = [
    ([1, 2], "must be a dict"), ({"values": [], "percentiles": []}, "at least 1"),
    ({"values": [1, 2], "percentiles": [1]}, "same length"), ({"values": ["x"], "percentiles": [1]}, "than numbers"),
    ({"values": [2, 1], "percentiles": [0.5, 1]}, "strictly ascending"),
    ({"values": [1, np.nan], "percentiles": [0.5, 1]}, "finite"),
    ({"values": [1, 2], "percentiles": [50, 100]}, "end with 1"),
    ({"values": [1, 2], "percentiles": [1, 0.5]}, "must ascend"),
]
BAD_SOURCES: list[tuple[Any, str]] = [
    ({"percentile_source": "guess"}, "must be one of"), ({"labs": LABS, "percentile_source": "none"}, "for all labs"),
    ({**ONE_LAB, "percentile_source": "fitted"}, "quantile_tables are required"),
    ({"quantile_tables": {"Creatinine": {"values": [1], "percentiles": [1]}}}, "legal with it alone"),
    ({"mean_percentiles": {"Creatinine": 0.5}}, "missing are"),
    ({"mean_percentiles": dict.fromkeys(NAMES, 50)}, r"in 0\.\.1"),
    ({"mean_percentiles": {**dict.fromkeys(NAMES, 0.5), "x": 0.5}}, "not in labs: .'x'"),
]
BAD_FITS = [
    ({"a": [1.0], "c": [2.0]}, "no values for 1 of 2 labs: b"), ({"a": [1.0], "b": [None]}, "1 of 2 labs: b"),
    ({"c": [1.0]}, "no lab among its 1 columns"), ({"a": [1.0, np.inf], "b": [1.0, 1.0]}, "row 1: a: inf"),
    ({"a": ["NEG"], "b": [1.0]}, "row 0: a: the value"), ({"a": 1.0, "b": 2.0}, "must be a column"),
    ({"a": [(0.5, "percentile")], "b": [1.0]}, "measured values are needed"),
]
# fmt: on


@pytest.mark.parametrize(
    "arguments, message",
    [({"labs": labs}, message) for labs, message in BAD_LABS]
    + [({**ONE_LAB, "percentile_source": "fitted", "quantile_tables": {"a": x}}, f"a .*{m}") for x, m in BAD_TABLES]
    + BAD_SOURCES,
)
def test_bad_config(arguments, message):
    with pytest.raises(ValueError, match=message):
        MedTVTLabFeatureExtractor(**arguments)


@pytest.mark.parametrize("table, message", BAD_FITS)
def test_bad_fit_table(table, message):
    extractor = MedTVTLabFeatureExtractor(LABS, "none", mean_percentiles=MEANS)
    with pytest.raises(ValueError, match=message):
        extractor.fit(table)
    assert extractor.percentile_source == "none"


def test_fit_limits(reference):
    with pytest.raises(TypeError, match="expected a DataFrame"):
        reference.fit([1.0])
    with pytest.raises(ValueError, match="max_points"):
        reference.fit({"Creatinine": [1.0]}, max_points=0)
    with pytest.raises(ValueError, match="median: Creatinine: .*umol/L"):
        reference.fit({"Creatinine": [80, 90, 100]}, allow_missing=True)
    extractor = MedTVTLabFeatureExtractor(LABS, "none", mean_percentiles=MEANS)
    extractor.fit({"a": [1.0]}, allow_missing=True)
    assert extractor.table_source.endswith("treated as absent: b") and extractor.mean_percentiles["b"] == 0.5
    assert "lab: b has no fitted table, treated as absent" in alterations(extractor, {"a": 1, "b": 1})


def test_from_means(tmp_path):
    means = {f"{lab.itemids[0]}_percentile": 0.5 for lab in reversed(LAB_DEFINITIONS)}
    extractor = MedTVTLabFeatureExtractor.from_means(means)
    assert extractor.lab_names == NAMES and extractor.percentile_source == "none"
    (tmp_path / "means.json").write_text("a: 1")
    with pytest.raises(ValueError, match="means.json: not a JSON file"):
        MedTVTLabFeatureExtractor.from_means(tmp_path / "means.json")
    extractor = MedTVTLabFeatureExtractor.from_means({"x_percentile": 0.4, "y_percentile": 0.6})
    with pytest.raises(ValueError, match=r"x: a measured value, .*fit\(table\).*'x_percentile'"):
        extractor({"x": 3})


@pytest.mark.parametrize("case", ["reference", "small"])
def test_save_and_load(case, request, tmp_path):
    extractor = request.getfixturevalue(case)
    extractor.save_pretrained(tmp_path)
    loaded = MedTVTLabFeatureExtractor.from_pretrained(tmp_path)
    rebuilt = MedTVTLabFeatureExtractor(**json.loads(extractor.to_json_string()))
    lab = {"a": 2} if case == "small" else {"Creatinine": (100, "umol/L")}
    assert extractor.to_dict() == loaded.to_dict() and loaded.table_source == extractor.table_source
    for other in (loaded, rebuilt):
        np.testing.assert_array_equal(other(lab)["lab_values"], extractor(lab)["lab_values"])


def test_pandas_is_not_needed():
    # transformers refuses remote code if anything that it imports, anywhere in the file, is not installed
    folder = Path(sys.modules[MedTVTLabFeatureExtractor.__module__].__file__).parent
    files = [
        file
        for pattern in ("feature_extraction_medtvt_lab.py", "lab_*.py", "read_lab*.py", "read_fhir*.py", "patient*.py")
        for file in folder.glob(pattern)
    ]
    imports = {name for file in files for name in get_imports(file)}
    assert len(files) > 10 and imports - set(sys.stdlib_module_names) == {"numpy", "transformers"}


def test_definitions_are_the_facts():
    with open(FIXTURES / "labs.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == NAMES
    columns = {"ref_low": "reference_low", "ref_high": "reference_high"}
    for row, lab in zip(rows, LAB_DEFINITIONS):
        assert row["mimic_itemids"] == ";".join(map(str, lab.itemids))
        for column in ("unit", "group", "loinc", "si_unit"):
            assert row[column] == (getattr(lab, column) or ""), (lab.name, column)
        for column in ("ref_low", "ref_high", "si_factor"):
            value = getattr(lab, columns.get(column, column))
            assert value == (float(row[column]) if row[column] else None), (lab.name, column)


@pytest.mark.parametrize("kind", ["frame", "series", "dict"])
def test_authors_numbers(kind):
    folder = FIXTURES / "parity" / "preprocessing"
    expected = load_file(folder / "expected.safetensors")
    extractor = MedTVTLabFeatureExtractor.from_means(folder / "lab" / "labs_means.json")
    frame = pd.read_csv(folder / "lab" / "labs.csv")
    rows = [row for _, row in frame.iterrows()]
    labs = {"frame": frame, "series": rows, "dict": [row.drop("hadm_id").to_dict() for row in rows]}[kind]
    output = extractor(labs, return_alterations=True)
    for row, missing in enumerate([12, 5, 49]):
        np.testing.assert_allclose(output["lab_values"][row], expected[f"lab.row{row}"], rtol=0, atol=1e-7)
        assert f"lab: {missing} of 50 labs absent, mean percentile used" in output["alterations"][row]


@pytest.mark.parametrize("path", sorted(FIXTURES.glob("labs/mimic-iv-demo-tidy/*.csv")), ids=lambda path: path.stem)
def test_real_admissions(reference, path):
    table = pd.read_csv(path)
    table["value"] = pd.to_numeric(table["value"], errors="coerce")
    table = table[table["itemid"].isin(ITEMIDS)].dropna(subset="value").sort_values("charttime", kind="stable")
    first = table.groupby("itemid").first()
    labs = {itemid: (row["value"], row["unit"]) for itemid, row in first.iterrows()}
    if not labs:
        with pytest.raises(ValueError, match="no labs given"):
            reference(labs)
        with pytest.raises(ValueError, match="no rows below|no lab among"):
            reference(path)
        return
    # the file itself is read too, with the newest value of each lab
    newest = table.groupby("itemid").last()
    expected = reference({itemid: (row["value"], row["unit"]) for itemid, row in newest.iterrows()})["lab_values"]
    np.testing.assert_array_equal(reference(path)["lab_values"][:, 50:][expected[:, 50:] == 1], 1)
    without_table = sum(itemid in (50934, 50947, 51678) for itemid in labs)
    values = reference(labs)["lab_values"]
    assert values[0, 50:].sum() == len(labs) - without_table
    assert ((0 <= values) & (values <= 1)).all()


def test_fit_on_real_labevents(tmp_path):
    path = FIXTURES / "labs" / "mimic-iv-demo-2.2" / "hosp" / "labevents.csv.gz"
    events = pd.read_csv(path, usecols=["hadm_id", "charttime", "itemid", "valuenum"]).dropna()
    events = events[events["itemid"].isin(ITEMIDS)].sort_values("charttime")
    table = events.pivot_table(index="hadm_id", columns="itemid", values="valuenum", aggfunc="first")
    table.to_csv(tmp_path / "table.csv")
    extractor = MedTVTLabFeatureExtractor().fit(table)
    from_file = MedTVTLabFeatureExtractor().fit(tmp_path / "table.csv")
    assert extractor.quantile_tables == from_file.quantile_tables
    assert from_file.table_source == f"fitted on {len(table)} rows of table.csv"
    values = extractor(table)["lab_values"]
    np.testing.assert_array_equal(values[:, 50:], table[ITEMIDS].notna())
    sodium = table[50983]
    expected = sodium.rank(method="max") / sodium.count()
    np.testing.assert_allclose(values[:, NAMES.index("Sodium")][sodium.notna()], expected.dropna(), atol=1e-6)
    assert extractor.mean_percentiles["Sodium"] == pytest.approx(expected.mean())


@pytest.mark.parametrize(
    "lab, doubtful",
    [({"Glucose": 5.5}, "mmol/L"), ({"BUN": "5"}, "mmol/L"), ({"Glucose": (5.5, "mmol/L")}, None), ({"Glucose": 95}, None),
     ({"Glucose_percentile": 0.5}, None), ({"Potassium": 6.5}, None),
     ({"Hemoglobin": 10}, "mmol/L"), ({"Hemoglobin": 10, "Hct": 31}, None), ({"Hemoglobin": 6, "Hct": 29}, "mmol/L"),
     ({"Glucose": 12}, "mmol/L"), ({"Glucose": 22}, "mmol/L"), ({"Glucose": 33}, "mmol/L"), ({"Creatinine": 30}, "umol/L"),
     ({"Lactate": 9}, "mg/dL"), ({"Lactate": 9, "HCO3": 12}, None), ({"Lymphocytes": 1.8}, "Absolute Lymphocyte Count"),
     ({"Lymphocytes": 1.8, "Neutrophils": 92}, None), ({"ALT": 0.5}, "ukat/L"), ({"pCO2": 8}, "kPa"), ({"pO2": 12}, "kPa"),
     ({"Bilirubin": 12}, "umol/L"), ({"Bilirubin": 12, "Creatinine": 1.1, "Glucose": 100}, None),
     ({"Glucose": (12, "mg/dL")}, None), ({"2345-7": 300}, None)],
)  # fmt: skip
def test_a_value_whose_unit_is_in_doubt_is_reported(lab, doubtful):
    notes = MedTVTLabFeatureExtractor()(lab, return_alterations=True)["alterations"][0]
    found = [note for note in notes if "it would be " in note]
    assert len(found) == (doubtful is not None) and all(doubtful in note for note in found)


@pytest.mark.parametrize("kind", [dict, pd.Series, lambda lab: pd.DataFrame([lab])], ids=["dict", "series", "frame"])
def test_unknown_labs_are_left_out_with_a_note(reference, kind):
    lab = kind({"Troponin T": 0.3, "Creatinine": 1.2, "Sodum": 140, "Creatinine, Urine": 90})
    assert percentile(reference, lab) == pytest.approx(0.975, abs=1e-6)
    (note,) = [note for note in alterations(reference, lab) if "Troponin T" in note]
    assert "Sodum" in note and "Creatinine, Urine" in note
    with pytest.raises(ValueError, match="unknown lab 'Troponin T'. Accepted are"):
        reference(lab, unknown="raise")
    with pytest.raises(ValueError, match="unknown must be"):
        reference(lab, unknown="guess")


@pytest.mark.parametrize(
    "name", ["CRP", "Urea", "eGFR", "Quick", "Creatinine Clearance", "HbA1c", "TSH", "Foo", "Ca 19-9"]
)
def test_nothing_is_suggested_for_what_means_something_else(reference, name):
    try:
        reference({name: 5})
    except ValueError as error:
        assert "Did you mean" not in str(error)
    assert not any("did you mean" in note for note in alterations(reference, {"Sodium": 140, name: 5}))


# fmt: off
CENSORED = [
    ("<0.2", "<", 0.2), (">1.5", ">", 1.5), (" <= 0.9", "<=", 0.9), ("≥1.1", ">=", 1.1), ("less than 0.9", "<", 0.9),
    ("greater than or equal to 1.1", ">=", 1.1),
]
# fmt: on


@pytest.mark.parametrize("text, sign, limit", CENSORED)
@pytest.mark.parametrize("unit", [None, "mg/dL"])
def test_a_censored_value_stands_at_its_limit(reference, text, sign, limit, unit):
    assert percentile(reference, {"Creatinine": (text, unit)}) == percentile(reference, {"Creatinine": limit})
    notes = alterations(reference, {"Creatinine": (text, unit)})
    assert f"lab: Creatinine stated as {sign} {limit:g}, taken as {limit:g}" in notes


@pytest.mark.parametrize("text", ["1.2 H", "1.2*", "1.2 (H)", "1.2 ↑"])
def test_a_flag_behind_a_value_is_no_part_of_it(reference, text):
    assert percentile(reference, {"Creatinine": text}) == pytest.approx(0.975, abs=1e-6)


def test_urea_is_urea(reference):
    assert any("urea without a unit" in note for note in alterations(reference, {"Urea": 40}))
    both = alterations(reference, {"Urea": (5, "mmol/L"), "BUN": (14, "mg/dL")})
    assert "lab: Urea Nitrogen is given, so urea is left out" in both
    expected = percentile(reference, {"BUN": 14}, "Urea Nitrogen")
    assert percentile(reference, {"Urea": (5, "mmol/L"), "BUN": (14, "mg/dL")}, "Urea Nitrogen") == expected
    assert percentile(reference, {"Urea": (0.4, "g/L")}, "Urea Nitrogen") == pytest.approx(
        percentile(reference, {"BUN": 40 / 2.14}, "Urea Nitrogen"), abs=1e-6
    )
    assert percentile(reference, {"Harnstoff": (5, "mmol/L")}, "Urea Nitrogen") == pytest.approx(expected, abs=1e-3)


def test_the_unit_tells_a_count_from_a_share(reference):
    flags = reference({"Lymphocytes": (1.8, "10^9/L"), "Absolute Neutrophil Count": (60, "%")})["lab_values"][0, 50:]
    present = {NAMES[i] for i in flags.nonzero()[0]}
    assert present == {"Absolute Lymphocyte Count", "Neutrophils"}
    both = reference({"Lymphocytes": (25, "%"), "Lymphocytes #": 1.8, "RDW": (44, "fL")})["lab_values"][0, 50:]
    assert {NAMES[i] for i in both.nonzero()[0]} == {"Lymphocytes", "Absolute Lymphocyte Count", "RDW-SD"}


# fmt: off
NAMED = [
    ("2339-0", "Glucose"), ("38483-4", "Creatinine"), ("6299-2", "Urea Nitrogen"), ("26464-8", "White Blood Cells"),
    ("serum_potassium", "Potassium"), ("Glucose, Serum", "Glucose"), ("S-Creatinine", "Creatinine"), ("Natrium", "Sodium"),
    ("Leukozyten", "White Blood Cells"), ("Blood glucose (mg/dL)", "Glucose"), ("SGPT/ALT", "Alanine Aminotransferase (ALT)"),
    ("PT (INR)", "INR(PT)"), ("NEUT%", "Neutrophils"), ("NEUT#", "Absolute Neutrophil Count"), ("Bilirubin (total)", "Bilirubin, Total"),
]
NOT_NAMED = [
    "Glucose (urine)", "Creatinine, Urine", "CSF Glucose", "Urea/Creatinine Ratio", "Potassium (urine)", "Hemoglobin A1c", "CK-MB",
    "Direct Bilirubin", "Ionized Calcium", "Reticulocytes", "5792-7", "51478",
]
# fmt: on


@pytest.mark.parametrize("key, name", NAMED)
def test_names_of_hospitals(reference, key, name):
    value = LAB_DEFINITIONS[NAMES.index(name)].reference_high
    assert percentile(reference, {key: value}, name) == pytest.approx(0.975, abs=1e-6)


@pytest.mark.parametrize("key", NOT_NAMED)
def test_names_of_other_labs(reference, key):
    with pytest.raises(ValueError, match="no lab among its 1 entries"):
        reference({key: 1})


@pytest.mark.parametrize(
    "code, value, conventional", [("14682-9", 88.42, 1.0), ("14749-6", 5.55, 100), ("22664-7", 3.57, 10)]
)
def test_a_code_in_moles_states_the_unit(reference, code, value, conventional):
    name = {"14682-9": "Creatinine", "14749-6": "Glucose", "22664-7": "Urea Nitrogen"}[code]
    for lab in ({code: value}, pd.DataFrame({code: [value]})):
        assert percentile(reference, lab, name) == pytest.approx(
            percentile(reference, {name: conventional}, name), abs=1e-6
        )


def test_codes_remark_in_what_they_differ(reference):
    assert "lab: pO2 is of venous blood; reference ranges are for arterial blood" in alterations(
        reference, {"2705-2": 40}
    )


def test_custom_labs_keep_their_own_meaning():
    labs = [{"name": "Magnesium", "unit": "mmol/L"}, {"name": "Mine", "aliases": ["Natrium", "Urea"]}]
    extractor = MedTVTLabFeatureExtractor(labs, "none", mean_percentiles={"Magnesium": 0.5, "Mine": 0.5})
    extractor.fit({"Magnesium": [1.0], "Natrium": [2.0]})
    assert percentile(extractor, {"Urea": 2.0}, "Mine") == 1
    with pytest.raises(ValueError, match="'mEq/L' is not accepted"):
        extractor({"Magnesium": (2, "mEq/L")})


def test_no_lab_knows_two_things_by_one_name():
    """Every alias and code of the 50 means the lab under which it stands."""
    extractor = MedTVTLabFeatureExtractor()
    for lab in LAB_DEFINITIONS:
        names = list_names(lab)
        for key in (*names.aliases, *names.loinc):
            (found,) = np.flatnonzero(~np.isnan(extractor.read({key: 1}).measured[0]))
            assert extractor.lab_names[found] == lab.name, key
