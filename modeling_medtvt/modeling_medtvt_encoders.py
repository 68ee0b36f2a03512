# SPDX-License-Identifier: Apache-2.0
"""The encoders that no library has (xresnet1d for ECGs, Symile's MLP for labs) and the three projectors."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils.generic import can_return_tuple
from transformers.utils.output_capturing import capture_outputs

from .configuration_medtvt import MedTVTConfig, MedTVTEcgConfig, MedTVTLabConfig


class MedTVTEncoderPreTrainedModel(PreTrainedModel):
    """What the ECG and the laboratory encoder have in common. Neither holds self-attention, so each backend will do."""

    base_model_prefix = "encoder"
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True


class MedTVTEcgConvLayer(nn.Sequential):
    """Convolution without bias, batch norm and, unless told otherwise, ReLU."""

    def __init__(
        self,
        config: MedTVTEcgConfig,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        activation: bool = True,
    ):
        layers: list[nn.Module] = [
            nn.Conv1d(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=False),
            nn.BatchNorm1d(out_channels, eps=config.batch_norm_eps),
        ]
        super().__init__(*layers, *([nn.ReLU()] if activation else []))


class MedTVTEcgBlock(nn.Module):
    """Bottleneck block of xresnet1d. A strided shortcut averages first; it has no convolution where widths agree."""

    def __init__(self, config: MedTVTEcgConfig, in_channels: int, bottleneck_size: int, stride: int):
        super().__init__()
        out_channels = bottleneck_size * config.expansion
        self.convolutions = nn.Sequential(
            MedTVTEcgConvLayer(config, in_channels, bottleneck_size, 1),
            MedTVTEcgConvLayer(config, bottleneck_size, bottleneck_size, config.kernel_size, stride),
            MedTVTEcgConvLayer(config, bottleneck_size, out_channels, 1, activation=False),
        )
        self.pool = nn.AvgPool1d(2, ceil_mode=True) if stride > 1 else nn.Identity()
        self.shortcut = (
            MedTVTEcgConvLayer(config, in_channels, out_channels, 1, activation=False)
            if in_channels != out_channels
            else nn.Identity()
        )

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return F.relu(self.convolutions(hidden_states) + self.shortcut(self.pool(hidden_states)))


class MedTVTEcgEncoder(MedTVTEncoderPreTrainedModel):
    """
    xresnet1d without its head (ECGFM-KED's encoder, xresnet1d-101 by default).

    `forward(ecg_values)`: (batch, leads, samples) in mV at 100 Hz -> `last_hidden_state` (batch, time steps, hidden_size);
    1000 samples give 32 time steps of 768 channels. With `output_hidden_states`, what goes into the first block and comes
    out of each, (batch, channels, time steps).
    """

    config: MedTVTEcgConfig
    config_class = MedTVTEcgConfig
    main_input_name = "ecg_values"
    _no_split_modules = ["MedTVTEcgBlock"]
    _can_record_outputs = {"hidden_states": MedTVTEcgBlock}

    def __init__(self, config: MedTVTEcgConfig):
        super().__init__(config)
        channels = [config.num_leads, *config.stem_sizes]
        self.stem = nn.Sequential(
            *(
                MedTVTEcgConvLayer(config, channels[i], channels[i + 1], config.kernel_size, stride=2 if i == 0 else 1)
                for i in range(len(config.stem_sizes))
            ),
            nn.MaxPool1d(3, 2, 1),
        )
        stages, in_channels = [], channels[-1]
        for i, (size, depth) in enumerate(zip(config.stage_sizes, config.depths)):
            blocks = []
            for j in range(depth):
                blocks.append(MedTVTEcgBlock(config, in_channels, size, stride=2 if i > 0 and j == 0 else 1))
                in_channels = size * config.expansion
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.Conv1d):
            # He's rule keeps the signal's scale through a hundred layers of ReLU; a fixed std would not
            init.kaiming_normal_(module.weight)

    @capture_outputs(tie_last_hidden_states=False)
    def forward(self, ecg_values: torch.Tensor, **kwargs: Any) -> BaseModelOutput:
        return BaseModelOutput(last_hidden_state=self.stages(self.stem(ecg_values)).transpose(1, 2))


class MedTVTLabEncoder(MedTVTEncoderPreTrainedModel):
    """
    Symile's laboratory MLP.

    `forward(lab_values)`: (batch, 2 * num_labs), percentiles in 0..1 and then present-flags -> `last_hidden_state`
    (batch, 1, hidden_size).
    """

    config: MedTVTLabConfig
    config_class = MedTVTLabConfig
    main_input_name = "lab_values"
    _no_split_modules = ["MedTVTLabEncoder"]

    def __init__(self, config: MedTVTLabConfig):
        super().__init__(config)
        self.fc1 = nn.Linear(2 * config.num_labs, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self.fc3 = nn.Linear(config.hidden_size, config.hidden_size)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.activation = ACT2FN[config.hidden_act]
        self.post_init()

    @can_return_tuple
    def forward(self, lab_values: torch.Tensor, **kwargs: Any) -> BaseModelOutput:
        hidden_states = self.activation(self.fc1(lab_values))
        hidden_states = self.activation(self.fc2(hidden_states))
        return BaseModelOutput(last_hidden_state=self.layer_norm(self.fc3(hidden_states)).unsqueeze(1))


def cxr_input_size(config: PreTrainedConfig) -> tuple[int, int, int]:
    """
    Channels, height and width of what an image backbone takes.

    Raises:
        ValueError: if the config is of no image backbone.
    """
    if hasattr(config, "pretrained_cfg"):  # timm
        channels, height, width = config.pretrained_cfg["input_size"]
        return channels, height, width
    size = getattr(config, "image_size", None)
    if size is None:
        raise ValueError(f"`cxr_config` is of type {config.model_type!r}, which is no image backbone.")
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    return getattr(config, "num_channels", 3), height, width


def as_sequence(features: torch.Tensor, hidden_size: int | None) -> torch.Tensor:
    """An image backbone's output as (batch, image tokens, hidden size), also where it is a map."""
    if features.ndim != 4:
        return features
    # of a convolutional backbone: channels first or, in some of timm's, last
    channels_last = features.shape[-1] == hidden_size or features.shape[1] == features.shape[2]
    return features.flatten(1, 2) if channels_last else features.flatten(2).transpose(1, 2)


@torch.no_grad()
def measure_cxr_features(config: PreTrainedConfig) -> tuple[int, int]:
    """Image tokens and hidden size of a backbone whose config does not state them. Nothing is computed."""
    size = cxr_input_size(config)
    with torch.device("meta"):
        features = AutoModel.from_config(config)(pixel_values=torch.zeros(1, *size)).last_hidden_state
    _, length, hidden_size = as_sequence(features, None).shape
    return length, hidden_size


class MedTVTDenseBlock(nn.Module):
    """Residual SwiGLU block after an RMS norm (the dense block of MuMu-LLaMA, section 4.1)."""

    def __init__(self, config: MedTVTConfig):
        super().__init__()
        size = config.text_config.hidden_size
        self.norm = nn.RMSNorm(size, eps=config.projector_rms_norm_eps)
        self.gate_proj = nn.Linear(size, size, bias=False)
        self.up_proj = nn.Linear(size, size, bias=False)
        self.down_proj = nn.Linear(size, size, bias=False)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        normed = self.norm(hidden_states)
        return hidden_states + self.down_proj(F.silu(self.gate_proj(normed)) * self.up_proj(normed))


class MedTVTRecurrentLayer(nn.Module):
    """
    `nn.RNN` of one layer with tanh: the same parameters, the same numbers. Dynamo refuses `nn.RNN` itself, so
    `torch.compile(fullgraph=True)` would not get past one.
    """

    def __init__(self, input_size: int, hidden_size: int):
        super().__init__()
        self.hidden_size = hidden_size
        self.weight_ih_l0 = nn.Parameter(torch.empty(hidden_size, input_size))
        self.weight_hh_l0 = nn.Parameter(torch.empty(hidden_size, hidden_size))
        self.bias_ih_l0 = nn.Parameter(torch.empty(hidden_size))
        self.bias_hh_l0 = nn.Parameter(torch.empty(hidden_size))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(batch, time steps, input size) -> (batch, time steps, hidden size)."""
        projected = F.linear(inputs, self.weight_ih_l0, self.bias_ih_l0)
        states = [projected.new_zeros(inputs.shape[0], self.hidden_size)]
        for step in projected.unbind(1):
            states.append(torch.tanh(step + F.linear(states[-1], self.weight_hh_l0, self.bias_hh_l0)))
        return torch.stack(states[1:], 1)


class MedTVTEcgProjector(nn.Module):
    """
    (batch, time steps, ecg hidden size) -> (batch, k, d). L2-normalised time steps run through a tanh RNN; each of the
    k tokens is its own attention-weighted mean over the RNN's states.
    """

    def __init__(self, config: MedTVTConfig):
        super().__init__()
        self.rnn = MedTVTRecurrentLayer(config.ecg_config.hidden_size, config.ecg_pooling_size)
        self.attention = nn.Linear(config.ecg_pooling_size, config.num_modality_tokens)
        self.linear = nn.Linear(config.ecg_pooling_size, config.text_config.hidden_size)
        self.blocks = nn.Sequential(*(MedTVTDenseBlock(config) for _ in range(config.projector_depth)))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        states = self.rnn(F.normalize(features, dim=-1))
        weights = self.attention(states).softmax(dim=1)
        return self.blocks(self.linear(weights.transpose(1, 2) @ states))


class MedTVTCxrProjector(nn.Module):
    """(batch, image tokens, cxr hidden size) -> (batch, k, d). A 1x1 convolution over the tokens mixes them into k."""

    def __init__(self, config: MedTVTConfig):
        super().__init__()
        if config.cxr_sequence_length is None or config.cxr_hidden_size is None:
            raise ValueError("`cxr_sequence_length` and `cxr_hidden_size` are missing from the config.")
        self.pooling = nn.Conv1d(config.cxr_sequence_length, config.num_modality_tokens, 1)
        self.linear = nn.Linear(config.cxr_hidden_size, config.text_config.hidden_size)
        self.blocks = nn.Sequential(*(MedTVTDenseBlock(config) for _ in range(config.projector_depth)))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.blocks(self.linear(F.normalize(self.pooling(features), dim=-1)))


class MedTVTLabProjector(nn.Module):
    """(batch, 1, lab hidden size) -> (batch, k, d). The one feature vector is spread over k tokens by its linear."""

    def __init__(self, config: MedTVTConfig):
        super().__init__()
        size = config.text_config.hidden_size
        self.linear = nn.Linear(config.lab_config.hidden_size, config.num_modality_tokens * size)
        self.blocks = nn.Sequential(*(MedTVTDenseBlock(config) for _ in range(config.projector_depth)))
        self.output_shape = (config.num_modality_tokens, size)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.blocks(self.linear(F.normalize(features[:, 0], dim=-1)).unflatten(-1, self.output_shape))


__all__ = ["MedTVTEcgEncoder", "MedTVTLabEncoder"]
