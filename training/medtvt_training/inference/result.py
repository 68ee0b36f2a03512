# SPDX-License-Identifier: Apache-2.0
"""A result of the pipeline as text for a terminal."""

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from processing_medtvt.report_medtvt import RESEARCH_USE, describe_patient


MARKS = {"supported": "+", "contradicted": "!", "not measured": "?", "not checkable": " "}
TITLES = {"ecg": "ECG", "cxr": "X-ray", "lab": "Labs"}
LEGEND = "+ the measurement supports it, ! it contradicts it, ? not measured, no mark: cannot be checked"
# Of what the reasoning leaves out
MOST_UNMENTIONED = 6


def format_result(result: Mapping[str, Any]) -> str:
    """
    A result of the pipeline as text for a terminal: first what the weights are worth, then diseases, the reasoning with its
    marks, what it leaves out, and what was altered.
    """
    limits = [warning for warning in result["warnings"] if warning.startswith("model:")]
    others = [warning for warning in result["warnings"] if warning not in limits]
    lines = [
        *(textwrap.fill(limit, 100) for limit in limits),
        f"Patient: {describe_patient(result['patient'])}",
        "Diseases",
        *map(_disease, result["diseases"]),
        f"Reasoning ({LEGEND})",
        *_reasoning(result),
        "Abnormal measurements that it leaves out",
        *_unmentioned(result["unmentioned"]),
    ]
    if result["influence"]:
        lines += ["How much less probable without a modality (answer slot)", *_influence(result["influence"])]
    lines.append("Contributions of the modalities (gate scores, 0 to 1)")
    known = [value for value in result["contributions"].values() if value is not None]
    if known and min(known) > 0.99:
        lines.append("  saturated: all near 1, they rank nothing")
    else:
        lines += [f"  {m:<4}{'-' if v is None else format(v, '.2f')}" for m, v in result["contributions"].items()]
    lines.append("Altered, imputed or in doubt")
    lines.extend(textwrap.indent(textwrap.fill(warning, 100), "  ") for warning in others or ["nothing"])
    return "\n".join([*lines, "", RESEARCH_USE])


def _disease(disease: Mapping[str, Any]) -> str:
    parts = []
    if disease["probability"] is not None:
        parts.append(f"probability {disease['probability']:.0%}")
    if disease.get("undecided"):
        parts.append("undecided")
    if disease["score"] is not None:
        parts.append(f"{disease['score']:.0%} of the answers")
    if disease["named"]:
        number = disease["evidence"]
        parts.append(
            "no supported finding" if not number else f"{number} supported finding{'s' if number > 1 else ''}"
        )
    return f"  [{'x' if disease['named'] else ' '}] {disease['label']:<24}{', '.join(parts)}".rstrip()


def _reasoning(result: Mapping[str, Any]) -> Iterator[str]:
    if not result["evidence"]:
        yield textwrap.indent(textwrap.fill(result["reasoning"] or "none", 100), "  ")
    before = None
    for statement in result["evidence"]:
        if statement["modality"] != before:
            before = statement["modality"]
            yield f"  {TITLES.get(before, 'Other')}"
        conclusion = f" -> {statement['conclusion']}" if statement["conclusion"] else ""
        said = f"{'no ' if statement['negated'] else ''}{statement['text']}{conclusion}"
        measured = "" if statement["status"] == "not checkable" else f"  [{statement['measured']}]"
        yield f"    {MARKS[statement['status']]} {said}{measured}"


def _unmentioned(entries: list[Mapping[str, str]]) -> Iterator[str]:
    for entry in entries[:MOST_UNMENTIONED]:
        yield (
            f"  {entry['finding'].split(': ', 1)[1]}: {entry['measured']}"
            if entry["modality"] == "ecg"
            else (f"  {entry['measured']}")
        )
    if len(entries) > MOST_UNMENTIONED:
        yield f"  and {len(entries) - MOST_UNMENTIONED} more"
    if not entries:
        yield "  none"


def _influence(influence: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    for disease, of_modality in influence.items():
        yield f"  {disease:<28}" + "  ".join(f"{m} {value:+.2f}" for m, value in of_modality.items())
