# SPDX-License-Identifier: Apache-2.0
"""
From discharge codes to the seven diseases.

`paper`: the 52 codes of the paper's Table 5 and the five rare billable ones that its evaluation script adds, each as an
exact string; ICD-9 codes through the one-to-one part of CMS's general equivalence mappings, last entry first, which is
what MIMIC-IV-ECG-Ext-ICD does. `corrected`: families of ICD-10-CM and of ICD-9-CM by prefix, without conversion.
"""

import csv
from functools import cache
from pathlib import Path
from typing import Any

from modeling_medtvt import DISEASES


CODEBOOKS = Path(__file__).parent / "codebooks"
CODE_SETS = ("corrected", "paper")
# Not in: acute ischemic heart disease (I20-I24), pneumonitis by aspiration (J69), diabetes of E12 and E14 (no such codes
# in ICD-10-CM).
PREFIXES = {
    10: {
        "Coronary Artery Disease": ("I25",),
        "Acute Renal Failure": ("N17",),
        "Hypertension": ("I10", "I11", "I12", "I13", "I15", "I16"),
        "Atrial Fibrillation": ("I48",),
        "Pneumonia": ("J12", "J13", "J14", "J15", "J16", "J17", "J18"),
        "Diabetes Mellitus": ("E08", "E09", "E10", "E11", "E13"),
        "Sepsis": ("A40", "A41", "R652"),
    },
    9: {
        "Coronary Artery Disease": ("412", "414"),
        "Acute Renal Failure": ("584",),
        "Hypertension": ("401", "402", "403", "404", "405"),
        "Atrial Fibrillation": ("4273",),
        "Pneumonia": ("480", "481", "482", "483", "484", "485", "486"),
        "Diabetes Mellitus": ("249", "250"),
        "Sepsis": ("038", "99591", "99592", "78552"),
    },
}


@cache
def paper_codes() -> dict[str, dict[str, Any]]:
    """Code -> `disease`, `count` in the paper's Table 5 (None for the five that it lacks), official `title`."""
    with open(CODEBOOKS / "paper_codes.csv", newline="") as file:
        return {
            row["code"]: {**row, "count": int(row["count"]) if row["count"] else None} for row in csv.DictReader(file)
        }


@cache
def _icd9_to_icd10() -> dict[str, str]:
    with open(CODEBOOKS / "icd9_to_icd10.csv", newline="") as file:
        return {row["icd9"]: row["icd10"] for row in csv.DictReader(file)}


def normalize_code(code: str) -> str:
    """Without dot and padding, in capitals."""
    return code.replace(".", "").strip().upper()


def convert_to_icd10(code: str, version: int) -> str | None:
    """The ICD-10-CM code; None for an ICD-9 code that converts to none of the paper's."""
    return normalize_code(code) if version == 10 else _icd9_to_icd10().get(normalize_code(code))


def disease_of(code: str, version: int, code_set: str = "corrected") -> str | None:
    """
    The disease that a discharge code stands for, None if it is none of the seven.

    Raises:
        ValueError: if the code set or the ICD version is unknown.
    """
    if code_set not in CODE_SETS or version not in PREFIXES:
        raise ValueError(f"`code_set` {code_set!r} of {CODE_SETS}, ICD version {version!r} of 9 and 10.")
    if code_set == "paper":
        converted = convert_to_icd10(code, version)
        entry = None if converted is None else paper_codes().get(converted)
        return None if entry is None else entry["disease"]
    code = normalize_code(code)
    return next((disease for disease, prefixes in PREFIXES[version].items() if code.startswith(prefixes)), None)


def label_diseases(codes: list[tuple[str, int]], code_set: str = "corrected") -> list[str]:
    """The diseases of an admission's `(code, version)`, in the order of `DISEASES`."""
    found = {disease_of(code, version, code_set) for code, version in codes}
    return [disease for disease in DISEASES if disease in found]
