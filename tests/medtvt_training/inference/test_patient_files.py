# SPDX-License-Identifier: Apache-2.0
import json
import shutil

import numpy as np
import pytest
from transformers import AutoProcessor

from medtvt_training.cli import main
from medtvt_training.inference import patient_files
from medtvt_training.inference.patient_files import find_patient_files
from medtvt_training.synthetic.example_patient import write_example_patient


@pytest.fixture(scope="module")
def processor(checkpoint):
    return AutoProcessor.from_pretrained(checkpoint)


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    folder = tmp_path_factory.mktemp("example")
    write_example_patient(folder)
    return folder


@pytest.fixture
def folder(example, tmp_path):
    return shutil.copytree(example, tmp_path / "patient")


def write_dicom(path, modality):
    """A film, or what says that it is none."""
    pydicom = pytest.importorskip("pydicom")
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    dataset.Modality, dataset.PhotometricInterpretation, dataset.SamplesPerPixel = modality, "MONOCHROME2", 1
    dataset.Rows = dataset.Columns = 64
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    dataset.PixelData = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8).tobytes()
    dataset.save_as(path)


def test_files_are_told_by_their_content(folder, processor):
    (folder / "cxr.png").rename(folder / "picture.dat")
    (folder / "films").mkdir()
    (folder / "picture.dat").rename(folder / "films" / "study-1")
    (folder / "lab.csv").rename(folder / "blood.txt")
    (folder / "notes.txt").write_text("Came in with a cough.\n")
    (folder / ".DS_Store").write_bytes(b"\0\1")
    files, notes = find_patient_files(folder, processor)
    assert files == {
        "ecg": str(folder / "ecg.hea"), "cxr": str(folder / "films" / "study-1"), "lab": str(folder / "blood.txt")
    }  # fmt: skip
    assert notes == ["folder: notes.txt left out: it is neither ECG nor X-ray nor labs"]


def test_a_film_and_what_is_none_in_dicom(folder, processor):
    (folder / "cxr.png").unlink()
    write_dicom(folder / "a.dcm", "CR")
    write_dicom(folder / "b.dcm", "CT")
    (folder / "lab.csv").write_text("name,value\nSodium,140,mEq/L\n")
    files, notes = find_patient_files(folder, processor)
    assert files["cxr"] == str(folder / "a.dcm") and set(files) == {"ecg", "cxr"}
    assert len(notes) == 2 and "b.dcm left out" in notes[0] and "CT" in notes[0]
    assert "lab.csv left out" in notes[1] and "row 2" in notes[1]


def test_more_than_one_of_a_kind_is_refused_unless_one_is_chosen(folder, processor):
    shutil.copy(folder / "cxr.png", folder / "later.png")
    with pytest.raises(ValueError, match=r"holds 2 X-rays: cxr.png, later.png. Choose one with --cxr FILE."):
        find_patient_files(folder, processor)
    files, _ = find_patient_files(folder, processor, {"cxr": str(folder / "later.png"), "ecg": None})
    assert set(files) == {"ecg", "lab"}


def test_folders_that_hold_no_patient(folder, processor, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="nowhere is no folder"):
        find_patient_files(tmp_path / "nowhere", processor)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="It is empty"):
        find_patient_files(tmp_path / "empty", processor)
    (tmp_path / "empty" / "notes.txt").write_text("Nothing.")
    (tmp_path / "empty" / "film.png").symlink_to(folder / "cxr.png")  # it leads out of the folder
    with pytest.raises(ValueError, match="notes.txt left out"):
        find_patient_files(tmp_path / "empty", processor)
    monkeypatch.setattr(patient_files, "MAX_FILES", 2)
    with pytest.raises(ValueError, match="use --batch"):
        find_patient_files(folder, processor)


def test_the_command_takes_a_folder(folder, checkpoint, capsys):
    (folder / "notes.txt").write_text("Came in with a cough.\n")
    words = ["diagnose", "--model", str(checkpoint), "--patient", str(folder), "--max-new-tokens", "3"]
    assert main([*words, "--age", "71", "--sex", "female", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["patient"] == {"age": 71.0, "sex": "F"}
    assert any(warning.startswith("folder: notes.txt left out") for warning in result["warnings"])
    assert all(value is not None for value in result["contributions"].values())
    assert main([*words, "--strict"]) == 2
    assert "Refused as --strict asks. folder: notes.txt" in capsys.readouterr().err
    assert main([*words, "--sampling-rate", "250"]) == 2  # its header states its own
    assert "sampling_rate" in capsys.readouterr().err
