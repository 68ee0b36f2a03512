# SPDX-License-Identifier: Apache-2.0
"""The modality perception layer: cyclic multi-head attention, then the contribution-aware gate (paper, 3.2.1)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .configuration_medtvt import MedTVTConfig


class MedTVTCyclicAttention(nn.Module):
    """
    Multi-head attention whose query, key and value come from three different modalities, each in turn; one set of
    weights serves the three rounds, whose mean is the fusion term F of equation 2.

    With one token a modality there is a single key, so its weight is 1 and only the values speak.
    """

    def __init__(self, config: MedTVTConfig):
        super().__init__()
        size = config.text_config.hidden_size
        self.num_heads = config.num_perception_heads
        self.q_proj = nn.Linear(size, size)
        self.k_proj = nn.Linear(size, size)
        self.v_proj = nn.Linear(size, size)
        self.o_proj = nn.Linear(size, size)

    def forward(self, embeds: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """
        (batch, 3, k, d) in the order ECG, CXR, LAB -> (batch, k, d) and the weights (batch, 3 rounds, heads, k, k).
        """
        # rounds: (Q, K, V) = (E, C, L), (C, L, E), (L, E, C), stacked on dim 1
        query, key, value = self.q_proj(embeds), self.k_proj(embeds).roll(-1, 1), self.v_proj(embeds).roll(-2, 1)
        query, key, value = (x.unflatten(-1, (self.num_heads, -1)).transpose(2, 3) for x in (query, key, value))
        # in full: a kernel has nothing to gain from k tokens, and where k is 1 its backward pass gives queries and keys, which
        # do not matter then, rounding in place of zero, of which Adam makes full steps
        weights = (query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).softmax(-1)
        return self.o_proj((weights @ value).transpose(2, 3).flatten(-2)).mean(dim=1), weights


class MedTVTPerceptionLayer(nn.Module):
    """
    M_m = LayerNorm(Z_m + fusion_scale * F) (equation 2; the norm is in figure 3), then
    T_m = g_m M_m with g = sigmoid(h [M_E : M_C : M_L]) (equation 3), one score per modality and token.

    F needs all three modalities: it is zero in a row that lacks one. A learned vector a stands for the absent M in the
    gate's input; the absent modality's own embeddings and scores are zero.

    A decoder's first norm cancels scale, and with it g. With `gate_form="absent"` T_m = g_m M_m + (1 - g_m) a_m, where a is
    learned for each token too and taken at the length of M, and h reads every M at unit scale, however far training has
    scaled the projectors.
    """

    def __init__(self, config: MedTVTConfig):
        super().__init__()
        size = config.text_config.hidden_size
        self.fusion_scale = config.fusion_scale
        self.gate_form = config.gate_form
        self.attention: MedTVTCyclicAttention | None = None
        self.layer_norm: Any = None
        self.gate: nn.Linear | None = None
        self.absent_embeds: Any = None
        if config.use_cyclic_attention:
            self.attention = MedTVTCyclicAttention(config)
            self.layer_norm = nn.LayerNorm(size, eps=config.perception_layer_norm_eps)
        if config.use_contribution_gate:
            self.gate = nn.Linear(3 * size, 3)
            tokens = (config.num_modality_tokens,) if self.gate_form == "absent" else ()
            self.absent_embeds = nn.Parameter(torch.zeros(3, *tokens, size))

    def forward(self, embeds: torch.Tensor, presence: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """
        Args:
            embeds (`torch.Tensor`): Projected modalities Z, (batch, 3, k, d) in the order ECG, CXR, LAB.
            presence (`torch.Tensor`): (batch, 3), True where the row has the modality.

        Returns:
            T, shaped as `embeds`, and the gate scores (batch, k, 3), None without the gate.
        """
        present = presence[:, :, None, None]
        if self.attention is not None:
            fusion, _ = self.attention(embeds)
            fusion = fusion * presence.all(dim=1)[:, None, None]
            embeds = self.layer_norm(embeds + self.fusion_scale * fusion.unsqueeze(1))
        gates = None
        if self.gate is not None:
            absent = self.absent_embeds.to(embeds.dtype)
            gate_input = torch.where(present, embeds, absent if absent.ndim == 3 else absent[:, None])
            if self.gate_form == "absent":
                gate_input = F.rms_norm(gate_input, gate_input.shape[-1:])
            gates = self.gate(gate_input.transpose(1, 2).flatten(-2)).sigmoid() * presence[:, None]
            scores = gates.transpose(1, 2).unsqueeze(-1)
            if self.gate_form == "absent":
                absent = F.normalize(absent, dim=-1) * embeds.norm(dim=-1, keepdim=True)
                embeds = torch.lerp(absent, embeds, scores)
            else:
                embeds = embeds * scores
        return embeds * present, gates
