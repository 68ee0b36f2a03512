# SPDX-License-Identifier: Apache-2.0
"""
Tokenizer, processor and generation config for the authors' checkpoints: Llama 3's tiktoken ranks (`tokenizer.model`)
with the authors' special tokens, their preprocessing, their sampling.
"""

import base64
import binascii
import os
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from tokenizers.processors import TemplateProcessing
from transformers import GenerationConfig, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import TikTokenConverter
from transformers.models.auto.feature_extraction_auto import FEATURE_EXTRACTOR_MAPPING
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

from .configuration_medtvt import MedTVTConfig, MedTVTEcgConfig, MedTVTLabConfig
from .modeling_medtvt import PLACEHOLDERS


BOS, EOS, END_OF_TURN = "<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"
TAGS = ("<think>", "</think>", "<answer>", "</answer>")
HEADERS = ("<|start_header_id|>", "<|end_header_id|>")
RESERVED = tuple(f"<|reserved_special_token_{i}|>" for i in range(7, 249))
# In the authors' order, right behind the ranks: they inserted seven tokens into Llama 3's own table, so that the chat
# headers and the end of a turn sit elsewhere than Meta's
SPECIAL_TOKENS = (BOS, EOS, *TAGS, *PLACEHOLDERS, *HEADERS, END_OF_TURN, *RESERVED)
# Rows that Llama 3's embedding has beyond the ranks; the authors' special tokens fill all but the last two
NUM_SPECIAL_ROWS = 256
# Rotary table of the authors' model, hard-coded
MAX_LENGTH = 1024

IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
SAMPLING = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "max_new_tokens": 600}


def read_ranks(path: str | os.PathLike) -> dict[bytes, int]:
    """
    Reads a tiktoken ranks file: one token a line, base64, a space and its rank.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is something else, or the ranks are not 0, 1, 2, ... without a gap or a repetition.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"Tokenizer file {path}: no such file. Meta's `tokenizer.model` of Llama 3 is needed.")
    ranks = {}
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error) as error:
            raise ValueError(
                f"Tokenizer file {path}: line {number} is not a base64 token and its rank. Meta's `tokenizer.model` "
                "of Llama 3 is needed, which is such a text file (that of Llama 2 is not)."
            ) from error
    if not ranks or sorted(ranks.values()) != list(range(len(ranks))):
        raise ValueError(f"Tokenizer file {path}: the ranks of its lines are not 0, 1, 2, ... each once.")
    return ranks


class _RanksConverter(TikTokenConverter):
    """transformers' converter, reading ranks without tiktoken and with ids for the tokens that text never yields."""

    @staticmethod
    def load_tiktoken_bpe(path: str) -> dict[bytes, int]:
        return read_ranks(path)

    def extract_vocab_merges_from_model(self, path: str) -> tuple[dict[str, int], list[tuple[str, str]]]:
        vocab, merges = super().extract_vocab_merges_from_model(path)
        return {**vocab, **{token: len(vocab) + i for i, token in enumerate(SPECIAL_TOKENS)}}, merges


def convert_tokenizer(path: str | os.PathLike) -> PreTrainedTokenizerFast:
    """
    Builds the tokenizer of the authors' checkpoints: `<|begin_of_text|>` in front, no end token, padding on the left
    with the end token.

    The placeholders `<ecg>`, `<cxr>` and `<lab>`, the begin, the end and the end of a turn are recognised in text. The
    other names, the four tags among them, have their ids and are still encoded as ordinary text, as the authors do: as
    entries of the vocabulary without a merge that leads to them. The authors encode even the begin and the end as
    text where these stand in a question; `split_special_tokens=True` does that. It keeps the placeholders, which is
    why they are added tokens but not "special" ones.

    Args:
        path (`str` or `os.PathLike`): Meta's `tokenizer.model`.

    Returns:
        `PreTrainedTokenizerFast` with as many ids as the file has ranks, plus 254.

    Raises:
        FileNotFoundError, ValueError: as [`read_ranks`].
    """
    backend = _RanksConverter(os.fspath(path)).converted()
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in (BOS, EOS, END_OF_TURN)])
    backend.add_tokens([AddedToken(token, normalized=False, special=False) for token in PLACEHOLDERS])
    backend.post_processor = TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS}:1 $B:1", special_tokens=[(BOS, backend.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=EOS,
        extra_special_tokens=[END_OF_TURN],
        padding_side="left",
        model_max_length=MAX_LENGTH,
        clean_up_tokenization_spaces=False,
    )


def build_generation_config(tokenizer: PreTrainedTokenizerFast) -> GenerationConfig:
    """The authors' sampling and their two stop ids, of which the second is not Meta's."""
    return GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=[tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(END_OF_TURN)],
        pad_token_id=tokenizer.pad_token_id,
        **SAMPLING,
    )


def build_processor(config: MedTVTConfig, tokenizer: PreTrainedTokenizerFast, lab_means: str | os.PathLike) -> Any:
    """
    Builds a `MedTVTProcessor` with the authors' preprocessing. Its classes come from transformers' registries, where
    importing this package puts them: none of its files imports theirs.

    Args:
        config ([`MedTVTConfig`]): Of the checkpoint.
        tokenizer (`PreTrainedTokenizerFast`): See [`convert_tokenizer`].
        lab_means (`str` or `os.PathLike`): The authors' `labs_means.json`, which names and orders the labs.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no means file, or has another number of labs than the checkpoint.
    """
    if not Path(lab_means).is_file():
        raise FileNotFoundError(f"Lab means file {lab_means}: no such file. The authors' `labs_means.json` is needed.")
    # their types say what transformers registers, not what this package does
    feature_extractors: Any = FEATURE_EXTRACTOR_MAPPING
    image_processors: Any = IMAGE_PROCESSOR_MAPPING
    processors: Any = PROCESSOR_MAPPING
    lab = feature_extractors[MedTVTLabConfig].from_means(lab_means, percentile_source="none")
    if len(lab.lab_names) != config.lab_config.num_labs:
        raise ValueError(
            f"Lab means file {lab_means}: has {len(lab.lab_names)} labs, the checkpoint's laboratory encoder takes "
            f"{config.lab_config.num_labs}."
        )
    size = config.cxr_config.image_size
    image_processor = image_processors[MedTVTConfig]["pil"](
        size={"shortest_edge": 400},
        do_center_crop=True,
        crop_size={"height": size, "width": size},
        image_mean=IMAGENET_MEAN,
        image_std=IMAGENET_STD,
    )
    # one missing sample zeroes its lead, as with the authors
    ecg = feature_extractors[MedTVTEcgConfig](nan_policy="zero")
    processor_class = processors[MedTVTConfig]
    return processor_class(
        ecg, image_processor, lab, tokenizer, config.num_modality_tokens, processor_class.default_chat_template
    )
