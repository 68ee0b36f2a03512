# SPDX-License-Identifier: Apache-2.0
"""Modality inputs and their placeholders in the prompt: what each is called, whether they match, where they go."""

from functools import partial
from typing import Any

import torch
from torch import nn
from transformers.utils import torch_compilable_check

from .configuration_medtvt import MedTVTConfig


# In the package's order of modalities: ECG, CXR, LAB
RAW_INPUT_NAMES = ("ecg_values", "pixel_values", "lab_values")
FEATURE_INPUT_NAMES = ("ecg_features", "cxr_features", "lab_features")
PLACEHOLDERS = ("<ecg>", "<cxr>", "<lab>")
# One a modality
Tensors = tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]


def feature_shapes(config: Any) -> tuple[tuple[int | None, int], ...]:
    """Length, None where an input decides it, and width of each encoder's output."""
    return (
        (None, config.ecg_config.hidden_size),
        (config.cxr_sequence_length, config.cxr_hidden_size),
        (1, config.lab_config.hidden_size),
    )


def check_modality_inputs(config: MedTVTConfig, values: Tensors, features: Tensors, batch_size: int) -> list[bool]:
    """Which of the three modalities are passed."""
    for i, (value, feature) in enumerate(zip(values, features)):
        if value is not None and feature is not None:
            raise ValueError(f"Pass `{RAW_INPUT_NAMES[i]}` or `{FEATURE_INPUT_NAMES[i]}`, not both.")
    for name, tensor in zip(RAW_INPUT_NAMES + FEATURE_INPUT_NAMES, (*values, *features)):
        if tensor is not None and tensor.shape[0] != batch_size:
            raise ValueError(
                f"`{name}` has {tensor.shape[0]} rows for a batch of {batch_size}: modality tensors have one row a "
                "sample, whatever stands where a sample lacks the modality."
            )
    for name, tensor, shape in zip(FEATURE_INPUT_NAMES, features, feature_shapes(config)):
        if tensor is not None and not (
            tensor.ndim == 3 and tensor.shape[2] == shape[1] and shape[0] in (None, tensor.shape[1])
        ):
            raise ValueError(
                f"`{name}` must be (batch, {shape[0] or 'time steps'}, {shape[1]}), got {tuple(tensor.shape)}."
            )
    return [value is not None or feature is not None for value, feature in zip(values, features)]


def find_placeholders(
    config: MedTVTConfig,
    embed: nn.Module,
    input_ids: torch.Tensor | None,
    inputs_embeds: torch.Tensor | Any = None,
) -> torch.Tensor:
    """(3, batch, length), True where a modality's placeholder stands: by its id or, without ids, by its embedding."""
    if input_ids is not None:
        return torch.stack([input_ids == token_id for token_id in config.modality_token_ids])
    placeholders = embed(torch.tensor(config.modality_token_ids, device=inputs_embeds.device))
    return torch.stack([(inputs_embeds == placeholder.to(inputs_embeds)).all(-1) for placeholder in placeholders])


def _spans_sequences(
    masks: torch.Tensor, position_ids: torch.Tensor | None, cu_seq_lens: torch.Tensor | None
) -> torch.Tensor:
    """
    (batch, 1), True where `masks` (3, batch, length) mark tokens of several packed sequences. One begins where position ids
    do not go up by one, and where `cu_seq_lens`, which run through all rows, say so.
    """
    masks = masks.any(0)
    breaks = torch.zeros_like(masks)
    if position_ids is not None and position_ids.shape[-1] == masks.shape[1]:  # not those of a cached prefix too
        breaks[:, 1:] = position_ids.to(masks.device).diff(dim=-1) != 1
    if cu_seq_lens is not None:
        places = torch.arange(masks.numel(), device=masks.device).view(masks.shape)
        breaks = breaks | torch.isin(places, cu_seq_lens.to(masks.device))
    sequences = breaks.cumsum(1)
    first, last = sequences.masked_fill(~masks, masks.shape[1]).amin(1), sequences.masked_fill(~masks, -1).amax(1)
    return (last > first).unsqueeze(1)


def check_placeholders(
    masks: torch.Tensor,
    is_given: list[bool],
    num_modality_tokens: int,
    position_ids: torch.Tensor | None = None,
    cu_seq_lens: torch.Tensor | None = None,
) -> torch.Tensor:
    """
    (batch, 3) presence, read off the prompt; on the CPU unless compiled.

    Raises:
        ValueError: if a row has other than none or k placeholders of a modality, if those of a row belong to several
            sequences, or if a modality was not passed. A compiled graph raises `RuntimeError`, and without these words.
    """
    counts, packed = masks.sum(2).T, _spans_sequences(masks, position_ids, cu_seq_lens)
    if not torch.compiler.is_compiling():
        # the one time that a GPU is waited for
        counts, packed = torch.cat([counts, packed], 1).cpu().split([3, 1], 1)
    presence = counts > 0
    wrong = presence & (counts != num_modality_tokens)
    torch_compilable_check(~wrong, lambda: _describe_wrong(wrong, counts, num_modality_tokens))
    torch_compilable_check(
        packed == 0,
        lambda: (
            f"Row {packed.nonzero()[0, 0].item()} has placeholders in several sequences (its `position_ids` or "
            "`cu_seq_lens_q` start again), but a row's modalities are of one patient: the perception layer would mix "
            "several. Do not pack such rows."
        ),
    )
    for modality, given in enumerate(is_given):
        if not given:
            rows = presence[:, modality]
            torch_compilable_check(~rows, partial(_describe_missing, modality, rows))
    return presence


def _describe_wrong(wrong: torch.Tensor, counts: torch.Tensor, num_modality_tokens: int) -> str:
    row, modality = wrong.nonzero()[0].tolist()
    return (
        f"Row {row} has {counts[row, modality].item()} {PLACEHOLDERS[modality]} tokens, but a modality takes exactly "
        f"{num_modality_tokens} (`num_modality_tokens`) or none in a prompt."
    )


def _describe_missing(modality: int, rows: torch.Tensor) -> str:
    return (
        f"{rows.sum().item()} of {len(rows)} prompts have a {PLACEHOLDERS[modality]} placeholder, but 0 rows of "
        f"`{RAW_INPUT_NAMES[modality]}` or `{FEATURE_INPUT_NAMES[modality]}` were passed."
    )


def merge_modalities(masks: torch.Tensor, inputs_embeds: torch.Tensor, modality_embeds: torch.Tensor) -> torch.Tensor:
    """Puts the k embeddings of each modality, in order, where the prompt has its k placeholders."""
    k = modality_embeds.shape[2]
    nth = (masks.cumsum(2) - 1).clamp(0, k - 1) + k * torch.arange(3, device=masks.device).view(3, 1, 1)
    slots = (nth * masks).sum(0).unsqueeze(-1).expand(-1, -1, modality_embeds.shape[-1])
    tokens = modality_embeds.flatten(1, 2).gather(1, slots)
    return torch.where(masks.any(0).unsqueeze(-1), tokens, inputs_embeds)


__all__ = [
    "FEATURE_INPUT_NAMES",
    "PLACEHOLDERS",
    "RAW_INPUT_NAMES",
    "Tensors",
    "check_modality_inputs",
    "check_placeholders",
    "feature_shapes",
    "find_placeholders",
    "merge_modalities",
]
