# SPDX-License-Identifier: Apache-2.0
"""What a card says of an evaluation: the sections made from a metrics.json and the files beside it."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult

from modeling_medtvt import Provenance

from ..evaluation.finding_metrics import render_finding_groups
from ..evaluation.published import render_published
from ..evaluation.report import HEADLINES, TABLES, headline_rows, read_metrics, undefined_note
from ..evaluation.selective import render_calibration
from ..evaluation.values import format_value
from ..files import hash_folder, markdown_table, read_json


# What a modality that is withheld or another patient's changes
VARIANT_METRICS = {"strict/f1_samples": "F1", "evidence/cited_true": "cited findings true"}


NOT_DONE = "Not done."


def read_run(path: str | os.PathLike, folder: Path) -> dict:
    """
    A metrics.json with `run`, its level, split and settings.

    Raises:
        ValueError: if the metrics are those of another model than that of the folder.
    """
    results = read_metrics(path)
    header = Path(path).with_name("run.json")
    if header.is_file() and read_json(header).get("model") not in (None, hash_folder(folder)):
        raise ValueError(f"{path} holds metrics of another model than {folder}: their fingerprints differ.")
    if header.is_file():
        results["run"] = {key: read_json(header).get(key) for key in ("level", "split", "settings")}
    return results


def eval_results(results: Mapping, provenance: Provenance) -> list[EvalResult]:
    """The headline metrics in the form of the Hub's model index."""
    entries = provenance.training_data or [{"name": "MedTVT-QA"}]
    found = []
    for mode, name, title in HEADLINES:
        value = results.get(mode, {}).get(name)
        if value is not None:
            found.append(
                EvalResult(
                    task_type="image-text-to-text",
                    dataset_type="medtvt-qa",
                    dataset_name=entries[-1]["name"],
                    dataset_split=results.get("run", {}).get("split"),
                    metric_type=f"{mode}_{name}",
                    metric_name=title,
                    metric_value=value,
                )
            )
    return found


def describe_cohort(results: Mapping) -> str:
    """How many records of what."""
    about, where = results["about"], results.get("run", {})
    split = f", {where['level']} level, split {where['split']}" if where.get("split") else ""
    return f"{about['records']} records of {about['patients']} patients{split}"


def describe_evaluation(results: Mapping | None, metrics: Any) -> str:
    """Headlines, diseases, and what missing and exchanged inputs change."""
    if results is None:
        return "None was given to this card."
    about, intervals = results["about"], results["intervals"]
    parts = [
        f"{describe_cohort(results)}. In brackets: 95 % intervals over "
        f"{about['bootstrap']['resamples']} resamples of patients. Unparsed answers count as empty ones.",
        markdown_table(["metric", "value"], headline_rows(results)),
    ]
    diseases = results["strict"].get("per_disease") or {}
    if diseases:
        limits = (intervals.get("strict") or {}).get("per_disease") or {}
        names = ("prevalence", "precision", "recall", "f1")
        cells = [
            [disease, *(format_value(values.get(n), limits.get(disease, {}).get(n)) for n in names)]
            for disease, values in diseases.items()
        ]
        parts.append(markdown_table(["disease", *names], cells))
    parts += _describe_variants(Path(metrics).parent)
    parts += _list_tables(results, "subsets", "agreement", "labs_withheld")
    parts += undefined_note(results["undefined"])
    return "\n\n".join(parts)


def describe_benchmark(results: Mapping | None, metrics: Any, peers: Mapping[str, str]) -> str:
    """Simpler models on the same records, and published numbers."""
    if results is None:
        return NOT_DONE
    if peers:
        first = describe_peers(results, metrics, peers)
    else:
        first = f"{NOT_DONE} `medtvt baseline --model gradient-boosting` makes the row, and `medtvt card --peers` takes it."
    return "\n\n".join([first, *filter(None, [render_published(results)])])


def describe_confidence(results: Mapping | None) -> str:
    """Calibration and selective prediction."""
    if results is None or not results.get("selective"):
        return f"{NOT_DONE} It needs probabilities (`--likelihood`)."
    calibration = [text] if (text := render_calibration(results)) else []
    return "\n\n".join([*calibration, *_list_tables(results, "selective")])


def describe_fairness(results: Mapping | None) -> str:
    """Subgroups, and whether the model sees more than a prior."""
    return "\n\n".join(_list_tables(results or {}, "subgroups", "matched_prior")) or NOT_DONE


def describe_errors(results: Mapping | None) -> str:
    """What the check of the reasoning found."""
    evidence = (results or {}).get("evidence") or {}
    if results is None or evidence.get("supported") is None:
        return f"How often the reasoning is contradicted by measurements: {NOT_DONE.lower()}"
    limits = results["intervals"].get("evidence", {})
    values = {
        name: format_value(evidence[name], limits.get(name)) for name in ("supported", "contradicted", "unmentioned")
    }
    found = [render_finding_groups(results["findings"])] if results.get("findings") else []
    said = (
        f"In this evaluation measurements support {values['supported']} of its statements and contradict "
        f"{values['contradicted']}; {values['unmentioned']} of the abnormal measurements go unmentioned."
    )
    return "\n\n".join([said, *found])


def _list_tables(results: Mapping, *keys: str) -> list[str]:
    """The report's tables of some sections, those that there are, each under its title."""
    return [f"**{TABLES[key][0]}**\n\n{TABLES[key][1](results[key])}" for key in keys if results.get(key)]


def _describe_variants(folder: Path) -> list[str]:
    """What changes where a modality is withheld, or another patient's: from the comparisons beside a metrics.json."""
    rows = []
    for file in (*sorted(folder.glob("withhold-*/comparison.json")), *sorted(folder.glob("swap-*/comparison.json"))):
        found = read_json(file)
        for name, title in VARIANT_METRICS.items():
            if name in found:
                row = found[name]
                rows.append(
                    [file.parent.name, title, format_value(row["a"]), format_value(row["difference"], row["interval"])]
                )
    if not rows:
        return []
    about = "With a modality withheld, or swapped for another patient's; differences are paired, on the same records."
    return [about, markdown_table(["variant", "metric", "value", "difference"], rows)]


def _list_records(metrics: str | os.PathLike) -> list[str] | None:
    """Ids of the records that a metrics.json is of, from the run.json beside it."""
    header = Path(metrics).with_name("run.json")
    return read_json(header).get("ids") if header.is_file() else None


def describe_peers(results: Mapping, metrics: str | os.PathLike, peers: Mapping[str, str]) -> str:
    """
    Others beside this model.

    Raises:
        ValueError: if one is of other records.
    """
    records = _list_records(metrics)
    for name, path in peers.items():
        if records is None or _list_records(path) != records:
            raise ValueError(
                f"{name}: the run.json beside {path} does not list the same records as that of --metrics."
            )
    names = {"f1_samples": "F1", "f1_macro": "F1, mean over the diseases", "jaccard_samples": "Jaccard"}
    names["auroc_macro"] = "AUROC, mean over the diseases"
    rows = []
    for name, found in {"this model": results, **{name: read_metrics(path) for name, path in peers.items()}}.items():
        limits = found["intervals"].get("strict") or {}
        rows.append([name, *(format_value(found["strict"].get(key), limits.get(key)) for key in names)])
    return markdown_table(["on the same records", *names.values()], rows)
