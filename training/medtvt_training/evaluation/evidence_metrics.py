# SPDX-License-Identifier: Apache-2.0
"""Whether what the reasoning cites is so: by the check against measurements, and by the known causes where there are some."""

from collections.abc import Callable, Mapping, Sequence

from modeling_medtvt.answers_medtvt import ParsedAnswer

from ..data.conversation import MODALITIES
from .bootstrap import Metric, mean_metric, ratio_metric


# Shares of the statements: key and status of the check
STATUSES = {
    "supported": "supported",
    "contradicted": "contradicted",
    "not_measured": "not measured",
    "not_checkable": "not checkable",
}
_CHECKED = ("supported", "contradicted")


def evidence_metrics(
    records: Sequence[Mapping], answers: Sequence[ParsedAnswer], read_findings: Callable[[str], set[str]]
) -> dict[str, Metric]:
    """
    What the check found, where records hold it, and what the known findings say, where records have them.

    Args:
        read_findings: Gives the names of the findings that a text states.
    """
    return {**checked_metrics(records), **cited_metrics(records, answers, read_findings)}


def checked_metrics(records: Sequence[Mapping]) -> dict[str, Metric]:
    """
    Pooled over the records with an `evidence`: the shares of the statements that the measurements support, contradict, do
    not hold, or cannot decide, in all and of each modality; `unmentioned`, the share of abnormal measurements that the
    reasoning leaves out; `statements` a record; and where findings are known, `agreement`: the share of supported or
    contradicted statements whose verdict the findings confirm.
    """
    if not any(record.get("evidence") for record in records):
        return {}
    reason = "no statement in any reasoning"
    checked = [record.get("evidence") or {"statements": [], "unmentioned": [], "abnormal": 0} for record in records]
    statements = [found["statements"] for found in checked]
    metrics = {
        "evidence/statements": mean_metric(
            [len(listed) for listed in statements], [bool(record.get("evidence")) for record in records]
        )
    }
    for modality in (None, *MODALITIES):
        chosen = [[s for s in listed if modality in (None, s["modality"])] for listed in statements]
        sizes = [len(listed) for listed in chosen]
        prefix = "evidence" if modality is None else f"evidence/{modality}"
        for name, status in STATUSES.items():
            hits = [sum(s["status"] == status for s in listed) for listed in chosen]
            metrics[f"{prefix}/{name}"] = ratio_metric(hits, sizes, reason)
    metrics["evidence/unmentioned"] = ratio_metric(
        [len(found["unmentioned"]) for found in checked],
        [found["abnormal"] for found in checked],
        "no measurement is abnormal",
    )
    if any(record.get("findings") for record in records):
        metrics["evidence/agreement"] = _agreement(records, statements)
    return metrics


def _agreement(records: Sequence[Mapping], statements: Sequence[Sequence[Mapping]]) -> Metric:
    """Of statements about findings that the cohort would list if they were there."""
    from ..synthetic.findings import FINDINGS

    hits, sizes = [], []
    for record, listed in zip(records, statements):
        shown = shown_findings(record)
        known = [
            ((s["finding"] in shown) != s["negated"]) == (s["status"] == "supported")
            for s in listed
            if record.get("findings") and s["status"] in _CHECKED and s["finding"] in FINDINGS
        ]
        hits.append(sum(known))
        sizes.append(len(known))
    return ratio_metric(hits, sizes, "no statement is both checked and about a finding that is known")


def shown_findings(record: Mapping) -> set[str]:
    """The findings of what the model was shown: of a swapped modality those of its donor."""
    donor = record.get("donor_modality")
    own = {name for name in record.get("findings") or () if donor is None or not name.startswith(f"{donor}:")}
    return own | {name for name in record.get("donor_findings") or () if name.startswith(f"{donor}:")}


def cited_metrics(
    records: Sequence[Mapping], answers: Sequence[ParsedAnswer], read_findings: Callable[[str], set[str]]
) -> dict[str, Metric]:
    """
    Pooled over the records whose findings are known: the share of cited findings that are true, and of true ones that
    are cited; the former also for each modality and, where that was swapped, with regard to its donor. Without
    findings, nothing. Names of findings begin with their modality.
    """
    known = [bool(record.get("findings")) for record in records]
    if not any(known):
        return {}
    texts = [
        record["completion"] if answer.reasoning is None else answer.reasoning
        for record, answer in zip(records, answers)
    ]
    cited = [read_findings(text) if is_known else set() for text, is_known in zip(texts, known)]
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
