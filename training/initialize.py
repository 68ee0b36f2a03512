# SPDX-License-Identifier: Apache-2.0
"""`medtvt init`: writes a fresh checkpoint folder, model and processor."""

import os
import tempfile
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import GenerationConfig, PreTrainedTokenizerFast

from modeling_medtvt import DISEASES, MedTVTConfig, MedTVTForCausalLM
from processing_medtvt import (
    LAB_DEFINITIONS,
    MedTVTEcgFeatureExtractor,
    MedTVTImageProcessor,
    MedTVTLabFeatureExtractor,
    MedTVTProcessor,
)


PLACEHOLDERS = ["<ecg>", "<cxr>", "<lab>"]
BOS, EOS, PAD = "<|begin_of_text|>", "<|end_of_text|>", "<|pad|>"


def add_arguments(parser):
    """Arguments of `medtvt init`."""
    parser.add_argument("out", help="folder to write; it must not exist, or be empty")
    parser.add_argument("--tiny", action="store_true", required=True, help="random weights, 3 MB, for tests and demos")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random weights (default: 0)")


def run(args):
    """Entry point of `medtvt init`."""
    init_tiny(args.out, seed=args.seed)
    print(f"{args.out}: a tiny MedTVT-R1 with random weights. Its answers mean nothing until it is trained.")


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on the package's own vocabulary of diseases, labs and modalities."""
    corpus = [
        *DISEASES,
        *(lab.name for lab in LAB_DEFINITIONS),
        "Can you analyze my ECG, CXR and lab result to determine my probable conditions?",
        "<think>From the electrocardiogram, the chest radiograph and the blood test</think><answer>; </answer>",
        "sinus rhythm atrial fibrillation tachycardia ischemia opacity effusion cardiomegaly raised reduced normal",
    ]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1024,
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
        additional_special_tokens=PLACEHOLDERS,
        padding_side="left",
        model_max_length=2048,
    )


def tiny_config(tokenizer, **kwargs) -> MedTVTConfig:
    """A model of under a million parameters with every part of the full one."""
    ids = {f"{name[1:-1]}_token_id": tokenizer.convert_tokens_to_ids(name) for name in PLACEHOLDERS}
    return MedTVTConfig(
        text_config={
            "model_type": "llama",
            "vocab_size": len(tokenizer),
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 2048,
            "tie_word_embeddings": True,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        ecg_config={"stem_sizes": (8, 8, 16), "stage_sizes": (8, 16, 16, 24), "depths": (1, 1, 2, 1)},
        cxr_config={
            "hidden_size": 48,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "patch_size": 32,
        },
        lab_config={"intermediate_size": 64, "hidden_size": 64},
        ecg_pooling_size=64,
        **ids,
        **kwargs,
    )


def default_processor(tokenizer, num_modality_tokens: int = 1) -> MedTVTProcessor:
    """The processor of a fresh model: MIMIC's lead order at 100 Hz, 224 x 224 images, reference-interval percentiles."""
    return MedTVTProcessor(
        ecg_feature_extractor=MedTVTEcgFeatureExtractor(),
        image_processor=MedTVTImageProcessor(),
        lab_feature_extractor=MedTVTLabFeatureExtractor(),
        tokenizer=tokenizer,
        num_modality_tokens=num_modality_tokens,
    )


def init_tiny(output_dir: str | os.PathLike, seed: int = 0, **config_kwargs) -> Path:
    """
    Writes a tiny checkpoint folder with random weights: model, processor, tokenizer, all made offline.

    Args:
        output_dir (`str` or `os.PathLike`): Folder to write. It appears only when it is complete.
        seed (`int`): Seed of the weights; the global random state is left as it was.
        **config_kwargs: Further arguments of [`MedTVTConfig`], e.g. `num_modality_tokens=4`.

    Raises:
        FileExistsError: if the folder exists and is not empty.
    """
    output_dir = Path(output_dir)
    if output_dir.exists() and (not output_dir.is_dir() or any(output_dir.iterdir())):
        raise FileExistsError(f"{output_dir} exists and is not an empty folder; choose another name or remove it.")
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
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output_dir.parent) as folder:
        complete = Path(folder) / "checkpoint"
        model.save_pretrained(complete)
        default_processor(tokenizer, config.num_modality_tokens).save_pretrained(complete)
        complete.rename(output_dir)
    return output_dir
