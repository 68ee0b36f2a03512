# SPDX-License-Identifier: Apache-2.0
"""Models of published shapes with random weights, the bare language model inside, and inputs for both."""

from typing import Any

import torch
from transformers import AutoModelForCausalLM

from medtvt_training.stages.initialize import tiny_config, tiny_tokenizer
from modeling_medtvt import MedTVTConfig, MedTVTForCausalLM
from modeling_medtvt.modeling_medtvt import FEATURE_INPUT_NAMES, PLACEHOLDERS


SMOLLM2_135M = {
    **{"model_type": "llama", "vocab_size": 49155, "hidden_size": 576, "intermediate_size": 1536},
    **{"num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 8192},
    **{"rms_norm_eps": 1e-5, "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0}},
    "tie_word_embeddings": True,
}
# the tiny model, four times as wide
WIDTH_512 = {"hidden_size": 512, "intermediate_size": 1536, "num_attention_heads": 8, "num_key_value_heads": 4}
DTYPES = {"cpu": torch.float32, "cuda": torch.bfloat16}
# the two largest ones have the paper's encoders
SIZES: dict[str, dict[str, Any]] = {
    **{"tiny": {}, "width-512": WIDTH_512, "smollm2-135m": SMOLLM2_135M, "llama-3.2-1b": {}}
}


def make_config(size: str) -> MedTVTConfig:
    """Special tokens are those of the tiny tokenizer, whatever the vocabulary's size."""
    tokenizer = tiny_tokenizer()
    if size in ("tiny", "width-512"):
        config = tiny_config(tokenizer).to_dict()
        return MedTVTConfig(**{**config, "text_config": {**config["text_config"], "head_dim": None, **SIZES[size]}})
    text = SIZES[size] or MedTVTConfig().text_config.to_dict()
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    placeholders: dict[str, Any] = {
        f"{name[1:-1]}_token_id": tokenizer.convert_tokens_to_ids(name) for name in PLACEHOLDERS
    }
    return MedTVTConfig(text_config={**text, **ids}, **placeholders)


def build(size: str, device: str) -> MedTVTForCausalLM:
    """In float32 on the CPU and bfloat16 on CUDA."""
    torch.manual_seed(0)
    return MedTVTForCausalLM(make_config(size)).eval().to(device, DTYPES[device])


def bare(model: MedTVTForCausalLM) -> torch.nn.Module:
    """The language model as transformers' own class (`LlamaForCausalLM`), around the same modules."""
    with torch.device("meta"):
        bare = AutoModelForCausalLM.from_config(model.config.text_config)
    bare.model, bare.lm_head = model.model.language_model, model.lm_head
    return bare.eval()


def build_bare(size: str, device: str) -> torch.nn.Module:
    """The language model alone, with weights of its own."""
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(make_config(size).text_config).eval().to(device, DTYPES[device])


def make_prompt(config: MedTVTConfig, batch: int, length: int, device: str) -> dict[str, torch.Tensor]:
    """Random ids with the three placeholders near the start; to the bare model they are tokens like any other."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(300, 1200, (batch, length), generator=generator)
    placeholders = torch.tensor(config.modality_token_ids).repeat_interleave(config.num_modality_tokens)
    ids[:, 1 : 1 + len(placeholders)] = placeholders
    return {"input_ids": ids.to(device), "attention_mask": torch.ones_like(ids).to(device)}


def make_values(batch: int, device: str) -> dict[str, torch.Tensor]:
    """Raw inputs of the encoders."""
    generator = torch.Generator().manual_seed(0)
    values = {
        "ecg_values": torch.randn(batch, 12, 1000, generator=generator) / 5,
        "pixel_values": torch.randn(batch, 3, 224, 224, generator=generator),
        "lab_values": torch.rand(batch, 100, generator=generator),
    }
    return {name: tensor.to(device) for name, tensor in values.items()}


@torch.no_grad()
def encode(model: MedTVTForCausalLM, values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """One pass of each encoder."""
    encoders = (model.get_ecg_features, model.get_cxr_features, model.get_lab_features)
    return {name: run(tensor) for name, run, tensor in zip(FEATURE_INPUT_NAMES, encoders, values.values())}
