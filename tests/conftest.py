# SPDX-License-Identifier: Apache-2.0
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from modeling_medtvt import MedTVTForCausalLM

from .toy import build_model, draw_ecg_array, toy_tokenizer, write_checkpoint, write_toy_dataset


# the suite runs in two processes; OMP_NUM_THREADS is torch's own way to ask for more
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fuzz-inputs", type=int, default=200, help="inputs of each kind (default: 200)")
    parser.addoption("--fuzz-seed", type=int, default=0, help="other inputs (default: 0)")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What was not run, and why, in one line."""
    reasons = Counter(
        report.longrepr[2].removeprefix("Skipped: ") for report in terminalreporter.stats.get("skipped", [])
    )
    if reasons:
        parts = (f"{number} ({reason})" for reason, number in reasons.most_common())
        terminalreporter.write_line(f"Not run here: {'; '.join(parts)}")


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return toy_tokenizer()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random checkpoint folder."""
    return write_checkpoint(tmp_path_factory.mktemp("tiny") / "checkpoint")


@pytest.fixture(scope="session")
def model(tokenizer: PreTrainedTokenizerFast) -> MedTVTForCausalLM:
    return build_model(tokenizer)


@pytest.fixture(scope="session")
def model_k3(tokenizer: PreTrainedTokenizerFast) -> MedTVTForCausalLM:
    return build_model(tokenizer, num_modality_tokens=3)


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset folder of six patients a split. No test may change it; [`write_toy_dataset`] makes one to change."""
    return write_toy_dataset(tmp_path_factory.mktemp("toy") / "data")


@pytest.fixture
def ecg_array() -> np.ndarray:
    return draw_ecg_array()
