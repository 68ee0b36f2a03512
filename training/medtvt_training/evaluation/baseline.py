# SPDX-License-Identifier: Apache-2.0
"""
Evaluates other models on the same records, with the same parser and metrics.

Image-text models get the ECG as a drawn page, the X-ray as it is and the labs as text; text models get measurements of
the ECG and the labs; gradient boosting gets both as numbers.
"""

import io
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from datasets import Dataset
from PIL import Image
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer, set_seed
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from modeling_medtvt import DISEASES
from processing_medtvt import LAB_DEFINITIONS, MedTVTEcgFeatureExtractor, load_cxr
from processing_medtvt.lab_definitions_medtvt import flag_value

from ..data.conversation import MODALITIES, message_text
from ..data.feature_cache import FeatureCache
from ..data.measures import measure_row
from ..data.rows import QARow
from ..data.schema import FEATURES
from ..files import fingerprint, hash_folder, markdown_table
from ..stages.initialize import MAX_NEW_TOKENS
from .gradient_boosting import EncoderMeasure, GradientBoostingAnswerer
from .run import Answerer, Records, Scoring, choose_device, open_model, predict, score_run


GRADIENT_BOOSTING = "gradient-boosting"
ECG_RATE = 500  # Hz, for the drawn page: the pen's width, not the encoder's input, decides
ECG_DPI = 100


@dataclass(frozen=True)
class Peer:
    """A model that the paper compares with: its id, and its class in transformers or, where it has none, in its repository."""

    model_id: str
    class_name: str

    @property
    def native(self) -> bool:
        """Whether the installed transformers has the class."""
        return self.class_name in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.values()


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
    device: str | None = None,
) -> dict:
    """
    Answers of another model to the records, scored with the same metrics.

    Args:
        name (`str`): A model of the paper by its name, a Hub id, a folder, or `GRADIENT_BOOSTING`.
        records, out, scoring, batch_size, max_new_tokens, device: See [`evaluate_model`].
        text_only (`bool`): A causal LM, with measurements and labs as text.
        encoders, feature_cache (`str` or `os.PathLike`, *optional*): With gradient boosting: the checkpoint whose encoders'
            features it gets in place of statistics, and the folder for them.

    Returns:
        `dict`: the content of metrics.json.

    Raises:
        ValueError: if the model does not open or cannot answer, or `out` holds another run.
    """
    scoring = scoring or Scoring()
    rows = records.load().to_list()
    if name == GRADIENT_BOOSTING:
        if records.level != "diagnosis":
            raise ValueError("Gradient boosting writes no text, so it has no physiology level.")
        train, validation = (
            replace(records, split=split, limit=None).load().to_list() for split in ("train", "validation")
        )
        measure: Callable[[QARow], dict[str, float]] = measure_row
        if encoders:
            measure = _encoder_measure(encoders, feature_cache, [train, validation, rows])
        answerer: Answerer = GradientBoostingAnswerer(train, validation, scoring.seed, measure)
        model = fingerprint([row["id"] for row in (*train, *validation)])
    else:
        model_id = PEERS[name].model_id if name in PEERS else name
        check_native(name)
        answerer = load_answerer(model_id, text_only, choose_device(device), max_new_tokens)
        model = hash_folder(model_id) if Path(model_id).is_dir() else model_id
    settings = {"max_new_tokens": max_new_tokens, "text_only": text_only, "seed": scoring.seed}
    about = {"baseline": name, "model": model, "level": records.level, "split": records.split, "variant": ""}
    set_seed(scoring.seed)
    answers = predict(rows, answerer, Path(out), {**about, "settings": settings}, batch_size)
    return score_run(answers, out, scoring, scoring.scorer(out, device))


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
    rows = [[name, peer.model_id, peer.class_name, "yes" if peer.native else "no"] for name, peer in PEERS.items()]
    return markdown_table(["model", "id", "class", "in transformers"], rows)


def check_native(name: str) -> None:
    """
    Raises:
        ValueError: if the paper's model of this name or id has code of its own, which is not run here.
    """
    for peer_name, peer in PEERS.items():
        if name in (peer_name, peer.model_id) and not peer.native:
            raise ValueError(
                f"{peer_name} ({peer.class_name}) is not in transformers and brings its own code, which this command "
                "does not run. Make its predictions where it runs, one JSON line a record with id, subject_id, diseases, "
                "reference and completion, and score them with `medtvt metrics`."
            )


def load_answerer(model_id: str, text_only: bool, device: str, max_new_tokens: int | None = None) -> "ChatAnswerer":
    """
    Opens a model of transformers.

    Raises:
        ValueError: if it does not open as an image-text-to-text model or, `text_only`, as a causal LM.
    """
    model_class: Any = AutoModelForCausalLM if text_only else AutoModelForImageTextToText
    processor_class: Any = AutoTokenizer if text_only else AutoProcessor
    try:
        model = model_class.from_pretrained(model_id, dtype="auto", trust_remote_code=False).to(device)
        processor = processor_class.from_pretrained(model_id, trust_remote_code=False)
    except (OSError, ValueError, ImportError, KeyError) as error:
        kind = "a causal LM" if text_only else "an image-text-to-text model"
        raise ValueError(f"{model_id} does not open as {kind} of transformers. {error}") from error
    if not processor.chat_template and not text_only:
        raise ValueError(f"{model_id} has no chat template, so there is no telling how it expects a question.")
    return ChatAnswerer(model, processor, not text_only, max_new_tokens)


class ChatAnswerer:
    """
    Answers of any chat model of transformers, greedy, one record at a time: models differ in how they batch images.

    Args:
        with_images (`bool`): Whether ECG and X-ray are shown as pictures; else measurements of the ECG are told.
        max_new_tokens (`int`, *optional*): Defaults to the 600 that the authors gave theirs.
    """

    def __init__(
        self, model: Any, processor: Any, with_images: bool = True, max_new_tokens: int | None = None
    ) -> None:
        self.model, self.processor, self.with_images = model.eval(), processor, with_images
        self.max_new_tokens = max_new_tokens or MAX_NEW_TOKENS

    def length(self, row: QARow) -> int:
        """Nothing is gained by sorting."""
        return 0

    def prepare(self, rows: Sequence[QARow]) -> list[list[dict]]:
        """The conversation of each row."""
        return [[{"role": "user", "content": self._content(row)}] for row in rows]

    def _content(self, row: QARow) -> list[dict] | str:
        text = write_question(row, self.with_images)
        if not self.with_images:
            return text
        images = []
        if "ecg" in row["modalities"]:
            images.append(draw_ecg_page(cast(str, row["ecg"])))
        if "cxr" in row["modalities"]:
            images.append(load_cxr(row["cxr"])[0].convert("RGB"))
        return [*({"type": "image", "image": image} for image in images), {"type": "text", "text": text}]

    @torch.no_grad()
    def answer(self, prepared: Sequence[list[dict]]) -> list[dict]:
        """`completion` of each conversation."""
        return [{"completion": self._answer_one(conversation)} for conversation in prepared]

    def _answer_one(self, conversation: list[dict]) -> str:
        if self.processor.chat_template:
            inputs = self.processor.apply_chat_template(
                conversation, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
            )
        else:  # a text model that was never taught to chat
            inputs = self.processor(conversation[0]["content"] + "\n", return_tensors="pt")
        inputs = {
            name: value.to(self.model.device, self.model.dtype if value.is_floating_point() else None)
            for name, value in inputs.items()
        }
        ids = self.model.generate(**inputs, max_new_tokens=self.max_new_tokens, do_sample=False)
        decoder = getattr(self.processor, "tokenizer", self.processor)
        return decoder.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def write_question(row: QARow, with_images: bool) -> str:
    """
    One prompt for all: what is shown, the measurements where it is not, the labs with flags, the question, the format.
    """
    parts, shown = [], []
    if with_images and "ecg" in row["modalities"]:
        shown.append("a 12-lead ECG (25 mm/s, 10 mm/mV; 2.5 seconds of each lead, lead II below)")
    if with_images and "cxr" in row["modalities"]:
        shown.append("a frontal chest X-ray")
    if shown:
        parts.append(f"You see {' and '.join(shown)} of one patient.")
    if not with_images and "ecg" in row["modalities"]:
        parts.append("ECG measurements of one patient:\n" + write_measurements(row))
    if "lab" in row["modalities"]:
        parts.append("Blood tests of the patient:\n" + write_labs(row["lab"]))
    if row["level"] == "diagnosis":
        parts.append(
            f"Which of these diseases does the patient probably have: {', '.join(DISEASES)}? Find definitive evidence in "
            "each finding. Answer in exactly this form: <think>your evidence</think><answer>Disease A; Disease B</answer>, "
            "with names from the list, separated by semicolons; leave the answer empty if none applies."
        )
    else:
        question = message_text(row["prompt"])
        for modality in MODALITIES:
            question = question.replace(f"<{modality}>", "")
        parts.append(" ".join(question.split()))
    return "\n\n".join(parts)


def write_labs(labs: Mapping[str, float | None]) -> str:
    """A line for each lab that was measured: value, unit, and how it lies to the reference interval."""
    lines = []
    for lab in LAB_DEFINITIONS:
        value = labs.get(lab.name)
        if value is None or value != value:
            continue
        line = f"{lab.name}: {value:g}" + (f" {lab.unit}" if lab.unit else "")
        if flag := flag_value(value, lab.reference_low, lab.reference_high):
            line += f" ({flag}; reference {lab.reference_low:g} to {lab.reference_high:g})"
        lines.append(line)
    return "\n".join(lines)


def write_measurements(row: QARow) -> str:
    """A line for each measurement of the ECG, by program: what a cart would print."""
    found = {name: value for name, value in measure_row(row, ["ecg"]).items() if value == value}
    return "\n".join(f"{name.removeprefix('ecg ')}: {value:.3g}" for name, value in found.items()) or "none possible"


def draw_ecg_page(path: str) -> Image.Image:
    """The standard page of a record: 25 mm/s, 10 mm/mV, grid, calibration pulse, 3 x 4 leads and a rhythm strip."""
    from processing_medtvt.plot_ecg_medtvt import plot_ecg

    extractor = MedTVTEcgFeatureExtractor(sampling_rate=ECG_RATE)
    signal = extractor(path)["ecg_values"][0]
    figure, buffer = plot_ecg(signal, sampling_rate=ECG_RATE), io.BytesIO()
    figure.savefig(buffer, format="png", dpi=ECG_DPI)
    buffer.seek(0)
    return Image.open(buffer).convert("RGB")
