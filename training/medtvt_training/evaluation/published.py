# SPDX-License-Identifier: Apache-2.0
"""A run beside published numbers: single-modality models of the same diseases, and the paper."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from modeling_medtvt import DISEASES

from ..files import markdown_table, read_json
from .values import format_value


FOLDER = Path(__file__).parent / "published"
SHORT = {
    "Coronary Artery Disease": "CAD",
    "Acute Renal Failure": "ARF",
    "Hypertension": "HTN",
    "Atrial Fibrillation": "AF",
    "Pneumonia": "PNA",
    "Diabetes Mellitus": "DM",
    "Sepsis": "SEP",
}
PAPER_METRICS = {
    "paper/meteor": "METEOR",
    "paper/rouge": "ROUGE",
    "paper/recall": "recall",
    "paper/f1": "F1",
    "paper/auc": "AUC (0/1 predictions)",
    "strict/f1_micro": "F1 micro",
    "strict/f1_macro": "F1 macro",
    "strict/jaccard_samples": "Jaccard",
}


def render_published(results: Mapping) -> str:
    """
    Two tables in Markdown: AUROC a disease and macro beside published models of one or two modalities, with what each
    number is and of whom; and the paper's metrics beside the paper's values.

    Args:
        results: The content of a metrics.json.
    """
    return "\n".join(part for part in (auroc_table(results), paper_table(results)) if part)


def auroc_table(results: Mapping) -> str | None:
    """AUROC (and AUPRC) of the run, then the published rows; None where no probability was written."""
    strict, intervals = results["strict"], results["intervals"].get("strict", {})
    diseases, limits = strict.get("per_disease", {}), intervals.get("per_disease", {})
    if strict.get("auroc_macro") is None:
        return None
    about = results["about"]
    kind = "imaginary patients" if about.get("data", {}).get("access") == "synthetic" else "patients"
    rows = []
    for name in ("auroc", "auprc"):
        cells = [format_value(diseases.get(d, {}).get(name), limits.get(d, {}).get(name)) for d in DISEASES]
        macro = format_value(strict[f"{name}_macro"], intervals.get(f"{name}_macro"))
        cohort = f"these {about['records']} records of {about['patients']} {kind}"
        rows.append([f"**this run**, {name.upper()}", "as given", cohort, *cells, macro])
    for entry in read_json(FOLDER / "auroc.json"):
        cells = [_published(entry["auroc"].get(disease)) for disease in DISEASES]
        label = f"{entry['model']}, {entry['statistic']}"
        rows.append([label, entry["inputs"], entry["cohort"], *cells, _published(entry.get("macro"))])
    header = ["model and statistic", "inputs", "cohort", *(SHORT[disease] for disease in DISEASES), "mean"]
    sources = sorted(
        {f"{entry['model'].split(',')[0]}: {entry['source']}" for entry in read_json(FOLDER / "auroc.json")}
    )
    note = (
        "Cohorts, labels and statistics differ from row to row, so the rows are a scale and no comparison. Of labs alone no "
        f"table of these diseases was found. Sources: {'; '.join(sources)}."
    )
    return f"{markdown_table(header, rows)}\n{note}\n"


def paper_table(results: Mapping) -> str | None:
    """The paper's metrics: this run and the paper; None without an answer."""
    if results["strict"].get("f1_micro") is None:
        return None
    paper = read_json(FOLDER / "paper.json")
    rows = []
    for label, values in (("this run", None), (paper["model"], paper["metrics"])):
        cells = []
        for name in PAPER_METRICS:
            mode, metric = name.split("/")
            if values is not None:
                cells.append(format_value(values[name]))
            else:
                cells.append(format_value(results[mode].get(metric), results["intervals"].get(mode, {}).get(metric)))
        rows.append([label, *cells])
    note = f"The paper's row: {paper['cohort']}. Source: {paper['source']}."
    return f"{markdown_table(['', *PAPER_METRICS.values()], rows)}\n{note}\n"


def _published(numbers: Sequence[float] | None) -> str:
    """A value, or a value and its published interval."""
    if not numbers:
        return "-"
    return format_value(numbers[0], numbers[1:] or None)
