# SPDX-License-Identifier: Apache-2.0
"""Checks on a generated answer. They read words and numbers, not meaning: what passes is consistent, not approved."""

import re

from modeling_medtvt import DISEASES, parse_answer
from processing_medtvt.claims_medtvt import Claim, read_claims, stated_terms
from processing_medtvt.evidence_medtvt import COMPARISONS
from processing_medtvt.processing_medtvt import PLACEHOLDER

from ..data.conversation import text_part
from ..data.rows import Part
from .evidence import TITLES, read_evidence
from .lab_flags import LAB_GROUPS, SPECIMEN_INDICES
from .prompts import Request


MIN_WORDS, MAX_WORDS = 2, 420  # the authors cut question and answer at 600 tokens, which loses the answer block
_IDENTIFIERS = {
    "a de-identification gap": r"_{2,}|\[\*\*",
    "a long number": r"\d{7,}",
    "a date": r"\b\d{1,4}[-/]\d{1,2}[-/]\d{1,4}\b|\b(?:19|20|21)\d\d\b",
    "a time of day": r"\b\d{1,2}:\d{2}\b",
    "a person": r"\b(?:Dr|Mr|Mrs|Ms)\b\.?",
    "an address": r"\S+@\S+|https?://|www\.",
}
_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?")
# Said with a more special finding: who states that, may state this
GENERAL = {
    "ecg: tachycardia": ("ecg: sinus tachycardia", "ecg: rapid response"),
    "ecg: bradycardia": ("ecg: sinus bradycardia",),
    "ecg: wide QRS": ("ecg: left bundle branch block", "ecg: right bundle branch block", "ecg: paced"),
    "ecg: infarct": tuple(f"ecg: {wall} Q waves" for wall in ("inferior", "anterior", "anteroseptal", "septal")),
    "cxr: effusion": ("cxr: right effusion", "cxr: left effusion", "cxr: bilateral effusions"),
    "cxr: opacity": (
        *(f"cxr: {side} {zone} zone opacity" for side in ("right", "left") for zone in ("lower", "mid", "upper")),
        "cxr: interstitial opacity",
    ),
}
# and the other way round where a label names no side
SPECIAL = {special: general for general in ("cxr: effusion", "cxr: opacity") for special in GENERAL[general]}
_FLAGS = {"far high": "high", "high": "high", "low": "low", "normal": "normal"}


def check_answer(text: str, request: Request) -> list[str]:
    """What is wrong with an answer; empty if nothing was found."""
    problems = []
    words = len(text.split())
    if not MIN_WORDS <= words <= MAX_WORDS:
        problems.append(f"it has {words} words; accepted are {MIN_WORDS} to {MAX_WORDS}")
    if PLACEHOLDER.search(text):
        problems.append("it holds a placeholder")
    ids = {str(request.row[key]) for key in ("subject_id", "hadm_id", "ecg_study_id", "cxr_study_id", "cxr_dicom_id")}
    if any(known != "None" and known in text for known in ids):
        problems.append("it holds an id")
    problems += [f"it holds {name}" for name, pattern in _IDENTIFIERS.items() if re.search(pattern, text)]
    problems += _check_format(text, request)
    body = text.split("<answer>")[0].replace("<think>", "").replace("</think>", "")
    listed = " ".join(line for evidence in request.evidence.values() for line in evidence.lines).lower()
    problems += _check_numbers(body, listed)
    problems += _check_labs(body, request)
    problems += _check_findings(body, request)
    problems += _check_diseases(body, listed, request)
    return problems


def _check_format(text: str, request: Request) -> list[str]:
    if request.level == "physiology":
        return ["it holds a tag"] if re.search(r"</?(?:think|answer)>", text) else []
    if not re.fullmatch(r"<think>(?:(?!</?think>|</?answer>).)+</think>\s*<answer>[^<>]*</answer>", text, re.DOTALL):
        return ["it is not <think>…</think><answer>…</answer>"]
    problems = []
    answer = parse_answer(text)
    if answer.unknown or set(answer.diseases) != set(request.row["diseases"]):
        problems.append("its answer block is not the set of the admission's diseases")
    lines = [line.split(":")[0].strip() for line in (answer.reasoning or "").splitlines() if line.strip()]
    expected = [*(TITLES[modality] for modality in request.evidence), "Conclusion"]
    if lines != expected:
        problems.append(f"its lines begin with {', '.join(lines)[:60]!r}; expected are {', '.join(expected)}")
    return problems


def _check_numbers(body: str, listed: str) -> list[str]:
    known = {float(number) for number in _NUMBER.findall(listed)} | {12.0}
    unknown = [number for number in _NUMBER.findall(body) if abs(float(number)) not in {abs(x) for x in known}]
    return [f"it has numbers that are not in the evidence: {', '.join(unknown[:3])}"] if unknown else []


def _read_body(body: str, request: Request) -> list[Claim]:
    """What an answer claims; at the physiology level all of it is about one modality."""
    if request.level == "physiology":
        return read_evidence(request.modalities[0], [body])
    return [claim for claim in read_claims(body) if claim.relation != "value"]


def _check_labs(body: str, request: Request) -> list[str]:
    """A lab that is named was measured, and is called what it is."""
    problems, readings = [], request.row["labs"]
    for title in LAB_GROUPS.values():  # "Kidney function and glucose" names no test
        body = re.sub(re.escape(title), "", body, flags=re.IGNORECASE)
    for claim in _read_body(body, request) if "lab" in request.evidence else ():
        if not claim.labs or SPECIMEN_INDICES.issuperset(claim.labs):
            continue
        known = [readings[name] for name in claim.labs if readings[name]]
        names = " and ".join(claim.labs)
        if not known:
            if not claim.negated:
                problems.append(f"it names {names}, which was not measured")
        elif claim.limits:
            holds = any(COMPARISONS[str(claim.relation)](reading["value"], claim.limits) for reading in known)
            if holds == claim.negated and claim.unit is None:
                problems.append(f"it says {claim.text!r}, which is not so")
        elif (_FLAGS[str(claim.relation)] in {reading["flag"] for reading in known}) == claim.negated:
            said = f"not {claim.relation}" if claim.negated else claim.relation
            problems.append(f"it calls {names} {said}, which is {known[0]['flag']}")
    return problems


def _check_findings(body: str, request: Request) -> list[str]:
    """A finding that is claimed, or denied, stands so in the evidence. What is not understood is left alone."""
    known = {
        (claim.finding, claim.negated)
        for modality, evidence in request.evidence.items()
        for claim in read_evidence(modality, [*evidence.lines, *evidence.statements])
    }
    known |= {(SPECIAL[str(name)], negated) for name, negated in known if name in SPECIAL and not negated}
    problems = []
    for claim in _read_body(body, request):
        name = str(claim.finding)
        if claim.finding is None or claim.labs or name.startswith("lab"):
            continue
        like = {name, *GENERAL.get(name, ())} if not claim.negated else {name, SPECIAL.get(name, name)}
        if not any((other, claim.negated) in known for other in like):
            said = "denies" if claim.negated else "claims"
            problems.append(f"it {said} {name.split(': ')[1]}, which is not in the evidence")
    return sorted(set(problems))


def _check_diseases(body: str, listed: str, request: Request) -> list[str]:
    """A disease that is named is one of the admission's, or in the evidence."""
    diseases = [disease.lower() for disease in DISEASES]
    allowed = stated_terms(listed, diseases)
    if request.level == "diagnosis":
        allowed |= {disease.lower() for disease in request.row["diseases"]}
    said = stated_terms(body, diseases)
    return [f"it claims {disease}, which is not in the evidence" for disease in sorted(said - allowed)]


def split_parts(text: str, request: Request) -> list[Part]:
    """An accepted answer as parts that say which modality they cite."""
    if request.level == "physiology":
        return [text_part(text, request.modalities)]
    reasoning, answer = text.split("</think>", 1)
    names = {title: [modality] for modality, title in TITLES.items()}
    parts = [text_part("<think>")]
    for line in reasoning.removeprefix("<think>").strip().splitlines():
        if line.strip():
            # the conclusion rests on everything, so it goes where one modality is withheld
            parts.append(text_part(f"{line.strip()}\n", names.get(line.split(":")[0].strip(), request.modalities)))
    return [*parts, text_part(f"</think>{answer.strip()}")]
