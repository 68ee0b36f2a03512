# SPDX-License-Identifier: Apache-2.0
import copy
import io
from contextlib import redirect_stdout
from dataclasses import dataclass

import pytest
import torch
from transformers import DynamicCache, GenerationConfig, TextStreamer

from .test_modeling_medtvt import ALL, RAW, count_rows
from tests.toy import SUBSETS, assert_close, build_inputs, build_model


NEW_TOKENS = 6
MODES = {
    "greedy": {},
    "no cache": {"use_cache": False},
    "static cache": {"cache_implementation": "static"},
    "beams": {"num_beams": 3},
    "returned beams": {"num_beams": 3, "num_return_sequences": 3},
    "sampling": {"do_sample": True, "top_k": 20, "temperature": 1.5},
    "sampled sequences": {"do_sample": True, "num_return_sequences": 4},
}


@dataclass
class Generation:
    """New tokens (batch, steps), the logits (batch, vocabulary) that each came from, and the scores of beams."""

    tokens: torch.Tensor
    logits: list[torch.Tensor]
    beam_scores: torch.Tensor | None = None


def generate(model, inputs, **kwargs):
    torch.manual_seed(0)
    kwargs = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "do_sample": False, **kwargs}
    output = model.generate(**inputs, **kwargs, return_dict_in_generate=True, output_logits=True, output_scores=True)
    tokens = output.sequences[:, inputs["input_ids"].shape[1] :]
    return Generation(tokens, list(output.logits), getattr(output, "sequences_scores", None))


def greedy_oracle(model, inputs):
    """Whole forward passes, no cache, raw modality inputs at every step."""
    inputs, steps = dict(inputs), []
    prompt_length = inputs["input_ids"].shape[1]
    banned = [*model.config.modality_token_ids, model.config.text_config.eos_token_id]
    for _ in range(NEW_TOKENS):
        with torch.no_grad():
            steps.append(model(**inputs).logits[:, -1])
        allowed = steps[-1].index_fill(1, torch.tensor(banned), -torch.inf)
        inputs["input_ids"] = torch.cat([inputs["input_ids"], allowed.argmax(-1, keepdim=True)], 1)
        inputs["attention_mask"] = torch.cat([inputs["attention_mask"], torch.ones(len(allowed), 1, dtype=int)], 1)
    return Generation(inputs["input_ids"][:, prompt_length:], steps)


def assert_same(actual, expected):
    """
    The same logits, but for rounding, as long as the tokens before them are the same. Two tokens whose logits tie but for
    rounding may come out in either order, so equal tokens are asked of most rows only.
    """
    if actual.beam_scores is not None:  # beams may change places from step to step
        assert_close(actual.beam_scores, expected.beam_scores)
        return
    same = torch.ones(len(expected.tokens), dtype=torch.bool)
    for step, (found, wanted) in enumerate(zip(actual.logits, expected.logits, strict=True)):
        assert_close(found[same], wanted[same])
        same &= actual.tokens[:, step] == expected.tokens[:, step]
    assert same.float().mean() >= 0.75


@pytest.fixture(params=[1, 3], ids=["k=1", "k=3"])
def either_model(request, model, model_k3):
    return model if request.param == 1 else model_k3


@pytest.mark.parametrize("kwargs", [{}, {"cache_implementation": "static"}, {"use_cache": False}], ids=str)
def test_greedy_equals_the_cache_free_oracle(either_model, kwargs):
    inputs = build_inputs(either_model, SUBSETS)
    assert_same(generate(either_model, inputs, **kwargs), greedy_oracle(either_model, inputs))


def test_prompt_lookup_equals_the_oracle(either_model):
    inputs = build_inputs(either_model, [ALL])
    inputs["input_ids"][:, 1:4] = inputs["input_ids"][:, -3:]  # something to look up
    assert_same(generate(either_model, inputs, prompt_lookup_num_tokens=2), greedy_oracle(either_model, inputs))


def test_an_assistant_gets_the_modalities(model):
    inputs = build_inputs(model, [ALL])
    assistant = copy.deepcopy(model)  # the first layers, as a draft
    assistant.model.language_model.layers = assistant.model.language_model.layers[:2]
    assistant.config.text_config.num_hidden_layers = 2
    seen = []
    hook = assistant.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs.get("modality_embeds") is not None), with_kwargs=True
    )
    assert_same(generate(model, inputs, assistant_model=assistant), greedy_oracle(model, inputs))
    hook.remove()
    assert seen[0]


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_equals_itself_without_cache(either_model, mode):
    inputs = build_inputs(either_model, SUBSETS)
    expected = generate(either_model, inputs, **{**MODES[mode], "cache_implementation": None, "use_cache": False})
    assert_same(generate(either_model, inputs, **MODES[mode]), expected)


@pytest.mark.parametrize("mode", MODES)
def test_each_encoder_runs_once_whatever_the_mode(model, monkeypatch, mode):
    inputs = build_inputs(model, SUBSETS)
    rows = count_rows(model, monkeypatch)
    generate(model, inputs, **MODES[mode])
    assert rows == {"ecg": [4], "cxr": [4], "lab": [4]}


def test_batched_equals_single(model):
    inputs = build_inputs(model, SUBSETS)
    single = [generate(model, {name: t[i : i + 1] for name, t in inputs.items()}) for i in range(len(SUBSETS))]
    logits = [torch.cat(step) for step in zip(*(found.logits for found in single))]
    assert_same(Generation(torch.cat([found.tokens for found in single]), logits), generate(model, inputs))


def test_streaming(model, tokenizer):
    inputs = build_inputs(model, [ALL])
    with redirect_stdout(io.StringIO()) as stream:
        tokens = generate(model, inputs, streamer=TextStreamer(tokenizer, skip_prompt=True)).tokens
    assert stream.getvalue().strip() == tokenizer.decode(tokens[0]).strip()


def test_precomputed_embeds_generate_the_same(model, monkeypatch):
    inputs = build_inputs(model, SUBSETS)
    expected = generate(model, inputs)
    embeds = model.get_modality_embeds(inputs["input_ids"], **{name: inputs.pop(name) for name in RAW}).embeds
    rows = count_rows(model, monkeypatch)
    assert_same(generate(model, {**inputs, "modality_embeds": embeds}), expected)
    assert not any(rows.values())


def test_one_prefill_serves_several_completions(model, monkeypatch):
    """Prefill the unique prompts, repeat the cache, and go on with stock `generate` and no modality inputs."""
    inputs = build_inputs(model, [ALL, ("lab",)])
    expected = generate(model, {name: t.repeat_interleave(3, dim=0) for name, t in inputs.items()})
    rows = count_rows(model, monkeypatch)
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        prefix = {"input_ids": inputs["input_ids"][:, :-1], "attention_mask": inputs["attention_mask"][:, :-1]}
        prefix["position_ids"] = (prefix["attention_mask"].cumsum(-1) - 1).clamp(min=0)  # as `generate` counts
        model(**prefix, **{name: inputs[name] for name in RAW}, past_key_values=cache, use_cache=True)
    cache.batch_repeat_interleave(3)
    text = {name: inputs[name].repeat_interleave(3, dim=0) for name in ("input_ids", "attention_mask")}
    assert_same(generate(model, {**text, "past_key_values": cache}), expected)
    assert rows == {"ecg": [1], "cxr": [1], "lab": [2]}


@pytest.mark.parametrize(
    "kwargs",
    [{}, {"suppress_tokens": [5]}, {"generation_config": GenerationConfig(max_new_tokens=4, suppress_tokens=[5])}],
    ids=["default", "keyword", "config"],
)
def test_placeholders_are_never_generated(model, kwargs):
    """Even where the head wants nothing else."""
    inputs = build_inputs(model, [ALL])
    suppressed = [*model.config.modality_token_ids, *([5] if kwargs else [])]
    bias = torch.zeros(model.config.text_config.vocab_size)
    bias[suppressed] = 1e4
    handle = model.lm_head.register_forward_hook(lambda module, args, output: output + bias)
    try:
        for do_sample in (False, True):
            sampling = {} if "generation_config" in kwargs else {"do_sample": do_sample, "max_new_tokens": 4}
            tokens = model.generate(**inputs, **sampling, **kwargs)[0, inputs["input_ids"].shape[1] :]
            assert not set(tokens.tolist()) & set(suppressed)
    finally:
        handle.remove()


def test_what_cannot_carry_modalities_is_refused(model):
    inputs = build_inputs(model, [ALL])
    with pytest.raises(ValueError, match="prefill_chunk_size"):
        generate(model, inputs, prefill_chunk_size=4)
    with pytest.raises(ValueError, match="`assistant_model` gets this model's modality embeddings"):
        generate(model, inputs, assistant_model=model.model.language_model)
    with pytest.raises(ValueError, match="token ids only"):
        model.generate_batch(inputs["input_ids"].tolist())
    with pytest.raises(ValueError, match="token ids only"):
        model.generate_batch([[1, 5, 7]], ecg_values=inputs["ecg_values"])
    with pytest.raises(ValueError, match="token ids only"):
        generate(model, inputs, cache_implementation="paged")
    with pytest.raises(ValueError, match="not used by the model"):
        generate(model, {**inputs, "ecg_value": inputs["ecg_values"]})


def test_placeholder_without_its_modality_is_an_error(model):
    inputs = build_inputs(model, [ALL])
    inputs.pop("lab_values")
    with pytest.raises(ValueError, match="<lab> placeholder"):
        generate(model, inputs)


@pytest.mark.parametrize("part", ["ecg_projector", "perception", "language_model"])
def test_weights_that_are_not_finite_are_refused(tokenizer, part):
    model = build_model(tokenizer)
    with torch.no_grad():
        for parameter in getattr(model.model, part).parameters():
            parameter.fill_(torch.nan)
    with pytest.raises(ValueError, match="logits of 1 of 1 sequences are not finite"):
        generate(model, build_inputs(model, [ALL]))


def test_text_alone(model):
    inputs = build_inputs(model, [(), ()])
    text = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    assert_same(generate(model, text), greedy_oracle(model, inputs))


def test_inputs_embeds(model):
    inputs = build_inputs(model, [()])
    embeds = model.get_input_embeddings()(inputs["input_ids"])
    kwargs = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "do_sample": False}
    output = model.generate(inputs_embeds=embeds, **kwargs, return_dict_in_generate=True, output_logits=True)
    assert_same(Generation(output.sequences, list(output.logits)), greedy_oracle(model, inputs))


def test_prompt_embeds_generate_the_same(model):
    inputs = build_inputs(model, SUBSETS)
    expected = generate(model, inputs)
    embeds = model.get_prompt_embeds(**inputs).detach()
    output = model.generate(
        inputs_embeds=embeds,
        attention_mask=inputs["attention_mask"],
        max_new_tokens=NEW_TOKENS,
        min_new_tokens=NEW_TOKENS,
        do_sample=False,
        return_dict_in_generate=True,
        output_logits=True,
    )
    assert_same(Generation(output.sequences, list(output.logits)), expected)
