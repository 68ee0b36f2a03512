# SPDX-License-Identifier: Apache-2.0
"""Computes all metrics of existing answers, and paired differences between two sets of answers."""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from modeling_medtvt import parse_answer

from ..data.conversation import MODALITIES
from ..files import write_json, write_text
from .answer_metrics import answer_metrics, probability_sources
from .bootstrap import RESAMPLES, Metric, evaluate_metrics, interval, nest, resample, restrict
from .evidence_metrics import evidence_metrics
from .finding_metrics import measure_findings
from .matched_prior import measure_matched_prior
from .metrics import paper_label_metrics
from .predictions import check_same_ids
from .report import render_report
from .selective import measure_selective
from .subgroups import measure_subgroups
from .text_metrics import bleu_signature
from .text_scores import TextScorer


logger = logging.getLogger(__name__)


def build_metrics(records: Sequence[Mapping], scorer: TextScorer) -> dict[str, Metric]:
    """
    All metrics of the records, by names such as `paper/f1`, `strict/per_disease/Sepsis/recall`, `gates/Sepsis/ecg`.

    Args:
        records: Dicts with `subject_id`, `reference`, `completion` and `diseases`, and where there are some: `modalities`,
            `samples`, `probabilities`, `gates`, `findings`, `donor_diseases`, `donor_findings`.
    """
    references, completions = ([record[key] for record in records] for key in ("reference", "completion"))
    texts = scorer.metrics(references, completions)
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
    return metrics | evidence_metrics(records, answers, scorer.findings)


def score_records(
    records: Sequence[Mapping],
    scorer: TextScorer | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    by: Sequence[str] | None = None,
) -> dict:
    """
    The content of metrics.json.

    Args:
        records: See [`build_metrics`], and where there are some: `age`, `sex`, `labs_measured`, or others to group by.
        scorer ([`TextScorer`], *optional*): Of the texts.
        by (`Sequence[str]`, *optional*): What records are grouped by; age and sex, where they are recorded, by default.

    Returns:
        `dict`: `paper` and `strict` (fractions, None where undefined), further sections where the records allow them,
        `intervals` in the same form, `undefined` with the reason of each None, and `about` with counts and settings.
    """
    if not records:
        raise ValueError("There is no record to score.")
    scorer = scorer or TextScorer()
    subjects = [record["subject_id"] for record in records]
    metrics = build_metrics(records, scorer)
    values, intervals, reasons = evaluate_metrics(metrics, subjects, resamples, seed)
    nested = nest(values)
    findings = measure_findings(records, scorer.findings, resamples, seed)
    return {
        "paper": nested.pop("paper"),
        "strict": nested.pop("strict"),
        **nested,
        **measure_patients(records, resamples, seed, by),
        **({} if findings is None else {"findings": findings}),
        "intervals": nest(intervals),
        "undefined": reasons,
        "skipped": scorer.resources.skipped,
        "about": {
            "records": len(records),
            "patients": len(set(subjects)),
            "probabilities": list(probability_sources(records)),
            "bleu_signature": bleu_signature(),
            "bootstrap": {"resamples": resamples, "seed": seed, "unit": "patient", "level": 0.95},
        },
    }


def measure_patients(
    records: Sequence[Mapping], resamples: int, seed: int, by: Sequence[str] | None
) -> dict[str, dict]:
    """`subgroups`, `matched_prior` and `selective` of the records that ask for diseases, where they allow them."""
    asked = [record for record in records if parse_answer(record["reference"]).answer is not None]
    if not asked:
        return {}
    subgroups = measure_subgroups(asked, by, resamples, seed)
    columns = [column for column, found in subgroups.items() if found["groups"]]
    sections = {
        "subgroups": subgroups,
        "matched_prior": measure_matched_prior(asked, resamples, seed),
        "selective": measure_selective(asked, columns, resamples, seed),
    }
    return {name: section for name, section in sections.items() if section is not None}


def compare_records(
    records: Sequence[Mapping],
    others: Sequence[Mapping],
    scorer: TextScorer | None = None,
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
    values, draws = paired_differences(records, others, scorer, resamples, seed, where)
    return {
        name: {"a": a, "b": b, "difference": a - b, "interval": interval(draws[name]) if draws else None}
        for name, (a, b) in values.items()
    }


def paired_differences(
    records: Sequence[Mapping],
    others: Sequence[Mapping],
    scorer: TextScorer | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    where: str = "The other run",
) -> tuple[dict[str, tuple[float, float]], dict[str, np.ndarray]]:
    """
    The two values of every metric that both define, and its differences over resampled patients, (resamples,); see
    [`compare_records`].
    """
    scorer = scorer or TextScorer()
    by_id = {record["id"]: record for record in others}
    check_same_ids([record["id"] for record in records], by_id, where)
    sides = [build_metrics(side, scorer) for side in (records, [by_id[record["id"]] for record in records])]
    subjects = [record["subject_id"] for record in records]
    found = [evaluate_metrics(side, subjects, resamples=0)[0] for side in sides]
    values = {}
    for name, a in found[0].items():
        b = found[1].get(name)
        if a is not None and b is not None:
            values[name] = (a, b)
    if not resamples:
        return values, {}
    draws = [resample({name: side[name] for name in values}, subjects, resamples, seed) for side in sides]
    return values, {name: draws[0][name] - draws[1][name] for name in values}


def write_results(results: dict, folder: str | os.PathLike, with_figures: bool = True) -> None:
    """Writes metrics.json, report.md and the figures."""
    from .figures import write_figures

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for line in results["skipped"]:
        logger.info(line)
    write_json(results, folder / "metrics.json")
    figures = write_figures(results, folder) if with_figures else []
    write_text(render_report(results, figures), folder / "report.md")
    logger.info("%s: metrics.json and report.md, %d records.", folder, results["about"]["records"])
