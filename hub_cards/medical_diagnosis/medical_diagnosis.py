# SPDX-License-Identifier: Apache-2.0
"""Answers of the form `<think>evidence</think><answer>Disease A; Disease B</answer>`, scored in two modes."""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate

from medtvt_training.evaluation.score import score_records
from medtvt_training.evaluation.text_scores import TextResources, TextScorer
from modeling_medtvt import DISEASES, parse_answer


_DESCRIPTION = """\
Metrics of MedTVT-R1 (arXiv 2506.18512) for answers about seven diseases. `paper` computes what the authors' script
computes, `strict` counts unparsed answers as empty ones and averages over records, over diseases and pooled.
"""

_INPUTS = """
Args:
    predictions (`list[str]`): completions.
    references (`list[str]`): reference texts; the answer block holds the true diseases.
    subject_ids (`list[str]`, *optional*): patients, the unit of the bootstrap; each record is its own by default.
    resamples (`int`): bootstrap resamples; with some, `intervals` are returned too.
    seed (`int`): seed of the bootstrap.
    wordnet, encoder (`str`, *optional*): folders for METEOR and BERTScore, which are None without.
    encoder_layer (`int`, *optional*): layer of the encoder.
Returns:
    `dict` with `paper` and `strict`: fractions by name, None where undefined; `undefined`: why, by name; and `intervals`.
"""


class MedicalDiagnosis(evaluate.Metric):
    """The metric that `evaluate.load(".../medical_diagnosis")` gives."""

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="arXiv 2506.18512",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": text, "references": text}),
        )

    def _compute(
        self,
        predictions: Sequence[str],
        references: Sequence[str],
        subject_ids: Sequence[str] | None = None,
        resamples: int = 0,
        seed: int = 0,
        wordnet: str | None = None,
        encoder: str | None = None,
        encoder_layer: int | None = None,
    ) -> dict[str, Any]:
        if subject_ids is not None and len(subject_ids) != len(predictions):
            raise ValueError(f"`subject_ids` has {len(subject_ids)} entries for {len(predictions)} predictions.")
        records = []
        for i, (completion, reference) in enumerate(zip(predictions, references)):
            answer = parse_answer(reference)
            if answer.unknown:
                raise ValueError(
                    f"Reference {i} names {len(answer.unknown)} other labels than the seven: {', '.join(DISEASES)}."
                )
            subject = str(i) if subject_ids is None else subject_ids[i]
            record = {"id": str(i), "subject_id": subject, "diseases": list(answer.diseases)}
            records.append({**record, "reference": reference, "completion": completion})
        scorer = TextScorer(TextResources(wordnet, encoder, encoder_layer))
        results = score_records(records, scorer, resamples, seed)
        kept = ("paper", "strict", "undefined", *(["intervals"] if resamples else []))
        return {name: results[name] for name in kept}
