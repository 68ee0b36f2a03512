# SPDX-License-Identifier: Apache-2.0
"""
Damaged and hostile inputs. Each gives a result that is right, or one error of the documented kinds that names the input and
quotes none of it. `--fuzz-inputs N` tries N of each kind, `--fuzz-seed` others.
"""

import csv
import io
import json
import math
import random
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.io
import yaml

from medtvt_training.cli import is_refusal
from medtvt_training.data.authors_layout import AUTHORS_FILES
from medtvt_training.data.load import load_medtvt_qa
from medtvt_training.data.schema import FEATURES
from medtvt_training.evaluation.predictions import describe_row, read_predictions
from medtvt_training.evaluation.score import score_records
from medtvt_training.mimic.tables import MimicTables
from medtvt_training.stages.recipes import RECIPES, parse_arguments
from modeling_medtvt import DISEASES
from modeling_medtvt.checkpoint_folder import open_checkpoint
from processing_medtvt import LAB_DEFINITIONS, MedTVTEcgFeatureExtractor, MedTVTLabFeatureExtractor

from ..processing_medtvt.ecg_files import LEADS, WRITERS, draw_ecg, mend_scp
from .mutate import SECRET, mutate_bytes, mutate_cells, mutate_numbers, mutate_tree
from tests.toy import FIXTURES, write_toy_dataset


@pytest.fixture
def fuzz(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Calls a test's body with random numbers, once an input; tells which input failed, and how many were refused."""

    def run(body: Any, share: Any = 1.0) -> None:
        seed = request.config.getoption("--fuzz-seed")
        number = max(1, round(share * request.config.getoption("--fuzz-inputs")))
        refused = 0
        for i in range(number):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    refused += body(random.Random(f"{request.node.name} {seed} {i}")) is False
            except Exception as error:
                raise AssertionError(
                    f"input {i} of seed {seed}: {type(error).__name__}: {str(error)[:500]}"
                ) from error
        assert refused < number or number < 20  # some of the damage is harmless

    return run


def read(function: Any, *names: Any, is_patient_data: Any = True) -> Any:
    """The result; False where the input was refused as it should be."""
    try:
        return function()
    except Exception as error:
        text = str(error)
        if not is_refusal(error):
            raise
        assert any(name in text for name in names), f"names no input: {text[:300]}"
        assert not (is_patient_data and SECRET in text), f"quotes the input: {text[:300]}"
        assert len(text) < 3000
        return False


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_dataset(tmp_path_factory.mktemp("toy") / "data", patients=3)


@pytest.fixture(scope="module")
def records(toy: Path) -> list[Any]:
    rows = load_medtvt_qa(toy, "diagnosis", "test").to_list()
    extras = {
        "samples": ["<answer>Sepsis</answer>", "no"],
        "probabilities": dict.fromkeys(DISEASES, 0.25),
        "gates": {"ecg": 0.5, "cxr": None, "lab": 1.0},
        "findings": ["ecg: sinus rhythm"],
        "seconds": 0.1,
    }
    answers = ("<think>a</think><answer>Sepsis</answer>", "nothing", "<answer></answer>")
    return [{**describe_row(row), "completion": text, **extras} for row, text in zip(rows, answers, strict=True)]


def check_scores(records: list[dict[str, Any]]) -> None:
    def check(node: Any) -> None:
        if isinstance(node, dict):
            for value in node.values():
                check(value)
        elif isinstance(node, float):
            assert math.isfinite(node)

    results = score_records(records, resamples=0)
    check(results["strict"])
    check(results["paper"])


def test_predictions(fuzz, records, tmp_path):
    path = tmp_path / "predictions.jsonl"
    header = {"ids": [record["id"] for record in records], "model": "m"}

    def body(random: Any) -> Any:
        changed = [mutate_tree(record, random) if random.random() < 0.5 else record for record in records]
        content = "".join(json.dumps(record) + "\n" for record in changed).encode()
        if random.random() < 0.5:
            content = mutate_bytes(content, random)
        path.write_bytes(content)
        (tmp_path / "run.json").write_text(
            json.dumps(mutate_tree(header, random) if random.random() < 0.3 else header)
        )
        found = read(lambda: read_predictions(path), str(tmp_path))
        if found:
            assert len(found) == len({record["id"] for record in found})
            if random.random() < 0.1:
                check_scores(found)
        return bool(found)

    fuzz(body)


def test_parquet_rows(fuzz, toy, tmp_path):
    folder = shutil.copytree(toy, tmp_path / "data")
    file = folder / "diagnosis" / "train.parquet"
    content = file.read_bytes()
    rows = pq.read_table(file).to_pylist()

    def body(random: Any) -> Any:
        if random.random() < 0.4:
            file.write_bytes(mutate_bytes(content, random))
        else:
            changed = mutate_tree(rows, random)
            try:
                schema = FEATURES.arrow_schema if random.random() < 0.7 else None
                pq.write_table(pa.Table.from_pylist(changed, schema=schema), file)
            except (pa.ArrowException, TypeError, ValueError, AttributeError, OverflowError):
                return True  # Arrow does not write such rows
        found = read(lambda: load_medtvt_qa(folder, "diagnosis", "train"), str(file), "row", "rows")
        for row in found or ():
            assert row["id"] and set(row["diseases"]) <= set(DISEASES)
            assert all(path is None or path.startswith(str(folder)) for path in (row["ecg"], row["cxr"]))
        return found is not False

    fuzz(body)


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Three tables of MIMIC's demo, cut to a few rows."""
    folder = tmp_path_factory.mktemp("mimic") / "hosp"
    folder.mkdir()
    for name in ("patients", "admissions", "d_labitems"):
        table = pd.read_csv(FIXTURES / "labs" / "mimic-iv-demo-2.2" / "hosp" / f"{name}.csv.gz", dtype=str).head(4)
        table.to_csv(folder / f"{name}.csv", index=False)
    return folder


def test_mimic_tables(fuzz, tables, tmp_path):
    folder = shutil.copytree(tables, tmp_path / "mimic" / "hosp").parent

    def body(random: Any) -> bool:
        name = random.choice(["patients", "admissions", "d_labitems"])
        source = (tables / f"{name}.csv").read_bytes()
        if random.random() < 0.5:
            content = mutate_bytes(source, random)
        else:
            text = io.StringIO()
            csv.writer(text).writerows(mutate_cells(list(csv.reader(io.StringIO(source.decode()))), random))
            content = text.getvalue().encode()
        (folder / "hosp" / f"{name}.csv").write_bytes(content)
        reader = MimicTables({"mimic-iv": folder}, tmp_path / "work")
        try:
            found = read(lambda: reader.load(name), f"{name}.csv", "A table cannot be read")
            assert found is False or 0 <= found <= 9
            assert not any(SECRET in problem["reason"] for problem in reader.problems)
        finally:
            reader.connection.close()
            (folder / "hosp" / f"{name}.csv").write_bytes(source)
        return found is not False

    fuzz(body)


def test_authors_files(fuzz, toy, tmp_path):
    (source,) = AUTHORS_FILES["diagnosis", "train"]
    question = "Given my ECG <ecg>, CXR <cxr> and lab result <lab>: what is it?"
    records = [
        {
            "messages": [
                {"role": "user", "content": question},
                {"role": "assistant", "content": f"<answer>{name}</answer>"},
            ]
        }
        for name in DISEASES[:3]
    ]
    columns = {"subject_id": ["1", "2", "3"], "ecg_path": ["a", "b", "c"], "cxr_path": ["d", "e", "f"]}
    columns |= {str(lab.itemids[0]): ["1.0", "2.5", ""] for lab in LAB_DEFINITIONS}
    table = [list(columns), *map(list, zip(*columns.values()))]
    (tmp_path / "QA").mkdir()

    def body(random: Any) -> bool:
        content = json.dumps(mutate_tree(records, random) if random.random() < 0.5 else records).encode()
        cells = mutate_cells(table, random) if random.random() < 0.5 else table
        text = io.StringIO()
        csv.writer(text).writerows(cells)
        csv_content = text.getvalue().encode()
        if random.random() < 0.3:
            content, csv_content = mutate_bytes(content, random), mutate_bytes(csv_content, random)
        (tmp_path / "QA" / source.json).write_bytes(content)
        if source.csv:
            (tmp_path / source.csv).write_bytes(csv_content)
        found = read(lambda: load_medtvt_qa(tmp_path, "diagnosis", "train", max_rejected=0.7), str(tmp_path), "row")
        for row in found or ():
            labs = [value for value in (row["lab"] or {}).values() if value is not None]
            assert row["id"] and np.isfinite(labs).all()
        return found is not False

    fuzz(body)


def check_labs(extractor, path):
    """Percentiles and flags of a lab file, or False where it is refused."""
    found = read(lambda: extractor(str(path), return_alterations=True), path.name)
    if found:
        values, flags = np.split(found["lab_values"][0], 2)
        assert ((0 <= values) & (values <= 1)).all() and set(flags) <= {0, 1} and flags.any()
        assert not any(SECRET in note for note in found["alterations"][0])
    return found is not False


LAB_ROWS = [
    ["Test", "Result", "Units", "Date", "Sex"],
    ["Creatinine", "1,2", "mg/dL", "2024-05-01 08:00", "F"],
    ["Creatinine", "1.3", "mg/dL", "2024-05-02 08:00", "F"],
    ["Sodium", "140", "mmol/L", "2024-05-01 08:00", "F"],
    ["White Blood Cells", "7.250", "10*3/uL", "2024-05-01 08:00", "F"],
    ["Lactate", "<0,5", "mmol/L", "2024-05-01 08:00", "F"],
    ["CRP", "> 120", "mg/L", "2024-05-01 08:00", "F"],
]


def test_lab_tables(fuzz, tmp_path):
    extractor, path = MedTVTLabFeatureExtractor(), tmp_path / "labs.csv"

    def body(random):
        rows = LAB_ROWS if random.random() < 0.7 else [list(row) for row in zip(*(row[:2] for row in LAB_ROWS))]
        rows = mutate_cells(rows, random) if random.random() < 0.7 else rows
        text = io.StringIO()
        csv.writer(text, delimiter=random.choice(",;\t|")).writerows(rows)
        content = text.getvalue().encode(random.choice(["utf-8", "utf-8-sig", "utf-16", "cp1252"]), "replace")
        path.write_bytes(mutate_bytes(content, random) if random.random() < 0.4 else content)
        return check_labs(extractor, path)

    fuzz(body)


def test_fhir(fuzz, tmp_path):
    extractor, path = MedTVTLabFeatureExtractor(), tmp_path / "labs.json"

    def observe(code, value, unit):
        return {
            "resourceType": "Observation",
            "status": "final",
            "code": {"coding": [{"system": "http://loinc.org", "code": code}], "text": "a lab"},
            "subject": {"reference": "Patient/1"},
            "effectiveDateTime": "2024-05-01T08:00:00Z",
            "valueQuantity": {"value": value, "unit": unit, "system": "http://unitsofmeasure.org", "code": unit},
        }

    patient = {"resourceType": "Patient", "id": "1", "gender": "male", "birthDate": "1950-01-01"}
    labs = [observe("2160-0", 1.2, "mg/dL"), observe("2951-2", 140, "mmol/L"), observe("6690-2", 7.2, "10*3/uL")]
    panel = {
        "resourceType": "Observation",
        "status": "final",
        "component": [{k: labs[0][k] for k in ("code", "valueQuantity")}],
    }
    panel["code"] = {"text": "panel"}
    source = {
        "resourceType": "Bundle",
        "entry": [{"resource": r, "fullUrl": f"urn:{i}"} for i, r in enumerate((patient, *labs, panel))],
    }

    def body(random):
        content = json.dumps(mutate_tree(source, random)).encode()
        path.write_bytes(mutate_bytes(content, random) if random.random() < 0.3 else content)
        return check_labs(extractor, path)

    fuzz(body)


@pytest.mark.parametrize(
    "name", ["config.json", "processor_config.json", "tokenizer_config.json", "generation_config.json"]
)
def test_checkpoints(fuzz, checkpoint, tmp_path, name):
    folder = shutil.copytree(checkpoint, tmp_path / "model")
    file = folder / name
    source = file.read_bytes()

    def body(random: Any) -> Any:
        if random.random() < 0.3:
            file.write_bytes(mutate_bytes(source, random))
        else:
            file.write_text(json.dumps(mutate_tree(json.loads(source), random)))
        found = read(lambda: open_checkpoint(folder), str(folder), is_patient_data=False)
        if found:
            model, processor = found
            assert model.config.model_type == "medtvt" and hasattr(processor, "lab_feature_extractor")
        return bool(found)

    fuzz(body, share=0.1)  # a folder takes a second to open


@pytest.mark.parametrize("stage", ["encoders", "pt", "sft"])
def test_recipes(fuzz, stage, tmp_path):
    name = {"encoders": "encoders", "pt": "pretrain", "sft": "finetune"}[stage]
    source = (RECIPES / "tiny" / f"{name}.yaml").read_bytes()
    path = tmp_path / "recipe.yaml"

    def body(random: Any) -> bool:
        if random.random() < 0.4:
            path.write_bytes(mutate_bytes(source, random))
        else:
            path.write_text(yaml.safe_dump(mutate_tree(yaml.safe_load(source), random)))
        words = ["--model=M", "--data=D", "--out=O", "--use_cpu"]
        found = read(lambda: parse_arguments(stage, str(path), words), str(path), is_patient_data=False)
        return found is not False

    fuzz(body)


def _write_ecg(folder, kind):
    """A small ECG file of a kind; the path, the file to mutate, and what it does not declare."""
    signal = draw_ecg(3)
    stated = {"sampling_rate": 500, "leads": LEADS, "unit": "mV"}
    if kind in WRITERS:
        WRITERS[kind](folder / kind, signal)
        return folder / kind, folder / kind, {"sampling_rate": 500} if kind == "table.csv" else {}
    if kind == "struct.mat":
        scipy.io.savemat(folder / kind, {"ECG": {"sex": "Female", "age": 48, "data": signal}})
        return folder / kind, folder / kind, stated
    lines = ["rec 12 500 1500", *(f"rec.dat {kind} 1000(0)/mV 16 0 0 0 0 {lead}" for lead in LEADS), "# Age: 48"]
    (folder / "rec.hea").write_text("\n".join(lines))
    (folder / "rec.dat").write_bytes(np.rint(signal * 1000).astype("<i2").T.tobytes())
    return folder / "rec", folder / "rec.hea", {}


@pytest.mark.parametrize("kind", [*WRITERS, "struct.mat", "16", "16x1"])
def test_ecg_files(fuzz, tmp_path, kind):
    path, file, kwargs = _write_ecg(tmp_path, kind)
    source = file.read_bytes()
    extractor = MedTVTEcgFeatureExtractor()

    def body(random):
        content = mutate_numbers(source, random) if random.random() < 0.5 else mutate_bytes(source, random)
        if kind == "scp.scp" and len(content) > 22 and random.random() < 0.8:
            content = mend_scp(content)
        file.write_bytes(content)
        found = read(lambda: extractor(path, **kwargs, return_alterations=True), str(path))
        if found:
            assert found["ecg_values"].shape == (1, 12, 1000) and np.isfinite(found["ecg_values"]).all()
            assert np.abs(found["ecg_values"]).max() < 200  # the FFT rings
            assert not any(SECRET in note for note in found["alterations"][0])
        return found is not False

    fuzz(body, share=0.2)
