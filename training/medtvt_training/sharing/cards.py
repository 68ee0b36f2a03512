# SPDX-License-Identifier: Apache-2.0
"""The card of a model, an adapter or a dataset, filled from its own files; no number is typed by hand."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard, DatasetCardData, EvalResult, ModelCard, ModelCardData

from modeling_medtvt import DISEASES, MedTVTConfig, Provenance

from ..data.provenance import read_access, training_data_entry
from ..files import read_json


TEMPLATES = Path(__file__).parent / "card_templates"
TAGS = ["medical", "ecg", "chest-x-ray", "laboratory", "medtvt"]
ACCESS_NOTES = {
    "synthetic": "imaginary patients, drawn by the package: no data of any person",
    "open": "open data, under their own license",
    "credentialed": "data under credentialed access: who gets the weights must hold the same agreement",
}
COLUMN_NOTES = {
    "id": "of the row",
    "subject_id": "of the patient",
    "age": "of the patient in years, null where not known; never an input of the model",
    "sex": "of the patient, F or M, null where not known; never an input of the model",
    "level": "level of the question: physiology or diagnosis",
    "modalities": "which of ecg, cxr, lab the question comes with",
    "prompt": "the question, as a conversation with typed parts",
    "completion": "the answer, likewise; each part says which modality it cites",
    "ecg": "path of a WFDB record",
    "cxr": "path of a picture",
    "lab": "fifty values by name, null where not measured",
    "diseases": "those of the seven that the patient has",
    "findings": "what the data show, where it is known",
}
# What a modality that is withheld or another patient's changes
VARIANT_METRICS = {"strict/f1_samples": "F1", "evidence/cited_true": "cited findings true"}


# Cards


def model_card(
    model_dir: str | os.PathLike,
    metrics: str | os.PathLike | None = None,
    repo: str | None = None,
    peers: Mapping[str, str] | None = None,
) -> ModelCard:
    """
    The card of a model folder, or of an adapter folder.

    Args:
        metrics (`str` or `os.PathLike`, *optional*): A metrics.json of this model, from `medtvt evaluate`.
        repo (`str`, *optional*): Its name on the Hub; the folder's by default.
        peers (`dict`, *optional*): Name -> metrics.json of others on the same records, to stand beside it.

    Raises:
        ValueError: if the folder holds no MedTVT model, a peer has other records, or the metrics are those of another one.
    """
    folder = Path(model_dir)
    config = read_json(folder / "config.json")
    if config.get("model_type") != "medtvt":
        raise ValueError(f"{folder} holds a model of type {config.get('model_type')!r}, not a MedTVT model.")
    is_adapter = (folder / "adapter_config.json").is_file()
    access = read_access(folder)
    provenance = Provenance.from_pretrained(folder)
    repo = repo or folder.resolve().name
    results = None if metrics is None else _read_metrics(metrics, folder, config)
    data = ModelCardData(
        library_name="peft" if is_adapter else "transformers",
        pipeline_tag="image-text-to-text",
        license="apache-2.0" if access in ("none", "synthetic") else "other",
        license_name=None if access in ("none", "synthetic") else f"{access}-data",
        tags=TAGS,
        datasets=list(dict.fromkeys(entry["name"] for entry in provenance.training_data)) or None,
        model_name=repo.split("/")[-1] if results else None,
        eval_results=_eval_results(results, provenance) if results else None,
    )
    fields: dict[str, Any] = {
        "name": repo.split("/")[-1],
        "repo": repo,
        "stage": provenance.stage or "none",
        "training_data": _describe_training_data(provenance, access),
        "evaluation": _describe_evaluation(results, metrics, peers or {}),
        "license": _describe_license(access),
    }
    if is_adapter:
        adapter = read_json(folder / "adapter_config.json")
        base = adapter.get("base_model_name_or_path") or ""
        saved = ", and in full: " + ", ".join(adapter["modules_to_save"]) if adapter.get("modules_to_save") else ""
        # a folder's place on somebody's disk is nobody's business
        fields |= {"base_model": base if is_repo(base) else Path(base).name, "rank": adapter.get("r"), "saved": saved}
        if is_repo(base):
            data.base_model = base
        return _fill(ModelCard, "adapter.md", data, fields)
    labs = read_json(folder / "processor_config.json").get("lab_feature_extractor", {})
    fields |= {"diseases": ", ".join(DISEASES), "parts": _describe_parts(folder)}
    fields["table_source"] = labs.get("table_source") or "of a fitted table"
    return _fill(ModelCard, "model.md", data, fields)


def dataset_card(data_dir: str | os.PathLike, repo: str | None = None) -> DatasetCard:
    """
    The card of a MedTVT-QA folder. It holds counts, the schema and, where the folder has one, `build.md` of
    `medtvt build-qa`; and nothing of a patient.

    Raises:
        ValueError: if the folder holds no MedTVT-QA.
    """
    import pyarrow.parquet as pq

    from ..data.schema import FEATURES, LEVELS, SPLITS

    folder = Path(data_dir)
    splits = []
    for level in LEVELS:
        for split in SPLITS:
            file = folder / level / f"{split}.parquet"
            if file.is_file():
                subjects = pq.read_table(file, columns=["subject_id"])["subject_id"].to_pylist()
                splits.append((level, split, len(subjects), len(set(subjects))))
    if not splits:
        raise ValueError(f"{folder} holds no MedTVT-QA: no physiology/ or diagnosis/ with a split as parquet.")
    access = training_data_entry("", folder)["access"]
    synthetic = access == "synthetic"
    made_by = read_json(folder / "cohort.json") if synthetic else {}
    arguments = " ".join(f"--{key} {made_by[key]}" for key in ("patients", "seed", "setting") if key in made_by)
    kind = "imaginary patients with known causes, in the schema of MedTVT-QA. No data of any person is in it"
    real = "questions and answers on data under credentialed access. This card may be public, the data may not"
    if access == "open":
        real = "questions and answers on open data, which keep their own licenses"
    data = DatasetCardData(
        license="apache-2.0" if synthetic else "other",
        task_categories=["question-answering", "image-text-to-text"],
        tags=[*TAGS, "synthetic"] if synthetic else TAGS,
        size_categories=_size_category(sum(row[2] for row in splits)),
        pretty_name=(repo or folder.resolve().name).split("/")[-1],
    )
    fields: dict[str, Any] = {
        "name": repo or folder.resolve().name,
        "description": f"A 12-lead ECG, a chest X-ray and a blood panel of each patient: {kind if synthetic else real}.",
        "splits": splits,
        "columns": [(f"`{name}`", _describe_type(feature), COLUMN_NOTES[name]) for name, feature in FEATURES.items()],
        "command": f"medtvt synthesize --out {folder.resolve().name} {arguments}"
        if synthetic
        else "# needs the source data",
        "build": (folder / "build.md").read_text(encoding="utf-8") if (folder / "build.md").is_file() else "",
        "license": _describe_license(access),
    }
    return _fill(DatasetCard, "dataset.md", data, fields)


def _fill(card_class: Any, template: str, data: Any, fields: Mapping) -> Any:
    """The card, read back by huggingface_hub: what it does not understand is refused here."""
    card = card_class.from_template(data, template_path=str(TEMPLATES / template), **fields)
    return card_class(str(card))


def is_repo(name: str) -> bool:
    """Whether a name is that of a Hub repository and no place on a disk."""
    return (
        name.count("/") == 1 and not name.startswith((".", "/", "~")) and "\\" not in name and not Path(name).exists()
    )


def _size_category(rows: int) -> str:
    limits = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
    return next((name for limit, name in limits if rows < limit), "1M<n<10M")


def _describe_type(feature: Any) -> str:
    if isinstance(feature, Mapping):
        return f"struct of {len(feature)} {next(iter(feature.values())).dtype}"
    inner = getattr(feature, "feature", None)
    if inner is None:
        return feature.dtype
    return "list of messages" if isinstance(inner, Mapping) else f"list of {inner.dtype}"


def _describe_parts(folder: Path) -> list[tuple[str, str]]:
    config = MedTVTConfig.from_pretrained(folder)
    text = config.text_config
    return [
        ("language model", f"{text.model_type}, {text.num_hidden_layers} layers of {text.hidden_size}"),
        ("ECG encoder", f"xresnet1d, {config.ecg_config.hidden_size} wide"),
        ("X-ray encoder", f"{config.cxr_config.model_type}, {config.cxr_hidden_size} wide"),
        ("lab encoder", f"MLP, {config.lab_config.hidden_size} wide"),
        ("perception layer", "on" if config.use_perception else "off"),
        ("tokens a modality", str(config.num_modality_tokens)),
        ("stage", Provenance.from_pretrained(folder).stage or "none: untrained"),
    ]


def _describe_training_data(provenance: Provenance, access: str) -> str:
    if access == "none":
        return "None: the weights are random. No data of any patient went into them."
    if access == "unknown":
        return "Not recorded. Take it as data under credentialed access until it is known."
    lines = ["| stage | data | access |", "|---|---|---|"]
    lines += [
        f"| {entry.get('stage')} | {entry.get('name')} | {ACCESS_NOTES[entry['access']]} |"
        for entry in provenance.training_data
    ]
    return "\n".join(lines)


def _describe_license(access: str) -> str:
    code = "The code is Apache-2.0."
    if access in ("none", "synthetic"):
        return f"Apache-2.0, code and {'weights' if access == 'none' else 'what comes of drawn data'} alike."
    if access == "open":
        return f"{code} The data have licenses of their own, and what was made from them follows these."
    return (
        f"{code} What was made from credentialed data (such as MIMIC's, of PhysioNet) may be shared only under the terms of "
        "their data use agreement."
    )


# Evaluation


def _read_metrics(path: str | os.PathLike, folder: Path, config: Mapping) -> dict:
    from ..evaluation.report import read_metrics
    from ..files import hash_folder

    results = read_metrics(path)
    header = Path(path).with_name("run.json")
    if header.is_file() and read_json(header).get("model") not in (None, hash_folder(folder)):
        raise ValueError(f"{path} holds metrics of another model than {folder}: their fingerprints differ.")
    if header.is_file():
        results["run"] = {key: read_json(header).get(key) for key in ("level", "split", "settings")}
    return results


def _eval_results(results: Mapping, provenance: Provenance) -> list[EvalResult]:
    entries = provenance.training_data or [{"name": "MedTVT-QA"}]
    from ..evaluation.report import HEADLINES

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


def _describe_evaluation(results: Mapping | None, metrics: Any, peers: Mapping[str, str]) -> str:
    if results is None:
        return "None was given to this card."
    from ..evaluation.report import format_value, headline_rows, undefined_note
    from ..files import markdown_table

    about, intervals = results["about"], results["intervals"]
    where = results.get("run", {})
    split = f", {where['level']} level, split {where['split']}" if where.get("split") else ""
    parts = [
        f"{about['records']} records of {about['patients']} patients{split}. In brackets: 95 % intervals over "
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
    if peers:
        parts.append(_describe_peers(results, metrics, peers))
    parts += undefined_note(results["undefined"])
    return "\n\n".join(parts)


def _describe_variants(folder: Path) -> list[str]:
    """What changes where a modality is withheld, or another patient's: from the comparisons beside a metrics.json."""
    from ..evaluation.report import format_value
    from ..files import markdown_table

    rows = []
    for file in sorted(folder.glob("*/comparison.json")):
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


def _describe_peers(results: Mapping, metrics: str | os.PathLike, peers: Mapping[str, str]) -> str:
    from ..evaluation.report import format_value, read_metrics
    from ..files import markdown_table

    records = _list_records(metrics)
    for name, path in peers.items():
        if records is None or _list_records(path) != records:
            raise ValueError(
                f"{name}: the run.json beside {path} does not list the same records as that of --metrics."
            )

    names = {"f1_samples": "F1", "f1_macro": "F1, mean over the diseases", "jaccard_samples": "Jaccard"}
    rows = []
    for name, found in {"this model": results, **{name: read_metrics(path) for name, path in peers.items()}}.items():
        limits = found["intervals"].get("strict") or {}
        rows.append([name, *(format_value(found["strict"].get(key), limits.get(key)) for key in names)])
    return markdown_table(["on the same records", *names.values()], rows)
