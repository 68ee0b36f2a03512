# SPDX-License-Identifier: Apache-2.0
"""Fresh model folders: tiny and random, or from pretrained parts."""

import os
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from modeling_medtvt import DISEASES, MedTVTConfig, MedTVTForCausalLM
from modeling_medtvt.convert_medtvt_encoders import load_ecg_encoder, load_lab_encoder
from modeling_medtvt.modeling_medtvt import PLACEHOLDERS
from modeling_medtvt.output_folder import check_new_folder, new_folder
from processing_medtvt import (
    LAB_DEFINITIONS,
    MedTVTEcgFeatureExtractor,
    MedTVTImageProcessor,
    MedTVTLabFeatureExtractor,
    MedTVTProcessor,
)

from ..extras import require_extra
from ..synthetic.vocabulary import answer_vocabulary


# Room for the evidence and the answer; the authors' limit
MAX_NEW_TOKENS = 600
# near 1 / sqrt(hidden size); with Llama's 0.02 a model of this width begins to learn much later
TINY_INITIALIZER_RANGE = 0.08
BOS, EOS, PAD = "<|begin_of_text|>", "<|end_of_text|>", "<|pad|>"


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on the words of the synthetic cohort's answers, and on the names of the labs."""
    corpus = [
        *(lab.name for lab in LAB_DEFINITIONS),
        *answer_vocabulary(),
        *["Can you analyze my ECG, CXR and lab result to determine my probable conditions?"] * 5,
        # these recur in every answer
        *[f"<answer>{disease}; {disease}</answer>" for disease in DISEASES] * 20,
        *["<think>ECG: x.\nCXR: x.\nLabs: x.\n</think>"] * 40,
    ]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1280,
        special_tokens=[PAD, BOS, EOS, *PLACEHOLDERS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        additional_special_tokens=list(PLACEHOLDERS),
        padding_side="left",
        model_max_length=2048,
    )


def tiny_config(tokenizer: PreTrainedTokenizerBase, **kwargs: Any) -> MedTVTConfig:
    """A model of two million parameters with every part of the full one."""
    ids = _placeholder_ids(tokenizer)
    return MedTVTConfig(
        text_config={
            "model_type": "llama",
            "vocab_size": len(tokenizer),
            "hidden_size": 128,
            "initializer_range": TINY_INITIALIZER_RANGE,
            "intermediate_size": 384,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 2048,
            "tie_word_embeddings": True,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        ecg_config={"stem_sizes": (16, 16, 32), "stage_sizes": (16, 24, 32, 48), "depths": (1, 1, 2, 1)},
        # a convolutional network learns more than a ViT from a few thousand films
        cxr_config={
            "model_type": "resnet",
            "image_size": 224,
            "embedding_size": 16,
            "hidden_sizes": [16, 40, 96, 160],
            "depths": [1, 2, 2, 2],
            "layer_type": "basic",
        },
        lab_config={"intermediate_size": 128, "hidden_size": 128},
        ecg_pooling_size=64,
        initializer_range=TINY_INITIALIZER_RANGE,
        **ids,
        **kwargs,
    )


def _placeholder_ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    return {f"{name[1:-1]}_token_id": tokenizer.convert_tokens_to_ids(name) for name in PLACEHOLDERS}


def default_processor(tokenizer: PreTrainedTokenizerBase, num_modality_tokens: int = 1) -> MedTVTProcessor:
    """The processor of a fresh model: MIMIC's lead order at 100 Hz, 224 x 224 images, reference-interval percentiles."""
    return MedTVTProcessor(
        ecg_feature_extractor=MedTVTEcgFeatureExtractor(),
        image_processor=MedTVTImageProcessor(),
        lab_feature_extractor=MedTVTLabFeatureExtractor(),
        tokenizer=tokenizer,
        num_modality_tokens=num_modality_tokens,
    )


def init_tiny(output_dir: str | os.PathLike, seed: int = 0, **config_kwargs: Any) -> Path:
    """
    Writes a tiny checkpoint folder with random weights: model, processor, tokenizer, all made offline.

    Args:
        output_dir (`str` or `os.PathLike`): Folder to write. It appears only when it is complete.
        seed (`int`): Seed of the weights; the global random state is left as it was.
        **config_kwargs: Further arguments of [`MedTVTConfig`], e.g. `num_modality_tokens=4`.

    Raises:
        FileExistsError: if the folder exists and is not empty.
    """
    tokenizer = tiny_tokenizer()
    config = tiny_config(tokenizer, **config_kwargs)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MedTVTForCausalLM(config)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        max_new_tokens=64,
    )
    return _save(model, default_processor(tokenizer, config.num_modality_tokens), output_dir)


def init_from_parts(
    output_dir: str | os.PathLike,
    text: str | None = None,
    cxr: str | None = None,
    ecg: str | os.PathLike | None = None,
    lab: str | os.PathLike | None = None,
    num_modality_tokens: int = 1,
    seed: int = 0,
    **config_kwargs: Any,
) -> Path:
    """
    Writes a fresh model from pretrained parts, with the three placeholder tokens added to the tokenizer and the
    processor matched to the parts. A part that is not given has the paper's shape and random weights; projectors and
    perception layer are always random.

    Args:
        output_dir (`str` or `os.PathLike`): Folder to write. It appears only when it is complete.
        text (`str`, *optional*): Decoder LM of transformers, Hub id or folder; a folder may hold one `.gguf` file (extra `gguf`).
            Its head must be linear, as in Llama, Qwen, Mistral and their like. Without it, a Llama-3.2-1B with random
            weights comes with the tiny tokenizer.
        cxr (`str`, *optional*): ViT, or a timm backbone's folder (extra `timm`), Hub id or folder.
        ecg (`str` or `os.PathLike`, *optional*): File of ECGFM-KED.
        lab (`str` or `os.PathLike`, *optional*): Lightning checkpoint of Symile.
        num_modality_tokens (`int`): Embeddings (k) that a modality takes in the prompt.
        seed (`int`): Seed of what is random.
        **config_kwargs: Further arguments of [`MedTVTConfig`], e.g. `gate_form="absent"`.

    Raises:
        FileExistsError: if the folder exists and is not empty.
        ValueError: if a part is not what it should be.
    """
    check_new_folder(output_dir)
    tokenizer, language_model = _load_text(text) if text else (tiny_tokenizer(), None)
    cxr_encoder, image_processor = _load_cxr_encoder(cxr) if cxr else (None, MedTVTImageProcessor())
    parts = {
        "ecg": load_ecg_encoder(ecg) if ecg else None,
        "cxr": cxr_encoder,
        "lab": load_lab_encoder(lab) if lab else None,
    }
    encoders: dict[str, Any] = {name: part for name, part in parts.items() if part is not None}
    config = MedTVTConfig(
        text_config=language_model.config if language_model else _random_text_config(tokenizer),
        num_modality_tokens=num_modality_tokens,
        **config_kwargs,
        **{f"{name}_config": encoder.config for name, encoder in encoders.items()},
        **_placeholder_ids(tokenizer),
    )
    if config.lab_config.num_labs != len(LAB_DEFINITIONS):
        raise ValueError(f"{lab}: takes {config.lab_config.num_labs} labs, but {len(LAB_DEFINITIONS)} are defined.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MedTVTForCausalLM(config)
    for name, encoder in encoders.items():
        getattr(model.model, f"{name}_encoder").load_state_dict(encoder.state_dict())
    if text and language_model:
        _copy_text(text, language_model, model)
        model.generation_config = language_model.generation_config
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    if model.generation_config.max_new_tokens is None:
        model.generation_config.max_new_tokens = MAX_NEW_TOKENS
    processor = default_processor(tokenizer, num_modality_tokens)
    processor.image_processor = image_processor
    if tokenizer.chat_template:
        processor.chat_template = {"default": tokenizer.chat_template, "plain": processor.default_chat_template}
    return _save(model, processor, output_dir)


def _random_text_config(tokenizer: PreTrainedTokenizerBase) -> Any:
    """A Llama-3.2-1B's, with the special tokens of another tokenizer."""
    config = MedTVTConfig().text_config
    config.update({name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")})
    return config


def _save(model: MedTVTForCausalLM, processor: MedTVTProcessor, output_dir: str | os.PathLike) -> Path:
    with new_folder(output_dir) as folder:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
    return Path(output_dir)


def gguf_arguments(text: str | os.PathLike) -> dict[str, str]:
    """
    What `from_pretrained` needs beside the folder: the name of its .gguf file, if it holds one.

    Raises:
        ValueError: if the folder holds several.
        ImportError: if the extra that reads them is missing.
    """
    files = sorted(file.name for file in Path(text).glob("*.gguf"))
    if not files:
        return {}
    if len(files) > 1:
        raise ValueError(f"{text} holds several .gguf files ({', '.join(files)}); leave the one to use.")
    require_extra("gguf", f"{files[0]} in {text}")
    return {"gguf_file": files[0]}


def _load_text(text: str) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """Tokenizer with the placeholders, and the decoder with rows for them; ties are kept."""
    kwargs = gguf_arguments(text)
    tokenizer = AutoTokenizer.from_pretrained(text, **kwargs)
    model = AutoModelForCausalLM.from_pretrained(text, dtype=torch.float32, **kwargs)
    tokenizer.add_special_tokens({"additional_special_tokens": list(PLACEHOLDERS)})
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    embeddings: Any = model.get_input_embeddings()
    if len(tokenizer) > len(embeddings.weight):
        model.resize_token_embeddings(len(tokenizer))
    model.config.pad_token_id = tokenizer.pad_token_id
    return tokenizer, model


@torch.no_grad()
def _copy_text(text: str, language_model: PreTrainedModel, model: MedTVTForCausalLM) -> None:
    """Copies the decoder, and makes sure that it still says what it said: some scale or cap their logits."""
    try:
        model.model.language_model.load_state_dict(language_model.base_model.state_dict())
        model.lm_head.load_state_dict(language_model.get_output_embeddings().state_dict())
    except RuntimeError as error:
        raise ValueError(
            f"{text}: {language_model.config.model_type!r} does not fit as a backbone. {error}"
        ) from error
    ids = torch.arange(3, 11)[None] % language_model.config.vocab_size
    difference = (model.eval()(ids).logits - language_model.eval()(ids).logits).abs().max().item()
    if difference > 1e-3:
        raise ValueError(
            f"{text}: {language_model.config.model_type!r} does more between its last hidden state and its logits than a "
            f"linear head (they differ by {difference:.2g}), so it cannot be a backbone. Llama-like decoders can."
        )


def _load_cxr_encoder(cxr: str) -> tuple[PreTrainedModel, MedTVTImageProcessor]:
    """The encoder, and an image processor with the size and the statistics that it was trained with."""
    config = AutoConfig.from_pretrained(cxr)
    if not hasattr(config, "image_size") and config.model_type != "timm_wrapper":
        raise ValueError(f"{cxr}: {config.model_type!r} is no image backbone; a ViT or a timm backbone is needed.")
    pooler = {"add_pooling_layer": False} if config.model_type == "vit" else {}
    encoder = AutoModel.from_pretrained(cxr, dtype=torch.float32, **pooler)
    if config.model_type == "timm_wrapper":
        trained = config.pretrained_cfg
        height, width = trained["input_size"][1:]
        mean, std = trained["mean"], trained["std"]
    else:
        height = width = config.image_size
        source = AutoImageProcessor.from_pretrained(cxr)
        mean, std = source.image_mean, source.image_std
    size = {"height": height, "width": width}
    return encoder, MedTVTImageProcessor(size=size, crop_size=size, image_mean=list(mean), image_std=list(std))
