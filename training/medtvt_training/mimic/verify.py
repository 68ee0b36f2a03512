# SPDX-License-Identifier: Apache-2.0
"""Checks on a generated answer. They read words and numbers, not meaning: what passes is consistent, not approved."""

import re

from modeling_medtvt import DISEASES, parse_answer
from processing_medtvt.processing_medtvt import PLACEHOLDER

from ..data.conversation import text_part
from ..data.rows import Part
from .lab_flags import LAB_GROUPS, LABS, SPECIMEN_INDICES
from .prompts import TITLES, Request


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
_NEGATED = re.compile(
    r"\b(?:no|not|without|none|neither|nor|absence|absent|free of|negative for|rules? out|exclude[sd]?|rather than"
    r"|lack\w*|unlikely|normal:)\b[^.;\n]*$",
    re.IGNORECASE,
)
# Term -> other words for it in the evidence. A term that is claimed must stand in the evidence in one of these forms.
_ECG_TERMS = {
    "atrial fibrillation": (),
    "atrial flutter": (),
    "sinus tachycardia": (),
    "sinus bradycardia": (),
    "bundle branch block": ("rbbb", "lbbb"),
    "fascicular block": (),
    "left ventricular hypertrophy": ("lvh",),
    "st elevation": (),
    "st depression": ("st junctional depression",),
    "infarct": ("stemi", " mi"),
    "ischemi": (),
    "a-v block": (),
    "pacemaker": ("paced",),
    "low voltage": ("low qrs voltage",),
    "axis deviation": ("axis",),
}
_CXR_TERMS = {
    "atelectasis": ("atelecta",),
    "cardiomegaly": ("enlarged heart", "heart is enlarged", "cardiac enlargement", "enlarged cardiac"),
    "consolidation": (),
    "edema": ("oedema", "vascular congestion"),
    "fracture": (),
    "pleural effusion": ("effusion",),
    "pneumonia": ("pneumonic",),
    "pneumothorax": (),
    "nodule": ("lesion",),
}
_DIRECTIONS = {
    "low": "low",
    "decreased": "low",
    "reduced": "low",
    "high": "high",
    "elevated": "high",
    "raised": "high",
    "increased": "high",
    "normal": "normal",
}


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
    terms: dict[str, tuple[str, ...]] = {}
    if "ecg" in request.evidence or request.level == "diagnosis":
        terms |= _ECG_TERMS
    if "cxr" in request.evidence or request.level == "diagnosis":
        terms |= _CXR_TERMS
    terms |= {disease.lower(): () for disease in DISEASES}
    problems += _check_terms(body, listed, terms, request)
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


def _check_labs(body: str, request: Request) -> list[str]:
    """A lab that is named was measured, and is not called high where it is low."""
    if "lab" not in request.evidence:
        return []
    problems, readings = [], request.row["labs"]
    for title in LAB_GROUPS.values():  # "Kidney function and glucose" names no test
        body = re.sub(re.escape(title), "", body, flags=re.IGNORECASE)
    for name in LABS:
        if name in SPECIMEN_INDICES:
            continue
        short = name.split(" (")[0]
        mention = re.search(rf"(?<![\w-]){re.escape(short)}(?![\w-])", body, 0 if len(short) < 5 else re.IGNORECASE)
        if not mention:
            continue
        reading = readings[name]
        longer = any(short in other and short != other.split(" (")[0] for other in LABS)
        if reading is None:
            if not longer and not _NEGATED.search(body[: mention.start()]):
                problems.append(f"it names {name}, which was not measured")
            continue
        claim = re.search(
            rf"\b({'|'.join(_DIRECTIONS)})\s+{re.escape(short)}(?![\w-])|(?<![\w-]){re.escape(short)}\s+(?:is|was)\s+({'|'.join(_DIRECTIONS)})\b",
            body,
            re.IGNORECASE,
        )
        if claim and not longer:
            said = _DIRECTIONS[(claim.group(1) or claim.group(2)).lower()]
            if said != reading["flag"] and not _NEGATED.search(body[: claim.start()]):
                problems.append(f"it calls {name} {said}, which is {reading['flag']}")
    return problems


def _check_terms(body: str, listed: str, terms: dict[str, tuple[str, ...]], request: Request) -> list[str]:
    """A finding or disease that is claimed is in the evidence, and there not as absent, or is one of the diseases."""
    claims = _claimed(listed, terms)
    allowed = {disease.lower() for disease in request.row["diseases"]} if request.level == "diagnosis" else set()
    said = _claimed(body.lower(), dict.fromkeys(terms, ()))
    return [f"it claims {term}, which is not in the evidence" for term in sorted(said - claims - allowed)]


def _claimed(text: str, terms: dict[str, tuple[str, ...]]) -> set[str]:
    found = set()
    for term, forms in terms.items():
        for form in (term, *forms):
            for match in re.finditer(re.escape(form), text):
                if not _NEGATED.search(text[: match.start()]):
                    found.add(term)
    return found


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
