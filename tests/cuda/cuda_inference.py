# SPDX-License-Identifier: Apache-2.0
"""A model on the device answers as it does on the CPU, whole or split between the two."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import pipeline

from modeling_medtvt import MedTVTForCausalLM

from tests.toy import FIXTURES, SUBSETS, assert_close, build_inputs


@pytest.fixture(scope="module")
def on_device(model: Any, device: str) -> Any:
    return copy.deepcopy(model).to(device)


def move(inputs: dict[str, torch.Tensor], device: str) -> dict[str, torch.Tensor]:
    return {name: tensor.to(device) for name, tensor in inputs.items()}


def test_logits_are_those_of_the_cpu(model, on_device, device):
    inputs = build_inputs(model, SUBSETS)
    with torch.no_grad():
        assert_close(on_device(**move(inputs, device)).logits.cpu(), model(**inputs).logits)


@pytest.mark.parametrize(
    "options",
    [{}, {"num_beams": 3}, {"cache_implementation": "static"}, {"prompt_lookup_num_tokens": 2}],
    ids=["greedy", "beams", "static", "lookup"],
)
def test_generation_is_that_of_the_cpu(model, on_device, device, options):
    subsets = SUBSETS[-1:] if "prompt_lookup_num_tokens" in options else SUBSETS
    inputs = build_inputs(model, subsets)
    options = {**options, "max_new_tokens": 12, "do_sample": False}
    found = on_device.generate(**move(inputs, device), **options)
    torch.testing.assert_close(found.cpu(), model.generate(**inputs, **options))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near_float32(model, device, dtype):
    inputs = build_inputs(model, SUBSETS)
    half = copy.deepcopy(model).to(device, dtype)
    moved = {n: x.to(dtype) if x.is_floating_point() else x for n, x in move(inputs, device).items()}
    with torch.no_grad():
        found, expected = half(**moved).logits.float().cpu(), model(**inputs).logits
    real = inputs["attention_mask"].bool()
    assert torch.nn.functional.cosine_similarity(found[real], expected[real]).min() > 0.95


def test_pipeline_is_that_of_the_cpu(device):
    files: dict[str, Any] = {
        "ecg": str(next(FIXTURES.glob("ecg/ptbxl/records500/*/*.hea"))),
        "lab": {"Creatinine": 2.3},
    }
    shipped = Path(__file__).parents[2] / "hub_cards" / "medtvt-r1-tiny"
    found, expected = (
        pipeline("medical-diagnosis", model=str(shipped), device=where)(**files, max_new_tokens=48, do_sample=False)
        for where in (device, "cpu")
    )
    assert found["generated_text"] == expected["generated_text"]
    for ours, theirs in zip(found["diseases"], expected["diseases"], strict=True):
        assert ours["label"] == theirs["label"] and ours["probability"] == pytest.approx(
            theirs["probability"], abs=1e-3
        )


def test_device_map_splits_between_device_and_cpu(model, device, tmp_path):
    model.save_pretrained(tmp_path / "checkpoint")
    small = {0: "2MB", "cpu": "1GB"} if device == "cuda" else {"cpu": "2MB"}
    split = MedTVTForCausalLM.from_pretrained(
        tmp_path / "checkpoint", device_map="auto", max_memory=small, offload_folder=tmp_path / "offload"
    )
    assert set(split.hf_device_map.values()) == ({0, "cpu"} if device == "cuda" else {"cpu", "disk"})
    inputs = build_inputs(model, SUBSETS)
    with torch.no_grad():
        assert_close(split(**move(inputs, device)).logits.cpu(), model(**inputs).logits)


def test_checkpoint_loads_straight_onto_the_device(model, device, tmp_path):
    model.save_pretrained(tmp_path / "checkpoint")
    loaded = MedTVTForCausalLM.from_pretrained(tmp_path / "checkpoint", device_map=device)
    assert {tensor.device.type for tensor in loaded.state_dict().values()} == {device}
    inputs = build_inputs(model, SUBSETS)
    with torch.no_grad():
        assert_close(loaded(**move(inputs, device)).logits.cpu(), model(**inputs).logits)
