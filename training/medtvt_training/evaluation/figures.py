# SPDX-License-Identifier: Apache-2.0
"""Figures of an evaluation."""

import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from modeling_medtvt import DISEASES

from ..data.conversation import MODALITIES, MODALITY_NAMES
from ..files import new_file
from .agreement import POINTS


# Okabe and Ito's colors, which the color-blind can tell apart
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#999999")
MODALITY_COLORS = dict(zip(MODALITIES, COLORS))


def write_figures(results: Mapping, folder: Path) -> list[str]:
    """The figures that a metrics.json allows, as PNG; returns their names."""
    strict, intervals = results["strict"], results["intervals"]
    figures = {}
    if diseases := strict.get("per_disease"):
        limits = intervals.get("strict", {}).get("per_disease", {})
        series = {name: ([diseases[d][name] for d in DISEASES], _limits(limits, name)) for name in _LABEL_METRICS}
        title = "Each disease, strict (bars: 95 % of resampled patients)"
        figures["diseases.png"] = plot_bars(DISEASES, series, title)
        if "auroc" in diseases[DISEASES[0]]:
            names = ("auroc", "auprc", "prevalence")
            series = {name: ([diseases[d][name] for d in DISEASES], _limits(limits, name)) for name in names}
            figures["ranking.png"] = plot_bars(DISEASES, series, "Ranking of patients, by drawn answers or likelihood")
    if gates := results.get("gates"):
        limits = intervals.get("gates", {})
        series = {MODALITY_NAMES[m]: ([gates[d][m] for d in DISEASES], _limits(limits, m)) for m in MODALITIES}
        figures["gates.png"] = plot_bars(DISEASES, series, "Mean gate of each modality, patients with the disease")
    if swap := results.get("swap"):
        limits = intervals.get("swap", {})
        series = {
            label: ([swap[d][name] for d in DISEASES], _limits(limits, name)) for name, label in _SWAP_GROUPS.items()
        }
        title = "A modality of another patient: how often a disease is named, by who has it"
        figures["swap.png"] = plot_bars(DISEASES, series, title)
    if selective := results.get("selective"):
        figures["reliability.png"] = plot_reliability(selective)
        figures["risk_coverage.png"] = plot_risk_coverage(selective)
    for column, found in results.get("subgroups", {}).items():
        if found["groups"]:
            figures[f"subgroups_{re.sub(r'[^a-zA-Z0-9_]', '_', column)}.png"] = plot_subgroups(column, found["groups"])
    if curve := results.get("labs_withheld"):
        figures["labs_withheld.png"] = plot_curve(curve)
    for name, figure in figures.items():
        _save(figure, folder / name)
    return list(figures)


def _save(figure: Figure, path: Path) -> None:
    with new_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


_LABEL_METRICS = ("precision", "recall", "f1")
_SWAP_GROUPS = {
    "named_both": "both",
    "named_patient_only": "the patient only",
    "named_donor_only": "the donor only",
    "named_neither": "neither",
}


def _limits(intervals: Mapping, name: str) -> list:
    return [intervals.get(disease, {}).get(name) for disease in DISEASES]


def plot_bars(groups: Sequence[str], series: Mapping[str, tuple], title: str) -> Figure:
    """
    Grouped bars of fractions with their intervals; what is undefined is marked.

    Args:
        series: By name, the values of the groups and their intervals, None where undefined.
    """
    figure = Figure(figsize=(max(6.0, 1.45 * len(groups)), 4.2), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(series)
    for i, (name, (values, limits)) in enumerate(series.items()):
        places = np.arange(len(groups)) + (i - (len(series) - 1) / 2) * width
        heights = np.array([np.nan if value is None else value for value in values], dtype=float)
        axes.bar(places, heights, width * 0.92, color=COLORS[i % len(COLORS)], label=name)
        for place, value, limit in zip(places, values, limits):
            if value is None:
                axes.text(place, 0.01, "undefined", rotation=90, ha="center", va="bottom", fontsize=7, color="#555555")
            elif limit:
                axes.plot([place, place], limit, color="black", linewidth=1)
    axes.set_xticks(np.arange(len(groups)), [textwrap.fill(group, 12) for group in groups], fontsize=9)
    axes.set_ylim(0, 1)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    # about 13 characters of this size an inch
    axes.set_title(textwrap.fill(title, int(13 * figure.get_figwidth())), fontsize=10, loc="left")
    figure.legend(loc="outside lower center", ncols=min(len(series), 5), frameon=False, fontsize=9)
    return figure


def plot_reliability(selective: Mapping) -> Figure:
    """Probability against the share that is ill, a panel a disease; larger dots stand for more records."""
    figure = Figure(figsize=(10.5, 5.6), layout="constrained")
    panels = figure.subplots(2, 4, sharex=True, sharey=True).ravel()
    for axes, (disease, found) in zip(panels, selective["per_disease"].items()):
        bins = found["reliability"]
        total = sum(entry["records"] for entry in bins)
        axes.plot([0, 1], [0, 1], color="#999999", linewidth=1, linestyle="--", label="as it should be")
        x, y = ([entry[name] for entry in bins] for name in ("probability", "ill"))
        axes.plot(x, y, color=COLORS[0], linewidth=1)
        sizes = [8 + 200 * entry["records"] / total for entry in bins]
        axes.scatter(x, y, s=sizes, color=COLORS[0], label="found (area: records)")
        axes.set_title(disease, fontsize=9, loc="left")
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.set(xlim=(0, 1), ylim=(0, 1))
    panels[-1].axis("off")
    panels[-1].legend(*panels[0].get_legend_handles_labels(), loc="center", frameon=False, fontsize=9)
    figure.supxlabel(textwrap.fill(f"mean probability of a tenth ({selective['source']})", 100), fontsize=9)
    figure.supylabel("share that is ill", fontsize=9)
    return figure


def plot_risk_coverage(selective: Mapping) -> Figure:
    """Share of wrong answers against the share answered, a line a disease."""
    figure = Figure(figsize=(7.5, 4.6), layout="constrained")
    axes = figure.subplots()
    for color, (disease, found) in zip(COLORS, selective["per_disease"].items()):
        coverages, risks = zip(*found["risk_coverage"])
        axes.plot(coverages, risks, color=color, label=disease)
    axes.set(xlim=(0, 1), xlabel="share answered, the surest first", ylabel="share of wrong answers")
    axes.set_ylim(bottom=0)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title("Risk and coverage", fontsize=10, loc="left")
    figure.legend(loc="outside right center", frameon=False, fontsize=9)
    return figure


def plot_curve(curve: Sequence[Mapping]) -> Figure:
    """Metrics against the share of labs that is withheld."""
    figure = Figure(figsize=(6.5, 4.2), layout="constrained")
    axes = figure.subplots()
    for color, (name, label) in zip(COLORS, POINTS.items()):
        points = [
            (e["withheld"], e[name]["value"], e[name]["interval"]) for e in curve if e[name]["value"] is not None
        ]
        if points:
            axes.plot([x for x, _, _ in points], [y for _, y, _ in points], color=color, marker="o", label=label)
            for x, _, limits in points:
                if limits:
                    axes.plot([x, x], limits, color=color, linewidth=1)
    axes.set(ylim=(0, 1.02), xlabel="share of the labs withheld", ylabel="value (bars: 95 % of resampled patients)")
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title("Single labs withheld", fontsize=10, loc="left")
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def plot_subgroups(column: str, groups: Mapping[str, Mapping]) -> Figure:
    """F1 and AUROC of each group."""
    labels = {"f1_samples": "F1", "auroc_macro": "AUROC"}
    series = {
        label: (
            [found[name]["value"] for found in groups.values()],
            [found[name]["interval"] for found in groups.values()],
        )
        for name, label in labels.items()
        if all(name in found for found in groups.values())
    }
    names = [f"{group} ({found['records']})" for group, found in groups.items()]
    return plot_bars(names, series, f"By {column} (in brackets: records; bars: 95 % of resampled patients)")


def plot_variants(results: Mapping[str, Mapping], folder: Path) -> None:
    """
    What a run loses when a modality is withheld or swapped: recall of each disease, and the share of cited findings
    that are true.

    Args:
        results: By name of the variant, the content of its metrics.json; "" is the plain run.
    """
    series: dict[str, tuple[list, list]] = {}
    results = {name: found for name, found in results.items() if not name or name.startswith(("withhold-", "swap-"))}
    if len(results) < 2:
        return
    for name, found in results.items():
        if diseases := found["strict"].get("per_disease"):
            limits = found["intervals"].get("strict", {}).get("per_disease", {})
            series[name or "plain"] = ([diseases[d]["recall"] for d in DISEASES], _limits(limits, "recall"))
    if series:
        figure = plot_bars(DISEASES, series, "Recall with a modality withheld, or of another patient (strict)")
        _save(figure, folder / "variants.png")
    if all("cited_true" in found.get("evidence", {}) for found in results.values()):
        figure = plot_bars([name or "plain" for name in results], _evidence(results), "Cited findings that are true")
        _save(figure, folder / "findings.png")


def _evidence(results: Mapping[str, Mapping]) -> dict[str, tuple]:
    """Share of true ones among all cited findings, those of each modality and, where it was swapped, of its donor."""
    series: dict[str, tuple[list, list]] = {"all": ([], [])}
    series |= {MODALITY_NAMES[modality]: ([], []) for modality in MODALITIES}
    series["donor's"] = ([], [])
    for found in results.values():
        values, limits = found["evidence"], found["intervals"].get("evidence", {})
        cells = {"all": (values["cited_true"], limits.get("cited_true"))}
        for modality in MODALITIES:
            own, own_limits = values[modality], limits.get(modality, {})
            cells[MODALITY_NAMES[modality]] = (own["cited_true"], own_limits.get("cited_true"))
            if "cited_true_of_donor" in own:
                cells["donor's"] = (own["cited_true_of_donor"], own_limits.get("cited_true_of_donor"))
        for name, (heights, intervals) in series.items():
            value, limit = cells.get(name, (np.nan, None))  # there is a donor only where something was swapped
            heights.append(value)
            intervals.append(limit)
    return series
