# SPDX-License-Identifier: Apache-2.0
"""
Scoring and update passes that compute the prompt of a group once.

The G completions of a group have their prompt in common. Its keys and values are computed for each unique prompt, repeated,
and attended to by the completions; gradients flow through them into the prompt's pass. P + G R tokens in place of G (P + R).
"""

import functools
import types
from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer
from trl import GRPOConfig

from modeling_medtvt import MedTVTForCausalLM
from modeling_medtvt.modeling_medtvt import FEATURE_INPUT_NAMES


def why_prompts_are_not_shared(model: MedTVTForCausalLM, args: GRPOConfig, is_sharded: bool) -> str | None:
    """Why every row must be computed whole, in words for a log; None where prompts can be shared."""
    if args.gradient_checkpointing:
        return "transformers drops the cache with `gradient_checkpointing`"
    if is_sharded:
        return "parameters are sharded, and each layer may run once in a pass"
    if any(type(layer) is not DynamicLayer for layer in DynamicCache(config=model.config).layers):
        return "not every layer of the language model attends to the whole prompt"
    return None


def add_shared_prompt(model: MedTVTForCausalLM) -> None:
    """
    Lets `model(..., labels=labels, fused_lm_head=True, shared=(prompts, prompt_length))` compute each prompt once.

    `prompts` says by a number for each row which prompt it has, and `prompt_length` how many tokens, with the padding on
    their left, prompts have. Everything else is as without `shared`, but the outputs begin at the prompt's last token.

    One call of `forward`, in which both passes run: what wraps the model (DDP, PEFT) sees nothing unusual. To be called
    after trl's `add_fused_lm_head`.
    """
    forward = model.forward

    @functools.wraps(type(model).forward)
    def shared_forward(
        self: MedTVTForCausalLM, *args: Any, shared: tuple[Sequence[int], int] | None = None, **kwargs: Any
    ) -> Any:
        if shared is None:
            return forward(*args, **kwargs)
        return _forward_shared(self, forward, *shared, **kwargs)

    model.forward = types.MethodType(shared_forward, model)


def _forward_shared(
    model: MedTVTForCausalLM,
    forward: Any,
    prompts: Sequence[int],
    prompt_length: int,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    labels: torch.Tensor,
    **kwargs: Any,
) -> Any:
    first = {prompt: row for row, prompt in reversed(list(enumerate(prompts)))}
    unique = sorted(first.values())
    features = {name: kwargs.pop(name)[unique] for name in FEATURE_INPUT_NAMES if name in kwargs}
    # the last token of the prompt is left for the second pass: it predicts the first of the completion
    shared = prompt_length - 1
    cache = model.model(
        input_ids=input_ids[unique, :shared],
        attention_mask=attention_mask[unique, :shared],
        use_cache=True,
        **features,
    ).past_key_values
    place = [unique.index(first[prompt]) for prompt in prompts]
    repeats = len(prompts) // len(unique)
    if place == [i for i in range(len(unique)) for _ in range(repeats)]:
        cache.batch_repeat_interleave(repeats)
    else:
        cache.batch_select_indices(torch.tensor(place, device=input_ids.device))
    return forward(
        input_ids=input_ids[:, shared:],
        attention_mask=attention_mask,
        past_key_values=cache,
        labels=labels[:, shared:],
        **kwargs,
    )


def keep_groups_together(batches: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """
    Micro-batches with the rows of a prompt side by side, and each prompt in as few of them as can be: trl shuffles the
    completions of a generation batch. The order of the groups stays as shuffled.

    Args:
        batches (`list[dict]`): trl's micro-batches, of equally many rows, with `prompt_index`. Tensors without dimensions
            belong to all of them.
    """
    prompts = torch.cat([batch["prompt_index"] for batch in batches]).tolist()
    rank = {prompt: i for i, prompt in enumerate(dict.fromkeys(prompts))}
    order = torch.tensor(sorted(range(len(prompts)), key=lambda row: rank[prompts[row]]))
    size = len(prompts) // len(batches)
    whole = {
        name: value if value is None or value.ndim == 0 else torch.cat([batch[name] for batch in batches])[order]
        for name, value in batches[0].items()
    }
    return [
        {
            name: value if value is None or value.ndim == 0 else value[i * size : (i + 1) * size]
            for name, value in whole.items()
        }
        for i in range(len(batches))
    ]
