# SPDX-License-Identifier: Apache-2.0
"""Loading, saving and initialisation: what both models have in common."""

import copy
import math
import os
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init

from .configuration_medtvt import MedTVTConfig
from .modeling_medtvt_encoders import MedTVTRecurrentLayer, measure_cxr_features
from .modeling_medtvt_perception import MedTVTPerceptionLayer
from .provenance_medtvt import Provenance


ENCODER_NAMES: dict[str | None, str] = {"ecg": "ecg_encoder", "image": "cxr_encoder", "lab": "lab_encoder"}
KEPT_IN_FP32 = (
    *("ecg_encoder", "cxr_encoder", "lab_encoder"),
    *("ecg_projector", "cxr_projector", "lab_projector", "perception"),
)
# An untrained gate lets its modality through: sigmoid(4) = 0.98 and, where a decoder sees the gate, so that it learns,
# sigmoid(2) = 0.88, whose slope is six times steeper
GATE_BIAS_AT_START = {"scale": 4.0, "absent": 2.0}


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
    _skip_keys_device_placement = ["past_key_values", "cache"]  # the latter in releases from 5.24 on
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


__all__ = ["MedTVTPreTrainedModel"]
