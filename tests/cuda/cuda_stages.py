# SPDX-License-Identifier: Apache-2.0
"""Twenty steps of each stage in bfloat16, with each kind of attention; QLoRA; and the peak memory of a step."""

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from medtvt_training.stages import model as stage_model

from tests.benchmarks import memory
from tests.medtvt_training.stages.launched import draw_completions
from tests.reference import curves


Curves = dict[str, dict[str, list[float]]]
# bfloat16 holds eight bits of a number. Completions are drawn for RFT, so that no rounding changes what is rewarded.
TOLERANCES: dict[str, dict[str, float]] = {
    "loss": {"rel": 0.05, "abs": 0.02},
    "reward": {"abs": 1e-6},
    "kl": {"rel": 0.5, "abs": 1e-3},
}
needs_flash_attention = pytest.mark.skipif(find_spec("flash_attn") is None, reason="flash-attn is not installed")
needs_bitsandbytes = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")


def run(
    folder: Path, attention: str, device: str, stages: tuple[str, ...] = tuple(curves.LOGGED), **further: Any
) -> Curves:
    """What the stages log in bfloat16, with LoRA as on large models."""
    options = {"tuning": "lora", "bf16": "true", "use_cpu": device == "cpu", **further}
    with pytest.MonkeyPatch.context() as patch:
        draw_completions(patch)
        opened = partial(stage_model.open_checkpoint, attn_implementation={"text_config": attention})
        patch.setattr(stage_model, "open_checkpoint", opened)
        return curves.run_curves(folder, stages, options)


@pytest.fixture(scope="module")
def sdpa(device: str, tmp_path_factory: pytest.TempPathFactory) -> Curves:
    return run(tmp_path_factory.mktemp("sdpa"), "sdpa", device)


@pytest.fixture(scope="module")
def other(device: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Curves]:
    found: dict[str, Curves] = {}

    def measure(attention: str) -> Curves:
        if attention not in found:
            found[attention] = run(tmp_path_factory.mktemp(attention), attention, device)
        return found[attention]

    return measure


@pytest.mark.parametrize("attention", ["eager", pytest.param("flash_attention_2", marks=needs_flash_attention)])
@pytest.mark.parametrize("stage, key", [(stage, key) for stage, keys in curves.LOGGED.items() for key in keys])
def test_attention_does_not_change_what_is_learned(stage, key, attention, sdpa, other, device):
    if device == "cpu" and attention == "flash_attention_2":
        pytest.skip("flash attention has no CPU version")
    expected, found = sdpa[stage][key], other(attention)[stage][key]
    assert len(found) == len(expected) == curves.STEPS
    assert found == pytest.approx(expected, **TOLERANCES[key])


@pytest.mark.parametrize("stage", ["pt", "sft"])
def test_stage_learns_in_bfloat16(stage, sdpa):
    losses = sdpa[stage]["loss"]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


@needs_bitsandbytes
def test_qlora_learns_as_lora_does(device, sdpa, tmp_path):
    found = run(tmp_path, "sdpa", device, ("sft",), load_in_4bit="true", dtype="bfloat16")["sft"]["loss"]
    assert found == pytest.approx(sdpa["sft"]["loss"], rel=0.1)


def test_chunked_loss_lowers_the_peak_of_a_step(device):
    size = {"cuda": "smollm2-135m", "cpu": "tiny"}[device]
    whole, chunked = (memory.peak("sft", side, size, device) for side in ("medtvt", "chunked"))
    # the logits of a vocabulary of 49,155 are most of a step's memory; those of 1,280 are not
    assert chunked < {"cuda": 0.8, "cpu": 1.2}[device] * whole


def test_loading_takes_no_more_than_the_weights(device, tmp_path):
    row = memory.compare_loading({"cuda": "smollm2-135m", "cpu": "tiny"}[device], device)
    assert device == "cpu" or row.met, row
    assert all(0 < ratio < 3 for ratio in row.ratios)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
def test_bfloat16_is_native():
    """What these tests say of bfloat16 says nothing of a card that emulates it."""
    assert torch.cuda.is_bf16_supported(including_emulation=False)
