# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path
from typing import Any

import pytest

from . import golden
from .curves import LOGGED, STEPS, run_curves


STORED = Path(__file__).parent


def read(name: str) -> Any:
    path = STORED / f"{name}.json"
    if not path.exists():
        pytest.skip(f"python -m tests.reference {name} was not run yet")
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, list[float]]]:
    read("curves")
    return run_curves(tmp_path_factory.mktemp("curves"))


@pytest.mark.parametrize("stage, key", [(stage, key) for stage, keys in LOGGED.items() for key in keys])
def test_curve(stage, key, measured):
    stored = read("curves")[stage][key]
    assert len(stored) == len(measured[stage][key]) == STEPS
    assert measured[stage][key] == pytest.approx(stored, rel=1e-2, abs=1e-3)


def test_shipped_weights_give_the_stored_metrics(tmp_path):
    stored = read("golden")
    assert golden.evaluate_shipped(tmp_path) == pytest.approx(stored, abs=0.05)
