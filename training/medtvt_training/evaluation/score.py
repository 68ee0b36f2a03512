# SPDX-License-Identifier: Apache-2.0
"""Computes all metrics of existing answers, and paired differences between two sets of answers."""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modeling_medtvt import DISEASES, parse_answer
from modeling_medtvt.answers_medtvt import ParsedAnswer
from processing_medtvt.claims_medtvt import stated_findings

from ..data.conversation import MODALITIES
from ..data.labels import as_label_array
from ..files import write_json, write_text
from ..stages.rewards import is_well_formed
from .metrics import (
    RESAMPLES,
    Metric,
    evaluate_metrics,
    interval,
    label_metrics,
    mean_metric,
    nest,
    paper_label_metrics,
    probability_metrics,
    ratio_metric,
    resample,
    restrict,
    undefined_metric,
)
from .predictions import check_same_ids
from .report import render_report
from .text_metrics import (
    BERT_SCORE_LAYER,
    bert_scores,
    bleu_signature,
    bleu_statistics,
    corpus_bleu,
    meteor_scores,
    rouge_scores,
    sentence_bleu_scores,
)


logger = logging.getLogger(__name__)
OWN, CALIBRATED = "the model's own probabilities", "the model's own probabilities, calibrated"
PROBABILITY_METRICS = ("auroc", "auprc", "brier", "ece")


@dataclass(frozen=True)
class TextResources:
    """
    Resources of METEOR and BERTScore that the package does not include. A metric without its resource is skipped.

    Args:
        wordnet (`str`, *optional*): `nltk_data` folder with WordNet, for METEOR.
        encoder (`str`, *optional*): Folder of an encoder, for BERTScore (RoBERTa-large in the paper).
        encoder_layer (`int`, *optional*): Its layer; 17 by default.
    """

    wordnet: str | None = None
    encoder: str | None = None
    encoder_layer: int | None = None

    @property
    def skipped(self) -> list[str]:
        """One line for each metric that is skipped."""
        lines = []
        if self.wordnet is None:
            lines.append("METEOR is skipped: it needs WordNet; name its folder with --wordnet.")
        if self.encoder is None:
            lines.append("BERTScore is skipped: it needs an encoder; name its folder with --bert-score-encoder.")
        return lines


def build_metrics(records: Sequence[Mapping], resources: TextResources) -> dict[str, Metric]:
    """
    All metrics of the records, by names such as `paper/f1`, `strict/per_disease/Sepsis/recall`, `gates/Sepsis/ecg`.

    Args:
        records: Dicts with `subject_id`, `reference`, `completion` and `diseases`, and where there are some: `modalities`,
            `samples`, `probabilities`, `gates`, `findings`, `donor_diseases`, `donor_findings`.
    """
    references, completions = ([record[key] for record in records] for key in ("reference", "completion"))
    texts = text_metrics(references, completions, resources)
    metrics = dict(texts)
    metrics |= {f"paper/{name}": metric for name, metric in paper_label_metrics(references, completions).items()}
    answers = [parse_answer(text) for text in completions]
    asked = np.array([parse_answer(text).answer is not None for text in references])
    if asked.any():
        metrics |= {name: restrict(metric, asked) for name, metric in answer_metrics(records, answers).items()}
    for modality in MODALITIES:  # the physiology level asks about one at a time
        rows = np.array([list(record.get("modalities") or ()) == [modality] for record in records]) & ~asked
        if rows.any():
            metrics |= {f"by_modality/{modality}/{name}": restrict(metric, rows) for name, metric in texts.items()}
    return metrics | evidence_metrics(records, answers)


def text_metrics(references: Sequence[str], completions: Sequence[str], resources: TextResources) -> dict[str, Metric]:
    """Metrics of the texts. `paper/rouge` is the recall of ROUGE-L on stems, `paper/bert_score` the recall as well."""
    statistics = bleu_statistics(references, completions)
    metrics = {
        "paper/bleu": mean_metric(sentence_bleu_scores(references, completions)),
        "paper/rouge": mean_metric(rouge_scores(references, completions, ["rougeL"], stem=True)["rougeL"][:, 1]),
        "strict/bleu": Metric(lambda weights: np.array([corpus_bleu(row) for row in weights @ statistics])),
    }
    for name, scores in rouge_scores(references, completions, ["rouge1", "rouge2", "rougeL"]).items():
        metrics[f"strict/{name}"] = mean_metric(scores[:, 2])
    meteor = paper_bert = strict_bert = None
    if resources.wordnet is not None:
        meteor = mean_metric(meteor_scores(references, completions, resources.wordnet))
    if resources.encoder is not None:
        layer = BERT_SCORE_LAYER if resources.encoder_layer is None else resources.encoder_layer
        scores = bert_scores(references, completions, resources.encoder, layer)
        paper_bert, strict_bert = mean_metric(scores[:, 1]), mean_metric(scores[:, 2])
    no_wordnet, no_encoder = undefined_metric("skipped: no WordNet"), undefined_metric("skipped: no encoder")
    metrics |= {"paper/meteor": meteor or no_wordnet, "strict/meteor": meteor or no_wordnet}
    return metrics | {"paper/bert_score": paper_bert or no_encoder, "strict/bert_score": strict_bert or no_encoder}


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


def evidence_metrics(records: Sequence[Mapping], answers: Sequence[ParsedAnswer]) -> dict[str, Metric]:
    """
    Pooled over the records whose findings are known: the share of cited findings that are true, and of true ones that
    are cited; the former also for each modality and, where that was swapped, with regard to its donor. Without
    findings, nothing. Names of findings begin with their modality.
    """
    known = np.array([bool(record.get("findings")) for record in records])
    if not known.any():
        return {}
    texts = [
        record["completion"] if answer.reasoning is None else answer.reasoning
        for record, answer in zip(records, answers)
    ]
    cited = [stated_findings(text) if is_known else set() for text, is_known in zip(texts, known)]
    own = [set(record.get("findings") or ()) for record in records]
    donor = [set(record.get("donor_findings") or ()) for record in records]

    def share_true(truth: Sequence[set[str]], modality: str = "") -> Metric:
        chosen = [{name for name in names if name.startswith(modality)} for names in cited]
        hits = [len(a & b) for a, b in zip(chosen, truth)]
        return ratio_metric(hits, [len(names) for names in chosen], "no finding is cited")

    metrics = {
        "evidence/cited_true": share_true(own),
        "evidence/findings_cited": ratio_metric([len(a & b) for a, b in zip(cited, own)], [len(a) for a in own]),
    }
    swapped = {record.get("donor_modality") for record in records}
    for modality in MODALITIES:
        metrics[f"evidence/{modality}/cited_true"] = share_true(own, f"{modality}:")
        if swapped == {modality}:
            metrics[f"evidence/{modality}/cited_true_of_donor"] = share_true(donor, f"{modality}:")
    return metrics


def score_records(
    records: Sequence[Mapping],
    resources: TextResources | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict:
    """
    The content of metrics.json.

    Returns:
        `dict`: `paper` and `strict` (fractions, None where undefined), further sections where the records allow them,
        `intervals` in the same form, `undefined` with the reason of each None, and `about` with counts and settings.
    """
    if not records:
        raise ValueError("There is no record to score.")
    resources = resources or TextResources()
    subjects = [record["subject_id"] for record in records]
    metrics = build_metrics(records, resources)
    values, intervals, reasons = evaluate_metrics(metrics, subjects, resamples, seed)
    nested = nest(values)
    return {
        "paper": nested.pop("paper"),
        "strict": nested.pop("strict"),
        **nested,
        "intervals": nest(intervals),
        "undefined": reasons,
        "skipped": resources.skipped,
        "about": {
            "records": len(records),
            "patients": len(set(subjects)),
            "probabilities": list(probability_sources(records)),
            "bleu_signature": bleu_signature(),
            "bootstrap": {"resamples": resamples, "seed": seed, "unit": "patient", "level": 0.95},
        },
    }


def compare_records(
    records: Sequence[Mapping],
    others: Sequence[Mapping],
    resources: TextResources | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    where: str = "The other run",
) -> dict[str, dict]:
    """
    Paired differences, `records` minus `others`, of every metric that both define: by metric name, `a`, `b`,
    `difference` and its 95 % interval, the same patients drawn for both.

    Raises:
        ValueError: if the two are not of the same records.
    """
    resources = resources or TextResources()
    by_id = {record["id"]: record for record in others}
    check_same_ids([record["id"] for record in records], by_id, where)
    sides = [build_metrics(side, resources) for side in (records, [by_id[record["id"]] for record in records])]
    shared = sides[0].keys() & sides[1].keys()
    subjects = [record["subject_id"] for record in records]
    comparison = {}
    values = [evaluate_metrics(side, subjects, resamples=0)[0] for side in sides]
    draws = []
    if resamples:
        draws = [resample({name: side[name] for name in shared}, subjects, resamples, seed) for side in sides]
    for name in sides[0]:
        a, b = (side.get(name) for side in values)
        if a is not None and b is not None:
            limits = interval(draws[0][name] - draws[1][name]) if draws else None
            comparison[name] = {"a": a, "b": b, "difference": a - b, "interval": limits}
    return comparison


def write_results(results: dict, folder: str | os.PathLike) -> None:
    """Writes metrics.json, report.md and the figures."""
    from .figures import write_figures

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for line in results["skipped"]:
        logger.info(line)
    write_json(results, folder / "metrics.json")
    write_text(render_report(results, write_figures(results, folder)), folder / "report.md")
    logger.info("%s: metrics.json, report.md and figures, %d records.", folder, results["about"]["records"])
