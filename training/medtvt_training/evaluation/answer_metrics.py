# SPDX-License-Identifier: Apache-2.0
"""Strict metrics of answers: labels, probabilities, gates and swapped modalities."""

from collections.abc import Mapping, Sequence

import numpy as np

from modeling_medtvt import DISEASES, parse_answer
from modeling_medtvt.answers_medtvt import ParsedAnswer

from ..data.conversation import MODALITIES
from ..data.labels import as_label_array
from ..stages.rewards import is_well_formed
from .bootstrap import Metric, mean_metric, undefined_metric
from .metrics import label_metrics, probability_metrics


OWN, CALIBRATED = "the model's own probabilities", "the model's own probabilities, calibrated"
PROBABILITY_METRICS = ("auroc", "auprc", "brier", "ece")


def answer_metrics(records: Sequence[Mapping], answers: Sequence[ParsedAnswer]) -> dict[str, Metric]:
    """Metrics of the answers; an unparsed one is an empty one."""
    truth = as_label_array([record["diseases"] for record in records])
    strict = {
        "parse_rate": mean_metric([answer.answer is not None for answer in answers]),
        "format_rate": mean_metric([is_well_formed(record["completion"]) for record in records]),
        "unknown_label_rate": mean_metric([bool(answer.unknown) for answer in answers]),
        **label_metrics(truth, as_label_array([answer.diseases for answer in answers])),
    }
    sources = probability_sources(records)
    prefixes = dict(zip((source for source in sources if source != CALIBRATED), ("", "likelihood_")))
    for source, probabilities in sources.items():
        prefix = prefixes.get(source, "calibrated_")
        for name, metric in probability_metrics(truth, probabilities).items():
            *parents, last = name.split("/")
            strict["/".join([*parents, prefix + last])] = metric
    if not sources:
        for name in PROBABILITY_METRICS:
            strict[f"{name}_macro"] = undefined_metric("no probabilities: draw answers with --num-samples")
    metrics = {f"strict/{name}": metric for name, metric in strict.items()}
    gates = [record.get("gates") for record in records]
    if any(gates):
        for i, disease in enumerate(DISEASES):
            for modality in MODALITIES:
                values = np.array([(gate or {}).get(modality) for gate in gates], dtype=float)  # None becomes NaN
                reason = "no record has the disease and the modality"
                metrics[f"gates/{disease}/{modality}"] = mean_metric(values, truth[:, i] & ~np.isnan(values), reason)
    return metrics | _swap_metrics(records, answers, truth)


def probability_sources(records: Sequence[Mapping]) -> dict[str, np.ndarray]:
    """Where probabilities come from, and the (records, 7) of each; first the shares of drawn answers."""
    sources = {}
    numbers = {len(record.get("samples") or ()) for record in records}
    if len(numbers) == 1 and (number := numbers.pop()) > 0:
        shares = [
            as_label_array([parse_answer(text).diseases for text in record["samples"]]).mean(0) for record in records
        ]
        sources[f"share of {number} drawn answers"] = np.array(shares)
    if all(record.get("probabilities") for record in records):
        sources[OWN] = np.array(
            [[record["probabilities"][disease] for disease in DISEASES] for record in records], dtype=float
        )
    if all(record.get("calibrated") for record in records):
        # a disease without a map keeps its raw probability
        sources[CALIBRATED] = np.array(
            [
                [
                    record["probabilities"][d] if record["calibrated"][d] is None else record["calibrated"][d]
                    for d in DISEASES
                ]
                for record in records
            ],
            dtype=float,
        )
    return sources


def _swap_metrics(records: Sequence[Mapping], answers: Sequence[ParsedAnswer], truth: np.ndarray) -> dict[str, Metric]:
    """How often a disease is named that only the patient has, only the donor of the modality, both, or neither."""
    if not all(record.get("donor_diseases") is not None for record in records):
        return {}
    donor = as_label_array([record["donor_diseases"] for record in records])
    named = as_label_array([answer.diseases for answer in answers])
    metrics = {
        f"swap/jaccard_with_{who}": label_metrics(labels, named)["jaccard_samples"]
        for who, labels in (("patient", truth), ("donor", donor))
    }
    groups = {"patient_only": truth & ~donor, "donor_only": donor & ~truth, "both": truth & donor}
    groups["neither"] = ~truth & ~donor
    for i, disease in enumerate(DISEASES):
        for name, rows in groups.items():
            metrics[f"swap/{disease}/named_{name}"] = mean_metric(named[:, i], rows[:, i], "no such record")
    return metrics
