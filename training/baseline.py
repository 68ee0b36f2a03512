# SPDX-License-Identifier: Apache-2.0
"""
`medtvt baseline`: what other models make of the same records, by the same parser and metrics.

Image-text models get the ECG as a drawn page, the X-ray as it is and the labs as text; text models get measurements of
the ECG and the labs; gradient boosting gets both as numbers.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer, set_seed
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from processing_medtvt import LAB_DEFINITIONS, MedTVTEcgFeatureExtractor, load_cxr

from .evaluate import add_data_arguments, check_required, choose_device, describe_cost, load_rows, predict
from .gradient_boosting import EncoderMeasure, GradientBoostingAnswerer, measure_row
from .initialize import MAX_NEW_TOKENS
from .predictions import fingerprint, hash_folder, message_text
from .qa.schema import DISEASES, FEATURES, MODALITIES
from .recompute_metrics import add_metric_arguments, resources_from, score_records, write_results
from .report import markdown_table


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


def add_arguments(parser):
    """Arguments of `medtvt baseline`."""
    parser.add_argument(
        "--model", help=f"a model of the paper by its name, a Hub id, a folder, or {GRADIENT_BOOSTING!r}"
    )
    parser.add_argument("--list", action="store_true", help="print the models that the paper compares with")
    parser.add_argument(
        "--encoders", help="with gradient-boosting: checkpoint whose encoders' features it gets in place of statistics"
    )
    parser.add_argument("--features", help="with --encoders: folder of a feature cache; made if missing")
    parser.add_argument("--text-only", action="store_true", help="a causal LM, with measurements and labs as text")
    add_data_arguments(parser)
    add_metric_arguments(parser)


def run(args):
    """Entry point of `medtvt baseline`."""
    if args.list:
        print(list_peers())
        return
    check_required(args, "model", "data", "out")
    resources = resources_from(args)
    rows = load_rows(args).to_list()
    if args.model == GRADIENT_BOOSTING:
        if args.stage != "diagnosis":
            raise ValueError("Gradient boosting writes no text, so it has no physiology level.")
        sides = {split: _load_split(args, split) for split in ("train", "validation")}
        measure = _encoder_measure(args, [*sides.values(), rows]) if args.encoders else measure_row
        answerer = GradientBoostingAnswerer(sides["train"], sides["validation"], args.seed, measure)
        model = fingerprint([row["id"] for side in sides.values() for row in side])
    else:
        model_id = PEERS[args.model].model_id if args.model in PEERS else args.model
        check_native(args.model)
        answerer = load_answerer(model_id, args.text_only, choose_device(args.device), args.max_new_tokens)
        model = hash_folder(model_id) if Path(model_id).is_dir() else model_id
    about = {"baseline": args.model, "model": model, "stage": args.stage, "split": args.split, "variant": ""}
    about["settings"] = {"max_new_tokens": args.max_new_tokens, "text_only": args.text_only, "seed": args.seed}
    set_seed(args.seed)
    records = predict(rows, answerer, Path(args.out), about, args.batch_size)
    results = score_records(records, resources, args.resamples, args.seed)
    results["about"]["run"] = describe_cost(records)
    write_results(results, args.out)


def _encoder_measure(args, sides: list[list[dict]]) -> EncoderMeasure:
    """Runs the encoders of `--encoders` over all rows, once."""
    from datasets import Dataset

    from .diagnose import load_pipeline
    from .features import FeatureCache

    check_required(args, "features")
    diagnose = load_pipeline(args.encoders)
    cache = FeatureCache(args.features, diagnose.model, diagnose.processor)
    for rows in sides:
        cache.build(Dataset.from_list(rows, features=FEATURES), max_rejected=0)
    return EncoderMeasure(cache)


def _load_split(args, split: str) -> list[dict]:
    from .data import load_medtvt_qa

    return load_medtvt_qa(args.data, args.stage, split, ecg_root=args.ecg_root, cxr_root=args.cxr_root).to_list()


def list_peers() -> str:
    """The paper's models as a table."""
    rows = [[name, peer.model_id, peer.class_name, "yes" if peer.native else "no"] for name, peer in PEERS.items()]
    return markdown_table(["model", "id", "class", "in transformers"], rows)


def check_native(name: str):
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
    model_class, processor_class = AutoModelForImageTextToText, AutoProcessor
    if text_only:
        model_class, processor_class = AutoModelForCausalLM, AutoTokenizer
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

    def __init__(self, model, processor, with_images: bool = True, max_new_tokens: int | None = None):
        self.model, self.processor, self.with_images = model.eval(), processor, with_images
        self.max_new_tokens = max_new_tokens or MAX_NEW_TOKENS

    def length(self, row: Mapping) -> int:
        """Nothing is gained by sorting."""
        return 0

    def prepare(self, rows: Sequence[Mapping]) -> list[list[dict]]:
        """The conversation of each row."""
        return [[{"role": "user", "content": self._content(row)}] for row in rows]

    def _content(self, row: Mapping) -> list[dict] | str:
        text = write_question(row, self.with_images)
        if not self.with_images:
            return text
        images = []
        if "ecg" in row["modalities"]:
            images.append(draw_ecg_page(row["ecg"]))
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


def write_question(row: Mapping, with_images: bool) -> str:
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
    if row["stage"] == "diagnosis":
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
        if lab.reference_low is not None:
            flag = "low" if value < lab.reference_low else "high" if value > lab.reference_high else "normal"
            line += f" ({flag}; reference {lab.reference_low:g} to {lab.reference_high:g})"
        lines.append(line)
    return "\n".join(lines)


def write_measurements(row: Mapping) -> str:
    """A line for each measurement of the ECG, by program: what a cart would print."""
    found = {name: value for name, value in measure_row(row, ["ecg"]).items() if value == value}
    return "\n".join(f"{name.removeprefix('ecg ')}: {value:.3g}" for name, value in found.items()) or "none possible"


def draw_ecg_page(path: str) -> Image.Image:
    """The standard page of a record: 25 mm/s, 10 mm/mV, grid, calibration pulse, 3 x 4 leads and a rhythm strip."""
    from processing_medtvt.plot_ecg_medtvt import plot_ecg

    extractor = MedTVTEcgFeatureExtractor(sampling_rate=ECG_RATE)
    signal = extractor(path)["ecg_values"][0]
    figure, buffer = plot_ecg(signal, extractor.leads, ECG_RATE), io.BytesIO()
    figure.savefig(buffer, format="png", dpi=ECG_DPI)
    buffer.seek(0)
    return Image.open(buffer).convert("RGB")
