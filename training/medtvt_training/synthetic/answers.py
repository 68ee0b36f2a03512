# SPDX-License-Identifier: Apache-2.0
"""
Questions and answers about one patient of the synthetic cohort, in the schema of `medtvt_training.data.schema`.

Answers of the physiology level use one wording a finding; those of the diagnosis level draw among all.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from processing_medtvt.findings_medtvt import PHRASES

from ..data.conversation import MODALITIES, list_modalities, text_part
from ..data.rows import Modality, Part, QARow
from ..data.wording import (
    DIAGNOSIS_QUESTIONS,
    FOCUSED_QUESTIONS,
    GENERAL_QUESTIONS,
    NO_DISEASE,
    NOTHING,
    PHYSIOLOGY_QUESTIONS,
    POINTERS,
    TITLES,
)
from .causes import DISEASE_OF_CODE, Causes
from .findings import FINDINGS, GROUP_LABS, GROUPS, read_lab_findings, supported_diseases
from .questions import NOT_MEASURED, ask_about_finding


UNSUPPORTED = (
    "Without a sign of its own here, treated or silent disease stays possible: {}.",
    "No direct evidence in these data, yet possible: {}.",
)

_Wording = TypeVar("_Wording")
Panel = Mapping[str, float | None]


def make_rows(
    subject_id: str,
    causes: Causes,
    findings: list[str],
    files: dict[str, str],
    lab: dict[str, float | None],
    rng: np.random.Generator,
    with_reduced_diagnosis: bool = False,
) -> list[QARow]:
    """
    Physiology rows: for each modality one on everything, one on a part of it and two on one finding; for labs one more
    on everything, with a panel of which a random part is withheld. Then one diagnosis row.

    Args:
        findings (`list[str]`): Names of `FINDINGS` that the patient's data show.
        files (`dict`): Relative paths `ecg` and `cxr`.
        lab (`dict`): Values by lab name, None where not measured.
        rng (`np.random.Generator`): Draws the wording, the questions and what is withheld.
        with_reduced_diagnosis (`bool`): In half of the patients, a second diagnosis row on a reduced panel, with the same
            diseases; in two of five, one on one modality alone, labs reduced, with those diseases only that its findings
            are evidence for: what a single value leaves open is not to be guessed. In one of five, one on the whole panel
            alone, with all diseases: how often a panel comes with a disease is to be learned.
    """

    def choose(options: Sequence[_Wording]) -> _Wording:
        return options[int(rng.integers(len(options)))]

    def row(
        name: str,
        modalities: Sequence[Modality],
        prompt: tuple[str, str],
        completion: list[Part],
        panel: dict[str, float | None] = lab,
        shown: list[str] = findings,
        codes: Sequence[str] = causes.diseases,
    ) -> QARow:
        return {
            "id": f"{subject_id}-{name}",
            "subject_id": subject_id,
            "age": float(causes.age),
            "sex": "M" if causes.male else "F",
            "level": "diagnosis" if name.startswith("diagnosis") else "physiology",
            "modalities": list(modalities),
            "prompt": [{"role": "user", "content": _question(prompt, modalities)}],
            "completion": [{"role": "assistant", "content": completion}],
            "ecg": files["ecg"] if "ecg" in modalities else None,
            "cxr": files["cxr"] if "cxr" in modalities else None,
            "lab": panel if "lab" in modalities else dict.fromkeys(lab),
            "diseases": [DISEASE_OF_CODE[code] for code in codes],
            "findings": [finding for finding in shown if finding[:3] in modalities],
        }

    def reduce() -> tuple[dict[str, float | None], list[str]]:
        panel = withhold_labs(lab, rng)
        left = set(read_lab_findings(panel, causes.age, causes.male))
        return panel, [name for name in findings if not name.startswith("lab") or name in left]

    reduced, shown_in_reduced = reduce()
    rows = []
    for modality in MODALITIES:
        groups = GROUPS[modality]
        whole = (PHYSIOLOGY_QUESTIONS[modality], *GENERAL_QUESTIONS)
        text = " ".join(_group_sentence(modality, group, findings, lab) for group in groups)
        rows.append(row(modality, [modality], choose(whole), [text_part(text, [modality])]))
        focus = choose(groups)
        before, after = choose(FOCUSED_QUESTIONS)
        text = _group_sentence(modality, focus, findings, lab)
        part = row(f"{modality}-part", [modality], (before.format(group=focus), after), [text_part(text, [modality])])
        rows.append(part)
        panels = ((lab, findings), (reduced, shown_in_reduced) if modality == "lab" else (lab, findings))
        asked: set[str] = set()
        for number, (panel, shown) in enumerate(panels, 1):
            finding, prompt, text = ask_about_finding(modality, shown, panel, rng, asked)
            asked.add(finding)
            name = f"{modality}-asked-{number}"
            rows.append(row(name, [modality], prompt, [text_part(text, [modality])], panel, shown))
        if modality == "lab":
            text = " ".join(_group_sentence(modality, group, shown_in_reduced, reduced) for group in groups)
            completion = [text_part(text, [modality])]
            rows.append(row("lab-reduced", [modality], choose(whole), completion, reduced, shown_in_reduced))
    completion = _chain_of_evidence(causes, findings, lab, choose)
    rows.append(row("diagnosis", MODALITIES, choose(DIAGNOSIS_QUESTIONS), completion))
    if with_reduced_diagnosis and rng.random() < 0.5:
        panel, shown = reduce()
        completion = _chain_of_evidence(causes, shown, panel, choose, is_reduced=True)
        question = choose(DIAGNOSIS_QUESTIONS)
        rows.append(row("diagnosis-reduced", MODALITIES, question, completion, panel, shown))
    if with_reduced_diagnosis and rng.random() < 0.4:
        modality = choose(MODALITIES)
        panel, left = reduce()
        shown = [name for name in left if name.startswith(modality)]
        evident = {code for name in shown for code in supported_diseases(name, causes.diseases, shown)[0]}
        codes = tuple(code for code in causes.diseases if code in evident)
        completion = _chain_of_evidence(replace(causes, diseases=codes), shown, panel, choose, modalities=[modality])
        question = choose(DIAGNOSIS_QUESTIONS)
        rows.append(row("diagnosis-alone", [modality], question, completion, panel, shown, codes))
    if with_reduced_diagnosis and rng.random() < 0.2:
        completion = _chain_of_evidence(causes, findings, lab, choose, modalities=["lab"])
        rows.append(row("diagnosis-labs", ["lab"], choose(DIAGNOSIS_QUESTIONS), completion))
    return rows


def withhold_labs(lab: Panel, rng: np.random.Generator) -> dict[str, float | None]:
    """
    A panel of which a random part is left: from a single lab to all but one, few more often than many.

    Args:
        lab (`Mapping[str, float | None]`): values by name, None where not measured.
    """
    measured = [name for name, value in lab.items() if value is not None]
    kept = set(rng.permutation(measured)[: 1 + int((len(measured) - 1) * rng.random() ** 2)])
    return {name: value if name in kept else None for name, value in lab.items()}


def _question(prompt: tuple[str, str], modalities: Sequence[Modality]) -> list[Part]:
    before, after = prompt
    return [text_part(before), *list_modalities(modalities), text_part(after)]


def _is_measured(modality: str, group: str, lab: Panel) -> bool:
    return modality != "lab" or any(lab[name] is not None for name in GROUP_LABS[group])


def _group_sentence(modality: str, group: str, findings: list[str], lab: Panel) -> str:
    """One part of a reading: `Rhythm: sinus tachycardia, premature atrial beats.`"""
    shown = [name for name in findings if name.startswith(modality) and FINDINGS[name].group == group]
    text = ", ".join(PHRASES[name][0] for name in shown)
    if not text:
        text = NOTHING[0] if _is_measured(modality, group, lab) else NOT_MEASURED
    return f"{group[0].upper()}{group[1:]}: {text}."


def _chain_of_evidence(
    causes: Causes,
    findings: list[str],
    lab: Panel,
    choose: Callable[[Sequence[str]], str],
    is_reduced: bool = False,
    modalities: Sequence[Modality] = MODALITIES,
) -> list[Part]:
    """A clause a finding, with the patient's diseases that it is evidence for; then the answer block."""
    parts = [text_part("<think>")]
    supported: set[str] = set()
    for modality in modalities:
        begin = f"{TITLES[modality]}: "
        names = [name for name in findings if name.startswith(modality)]
        for name in names:
            own, beside_labs = supported_diseases(name, causes.diseases, findings)
            supported.update(own, beside_labs)
            pointer = f", {choose(POINTERS)} "
            parts.append(
                text_part(begin + choose(PHRASES[name]) + (pointer + _listed(own) if own else ""), [modality])
            )
            if beside_labs:  # goes where either is withheld
                parts.append(text_part((" and " if own else pointer) + _listed(beside_labs), [modality, "lab"]))
            if name == "ecg: flutter" and own:
                parts.append(text_part(" or flutter", [modality]))
            begin = "; "
        end = "." if names else f"{begin}{choose(NOTHING)}."
        absent = [group for group in GROUPS[modality] if not _is_measured(modality, group, lab)]
        if absent:
            end += f" {NOT_MEASURED.capitalize()}: {', '.join(absent)}."
        parts.append(text_part(f"{end}\n", [modality]))
    rest = [code for code in causes.diseases if code not in supported]
    # what no evidence supports depends on all data, so it goes where some are withheld
    if rest and not is_reduced:
        parts.append(text_part(choose(UNSUPPORTED).format(_listed(rest)) + "\n", list(modalities)))
    elif not causes.diseases and not is_reduced:
        parts.append(text_part(choose(NO_DISEASE) + "\n", list(modalities)))
    answer = "; ".join(DISEASE_OF_CODE[code] for code in causes.diseases)
    return [*parts, text_part(f"</think><answer>{answer}</answer>")]


def _listed(codes: Sequence[str]) -> str:
    return " and ".join(DISEASE_OF_CODE[code] for code in codes)
