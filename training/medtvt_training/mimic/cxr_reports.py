# SPDX-License-Identifier: Apache-2.0
"""
Radiology reports of MIMIC-CXR: findings and impression alone, without what one film cannot show (comparisons, history,
who was called) and without de-identification gaps.

Sections are named as MIMIC's own parser names them (github.com/MIT-LCP/mimic-cxr, `txt/section_parser.py`). From a
sentence a comparison goes only where the rest is a whole sentence that says the same of this film; otherwise the
sentence goes.
"""

import re
from difflib import get_close_matches
from pathlib import Path


# Sections by their headings; misspelled ones are taken for the nearest
_SECTIONS = {
    "findings": ("findings", "finding", "reference findings"),
    "impression": ("impression", "conclusion", "findings and impression", "findings/impression"),
    "comparison": ("comparison", "comparisons", "comparison exam", "comparison film", "reference exam"),
    "other": (
        *("indication", "clinical indication", "reason for exam", "reason for examination", "clinical question"),
        *("history", "clinical history", "patient history", "clinical information", "pfi"),
        *("examination", "exam", "type of examination", "technique", "procedure", "protocol"),
        *("notification", "recommendation", "recommendations", "recommendation(s)", "wet read", "wetread", "date"),
        *(
            "comment",
            "note",
            "attending",
            "radiologist",
            "dictated by",
            "signed",
            "signed by",
            "electronically signed by",
        ),
    ),
}
_SECTION_OF = {heading: section for section, headings in _SECTIONS.items() for heading in headings}
# A heading that names views stands where "findings" would: CHEST, TWO VIEWS
_VIEWS = re.compile(
    r"chest|portable|two views|one view|frontal and|(?:frontal|lateral|pa|ap) view|(?:pa|ap|lateral) and|bone window"
    r"|frontal (?:semi-?)?upright|ribs"
)
_HEADING = re.compile(
    r"^[ \t]*(?:(?P<title>[A-Za-z][A-Za-z /&,()-]{2,60}):|(?P<bare>FINDINGS?|IMPRESSION)[ \t]*$)", re.MULTILINE
)
_PREAMBLE = re.compile(r"^[ \t]*(?:final report|preliminary report)\b.*$", re.IGNORECASE | re.MULTILINE)
_PARAGRAPH = re.compile(r"\n[ \t]*\n")
_ITEM = re.compile(r"^[ \t]*(?:\d{1,2}[.)]|[-*•])\s+|(?<=[.:;])[ \t]+\d{1,2}[.)]\s+(?=[A-Z])", re.MULTILINE)
_ABBREVIATION = re.compile(r"\b(Dr|Mr|Mrs|Ms|vs|approx|e\.g|i\.e)\.(?=\s)", re.IGNORECASE)


_VERB = re.compile(
    r"\b(?:is|are|was|were|be|has|have|remains?|appears?|shows?|demonstrates?|extends?|terminates?|projects?|overlies"
    r"|ends?|lies?|suggests?|represents?|reflects?|obscures?|measures?|persists?)\b",
    re.IGNORECASE,
)
_NEGATION = re.compile(
    r"\b(?:no|not|none|without|neither|nor|never|absent|absence|(?:free|clear) of|negative|unlikely|rather than)\b",
    re.IGNORECASE,
)
# Nouns that say something of a film by themselves, as "silhouette" and "size" do not
_FINDING_NOUNS = (
    r"cardiomegaly|enlargement|effusions?|(?:hydro)?pneumothora(?:x|ces)|edema|congestion|opacit(?:y|ies)|opacifications?"
    r"|consolidations?|infiltrates?|atelecta(?:sis|ses)|pneumonias?|emphysema|fibrosis|scar(?:s|ring)?|nodules?|mass(?:es)?"
    r"|granulomas?|fractures?|deformit(?:y|ies)|elevation|thickening|blunting|tortuosity|calcifications?|hernias?"
    r"|hyperinflation|hyperexpansion|kyphosis|scoliosis|deviation|shift|cephalization|engorgement|lines?|markings"
    r"|tubes?|catheters?|pacemakers?|leads?|wires?|clips?|ports?|devices?|prosthes[ie]s|stents?|drains?|disease|process"
    r"|abnormalit(?:y|ies)|evidence|volumes|plaques?|cavit(?:y|ies)|bronchiectasis|osteophytes?"
)
# The first noun phrase of a text ends at a preposition, verb or mark, and its last word is its noun
_FINDING_FIRST = re.compile(
    rf"(?:there (?:is|are) )?(?:(?!(?:of|in|at|on|with|within|along|from|to|and|or|is|are)\b)[\w-]+ )*?(?:{_FINDING_NOUNS})"
    r"(?=[.,;]|$| (?:of|in|at|on|with|within|without|along|from|to|and|or|is|are|as|projecting|overlying|noted|seen)\b)",
    re.IGNORECASE,
)
_ADVERB = r"(?:(?:\w+ly|otherwise|overall)\s+)*"
_SAME = r"(?:unchanged|unaltered|stable|persistent|persisting|redemonstrated|re-demonstrated)"
# What may follow `_SAME` without naming a finding: "unchanged from the prior study", "stable in appearance"
_TAIL = r"(?:\s+(?:in|from|since|to|with|over|as|when|compared|relative)\b[^,;]*)?"
_ADJECTIVE = (
    r"(?:clear|normal|unremarkable|intact|enlarged|hyperinflated|inflated|expanded|tortuous|calcified|prominent|low"
    r"|small|large|mild|moderate|severe|within normal limits)\b"
)
_BEFORE_ADJECTIVE = r"an?|the|this|of|with|and|or|are|there is|small|mild|moderate|severe|large|minimal|tiny|marked|left|right|bilateral|bibasilar"
_SEEN = r"(?:seen|noted|demonstrated|identified|visualized|present)"
# Wordings of change, with what takes their place, that leave a whole sentence; in this order
_AT_START = [
    (r"(?:(?:as|when)\s+)?(?:in comparison|compared?|in contrast)\s+(?:to|with)\b[^,;]*,\s*", ""),
    (r"since\s+(?:the\s+)?(?:prior|previous|study|exam\w*|film|radiograph|_+)[^,;]*,\s*", ""),
    (rf"(?:once\s+)?again,?\s+{_SEEN}\s+(is|are)\b", r"There \1"),
    (r"(?:once\s+)?again,?\s+|(?:still|persistently|stably)\s+", ""),
]
_ANYWHERE = [
    (r"(?<=\w)\s+(?:(?:once\s+)?again|still|persistently|stably)(?=\s+\w|$)", ""),
    # "are stable and clear"
    (rf"\b(is|are|appears?|remains?)\s+{_ADVERB}{_SAME}(?:,\s*|,?\s+(?:and|but)\s+)(?={_ADVERB}{_ADJECTIVE})", r"\1 "),
]
_AT_END = [
    (rf",\s*(?:(?:which|that)\s+(?:is|are)\s+)?{_ADVERB}{_SAME}{_TAIL}", ""),
    (rf"(?<=\w),?\s+(?:and|but|yet)\s+{_ADVERB}{_SAME}{_TAIL}", ""),
    (r",?\s*\bas (?:before|previously (?:seen|noted|described))", ""),
]
# Before a noun: "unchanged cardiomegaly", "severe, stable cardiomegaly", "an unchanged effusion"
_ATTRIBUTE = re.compile(rf"^{_ADVERB}{_SAME},?\s+(?=\w)|\b({_BEFORE_ADJECTIVE}),?\s+{_SAME}\s+(?=\w)", re.IGNORECASE)
_ASIDE = re.compile(rf",\s*{_ADVERB}{_SAME}{_TAIL},", re.IGNORECASE)
# Where one of these is left, the sentence is about another time, another film or a person
_DROPPED = re.compile(
    rf"_{{2,}}|\b(?:{_SAME}|again|still|prior|previous\w*|compar\w+|interval\w*|new|newly|improv\w+|worsen\w+"
    r"|increased? (?:since|from)|decreased? (?:since|from)|(?:has|have|had) (?:\w+ly |now |since |not )*(?:been|had|\w+ed)"
    r"|change[sd]?|similar(?:ly)?|persist(?:s|ed)?|former\w*|earlier|recent\w*|progress\w+|resol\w+|no longer"
    r"|history|status post|s/p|known|discussed|telephone\w*|phone[d]?|paged?|notified|communicat\w+|dr\.?|findings were"
    r"|recommend\w*|follow-?up|clinical correlation|request\w*|year-old|yo|patient's name|study of|today)\b"
    r"|\bas before\b|\bin (?:comparison|contrast)\b|\bsince the\b"
    r"|\d{1,2}[:/]\d{2}|\b(?:19|20|21)\d\d\b",
    re.IGNORECASE,
)
# What only a sentence has that lost a part: a copula or preposition that stands before nothing
_BROKEN = re.compile(
    r"\b(?:is|are|was|were|be|the|an?|of|with|and|or|but|mildly|moderately|severely)\s*(?:[.,;]|$)"
    r"|\b(?:is|are|was|were)\s+(?:and|or|but|from|since)\b|^(?:is|are|was|were|and|or|but|of|with|from)\b",
    re.IGNORECASE,
)


def read_report(text: str) -> str:
    """
    Findings and impression of a report as sentences that stand alone; `""` if it has neither, or nothing remains.

    A report with an addendum is left out (`""`): what it adds or corrects may contradict the sentences above it.
    """
    if re.search(r"\baddend(?:um|a)\b", text, re.IGNORECASE):
        return ""
    cleaned = [_clean(sentence) for part in _read_sections(text) for sentence in _sentences(part)]
    return " ".join(dict.fromkeys(sentence for sentence in cleaned if sentence))


def report_path(folder: Path, subject_id: int, study_id: int) -> Path:
    """Where MIMIC-CXR keeps a study's report."""
    return folder / "files" / f"p{str(subject_id)[:2]}" / f"p{subject_id}" / f"s{study_id}.txt"


def _read_sections(text: str) -> list[str]:
    """Texts of findings and impression; where there is neither, what follows the last section's first paragraph."""
    text = _PREAMBLE.sub("", text.replace("\r\n", "\n"))
    sections, start, name = [], 0, "preamble"
    for heading in _HEADING.finditer(text):
        found = _name_section(heading, name)
        if found is not None:
            sections.append((name, text[start : heading.start()]))
            start, name = heading.end(), found
    sections.append((name, text[start:]))
    read = [part for name, part in sections if name in ("findings", "impression") and part.strip()]
    if read:
        return read
    name, last = sections[-1]
    first, *paragraphs = _PARAGRAPH.split(last.strip())
    if name == "preamble":
        return [first, *paragraphs] if _VERB.search(first) or _NEGATION.match(first) else paragraphs
    # some reports go on in the section of the comparison
    return paragraphs or [part for name, part in sections if name == "comparison" and _VERB.search(part)]


def _name_section(heading: re.Match[str], current: str) -> str | None:
    """The section that a heading begins; None if it is none, such as LUNGS: within the findings."""
    title = " ".join((heading["title"] or heading["bare"]).lower().split())
    if title in _SECTION_OF:
        return _SECTION_OF[title]
    for section in ("impression", "findings", "history", "comparison"):
        if re.search(rf"\b{section}\b", title):
            return section if section != "history" else "other"
    if near := get_close_matches(title, _SECTION_OF, n=1, cutoff=0.85):
        return _SECTION_OF[near[0]]
    if not heading[0].strip().isupper():
        return None
    if current in ("findings", "impression"):
        return None
    return "findings" if _VIEWS.search(title) else "other"


def _sentences(section: str) -> list[str]:
    """Sentences; a paragraph, an item of a list and a sub-heading begin one too."""
    section = _ITEM.sub("\n\n", section)
    section = _HEADING.sub(lambda heading: f"\n\n{heading[0].strip()}", section)
    sentences = []
    for paragraph in _PARAGRAPH.split(_ABBREVIATION.sub(r"\1", section)):
        sentences += re.split(r"(?<=[.!?])\s+(?=[A-Za-z(])", " ".join(paragraph.split()))
    return [_without_heading(sentence) for sentence in sentences if sentence]


def _without_heading(sentence: str) -> str:
    """A sentence that has a verb or a negation needs no sub-heading; "LUNGS: Clear." does."""
    heading = re.match(r"([A-Za-z][A-Za-z /&,()-]{2,60}):\s*", sentence)
    if heading is None:
        return sentence
    rest = sentence[heading.end() :]
    if _VERB.search(rest) or re.match(r"no\b", rest, re.IGNORECASE) or _FINDING_FIRST.match(rest):
        return rest
    return f"{heading[1].capitalize()}: {rest[:1].lower()}{rest[1:]}" if rest else ""


def _clean(sentence: str) -> str:
    """The sentence without comparisons, or `""`; clauses apart by a semicolon stand or fall alone."""
    found = _without_comparison(sentence)
    if found or ";" not in sentence:
        return found
    clauses = [clause for clause in sentence.split(";") if _VERB.search(clause)]
    return " ".join(filter(None, map(_without_comparison, clauses)))


def _without_comparison(sentence: str) -> str:
    original = sentence.strip(" ,;")
    rest = _cut_comparisons(re.sub(r"[.!?]+$", "", original))
    if rest is None or _DROPPED.search(rest) or len(re.findall(r"[A-Za-z]{2,}", rest)) < 2:
        return ""
    if rest != re.sub(r"[.!?]+$", "", original):
        whole = _VERB.search(rest) or _FINDING_FIRST.match(rest)
        if not whole or _BROKEN.search(rest):
            return ""
    end = original[-1] if original.endswith(("!", "?")) else "."
    return rest[0].upper() + rest[1:] + end


def _cut_comparisons(sentence: str) -> str | None:
    """The sentence without its end mark and its wordings of change; None where a cut would harm it."""
    for pattern, replacement in _AT_START:
        sentence = re.sub(rf"^{pattern}", replacement, sentence, flags=re.IGNORECASE)
    for pattern, replacement in _ANYWHERE:
        sentence = re.sub(pattern, replacement, sentence, flags=re.IGNORECASE)
    for pattern, replacement in _AT_END:
        sentence = re.sub(rf"{pattern}$", replacement, sentence, flags=re.IGNORECASE)
    while aside := _ASIDE.search(sentence):
        if _NEGATION.search(sentence[: aside.start()]):
            return None
        sentence = sentence[: aside.start()] + sentence[aside.end() :]
    while found := _ATTRIBUTE.search(sentence):
        before, after = sentence[: found.start()], sentence[found.end() :]
        # a negation would run into the noun, and a noun that is no finding would say nothing
        if _NEGATION.search(before) or not _FINDING_FIRST.match(after):
            return None
        word = found[1] or ""
        if word.lower() in ("a", "an"):
            word = word[0] + "n" * (after[0].lower() in "aeio")
        sentence = f"{before}{word} {after}" if word else after
    return sentence
