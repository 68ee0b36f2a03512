# SPDX-License-Identifier: Apache-2.0
"""
The statements that the ECG carts printed (MIMIC-IV-ECG, `report_0` to `report_17`), cleaned by the rules below and by
nothing else.
"""

import csv
import re
from functools import cache
from typing import Any

from .codes import CODEBOOKS
from .tables import MEASURES, NOT_MEASURED, REPORT_COLUMNS


# Notes on the recording, not on the heart. The paper's Table 4 counts the first one as a label.
AGE_NOT_ENTERED = "age not entered"
INVALID = (
    AGE_NOT_ENTERED,
    "data quality warning",
    "recording unsuitable",
    "unsuitable for analysis",
    "leads unsuitable",
    "analysis error",
    "measurement error",
    "lead reversal",
    "pediatric criteria",
    "without knowing",
    "pacer detection suspended",
    "all 12 leads are missing",
)
# Summaries: true, but not a finding, and they give the conclusion away.
SUMMARIES = ("normal ecg", "normal ecg except for rate", "borderline ecg", "abnormal ecg", "otherwise normal ecg")
_DECORATION = re.compile(r"\*{2,}|-{2,}")
# Words of a statement -> part of the reading, first match first
GROUPS = {
    "rhythm": (
        r"rhythm|tachycardia|bradycardia|fibrillation|flutter|pacemaker|paced|\bpac\(?s?\)?|\bpvc\(?s?\)?|"
        r"premature|ectop|arrhythmia|escape"
    ),
    "ischemia, infarct and ST-T": r"infarct|ischemi|\bst\b|st-t|\bt wave|repolarization|\bmi\b|myocardial|\bq wave|qt interval",
    "conduction and axis": r"block|axis|conduction|\bpr interval|a-v|\bav\b|fascicular|rsr|pre-excitation|wpw|\bivcd\b",
    "voltages and chambers": r"hypertrophy|lvh|rvh|enlargement|abnormality|voltage|progression|r-wave|qrs",
}


def clean_statement(statement: str | None) -> str:
    """The form of the paper's Table 4: lower case, single spaces, no `***` or `---`, no final period."""
    text = _DECORATION.sub(" ", (statement or "").replace("\u2019", "'"))
    return re.sub(r"\s+", " ", text).strip().rstrip(".").strip().lower()


def clean_statements(row: dict[str, Any], keep_age_note: bool = False) -> list[str]:
    """
    The statements of one ECG without the invalid ones, each once, in the order printed.

    Args:
        row (`dict`): Columns of `machine_measurements`.
        keep_age_note (`bool`): Keep the note that no age was entered, as the paper's counts do.
    """
    dropped = INVALID[1:] if keep_age_note else INVALID
    cleaned = [clean_statement(row.get(column)) for column in REPORT_COLUMNS]
    return list(dict.fromkeys(text for text in cleaned if text and not any(phrase in text for phrase in dropped)))


def is_summary(statement: str) -> bool:
    """Whether a cleaned statement only sums up."""
    return statement in SUMMARIES or statement.endswith("otherwise normal ecg") and len(statement) < 25


def group_of(statement: str) -> str:
    """The part of a reading that a cleaned statement belongs to."""
    return next((group for group, words in GROUPS.items() if re.search(words, statement)), "other")


def measure(row: dict[str, Any]) -> dict[str, float]:
    """
    `rate` (per minute), `pr`, `qrs`, `qt` (ms) and `qrs_axis` (degrees) from the cart's measurements, where it measured.
    """
    given = {name: row.get(name) for name in MEASURES}
    value = {name: x for name, x in given.items() if x is not None and x not in NOT_MEASURED}
    measures = {}
    if 200 <= value.get("rr_interval", 0) <= 3000:
        measures["rate"] = float(round(60000 / value["rr_interval"]))
    for name, start, end in (
        ("pr", "p_onset", "qrs_onset"),
        ("qrs", "qrs_onset", "qrs_end"),
        ("qt", "qrs_onset", "t_end"),
    ):
        if start in value and end in value and value[end] > value[start]:
            measures[name] = float(value[end] - value[start])
    if -180 <= value.get("qrs_axis", 999) <= 270:
        measures["qrs_axis"] = float(value["qrs_axis"])
    return measures


@cache
def paper_statements() -> dict[str, int]:
    """The 63 statements of the paper's Table 4 and their counts."""
    with open(CODEBOOKS / "paper_statements.csv", newline="") as file:
        return {clean_statement(row["statement"]): int(row["count"]) for row in csv.DictReader(file)}
