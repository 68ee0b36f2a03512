# SPDX-License-Identifier: Apache-2.0
"""
The metrics of MedTVT-R1, in two modes: `paper` follows the authors' script, `strict` uses standard definitions that count
every record.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from modeling_medtvt import DISEASES, parse_answer

from ..data.labels import as_label_array, sample_f1
from .bootstrap import Metric, mean_metric, nanmean, ratio


ECE_BINS = 10


# --- paper mode ---


def paper_labels(text: str) -> set[str] | None:
    """The labels that the authors read: entries of the first answer block as they are written; None without a block."""
    answer = parse_answer(text).answer
    return None if answer is None else {entry.strip() for entry in answer.split(";") if entry.strip()}


def paper_label_metrics(references: Sequence[str], completions: Sequence[str]) -> dict[str, Metric]:
    """
    Precision, recall and F1 averaged over the records whose completion and reference both have an answer block; an
    empty set has 0. AUC of 0/1 predictions: (sensitivity + specificity) / 2, over all seven diseases pooled, and each.
    """
    written = [[paper_labels(text) for text in side] for side in (completions, references)]
    parsed = np.array([None not in pair for pair in zip(*written)], dtype=bool)
    named, true = ([labels or set() for labels in side] for side in written)
    hits = np.array([len(a & b) for a, b in zip(named, true)], dtype=np.float64)
    sizes, true_sizes = (np.array([len(labels) for labels in side], dtype=np.float64) for side in (named, true))
    precision, recall = hits / np.maximum(sizes, 1), hits / np.maximum(true_sizes, 1)
    f1 = 2 * precision * recall / np.where(hits > 0, precision + recall, 1)
    reason = "no record has an answer block in both completion and reference"
    metrics = {
        name: mean_metric(values, parsed, reason)
        for name, values in (("precision", precision), ("recall", recall), ("f1", f1))
    }
    kept = parsed[:, None]
    metrics |= _hard_auc(as_label_array(true), as_label_array(named), kept)
    return metrics


def _hard_auc(truth: np.ndarray, named: np.ndarray, kept: np.ndarray) -> dict[str, Metric]:
    positive, hit = truth & kept, truth & named & kept
    negative, spared = ~truth & kept, ~truth & ~named & kept

    def area(weights: np.ndarray, column: slice) -> np.ndarray:
        parts = [(weights @ part)[:, column].sum(1) for part in (hit, positive, spared, negative)]
        return (ratio(parts[0], parts[1]) + ratio(parts[2], parts[3])) / 2

    metrics = {"auc": Metric(lambda weights: area(weights, slice(None)), "one of the two classes is absent")}
    for i, disease in enumerate(DISEASES):
        one = partial(area, column=slice(i, i + 1))
        metrics[f"per_disease/{disease}/auc"] = Metric(one, "no parsed record has the disease, or all have it")
    return metrics


# --- strict mode ---


def label_metrics(truth: np.ndarray, named: np.ndarray) -> dict[str, Metric]:
    """
    Set metrics of (records, 7) labels. Averaged over records (`_samples`: two empty sets agree fully; else an empty
    answer has precision 0, an empty truth recall 0), over diseases (`_macro`: a disease that no record has is left out)
    and pooled (`_micro`); exact match of the sets, and the Hamming loss.
    """
    hit, false, missed = truth & named, ~truth & named, truth & ~named
    sums = [part.sum(1).astype(float) for part in (hit, false, missed)]
    agree_on_none = (sums[0] + sums[1] + sums[2]) == 0

    def macro(weights: np.ndarray, formula: _Formula) -> np.ndarray:
        return nanmean(_per_disease(weights, formula, hit, false, missed).T)

    def micro(weights: np.ndarray, formula: _Formula) -> np.ndarray:
        return formula(*((weights @ part).sum(1) for part in (hit, false, missed)))

    def single(weights: np.ndarray, formula: _Formula, i: int) -> np.ndarray:
        return _per_disease(weights, formula, *(part[:, i : i + 1] for part in (hit, false, missed)))[:, 0]

    metrics = {}
    for name, formula in _SET_FORMULAS.items():
        values = np.where(agree_on_none, 1, np.nan_to_num(formula(*sums))) if name != "f1" else sample_f1(truth, named)
        metrics[f"{name}_samples"] = mean_metric(values)
        metrics[f"{name}_macro"] = Metric(partial(macro, formula=formula), "no record has any of the seven diseases")
        metrics[f"{name}_micro"] = Metric(partial(micro, formula=formula), "no disease is present or named")
    metrics["exact_match"] = mean_metric((truth == named).all(1))
    metrics["hamming_loss"] = mean_metric((truth != named).mean(1))
    for i, disease in enumerate(DISEASES):
        metrics[f"per_disease/{disease}/prevalence"] = mean_metric(truth[:, i])
        metrics[f"per_disease/{disease}/named"] = mean_metric(named[:, i])
        for name, formula in _SET_FORMULAS.items():
            metrics[f"per_disease/{disease}/{name}"] = Metric(
                partial(single, formula=formula, i=i), "no record has the disease"
            )
    return metrics


# Counts of hits, of falsely named and of missed labels, to a score
_Formula = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
_SET_FORMULAS: dict[str, _Formula] = {
    "precision": lambda hit, false, missed: ratio(hit, hit + false),
    "recall": lambda hit, false, missed: ratio(hit, hit + missed),
    "f1": lambda hit, false, missed: ratio(2 * hit, 2 * hit + false + missed),
    "jaccard": lambda hit, false, missed: ratio(hit, hit + false + missed),
}


def _per_disease(
    weights: np.ndarray, formula: _Formula, hit: np.ndarray, false: np.ndarray, missed: np.ndarray
) -> np.ndarray:
    """(resamples, diseases): 0 where a disease that occurs is never named, NaN where it does not occur."""
    sums = [weights @ part for part in (hit, false, missed)]
    return np.where(sums[0] + sums[2] > 0, np.nan_to_num(formula(*sums)), np.nan)


def probability_metrics(truth: np.ndarray, probabilities: np.ndarray) -> dict[str, Metric]:
    """
    AUROC, AUPRC (average precision), Brier score and expected calibration error (ten bins of equal width) of (records, 7)
    probabilities, each disease and their mean over the diseases for which it is defined.
    """
    functions = {"auroc": auroc_of, "auprc": auprc_of, "brier": _brier, "ece": _ece}
    reasons = {"auroc": "no record has the disease, or all have it", "auprc": "no record has the disease"}

    def macro(weights: np.ndarray, columns: Sequence[Callable[[np.ndarray], np.ndarray]]) -> np.ndarray:
        return nanmean(np.stack([column(weights) for column in columns]))

    metrics = {}
    for name, function in functions.items():
        columns = [function(truth[:, i], probabilities[:, i]) for i in range(len(DISEASES))]
        metrics[f"{name}_macro"] = Metric(partial(macro, columns=columns), "undefined for all seven diseases")
        for disease, column in zip(DISEASES, columns):
            metrics[f"per_disease/{disease}/{name}"] = Metric(column, reasons.get(name, "no record"))
    return metrics


def _by_level(truth: np.ndarray, scores: np.ndarray) -> Callable[[np.ndarray], tuple[np.ndarray, ...]]:
    """Function from weights to those of positives and of negatives at each distinct score, from the highest down."""
    order = np.argsort(-scores, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(scores[order]) != 0])
    truth = truth[order]

    def sums(weights: np.ndarray) -> tuple[np.ndarray, ...]:
        weights = weights[:, order]
        return tuple(np.add.reduceat(weights * side, starts, axis=1) for side in (truth, ~truth))

    return sums


def pairs_of(truth: np.ndarray, scores: np.ndarray) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Function from weights to how many pairs of an ill and another record are ranked rightly (ties half), of how many."""
    sums = _by_level(truth, scores)

    def count(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        positive, negative = sums(weights)
        below = negative.sum(1, keepdims=True) - negative.cumsum(1)
        return (positive * (below + negative / 2)).sum(1), positive.sum(1) * negative.sum(1)

    return count


def auroc_of(truth: np.ndarray, scores: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Function from weights to the area under the ROC curve."""
    count = pairs_of(truth, scores)
    return lambda weights: ratio(*count(weights))


def auprc_of(truth: np.ndarray, scores: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Function from weights to the area under the precision-recall curve, as average precision."""
    sums = _by_level(truth, scores)

    def area(weights: np.ndarray) -> np.ndarray:
        positive, negative = sums(weights)
        named = (positive + negative).cumsum(1)
        precision = np.divide(positive.cumsum(1), named, out=np.zeros_like(named), where=named > 0)
        return ratio((positive * precision).sum(1), positive.sum(1))

    return area


def _brier(truth: np.ndarray, scores: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    return mean_metric((scores - truth) ** 2).compute


def _ece(truth: np.ndarray, scores: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    bins = np.minimum((scores * ECE_BINS).astype(int), ECE_BINS - 1)
    gaps = (scores - truth)[:, None] * (bins[:, None] == np.arange(ECE_BINS))
    return lambda weights: ratio(np.abs(weights @ gaps).sum(1), weights.sum(1))
