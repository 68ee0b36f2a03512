# SPDX-License-Identifier: Apache-2.0
"""Time to the first token from raw inputs, over the bare language model's and one pass of each encoder."""

from functools import partial

import torch

from .harness import Row, Settings, divide, interleave, medians, timed
from .shapes import bare, build, encode, make_prompt, make_values


PROMPT = 64
BATCHES = (1, 8)
# of one measurement, so that short calls are repeated
SECONDS = 0.3


def measure(settings: Settings) -> list[Row]:
    return [
        row
        for size in settings.sizes
        for batch in BATCHES
        for row in compare(size, batch, settings.device, settings.repeats)
    ]


def compare(size: str, batch: int, device: str, repeats: int) -> list[Row]:
    model = build(size, device)
    plain = bare(model)
    prompt, values = make_prompt(model.config, batch, PROMPT, device), make_values(batch, device)
    first = {"max_new_tokens": 1, "do_sample": False}

    def medtvt():
        model.generate(**prompt, **values, **first)

    def bare_generate():
        encode(model, values)
        plain.generate(**prompt, **first)

    @torch.no_grad()
    def bare_prefill():
        encode(model, values)
        plain(**prompt, use_cache=True, logits_to_keep=1)

    sides = {"medtvt": medtvt, "bare generate + encoders": bare_generate, "bare forward + encoders": bare_prefill}
    medtvt()
    calls = max(1, round(SECONDS / timed(medtvt, device)))
    found = interleave({name: partial(timed, run, device, calls) for name, run in sides.items()}, repeats)
    return [
        Row(
            "first-token",
            f"time to first token over {name}, {size}, batch {batch}, prompt {PROMPT}",
            divide(found["medtvt"], found[name]),
            at_most=1.05,
            note=medians({side: found[side] for side in ("medtvt", name)}, "ms", 1000),
        )
        for name in list(sides)[1:]
    ]
