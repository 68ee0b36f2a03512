# SPDX-License-Identifier: Apache-2.0
"""
Evaluates other models on the same records, with the same parser and metrics: chat models of transformers or of a server,
and gradient boosting, which gets labs and measurements as numbers.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from datasets import Dataset
from transformers import set_seed
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from ..data.feature_cache import FeatureCache
from ..data.measures import measure_row
from ..data.rows import QARow
from ..data.schema import FEATURES
from ..files import fingerprint, hash_folder, markdown_table
from ..mimic.teachers import OpenAITeacher
from ..stages.initialize import MAX_NEW_TOKENS
from .chat import load_answerer
from .endpoint import EndpointAnswerer
from .evidence_check import EvidenceChecker
from .gradient_boosting import EncoderMeasure, GradientBoostingAnswerer
from .ranks import choose_device
from .run import Answerer, Records, Scoring, open_model, predict, score_run


GRADIENT_BOOSTING = "gradient-boosting"


@dataclass(frozen=True)
class Peer:
    """A model that the paper compares with: its id, and its class in transformers or, where it has none, in its repository."""

    model_id: str
    class_name: str

    @property
    def native(self) -> bool:
        """Whether the installed transformers has the class."""
        return self.class_name in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.values()

    @property
    def command(self) -> str:
        """The options of `medtvt baseline` that run it."""
        where = "" if self.native else "--endpoint URL "
        return f"{where}--model {self.model_id}"


PEERS = {
    "InternVL3-1B": Peer("OpenGVLab/InternVL3-1B-hf", "InternVLForConditionalGeneration"),
    "LLaVA-1.5-7B": Peer("llava-hf/llava-1.5-7b-hf", "LlavaForConditionalGeneration"),
    "LLaVA-OneVision-7B": Peer("llava-hf/llava-onevision-qwen2-7b-ov-hf", "LlavaOnevisionForConditionalGeneration"),
    "Qwen2.5-VL-3B-Instruct": Peer("Qwen/Qwen2.5-VL-3B-Instruct", "Qwen2_5_VLForConditionalGeneration"),
    "Mini-InternVL-Chat-2B-V1-5": Peer("OpenGVLab/Mini-InternVL-Chat-2B-V1-5", "InternVLChatModel"),
    "Molmo-7B-O-0924": Peer("allenai/Molmo-7B-O-0924", "MolmoForCausalLM"),
    "DeepSeek-VL-1.3B-Chat": Peer("deepseek-community/deepseek-vl-1.3b-chat", "DeepseekVLForConditionalGeneration"),
    "LLaVA-NeXT-8B": Peer("llava-hf/llama3-llava-next-8b-hf", "LlavaNextForConditionalGeneration"),
}


def run_baseline(
    name: str,
    records: Records,
    out: str | os.PathLike,
    scoring: Scoring | None = None,
    *,
    batch_size: int = 8,
    max_new_tokens: int | None = None,
    text_only: bool = False,
    encoders: str | os.PathLike | None = None,
    feature_cache: str | os.PathLike | None = None,
    endpoint: str | None = None,
    acknowledgment: str | None = None,
    api_key: str | None = None,
    device: str | None = None,
) -> dict:
    """
    Answers of another model to the records, scored with the same metrics.

    Args:
        name (`str`): A model of the paper by its name, a Hub id, a folder, or `GRADIENT_BOOSTING`; with `endpoint` the name
            by which the server knows it.
        records, out, scoring, batch_size, max_new_tokens, device: See [`evaluate_model`].
        text_only (`bool`): A causal LM, with measurements and labs as text.
        encoders, feature_cache (`str` or `os.PathLike`, *optional*): With gradient boosting: the checkpoint whose encoders'
            features it gets in place of statistics, and the folder for them.
        endpoint (`str`, *optional*): URL of an OpenAI-compatible server that runs the model, asked for `batch_size` answers
            at a time.
        acknowledgment, api_key (`str`, *optional*): See [`OpenAITeacher`].

    Returns:
        `dict`: the content of metrics.json.

    Raises:
        ValueError: if the model does not open or cannot answer, or `out` holds another run.
    """
    scoring = scoring or Scoring()
    if endpoint is not None:
        if name == GRADIENT_BOOSTING:
            raise ValueError("Gradient boosting runs here, and needs no endpoint.")
        limit = max_new_tokens or MAX_NEW_TOKENS
        client = OpenAITeacher(
            endpoint, name, acknowledgment=acknowledgment, api_key=api_key, max_tokens=limit, allow_empty=True
        )
    rows = records.load().to_list()
    if endpoint is not None:
        answerer: Answerer = EndpointAnswerer(client, with_images=not text_only)
        model = f"{name}, asked at an endpoint"
    elif name == GRADIENT_BOOSTING:
        if records.level != "diagnosis":
            raise ValueError("Gradient boosting writes no text, so it has no physiology level.")
        train, validation = (
            replace(records, split=split, limit=None).load().to_list() for split in ("train", "validation")
        )
        measure: Callable[[QARow], dict[str, float]] = measure_row
        if encoders:
            measure = _encoder_measure(encoders, feature_cache, [train, validation, rows])
        answerer = GradientBoostingAnswerer(train, validation, scoring.seed, measure)
        model = fingerprint([row["id"] for row in (*train, *validation)])
    else:
        model_id = PEERS[name].model_id if name in PEERS else name
        check_native(name)
        answerer = load_answerer(model_id, text_only, choose_device(device), max_new_tokens)
        model = hash_folder(model_id) if Path(model_id).is_dir() else model_id
    settings = {"max_new_tokens": max_new_tokens, "text_only": text_only, "seed": scoring.seed}
    about = {"baseline": name, "model": model, "level": records.level, "split": records.split, "variant": ""}
    set_seed(scoring.seed)
    # gradient boosting gives no reasons that could be checked
    checker = None if name == GRADIENT_BOOSTING else EvidenceChecker()
    answers = predict(rows, answerer, Path(out), {**about, "settings": settings}, batch_size, checker)
    return score_run(answers, out, scoring, scoring.scorer(out, device), records.data)


def _encoder_measure(
    encoders: str | os.PathLike, feature_cache: str | os.PathLike | None, sides: Sequence[list[QARow]]
) -> EncoderMeasure:
    """Runs a checkpoint's encoders over all rows, once."""
    if feature_cache is None:
        raise ValueError("`encoders` needs `feature_cache`, a folder for their outputs.")
    cache = FeatureCache(feature_cache, *open_model(encoders, "cpu"))
    for rows in sides:
        cache.build(Dataset.from_list(rows, features=FEATURES), max_rejected=0)
    return EncoderMeasure(cache)


def list_peers() -> str:
    """The paper's models as a table."""
    rows = [
        [name, peer.class_name, "transformers" if peer.native else "a server (vLLM, SGLang)", peer.command]
        for name, peer in PEERS.items()
    ]
    return markdown_table(["model", "class", "runs in", "medtvt baseline"], rows)


def check_native(name: str) -> None:
    """
    Raises:
        ValueError: if the paper's model of this name or id has code of its own, which is not run here.
    """
    for peer_name, peer in PEERS.items():
        if name in (peer_name, peer.model_id) and not peer.native:
            raise ValueError(
                f"{peer_name} ({peer.class_name}) is not in transformers and brings its own code, which this command does "
                "not run. Start it in a server that does, such as vLLM or SGLang, and name that: `medtvt baseline "
                f"{peer.command}`."
            )
