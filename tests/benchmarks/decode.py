# SPDX-License-Identifier: Apache-2.0
"""Tokens per second of `generate` after the prefill, over the bare language model's with the same weights."""

import time
from functools import partial
from typing import Any

import torch
from transformers import StoppingCriteria

from .harness import Row, Settings, divide, interleave, medians, synchronize
from .shapes import bare, build, encode, make_prompt, make_values


PROMPT = 64
# size -> batch, and after how many tokens to look at the clock; the last is where a run ends
RUNS: dict[str, list[tuple[int, tuple[int, ...]]]] = {
    "tiny": [(1, (64, 512)), (8, (64, 512))],
    "smollm2-135m": [(1, (64, 512)), (8, (64,))],
    "llama-3.2-1b": [(1, (64, 512)), (8, (64, 512))],
}


class Clock(StoppingCriteria):
    """Notes the time after the first token and after the given numbers of them; stops nothing."""

    def __init__(self, prompt: int, marks: tuple[int, ...], device: str) -> None:
        self.prompt, self.marks, self.device = prompt, {1, *marks}, device
        self.times: dict[int, float] = {}

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        tokens = input_ids.shape[1] - self.prompt
        if tokens in self.marks:
            synchronize(self.device)
            self.times[tokens] = time.perf_counter()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def decode_seconds(model: Any, inputs: dict, marks: tuple[int, ...], device: str, **kwargs: Any) -> dict[int, float]:
    """Seconds from the first token, where the prefill ends, to each mark."""
    clock = Clock(inputs["input_ids"].shape[1], marks, device)
    length = {"min_new_tokens": max(marks), "max_new_tokens": max(marks)}
    model.generate(**inputs, **length, **kwargs, do_sample=False, stopping_criteria=[clock])
    return {tokens: clock.times[tokens] - clock.times[1] for tokens in marks}


def measure(settings: Settings) -> list[Row]:
    return [
        row
        for size in settings.sizes
        for batch, marks in RUNS[size]
        for row in compare(size, batch, marks, settings.device, settings.repeats_at(size))
    ]


def compare(size: str, batch: int, marks: tuple[int, ...], device: str, repeats: int) -> list[Row]:
    model = build(size, device)
    plain = bare(model)
    prompt = make_prompt(model.config, batch, PROMPT, device)
    inputs = {**prompt, **encode(model, make_values(batch, device))}
    sides: dict[str, tuple[Any, dict]] = {"medtvt": (model, inputs), "bare": (plain, prompt)}
    found = interleave(
        {name: partial(decode_seconds, *side, marks, device) for name, side in sides.items()},
        repeats,
        warm_up={name: partial(decode_seconds, *side, (8,), device) for name, side in sides.items()},
    )
    rows = []
    for tokens in marks:
        seconds = {name: [times[tokens] for times in runs] for name, runs in found.items()}
        speeds = {name: [batch * (tokens - 1) / second for second in runs] for name, runs in seconds.items()}
        rows.append(
            Row(
                "decode",
                f"tokens/s after the prefill over bare `generate`, {size}, batch {batch}, {tokens} new tokens",
                divide(speeds["medtvt"], speeds["bare"]),
                at_least=0.97,
                note=medians(speeds, "tokens/s"),
            )
        )
    return rows
