# SPDX-License-Identifier: Apache-2.0
"""Share of the computed tokens that are real, in batches of the synthetic cohort as the recipes make them. No timing."""

import sys
from typing import Any

import torch
from datasets import Dataset
from transformers.trainer_pt_utils import LengthGroupedSampler

from medtvt_training.data.collator import MedTVTDataCollator, drop_long_rows
from medtvt_training.data.rows import QARow
from medtvt_training.stages.initialize import default_processor, tiny_tokenizer
from medtvt_training.synthetic.answers import make_rows
from medtvt_training.synthetic.patient import draw_patient, generators

from .harness import Row, Settings


EPOCHS = 3
AUTHORS_LENGTH = 600
# stage of the data, `modality_dropout` of the recipes, and patients: grouping needs some thousand rows to choose from
STAGES = {"PT": ("physiology", 0.0, 300), "SFT": ("diagnosis", 0.1, 4000)}


class TextCollator(MedTVTDataCollator):
    """The collator without signals, since the cohort is drawn and not rendered; what it has encoded, it remembers."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._encoded: dict[tuple, tuple] = {}

    def encode(self, row: Any) -> Any:
        key = row["id"], tuple(row["modalities"])
        if key not in self._encoded:
            self._encoded[key] = super().encode(row)
        return self._encoded[key]

    def modality_inputs(self, rows: list[Any]) -> dict[str, Any]:
        return {}


def draw_rows(stage: str, patients: int) -> list[QARow]:
    """The training rows of cohort 0, of which no file exists."""
    rows: list[QARow] = []
    for index in range(patients):
        patient = draw_patient(0, index)
        if patient.split == "train":
            files, wording = {"ecg": "ecg", "cxr": "cxr"}, generators(0, index)[6]
            rows += make_rows(patient.subject_id, patient.causes, patient.findings, files, patient.lab, wording)
    return [row for row in rows if row["level"] == stage]


def real_share(collator: TextCollator, rows: list[QARow], order: list[int], batch: int) -> float:
    """Real tokens over computed ones, batches padded to their longest row."""
    batches = [order[i : i + batch] for i in range(0, len(order), batch)]
    masks = [collator([rows[i] for i in indices])["attention_mask"] for indices in batches]
    return sum(mask.sum().item() for mask in masks) / sum(mask.numel() for mask in masks)


def measure(settings: Settings) -> list[Row]:
    processor, table = default_processor(tiny_tokenizer()), []
    for name, (stage, dropout, patients) in STAGES.items():
        rows = draw_rows(stage, patients)
        collator = TextCollator(processor, modality_dropout=dropout)
        lengths = [sum(map(len, collator.encode(row))) for row in rows]
        texts, _ = drop_long_rows(Dataset.from_list([dict(row) for row in rows]), processor, sys.maxsize)
        where = f"of the computed tokens that are real, {name}, {len(rows)} rows"
        note = f"lengths {min(lengths)}-{max(lengths)}, `modality_dropout` {dropout:g}"
        for batch in (8, 32):
            shares: dict[str, list[float]] = {"grouped by length": [], "at random": []}
            for epoch in range(EPOCHS):
                collator.epoch = epoch
                generator = torch.Generator().manual_seed(epoch)
                estimates: Any = collator.estimate_lengths(texts)  # as `EpochCallback` has them
                grouped = list(LengthGroupedSampler(batch, lengths=estimates, generator=generator))
                shuffled = torch.randperm(len(rows), generator=generator).tolist()
                for how, order in zip(shares, (grouped, shuffled)):
                    shares[how].append(real_share(collator, rows, order, batch))
            for how, target in zip(shares, (0.9, None)):
                what = f"share {where}, batches of {batch} {how}"
                table.append(Row("padding", what, shares[how], at_least=target, note=note if target else ""))
        share = sum(lengths) / len(lengths) / AUTHORS_LENGTH
        table.append(Row("padding", f"share {where}, all padded to {AUTHORS_LENGTH} as by the authors", [share]))
    return table
