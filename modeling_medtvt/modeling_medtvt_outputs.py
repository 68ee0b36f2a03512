# SPDX-License-Identifier: Apache-2.0
"""What the models return beside what transformers' outputs hold."""

from dataclasses import dataclass

import torch
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.utils import ModelOutput


@dataclass
class MedTVTModalityOutput(ModelOutput):
    """
    What [`~MedTVTModel.get_modality_embeds`] returns; modalities are in the order ECG, CXR, LAB.

    Args:
        embeds (`torch.Tensor`): (batch, 3, k, d), what replaces the placeholders' embeddings; zero where absent.
        gates (`torch.Tensor`, *optional*): (batch, k, 3), contribution scores where the perception layer's gate ran.
        presence (`torch.Tensor`): (batch, 3), True where the row has the modality.
    """

    embeds: torch.Tensor | None = None
    gates: torch.Tensor | None = None
    presence: torch.Tensor | None = None


@dataclass
class MedTVTModelOutputWithPast(BaseModelOutputWithPast):
    """
    `BaseModelOutputWithPast` and

    Args:
        gates (`torch.Tensor`, *optional*): (batch, k, 3), order ECG, CXR, LAB; None where no gate ran.
        cross_attentions (`tuple(torch.Tensor)`, *optional*): With `output_attentions`, the weights of the perception layer's
            cyclic attention, (batch, 3 rounds, heads, k, k).
    """

    gates: torch.Tensor | None = None
    cross_attentions: tuple[torch.Tensor, ...] | None = None


@dataclass
class MedTVTCausalLMOutputWithPast(CausalLMOutputWithPast):
    """`CausalLMOutputWithPast`, and `gates` and `cross_attentions` of [`MedTVTModelOutputWithPast`]."""

    gates: torch.Tensor | None = None
    cross_attentions: tuple[torch.Tensor, ...] | None = None


__all__ = ["MedTVTCausalLMOutputWithPast", "MedTVTModalityOutput", "MedTVTModelOutputWithPast"]
