# SPDX-License-Identifier: Apache-2.0
"""
Occlusion: how much the score of a disease falls where a part of an input is taken away.

The score is the log-probability of those clauses of an answer that name the disease, evidence and label alike, given the
inputs and the rest of the answer. The answer's last step alone would show little: it follows the reasoning before it.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from modeling_medtvt import DISEASES, MedicalDiagnosisPipeline


TENSORS = {"ecg": "ecg_values", "cxr": "pixel_values", "lab": "lab_values"}
FEATURES = {"ecg": "ecg_features", "cxr": "cxr_features", "lab": "lab_features"}
# What no reader would see: of a signal's or a picture's spread, and of the scale of percentiles
NOISE, REPEATS = 0.01, 4
# A clause ends at a full stop that is no decimal point
CLAUSE = re.compile(r"(?:[^;.\n<>]|\.(?=\d))+")


@torch.no_grad()
def occlude(
    diagnose: MedicalDiagnosisPipeline,
    patient: dict[str, Any],
    text: str,
    disease: str,
    modalities: Sequence[str] = tuple(TENSORS),
    stretch_seconds: float = 0.5,
    regions: int = 8,
    batch_size: int = 32,
) -> dict[str, Any]:
    """
    Takes away one part after the other: a stretch of a lead becomes a straight line, a region of the X-ray (three cells of
    the grid wide and high) its mean grey, a lab as if it had not been measured.

    Args:
        diagnose ([`MedicalDiagnosisPipeline`]): Model and processor.
        patient (`dict`): As for the pipeline, with `ecg`, `cxr`, `lab`, each optional.
        text (`str`): The answer to explain, such as the `generated_text` of a result.
        disease (`str`): One of the seven, named in the text.
        modalities (`Sequence[str]`): Of which parts are taken away.
        stretch_seconds (`float`): Length of a stretch.
        regions (`int`): Cells of the X-ray's grid, along each side.
        batch_size (`int`): Occluded inputs a forward pass.

    Returns:
        `dict`: `disease`, `score` (nats), and how much it falls without each part: `ecg` (leads, stretches), `cxr`
        (regions, regions), `lab` (by name); None where the patient lacks the modality or it was not
        asked for. `noise`, by modality: the largest change of the score where nothing is taken away and 1 % of noise is
        added to the whole input, four times. A part that changes it no more says nothing.

    Raises:
        ValueError: if the text does not name the disease, or the patient has no modality.
    """
    score = _Scorer(diagnose, patient, text, disease, batch_size)
    result: dict[str, Any] = {"disease": disease, "score": score.base, "ecg": None, "cxr": None, "lab": None}
    occluded = [name for name in score.inputs if name in modalities]
    result["noise"] = {
        name: float(np.abs(score.fall(name, _disturb(name, score.inputs[name][0]))).max()) for name in occluded
    }
    processor: Any = diagnose.processor
    rate = processor.ecg_feature_extractor.sampling_rate
    if "ecg" in occluded:
        variants, shape = _occlude_ecg(score.inputs["ecg"][0], max(1, round(stretch_seconds * rate)))
        result["ecg"] = score.fall("ecg", variants).reshape(shape)
    if "cxr" in occluded:
        result["cxr"] = score.fall("cxr", _occlude_cxr(score.inputs["cxr"][0], regions)).reshape(regions, regions)
    if "lab" in occluded:
        extractor = processor.lab_feature_extractor
        means = torch.tensor([extractor.mean_percentiles[name] for name in extractor.lab_names])
        present, variants = _occlude_labs(score.inputs["lab"][0], means)
        falls = score.fall("lab", variants) if present else np.empty(0)
        result["lab"] = {extractor.lab_names[i]: float(fall) for i, fall in zip(present, falls)}
    return result


class _Scorer:
    """Scores of a disease for variants of one modality; the others are encoded once."""

    def __init__(
        self, diagnose: MedicalDiagnosisPipeline, patient: dict[str, Any], text: str, disease: str, batch_size: int
    ) -> None:
        if disease not in DISEASES:
            raise ValueError(f"`disease` must be one of {', '.join(DISEASES)}, got {disease!r}.")
        self.model: Any = diagnose.model
        tokenizer: Any = diagnose.tokenizer
        self.batch_size = batch_size
        features: Any = diagnose.preprocess(
            {"index": None, "item": {k: v for k, v in patient.items() if v is not None}}
        )
        prompt = features["input_ids"][0]
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        spans = [m.span() for m in CLAUSE.finditer(text) if disease.lower() in m.group().lower()]
        self.scored = torch.tensor(
            [any(start < last and end > first for first, last in spans) for start, end in encoded["offset_mapping"]]
        )
        if not self.scored.any():
            raise ValueError(f"The answer does not name {disease}, so there is nothing to explain.")
        self.answer = torch.tensor(encoded["input_ids"], device=self.model.device)
        self.ids = torch.cat([prompt.to(self.model.device), self.answer])
        tokens = dict(zip(TENSORS, self.model.config.modality_token_ids))
        self.inputs = {name: features[TENSORS[name]] for name, token in tokens.items() if (prompt == token).any()}
        if not self.inputs:
            raise ValueError("The patient has neither ECG nor X-ray nor labs, so there is nothing to take away.")
        self.features = {name: self._encode(name, values) for name, values in self.inputs.items()}
        self.base = float(self._score(self.features)[0])

    def _encode(self, modality: str, values: torch.Tensor) -> torch.Tensor:
        return getattr(self.model, f"get_{modality}_features")(values.to(self.model.device))

    def _score(self, features: dict[str, torch.Tensor]) -> torch.Tensor:
        """(batch,) of encoder outputs with one row a variant."""
        embeds = self.model.get_modality_embeds(**{FEATURES[name]: rows for name, rows in features.items()}).embeds
        ids = self.ids.expand(len(embeds), -1)
        logits = self.model(input_ids=ids, modality_embeds=embeds, logits_to_keep=len(self.answer) + 1).logits
        logits = logits[:, :-1][:, self.scored.to(logits.device)].float().log_softmax(-1)
        chosen = self.answer[self.scored.to(self.answer.device)].expand(len(embeds), -1)
        return logits.gather(2, chosen[..., None])[..., 0].sum(1)

    def fall(self, modality: str, variants: Iterable[torch.Tensor]) -> np.ndarray:
        """How much lower the score of each variant (an iterable of single inputs) is."""
        variants, scores = list(variants), []
        for start in range(0, len(variants), self.batch_size):
            rows = torch.stack(variants[start : start + self.batch_size])
            features = {name: f.expand(len(rows), *f.shape[1:]) for name, f in self.features.items()}
            scores.append(self._score({**features, modality: self._encode(modality, rows)}).cpu())
        return self.base - torch.cat(scores).numpy()


def _disturb(modality: str, values: torch.Tensor) -> Iterator[torch.Tensor]:
    """Copies with noise, the same in every call; of labs the mask stays."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(REPEATS):
        noise = NOISE * torch.randn(values.shape, generator=generator)
        if modality == "lab":
            known = values[len(values) // 2 :]
            yield torch.cat([values[: len(known)] + noise[: len(known)] * known, known])
        else:
            yield values + values.std() * noise


def _occlude_ecg(ecg: torch.Tensor, length: int) -> tuple[list[torch.Tensor], tuple[int, int]]:
    """Copies of (leads, samples) with a straight line in one stretch of one lead each, and (leads, stretches)."""
    leads, samples = ecg.shape
    variants = []
    for lead in range(leads):
        for start in range(0, samples, length):
            end = min(start + length, samples)
            first, last = ecg[lead, max(start - 1, 0)], ecg[lead, min(end, samples - 1)]
            variant = ecg.clone()
            variant[lead, start:end] = torch.linspace(float(first), float(last), end - start + 2)[1:-1]
            variants.append(variant)
    return variants, (leads, len(variants) // leads)


def _occlude_cxr(picture: torch.Tensor, regions: int) -> Iterator[torch.Tensor]:
    """Copies of (channels, height, width) with the mean around one cell of the grid each, row by row."""
    height, width = picture.shape[1:]
    grey = picture.mean((1, 2), keepdim=True)
    for row in range(regions):
        for column in range(regions):
            rows, columns = (
                slice(max(i - 1, 0) * size // regions, min(i + 2, regions) * size // regions)
                for i, size in ((row, height), (column, width))
            )
            variant = picture.clone()
            variant[:, rows, columns] = grey
            yield variant


def _occlude_labs(labs: torch.Tensor, means: torch.Tensor) -> tuple[list[int], list[torch.Tensor]]:
    """Positions of the labs that are there, and copies of (2 * labs,) without one of them each."""
    number = len(labs) // 2
    present = labs[number:].nonzero().flatten().tolist()
    variants = []
    for i in present:
        variant = labs.clone()
        variant[i], variant[number + i] = means[i], 0
        variants.append(variant)
    return present, variants
