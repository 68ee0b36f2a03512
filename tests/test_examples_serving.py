# SPDX-License-Identifier: Apache-2.0
import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

from medtvt_training.inference.patient_table import read_patient_table
from medtvt_training.synthetic.example_patient import write_example_patient


def load_example(name: str) -> ModuleType:
    path = Path(__file__).parents[1] / "examples" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("patients")
    write_example_patient(folder)
    lines = [
        "id,ecg,lab,age",
        "all,ecg.hea,lab.csv,40",
        "away,,../lab.csv,50",
        "missing,none.hea,,60",
        "labs,,lab.csv,70",
    ]
    (folder / "patients.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_a_ray_worker_answers_a_batch(checkpoint, cohort):
    example = load_example("ray_batch")
    rows = [example.as_row(patient) for patient in read_patient_table(cohort / "patients.csv")]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    answered = example.Diagnose(str(checkpoint), max_new_tokens=3)(columns)
    results = dict(zip(answered["id"], map(json.loads, answered["result"])))
    assert list(results) == ["all", "away", "missing", "labs"]
    assert results["all"]["patient"]["age"] == 40 and results["labs"]["patient"]["age"] == 70
    assert "leads out of" in results["away"]["error"] and results["missing"]["error"].startswith("ecg")


def test_the_client_sends_all_files_of_a_record(cohort):
    example = load_example("serve_client")
    assert set(example.encode_files(str(cohort / "ecg.hea"))["files"]) == {"ecg.hea", "ecg.dat"}
    assert set(example.encode_files(str(cohort / "lab.csv"))["files"]) == {"lab.csv"}
