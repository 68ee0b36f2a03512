# SPDX-License-Identifier: Apache-2.0
"""
The evidence reward: F1 of what the reasoning states against what can be measured in the patient's data, by the checker of
`processing_medtvt`. Where the signs of a patient are known, which are those of the synthetic cohort, they decide what the
checker leaves open, above all about films. Not in the paper.
"""

from collections.abc import Collection, Sequence
from typing import Any

from modeling_medtvt import parse_answer
from processing_medtvt import MedTVTProcessor
from processing_medtvt.claims_medtvt import Claim, read_claims
from processing_medtvt.ecg_findings_medtvt import RULES, judge_ecg
from processing_medtvt.evidence_medtvt import Measurements, check_evidence

from ..data.rows import QARow
from .completion import completion_text


# Signs of the ECG and the film that are none of anything
NORMAL_SIGNS = {"ecg: sinus rhythm", "cxr: normal heart size", "cxr: clear lungs"}


def evidence_reward(
    prompts: Sequence,
    completions: Sequence[str | list[dict]],
    measured: Sequence[Measurements],
    findings: Sequence[list[str] | None] | None = None,
    **kwargs: Any,
) -> list[float]:
    """
    [`evidence_f1`] of each think block; 0 without one.

    Args:
        prompts: not read.
        completions (`list[str]` or `list[list[dict]]`): the policy's answers.
        measured (`list[Measurements]`): of each completion's row, see [`measure_row`]. [`MedTVTGRPOTrainer`] measures
            each row once.
        findings (`list[list[str]]`, *optional*): names of the signs of each completion's row, None where not known.
    """
    rewards = []
    for completion, values, known in zip(completions, measured, findings or [None] * len(completions), strict=True):
        reasoning = parse_answer(completion_text(completion)).reasoning
        rewards.append(0.0 if reasoning is None else evidence_f1(reasoning, values, known))
    return rewards


def evidence_f1(reasoning: str, measured: Measurements, findings: Collection[str] | None = None) -> float:
    """
    2 hit / (2 hit + wrong + left out), each finding counted once:

    - hit: an abnormal finding that the data show and a statement names;
    - wrong: a statement that the data contradict, or about what was not measured;
    - left out: an abnormal finding that the data show and no statement is about.

    A true statement about what is normal or absent counts neither way, or a list of negations would earn the most; so do
    statements that cannot be checked or are not understood. Where nothing is abnormal and nothing wrong is said it is 1.

    Args:
        reasoning (`str`): without tags.
        measured ([`Measurements`]): of the patient.
        findings (`Collection[str]`, *optional*): the patient's signs, all of them; None where they are not known.
    """
    claims = read_claims(reasoning)
    evidence = check_evidence(reasoning, measured)
    left_out = {entry["finding"] for entry in evidence.unmentioned}
    abnormal = {entry["finding"] for entry in check_evidence("", measured).unmentioned}
    drawn = set() if findings is None else _undecided_signs(findings, measured)
    left_out |= drawn - {claim.finding for claim in claims}
    hit, wrong = set(), set()
    for claim, statement in zip(claims, evidence.statements):
        status: str = statement["status"]
        is_open = status == "not checkable" or (
            claim.modality == "ecg" and measured["ecg"] and status == "not measured"
        )
        if is_open and findings is not None:
            status = _judge_by_signs(claim, findings)
        if status in ("contradicted", "not measured"):
            wrong.add((claim.finding, claim.negated))
        elif status == "supported" and not claim.negated:
            names = {f"lab: {flag} {lab}" for lab in claim.labs for flag in ("low", "high")} or {str(claim.finding)}
            hit |= names & (abnormal | drawn)
    total = 2 * len(hit) + len(wrong) + len(left_out - hit)
    return 2 * len(hit) / total if total else 1.0


def measure_row(row: QARow, processor: MedTVTProcessor) -> Measurements:
    """
    What can be measured of the modalities that a row has.

    Raises:
        ValueError: if a file cannot be read. Names the row.
    """
    has = row["modalities"]
    try:
        return processor.measure(
            ecg=row["ecg"] if "ecg" in has else None,
            cxr=row["cxr"] if "cxr" in has else None,
            lab=row["lab"] if "lab" in has else None,
            patient={"age": row.get("age"), "sex": row.get("sex")},
        )
    except (ValueError, OSError) as error:
        raise ValueError(f"Row {row['id']}: it cannot be measured, as the evidence reward needs. {error}") from error


def _undecided_signs(findings: Collection[str], measured: Measurements) -> set[str]:
    """Abnormal signs of the ECG and the film that the data show and the checker cannot decide on."""
    ecg = measured["ecg"]
    signs = set(findings) - NORMAL_SIGNS
    of_film = {name for name in signs if name.startswith("cxr: ") and measured["has_cxr"]}
    of_ecg = {name for name in signs if name.startswith("ecg: ") and ecg is not None}
    return of_film | {name for name in of_ecg if name not in RULES or judge_ecg(name, ecg or {})[0] is None}


def _judge_by_signs(claim: Claim, findings: Collection[str]) -> str:
    """As the checker, from the signs; what labs leave open lies near a limit, and signs know no better."""
    from ..synthetic.findings import FINDINGS  # the signs that a patient may have

    if claim.finding not in FINDINGS or claim.modality == "lab":
        return "not checkable"
    return "contradicted" if (claim.finding in findings) == claim.negated else "supported"
