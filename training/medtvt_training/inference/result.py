# SPDX-License-Identifier: Apache-2.0
"""A result of the pipeline as text for a terminal."""

import sys
import textwrap
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from processing_medtvt.report_medtvt import RESEARCH_USE, describe_patient


if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

MARKS = {"supported": "+", "contradicted": "!", "not measured": "?", "not checkable": " "}
TITLES = {"ecg": "ECG", "cxr": "X-ray", "lab": "Labs"}
LEGEND = "+ the measurement supports it, ! it contradicts it, ? not measured, no mark: cannot be checked"
# Of what the reasoning leaves out
MOST_UNMENTIONED = 6
MARK_COLORS = {"+": "green", "!": "red", "?": "yellow"}
BAR_WIDTH = 20


def print_result(result: Mapping[str, Any]) -> None:
    """
    Prints a result: with bars and colors on a terminal that shows them, else as [`format_result`] writes it.
    """
    if not sys.stdout.isatty():
        print(format_result(result))
        return
    from rich.console import Console, Group
    from rich.panel import Panel
    from rich.text import Text

    limits, others = _split_warnings(result)
    console = Console()
    console.print(Panel(Text("\n".join([*limits, RESEARCH_USE])), border_style="red", title="What this is worth"))
    console.print(Text(f"Patient: {describe_patient(result['patient'])}"))
    console.print(_disease_table(result["diseases"]))
    reasoning = [_colored(line, MARK_COLORS.get(line.strip()[:1])) for line in _reasoning(result)]
    console.print(Panel(Group(*reasoning), title="Reasoning", subtitle=LEGEND, title_align="left"))
    console.print(Text("Abnormal measurements that it leaves out", style="bold"))
    console.print(Text("\n".join(_unmentioned(result["unmentioned"]))))
    if result["influence"]:
        console.print(Text("How much less probable without a modality (answer slot)", style="bold"))
        console.print(Text("\n".join(_influence(result["influence"], result.get("influence_noise")))))
    console.print(Text("Contributions of the modalities (gate scores, 0 to 1)", style="bold"))
    console.print(Text("\n".join(_contributions(result["contributions"]))))
    console.print(Text("Altered, imputed or in doubt", style="bold"))
    console.print(Text("\n".join(f"  {warning}" for warning in others or ["nothing"])))


def _colored(line: str, color: str | None) -> "Text":
    from rich.text import Text

    return Text(line, style=color or "default")


def _disease_table(diseases: list[Mapping[str, Any]]) -> "RenderableType":
    from rich.table import Table
    from rich.text import Text

    number = "probability" if any(disease["probability"] is not None for disease in diseases) else "score"
    table = Table("Disease", "Named", {"probability": "Probability", "score": "Share of answers"}[number], "Findings")
    for disease in diseases:
        share = disease[number]
        bar = "" if share is None else f"{'█' * round(BAR_WIDTH * share):░<{BAR_WIDTH}} {share:.0%}"
        named = ("yes" if disease["named"] else "no") + ", undecided" * bool(disease.get("undecided"))
        style = "bold" if disease["named"] else "dim"
        table.add_row(*map(Text, (disease["label"], named, bar, str(disease["evidence"]))), style=style)
    return table


def format_result(result: Mapping[str, Any]) -> str:
    """
    A result of the pipeline as text for a terminal: first what the weights are worth, then diseases, the reasoning with its
    marks, what it leaves out, and what was altered.
    """
    limits, others = _split_warnings(result)
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
        lines += [
            "How much less probable without a modality (answer slot)",
            *_influence(result["influence"], result.get("influence_noise")),
        ]
    lines += ["Contributions of the modalities (gate scores, 0 to 1)", *_contributions(result["contributions"])]
    lines.append("Altered, imputed or in doubt")
    lines.extend(textwrap.indent(textwrap.fill(warning, 100), "  ") for warning in others or ["nothing"])
    return "\n".join([*lines, "", RESEARCH_USE])


def _split_warnings(result: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """The limits of the weights, and what else is warned of."""
    limits = [warning for warning in result["warnings"] if warning.startswith("model:")]
    return limits, [warning for warning in result["warnings"] if warning not in limits]


def _contributions(contributions: Mapping[str, float | None]) -> Iterator[str]:
    known = [value for value in contributions.values() if value is not None]
    if not known:
        yield "  none: the model has no gate"
    elif min(known) > 0.99:
        yield "  saturated: all near 1, they rank nothing"
    else:
        yield from (f"  {m:<4}{'-' if v is None else format(v, '.2f')}" for m, v in contributions.items())


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


def _influence(influence: Mapping[str, Mapping[str, float]], noise: Mapping[str, float] | None) -> Iterator[str]:
    for disease, of_modality in influence.items():
        moved = (
            f"{m} {value:+.2f}" + " (noise)" * bool(noise and abs(value) <= noise[disease])
            for m, value in of_modality.items()
        )
        yield f"  {disease:<28}" + "  ".join(moved)
    if noise is not None:
        yield "  noise: no more than what another order of the modalities in the question changes"
