# SPDX-License-Identifier: Apache-2.0
"""PEFT's adapters on a model with modalities."""

import copy

import pytest
import torch
from peft import LoraConfig, PeftModel, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from peft.utils.hotswap import hotswap_adapter

from .test_modeling_medtvt import ALL, LORA_TARGETS, RAW, with_labels
from tests.toy import SUBSETS, assert_close, build_inputs, build_model


VIRTUAL_TOKENS = 4


@pytest.fixture(params=[PromptTuningConfig, PrefixTuningConfig], ids=["prompt", "prefix"])
def prompted(request, tokenizer):
    torch.manual_seed(0)
    return get_peft_model(
        build_model(tokenizer, num_modality_tokens=3),
        request.param(task_type="CAUSAL_LM", num_virtual_tokens=VIRTUAL_TOKENS),
    ).eval()


@torch.no_grad()
@pytest.mark.parametrize("name", RAW)
def test_modalities_reach_a_model_with_a_tuned_prompt(prompted, name):
    inputs = build_inputs(prompted.get_base_model(), [ALL, ALL])
    before = prompted(**inputs).logits
    assert (before[:, -1] - prompted.get_base_model()(**inputs).logits[:, -1]).abs().max() > 1e-3
    inputs[name] = inputs[name].flip(-1) + 0.1
    assert (prompted(**inputs).logits - before)[:, -1].abs().max() > 1e-3


def test_only_the_prompt_is_tuned(prompted):
    inputs = with_labels(build_inputs(prompted.get_base_model(), SUBSETS))
    prompted.train()(**inputs).loss.backward()
    trained = {name for name, p in prompted.named_parameters() if p.grad is not None and p.grad.any()}
    assert trained and all(name.startswith("prompt_encoder.") for name in trained)


@torch.no_grad()
def test_generation_with_a_tuned_prompt(prompted):
    model = prompted.get_base_model()
    inputs = build_inputs(model, [ALL, ("ecg", "lab")], lengths=[5, 8])  # of one length: PEFT takes no position ids
    kwargs = {"max_new_tokens": 2, "min_new_tokens": 2, "do_sample": False}
    output = prompted.generate(**inputs, **kwargs, return_dict_in_generate=True, output_logits=True)
    assert_close(output.logits[0], prompted(**inputs).logits[:, -1])
    inputs["input_ids"] = output.sequences[:, :-1]
    inputs["attention_mask"] = torch.cat([inputs["attention_mask"], torch.ones(2, 1, dtype=torch.long)], 1)
    assert_close(output.logits[1], prompted(**inputs).logits[:, -1])


@pytest.fixture(scope="module")
def adapters(tokenizer, tmp_path_factory):
    """A model folder and two LoRA adapters of it that differ."""
    folder = tmp_path_factory.mktemp("adapters")
    for seed, name in enumerate(("first", "second"), start=1):
        adapted = get_peft_model(build_model(tokenizer), LoraConfig(target_modules=LORA_TARGETS, r=4, lora_alpha=4))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for key, parameter in adapted.named_parameters():
                if "lora_" in key:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) / 5)
        adapted.save_pretrained(folder / name)
    return folder


@pytest.fixture
def logits_of(tokenizer, adapters):
    """Logits of one adapter, loaded alone."""
    inputs = build_inputs(build_model(tokenizer), SUBSETS)

    @torch.no_grad()
    def compute(name):
        return inputs, PeftModel.from_pretrained(build_model(tokenizer), adapters / name).eval()(**inputs).logits

    return compute


@torch.no_grad()
def test_several_adapters_and_a_swapped_one(tokenizer, adapters, logits_of):
    inputs, first = logits_of("first")
    _, second = logits_of("second")
    assert (first - second).abs().max() > 1e-2
    model = PeftModel.from_pretrained(build_model(tokenizer), adapters / "first", adapter_name="first").eval()
    model.load_adapter(adapters / "second", adapter_name="second")
    for name, expected in (("second", second), ("first", first)):
        model.set_adapter(name)
        assert_close(model(**inputs).logits, expected)
    with model.disable_adapter():
        assert_close(model(**inputs).logits, build_model(tokenizer)(**inputs).logits)
    hotswap_adapter(model, adapters / "second", adapter_name="first")
    assert_close(model(**inputs).logits, second)


@torch.no_grad()
def test_a_weighted_adapter_is_the_weighted_sum(tokenizer, adapters, logits_of):
    inputs, _ = logits_of("first")
    model = PeftModel.from_pretrained(build_model(tokenizer), adapters / "first", adapter_name="first").eval()
    model.load_adapter(adapters / "second", adapter_name="second")
    model.add_weighted_adapter(["first", "second"], [0.25, 0.75], "mixed", combination_type="cat")
    model.set_adapter("mixed")
    mixed = model(**inputs).logits
    plain, expected = build_model(tokenizer), build_model(tokenizer)
    for name, weight in (("first", 0.25), ("second", 0.75)):
        adapted = PeftModel.from_pretrained(copy.deepcopy(plain), adapters / name).merge_and_unload()
        for target, source, base in zip(expected.parameters(), adapted.parameters(), plain.parameters()):
            target.add_(weight * (source - base))
    assert_close(mixed, expected(**inputs).logits)
