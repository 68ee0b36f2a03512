# SPDX-License-Identifier: Apache-2.0
"""
A row as a question to any chat model: the ECG as a drawn page, the X-ray as it is and the labs as text; or, for text
models, measurements of the ECG and the labs.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from PIL import Image
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

from modeling_medtvt import DISEASES
from processing_medtvt import LAB_DEFINITIONS, MedTVTEcgFeatureExtractor, load_cxr
from processing_medtvt.lab_definitions_medtvt import flag_value

from ..data.conversation import MODALITIES, message_text
from ..data.measures import measure_row
from ..data.rows import QARow
from ..stages.initialize import MAX_NEW_TOKENS, gguf_arguments


ECG_RATE = 500  # Hz, for the drawn page: the pen's width, not the encoder's input, decides
ECG_DPI = 100


def load_answerer(model_id: str, text_only: bool, device: str, max_new_tokens: int | None = None) -> "ChatAnswerer":
    """
    Opens a model of transformers.

    Raises:
        ValueError: if it does not open as an image-text-to-text model or, `text_only`, as a causal LM.
    """
    model_class: Any = AutoModelForCausalLM if text_only else AutoModelForImageTextToText
    processor_class: Any = AutoTokenizer if text_only else AutoProcessor
    gguf = gguf_arguments(model_id) if text_only else {}
    try:
        model = model_class.from_pretrained(model_id, dtype="auto", trust_remote_code=False, **gguf).to(device)
        processor = processor_class.from_pretrained(model_id, trust_remote_code=False, **gguf)
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
        return [write_conversation(row, self.with_images) for row in rows]

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


def write_conversation(row: QARow, with_images: bool) -> list[dict[str, Any]]:
    """
    The question as a conversation: text alone, or ECG page and X-ray as parts of type `image` before it.

    Raises:
        ValueError, OSError: if a file cannot be read.
    """
    text = write_question(row, with_images)
    if not with_images:
        return [{"role": "user", "content": text}]
    images = []
    if "ecg" in row["modalities"]:
        images.append(draw_ecg_page(cast(str, row["ecg"])))
    if "cxr" in row["modalities"]:
        images.append(load_cxr(row["cxr"])[0].convert("RGB"))
    content = [*({"type": "image", "image": image} for image in images), {"type": "text", "text": text}]
    return [{"role": "user", "content": content}]


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
