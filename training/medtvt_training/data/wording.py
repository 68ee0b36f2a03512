# SPDX-License-Identifier: Apache-2.0
"""Wording that all written answers share."""

from .rows import Modality


TITLES: dict[Modality, str] = {"ecg": "ECG", "cxr": "CXR", "lab": "Labs"}
POINTERS = ("which fits", "pointing to", "in keeping with", "supporting")
# A question before and after the place of its modality
PHYSIOLOGY_QUESTIONS: dict[Modality, tuple[str, str]] = {
    "ecg": ("What information can be derived from the ", "?"),
    "cxr": ("What does the ", " show?"),
    "lab": ("What do the values of the ", " tell?"),
}
GENERAL_QUESTIONS = (("Describe the findings of my ", "."), ("What can be read from my ", "?"))
FOCUSED_QUESTIONS = (("Regarding {group}, what does my ", " show?"), ("Look at {group} in my ", ". What do you see?"))
DIAGNOSIS_QUESTIONS = (
    ("Can you analyze my ", " to determine my probable conditions?"),
    ("Here are my ", ". Which diseases are likely?"),
    ("Please read my ", " and tell me what I may have."),
    ("What diagnoses do my ", " point to?"),
    ("Given my ", ", which conditions should be considered?"),
)
FINDING_QUESTIONS = (
    ("Does my ", " show {finding}?"),
    ("Do you see {finding} in my ", "?"),
    ("Look for {finding} in my ", "."),
)
YES, NO = "Yes, {}.", "No."
NO_DISEASE = (
    "None of the seven diseases is established by these findings.",
    "These findings establish none of the seven diseases.",
)
NOTHING = ("nothing notable", "no notable finding")
_ZONES = tuple(f"{side} {zone} zone" for zone in ("lower", "mid", "upper") for side in ("right", "left"))
# The parts of a reading of a signal or a film, and the findings of each, in the order in which they are stated
READING_PARTS: dict[Modality, dict[str, tuple[str, ...]]] = {
    "ecg": {
        "rhythm": (
            "ecg: sinus rhythm",
            "ecg: sinus tachycardia",
            "ecg: sinus bradycardia",
            "ecg: fibrillation",
            "ecg: flutter",
            "ecg: rapid response",
            "ecg: paced",
            "ecg: premature atrial beats",
            "ecg: premature ventricular beats",
        ),
        "conduction and axis": (
            "ecg: left atrial enlargement",
            "ecg: prolonged PR",
            "ecg: left bundle branch block",
            "ecg: right bundle branch block",
            "ecg: left axis",
            "ecg: right axis",
            "ecg: prolonged QTc",
        ),
        "voltages": ("ecg: LVH voltage", "ecg: strain", "ecg: low voltage", "ecg: poor R progression"),
        "ST-T": (
            "ecg: inferior Q waves",
            "ecg: anterior Q waves",
            "ecg: anteroseptal Q waves",
            "ecg: septal Q waves",
            "ecg: ST elevation",
            "ecg: ST depression",
            "ecg: lateral T inversion",
            "ecg: nonspecific ST-T",
            "ecg: tented T",
            "ecg: U waves",
        ),
    },
    "cxr": {
        "heart and vessels": ("cxr: normal heart size", "cxr: enlarged heart", "cxr: wide aorta", "cxr: edema"),
        "lungs": (
            "cxr: clear lungs",
            *(f"cxr: {zone} opacity" for zone in _ZONES),
            "cxr: opacity",
            "cxr: interstitial opacity",
            "cxr: atelectasis",
            "cxr: hyperinflation",
        ),
        "pleura": (
            "cxr: right effusion",
            "cxr: left effusion",
            "cxr: bilateral effusions",
            "cxr: effusion",
            "cxr: pneumothorax",
        ),
        "devices": ("cxr: tube", "cxr: line", "cxr: pacemaker", "cxr: sternotomy wires"),
    },
}
