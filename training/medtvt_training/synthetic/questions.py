# SPDX-License-Identifier: Apache-2.0
"""
Questions about one finding, answered by yes, no or not measured. Half of the answers are yes, and rare findings are
asked about as often as common ones; half of the findings denied are of the same kind as one that is there: another
territory, zone or side, or how far.
"""

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import cache

import numpy as np

from processing_medtvt.findings_medtvt import PHRASES

from ..data.rows import Modality
from ..data.wording import FINDING_QUESTIONS, NO, YES
from .findings import FINDINGS, LAB_RULES, ZONES


NOT_MEASURED = "not measured"
NO_BUT = "No, {}."  # another one of its kind
KINDS = (
    (
        *("ecg: sinus rhythm", "ecg: sinus tachycardia", "ecg: sinus bradycardia"),
        *("ecg: fibrillation", "ecg: flutter", "ecg: paced"),
    ),
    ("ecg: left bundle branch block", "ecg: right bundle branch block"),
    ("ecg: left axis", "ecg: right axis"),
    tuple(f"ecg: {territory} Q waves" for territory in ("inferior", "anterior", "anteroseptal", "septal")),
    ("ecg: ST elevation", "ecg: ST depression", "ecg: lateral T inversion", "ecg: nonspecific ST-T"),
    ("ecg: premature atrial beats", "ecg: premature ventricular beats"),
    ("cxr: normal heart size", "cxr: enlarged heart"),
    (*(f"cxr: {zone} opacity" for zone in ZONES.values()), "cxr: interstitial opacity", "cxr: clear lungs"),
    ("cxr: right effusion", "cxr: left effusion", "cxr: bilateral effusions"),
    ("lab: normal Creatinine", "lab: high Creatinine", "lab: far high Creatinine"),
    ("lab: low Potassium", "lab: high Potassium"),
    ("lab: Glucose below 140", "lab: Glucose between 140 and 200", "lab: Glucose above 200"),
    ("lab: low pH", "lab: high pH"),
    ("lab: low White Blood Cells", "lab: normal White Blood Cells", "lab: high White Blood Cells"),
)
KIND_OF = {name: kind for kind in KINDS for name in kind}
_NO_NOUN = re.compile(r"\b(?:no|not|is|are)\b")  # nothing to put after "show"
COUNTED = 400
_SEED = 2**31  # of no cohort that anyone would ask for


@cache
def finding_shares() -> dict[str, float]:
    """Share of patients with each finding, among `COUNTED` of the clear setting; at least one of them."""
    from .patient import draw_patient

    counts = Counter(name for index in range(COUNTED) for name in draw_patient(_SEED, index).findings)
    return {name: max(counts[name], 1) / COUNTED for name in FINDINGS}


def ask_about_finding(
    modality: Modality,
    findings: Sequence[str],
    lab: Mapping[str, float | None],
    rng: np.random.Generator,
    asked: Collection[str] = (),
) -> tuple[str, tuple[str, str], str]:
    """
    A question about one finding and its answer.

    Args:
        findings (`Sequence[str]`): names of all that the patient's data show.
        lab (`Mapping[str, float | None]`): the panel that the findings are of.

        asked (`Collection[str]`): names of findings not to ask about again.

    Returns:
        `tuple`: the name of the finding; the question before and after the place of the modality; and the answer.
    """
    shown = [name for name in findings if name.startswith(modality)]
    present = [name for name in shown if name not in asked]
    absent: list[str] = []
    unknown: list[str] = []
    for name in FINDINGS:
        if name.startswith(modality) and name not in shown and name not in asked:
            labs = LAB_RULES[name].labs if modality == "lab" else ()
            (unknown if labs and all(lab[lab_name] is None for lab_name in labs) else absent).append(name)
    before, after = FINDING_QUESTIONS[int(rng.integers(len(FINDING_QUESTIONS)))]
    draw = rng.random()
    if unknown and (draw < 0.2 or not absent):
        name = unknown[int(rng.integers(len(unknown)))]
        answer = f"{NOT_MEASURED.capitalize()}."
    elif present and (draw < 0.6 or not absent):
        weights = np.array([1 / finding_shares()[name] for name in present])
        name = present[int(rng.choice(len(present), p=weights / weights.sum()))]
        answer = YES.format(PHRASES[name][0])
    else:
        near = [name for name in absent if set(KIND_OF.get(name, ())).intersection(shown)]
        options = near if near and rng.random() < 0.5 else absent
        name = options[int(rng.integers(len(options)))]
        others = [PHRASES[other][0] for other in shown if other in KIND_OF.get(name, ())]
        answer = NO_BUT.format(", ".join(others)) if others else NO
    words = [phrase for phrase in PHRASES[name] if not _NO_NOUN.search(phrase)]
    word = words[int(rng.integers(len(words)))]
    return name, (before.format(finding=word), after.format(finding=word)), answer
