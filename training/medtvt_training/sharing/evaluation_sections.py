# SPDX-License-Identifier: Apache-2.0
"""What a card says of an evaluation: the sections made from a metrics.json and the files beside it."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult

from modeling_medtvt import Provenance

from ..data.conversation import MODALITIES, MODALITY_NAMES
from ..evaluation.finding_metrics import render_finding_groups
from ..evaluation.published import render_published
from ..evaluation.report import HEADLINES, TABLES, headline_rows, read_metrics, undefined_note
from ..evaluation.selective import render_calibration
from ..evaluation.values import format_value
from ..files import hash_folder, markdown_table, read_json


# What a modality that is withheld or another patient's changes
VARIANT_METRICS = {
    "strict/f1_samples": "F1",
    "strict/auroc_macro": "AUROC",
    "evidence/cited_true": "cited findings true",
}
VARIANTS = {"withhold": "without the {}", "swap": "another patient's {}"}
COHORTS = {"synthetic": "imaginary patients, drawn by the package", "open": "patients, of open data"}


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
    measured_on = results["about"].get("data") or entries[-1]
    found = []
    for mode, name, title in HEADLINES:
        value = results.get(mode, {}).get(name)
        if value is not None:
            found.append(
                EvalResult(
                    task_type="image-text-to-text",
                    dataset_type="medtvt-qa",
                    dataset_name=measured_on["name"],
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
    kind = COHORTS.get(about.get("data", {}).get("access", ""), "patients")
    return f"{about['records']} records of {about['patients']} {kind}{split}"


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
    shown = dict(results)
    if pairs := results.get("agreement"):  # in the report all of them
        shown["agreement"] = [pair for pair in pairs if pair["second"] == pairs[-1]["second"]]
    parts += _list_tables(shown, "subsets", "agreement", "labs_withheld")
    parts += undefined_note(results["undefined"])
    return _join(parts)


def _join(parts: Iterable[str]) -> str:
    return "\n\n".join(part.strip("\n") for part in parts)


def describe_benchmark(results: Mapping | None, metrics: Any, peers: Mapping[str, str]) -> str:
    """Simpler models on the same records, and published numbers."""
    if results is None:
        return NOT_DONE
    if peers:
        first = describe_peers(results, metrics, peers)
    else:
        first = f"{NOT_DONE} `medtvt baseline --model gradient-boosting` makes the row, and `medtvt card --peers` takes it."
    return _join([first, *filter(None, [render_published(results)])])


def describe_confidence(results: Mapping | None) -> str:
    """Calibration and selective prediction."""
    if results is None or not results.get("selective"):
        return f"{NOT_DONE} It needs probabilities (`--likelihood`)."
    text = render_calibration(results)
    calibration = [f"**Probabilities, raw and calibrated**\n\n{text}"] if text else []
    return _join([*calibration, *_list_tables(results, "selective")])


def describe_fairness(results: Mapping | None) -> str:
    """Subgroups, and whether the model sees more than a prior."""
    return _join(_list_tables(results or {}, "subgroups", "matched_prior")) or NOT_DONE


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
    return _join([said, *found])


def _list_tables(results: Mapping, *keys: str) -> list[str]:
    """The report's tables of some sections, those that there are, each under its title."""
    return [f"**{TABLES[key][0]}**\n\n{TABLES[key][1](results[key])}" for key in keys if results.get(key)]


def _describe_variants(folder: Path) -> list[str]:
    """What changes where a modality is withheld, or another patient's: from the comparisons beside a metrics.json."""
    rows = []
    for kind, title in VARIANTS.items():
        for modality in MODALITIES:
            file = folder / f"{kind}-{modality}" / "comparison.json"
            if file.is_file():
                found = read_json(file)
                cells = []
                for name in VARIANT_METRICS:
                    row = found.get(name)
                    cells += (
                        [format_value(row["a"]), format_value(row["difference"], row["interval"])]
                        if row
                        else ["-", "-"]
                    )
                rows.append([title.format(MODALITY_NAMES[modality]), *cells])
    if not rows:
        return []
    about = "With a modality withheld, or another patient's; differences to the unchanged records are paired."
    header = [cell for title in VARIANT_METRICS.values() for cell in (title, "difference")]
    return [about, markdown_table(["", *header], rows)]


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
