# SPDX-License-Identifier: Apache-2.0
"""`generate` with modalities, which are encoded once."""

from typing import Any

import torch
from transformers import GenerationConfig, GenerationMixin, LogitsProcessorList, PreTrainedModel
from transformers.cache_utils import Cache

from .logits_processors_medtvt import FiniteLogitsProcessor, PlaceholderLogitsProcessor
from .modeling_medtvt_inputs import FEATURE_INPUT_NAMES, RAW_INPUT_NAMES


class MedTVTGenerationMixin(GenerationMixin):
    """As in transformers, for a model that takes modalities."""

    config: Any
    device: Any
    get_modality_embeds: Any

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
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        if cache is not None:  # `past_key_values`, which is among the keywords, in releases before 5.24
            kwargs["cache"] = cache
        model_inputs = super().prepare_inputs_for_generation(  # type: ignore[misc]  # a protocol of more
            input_ids, inputs_embeds=inputs_embeds, is_first_iteration=is_first_iteration, **kwargs
        )
        # once in the cache, they are not needed again; an assistant is never told which iteration is its first
        ids = model_inputs["input_ids"]
        if is_first_iteration or not kwargs.get("use_cache", True) or (ids is not None and ids.shape[1] > 1):
            model_inputs["modality_embeds"] = modality_embeds
        return model_inputs


__all__ = ["MedTVTGenerationMixin"]
