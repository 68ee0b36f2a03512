# SPDX-License-Identifier: Apache-2.0
import base64
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from medtvt_training.inference.load import load_pipeline
from medtvt_training.serving.app import Limits, ServedModel, create_app
from medtvt_training.synthetic.example_patient import write_example_patient
from modeling_medtvt import MedicalDiagnosisPipeline


@pytest.fixture(scope="package")
def diagnose(checkpoint: Path) -> MedicalDiagnosisPipeline:
    return load_pipeline(checkpoint)


@pytest.fixture(scope="package")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `ecg.hea`, `ecg.dat`, `cxr.png` and `lab.csv`."""
    folder = tmp_path_factory.mktemp("patient")
    write_example_patient(folder)
    return folder


@pytest.fixture(scope="package")
def files(patient: Path) -> Callable[..., dict[str, Any]]:
    """An input of a request out of files of the patient's folder."""

    def encode(*names: str) -> dict[str, Any]:
        return {"files": {name: base64.b64encode((patient / name).read_bytes()).decode() for name in names}}

    return encode


@pytest.fixture
def served() -> ServedModel:
    return ServedModel("tiny", "0123456789abcdef")


@pytest.fixture
def open_client(diagnose: MedicalDiagnosisPipeline, served: ServedModel) -> Callable[..., Any]:
    """A client of a server with these limits, in one process with it."""

    @contextmanager
    def client(**limits: Any) -> Iterator[TestClient]:
        with TestClient(create_app(diagnose, served, Limits(**limits)), raise_server_exceptions=False) as opened:
            yield opened

    return client
