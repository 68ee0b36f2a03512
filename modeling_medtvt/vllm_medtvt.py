# SPDX-License-Identifier: Apache-2.0
"""
vLLM's plugin: `vllm serve FOLDER --enable-prompt-embeds` serves the language model of a checkpoint folder. Prompts come as
the embeddings that `get_prompt_embeds` gives: the perception layer mixes the modalities of a patient, whereas vLLM encodes
each item of a prompt by itself.
"""

from collections.abc import Iterable
from typing import Any

import torch
from vllm import ModelRegistry
from vllm.config import VllmConfig
from vllm.model_executor.models.llama import LlamaForCausalLM
from vllm.model_executor.models.utils import AutoWeightsLoader, WeightsMapper


def register() -> None:
    """Entry point of the group `vllm.general_plugins`. Importing this package has registered the config already."""
    ModelRegistry.register_model("MedTVTForCausalLM", f"{__name__}:{VllmMedTVTForCausalLM.__name__}")


class VllmMedTVTForCausalLM(LlamaForCausalLM):
    """
    The decoder of a [`MedTVTForCausalLM`] as vLLM's Llama; encoders, projectors and perception layer are not loaded.

    Raises:
        ValueError: if the decoder is no Llama.
    """

    # names of weights, and of LoRA's
    hf_to_vllm_mapper = WeightsMapper(orig_to_new_prefix={"model.language_model.": "model."})
    # with prompt embeddings, vLLM's LoRA finds no token embedding to wrap
    embedding_modules: dict[str, str] = {}

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "", **kwargs: Any) -> None:
        text_config = vllm_config.model_config.hf_config.get_text_config()
        if text_config.model_type != "llama":
            raise ValueError(f"The decoder is of type {text_config.model_type!r}; with vLLM, accepted is 'llama'.")
        text_config.tie_word_embeddings = vllm_config.model_config.hf_config.tie_word_embeddings
        super().__init__(
            vllm_config=vllm_config.with_hf_config(text_config, architectures=["LlamaForCausalLM"]),
            prefix=prefix,
            **kwargs,
        )

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """Takes the decoder's and, where it is not tied, the head's."""
        wanted = ["model.language_model.", *(["lm_head."] if not self.config.tie_word_embeddings else [])]
        kept = ((name, tensor) for name, tensor in weights if name.startswith(tuple(wanted)))
        return AutoWeightsLoader(self).load_weights(kept, mapper=self.hf_to_vllm_mapper)
