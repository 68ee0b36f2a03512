# SPDX-License-Identifier: Apache-2.0
"""Questions and answers about one patient of the synthetic cohort, in the schema of `medtvt_training.data.schema`."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from processing_medtvt.findings_medtvt import PHRASES

from ..data.conversation import MODALITIES, list_modalities, text_part
from ..data.rows import Modality, Part, QARow
from ..data.wording import POINTERS
from .causes import DISEASE_OF_CODE, Causes
from .findings import FINDINGS, GROUPS


TITLES: dict[Modality, str] = {"ecg": "ECG", "cxr": "CXR", "lab": "Labs"}
DIAGNOSIS_QUESTIONS = (
    ("Can you analyze my ", " to determine my probable conditions?"),
    ("Here are my ", ". Which diseases are likely?"),
    ("Please read my ", " and tell me what I may have."),
    ("What diagnoses do my ", " point to?"),
    ("Given my ", ", which conditions should be considered?"),
)
# {group} is there in the questions about one part of a reading
PHYSIOLOGY_QUESTIONS: dict[Modality, tuple[str, str]] = {
    "ecg": ("What information can be derived from the ", "?"),
    "cxr": ("What does the ", " show?"),
    "lab": ("What do the values of the ", " tell?"),
}
GENERAL_QUESTIONS = (("Describe the findings of my ", "."), ("What can be read from my ", "?"))
FOCUSED_QUESTIONS = (("Regarding {group}, what does my ", " show?"), ("Look at {group} in my ", ". What do you see?"))
NOTHING = ("nothing abnormal", "no abnormality")
UNSUPPORTED = (
    "Without a sign of its own here, treated or silent disease stays possible: {}.",
    "No direct evidence in these data, yet possible: {}.",
)
NO_DISEASE = ("No sign of the seven diseases.", "None of the seven diseases is supported.")

_Wording = TypeVar("_Wording")


def make_rows(
    subject_id: str,
    causes: Causes,
    findings: list[str],
    files: dict[str, str],
    lab: dict[str, float | None],
    rng: np.random.Generator,
) -> list[QARow]:
    """
    Two physiology rows a modality, one on everything and one on a part of it, and one diagnosis row.

    Args:
        findings (`list[str]`): Names of `FINDINGS` that the patient's data show.
        files (`dict`): Relative paths `ecg` and `cxr`.
        lab (`dict`): Values by lab name, None where not measured.
        rng (`np.random.Generator`): Draws the wording, and nothing else.
    """
    diseases = [DISEASE_OF_CODE[code] for code in causes.diseases]

    def row(
        name: str, level: str, modalities: Sequence[Modality], prompt: list[Part], completion: list[Part]
    ) -> QARow:
        return {
            "id": f"{subject_id}-{name}",
            "subject_id": subject_id,
            "age": float(causes.age),
            "sex": "M" if causes.male else "F",
            "level": level,
            "modalities": list(modalities),
            "prompt": [{"role": "user", "content": prompt}],
            "completion": [{"role": "assistant", "content": completion}],
            "ecg": files["ecg"] if "ecg" in modalities else None,
            "cxr": files["cxr"] if "cxr" in modalities else None,
            "lab": lab if "lab" in modalities else dict.fromkeys(lab),
            "diseases": diseases,
            "findings": [finding for finding in findings if finding[:3] in modalities],
        }

    def choose(options: Sequence[_Wording]) -> _Wording:
        return options[int(rng.integers(len(options)))]

    rows = []
    for modality in MODALITIES:
        groups = GROUPS[modality]
        focus = choose(groups)
        for name, asked, questions in (
            ("", groups, (PHYSIOLOGY_QUESTIONS[modality], *GENERAL_QUESTIONS)),
            ("-part", (focus,), FOCUSED_QUESTIONS),
        ):
            before, after = choose(questions)
            prompt = _question(before.format(group=focus), [modality], after)
            text = " ".join(_group_sentence(modality, group, findings, choose) for group in asked)
            completion = [text_part(text, [modality])]
            rows.append(row(f"{modality}{name}", "physiology", [modality], prompt, completion))
    before, after = choose(DIAGNOSIS_QUESTIONS)
    completion = _chain_of_evidence(causes, findings, choose)
    rows.append(row("diagnosis", "diagnosis", MODALITIES, _question(before, MODALITIES, after), completion))
    return rows


def _question(before: str, modalities: Sequence[Modality], after: str) -> list[Part]:
    return [text_part(before), *list_modalities(modalities), text_part(after)]


def _group_sentence(modality: str, group: str, findings: list[str], choose: Callable[[Sequence[str]], str]) -> str:
    """One part of a reading: `Rhythm: sinus tachycardia, premature atrial beats.`"""
    shown = [name for name in findings if name.startswith(modality) and FINDINGS[name].group == group]
    text = ", ".join(choose(PHRASES[name]) for name in shown) or choose(NOTHING)
    return f"{group[0].upper()}{group[1:]}: {text}."


def _chain_of_evidence(causes: Causes, findings: list[str], choose: Callable[[Sequence[str]], str]) -> list[Part]:
    """A clause a finding, with the patient's diseases that it is evidence for; then the answer block."""
    parts = [text_part("<think>")]
    supported: set[str] = set()
    for modality in MODALITIES:
        clauses = []
        for name in findings:
            if name.startswith(modality):
                diseases = _supports(name, causes, findings)
                supported.update(diseases)
                pointer = f", {choose(POINTERS)} {_listed(diseases)}" if diseases else ""
                clauses.append(choose(PHRASES[name]) + pointer)
        text = "; ".join(clauses) or choose(NOTHING)
        parts.append(text_part(f"{TITLES[modality]}: {text}.\n", [modality]))
    rest = [code for code in causes.diseases if code not in supported]
    # what no evidence supports depends on all three, so it goes where one is withheld
    if rest:
        parts.append(text_part(choose(UNSUPPORTED).format(_listed(rest)) + "\n", list(MODALITIES)))
    elif not causes.diseases:
        parts.append(text_part(choose(NO_DISEASE) + "\n", list(MODALITIES)))
    answer = "; ".join(DISEASE_OF_CODE[code] for code in causes.diseases)
    return [*parts, text_part(f"</think><answer>{answer}</answer>")]


def _supports(name: str, causes: Causes, findings: list[str]) -> list[str]:
    codes = [code for code in FINDINGS[name].supports if code in causes.diseases]
    if name.endswith("effusion") and not any(
        other.endswith(("zone opacity", "interstitial opacity")) for other in findings
    ):
        return []  # beside an opacity it belongs to pneumonia, alone it says nothing
    return codes


def _listed(codes: list[str]) -> str:
    return " and ".join(DISEASE_OF_CODE[code] for code in codes)
