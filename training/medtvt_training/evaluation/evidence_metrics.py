# SPDX-License-Identifier: Apache-2.0
"""Whether what the reasoning cites is so."""

from collections.abc import Mapping, Sequence

import numpy as np

from modeling_medtvt.answers_medtvt import ParsedAnswer
from processing_medtvt.claims_medtvt import stated_findings

from ..data.conversation import MODALITIES
from .bootstrap import Metric, ratio_metric


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
