# SPDX-License-Identifier: Apache-2.0
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from medtvt_training.stages.initialize import init_tiny, tiny_config, tiny_tokenizer
from modeling_medtvt import MedTVTForCausalLM


# the suite runs in two processes; OMP_NUM_THREADS is torch's own way to ask for more
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))
FIXTURES = Path(__file__).parent / "fixtures"
SUBSETS = [(), ("ecg",), ("cxr",), ("lab",), ("ecg", "cxr"), ("ecg", "lab"), ("cxr", "lab"), ("ecg", "cxr", "lab")]


def pytest_addoption(parser):
    parser.addoption("--fuzz-inputs", type=int, default=200, help="inputs of each kind (default: 200)")
    parser.addoption("--fuzz-seed", type=int, default=0, help="other inputs (default: 0)")


def pytest_terminal_summary(terminalreporter):
    """What was not run, and why, in one line."""
    reasons = Counter(
        report.longrepr[2].removeprefix("Skipped: ") for report in terminalreporter.stats.get("skipped", [])
    )
    if reasons:
        parts = (f"{number} ({reason})" for reason, number in reasons.most_common())
        terminalreporter.write_line(f"Not run here: {'; '.join(parts)}")


DEPTH = 101  # layers of the ECG encoder, the longest way from an input to the logits


def assert_close(actual, expected, depth=DEPTH):
    """
    Equal but for rounding: each layer may be off by two units in the last place of the largest value. No BLAS promises the
    same bits for another batch shape, another place in memory, or another processor.
    """
    scale = expected[expected.isfinite()].abs().max().item() if expected.isfinite().any() else 1.0
    tolerance = 2 * depth * torch.finfo(expected.dtype).eps * max(scale, 1e-3)
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=0)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A tiny random checkpoint folder."""
    return init_tiny(tmp_path_factory.mktemp("tiny") / "checkpoint")


@pytest.fixture(scope="session")
def tokenizer():
    return tiny_tokenizer()


def build_model(tokenizer, seed=0, **config_kwargs):
    """A tiny random model whose every weight matters: what starts at zero or one is drawn too."""
    torch.manual_seed(seed)
    model = MedTVTForCausalLM(tiny_config(tokenizer, **config_kwargs)).eval()
    with torch.no_grad():
        # embeddings on the scale of the projectors' outputs, so that modalities move the logits
        model.model.language_model.embed_tokens.weight.mul_(1.25)
        for projector in (model.model.ecg_projector, model.model.cxr_projector, model.model.lab_projector):
            projector.linear.weight.mul_(5)
        if model.model.perception is not None:
            for parameter in model.model.perception.parameters():
                parameter.normal_(std=0.3)
    return model


@pytest.fixture(scope="session")
def model(tokenizer):
    return build_model(tokenizer)


@pytest.fixture(scope="session")
def model_k3(tokenizer):
    return build_model(tokenizer, num_modality_tokens=3)


def build_inputs(model, subsets, seed=0, padding_side="left", lengths=None):
    """Random ids with the subsets' placeholders in the middle, and one row of every modality tensor a sample."""
    generator = torch.Generator().manual_seed(seed)
    config = model.config
    ids_of = dict(zip(("ecg", "cxr", "lab"), config.modality_token_ids))
    rows = []
    for i, subset in enumerate(subsets):
        length = 5 + i % 3 if lengths is None else lengths[i]
        before = torch.randint(300, 600, (length,), generator=generator).tolist()
        after = torch.randint(300, 600, (4,), generator=generator).tolist()
        placeholders = [ids_of[modality] for modality in subset for _ in range(config.num_modality_tokens)]
        rows.append([config.text_config.bos_token_id, *before, *placeholders, *after])
    width = max(map(len, rows))
    pad = config.text_config.pad_token_id
    pads = [[pad] * (width - len(row)) for row in rows]
    left = padding_side == "left"
    ids = [padding + row if left else row + padding for padding, row in zip(pads, rows)]
    masks = [[0] * len(p) + [1] * len(r) if left else [1] * len(r) + [0] * len(p) for p, r in zip(pads, rows)]
    n = len(rows)
    return {
        "input_ids": torch.tensor(ids),
        "attention_mask": torch.tensor(masks),
        "ecg_values": torch.randn(n, 12, 1000, generator=generator),
        "pixel_values": torch.randn(n, 3, 224, 224, generator=generator),
        "lab_values": torch.rand(n, 100, generator=generator),
    }


@pytest.fixture
def ecg_array():
    """Twelve leads in MIMIC's order, 500 Hz, 10 s, mV, with limb leads that obey their relations."""
    rng = np.random.default_rng(0)
    lead_i, lead_ii, *chest = rng.normal(size=(8, 5000)).cumsum(axis=1) / 50
    return np.stack(
        [
            lead_i,
            lead_ii,
            lead_ii - lead_i,
            -(lead_i + lead_ii) / 2,
            lead_ii - lead_i / 2,
            lead_i - lead_ii / 2,
            *chest,
        ]
    )
