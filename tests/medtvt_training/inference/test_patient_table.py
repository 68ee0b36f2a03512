# SPDX-License-Identifier: Apache-2.0
import pytest

from medtvt_training.inference.patient_table import read_patient_table


def write(folder, text, encoding="utf-8"):
    path = folder / "patients.csv"
    path.write_bytes(text.encode(encoding))
    return path


def test_paths_are_relative_to_the_table(tmp_path):
    text = "id,ecg,cxr,lab,sampling_rate,leads,unit,age,sex\nA 1,a/ecg.hea,,labs.csv,,,,71,F\n\n2,raw.mat,,,500,I II V1,uV,,\n"
    first, second = read_patient_table(write(tmp_path, text))
    assert first.id == "A 1" and first.problem is None
    assert first.inputs == {
        "ecg": str(tmp_path / "a/ecg.hea"),
        "lab": str(tmp_path / "labs.csv"),
        "age": "71",
        "sex": "F",
    }
    assert second.inputs == {
        "ecg": str(tmp_path / "raw.mat"), "sampling_rate": 500.0, "leads": ["I", "II", "V1"], "unit": "uV"
    }  # fmt: skip


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_spreadsheets_tables_are_read(tmp_path, separator, encoding, end):
    lines = [separator.join(row) for row in (("ID", " Lab "), ("é", "l.csv"))]
    (patient,) = read_patient_table(write(tmp_path, end.join(lines) + end, encoding))
    assert patient.id == "é" and patient.inputs == {"lab": str(tmp_path / "l.csv")}


def test_paths_stay_inside_the_folder(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "film.png").touch()
    (tmp_path / "in" / "link.png").symlink_to(tmp_path / "film.png")
    text = f"id,cxr\nup,../film.png\nfar,/etc/hostname\nlink,link.png\nabsolute,{tmp_path / 'in' / 'b.png'}\n"
    path = write(tmp_path / "in", text)
    problems = [patient.problem for patient in read_patient_table(path)]
    assert [problem is not None and "leads out of" in problem for problem in problems] == [True, True, True, False]
    wider = read_patient_table(path, root=tmp_path)  # its paths are relative to it, too
    assert wider[2].problem is None and wider[2].inputs == {"cxr": str(tmp_path / "link.png")}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no patient"),
        ("id,ecg\n", "holds no patient"),
        ("name,ecg\n1,Jones\n", "the name of column 1 is unknown; columns are id, ecg, cxr, lab"),
        ("id,ecg,ecg\n1,a,b\n", "the name of column 3 is twice"),
        ("ecg\na\n", "no column id"),
        ("id,ecg\n,Jones.hea\n", "row 2 has no id"),
        ("id,ecg\nJones,a\nB,b\nJones,c\n", "rows 2 and 4 have the same id"),
        ("id,ecg\nJones,a,b\n", "row 2 has 3 cells and the header 2"),
        ('id,ecg\nJones,"a\n', "damaged"),
    ],
)
def test_what_is_no_table_of_patients_is_refused_without_quoting_a_cell(tmp_path, text, message):
    with pytest.raises(ValueError, match=message) as error:
        read_patient_table(write(tmp_path, text))
    assert "Jones" not in str(error.value)


def test_a_table_in_another_encoding_is_refused(tmp_path):
    with pytest.raises(ValueError, match="byte 3 is not UTF-8"):
        read_patient_table(write(tmp_path, "id\né\n", "cp1252"))


def test_a_rate_that_is_no_number_is_the_rows_problem(tmp_path):
    patients = read_patient_table(write(tmp_path, "id,ecg,sampling_rate\n1,a,fast\n2,b,250\n"))
    assert [patient.problem for patient in patients] == ["ecg: sampling_rate must be a number, in Hz.", None]
    assert patients[0].path == "a"


def test_a_path_that_is_none_is_the_rows_problem(tmp_path):
    patients = read_patient_table(write(tmp_path, "id,ecg\n1,a\0b\n2,b\n"))
    assert [patient.problem for patient in patients] == ["ecg: the path is none.", None]
