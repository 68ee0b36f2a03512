# SPDX-License-Identifier: Apache-2.0
"""Folders with tiny random models of the classes that the paper compares with, and their processors."""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    DeepseekVLProcessor,
    InternVLProcessor,
    LlavaNextProcessor,
    LlavaOnevisionProcessor,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLProcessor,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
from transformers.models.deepseek_vl.image_processing_pil_deepseek_vl import DeepseekVLImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from medtvt_training.evaluation.chat import ChatAnswerer

from tests.toy import toy_tokenizer


SIZE, PATCH = 32, 16
CHAT_TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{{ '<image>\\n' if part['type'] == 'image' else part['text'] }}"
    "{% endfor %}{% endfor %}"
)
_TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 8192,
}
_VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIZE,
    "patch_size": PATCH,
}


def write_tiny_peer(folder: Path, model_type: str) -> Any:
    """Writes model and processor, such that the Auto classes open them."""
    answerer = tiny_answerer(model_type)
    answerer.model.save_pretrained(folder)
    answerer.processor.save_pretrained(folder)
    return folder


def tiny_answerer(model_type: str, **kwargs: Any) -> ChatAnswerer:
    """A tiny random model of the class, with its processor."""
    tokenizer = _tokenizer()
    processor, config = _BUILDERS[model_type](tokenizer)
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config)
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    return ChatAnswerer(model, processor, **kwargs)


def _tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=toy_tokenizer().backend_tokenizer,
        bos_token="<|begin_of_text|>",
        eos_token="<|end_of_text|>",
        pad_token="<|pad|>",
        extra_special_tokens={
            **{"image_token": "<image>", "video_token": "<video>", "context_image_token": "<image>"},
            **{"start_image_token": "<img>", "end_image_token": "</img>"},
        },
    )
    return tokenizer


def _config(
    model_type: str, tokenizer: PreTrainedTokenizerFast, vision: Any, text_type: Any = "llama", **kwargs: Any
) -> Any:
    text = {**_TEXT, "model_type": text_type, "vocab_size": len(tokenizer)}
    text |= {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id")}
    ids = {"image_token_id": tokenizer.convert_tokens_to_ids("<image>")}
    return AutoConfig.for_model(model_type, vision_config=vision, text_config=text, **ids, **kwargs)


def _llava(tokenizer: PreTrainedTokenizerFast) -> Any:
    image_processor = LlavaImageProcessorPil(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE})
    layout = {"patch_size": PATCH, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    processor = LlavaProcessor(image_processor, tokenizer, chat_template=CHAT_TEMPLATE, **layout)
    return processor, _config("llava", tokenizer, {**_VISION, "model_type": "clip_vision_model"})


def _llava_next(tokenizer: PreTrainedTokenizerFast) -> Any:
    grid = [[SIZE, 2 * SIZE], [2 * SIZE, SIZE]]
    image_processor = LlavaNextImageProcessorPil(
        size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE}, image_grid_pinpoints=grid
    )
    layout = {"patch_size": PATCH, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    processor = LlavaNextProcessor(image_processor, tokenizer, chat_template=CHAT_TEMPLATE, **layout)
    vision = {**_VISION, "model_type": "clip_vision_model"}
    return processor, _config("llava_next", tokenizer, vision, image_grid_pinpoints=grid)


def _deepseek_vl(tokenizer: PreTrainedTokenizerFast) -> Any:
    image_processor = DeepseekVLImageProcessorPil(size={"height": SIZE, "width": SIZE}, min_size=14)
    processor = DeepseekVLProcessor(
        image_processor, tokenizer, chat_template=CHAT_TEMPLATE, num_image_tokens=(SIZE // PATCH) ** 2
    )
    return processor, _config("deepseek_vl", tokenizer, {**_VISION, "model_type": "siglip_vision_model"})


def _without_video(processor_class: Any) -> Any:
    """Video processors need torchvision; pictures do not."""

    class WithoutVideo(processor_class):
        def check_argument_for_proper_class(self, argument_name: Any, argument: Any) -> None:
            if argument_name != "video_processor":
                super().check_argument_for_proper_class(argument_name, argument)

    return WithoutVideo


def _llava_onevision(tokenizer: PreTrainedTokenizerFast) -> Any:
    grid = [[SIZE, SIZE], [SIZE, 2 * SIZE]]
    image_processor = LlavaOnevisionImageProcessorPil(size={"height": SIZE, "width": SIZE}, image_grid_pinpoints=grid)
    processor = _without_video(LlavaOnevisionProcessor)(
        image_processor,
        tokenizer,
        num_image_tokens=(SIZE // PATCH) ** 2,
        vision_feature_select_strategy="full",
        chat_template=CHAT_TEMPLATE,
    )
    vision = {**_VISION, "model_type": "siglip_vision_model", "vision_use_head": False}
    return processor, _config("llava_onevision", tokenizer, vision, "qwen2", image_grid_pinpoints=grid)


def _qwen2_5_vl(tokenizer: PreTrainedTokenizerFast) -> Any:
    image_processor = Qwen2VLImageProcessorPil(size={"shortest_edge": 28 * 28, "longest_edge": 112 * 112})
    processor = _without_video(Qwen2_5_VLProcessor)(image_processor, tokenizer, chat_template=CHAT_TEMPLATE)
    vision: dict[str, Any] = {
        "depth": 1,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_heads": 2,
        "out_hidden_size": 32,
    }
    vision["fullatt_block_indexes"] = [0]
    config = _config("qwen2_5_vl", tokenizer, vision, "qwen2_5_vl_text")
    config.text_config.rope_parameters = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
    return processor, config


def _internvl(tokenizer: PreTrainedTokenizerFast) -> Any:
    image_processor = GotOcr2ImageProcessorPil(size={"height": SIZE, "width": SIZE}, crop_to_patches=False)
    processor = _without_video(InternVLProcessor)(
        image_processor, tokenizer, image_seq_length=(SIZE // PATCH) ** 2 // 4, chat_template=CHAT_TEMPLATE
    )
    vision = {**_VISION, "image_size": [SIZE, SIZE], "patch_size": [PATCH, PATCH]}
    return processor, _config("internvl", tokenizer, vision, "qwen2", downsample_ratio=0.5)


_BUILDERS = {
    "llava": _llava,
    "llava_next": _llava_next,
    "llava_onevision": _llava_onevision,
    "qwen2_5_vl": _qwen2_5_vl,
    "internvl": _internvl,
    "deepseek_vl": _deepseek_vl,
}
CLASSES = {model_type: MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES[model_type] for model_type in _BUILDERS}
