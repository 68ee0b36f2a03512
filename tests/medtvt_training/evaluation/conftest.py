# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest

from medtvt_training.data.load import load_medtvt_qa
from medtvt_training.data.rows import QARow


@pytest.fixture
def data(toy: Path) -> Path:
    return toy


@pytest.fixture
def rows(data: Path) -> list[QARow]:
    return load_medtvt_qa(data, "diagnosis", "test").to_list()
