# SPDX-License-Identifier: Apache-2.0
"""MedTVT-R1: an ECG, a chest X-ray and a laboratory panel in front of a decoder LM (arXiv 2506.18512)."""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from safetensors import SafetensorError
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import (
    AutoModel,
    GenerationConfig,
    GenerationMixin,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
)
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs, is_timm_available
from transformers.utils.generic import can_return_tuple

from .configuration_medtvt import MedTVTConfig
from .modeling_medtvt_encoders import (
    MedTVTCxrProjector,
    MedTVTEcgEncoder,
    MedTVTEcgProjector,
    MedTVTLabEncoder,
    MedTVTLabProjector,
)
from .modeling_medtvt_perception import MedTVTPerceptionLayer


# In the package's order of modalities: ECG, CXR, LAB
RAW_INPUT_NAMES = ("ecg_values", "pixel_values", "lab_values")
FEATURE_INPUT_NAMES = ("ecg_features", "cxr_features", "lab_features")
PLACEHOLDERS = ("<ecg>", "<cxr>", "<lab>")
KEPT_IN_FP32 = (
    *("ecg_encoder", "cxr_encoder", "lab_encoder"),
    *("ecg_projector", "cxr_projector", "lab_projector", "perception"),
)
# sigmoid(4) = 0.98: an untrained gate lets its modality through
GATE_BIAS_AT_START = 4.0
# tokens whose logits `chunked_loss` holds at once
LOSS_CHUNK = 512


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
    """`BaseModelOutputWithPast` and `gates` (batch, k, 3; order ECG, CXR, LAB), None where no gate ran."""

    gates: torch.Tensor | None = None


@dataclass
class MedTVTCausalLMOutputWithPast(CausalLMOutputWithPast):
    """`CausalLMOutputWithPast` and `gates` (batch, k, 3; order ECG, CXR, LAB), None where no gate ran."""

    gates: torch.Tensor | None = None


class PlaceholderLogitsProcessor(LogitsProcessor):
    """
    Keeps placeholders from being generated. transformers' `suppress_tokens` does the same by searching the whole
    vocabulary at each token.
    """

    def __init__(self, token_ids: tuple[int, ...]):
        self.token_ids = torch.tensor(token_ids)

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        self.token_ids = self.token_ids.to(scores.device)
        return scores.index_fill(-1, self.token_ids, -torch.inf)  # type: ignore[return-value]  # a Tensor, as all are


class FiniteLogitsProcessor(LogitsProcessor):
    """
    Looks at the first logits of a generation, once: where they are NaN, text would come out all the same. Minus infinity is
    what other processors write for a token that may not come.

    Raises:
        ValueError: if a logit is NaN or infinity, or none of a sequence is finite.
    """

    def __init__(self) -> None:
        self.is_checked = False

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        if not self.is_checked:
            self.is_checked = True
            wrong = scores.isnan().any(-1) | scores.isposinf().any(-1) | scores.isneginf().all(-1)
            if wrong.any():
                raise ValueError(
                    f"The logits of {int(wrong.sum())} of {len(scores)} sequences are not finite: the weights, or the "
                    "inputs, hold NaN or infinity."
                )
        return scores


def _projector_scale(config: MedTVTConfig) -> float:
    """Expected root mean square of a freshly drawn projector's output: L2-normalised features, linear, dense blocks."""
    std = config.initializer_range
    gain = std * math.sqrt(config.text_config.hidden_size)
    nodes, weights = np.polynomial.hermite_e.hermegauss(64)
    silu = gain * nodes / (1 + np.exp(-gain * nodes))
    block_variance = gain**4 * float((weights * silu**2).sum() / weights.sum())
    return math.sqrt(std**2 + config.projector_depth * block_variance)


class MedTVTPreTrainedModel(PreTrainedModel):
    """Loading, saving and initialisation shared by [`MedTVTModel`] and [`MedTVTForCausalLM`]."""

    config: MedTVTConfig
    config_class = MedTVTConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities: Any = ("text", "image", "time")
    supports_gradient_checkpointing = True
    _no_split_modules = ["MedTVTEcgProjector", "MedTVTCxrProjector", "MedTVTLabProjector", "MedTVTPerceptionLayer"]
    _skip_keys_device_placement = ["past_key_values"]
    # PT leaves the perception layer out
    _keys_to_ignore_on_load_unexpected = [r"perception\."]
    # Also what 4- and 8-bit loading leaves alone, which asks for names from the root
    _keep_in_fp32_modules = [prefix + name for prefix in ("", "model.") for name in KEPT_IN_FP32]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.RNN):
            bound = 1 / math.sqrt(module.hidden_size)
            for parameter in module.parameters(recurse=False):
                init.uniform_(parameter, -bound, bound)
        elif isinstance(module, MedTVTPerceptionLayer):
            # Near the identity, so that SFT begins where PT ended: no fusion yet, a norm that keeps the projectors'
            # scale, open gates.
            if module.attention is not None:
                init.zeros_(module.attention.o_proj.weight)
                init.constant_(module.layer_norm.weight, _projector_scale(self.config))
            if module.gate is not None:
                init.zeros_(module.gate.weight)
                init.constant_(module.gate.bias, GATE_BIAS_AT_START)
                init.zeros_(module.absent_embeds)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike | None,
        *args: Any,
        output_loading_info: bool = False,
        **kwargs: Any,
    ) -> Any:
        """
        As in transformers. A perception layer that a PT checkpoint lacks is fitted to the checkpoint's projectors.

        Raises:
            ValueError: if the checkpoint, or an adapter in its folder, lacks any other tensor, which transformers would
                draw at random, or holds a damaged file of weights.
        """
        source = pretrained_model_name_or_path
        try:
            loaded: Any = super().from_pretrained(source, *args, output_loading_info=True, **kwargs)
        except SafetensorError as error:
            raise ValueError(f"{source}: a file of weights cannot be read. {error}") from error
        model, info = loaded
        missing = set(info["missing_keys"])  # of an adapter, where the folder holds one: its model is checked by then
        perception = {name for name in missing if "perception." in name}
        if missing and missing == perception and source is not None:
            hub = ("cache_dir", "revision", "token", "subfolder", "local_files_only")
            stored, _ = cls.config_class.get_config_dict(source, **{k: kwargs[k] for k in hub if k in kwargs})
            missing = missing if stored.get("use_perception", True) else set()
        model._refuse_missing(missing, source)
        if any(name.endswith("perception.layer_norm.weight") for name in perception):
            getattr(model, "model", model).calibrate_perception()
        return (model, info) if output_loading_info else model

    def _adjust_missing_and_unexpected_keys(self, loading_info: Any) -> None:
        # where transformers knows what a model lacks, also one under an adapter, of which `from_pretrained` hears nothing
        super()._adjust_missing_and_unexpected_keys(loading_info)
        self._refuse_missing({name for name in loading_info.missing_keys if "perception." not in name})

    def _refuse_missing(self, names: set[str], source: str | os.PathLike | None = None) -> None:
        names = names - set(self.all_tied_weights_keys)
        if names:
            raise ValueError(
                f"{source or self.config.name_or_path} lacks {len(names)} tensors of this model, such as {min(names)}: the "
                "weights are incomplete."
            )

    def save_pretrained(  # type: ignore[override]  # the arguments between are keywords here
        self, save_directory: str | os.PathLike, save_original_format: bool = False, **kwargs: Any
    ) -> None:
        """
        As in transformers, but weights keep their run-time names by default: a `Trainer` that resumes reads them with
        `load_state_dict`, which knows nothing of the old names that transformers gives a ViT on disk. The folder is plain:
        a config that came from an exported folder does not go on naming code that is not saved here.
        """
        names = ["custom_pipelines"] if self._auto_class else ["custom_pipelines", "auto_map"]
        for name in names:
            if hasattr(self.config, name):
                delattr(self.config, name)
        return super().save_pretrained(save_directory, save_original_format=save_original_format, **kwargs)


class MedTVTModel(MedTVTPreTrainedModel):
    """Encoders, projectors, perception layer and language model, without a head."""

    def __init__(self, config: MedTVTConfig):
        super().__init__(config)
        self.ecg_encoder = MedTVTEcgEncoder(config.ecg_config)
        if config.cxr_config.model_type == "timm_wrapper" and not is_timm_available():
            raise ImportError('A timm backbone for X-rays needs the extra: `pip install "medtvt-r1[timm]"`.')
        # a ViT's pooler would never be used
        pooler = {"add_pooling_layer": False} if config.cxr_config.model_type == "vit" else {}
        self.cxr_encoder = AutoModel.from_config(config.cxr_config, **pooler)
        self.lab_encoder = MedTVTLabEncoder(config.lab_config)
        if config.cxr_sequence_length is None or config.cxr_hidden_size is None:
            config.cxr_sequence_length, config.cxr_hidden_size = self._measure_cxr_features()
        self.ecg_projector = MedTVTEcgProjector(config)
        self.cxr_projector = MedTVTCxrProjector(config)
        self.lab_projector = MedTVTLabProjector(config)
        self.perception = MedTVTPerceptionLayer(config) if config.use_perception else None
        self.language_model = AutoModel.from_config(config.text_config)
        self.post_init()
        self.train(self.training)

    def _cxr_input_size(self) -> tuple[int, int, int]:
        config = self.config.cxr_config
        if hasattr(config, "pretrained_cfg"):  # timm
            return tuple(config.pretrained_cfg["input_size"])
        if hasattr(config, "image_size"):
            return getattr(config, "num_channels", 3), config.image_size, config.image_size
        raise ValueError(f"`cxr_config` is of type {config.model_type!r}, which is no image backbone.")

    @torch.no_grad()
    def _measure_cxr_features(self) -> tuple[int, ...]:
        """Sequence length and width of a backbone whose config does not state them."""
        size = self._cxr_input_size()
        if self.cxr_encoder.device.type == "meta":
            raise ValueError("`cxr_sequence_length` and `cxr_hidden_size` are missing from this checkpoint's config.")
        return tuple(self._encode_cxr(torch.zeros(1, *size, dtype=self.cxr_encoder.dtype)).shape[1:])

    @torch.no_grad()
    def calibrate_perception(
        self,
        ecg_values: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        lab_values: torch.Tensor | None = None,
    ) -> None:
        """
        Sets the layer norm of a fresh perception layer to the scale of what the projectors put out, so that SFT begins
        where PT ended.

        Args:
            ecg_values, pixel_values, lab_values (`torch.Tensor`, *optional*): As for
                [`~MedTVTModel.get_modality_embeds`], of patients with all three. Noise stands in for what is missing.

        Raises:
            ValueError: if the model has no perception layer, or one without the cyclic attention and its norm.
        """
        if self.perception is None or self.perception.layer_norm is None:
            raise ValueError("Nothing to calibrate: `use_perception` or `use_cyclic_attention` is off in the config.")
        weight = self.perception.layer_norm.weight
        if weight.is_meta or not weight.numel():  # offloaded or partitioned: not here to be set
            return
        generator = torch.Generator().manual_seed(0)
        n = next((len(tensor) for tensor in (ecg_values, pixel_values, lab_values) if tensor is not None), 4)
        if ecg_values is None:
            ecg_values = torch.randn(n, self.config.ecg_config.num_leads, 1000, generator=generator) / 5
        if pixel_values is None:
            pixel_values = torch.randn(n, *self._cxr_input_size(), generator=generator)
        if lab_values is None:
            percentiles = torch.rand(n, self.config.lab_config.num_labs, generator=generator)
            lab_values = torch.cat([percentiles, torch.ones_like(percentiles)], 1)
        values = tuple(tensor.to(weight.device) for tensor in (ecg_values, pixel_values, lab_values))
        embeds, _ = self._project_modalities(values=values)
        weight.fill_(embeds.float().pow(2).mean().sqrt())

    def train(self, mode: bool = True) -> Self:
        """
        As in torch, but frozen encoders stay in eval mode: their batch norms must neither use nor learn the statistics
        of a batch. `from_pretrained` ends here too, which is where loaded encoders are frozen.
        """
        super().train(mode)
        if self.config.freeze_encoders:
            for encoder in (self.ecg_encoder, self.cxr_encoder, self.lab_encoder):
                encoder.eval().requires_grad_(False)
        return self

    def _encode_cxr(self, pixel_values: torch.Tensor) -> torch.Tensor:
        features = self.cxr_encoder(pixel_values=pixel_values).last_hidden_state
        if features.ndim == 4:  # a convolutional backbone's map, channels first or, in some of timm's, last
            channels_last = self.config.cxr_hidden_size == features.shape[-1] or features.shape[1] == features.shape[2]
            features = features.flatten(1, 2) if channels_last else features.flatten(2).transpose(1, 2)
        return features

    def _encode(
        self, encoder: PreTrainedModel, encode: Callable[[torch.Tensor], torch.Tensor], values: torch.Tensor
    ) -> torch.Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.config.freeze_encoders):
            return encode(values.to(encoder.dtype))

    def get_ecg_features(self, ecg_values: torch.Tensor) -> torch.Tensor:
        """(batch, leads, samples) in mV at 100 Hz -> (batch, time steps, ecg hidden size), here (batch, 32, 768)."""
        if ecg_values.ndim != 3 or ecg_values.shape[1] != self.config.ecg_config.num_leads:
            raise ValueError(
                f"`ecg_values` must be (batch, {self.config.ecg_config.num_leads} leads, samples), "
                f"got {tuple(ecg_values.shape)}."
            )
        return self._encode(self.ecg_encoder, self.ecg_encoder, ecg_values)

    def get_cxr_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(batch, 3, height, width) -> (batch, image tokens, cxr hidden size), here (batch, 197, 768)."""
        if pixel_values.ndim != 4:
            raise ValueError(f"`pixel_values` must be (batch, 3, height, width), got {tuple(pixel_values.shape)}.")
        return self._encode(self.cxr_encoder, self._encode_cxr, pixel_values)

    def get_lab_features(self, lab_values: torch.Tensor) -> torch.Tensor:
        """(batch, 2 * labs), percentiles then present-flags -> (batch, 1, lab hidden size), here (batch, 1, 1024)."""
        if lab_values.ndim != 2 or lab_values.shape[1] != 2 * self.config.lab_config.num_labs:
            raise ValueError(
                f"`lab_values` must be (batch, {2 * self.config.lab_config.num_labs}), {self.config.lab_config.num_labs} "
                f"percentiles and then as many present-flags, got {tuple(lab_values.shape)}."
            )
        return self._encode(self.lab_encoder, self.lab_encoder, lab_values)

    def _check_placeholders(self, input_ids: torch.Tensor, given: list[bool]) -> torch.Tensor:
        """(batch, 3) presence, on the CPU, read off the prompt. Each modality has none or k placeholders in a row."""
        k = self.config.num_modality_tokens
        counts = torch.stack([(input_ids == token_id).sum(1) for token_id in self.config.modality_token_ids], 1)
        counts = counts.cpu()  # the one time that a GPU is waited for
        presence = counts > 0
        if (presence & (counts != k)).any():
            row, modality = (presence & (counts != k)).nonzero()[0].tolist()
            raise ValueError(
                f"Row {row} has {counts[row, modality].item()} {PLACEHOLDERS[modality]} tokens, but a modality takes "
                f"exactly {k} (`num_modality_tokens`) or none in a prompt."
            )
        for modality, is_given in enumerate(given):
            if not is_given and presence[:, modality].any():
                raise ValueError(
                    f"{presence[:, modality].sum().item()} of {len(input_ids)} prompts have a {PLACEHOLDERS[modality]} "
                    f"placeholder, but 0 rows of `{RAW_INPUT_NAMES[modality]}` or `{FEATURE_INPUT_NAMES[modality]}` "
                    "were passed."
                )
        return presence

    def get_modality_embeds(
        self,
        input_ids: torch.LongTensor | None = None,
        ecg_values: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        lab_values: torch.Tensor | None = None,
        ecg_features: torch.Tensor | None = None,
        cxr_features: torch.Tensor | None = None,
        lab_features: torch.Tensor | None = None,
    ) -> MedTVTModalityOutput:
        """
        Runs encoders, projectors and perception layer, each only on the rows that have the modality.

        Args:
            input_ids (`torch.LongTensor`, *optional*): (batch, length). A row has the modalities whose placeholders it
                holds; without ids, every row has all that is passed.
            ecg_values, pixel_values, lab_values (`torch.Tensor`, *optional*): One row a sample, (batch, 12, 1000),
                (batch, 3, 224, 224) and (batch, 100). Rows without the placeholder are ignored.
            ecg_features, cxr_features, lab_features (`torch.Tensor`, *optional*): The encoders' outputs, in their place.
        """
        embeds, presence = self._project_modalities(
            input_ids,
            values=(ecg_values, pixel_values, lab_values),
            features=(ecg_features, cxr_features, lab_features),
        )
        gates, presence = None, presence.to(embeds.device)
        if self.perception is not None:
            embeds, gates = self.perception(embeds, presence)
        return MedTVTModalityOutput(embeds=embeds, gates=gates, presence=presence)

    def _project_modalities(
        self,
        input_ids: torch.Tensor | None = None,
        values: tuple[torch.Tensor | None, ...] = (None,) * 3,
        features: tuple[torch.Tensor | None, ...] = (None,) * 3,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(batch, 3, k, d) embeddings before the perception layer, and (batch, 3) presence."""
        inputs = [value if feature is None else feature for value, feature in zip(values, features)]
        for i, (value, feature) in enumerate(zip(values, features)):
            if value is not None and feature is not None:
                raise ValueError(f"Pass `{RAW_INPUT_NAMES[i]}` or `{FEATURE_INPUT_NAMES[i]}`, not both.")
        given = [tensor for tensor in inputs if tensor is not None]
        if not given:
            raise ValueError(f"None of {', '.join(RAW_INPUT_NAMES + FEATURE_INPUT_NAMES)} was passed.")
        batch_size = len(given[0] if input_ids is None else input_ids)
        for name, tensor in zip(RAW_INPUT_NAMES + FEATURE_INPUT_NAMES, values + features):
            if tensor is not None and len(tensor) != batch_size:
                raise ValueError(
                    f"`{name}` has {len(tensor)} rows for a batch of {batch_size}: modality tensors have one row a "
                    "sample, whatever stands where a sample lacks the modality."
                )
        self._check_features(features)
        is_given = [tensor is not None for tensor in inputs]
        if input_ids is None:
            presence = torch.tensor(is_given).expand(batch_size, 3)
        else:
            presence = self._check_placeholders(input_ids, is_given)

        encoders = (self.get_ecg_features, self.get_cxr_features, self.get_lab_features)
        projectors = (self.ecg_projector, self.cxr_projector, self.lab_projector)
        embeds = self._project_rows(inputs, features, encoders, projectors, presence)
        return embeds, presence

    def _check_features(self, features: Sequence[torch.Tensor | None]) -> None:
        expected = (
            (None, self.config.ecg_config.hidden_size),
            (self.config.cxr_sequence_length, self.config.cxr_hidden_size),
            (1, self.config.lab_config.hidden_size),
        )
        for name, tensor, (length, size) in zip(FEATURE_INPUT_NAMES, features, expected):
            if tensor is None:
                continue
            if tensor.ndim != 3 or tensor.shape[2] != size or length not in (None, tensor.shape[1]):
                raise ValueError(
                    f"`{name}` must be (batch, {length or 'time steps'}, {size}), got {tuple(tensor.shape)}."
                )

    def _project_rows(
        self,
        inputs: Sequence[torch.Tensor | None],
        features: Sequence[torch.Tensor | None],
        encoders: Sequence[Callable[[torch.Tensor], torch.Tensor]],
        projectors: Sequence[Any],
        presence: torch.Tensor,
    ) -> torch.Tensor:
        """(batch, 3, k, d): each modality's projected embeddings, zero in rows that lack it."""
        shape = (len(presence), self.config.num_modality_tokens, self.config.text_config.hidden_size)
        embeds: list[torch.Tensor | None] = [None] * 3
        for i, (tensor, encode, project) in enumerate(zip(inputs, encoders, projectors)):
            rows = presence[:, i].nonzero().flatten()
            if tensor is not None and len(rows):
                whole = len(rows) == len(tensor)  # most batches are uniform and need no index
                selected = tensor if whole else tensor[rows.to(tensor.device)]
                selected = selected if features[i] is not None else encode(selected)
                tokens = project(selected.to(project.linear.weight.dtype))
                embeds[i] = tokens if whole else tokens.new_zeros(shape).index_copy(0, rows.to(tokens.device), tokens)
        # modalities may come from different devices, and from parts of different precision
        found = [tokens for tokens in embeds if tokens is not None]
        like = found[0] if found else torch.empty(0, device=presence.device, dtype=self.dtype)
        return torch.stack([like.new_zeros(shape) if t is None else t.to(like.device, like.dtype) for t in embeds], 1)

    def _embed(
        self,
        input_ids: torch.LongTensor | None,
        inputs_embeds: torch.Tensor | None,
        modality_embeds: torch.Tensor | None,
        **modality_inputs: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(batch, length, d) with the modalities in their places, and the gates (batch, k, 3) where they ran."""
        has_inputs = any(value is not None for value in modality_inputs.values())
        if has_inputs and modality_embeds is not None:
            raise ValueError("`modality_embeds` stands in place of every other modality input; pass one or the other.")
        if input_ids is None and (has_inputs or modality_embeds is not None):
            raise ValueError("Modality inputs need `input_ids`, whose placeholders say where they go.")
        gates = None
        if has_inputs:
            modalities = self.get_modality_embeds(input_ids, **modality_inputs)
            modality_embeds, gates = modalities.embeds, modalities.gates
        elif input_ids is not None and input_ids.shape[1] > 1 and not torch.compiler.is_compiling():
            # decoding steps never hold a placeholder, and a check would make the device wait for each of them
            self._check_placeholders(input_ids, [modality_embeds is not None] * 3)
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        if modality_embeds is not None and input_ids is not None:
            expected = (len(input_ids), 3, self.config.num_modality_tokens, inputs_embeds.shape[-1])
            if tuple(modality_embeds.shape) != expected:
                raise ValueError(f"`modality_embeds` must be {expected}, got {tuple(modality_embeds.shape)}.")
            modality_embeds = modality_embeds.to(inputs_embeds.device, inputs_embeds.dtype)
            inputs_embeds = self._merge(input_ids.to(inputs_embeds.device), inputs_embeds, modality_embeds)
        return inputs_embeds, gates

    def _merge(
        self, input_ids: torch.Tensor, inputs_embeds: torch.Tensor, modality_embeds: torch.Tensor
    ) -> torch.Tensor:
        """Puts the k embeddings of each modality, in order, where the prompt has its k placeholders."""
        k = self.config.num_modality_tokens
        masks = torch.stack([input_ids == token_id for token_id in self.config.modality_token_ids])
        nth = (masks.cumsum(2) - 1).clamp(0, k - 1) + k * torch.arange(3, device=masks.device).view(3, 1, 1)
        slots = (nth * masks).sum(0).unsqueeze(-1).expand(-1, -1, modality_embeds.shape[-1])
        tokens = modality_embeds.flatten(1, 2).gather(1, slots)
        return torch.where(masks.any(0).unsqueeze(-1), tokens, inputs_embeds)

    @can_return_tuple
    def forward(  # type: ignore[misc]  # `TransformersKwargs` has `position_ids` too
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        ecg_values: torch.FloatTensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        lab_values: torch.FloatTensor | None = None,
        ecg_features: torch.FloatTensor | None = None,
        cxr_features: torch.FloatTensor | None = None,
        lab_features: torch.FloatTensor | None = None,
        modality_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MedTVTModelOutputWithPast:
        r"""
        Args:
            input_ids (`torch.LongTensor`): (batch, length), each present modality's placeholder already k times.
            ecg_values, pixel_values, lab_values (`torch.FloatTensor`, *optional*): See
                [`~MedTVTModel.get_modality_embeds`]. A row that lacks the placeholder is ignored.
            ecg_features, cxr_features, lab_features (`torch.FloatTensor`, *optional*): Encoder outputs in their place.
            modality_embeds (`torch.FloatTensor`, *optional*): (batch, 3, k, d), order ECG, CXR, LAB, in place of all.

        Raises:
            ValueError: if placeholders and modality inputs do not match.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Pass exactly one of `input_ids` and `inputs_embeds`.")
        inputs_embeds, gates = self._embed(
            input_ids,
            inputs_embeds,
            modality_embeds,
            **{"ecg_values": ecg_values, "pixel_values": pixel_values, "lab_values": lab_values},
            **{"ecg_features": ecg_features, "cxr_features": cxr_features, "lab_features": lab_features},
        )
        outputs = self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            # the Trainer switches it off in this config, not in the decoder's
            use_cache=self.config.use_cache if use_cache is None else use_cache,
            **kwargs,
        )
        return MedTVTModelOutputWithPast(
            last_hidden_state=outputs.last_hidden_state,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            gates=gates,
        )


class MedTVTForCausalLM(MedTVTPreTrainedModel, GenerationMixin):
    """MedTVT-R1 with its language modelling head."""

    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}

    def __init__(self, config: MedTVTConfig):
        super().__init__(config)
        self.model = MedTVTModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        # not every decoder calls its embedding `embed_tokens`
        embeddings = self.model.language_model.get_input_embeddings()
        name = next(name for name, module in self.model.named_modules() if module is embeddings)
        self._tied_weights_keys = {"lm_head.weight": f"model.{name}.weight"}
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def get_ecg_features(self, ecg_values: torch.Tensor) -> torch.Tensor:
        """See [`~MedTVTModel.get_ecg_features`]."""
        return self.model.get_ecg_features(ecg_values)

    def get_cxr_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """See [`~MedTVTModel.get_cxr_features`]."""
        return self.model.get_cxr_features(pixel_values)

    def get_lab_features(self, lab_values: torch.Tensor) -> torch.Tensor:
        """See [`~MedTVTModel.get_lab_features`]."""
        return self.model.get_lab_features(lab_values)

    def get_modality_embeds(self, *args: Any, **kwargs: Any) -> MedTVTModalityOutput:
        """See [`~MedTVTModel.get_modality_embeds`]."""
        return self.model.get_modality_embeds(*args, **kwargs)

    @can_return_tuple
    def forward(  # type: ignore[misc]  # `TransformersKwargs` has `position_ids` too
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        ecg_values: torch.FloatTensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        lab_values: torch.FloatTensor | None = None,
        ecg_features: torch.FloatTensor | None = None,
        cxr_features: torch.FloatTensor | None = None,
        lab_features: torch.FloatTensor | None = None,
        modality_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MedTVTCausalLMOutputWithPast:
        r"""
        As [`MedTVTModel.forward`], and:

        Args:
            labels (`torch.LongTensor`, *optional*): (batch, length) token ids, -100 where no loss is wanted.
            logits_to_keep (`int` or `torch.Tensor`): How many positions from the end (0 = all), or which, get logits.
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            ecg_values=ecg_values,
            pixel_values=pixel_values,
            lab_values=lab_values,
            ecg_features=ecg_features,
            cxr_features=cxr_features,
            lab_features=lab_features,
            modality_embeds=modality_embeds,
            **kwargs,
        )
        logits = loss = None
        if self.config.chunked_loss and self.training and labels is not None:
            loss = self._chunked_loss(outputs.last_hidden_state, labels, kwargs.get("num_items_in_batch"))
        else:
            kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            logits = self.lm_head(outputs.last_hidden_state[:, kept])
            if labels is not None:
                loss = self.loss_function(
                    logits=logits, labels=labels, vocab_size=self.config.text_config.vocab_size, **kwargs
                )
        return MedTVTCausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            gates=outputs.gates,
        )

    def _chunked_loss(
        self, hidden_states: torch.Tensor, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None
    ) -> torch.Tensor:
        """transformers' loss of a causal LM, without the logits of the whole batch."""
        targets = nn.functional.pad(labels[:, 1:], (0, 1), value=-100).to(hidden_states.device)
        rows = targets != -100
        hidden_states, targets = hidden_states[rows], targets[rows]

        def sum_chunk(hidden_states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            return nn.functional.cross_entropy(self.lm_head(hidden_states).float(), targets, reduction="sum")

        chunks = zip(hidden_states.split(LOSS_CHUNK), targets.split(LOSS_CHUNK))
        # a chunk's logits are dropped after the forward pass and computed again in the backward pass
        loss = sum(checkpoint(sum_chunk, *chunk, use_reentrant=False) for chunk in chunks)
        return loss / (len(targets) if num_items_in_batch is None else num_items_in_batch)

    @torch.no_grad()
    def generate(  # type: ignore[override]  # what lies between is passed on as keywords
        self, inputs: torch.Tensor | None = None, generation_config: GenerationConfig | None = None, **kwargs: Any
    ) -> Any:
        """
        As in transformers. Modalities are encoded once, before the batch is expanded to beams or to several returned
        sequences, and placeholders are never generated.

        Raises:
            ValueError: if modality inputs meet chunked prefill, which would cut them apart.
        """
        input_ids = inputs if inputs is not None else kwargs.get("input_ids")
        config = generation_config if generation_config is not None else self.generation_config
        names = RAW_INPUT_NAMES + FEATURE_INPUT_NAMES
        modality_inputs = {name: kwargs.pop(name) for name in names if kwargs.get(name) is not None}
        if modality_inputs or kwargs.get("modality_embeds") is not None:
            if kwargs.get("prefill_chunk_size", config.prefill_chunk_size) is not None:
                raise ValueError(
                    "`prefill_chunk_size` cannot be used with modality inputs: a chunk would see only part of the "
                    "placeholders. Leave it out; a prompt of this model is short."
                )
            if kwargs.get("assistant_model") is not None:
                raise ValueError(
                    "`assistant_model` cannot be used with modality inputs: transformers does not pass them on to it. "
                    "`prompt_lookup_num_tokens` works."
                )
        if modality_inputs:
            if input_ids is None:
                raise ValueError("Modality inputs need `input_ids`, whose placeholders say where they go.")
            if kwargs.get("modality_embeds") is not None:
                raise ValueError(
                    "`modality_embeds` stands in place of every other modality input; pass one or the other."
                )
            if self.device.type != "meta":  # offloaded parts fetch their inputs themselves
                modality_inputs = {name: tensor.to(self.device) for name, tensor in modality_inputs.items()}
            kwargs["modality_embeds"] = self.get_modality_embeds(input_ids, **modality_inputs).embeds
        no_placeholders = PlaceholderLogitsProcessor(self.config.modality_token_ids)
        given = kwargs.get("logits_processor") or []
        kwargs["logits_processor"] = LogitsProcessorList([FiniteLogitsProcessor(), no_placeholders, *given])
        return super().generate(inputs, generation_config=generation_config, **kwargs)  # type: ignore[misc]  # a protocol of more

    def generate_batch(self, inputs: list[list[int]], *args: Any, **kwargs: Any) -> Any:
        """Continuous batching, for prompts of text alone: it passes token ids and nothing else to the model."""
        placeholders = set(self.config.modality_token_ids)
        given = [name for name in (*RAW_INPUT_NAMES, *FEATURE_INPUT_NAMES, "modality_embeds") if name in kwargs]
        if given or any(placeholders.intersection(ids) for ids in inputs):
            raise ValueError(
                "`generate_batch` passes token ids only, so an ECG, X-ray or laboratory panel would be lost on the "
                "way. Use `generate`, which batches them."
            )
        return super().generate_batch(inputs, *args, **kwargs)

    def prepare_inputs_for_generation(  # type: ignore[override]  # what lies between is passed on as keywords
        self,
        input_ids: torch.LongTensor,
        inputs_embeds: torch.Tensor | None = None,
        modality_embeds: torch.Tensor | None = None,
        is_first_iteration: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        model_inputs = super().prepare_inputs_for_generation(  # type: ignore[misc]  # a protocol of more
            input_ids, inputs_embeds=inputs_embeds, is_first_iteration=is_first_iteration, **kwargs
        )
        # once in the cache, they are not needed again
        if is_first_iteration or not kwargs.get("use_cache", True):
            model_inputs["modality_embeds"] = modality_embeds
        return model_inputs


__all__ = ["MedTVTForCausalLM", "MedTVTModel", "MedTVTPreTrainedModel"]
