# SPDX-License-Identifier: Apache-2.0
"""CUDA only: share of the peak matrix throughput, flash attention against sdpa, `torch.compile` on and off, peak memory."""

from functools import partial
from importlib.util import find_spec
from typing import Any

import torch

from .decode import decode_seconds
from .harness import Row, Settings, divide, interleave, medians, timed
from .sft import LENGTHS, Step, make_batch
from .shapes import build, encode, make_prompt, make_values


PREFILL = (8, 1024)
SFT_LENGTHS = LENGTHS * 4
DECODE = (8, 256)


def peak_flops(device: str, size: int = 8192) -> float:
    """Floating-point operations a second of a large bfloat16 matrix product, best of ten."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    a @ b
    return 2 * size**3 / min(timed(lambda: a @ b, device) for _ in range(10))


def forward_flops(config: Any, batch: int, length: int, logits: int) -> float:
    """Of the decoder's matrix products, the causal half of the attention included; `logits` positions reach the head."""
    size, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    heads, kv_heads, head = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    weights = layers * (size * head * (2 * heads + 2 * kv_heads) + 3 * size * inner)
    attention = layers * 2 * batch * length**2 * heads * head
    return 2 * weights * batch * length + attention + 2 * size * config.vocab_size * logits


def measure(settings: Settings) -> list[Row]:
    peak = peak_flops(settings.device)
    rows = []
    for size in settings.sizes:
        rows += compare_prefill(size, settings.device, peak, settings.repeats)
        rows += compare_step(size, settings.device, peak, settings.repeats)
        rows.append(compare_static_cache(size, settings.device, settings.repeats_at(size)))
    return rows


def attention_kinds() -> list[str]:
    return ["sdpa", *(["flash_attention_2"] if find_spec("flash_attn") else [])]


def compare_variants(what: str, sides: dict, flops: float, peak: float, device: str, repeats: int) -> list[Row]:
    """The share of the peak with sdpa, and the speed of the other sides over it."""
    found = interleave({name: partial(timed, run, device) for name, run in sides.items()}, repeats)
    share = [flops / seconds / peak for seconds in found["sdpa"]]
    note = f"{flops / 1e12:.3g} TFLOP, peak {peak / 1e12:.3g} TFLOP/s"
    return [
        Row("cuda", f"share of peak matrix throughput, {what}", share, note=note),
        *(
            Row("cuda", f"speed with {name} over sdpa, {what}", divide(found["sdpa"], runs), note=medians(found))
            for name, runs in found.items()
            if name != "sdpa"
        ),
    ]


def compare_prefill(size: str, device: str, peak: float, repeats: int) -> list[Row]:
    batch, length = PREFILL
    sides = {}

    @torch.no_grad()
    def prefill(model: Any, inputs: Any) -> None:
        model(**inputs, use_cache=True, logits_to_keep=1)

    for name in (*attention_kinds(), "torch.compile"):
        model = build(size, device)
        model.set_attn_implementation({"text_config": "sdpa" if name == "torch.compile" else name})
        inputs = {**make_prompt(model.config, batch, length, device), **encode(model, make_values(batch, device))}
        if name == "torch.compile":
            model.model.language_model.compile()
        sides[name] = partial(prefill, model, inputs)
    flops = forward_flops(model.config.text_config, batch, length, batch)
    what = f"prefill, {size}, batch {batch} of {length} tokens"
    return compare_variants(what, sides, flops, peak, device, repeats)


def compare_step(size: str, device: str, peak: float, repeats: int) -> list[Row]:
    """Weights get no gradient but LoRA's: the backward pass costs as much as the forward pass, twice in the attention."""
    batch, length = len(SFT_LENGTHS), max(SFT_LENGTHS)
    sides = {}
    for name in (*attention_kinds(), "torch.compile"):
        model = build(size, device)
        model.set_attn_implementation({"text_config": "sdpa" if name == "torch.compile" else name})
        inputs = {**make_batch(model.config, SFT_LENGTHS, device), **encode(model, make_values(batch, device))}
        step = Step(model, ["perception"], device)
        if name == "torch.compile":
            model.model.language_model.compile()
        sides[name] = partial(step, inputs)
    config = model.config.text_config
    forward = forward_flops(config, batch, length, batch * length)
    attention = config.num_hidden_layers * 2 * batch * length**2 * config.num_attention_heads * config.head_dim
    what = f"LoRA step, feature cache, {size}, batch {batch} of {min(SFT_LENGTHS)}-{length} tokens"
    rows = compare_variants(what, sides, 2 * forward + attention, peak, device, repeats)
    rows[0].note += f", {step_memory(sides['sdpa']) / 1e9:.3g} GB above the weights at its peak"
    return rows


def step_memory(step: Any) -> int:
    """Bytes that a step takes beyond what is held before it."""
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step()
    return torch.cuda.max_memory_allocated() - before


def compare_static_cache(size: str, device: str, repeats: int) -> Row:
    """`generate` compiles the decoding step by itself where the cache is static."""
    batch, tokens = DECODE
    model = build(size, device)
    inputs = {**make_prompt(model.config, batch, 64, device), **encode(model, make_values(batch, device))}

    def decode(**kwargs: Any) -> Any:
        return decode_seconds(model, inputs, (tokens,), device, **kwargs)[tokens]

    found = interleave({"static": partial(decode, cache_implementation="static"), "dynamic": decode}, repeats)
    what = (
        f"decoding speed with a static cache, compiled, over a dynamic one, {size}, batch {batch}, {tokens} new tokens"
    )
    return Row("cuda", what, divide(found["dynamic"], found["static"]), note=medians(found))
