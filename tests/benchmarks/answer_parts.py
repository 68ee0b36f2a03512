# SPDX-License-Identifier: Apache-2.0
"""What a patient costs besides `generate`: the probabilities, the evidence check, the influence of the modalities."""

import tempfile
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import nn

from medtvt_training.data.conversation import message_text
from medtvt_training.stages.initialize import default_processor, tiny_tokenizer
from medtvt_training.synthetic.answers import make_rows
from medtvt_training.synthetic.example_patient import write_example_patient
from medtvt_training.synthetic.patient import draw_patient, generators
from modeling_medtvt import DISEASES, MedicalDiagnosisPipeline, parse_answer
from modeling_medtvt.answer_probability_medtvt import answer_probabilities
from processing_medtvt import MedTVTEcgFeatureExtractor
from processing_medtvt.evidence_medtvt import Measurements, check_evidence
from processing_medtvt.measure_ecg_medtvt import measure_ecg
from processing_medtvt.processing_medtvt import ECG_MEASURING_RATE

from .harness import Row, Settings, divide, interleave, medians, timed
from .shapes import build


PATIENT = (0, 2)  # seed and index of a drawn one


def measure(settings: Settings) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        files = write_example_patient(Path(folder), *PATIENT)
        patient = {modality: str(files[modality]) for modality in ("ecg", "cxr", "lab")}
        return [
            row
            for size in settings.sizes
            for row in compare(size, patient, settings.device, settings.repeats_at(size))
        ]


def draw_answer() -> str:
    """The answer of the training data to that patient."""
    drawn, rng = draw_patient(*PATIENT), generators(*PATIENT)[6]
    rows = make_rows(drawn.subject_id, drawn.causes, drawn.findings, {"ecg": "", "cxr": ""}, drawn.lab, rng, True)
    return next(message_text(row["completion"]) for row in rows if row["level"] == "diagnosis")


@torch.no_grad()
def compare(size: str, patient: dict[str, str], device: str, repeats: int) -> list[Row]:
    model, tokenizer = build(size, device), tiny_tokenizer()
    head = cast(nn.Linear, model.get_output_embeddings())
    head.weight[len(tokenizer) :] = 0  # never written: the tokenizer has no text for them
    processor = default_processor(tokenizer, model.config.num_modality_tokens)
    diagnose = MedicalDiagnosisPipeline(model=model, processor=processor, device=device)
    answer = draw_answer()
    length = len(tokenizer(answer, add_special_tokens=False)["input_ids"])
    tokens = {"min_new_tokens": length, "max_new_tokens": length}
    inputs = diagnose.ensure_tensor_on_device(**diagnose.preprocess({"index": None, "item": patient}, influence=True))
    encoded = diagnose._encode(inputs)
    embeds = cast(torch.Tensor, model.get_modality_embeds(inputs["input_ids"], **encoded).embeds)
    prompt = inputs["input_ids"][0].tolist()
    extractor = MedTVTEcgFeatureExtractor(sampling_rate=ECG_MEASURING_RATE)
    signal = np.asarray(extractor(patient["ecg"])["ecg_values"][0])

    def generate() -> None:
        diagnose._generate(inputs["input_ids"], inputs["attention_mask"], embeds, **tokens, do_sample=False)

    def check() -> None:
        measured = cast(Measurements, {**inputs["measured"], "ecg": measure_ecg(signal)})
        check_evidence(parse_answer(answer).reasoning or "", measured)

    sides = {
        "generate": generate,
        "probability": lambda: answer_probabilities(model, tokenizer, prompt, answer, DISEASES, embeds),
        "evidence check": check,
        "influence": lambda: diagnose._influence(encoded, inputs["withheld_ids"], tokens),
    }
    found = interleave({name: partial(timed, run, device, 1) for name, run in sides.items()}, repeats)
    return [
        Row(
            "answer-parts",
            f"{name} over generate of {length} tokens, {size}, one patient",
            divide(found[name], found["generate"]),
            note=medians({side: found[side] for side in (name, "generate")}, "ms", 1000),
        )
        for name in list(sides)[1:]
    ]
