# SPDX-License-Identifier: Apache-2.0
"""Configuration of MedTVT-R1: a decoder LM with an ECG, a chest X-ray and a laboratory tower."""

import copy
from typing import Any

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PreTrainedConfig
from transformers.activations import ACT2FN
from transformers.models.auto import CONFIG_MAPPING


# What configs of older versions held too: how weights are trained, and on what (see [`Provenance`])
NO_ARCHITECTURE = ("stage", "training_data", "chunked_loss", "freeze_encoders")
GATE_FORMS = ("scale", "absent")


@strict
class MedTVTEcgConfig(PreTrainedConfig):
    r"""
    The xresnet1d ECG encoder. The defaults are xresnet1d-101 as released with ECGFM-KED.

    Args:
        num_leads (`int`): Leads of the input, in the order of the feature extractor.
        stem_sizes (`list[int]`): Channels of the three stem convolutions.
        stage_sizes (`list[int]`): Bottleneck width of each stage; a stage's output has `expansion` times as many channels.
        depths (`list[int]`): Blocks per stage.
        expansion (`int`): Ratio between a block's output and its bottleneck width.
        kernel_size (`int`): Kernel of the stem and of each block's middle convolution (odd).
        batch_norm_eps (`float`): Epsilon of the batch norms.
        initializer_range (`float`): Standard deviation of randomly drawn convolution weights.
    """

    model_type = "medtvt_ecg"

    num_leads: int = 12
    stem_sizes: list[int] | tuple[int, ...] = (32, 32, 64)
    stage_sizes: list[int] | tuple[int, ...] = (64, 128, 128, 192)
    depths: list[int] | tuple[int, ...] = (3, 4, 23, 3)
    expansion: int = 4
    kernel_size: int = 5
    batch_norm_eps: float = 1e-5
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        if len(self.stage_sizes) != len(self.depths):
            raise ValueError(f"`stage_sizes` has {len(self.stage_sizes)} stages, `depths` has {len(self.depths)}.")
        for name in ("stem_sizes", "stage_sizes", "depths"):
            if not getattr(self, name) or any(size < 1 for size in getattr(self, name)):
                raise ValueError(f"`{name}` must be whole numbers of at least 1, got {list(getattr(self, name))}.")
        super().__post_init__(**kwargs)

    @property
    def hidden_size(self) -> int:
        """Channels of the encoder's output."""
        return self.stage_sizes[-1] * self.expansion


@strict
class MedTVTLabConfig(PreTrainedConfig):
    r"""
    The laboratory MLP of Symile: percentiles and present-flags in, one feature vector out.

    Args:
        num_labs (`int`): Number of laboratory tests; the input has twice as many values.
        intermediate_size (`int`): Width of the first layer.
        hidden_size (`int`): Width of the second and third layer, and of the output.
        hidden_act (`str`): Activation after the first two layers.
        layer_norm_eps (`float`): Epsilon of the final layer norm.
        initializer_range (`float`): Standard deviation of randomly drawn weights.
    """

    model_type = "medtvt_lab"

    num_labs: int = 50
    intermediate_size: int = 256
    hidden_size: int = 1024
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02


def _llama_3_2_1b() -> PreTrainedConfig:
    """Llama-3.2-1B with three more tokens, for `<ecg>`, `<cxr>` and `<lab>`."""
    llama: Any = CONFIG_MAPPING["llama"]
    return llama(
        vocab_size=128259,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=64,
        max_position_embeddings=131072,
        rms_norm_eps=1e-5,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 32.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
        bos_token_id=128000,
        eos_token_id=128001,
        tie_word_embeddings=True,
    )


def _as_config(name: str, config: dict | PreTrainedConfig | None, default_model_type: str) -> PreTrainedConfig:
    if isinstance(config, PreTrainedConfig):
        return copy.deepcopy(config)  # transformers resets its attention, which a loaded model may be using
    if not isinstance(config, dict | None):
        raise ValueError(f"`{name}` must be a dict or a config, got {type(config).__name__}.")
    config = dict(config or {})
    model_type = config.pop("model_type", default_model_type)
    own = {config_class.model_type: config_class for config_class in (MedTVTEcgConfig, MedTVTLabConfig)}
    if not isinstance(model_type, str) or not (model_type in own or model_type in CONFIG_MAPPING):
        raise ValueError(f"`{name}`: this transformers knows no model type {model_type!r}.")
    try:
        return (own.get(model_type) or CONFIG_MAPPING[model_type])(**config)
    except (ArithmeticError, AttributeError, KeyError, StrictDataclassError, TypeError, ValueError) as error:
        raise ValueError(f"`{name}` is no config of type {model_type!r}: {error!r}.") from error


def _check_positive(name: str, config: PreTrainedConfig, keys: tuple[str, ...]) -> None:
    """Raises ValueError for the first of these whole numbers that is below one."""
    for key in keys:
        value = getattr(config, key, None)
        if isinstance(value, int) and value < 1:
            raise ValueError(f"`{name}`: `{key}` must be a whole number of at least 1, got {value!r}.")


def _check_activation(name: str, config: PreTrainedConfig) -> None:
    for key in ("hidden_act", "hidden_activation", "activation_function"):
        value = getattr(config, key, None)
        if isinstance(value, str) and value not in ACT2FN:
            raise ValueError(f"`{name}`: `{key}` names no activation of transformers: {value!r}.")


@strict
class MedTVTConfig(PreTrainedConfig):
    r"""
    Configuration of [`MedTVTModel`] and [`MedTVTForCausalLM`]. `MedTVTConfig()` is the model of the paper
    (arXiv 2506.18512): Llama-3.2-1B, xresnet1d-101, ViT-B/16 and Symile's laboratory MLP.

    Args:
        text_config (`dict` or `PreTrainedConfig`): Any decoder LM of transformers. Default: Llama-3.2-1B.
        ecg_config (`dict` or [`MedTVTEcgConfig`]): The ECG encoder.
        cxr_config (`dict` or `PreTrainedConfig`): The X-ray encoder, a ViT by default; `timm_wrapper` opens it to any
            timm backbone.
        lab_config (`dict` or [`MedTVTLabConfig`]): The laboratory encoder.
        ecg_token_id, cxr_token_id, lab_token_id (`int`): Ids of the placeholders `<ecg>`, `<cxr>` and `<lab>`.
        num_modality_tokens (`int`): Embeddings (k) that a modality takes in the prompt. The paper has one.
        projector_depth (`int`): Dense blocks of each projector.
        projector_rms_norm_eps (`float`): Epsilon of their RMS norms.
        ecg_pooling_size (`int`): Hidden size of the recurrent pooling over the ECG's time steps.
        cxr_hidden_size, cxr_sequence_length (`int`): Shape of the X-ray encoder's output. Read off a ViT's config, and
            measured once for other backbones.
        use_perception (`bool`): Whether the perception layer runs. It is off in the PT stage.
        use_cyclic_attention, use_contribution_gate (`bool`): The layer's two parts, for ablations (Table 3a).
        gate_form (`str`): What the gate's score g does to a modality M: `"scale"` is g M, equation 3; `"absent"` is
            g M + (1 - g) a, with a learned vector a of the length of M, so that a decoder whose norm cancels scale sees it.
        num_perception_heads (`int`): Heads of the cyclic attention.
        fusion_scale (`float`): Weight of the fusion term in equation 2: 1.0 in the paper, 0.01 in the authors' code.
        perception_layer_norm_eps (`float`): Epsilon of the layer norm after the fusion.
        use_cache (`bool`): Whether `forward` returns keys and values where it is not told; `generate` always says.
        tie_word_embeddings (`bool`): Whether input and output embeddings share their weights. Default: as in
            `text_config`.
    """

    model_type = "medtvt"
    # transformers' and trl's image-text code reads `image_token_id`
    attribute_map = {"image_token_id": "cxr_token_id"}
    sub_configs = {
        "text_config": AutoConfig,
        "ecg_config": MedTVTEcgConfig,
        "cxr_config": AutoConfig,
        "lab_config": MedTVTLabConfig,
    }

    # a dict or None when given, a config once `__post_init__` has run
    text_config: Any = None
    ecg_config: Any = None
    cxr_config: Any = None
    lab_config: Any = None
    ecg_token_id: int = 128256
    cxr_token_id: int = 128257
    lab_token_id: int = 128258
    num_modality_tokens: int = 1
    projector_depth: int = 3
    projector_rms_norm_eps: float = 1e-6
    ecg_pooling_size: int = 1024
    cxr_hidden_size: int | None = None
    cxr_sequence_length: int | None = None
    use_perception: bool = True
    use_cyclic_attention: bool = True
    use_contribution_gate: bool = True
    gate_form: str = "scale"
    num_perception_heads: int = 4
    fusion_scale: float = 1.0
    perception_layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02
    use_cache: bool = True
    tie_word_embeddings: bool | None = None

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """
        As in transformers.

        Raises:
            ValueError: if a value is of another type than its field, or out of range.
        """
        try:
            return super().from_dict(config_dict, **kwargs)
        except StrictDataclassError as error:  # no ValueError, and on several lines
            where = kwargs.get("name_or_path") or config_dict.get("_name_or_path") or "MedTVTConfig"
            raise ValueError(f"{where}: {' '.join(str(error).split())}") from error

    def __post_init__(self, **kwargs: Any) -> None:
        for name in NO_ARCHITECTURE:
            kwargs.pop(name, None)
        if self.text_config is None:
            self.text_config = _llama_3_2_1b()
        self.text_config = _as_config("text_config", self.text_config, "llama")
        self.cxr_config = _as_config("cxr_config", self.cxr_config, "vit")
        self.ecg_config = _as_config("ecg_config", self.ecg_config, "medtvt_ecg")
        self.lab_config = _as_config("lab_config", self.lab_config, "medtvt_lab")
        self._check_parts()
        if self.cxr_config.model_type == "vit":
            patches_per_side = self.cxr_config.image_size // self.cxr_config.patch_size
            self.cxr_hidden_size = self.cxr_config.hidden_size
            self.cxr_sequence_length = patches_per_side**2 + 1
        # transformers reads the tie at the top level
        if self.tie_word_embeddings is None:
            self.tie_word_embeddings = self.text_config.tie_word_embeddings
        self._check()
        super().__post_init__(**kwargs)

    def _check_parts(self) -> None:
        heads = ("num_hidden_layers", "num_attention_heads", "num_key_value_heads")
        _check_positive("text_config", self.text_config, ("vocab_size", "hidden_size", "intermediate_size", *heads))
        if self.cxr_config.model_type == "vit":
            _check_positive("cxr_config", self.cxr_config, ("image_size", "patch_size", "hidden_size", *heads[:2]))
        _check_positive("lab_config", self.lab_config, ("num_labs", "intermediate_size", "hidden_size"))
        _check_positive("ecg_config", self.ecg_config, ("num_leads", "expansion", "kernel_size"))
        for name in ("text_config", "cxr_config", "lab_config"):
            _check_activation(name, getattr(self, name))

    def _check(self) -> None:
        placeholders = self.modality_token_ids
        vocab_size = self.text_config.vocab_size
        if len(set(placeholders)) != 3 or not all(0 <= token_id < vocab_size for token_id in placeholders):
            raise ValueError(
                "`ecg_token_id`, `cxr_token_id` and `lab_token_id` must be three different ids below the vocabulary "
                f"size of `text_config` ({vocab_size}), got {placeholders}."
            )
        _check_positive("config", self, ("num_modality_tokens", "num_perception_heads", "ecg_pooling_size"))
        if self.gate_form not in GATE_FORMS:
            raise ValueError(f"`gate_form` must be one of {', '.join(map(repr, GATE_FORMS))}, got {self.gate_form!r}.")
        if self.projector_depth < 0:
            raise ValueError(f"`projector_depth` must not be negative, got {self.projector_depth}.")
        if self.text_config.hidden_size % self.num_perception_heads:
            raise ValueError(
                f"`num_perception_heads` ({self.num_perception_heads}) must divide the language model's hidden size "
                f"({self.text_config.hidden_size})."
            )

    @property
    def modality_token_ids(self) -> tuple[int, int, int]:
        """Placeholder ids in the package's order of modalities: ECG, CXR, LAB."""
        return self.ecg_token_id, self.cxr_token_id, self.lab_token_id


__all__ = ["MedTVTConfig", "MedTVTEcgConfig", "MedTVTLabConfig"]
