# SPDX-License-Identifier: Apache-2.0
"""Tests of lab files: CSV in the ways that spreadsheets and hospitals write it."""

import numpy as np
import pytest

from processing_medtvt.feature_extraction_medtvt_lab import MedTVTLabFeatureExtractor
from processing_medtvt.read_lab_medtvt import read_lab


EXPECTED = {"Creatinine": 1.2, "Sodium": 140, "Bilirubin, Total": 0.7, "White Blood Cells": 7.25}
SECRET = "Zbigniew"


@pytest.fixture(scope="module")
def extractor():
    return MedTVTLabFeatureExtractor()


@pytest.fixture
def write(tmp_path):
    def write(text, encoding="utf-8", name="labs.csv"):
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
        return tmp_path / name

    return write


# fmt: off
PLAIN = 'name,value,unit\nCreatinine,1.2,mg/dL\nSodium,140,mmol/L\n"Bilirubin, Total",0.7,mg/dL\nWBC,7.25,K/uL\n'
GERMAN = "Untersuchung;Ergebnis;Einheit\nKreatinin;106,104;µmol/l\nNatrium;140;mmol/l\nBilirubin gesamt;11,97;µmol/l\nLeukozyten;7,25;/nl\n"
FILES = {
    "plain": (PLAIN, "utf-8"), "byte order mark": (PLAIN, "utf-8-sig"), "utf-16": (PLAIN, "utf-16"), "utf-16 bare": (PLAIN, "utf-16-le"),
    "windows": (GERMAN, "cp1252"), "german": (GERMAN, "utf-8"), "crlf": (PLAIN.replace("\n", "\r\n"), "utf-8"),
    "sep line": ("sep=;\n" + GERMAN, "utf-8"), "tabs": (GERMAN.replace(";", "\t"), "utf-16"), "pipes": (GERMAN.replace(";", "|"), "utf-8"),
    "header": (PLAIN.replace("name,value,unit", "Test,Result,Units"), "utf-8"),
    "order": ("Units,Flag,Test,Result\nmg/dL,,Creatinine,1.2\n,,Sodium,140\nmg/dL,,Bilirubin (total),0.7\nK/uL,,WBC,7.25\n", "utf-8"),
    "unit in the value": ("Analyte,Value\nCreatinine,1.2 mg/dL\nSodium,140 mmol/L\nT. Bili,0.7 mg/dL\nWBC,7250 /uL\n", "utf-8"),
    "loinc": ("LOINC,Description,Value\n2160-0,x,1.2\n2951-2,x,140\n1975-2,x,0.7\n6690-2,x,7.25\n", "utf-8"),
    "local code": ("Code,Test,Result\nCR1,Creatinine,1.2\nNA1,Sodium,140\nB-2,Bilirubin,0.7\nW,WBC,7.25\n", "utf-8"),
    "wide": ("Creatinine,Sodium,T. Bili,WBC\n1.2,140,0.7,7.25\n", "utf-8"),
    "wide with units": ("MRN;Age;Creatinine (µmol/L);Sodium;T. Bili [mg/dL];WBC (10^9/L)\n77;50;106,104;140;0,7;7,25\n", "utf-8"),
    "lines above": (f"Patient: {SECRET}\nDate: 2024-05-01\n\n{PLAIN}", "utf-8"),
    "blank cells": (PLAIN + "Potassium,NA,mmol/L\nChloride,,\nMagnesium,n/a\n,,\n", "utf-8"),
    "unit twice": (PLAIN.replace("140,", "140 mmol/L,").replace("1.2,", "1.2mg/dL,"), "utf-8"),
    "formulas": (GERMAN.replace("106,104", '="106,104"').replace("Natrium", '="Natrium"'), "utf-8"),
    "cumulative": (
        "Test;Einheit;30.04.2024;01.05.2024\nKreatinin;mg/dl;1,9;1,2\nNatrium;mmol/l;140;\nBilirubin;mg/dl;;0,7\nLeuko;/nl;9;7,25\n", "utf-8"),
    "labevents": (
        "subject_id,hadm_id,itemid,charttime,value,valuenum,valueuom\n7,8,50912,2180-01-01,___,1.2,mg/dL\n7,8,50983,2180-01-01,140,140,mEq/L\n"
        "7,8,50885,2180-01-01,0.7,0.7,mg/dL\n7,8,51301,2180-01-01,7.25,7.25,K/uL\n7,8,51478,2180-01-01,NEG,,mg/dL\n", "utf-8"),
    "unknown labs": (PLAIN + "CRP,12,mg/L\nTroponin T,14,ng/L\nfoo,negative,\n", "utf-8"),
    "urine": (PLAIN.replace("unit\n", "unit,specimen\n") + "Glucose,5,mg/dL,Urine\n", "utf-8"),
    "flags": (PLAIN.replace("1.2", "1.2 H").replace("140", "140*"), "utf-8"),
}
# fmt: on


@pytest.mark.parametrize("kind", FILES)
def test_files_of_hospitals(extractor, write, kind):
    expected = extractor(EXPECTED)["lab_values"]
    output = extractor(write(*FILES[kind]), return_alterations=True)
    np.testing.assert_allclose(output["lab_values"], expected, atol=1e-6)
    assert not any(SECRET in note for note in output["alterations"][0])


@pytest.mark.parametrize("name", ["labs.CSV", "labs.txt", "labs"])
def test_the_content_counts_and_not_the_suffix(extractor, write, name):
    np.testing.assert_array_equal(extractor(write(PLAIN, name=name))["lab_values"], extractor(EXPECTED)["lab_values"])


# fmt: off
NUMBERS = [  # other value of the file, text, number
    ("4,2", "7,25", 7.25), ("4,2", "7,250", 7.25), ("4,2", "1.250,5", 1250.5), ("4,2", "7.250", 7250), ("4,2", "7 250", 7250),
    ("4.2", "7.25", 7.25), ("4.2", "7.250", 7.25), ("4.2", "7,250", 7250), ("4.2", "1,250.5", 1250.5), ("4.2", "7'250", 7250),
    ("4", "7.250", 7.25), ("4", "0,250", 0.25), ("4", "1,234,567", 1234567), ("4", "<7,5", 7.5), ("4,2", "> 7,250", 7.25), ("4", "1e3", 1000),
]
# fmt: on


@pytest.mark.parametrize("other, text, number", NUMBERS)
@pytest.mark.parametrize("mark", [";", "\t"])
def test_decimal_and_thousands_signs(extractor, write, other, text, number, mark):
    path = write(f"name{mark}value{mark}unit\nK{mark}{other}{mark}\nPlatelets{mark}{text}{mark}cells/uL\n")
    measured = extractor.read(path).measured[0, extractor.lab_names.index("Platelet Count")]
    assert measured == pytest.approx(number / 1000)
    thousands = number > 1000 and text in ("7.250", "7,250")
    assert any("thousands sign" in note for note in extractor.read(path).notes[0]) == thousands


@pytest.mark.parametrize("cells", [["7,250"], ["4", "12,500"], ["4,2", "4.2", "7,250"], ["4,2", "4.2", "7.250"]])
def test_an_ambiguous_sign_is_refused(extractor, write, cells):
    path = write("name;value\n" + "".join(f"{name};{cell}\n" for name, cell in zip(("K", "Na", "WBC"), cells)))
    with pytest.raises(ValueError, match=rf"labs.csv: row {len(cells) + 1}: .*thousands sign"):
        extractor(path)


# fmt: off
TIMES = [
    ("2024-05-01 08:00", "2024-05-02 07:00"), ("2024-05-01T08:00:00Z", "2024-05-01T08:00:00-05:00"), ("01.05.2024", "02.05.2024"),
    ("04/30/2024", "05/01/2024"), ("30/04/2024 10:00", "01/05/2024 09:00"), ("5/1/2024 9:00 AM", "5/1/2024 1:00 PM"),
    ("120", "1440"), ("01-May-2024", "03-May-2024"),
]
# fmt: on


@pytest.mark.parametrize("old, new", TIMES)
def test_the_newest_value_is_used(extractor, write, old, new):
    for rows in (((old, 1.9), (new, 1.2)), ((new, 1.2), (old, 1.9))):
        path = write("test,result,time\n" + "".join(f"Creatinine,{value},{time}\n" for time, value in rows))
        output = extractor(path, return_alterations=True)
        np.testing.assert_array_equal(output["lab_values"], extractor({"Creatinine": 1.2})["lab_values"])
        assert "lab: the newest value used of Creatinine (2 values)" in output["alterations"][0]
        wide = write("date,Creatinine,K\n" + "".join(f"{time},{value},\n" for time, value in rows))
        np.testing.assert_array_equal(extractor(wide)["lab_values"], output["lab_values"])


def test_an_older_value_stands_in_for_a_newer_blank(extractor, write):
    path = write("test,result,date\nCreatinine,1.2,2024-01-01\nCreatinine,NA,2024-01-02\n")
    np.testing.assert_array_equal(extractor(path)["lab_values"], extractor({"Creatinine": 1.2})["lab_values"])


def test_age_and_sex_of_a_file(extractor, write):
    path = write("subject_id,sex,age,test,value\n7,Female,71,K,4\n7,Female,71,Na,140\n")
    assert extractor(path, return_alterations=True)["patients"] == [{"age": 71.0, "sex": "F"}]
    assert read_lab(write(PLAIN)).patient == {"age": None, "sex": None}


# fmt: off
REFUSED = [
    ("test,result\nK,4\nK,5\n", "row 2 and row 3 are both Potassium; give one of them, or a column with the time"),
    ("test,result,date\nK,4,03/04/2024\nK,5,04/03/2024\n", "row 2 and row 3 are both"),
    ("subject_id,test,value\n1,K,4\n2,Na,140\n", "row 3 is of another patient than row 2"),
    ("K,Na\n4,140\n5,141\n", "2 rows, and no columns that are headed name and value"),
    (f"name,value\nK,{SECRET}\n", "row 2: Potassium: the value .text. is not a number"),
    (f"name,value,unit\nK,4,{SECRET}\n", "row 2: Potassium: its unit is not accepted"),
    (f"name,value\n{SECRET},4\n", "no lab among its 1 entries; unknown lab in row 2. Accepted"),
    ("name,value\nCRP,4\n", "unknown lab in row 2, CRP. Accepted"), ("name,value\n,4\n", "row 2: a value without the name"),
    (f"{SECRET},b\n1,2\n", "no lab among its 2 entries; unknown lab in column 1"), ("name,value,fluid\nK,4,urine\n", "no labs of blood"),
    ('test,result\nK,"4" mmol\n', "not a readable CSV file"), ("name,value\nK,4\n" * 200000, "too large"), ("name,value\nK;4\n", "row 2 has 1 cells"), ("name,value,unit\nCreatinine,90,mg/dL\n", "row 2: Creatinine: the value is not physio"),
]
# fmt: on


@pytest.mark.parametrize("text, message", REFUSED, ids=range(len(REFUSED)))
def test_refused_files(extractor, write, text, message):
    with pytest.raises(ValueError, match=message) as error:
        extractor(write(text))
    assert "labs.csv" in str(error.value) and SECRET not in str(error.value)


def test_an_unknown_lab_of_a_file_is_named_by_its_row(extractor, write):
    path = write(f"name,value\nK,4\nCRP,5\n{SECRET},5\nHbA1c,6\n")
    notes = extractor(path, return_alterations=True)["alterations"][0]
    assert "lab: left out, not known to the model: CRP, HbA1c, row 4" in notes
    with pytest.raises(ValueError, match="unknown lab in row 3, CRP"):
        extractor(path, unknown="raise")
