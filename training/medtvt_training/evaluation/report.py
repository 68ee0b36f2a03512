# SPDX-License-Identifier: Apache-2.0
"""Metrics as Markdown."""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from modeling_medtvt import DISEASES

from ..files import markdown_table
from .agreement import render_agreement, render_curve, render_subsets
from .finding_metrics import render_findings
from .matched_prior import render_matched_prior
from .published import render_published
from .selective import render_calibration, render_selective
from .subgroups import render_subgroups
from .values import RESEARCH_USE, format_value


# Sections of a report: key in metrics.json, title, what the reader should know
_SECTIONS = (
    (
        "paper",
        "Paper",
        "As the authors' script computes them: unparsed answers left out, ROUGE and BERTScore recalls, AUC of 0/1 predictions.",
    ),
    ("strict", "Strict", "An answer that does not parse is an empty one. Two empty sets of diseases agree fully."),
    ("by_modality", "Physiology level", "Each modality by itself."),
    (
        "evidence",
        "Evidence",
        "Statements of the reasoning held against labs and ECG as they were measured (a film is not measured): shares that "
        "are supported, contradicted, about something not measured, or not checkable; `unmentioned` is the share of "
        "abnormal measurements that it leaves out. Where findings are known: `cited_true`, the share of cited findings "
        "that the patient has, and `agreement`, how often they confirm the verdict.",
    ),
    ("swap", "Swapped modality", "Agreement of the answers with the patient, and with the donor of the modality."),
)
_DISEASE_TABLES = (("strict/per_disease", "Diseases (strict)"), ("gates", "Gates"), ("swap", "Swapped, by disease"))


# What is told first, on the console and in a model's card: mode and name of a metric, and its title
HEADLINES = (
    ("strict", "f1_samples", "F1 of the label set, mean over the records"),
    ("strict", "f1_macro", "F1, mean over the diseases"),
    ("strict", "f1_micro", "F1, pooled"),
    ("strict", "jaccard_samples", "Jaccard index of the label sets"),
    ("strict", "exact_match", "Exact match of the label sets"),
    ("strict", "parse_rate", "Answers that parse"),
    ("strict", "auroc_macro", "AUROC, mean over the diseases"),
    ("strict", "auprc_macro", "AUPRC, mean over the diseases"),
    ("paper", "f1", "F1 as the paper computes it"),
    ("paper", "auc", "AUC as the paper computes it (0/1 predictions)"),
    ("paper", "bleu", "BLEU as the paper computes it"),
    ("paper", "rouge", "ROUGE as the paper computes it"),
    ("evidence", "supported", "Share of statements that measurements support"),
    ("evidence", "contradicted", "Share of statements that measurements contradict"),
    ("evidence", "unmentioned", "Share of abnormal measurements left unmentioned"),
    ("evidence", "cited_true", "Share of the cited findings that the patient has"),
)


def read_metrics(path: str | os.PathLike) -> dict:
    """
    A metrics.json.

    Raises:
        ValueError: if the file is none.
    """
    try:
        results = json.loads(Path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no JSON ({error}).") from error
    if not isinstance(results, dict) or not {"paper", "strict", "intervals"} <= results.keys():
        raise ValueError(f"{path} is no metrics.json: it has no `paper`, `strict` and `intervals`.")
    return results


def headline_rows(results: Mapping) -> list[list[str]]:
    """Title and value of the headline metrics that are defined."""
    return [
        [title, format_value(value, (results["intervals"].get(mode) or {}).get(name))]
        for mode, name, title in HEADLINES
        if (value := results.get(mode, {}).get(name)) is not None
    ]


def render_headlines(results: Mapping[str, Mapping]) -> str:
    """
    What a run found, for a terminal.

    Args:
        results: By name of the variant, the content of its metrics.json; "" is the plain run.
    """
    plain = results[""]
    rows = headline_rows(plain)
    width = max((len(title) for title, _ in rows), default=0)
    lines = [
        f"{plain['about']['records']} records of {plain['about']['patients']} patients; 95 % intervals in brackets",
        *(f"  {title:<{width}}  {value}" for title, value in rows),
    ]
    for name, found in results.items():
        # subsets and shares of labs have tables in the report
        if name.startswith(("withhold-", "swap-")) and found["strict"].get("f1_samples") is not None:
            value = format_value(found["strict"]["f1_samples"], found["intervals"].get("strict", {}).get("f1_samples"))
            lines.append(f"  {f'{name}: {HEADLINES[0][2]}':<{width}}  {value}")
    return "\n".join([*lines, RESEARCH_USE])


def render_report(results: Mapping, figures: Sequence[str] = ()) -> str:
    """report.md: both modes, what else there is, diseases, how much is undefined, and what the numbers rest on."""
    about, intervals = results["about"], results["intervals"]
    bootstrap = about["bootstrap"]
    parts = [
        f"# Evaluation\n\n{RESEARCH_USE}\n",
        f"{about['records']} records of {about['patients']} patients. In brackets: 95 % intervals over "
        f"{bootstrap['resamples']} resamples of patients (seed {bootstrap['seed']}).\n",
    ]
    for key, title, explanation in _SECTIONS:
        if rows := list(_rows(results.get(key, {}), intervals.get(key, {}))):
            parts.append(f"## {title}\n\n{explanation}\n\n" + markdown_table(["metric", "value"], rows))
    for section, title in _DISEASE_TABLES:
        if table := _disease_table(results, section):
            parts.append(f"## {title}\n\n{table}")
    for title, text in _tables(results):
        parts.append(f"## {title}\n\n{text}")
    notes = [*results["skipped"], *undefined_note(results["undefined"])]
    notes += [f"Probabilities: {source}." for source in about["probabilities"]]
    notes.append(f"Corpus BLEU: {about['bleu_signature']}.")
    notes += [f"{name.replace('_', ' ').capitalize()}: {value:.3g}." for name, value in about.get("run", {}).items()]
    parts.append("## Notes\n\n" + "\n".join(f"- {note}" for note in notes) + "\n")
    parts += [f"![{Path(figure).stem}]({figure})\n" for figure in figures]
    return "\n".join(parts)


def _tables(results: Mapping) -> Iterator[tuple[str, str]]:
    """Title and text of the sections that have tables of their own."""
    if text := render_published(results):
        yield "Beside published numbers", text
    if calibration := render_calibration(results):
        yield "Probabilities, raw and calibrated", calibration
    for key, (title, render) in TABLES.items():
        if key in results:
            yield title, render(results[key])


TABLES: dict[str, tuple[str, Callable[[Any], str]]] = {
    "findings": ("Findings", render_findings),
    "subgroups": ("Subgroups", render_subgroups),
    "matched_prior": ("Matched prior", render_matched_prior),
    "selective": ("Calibration and selective prediction", render_selective),
    "subsets": ("Subsets of the modalities", render_subsets),
    "agreement": ("Agreement between subsets of the modalities", render_agreement),
    "labs_withheld": ("Single labs withheld", render_curve),
}


def undefined_note(undefined: Mapping[str, str]) -> list[str]:
    """One line for all that has no value."""
    if not undefined:
        return []
    reasons = "; ".join(f"{reason} ({number})" for reason, number in Counter(undefined.values()).most_common())
    return [f"{len(undefined)} values are undefined and not shown: {reasons}. metrics.json names each."]


def _rows(values: Mapping, limits: Mapping, prefix: str = "") -> Iterator[list[str]]:
    """Name and value of each metric that is defined, those of single diseases left out."""
    for name, value in values.items():
        if not isinstance(value, dict):
            if value is not None:
                yield [prefix + name, format_value(value, limits.get(name))]
        elif name != "per_disease" and name not in DISEASES:
            yield from _rows(value, limits.get(name, {}), f"{prefix}{name} ")


def _disease_table(results: Mapping, section: str) -> str | None:
    values, limits = results, results["intervals"]
    for key in section.split("/"):
        values, limits = values.get(key, {}), limits.get(key, {})
    rows = {disease: values[disease] for disease in DISEASES if disease in values}
    # calibrated ones have a table of their own
    names = [
        name
        for name in next(iter(rows.values()), {})
        if not name.startswith("calibrated_") and any(row[name] is not None for row in rows.values())
    ]
    if not names:
        return None
    cells = [
        [disease, *(format_value(row[name], limits.get(disease, {}).get(name)) for name in names)]
        for disease, row in rows.items()
    ]
    return markdown_table(["disease", *names], cells)


def render_comparison(comparison: Mapping[str, Mapping], first: str, second: str) -> str:
    """comparison.md: the metrics of two runs and their paired differences."""
    rows = [
        [name, format_value(row["a"]), format_value(row["b"]), format_value(row["difference"], row["interval"])]
        for name, row in comparison.items()
    ]
    title = f"# Two runs\n\nA is {first}, B is {second}. {RESEARCH_USE}\n\n"
    return title + markdown_table(["metric", "A", "B", "A - B"], rows)
