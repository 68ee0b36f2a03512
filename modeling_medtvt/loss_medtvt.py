# SPDX-License-Identifier: Apache-2.0
"""Which positions get logits, and the loss without the logits of a whole batch."""

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


# tokens whose logits `MedTVTForCausalLM.chunked_loss` holds at once
LOSS_CHUNK = 512


def keep_positions(hidden_states: torch.Tensor, logits_to_keep: int | torch.Tensor) -> torch.Tensor:
    """
    Hidden states (batch, length, d) at the positions that get logits: transformers' `slice_logits_to_keep`, which the
    oldest supported release lacks.

    Args:
        logits_to_keep (`int` or `torch.Tensor`): How many, from the end, 0 for all; or positions, (kept,) for every row or
            (batch, kept); or a mask (batch, length), which gives (kept, d).
    """
    if isinstance(logits_to_keep, int):
        return hidden_states[:, -logits_to_keep:]
    if logits_to_keep.ndim < 2:
        return hidden_states[:, logits_to_keep]
    if logits_to_keep.dtype == torch.bool:
        return hidden_states[logits_to_keep]
    return hidden_states.take_along_dim(logits_to_keep.unsqueeze(-1), 1)


def check_labels(hidden_states: torch.Tensor, **labels: torch.Tensor | None) -> None:
    """
    Args:
        hidden_states (`torch.Tensor`): (batch, length, d).
        labels (`torch.Tensor`, *optional*): By the name that an error gives.

    Raises:
        ValueError: if one is not (batch, length).
    """
    for name, tensor in labels.items():
        if tensor is not None and tensor.shape != hidden_states.shape[:-1]:
            raise ValueError(
                f"`{name}` must be of the logits' batch and length, {tuple(hidden_states.shape[:-1])}, "
                f"got {tuple(tensor.shape)}."
            )


def chunked_loss(
    head: nn.Module,
    hidden_states: torch.Tensor,
    labels: torch.Tensor,
    shift_labels: torch.Tensor | None,
    num_items_in_batch: torch.Tensor | int | None,
) -> torch.Tensor:
    """transformers' loss of a causal LM, without the logits of the whole batch."""
    targets = nn.functional.pad(labels[:, 1:], (0, 1), value=-100) if shift_labels is None else shift_labels
    targets = targets.to(hidden_states.device)
    rows = targets != -100
    hidden_states, targets = hidden_states[rows], targets[rows]

    def sum_chunk(hidden_states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(head(hidden_states).float(), targets, reduction="sum")

    chunks = zip(hidden_states.split(LOSS_CHUNK), targets.split(LOSS_CHUNK))
    # a chunk's logits are dropped after the forward pass and computed again in the backward pass
    loss = sum(checkpoint(sum_chunk, *chunk, use_reentrant=False) for chunk in chunks)
    return loss / (len(targets) if num_items_in_batch is None else num_items_in_batch)


__all__ = ["check_labels", "chunked_loss", "keep_positions"]
