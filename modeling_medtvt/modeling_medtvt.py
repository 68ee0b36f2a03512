# SPDX-License-Identifier: Apache-2.0
"""MedTVT-R1: an ECG, a chest X-ray and a laboratory panel in front of a decoder LM (arXiv 2506.18512)."""

import copy
import math
import os
from dataclasses import dataclass, fields
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
    LogitsProcessorList,
    PreTrainedModel,
)
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.modeling_outputs import (
    BaseModelOutputWithPast,
    BaseModelOutputWithPooling,
    CausalLMOutputWithPast,
)
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs, is_timm_available
from transformers.utils.generic import can_return_tuple
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .configuration_medtvt import MedTVTConfig
from .logits_processors_medtvt import FiniteLogitsProcessor, PlaceholderLogitsProcessor
from .modeling_medtvt_encoders import (
    MedTVTCxrProjector,
    MedTVTEcgEncoder,
    MedTVTEcgProjector,
    MedTVTLabEncoder,
    MedTVTLabProjector,
    MedTVTRecurrentLayer,
    as_sequence,
    cxr_input_size,
    measure_cxr_features,
)
from .modeling_medtvt_perception import MedTVTCyclicAttention, MedTVTPerceptionLayer
from .provenance_medtvt import Provenance


# In the package's order of modalities: ECG, CXR, LAB
RAW_INPUT_NAMES = ("ecg_values", "pixel_values", "lab_values")
FEATURE_INPUT_NAMES = ("ecg_features", "cxr_features", "lab_features")
ENCODER_NAMES: dict[str | None, str] = {"ecg": "ecg_encoder", "image": "cxr_encoder", "lab": "lab_encoder"}
PLACEHOLDERS = ("<ecg>", "<cxr>", "<lab>")
KEPT_IN_FP32 = (
    *("ecg_encoder", "cxr_encoder", "lab_encoder"),
    *("ecg_projector", "cxr_projector", "lab_projector", "perception"),
)
# One a modality
Tensors = tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]
# An untrained gate lets its modality through: sigmoid(4) = 0.98 and, where a decoder sees the gate, so that it learns,
# sigmoid(2) = 0.88, whose slope is six times steeper
GATE_BIAS_AT_START = {"scale": 4.0, "absent": 2.0}
# tokens whose logits `MedTVTForCausalLM.chunked_loss` holds at once
LOSS_CHUNK = 512
# the cache among them is named as the release of transformers names it
DECODER_OUTPUTS = tuple(field.name for field in fields(BaseModelOutputWithPast))


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


def _projector_scale(config: MedTVTConfig) -> float:
    """Expected root mean square of a freshly drawn projector's output: L2-normalised features, linear, dense blocks."""
    std = config.initializer_range
    gain = std * math.sqrt(config.text_config.hidden_size)
    nodes, weights = np.polynomial.hermite_e.hermegauss(64)
    silu = gain * nodes / (1 + np.exp(-gain * nodes))
    block_variance = gain**4 * float((weights * silu**2).sum() / weights.sum())
    return math.sqrt(std**2 + config.projector_depth * block_variance)


class MedTVTPreTrainedModel(PreTrainedModel):
    """
    Loading, saving and initialisation shared by [`MedTVTModel`] and [`MedTVTForCausalLM`].

    Attributes:
        provenance ([`Provenance`]): What the weights were trained on. It travels with them, in provenance.json.
    """

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

    def __init__(self, config: MedTVTConfig):
        if config.cxr_sequence_length is None or config.cxr_hidden_size is None:
            config = copy.deepcopy(config)  # it is the caller's
            config.cxr_sequence_length, config.cxr_hidden_size = measure_cxr_features(config.cxr_config)
        super().__init__(config)
        self.provenance = Provenance()

    def get_encoder(self, modality: str | None = None) -> nn.Module:
        """As in transformers, where `"image"` is the X-ray; and `"ecg"` and `"lab"`."""
        name = ENCODER_NAMES.get(modality)
        return super().get_encoder(modality) if name is None else getattr(self.base_model, name)

    def set_encoder(self, encoder: nn.Module, modality: str | None = None) -> None:
        """See [`~MedTVTPreTrainedModel.get_encoder`]."""
        name = ENCODER_NAMES.get(modality)
        super().set_encoder(encoder, modality) if name is None else setattr(self.base_model, name, encoder)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, MedTVTRecurrentLayer):
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
                init.constant_(module.gate.bias, GATE_BIAS_AT_START[module.gate_form])
                if module.gate_form == "absent":  # mixed in at the length of the modality: only its direction counts
                    init.normal_(module.absent_embeds, std=self.config.initializer_range)
                else:
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
        hub = ("cache_dir", "revision", "token", "subfolder", "local_files_only")
        hub_kwargs = {name: kwargs[name] for name in hub if name in kwargs}
        missing = set(info["missing_keys"])  # of an adapter, where the folder holds one: its model is checked by then
        perception = {name for name in missing if "perception." in name}
        if missing and missing == perception and source is not None:
            stored, _ = cls.config_class.get_config_dict(source, **hub_kwargs)
            missing = missing if stored.get("use_perception", True) else set()
        model._refuse_missing(missing, source)
        for name in (source, model.name_or_path):  # an adapter's folder may leave it to the model's
            if name and model.provenance == Provenance():
                model.provenance = Provenance.from_pretrained(name, **hub_kwargs)
        model.base_model.freeze_encoders()  # loaded parameters ask for gradients
        if any(name.endswith("perception.layer_norm.weight") for name in perception):
            model.base_model.calibrate_perception()
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
        if kwargs.get("is_main_process", True):
            self.provenance.save_pretrained(save_directory)
        config = self.config
        self.config = copy.deepcopy(config)
        for name in ["custom_pipelines"] if self._auto_class else ["custom_pipelines", "auto_map"]:
            if hasattr(self.config, name):
                delattr(self.config, name)
        try:
            super().save_pretrained(save_directory, save_original_format=save_original_format, **kwargs)
        finally:
            self.config = config


def _spans_sequences(masks: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
    """
    (batch, 1), True where `masks` (3, batch, length) mark tokens of several packed sequences, which begin where position
    ids do not go up by one.
    """
    masks = masks.any(0)
    breaks = torch.zeros_like(masks, dtype=torch.long)
    breaks[:, 1:] = position_ids.to(masks.device).diff(dim=-1) != 1
    sequences = breaks.cumsum(1)
    first, last = sequences.masked_fill(~masks, masks.shape[1]).amin(1), sequences.masked_fill(~masks, -1).amax(1)
    return (last > first).unsqueeze(1)


def _is_distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _runs_without_rows(module: nn.Module | None) -> bool:
    """
    Whether a module runs on one row of zeros, which counts for nothing, where no row of the batch needs it. Other processes
    may have such rows, and each must take part in what is exchanged: the gradients of what is trained, the weights of what
    is sharded. One process does the same in training, so that the number of processes changes no optimizer's step.
    """
    if module is None:
        return False
    return _is_distributed() or module.training and any(p.requires_grad for p in module.parameters())


class MedTVTModel(MedTVTPreTrainedModel):
    """Encoders, projectors, perception layer and language model, without a head."""

    # asked for by `output_attentions`
    _can_record_outputs = {"cross_attentions": OutputRecorder(MedTVTCyclicAttention, index=1)}

    def __init__(self, config: MedTVTConfig):
        super().__init__(config)
        config = self.config
        self.ecg_encoder = MedTVTEcgEncoder(config.ecg_config)
        if config.cxr_config.model_type == "timm_wrapper" and not is_timm_available():
            raise ImportError('A timm backbone for X-rays needs the extra: `pip install "medtvt-r1[timm]"`.')
        # a ViT's pooler would never be used
        pooler = {"add_pooling_layer": False} if config.cxr_config.model_type == "vit" else {}
        self.cxr_encoder = AutoModel.from_config(config.cxr_config, **pooler)
        self.lab_encoder = MedTVTLabEncoder(config.lab_config)
        self.ecg_projector = MedTVTEcgProjector(config)
        self.cxr_projector = MedTVTCxrProjector(config)
        self.lab_projector = MedTVTLabProjector(config)
        self.perception = MedTVTPerceptionLayer(config) if config.use_perception else None
        self.language_model = AutoModel.from_config(config.text_config)
        self.post_init()
        self.freeze_encoders()

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
            pixel_values = torch.randn(n, *cxr_input_size(self.config.cxr_config), generator=generator)
        if lab_values is None:
            percentiles = torch.rand(n, self.config.lab_config.num_labs, generator=generator)
            lab_values = torch.cat([percentiles, torch.ones_like(percentiles)], 1)
        values = ecg_values.to(weight.device), pixel_values.to(weight.device), lab_values.to(weight.device)
        embeds = self._project_modalities(torch.ones(n, 3, dtype=torch.bool), values, (None, None, None))
        weight.fill_(embeds.float().pow(2).mean().sqrt())

    @property
    def _encoders(self) -> tuple[PreTrainedModel, PreTrainedModel, PreTrainedModel]:
        return self.ecg_encoder, self.cxr_encoder, self.lab_encoder

    @property
    def _projectors(self) -> tuple[MedTVTEcgProjector, MedTVTCxrProjector, MedTVTLabProjector]:
        return self.ecg_projector, self.cxr_projector, self.lab_projector

    @property
    def has_frozen_encoders(self) -> bool:
        """Whether no parameter of the three encoders is trained, so that their outputs may be computed once and kept."""
        return not any(p.requires_grad for encoder in self._encoders for p in encoder.parameters())

    def freeze_encoders(self) -> None:
        """As after `__init__` and `from_pretrained`. `model.ecg_encoder.requires_grad_(True)` lets one be trained."""
        for encoder in self._encoders:
            encoder.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """
        As in torch, but a frozen encoder stays in eval mode: its batch norms must neither use nor learn the statistics
        of a batch.
        """
        super().train(mode)
        for encoder in self._encoders:
            if not any(p.requires_grad for p in encoder.parameters()):
                encoder.eval()
        return self

    def get_ecg_features(self, ecg_values: torch.Tensor) -> torch.Tensor:
        """(batch, leads, samples) in mV at 100 Hz -> (batch, time steps, ecg hidden size), here (batch, 32, 768)."""
        if ecg_values.ndim != 3 or ecg_values.shape[1] != self.config.ecg_config.num_leads:
            raise ValueError(
                f"`ecg_values` must be (batch, {self.config.ecg_config.num_leads} leads, samples), "
                f"got {tuple(ecg_values.shape)}."
            )
        return self.ecg_encoder(ecg_values.to(self.ecg_encoder.dtype)).last_hidden_state

    def get_cxr_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(batch, 3, height, width) -> (batch, image tokens, cxr hidden size), here (batch, 197, 768)."""
        return as_sequence(self._encode_cxr(pixel_values).last_hidden_state, self.config.cxr_hidden_size)

    def _encode_cxr(self, pixel_values: torch.Tensor, **kwargs: Any) -> Any:
        if pixel_values.ndim != 4:
            raise ValueError(f"`pixel_values` must be (batch, 3, height, width), got {tuple(pixel_values.shape)}.")
        return self.cxr_encoder(pixel_values=pixel_values.to(self.cxr_encoder.dtype), **kwargs)

    @can_return_tuple
    def get_image_features(
        self, pixel_values: torch.Tensor, **kwargs: Unpack[TransformersKwargs]
    ) -> BaseModelOutputWithPooling:
        """
        As in transformers: the X-ray encoder's output and, as `pooler_output`, what its projector makes of it, (batch, k, d),
        before the perception layer.
        """
        outputs = self._encode_cxr(pixel_values, **kwargs)
        features = as_sequence(outputs.last_hidden_state, self.config.cxr_hidden_size)
        return BaseModelOutputWithPooling(
            last_hidden_state=features,
            pooler_output=self.cxr_projector(features.to(self.cxr_projector.linear.weight.dtype)),
            hidden_states=outputs.get("hidden_states"),  # a convolutional backbone has no attentions
            attentions=outputs.get("attentions"),
        )

    def get_lab_features(self, lab_values: torch.Tensor) -> torch.Tensor:
        """(batch, 2 * labs), percentiles then present-flags -> (batch, 1, lab hidden size), here (batch, 1, 1024)."""
        if lab_values.ndim != 2 or lab_values.shape[1] != 2 * self.config.lab_config.num_labs:
            raise ValueError(
                f"`lab_values` must be (batch, {2 * self.config.lab_config.num_labs}), {self.config.lab_config.num_labs} "
                f"percentiles and then as many present-flags, got {tuple(lab_values.shape)}."
            )
        return self.lab_encoder(lab_values.to(self.lab_encoder.dtype)).last_hidden_state

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
        values, features = (ecg_values, pixel_values, lab_values), (ecg_features, cxr_features, lab_features)
        given = [tensor for tensor in (*values, *features) if tensor is not None]
        if not given:
            raise ValueError(f"None of {', '.join(RAW_INPUT_NAMES + FEATURE_INPUT_NAMES)} was passed.")
        is_given = self._check_modality_inputs(
            values, features, (given[0] if input_ids is None else input_ids).shape[0]
        )
        if input_ids is None:
            presence = torch.tensor(is_given, device=given[0].device).expand(given[0].shape[0], 3)
        else:
            presence = self._check_placeholders(self._find_placeholders(input_ids), is_given)
        embeds, gates = self._fuse(presence, values, features)
        return MedTVTModalityOutput(embeds=embeds, gates=gates, presence=presence.to(embeds.device))

    def get_prompt_embeds(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        ecg_values: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        lab_values: torch.Tensor | None = None,
        ecg_features: torch.Tensor | None = None,
        cxr_features: torch.Tensor | None = None,
        lab_features: torch.Tensor | None = None,
        modality_embeds: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """
        The whole prompt as embeddings, for engines that take those; `self(inputs_embeds=..., attention_mask=...)` goes on
        from them as from the inputs themselves.

        Args:
            attention_mask (`torch.Tensor`, *optional*): (batch, length). Where it is zero, so are the embeddings; an engine
                that takes no padding gets `embeds[row, attention_mask[row].bool()]`.
            input_ids, position_ids, inputs_embeds, ecg_values, pixel_values, lab_values, ecg_features, cxr_features, \
                lab_features, modality_embeds: As in [`MedTVTModel.forward`].

        Returns:
            `torch.Tensor`: (batch, length, d), in the dtype of the token embeddings.

        Raises:
            ValueError: if placeholders and modality inputs do not match, or the mask is not of the prompt's shape.
        """
        embeds, _ = self._embed(
            input_ids,
            inputs_embeds,
            position_ids,
            modality_embeds,
            values=(ecg_values, pixel_values, lab_values),
            features=(ecg_features, cxr_features, lab_features),
        )
        if attention_mask is None:
            return embeds
        if attention_mask.shape != embeds.shape[:2]:
            raise ValueError(
                f"`attention_mask` must be of the prompt's batch and length, {tuple(embeds.shape[:2])}, "
                f"got {tuple(attention_mask.shape)}."
            )
        return embeds.where(attention_mask.to(embeds.device).bool().unsqueeze(-1), 0)

    def _check_modality_inputs(self, values: Tensors, features: Tensors, batch_size: int) -> list[bool]:
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
        for name, tensor, shape in zip(FEATURE_INPUT_NAMES, features, self._feature_shapes()):
            if tensor is not None and not (
                tensor.ndim == 3 and tensor.shape[2] == shape[1] and shape[0] in (None, tensor.shape[1])
            ):
                raise ValueError(
                    f"`{name}` must be (batch, {shape[0] or 'time steps'}, {shape[1]}), got {tuple(tensor.shape)}."
                )
        return [value is not None or feature is not None for value, feature in zip(values, features)]

    def _feature_shapes(self) -> tuple[tuple[int | None, int], ...]:
        """Length, None where an input decides it, and width of each encoder's output."""
        config: Any = self.config
        return (
            (None, config.ecg_config.hidden_size),
            (config.cxr_sequence_length, config.cxr_hidden_size),
            (1, config.lab_config.hidden_size),
        )

    def _find_placeholders(
        self, input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor | Any = None
    ) -> torch.Tensor:
        """(3, batch, length), True where a modality's placeholder stands: by its id or, without ids, by its embedding."""
        if input_ids is not None:
            return torch.stack([input_ids == token_id for token_id in self.config.modality_token_ids])
        placeholders = self.get_input_embeddings()(
            torch.tensor(self.config.modality_token_ids, device=inputs_embeds.device)
        )
        return torch.stack([(inputs_embeds == placeholder.to(inputs_embeds)).all(-1) for placeholder in placeholders])

    def _check_placeholders(
        self, masks: torch.Tensor, is_given: list[bool], position_ids: torch.Tensor | None = None
    ) -> torch.Tensor:
        """
        (batch, 3) presence, on the CPU, read off the prompt. Each modality has none or k placeholders in a row, and those of
        a row belong to one sequence.
        """
        counts = masks.sum(2).T
        if torch.compiler.is_compiling():  # no branch may depend on what a tensor holds
            return counts > 0
        if position_ids is None or position_ids.shape[-1] != masks.shape[-1]:
            packed = torch.zeros_like(counts[:, :1])
        else:
            packed = _spans_sequences(masks, position_ids)
        counts, packed = torch.cat([counts, packed], 1).cpu().split([3, 1], 1)  # the one time that a GPU is waited for
        k = self.config.num_modality_tokens
        presence = counts > 0
        if (presence & (counts != k)).any():
            row, modality = (presence & (counts != k)).nonzero()[0].tolist()
            raise ValueError(
                f"Row {row} has {counts[row, modality].item()} {PLACEHOLDERS[modality]} tokens, but a modality takes "
                f"exactly {k} (`num_modality_tokens`) or none in a prompt."
            )
        if packed.any():
            raise ValueError(
                f"Row {packed.nonzero()[0, 0].item()} has placeholders in several sequences (its `position_ids` start again), "
                "but a row's modalities are of one patient: the perception layer would mix several. Do not pack such rows."
            )
        for modality, given in enumerate(is_given):
            if not given and presence[:, modality].any():
                raise ValueError(
                    f"{presence[:, modality].sum().item()} of {len(presence)} prompts have a {PLACEHOLDERS[modality]} "
                    f"placeholder, but 0 rows of `{RAW_INPUT_NAMES[modality]}` or `{FEATURE_INPUT_NAMES[modality]}` "
                    "were passed."
                )
        return presence

    def _fuse(
        self, presence: torch.Tensor, values: Tensors, features: Tensors
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(batch, 3, k, d) and, where the gate ran, its scores (batch, k, 3)."""
        embeds = self._project_modalities(presence, values, features)
        return (embeds, None) if self.perception is None else self.perception(embeds, presence.to(embeds.device))

    def _project_modalities(self, presence: torch.Tensor, values: Tensors, features: Tensors) -> torch.Tensor:
        """(batch, 3, k, d): each modality's projected embeddings, zero in rows that lack it."""
        shape = (presence.shape[0], self.config.num_modality_tokens, self.config.text_config.hidden_size)
        embeds = [self._project(i, presence[:, i], values, features) for i in range(3)]
        # modalities may come from different devices, and from parts of different precision
        found = [tokens for tokens in embeds if tokens is not None]
        like = found[0] if found else torch.empty(0, device=presence.device, dtype=self.dtype)
        return torch.stack([like.new_zeros(shape) if t is None else t.to(like.device, like.dtype) for t in embeds], 1)

    def _project(self, i: int, rows: torch.Tensor, values: Tensors, features: Tensors) -> torch.Tensor | None:
        """(batch, k, d) of one modality, None where no row has it and nothing needs to run."""
        projector = self._projectors[i]
        tensor = features[i] if values[i] is None else values[i]
        if tensor is None:
            return self._project_nothing(i, rows.shape[0], values) if _runs_without_rows(projector) else None
        if torch.compiler.is_compiling():  # no shape may depend on what a tensor holds: every row is encoded
            rows = rows.to(tensor.device).view(-1, *[1] * (tensor.ndim - 1))
            tokens = self._encode_and_project(i, tensor.where(rows, 0), values[i] is not None)
            return tokens.where(rows.view(-1, 1, 1).to(tokens.device), 0)
        index = rows.nonzero().flatten()
        if not len(index):
            return self._project_nothing(i, len(rows), values) if _runs_without_rows(projector) else None
        whole = len(index) == len(rows)  # most batches are uniform and need no index
        tokens = self._encode_and_project(
            i, tensor if whole else tensor[index.to(tensor.device)], values[i] is not None
        )
        if whole:
            return tokens
        return tokens.new_zeros(len(rows), *tokens.shape[1:]).index_copy(0, index.to(tokens.device), tokens)

    def _encode_and_project(self, i: int, tensor: torch.Tensor, is_raw: bool) -> torch.Tensor:
        if is_raw:
            tensor = (self.get_ecg_features, self.get_cxr_features, self.get_lab_features)[i](tensor)
        projector = self._projectors[i]
        return projector(tensor.to(projector.linear.weight.dtype))

    def _project_nothing(self, i: int, batch_size: int, values: Tensors) -> torch.Tensor:
        """(batch, k, d) of zeros that a projector, in some runs an encoder too, has taken part in: see `_runs_without_rows`."""
        device = self._projectors[i].linear.weight.device
        is_raw = _is_distributed() and any(value is not None for value in values)
        if is_raw:
            config = self.config
            shapes = (
                (config.ecg_config.num_leads, 1000),
                cxr_input_size(config.cxr_config),
                (2 * config.lab_config.num_labs,),
            )
            zeros = torch.zeros(1, *shapes[i], device=self._encoders[i].device)
        else:
            length, size = self._feature_shapes()[i]
            zeros = torch.zeros(1, length or 1, size, device=device)
        tokens = self._encode_and_project(i, zeros, is_raw)
        return (0 * tokens).expand(batch_size, -1, -1)

    def _embed(
        self,
        input_ids: torch.LongTensor | None,
        inputs_embeds: torch.Tensor | None,
        position_ids: torch.Tensor | None,
        modality_embeds: torch.Tensor | None,
        values: Tensors,
        features: Tensors,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(batch, length, d) with the modalities in their places, and the gates (batch, k, 3) where they ran."""
        has_inputs = any(tensor is not None for tensor in (*values, *features))
        if has_inputs and modality_embeds is not None:
            raise ValueError("`modality_embeds` stands in place of every other modality input; pass one or the other.")
        if inputs_embeds is None:
            if input_ids is None:
                raise ValueError("Pass `input_ids` or `inputs_embeds`.")
            inputs_embeds = self.get_input_embeddings()(input_ids)
        elif input_ids is not None and input_ids.shape != inputs_embeds.shape[:2]:
            raise ValueError(
                f"`input_ids` {tuple(input_ids.shape)} and `inputs_embeds` {tuple(inputs_embeds.shape)} must be of the same "
                "batch and length."
            )
        batch_size, length, size = inputs_embeds.shape
        has_nothing = not has_inputs and modality_embeds is None
        # a training step of text alone, where another process may have a modality
        runs_anyway = (
            self.training and length > 1 and any(map(_runs_without_rows, (*self._projectors, self.perception)))
        )
        if has_nothing and not runs_anyway and (length == 1 or input_ids is None):
            # decoding steps never hold a placeholder, and a check would make the device wait for each of them
            return inputs_embeds, None
        is_given = (
            [True] * 3 if modality_embeds is not None else self._check_modality_inputs(values, features, batch_size)
        )
        masks = self._find_placeholders(input_ids, inputs_embeds)
        presence = self._check_placeholders(masks, is_given, position_ids)
        if has_nothing and not runs_anyway:
            return inputs_embeds, None
        if input_ids is None and not torch.compiler.is_compiling() and not presence.any():
            raise ValueError(
                "Modality inputs need `input_ids`, whose placeholders say where they go: `inputs_embeds` hold the embedding of "
                "none."
            )
        gates = None
        if modality_embeds is None:
            modality_embeds, gates = self._fuse(presence, values, features)
        elif tuple(modality_embeds.shape) != (batch_size, 3, self.config.num_modality_tokens, size):
            expected = (batch_size, 3, self.config.num_modality_tokens, size)
            raise ValueError(f"`modality_embeds` must be {expected}, got {tuple(modality_embeds.shape)}.")
        modality_embeds = modality_embeds.to(inputs_embeds)
        return self._merge(masks.to(inputs_embeds.device), inputs_embeds, modality_embeds), gates

    def _merge(self, masks: torch.Tensor, inputs_embeds: torch.Tensor, modality_embeds: torch.Tensor) -> torch.Tensor:
        """Puts the k embeddings of each modality, in order, where the prompt has its k placeholders."""
        k = self.config.num_modality_tokens
        nth = (masks.cumsum(2) - 1).clamp(0, k - 1) + k * torch.arange(3, device=masks.device).view(3, 1, 1)
        slots = (nth * masks).sum(0).unsqueeze(-1).expand(-1, -1, modality_embeds.shape[-1])
        tokens = modality_embeds.flatten(1, 2).gather(1, slots)
        return torch.where(masks.any(0).unsqueeze(-1), tokens, inputs_embeds)

    @capture_outputs
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
        inputs_embeds, gates = self._embed(
            input_ids,
            inputs_embeds,
            position_ids,
            modality_embeds,
            values=(ecg_values, pixel_values, lab_values),
            features=(ecg_features, cxr_features, lab_features),
        )
        if past_key_values is not None:  # `cache` in releases from 5.24 on, which is among the keywords
            kwargs["past_key_values"] = past_key_values  # type: ignore[typeddict-unknown-key]
        outputs = self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            # the Trainer switches it off in this config, not in the decoder's
            use_cache=self.config.use_cache if use_cache is None else use_cache,
            **kwargs,
        )
        # a decoder may put out more
        common = {name: outputs.get(name) for name in DECODER_OUTPUTS}
        return MedTVTModelOutputWithPast(**common, gates=gates)


def _keep_positions(hidden_states: torch.Tensor, logits_to_keep: int | torch.Tensor) -> torch.Tensor:
    # transformers' `slice_logits_to_keep`, which the oldest supported release lacks
    if isinstance(logits_to_keep, int):
        return hidden_states[:, -logits_to_keep:]
    if logits_to_keep.ndim < 2:
        return hidden_states[:, logits_to_keep]
    if logits_to_keep.dtype == torch.bool:
        return hidden_states[logits_to_keep]
    return hidden_states.take_along_dim(logits_to_keep.unsqueeze(-1), 1)


def _check_labels(hidden_states: torch.Tensor, **labels: torch.Tensor | None) -> None:
    for name, tensor in labels.items():
        if tensor is not None and tensor.shape != hidden_states.shape[:-1]:
            raise ValueError(
                f"`{name}` must be of the logits' batch and length, {tuple(hidden_states.shape[:-1])}, "
                f"got {tuple(tensor.shape)}."
            )


class MedTVTForCausalLM(MedTVTPreTrainedModel, GenerationMixin):
    """
    MedTVT-R1 with its language modeling head.

    Attributes:
        chunked_loss (`bool`): Whether a training step computes logits where there are labels only, a chunk at a time, and
            returns the loss without them: less memory where the vocabulary is large. False unless set.
    """

    chunked_loss = False

    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}

    def __init__(self, config: MedTVTConfig):
        super().__init__(config)
        config = self.config
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

    def get_image_features(self, pixel_values: torch.Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """See [`~MedTVTModel.get_image_features`]."""
        return self.model.get_image_features(pixel_values, **kwargs)

    def get_modality_embeds(self, *args: Any, **kwargs: Any) -> MedTVTModalityOutput:
        """See [`~MedTVTModel.get_modality_embeds`]."""
        return self.model.get_modality_embeds(*args, **kwargs)

    def get_prompt_embeds(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """See [`~MedTVTModel.get_prompt_embeds`]."""
        return self.model.get_prompt_embeds(*args, **kwargs)

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
            logits_to_keep (`int` or `torch.Tensor`): How many positions from the end (0 = all), or which, get logits:
                positions for all rows (1-D), for each row (2-D), or a mask (2-D, bool), whose logits come flattened.
            shift_labels (`torch.LongTensor`, *optional*): (batch, length), each the label of the next position, in place
                of `labels`, which must be passed all the same: for sequences that are spread over processes.

        Raises:
            ValueError: if `labels` or `shift_labels` are of another length than the logits.
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
        logits, loss = self._score(outputs.last_hidden_state, labels, logits_to_keep, **kwargs)
        others = {name: value for name, value in outputs.items() if name != "last_hidden_state"}
        return MedTVTCausalLMOutputWithPast(loss=loss, logits=logits, **others)

    def _score(
        self,
        hidden_states: torch.Tensor,
        labels: torch.Tensor | None,
        logits_to_keep: int | torch.Tensor,
        shift_labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Logits, None where `chunked_loss` does without them, and with labels the loss."""
        kept = _keep_positions(hidden_states, logits_to_keep)
        if labels is None:
            return self.lm_head(kept), None
        _check_labels(kept, labels=labels, shift_labels=shift_labels)
        if self.chunked_loss and self.training:
            return None, self._chunked_loss(kept, labels, shift_labels, num_items_in_batch)
        logits = self.lm_head(kept)
        loss = self.loss_function(
            logits=logits,
            labels=labels,
            vocab_size=self.config.text_config.vocab_size,
            shift_labels=shift_labels,
            num_items_in_batch=num_items_in_batch,
            **kwargs,
        )
        return logits, loss

    def _chunked_loss(
        self,
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
            ValueError: if modality inputs meet chunked prefill, which would cut them apart, or an `assistant_model` that
                cannot take them.
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
                self._check_assistant(kwargs["assistant_model"])
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

    def _check_assistant(self, assistant: PreTrainedModel) -> None:
        """It gets this model's `modality_embeds`."""
        own, other = self.config, assistant.config
        if other.model_type != own.model_type or (
            (other.text_config.hidden_size, other.num_modality_tokens, other.modality_token_ids)
            != (own.text_config.hidden_size, own.num_modality_tokens, own.modality_token_ids)
        ):
            raise ValueError(
                "`assistant_model` gets this model's modality embeddings, so it must be a MedTVT model of the same hidden "
                "size, `num_modality_tokens` and placeholder ids. `prompt_lookup_num_tokens` needs no other model."
            )

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
        # once in the cache, they are not needed again; an assistant is never told which iteration is its first
        ids = model_inputs["input_ids"]
        if is_first_iteration or not kwargs.get("use_cache", True) or (ids is not None and ids.shape[1] > 1):
            model_inputs["modality_embeds"] = modality_embeds
        return model_inputs


__all__ = ["MedTVTForCausalLM", "MedTVTModel", "MedTVTPreTrainedModel"]
