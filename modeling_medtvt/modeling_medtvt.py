# SPDX-License-Identifier: Apache-2.0
"""MedTVT-R1: an ECG, a chest X-ray and a laboratory panel in front of a decoder LM (arXiv 2506.18512)."""

from dataclasses import fields
from typing import Any, Self

import torch
from torch import nn
from transformers import AutoModel, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast, BaseModelOutputWithPooling
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, is_timm_available, torch_compilable_check
from transformers.utils.generic import can_return_tuple
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .configuration_medtvt import MedTVTConfig
from .generation_medtvt import MedTVTGenerationMixin
from .loss_medtvt import check_labels, chunked_loss, keep_positions
from .modeling_medtvt_encoders import (
    MedTVTCxrProjector,
    MedTVTEcgEncoder,
    MedTVTEcgProjector,
    MedTVTLabEncoder,
    MedTVTLabProjector,
    as_sequence,
    cxr_input_size,
)
from .modeling_medtvt_inputs import (
    FEATURE_INPUT_NAMES,
    PLACEHOLDERS,
    RAW_INPUT_NAMES,
    Tensors,
    check_modality_inputs,
    check_placeholders,
    feature_shapes,
    find_placeholders,
    merge_modalities,
)
from .modeling_medtvt_outputs import MedTVTCausalLMOutputWithPast, MedTVTModalityOutput, MedTVTModelOutputWithPast
from .modeling_medtvt_perception import MedTVTCyclicAttention, MedTVTPerceptionLayer
from .modeling_medtvt_pretrained import MedTVTPreTrainedModel


# the cache among them is named as the release of transformers names it
DECODER_OUTPUTS = tuple(field.name for field in fields(BaseModelOutputWithPast))


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
        is_given = check_modality_inputs(
            self.config, values, features, (given[0] if input_ids is None else input_ids).shape[0]
        )
        if input_ids is None:
            presence = torch.tensor(is_given, device=given[0].device).expand(given[0].shape[0], 3)
        else:
            masks = find_placeholders(self.config, self.get_input_embeddings(), input_ids)
            presence = check_placeholders(masks, is_given, self.config.num_modality_tokens)
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
            length, size = feature_shapes(self.config)[i]
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
        cu_seq_lens: torch.Tensor | None = None,
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
            [True] * 3
            if modality_embeds is not None
            else check_modality_inputs(self.config, values, features, batch_size)
        )
        masks = find_placeholders(self.config, self.get_input_embeddings(), input_ids, inputs_embeds)
        presence = check_placeholders(masks, is_given, self.config.num_modality_tokens, position_ids, cu_seq_lens)
        if has_nothing and not runs_anyway:
            return inputs_embeds, None
        if input_ids is None:
            torch_compilable_check(
                presence.any(),
                "Modality inputs need `input_ids`, whose placeholders say where they go: `inputs_embeds` hold the embedding of "
                "none.",
            )
        gates = None
        if modality_embeds is None:
            modality_embeds, gates = self._fuse(presence, values, features)
        elif tuple(modality_embeds.shape) != (batch_size, 3, self.config.num_modality_tokens, size):
            expected = (batch_size, 3, self.config.num_modality_tokens, size)
            raise ValueError(f"`modality_embeds` must be {expected}, got {tuple(modality_embeds.shape)}.")
        modality_embeds = modality_embeds.to(inputs_embeds)
        return merge_modalities(masks.to(inputs_embeds.device), inputs_embeds, modality_embeds), gates

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
            cu_seq_lens=kwargs.get("cu_seq_lens_q"),
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


class MedTVTForCausalLM(MedTVTPreTrainedModel, MedTVTGenerationMixin):
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
        kept = keep_positions(hidden_states, logits_to_keep)
        if labels is None:
            return self.lm_head(kept), None
        check_labels(kept, labels=labels, shift_labels=shift_labels)
        if self.chunked_loss and self.training:
            return None, chunked_loss(self.lm_head, kept, labels, shift_labels, num_items_in_batch)
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


__all__ = [
    "FEATURE_INPUT_NAMES",
    "PLACEHOLDERS",
    "RAW_INPUT_NAMES",
    "MedTVTForCausalLM",
    "MedTVTModel",
    "MedTVTPreTrainedModel",
]
