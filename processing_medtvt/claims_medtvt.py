# SPDX-License-Identifier: Apache-2.0
"""What a text claims of a patient's ECG, film and labs: findings by name, negated or not, in the order of the text."""

import bisect
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

from .findings_medtvt import LAB_NICKNAMES, LAB_OTHER_WORDS, LAB_WORDS, WORDINGS, compile_wordings
from .lab_definitions_medtvt import LAB_DEFINITIONS


Relation = Literal["low", "normal", "high", "far high", "above", "at least", "below", "at most", "between", "value"]


class Claim(NamedTuple):
    """
    One statement of a text.

    Args:
        text (`str`): the words of the text that state it.
        modality (`str`, *optional*): `"ecg"`, `"cxr"` or `"lab"`; None where it is not known.
        finding (`str`, *optional*): name, as in `"ecg: sinus rhythm"` or `"lab: high Potassium"`; None where the text
            is not understood.
        negated (`bool`): whether the text says that it is not so.
        labs (`tuple[str]`): names of the labs that it is about; with several, any of them suffices.
        relation (`str`, *optional*): what is said of the lab, or `"value"` for a measure of the ECG.
        limits (`tuple[float]`): the numbers of `"above"`, `"below"`, `"between"` and `"value"`.
        unit (`str`, *optional*): unit of the numbers, where one is written.
        conclusion (`str`): what the text concludes from it, as in "Acute Renal Failure and Sepsis"; "" without one.
    """

    text: str
    modality: str | None
    finding: str | None
    negated: bool = False
    labs: tuple[str, ...] = ()
    relation: Relation | None = None
    limits: tuple[float, ...] = ()
    unit: str | None = None
    conclusion: str = ""


class _Mention(NamedTuple):
    start: int
    end: int
    claim: Claim


# H, I and L are measures of the specimen, which no sentence is about; a single letter is read in capitals only
_SPECIMEN = {lab.name for lab in LAB_DEFINITIONS if lab.reference_low is None}


def _lab_names() -> dict[str, tuple[str, ...]]:
    names: dict[str, tuple[str, ...]] = {}
    for lab in LAB_DEFINITIONS:
        if lab.name not in _SPECIMEN:
            for alias in (lab.name, lab.name.split(" (")[0], *lab.aliases):
                if not alias.startswith("-"):
                    names.setdefault(alias if len(alias) < 4 else alias.lower(), (lab.name,))
    return {**names, **LAB_NICKNAMES}


_LABS = _lab_names()
_LAB = "|".join(
    re.escape(name) if len(name) < 4 and name not in LAB_NICKNAMES else f"(?i:{re.escape(name)})"
    for name in sorted(_LABS, key=len, reverse=True)
)
_NUMBER = r"(\d+(?:\.\d+)?)"
_HIGH = r"(?:high|raised|elevated|increased|above (?:the )?(?:reference |normal )?(?:range|limit|normal))"
_LOW = r"(?:low|reduced|decreased|depressed|below (?:the )?(?:reference |normal )?(?:range|limit|normal))"
_NORMAL = r"(?:normal|unremarkable|(?:with)?in (?:the )?(?:normal |reference )?(?:range|limits))"
_FAR = (
    r"(?:(?:greatly|markedly|severely|very|grossly|massively|far) (?:high|raised|elevated|increased)"
    r"|far (?:above|beyond) (?:the )?(?:range|limit|normal)|far beyond range|severe elevation)"
)
_MILD = r"(?:mildly |slightly |moderately |borderline |marginally |mild |slight |moderate )?"
_LINK = r"(?: (?:is|was|are|were|remains?|of|at|level|count|levels|concentration|,))*[:=]? *"
_RELATIONS: tuple[Relation, ...] = ("far high", "high", "low", "normal")
# `\b` does not hold before "+" or after ")"
_BEFORE, _AFTER = r"(?<![\w-])", r"(?![\w-])"
_DIRECTION = "|".join(f"({_MILD}{word})" for word in (_FAR, _HIGH, _LOW, _NORMAL))
_LAB_BEFORE = re.compile(rf"{_BEFORE}(?:(?i:{_DIRECTION})):? (?:serum |blood |plasma |total )?({_LAB}){_AFTER}")
_LAB_AFTER = re.compile(rf"{_BEFORE}({_LAB}){_LINK}(not )?(?:(?i:{_DIRECTION})){_AFTER}")
_COMPARED = re.compile(
    rf"{_BEFORE}({_LAB}){_LINK}(?i:(?:(>=|≥|at least|no less than)|(<=|≤|at most|no more than)"
    r"|(above|over|greater than|more than|exceeding|>)|(below|under|less than|<)) *"
    rf"{_NUMBER}(%| ?[a-zA-Zµ%][\w/^%]*(?= |\)|,|;|\.|$))?)"
)
_COMPARISONS: tuple[Relation, ...] = ("at least", "at most", "above", "below")
_OR_MORE = re.compile(rf"{_BEFORE}({_LAB}){_LINK}{_NUMBER} or (?:(more|higher|above|greater)|less|lower|below)")
_BETWEEN = re.compile(
    rf"{_BEFORE}({_LAB}){_LINK}(?:{_NUMBER} *(?:to|-|–) *{_NUMBER}|between {_NUMBER} and {_NUMBER})(?![\w.]*\d)"
)
_UNIT = r"(%|(?:mg|g|mmol|µmol|umol|mEq|IU|U|K|m|ng|pg|fL|sec|s|mm ?Hg|kPa|units?)(?:/[a-zA-Z]+|\b))"
_VALUE = re.compile(rf"{_BEFORE}({_LAB}){_LINK}\(?{_NUMBER}(?: ?{_UNIT})?")
# "raised creatinine (3.1 mg/dL)", "sodium 128 mEq/L, low", "normal creatinine, potassium and sodium"
_VALUE_BEHIND = re.compile(rf" *\(?(?:at|of|to|with|:)? *{_NUMBER}(?: ?{_UNIT})?")
_DIRECTION_BEHIND = re.compile(rf" *[,(] *(?:(?i:{_DIRECTION})){_AFTER}")
_LAB_BEHIND = re.compile(
    rf"(?:, and|,| and| or) ({_LAB}){_AFTER}(?!{_LINK}(?:not |{_NUMBER}|[<>≤≥(]|(?i:above|below|over|under|{_DIRECTION})))"
)
# the longer ones first: "frank hyperglycemia" is more than "hyperglycemia"
_WORDS_OF_LABS: dict[str, Any] = LAB_OTHER_WORDS | {
    rf"{stem}(?:a?emia|osis)" if stem in ("acid", "alkal") else rf"{stem}a?emia": lab
    for stem, lab in LAB_WORDS.items()
}
_LAB_WORD = compile_wordings({word: rf"(?:mild |severe |marked )?(?:{word})" for word in _WORDS_OF_LABS})
_WORDING = compile_wordings(WORDINGS)
_ECG_MEASURES = {
    "heart_rate": rf"(?:heart |ventricular )?rate(?: is| was| of| at|:)* {_NUMBER}(?! ?ms)",
    "pr_ms": rf"\bpr(?: interval)?(?: is| was| of|:)* {_NUMBER} ?ms",
    "qrs_ms": rf"\bqrs(?: duration)?(?: is| was| of|:)* {_NUMBER} ?ms",
    "qtc_ms": rf"\bqtc(?: interval)?(?: is| was| of|:)* {_NUMBER} ?ms",
}
_MEASURE = {name: re.compile(pattern, re.IGNORECASE) for name, pattern in _ECG_MEASURES.items()}

_TITLES = {"ecg": "ecg", "ekg": "ecg", "electrocardiogram": "ecg", "cxr": "cxr", "chest x-ray": "cxr", "x-ray": "cxr"}
_TITLES |= {"chest radiograph": "cxr", "film": "cxr", "labs": "lab", "lab": "lab", "laboratory": "lab", "blood": "lab"}
_TITLE = re.compile(rf"^\W*({'|'.join(_TITLES)})\b[^:\n]{{0,30}}:", re.IGNORECASE)
# What follows is a conclusion, not a reading; it ends with the clause
_CONCLUSION = re.compile(
    r",? ?\b(?:which (?:fits|supports|suggests|indicates)|pointing (?:to|towards)|in keeping with|consistent with|as in"
    r"|compatible with|suggest(?:s|ing|ive of)?|support(?:s|ing)?|indicat(?:es?|ing|ive of)|due to|because of|diagnosis of"
    r"|typical of|concerning for|raises concern for|in line with)\b(?P<what>[^,;.\n]*)",
    re.IGNORECASE,
)
_NOTHING = re.compile(r"\b(?:nothing abnormal|no abnormalit(?:y|ies))\b", re.IGNORECASE)
# Said of the diseases as a whole, not of what the data show
_REMARK = re.compile(
    r"\b(?:none of the (?:seven )?diseases|no sign of the (?:seven )?diseases|no direct evidence|stays? possible|yet possible"
    r"|overall|in conclusion|conclusion:|therefore|together|taken together)",
    re.IGNORECASE,
)
_DISEASE = re.compile(
    r"\b(?:coronary artery disease|renal failure|hypertension|atrial fibrillation|pneumonia|diabetes|sepsis)\b",
    re.IGNORECASE,
)
_NEGATION = re.compile(
    r"\b(?:no|not|without|absent|absence of|free of|negative for|neither|nor|lacks?|lacking|denies|exclud(?:es|ed|ing)"
    r"|rul(?:es|ed|ing) out|no evidence of|unlikely|never|n't)\b",
    re.IGNORECASE,
)
_NEGATED_AFTER = re.compile(
    r"^\s*(?:is|are|was|were)?\s*(?:absent|excluded|ruled out|unlikely|not (?:seen|present|evident|identified|visible|found|shown)"
    r"|(?:is|are|was|were) not\b)",
    re.IGNORECASE,
)
# Ends what a negation is about
_SCOPE_END = re.compile(
    r"[;:]|\b(?:but|however|although|though|while|whereas|yet|with|except|instead|shows?|is|are|was|were|has|have)\b",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"(?<=[.;!?])\s+|\n+")


def read_claims(text: str) -> list[Claim]:
    """
    Reads the statements of a reasoning.

    A sentence that holds no known wording becomes one claim without a finding; nothing is guessed. Conclusions about
    diseases ("pointing to Acute Renal Failure") are no claims about the data.

    Args:
        text (`str`): lines that begin with `ECG:`, `CXR:` and `Labs:`, or free text.
    """
    claims: list[Claim] = []
    modality = None
    for line in text.splitlines():
        title = _TITLE.match(line)
        modality = _TITLES[title[1].lower()] if title else None
        for sentence in _SENTENCE.split(line[title.end() :] if title else line):
            claims += _read_sentence(sentence.strip(" .;!?"), modality)
    return claims


def stated_findings(text: str) -> set[str]:
    """Names of the findings that a text states, without those that it denies and without bare values."""
    claims = read_claims(text)
    return {claim.finding for claim in claims if claim.finding and not claim.negated and claim.relation != "value"}


def _read_sentence(sentence: str, modality: str | None) -> list[Claim]:
    conclusions = list(_CONCLUSION.finditer(sentence))
    readable = _CONCLUSION.sub(lambda match: " " * len(match[0]), sentence)
    if not re.search(r"\w", readable):
        return []
    mentions = _without_overlaps([*_find_labs(readable), *_find_wordings(readable), *_find_measures(readable)])
    mentions = [m for m in mentions if modality in (None, m.claim.modality)]
    if not mentions:
        if nothing := _NOTHING.search(readable):
            finding = None if modality is None else "ecg: normal ECG" if modality == "ecg" else f"{modality}: normal"
            return [Claim(nothing[0], modality, finding)]
        return [] if _REMARK.search(sentence) or _DISEASE.search(sentence) else [Claim(sentence, modality, None)]
    negations = _negations(readable, mentions)
    claims = [mention.claim._replace(negated=negated) for mention, negated in zip(mentions, negations)]
    starts = [mention.start for mention in mentions]
    for conclusion in conclusions:
        place = bisect.bisect(starts, conclusion.start()) - 1
        if place >= 0:  # of the statement right before it
            claims[place] = claims[place]._replace(conclusion=conclusion["what"].strip())
    return claims


def _without_overlaps(mentions: Sequence[_Mention]) -> list[_Mention]:
    """Of those that share words the first, and of those that begin together the longest, in the order of the text."""
    kept: list[_Mention] = []
    for mention in sorted(mentions, key=lambda m: (m.start, -m.end)):
        if not kept or mention.start >= kept[-1].end:
            kept.append(mention)
    return kept


def _negations(sentence: str, mentions: Sequence[_Mention]) -> list[bool]:
    """For each mention, whether a negation before or right after it is about it."""
    pieces, end = [], 0
    for mention in mentions:  # "heart is not enlarged" is a wording of its own
        pieces += [sentence[end : mention.start], " " * (mention.end - mention.start)]
        end = mention.end
    cues = list(_NEGATION.finditer("".join([*pieces, sentence[end:]])))
    last_or = max((match.start() for match in re.finditer(r"\b(?:or|nor)\b", sentence)), default=-1)
    negated = []
    cue, is_open, previous = -1, False, 0
    for i, mention in enumerate(mentions):
        following = mentions[i + 1].start if i + 1 < len(mentions) else len(sentence)
        between = previous
        while cue + 1 < len(cues) and cues[cue + 1].end() <= mention.start:
            cue, is_open, between = cue + 1, True, cues[cue + 1].end()
        gap = sentence[between : mention.start]
        # "no effusion, consolidation or edema" is one list; "no effusion, cardiomegaly" is not
        if _SCOPE_END.search(gap) or ("," in gap and last_or < between):
            is_open = False
        inside = _NEGATION.search(sentence, mention.start, mention.end) if mention.claim.labs else None
        after = _NEGATED_AFTER.match(sentence[mention.end : following])
        negated.append(bool(is_open or inside or after))
        previous = mention.end
    return negated


def _find_wordings(sentence: str) -> Iterator[_Mention]:
    names = list(WORDINGS)
    for match in _WORDING.finditer(sentence):
        finding = names[int(str(match.lastgroup)[1:])]
        yield _Mention(match.start(), match.end(), Claim(match[0], finding.split(":")[0], finding))


def _find_measures(sentence: str) -> Iterator[_Mention]:
    for name, pattern in _MEASURE.items():
        for match in pattern.finditer(sentence):
            claim = Claim(match[0], "ecg", f"ecg: {name}", relation="value", limits=(float(match[1]),))
            yield _Mention(match.start(), match.end(), claim)


def _find_labs(sentence: str) -> Iterator[_Mention]:
    yield from _find_directions(sentence)
    numbers: tuple[
        tuple[re.Pattern[str], Callable[[re.Match[str]], tuple[Relation, tuple[float, ...], str | None]]], ...
    ]
    numbers = (
        (_COMPARED, lambda m: (_COMPARISONS[_group_index(m, 2)], (float(m[6]),), m[7])),
        (_OR_MORE, lambda m: ("at least" if m[3] else "at most", (float(m[2]),), None)),
        (_BETWEEN, lambda m: ("between", (float(m[2] or m[4]), float(m[3] or m[5])), None)),
        (_VALUE, lambda m: ("value", (float(m[2]),), m[3])),
    )
    for pattern, read in numbers:
        for match in pattern.finditer(sentence):
            relation, limits, unit = read(match)
            yield _lab_mention(sentence, match.span(), _labs_of(match[1]), relation, limits, unit)
            if relation == "value" and (behind := _DIRECTION_BEHIND.match(sentence, match.end())):
                said = _RELATIONS[_group_index(behind, 1)]
                yield _lab_mention(sentence, behind.span(), _labs_of(match[1]), said)


def _find_directions(sentence: str) -> Iterator[_Mention]:
    words = list(_WORDS_OF_LABS.values())
    found: list[tuple[re.Match[str], tuple[str, ...], Relation, tuple[float, ...]]] = [
        *(
            (match, _labs_of(match[5]), _RELATIONS[_group_index(match, 1)], ())
            for match in _LAB_BEFORE.finditer(sentence)
        ),
        *(
            (match, _labs_of(match[1]), _RELATIONS[_group_index(match, 3)], ())
            for match in _LAB_AFTER.finditer(sentence)
        ),
    ]
    for match in _LAB_WORD.finditer(sentence):
        lab, relation, *limits = words[int(str(match.lastgroup)[1:])]
        found.append((match, (lab,), relation, tuple(limits)))
    for match, labs, relation, limits in found:
        yield _lab_mention(sentence, match.span(), labs, relation, limits)
        if value := _VALUE_BEHIND.match(sentence, match.end()):
            yield _lab_mention(sentence, value.span(), labs, "value", (float(value[1]),), value[2])
        behind = _LAB_BEHIND.match(sentence, match.end())
        while behind:
            yield _lab_mention(sentence, behind.span(), _labs_of(behind[1]), relation, limits)
            behind = _LAB_BEHIND.match(sentence, behind.end())


def _lab_mention(
    sentence: str,
    span: tuple[int, int],
    labs: tuple[str, ...],
    relation: Relation,
    limits: tuple[float, ...] = (),
    unit: str | None = None,
) -> _Mention:
    names, numbers = " or ".join(labs), " and ".join(f"{limit:g}" for limit in limits)
    if relation == "value":
        finding = f"lab: {names} {numbers}"
    else:
        finding = f"lab: {names} {relation} {numbers}" if limits else f"lab: {relation} {names}"
    text = sentence[slice(*span)].strip(" ,(:").removeprefix("and ")
    return _Mention(*span, Claim(text, "lab", finding, labs=labs, relation=relation, limits=limits, unit=unit))


def _labs_of(name: str) -> tuple[str, ...]:
    return _LABS.get(name) or _LABS[name.lower()]


def _group_index(match: re.Match[str], first: int) -> int:
    return next(i for i in range(4) if match[first + i] is not None)
