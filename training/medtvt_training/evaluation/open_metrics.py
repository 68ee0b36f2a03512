# SPDX-License-Identifier: Apache-2.0
"""Measures of answers about open real data: what is cited against what labels say, and probabilities against them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from modeling_medtvt import DISEASES
from processing_medtvt import load_cxr
from processing_medtvt.claims_medtvt import read_claims

from ..data.rows import QARow
from ..files import markdown_table
from ..open_data.scp_codes import ABNORMAL
from .bootstrap import RESAMPLES, Metric, evaluate_metrics, mean_metric


AF, PNEUMONIA = DISEASES[DISEASES.index("Atrial Fibrillation")], DISEASES[DISEASES.index("Pneumonia")]
NORMAL, OPACITY, CLEAR = "ecg: normal ECG", "cxr: opacity", "cxr: clear lungs"
STRATA = 5
FOLDS = 5
NOTES = {
    "sens": "share of the records that show it in which it is cited",
    "spec": "share of the records that do not show it in which it is not cited",
}


def measure_open_data(
    rows: Sequence[QARow], answers: Sequence[Mapping[str, Any]], resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Any]:
    """
    All measures of records and their answers.

    Returns:
        `dict`: `values`, `intervals` and `undefined` by metric, such as `"ecg/ecg: left axis/sens"`, and `counts`: how many
        records and patients each is of.
    """
    results: dict[str, Any] = {"values": {}, "intervals": {}, "undefined": {}, "counts": {}}
    for modality, measure in (("ecg", _measure_ecg), ("cxr", _measure_cxr), ("lab", _measure_labs)):
        chosen = [(row, answer) for row, answer in zip(rows, answers) if row["modalities"] == [modality]]
        if not chosen:
            continue
        subjects = [str(row["subject_id"]) for row, _ in chosen]
        metrics, counts = measure([row for row, _ in chosen], [answer for _, answer in chosen])
        values, intervals, undefined = evaluate_metrics(metrics, subjects, resamples, seed)
        for key, found in (("values", values), ("intervals", intervals), ("undefined", undefined), ("counts", counts)):
            results[key] |= {f"{modality}/{name}": value for name, value in found.items()}
        results["counts"][f"{modality}/records"] = len(chosen)
        results["counts"][f"{modality}/patients"] = len(set(subjects))
    return results


def cited_findings(text: str) -> set[str]:
    """Names of what a reasoning states, and of what follows from it: a zone's opacity is an opacity."""
    reasoning = text.split("<answer>")[0]
    cited = {claim.finding for claim in read_claims(reasoning) if claim.finding and not claim.negated}
    if any(name.startswith("cxr:") and name.endswith("opacity") for name in cited):
        cited.add(OPACITY)
    if any(name.startswith("cxr:") and name.endswith(("effusion", "effusions")) for name in cited):
        cited.add("cxr: effusion")
    return cited


def auroc_metric(truth: np.ndarray, scores: np.ndarray, kept: np.ndarray, strata: np.ndarray | None = None) -> Metric:
    """
    The share of pairs of a positive and a negative record in which the positive one has the higher score; ties count half.

    Args:
        truth, scores, kept: (records,) of bool, float and bool; the others count nothing.
        strata: (records,); only pairs within one count, all together.
    """
    strata = np.zeros(len(truth), dtype=int) if strata is None else strata
    blocks = []
    for stratum in np.unique(strata[kept]):
        members = np.flatnonzero(kept & (strata == stratum))
        members = members[np.argsort(-scores[members], kind="stable")]
        starts = np.flatnonzero(np.r_[True, np.diff(scores[members]) != 0])
        blocks.append((members, starts, truth[members]))

    def area(weights: np.ndarray) -> np.ndarray:
        won, pairs = np.zeros(len(weights)), np.zeros(len(weights))
        for members, starts, positive in blocks:
            own = weights[:, members]
            yes, no = (np.add.reduceat(own * side, starts, axis=1) for side in (positive, ~positive))
            below = no.sum(1, keepdims=True) - no.cumsum(1)
            won += (yes * (below + no / 2)).sum(1)
            pairs += yes.sum(1) * no.sum(1)
        return np.divide(won, pairs, out=np.full(len(weights), np.nan), where=pairs > 0)

    return Metric(area, "one of the two groups has no record")


def _labels(rows: Sequence[QARow], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Which records show a finding, and of which it is known, (records,) of bool."""
    shown = np.array([name in (row["findings"] or ()) for row in rows])
    return shown, shown | np.array([name in (row.get("absent_findings") or ()) for row in rows])


def _probability(answers: Sequence[Mapping[str, Any]], disease: str) -> np.ndarray:
    return np.array([answer["probabilities"][disease] for answer in answers], dtype=float)


def _cited_metrics(rows: Sequence[QARow], cited: Sequence[set[str]]) -> tuple[dict[str, Metric], dict[str, Any]]:
    """Sensitivity and specificity of each finding that a record shows, and how many cited ones of known ones hold."""
    metrics, counts = {}, {}
    for name in sorted({name for row in rows for name in row["findings"] or ()}):
        shown, known = _labels(rows, name)
        says = np.array([name in found for found in cited])
        metrics[f"{name}/sens"] = mean_metric(says, shown, "no record shows it")
        metrics[f"{name}/spec"] = mean_metric(~says, known & ~shown, "no record is known not to show it")
        counts[f"{name}/sens"], counts[f"{name}/spec"] = int(shown.sum()), int((known & ~shown).sum())
    true = [len(found & set(row["findings"] or ())) for row, found in zip(rows, cited)]
    false = [len(found & set(row.get("absent_findings") or ())) for row, found in zip(rows, cited)]
    judged = np.array(true) + np.array(false)

    def share(weights: np.ndarray) -> np.ndarray:
        total = weights @ judged
        return np.divide(weights @ np.array(true), total, out=np.full(len(weights), np.nan), where=total > 0)

    metrics["cited_true"] = Metric(share, "nothing cited is known to be shown or absent")
    counts["cited_true"] = int(judged.sum())
    return metrics, counts


def _measure_ecg(
    rows: Sequence[QARow], answers: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, Metric], dict[str, Any]]:
    cited = [cited_findings(answer["completion"]) for answer in answers]
    metrics, counts = _cited_metrics(rows, cited)
    abnormal = np.array([len(found & set(ABNORMAL)) for found in cited], dtype=float)
    normal, known = _labels(rows, NORMAL)
    metrics["normal_with_abnormal_cited"] = mean_metric(abnormal > 0, normal, "no record is a normal ECG")
    metrics["abnormal_by_count/auroc"] = auroc_metric(~normal, abnormal, known)
    fibrillation, known_rhythm = _labels(rows, "ecg: fibrillation")
    score = _probability(answers, AF)
    metrics["af_by_probability/auroc"] = auroc_metric(fibrillation, score, known_rhythm)
    metrics["af_by_probability/spec_at_full_sens"] = _specificity_at_full_sensitivity(
        fibrillation, score, known_rhythm
    )
    counts["normal_with_abnormal_cited"] = int(normal.sum())
    counts["abnormal_by_count/auroc"] = _pair(~normal & known, normal)
    for name in ("auroc", "spec_at_full_sens"):
        counts[f"af_by_probability/{name}"] = _pair(fibrillation, known_rhythm & ~fibrillation)
    return metrics, counts


def _specificity_at_full_sensitivity(truth: np.ndarray, scores: np.ndarray, known: np.ndarray) -> Metric:
    """The share of negatives below the lowest positive."""

    def share(weights: np.ndarray) -> np.ndarray:
        drawn = np.where((weights > 0) & truth & known, scores, np.inf).min(axis=1)  # of each resample
        negative = weights * (known & ~truth)
        total = negative.sum(1)
        below = (negative * (scores < drawn[:, None])).sum(1)
        return np.divide(below, total, out=np.full(len(weights), np.nan), where=(total > 0) & np.isfinite(drawn))

    return Metric(share, "one of the two groups has no record")


def _measure_cxr(
    rows: Sequence[QARow], answers: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, Metric], dict[str, Any]]:
    cited = [cited_findings(answer["completion"]) for answer in answers]
    metrics, counts = _cited_metrics(rows, cited)
    opacity, known = _labels(rows, OPACITY)
    score = _probability(answers, PNEUMONIA)
    metrics["pneumonia_by_probability/auroc"] = auroc_metric(opacity, score, known)
    counts["pneumonia_by_probability/auroc"] = _pair(opacity, known & ~opacity)
    plain = _intensity_score(rows, opacity, known)
    if plain is None:
        return metrics, counts
    metrics["intensity_statistics/auroc"] = auroc_metric(opacity, plain, known)
    limits = np.quantile(plain[known], np.linspace(0, 1, STRATA + 1)[1:-1])
    strata = np.searchsorted(limits, plain, side="right")
    metrics["pneumonia_within_intensity_strata/auroc"] = auroc_metric(opacity, score, known, strata)
    metrics["intensity_within_its_strata/auroc"] = auroc_metric(opacity, plain, known, strata)
    for name in ("intensity_statistics", "pneumonia_within_intensity_strata", "intensity_within_its_strata"):
        counts[f"{name}/auroc"] = counts["pneumonia_by_probability/auroc"]
    return metrics, counts


def intensity_statistics(path: str) -> list[float]:
    """Seven numbers of a film's grey levels: mean, standard deviation, and the percentiles 1, 10, 50, 90 and 99."""
    grey = np.asarray(load_cxr(path)[0].convert("L"), dtype=float)
    return [grey.mean(), grey.std(), *np.percentile(grey, [1, 10, 50, 90, 99])]


def _intensity_score(rows: Sequence[QARow], truth: np.ndarray, known: np.ndarray) -> np.ndarray | None:
    """
    What a logistic regression on [`intensity_statistics`] says, cross-validated over patients: how far the two groups of
    films differ in how they were taken. None where there are too few patients.
    """
    patients = np.array([row["subject_id"] for row in rows])
    if min(len(set(patients[known & side])) for side in (truth, ~truth)) < FOLDS:
        return None
    numbers = np.array([intensity_statistics(str(row["cxr"])) for row in rows])
    scores = np.zeros(len(rows))
    chosen = np.flatnonzero(known)
    for train, test in GroupKFold(FOLDS, shuffle=True, random_state=0).split(chosen, groups=patients[chosen]):
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        model.fit(numbers[chosen[train]], truth[chosen[train]])
        scores[chosen[test]] = model.predict_proba(numbers[chosen[test]])[:, 1]
    return scores


def _measure_labs(
    rows: Sequence[QARow], answers: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, Metric], dict[str, Any]]:
    metrics: dict[str, Metric] = {}
    counts: dict[str, Any] = {}
    everyone = np.ones(len(rows), dtype=bool)
    for disease in DISEASES:
        truth = np.array([disease in row["diseases"] for row in rows])
        metrics[f"{disease}/auroc"] = auroc_metric(truth, _probability(answers, disease), everyone)
        counts[f"{disease}/auroc"] = _pair(truth, ~truth)
    columns = list(metrics.values())

    def macro(weights: np.ndarray) -> np.ndarray:
        found = np.stack([column.compute(weights) for column in columns])
        defined = (~np.isnan(found)).sum(0)
        return np.divide(np.nansum(found, axis=0), defined, out=np.full(len(weights), np.nan), where=defined > 0)

    metrics["macro/auroc"] = Metric(macro, "undefined for all seven diseases")
    counts["macro/auroc"] = len(rows)
    return metrics, counts


def _pair(positive: np.ndarray, negative: np.ndarray) -> list[int]:
    return [int(positive.sum()), int(negative.sum())]


TITLES = {"ecg": "Real ECGs", "cxr": "Real films", "lab": "Real labs (MIMIC-IV demo)"}


def render_open_data(results: Mapping[str, Any]) -> str:
    """The report: a table a modality, with counts and intervals."""
    about = results["about"]
    lines = [f"# Open real data, split: {about['split']}\n"]
    if about["trained_on_open_data"]:
        names = ", ".join(about["trained_on_open_data"])
        lines.append(
            f"The weights learned from open data: {names}. Only patients that these leave out measure anything.\n"
        )
    for modality, title in TITLES.items():
        records = results["counts"].get(f"{modality}/records")
        if records is None:
            continue
        patients = results["counts"][f"{modality}/patients"]
        lines.append(f"## {title}: {records:,} records of {patients:,} patients\n")
        table, findings = [], Counter[str]()
        for key, value in results["values"].items():
            prefix, name = key.split("/", 1)
            if prefix != modality:
                continue
            kind = name.rsplit("/", 1)[-1]
            if kind in NOTES:
                findings[name.rsplit("/", 1)[0]] += 1
            else:
                table.append([name, _count(results, key), _value(results, key, value)])
        if modality == "lab":
            lines.append(
                "The demo is a source of the synthetic cohort's ranges: no independent test of weights trained on it.\n"
            )
        lines.append(markdown_table(["measure", "n", "value [95 %]"], table))
        if findings:
            cells = [
                [name, *(cell for kind in NOTES for cell in _cells(results, f"{modality}/{name}/{kind}"))]
                for name in findings
            ]
            lines.append(markdown_table(["cited finding", "n shown", "sens", "n absent", "spec"], cells))
    lines.append(
        "n: records, or positives / negatives. Intervals by patient. What labels leave open is left out. Labels of films are "
        "mined from reports and noisy; statements of ECGs are partly a recorder's."
    )
    return "\n".join(lines) + "\n"


def _cells(results: Mapping[str, Any], key: str) -> list[str]:
    return [_count(results, key), _value(results, key, results["values"][key])]


def _count(results: Mapping[str, Any], key: str) -> str:
    count = results["counts"].get(key)
    return " / ".join(map(str, count)) if isinstance(count, list) else str(count)


def _value(results: Mapping[str, Any], key: str, value: float | None) -> str:
    if value is None:
        return "-"
    limits = results["intervals"].get(key)
    return f"{value:.2f}" + (f" [{limits[0]:.2f}, {limits[1]:.2f}]" if limits else "")
