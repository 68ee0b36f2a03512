# SPDX-License-Identifier: Apache-2.0
"""The card of a model, an adapter or a dataset, filled from its own files; no number is typed by hand."""

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard, DatasetCardData, ModelCard, ModelCardData

from modeling_medtvt import DISEASES, MedTVTConfig, Provenance

from ..data.provenance import OPEN_DATA_FILE, read_access, training_data_entry
from ..files import hash_folder, read_json
from .evaluation_sections import (
    describe_benchmark,
    describe_confidence,
    describe_errors,
    describe_evaluation,
    describe_fairness,
    eval_results,
    read_run,
)
from .model_facts import ERROR_HANDLING, LIMITS, OUT_OF_SCOPE, PURPOSE, WORKFLOW


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
    "absent_findings": "what they are known not to show; null where that is all else",
}
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
    results = None if metrics is None else read_run(metrics, folder)
    data = ModelCardData(
        library_name="peft" if is_adapter else "transformers",
        pipeline_tag="image-text-to-text",
        license="apache-2.0" if access in ("none", "synthetic") else "other",
        license_name=None if access in ("none", "synthetic") else f"{access}-data",
        tags=TAGS,
        datasets=list(dict.fromkeys(entry["name"] for entry in provenance.training_data)) or None,
        model_name=repo.split("/")[-1] if results else None,
        eval_results=eval_results(results, provenance) if results else None,
    )
    fields: dict[str, Any] = {
        "name": repo.split("/")[-1],
        "repo": repo,
        "stage": provenance.stage or "none",
        "training_data": describe_training_data(provenance, access),
        "evaluation": describe_evaluation(results, metrics),
        "benchmark": describe_benchmark(results, metrics, peers or {}),
        "confidence": describe_confidence(results),
        "errors": describe_errors(results),
        "fairness": describe_fairness(results),
        "fingerprint": hash_folder(folder)[:16],
        "purpose": f"{PURPOSE} Out of scope: {OUT_OF_SCOPE}",
        "error_handling": ERROR_HANDLING,
        "workflow": WORKFLOW,
        "limits": LIMITS,
        "license": describe_license(access),
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
    fields |= {"diseases": ", ".join(DISEASES), "parts": describe_parts(folder)}
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
    inputs = "A 12-lead ECG, a chest X-ray and a blood panel of each patient"
    if (folder / OPEN_DATA_FILE).is_file():
        inputs = "Real 12-lead ECGs or chest X-rays, one a question"
    data = DatasetCardData(
        license="apache-2.0" if synthetic else "other",
        task_categories=["question-answering", "image-text-to-text"],
        tags=[*TAGS, "synthetic"] if synthetic else TAGS,
        size_categories=_size_category(sum(row[2] for row in splits)),
        pretty_name=(repo or folder.resolve().name).split("/")[-1],
    )
    fields: dict[str, Any] = {
        "name": repo or folder.resolve().name,
        "description": f"{inputs}: {kind if synthetic else real}.",
        "splits": splits,
        "columns": [(f"`{name}`", _describe_type(feature), COLUMN_NOTES[name]) for name, feature in FEATURES.items()],
        "command": f"medtvt synthesize --out {folder.resolve().name} {arguments}"
        if synthetic
        else "# needs the source data",
        "build": (folder / "build.md").read_text(encoding="utf-8") if (folder / "build.md").is_file() else "",
        "license": describe_license(access),
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


def describe_parts(folder: Path) -> list[tuple[str, str]]:
    """Each part of the model and what it is."""
    config = MedTVTConfig.from_pretrained(folder)
    text = config.text_config
    return [
        ("language model", f"{text.model_type}, {text.num_hidden_layers} layers of {text.hidden_size}"),
        ("ECG encoder", f"xresnet1d, {config.ecg_config.hidden_size} wide"),
        ("X-ray encoder", f"{config.cxr_config.model_type}, {config.cxr_hidden_size} wide"),
        ("lab encoder", f"MLP, {config.lab_config.hidden_size} wide"),
        ("perception layer", _describe_perception(config)),
        ("tokens a modality", str(config.num_modality_tokens)),
        ("stage", Provenance.from_pretrained(folder).stage or "none: untrained"),
    ]


def _describe_perception(config: MedTVTConfig) -> str:
    parts = {"cyclic attention": config.use_cyclic_attention, "gate": config.use_contribution_gate}
    return ", ".join(name for name, used in parts.items() if used and config.use_perception) or "none"


def describe_training_data(provenance: Provenance, access: str) -> str:
    """A table of stages and their data, or that there is none."""
    if access == "none":
        return "None: the weights are random. No data of any patient went into them."
    if access == "unknown":
        return "Not recorded. Take it as data under credentialed access until it is known."
    lines = ["| stage | data | access |", "|---|---|---|"]
    runs = Counter((e.get("stage"), e.get("name"), ACCESS_NOTES[e["access"]]) for e in provenance.training_data)
    for (stage, name, note), number in runs.items():
        lines.append(f"| {stage}{f', {number} runs' if number > 1 else ''} | {name} | {note} |")
    patients = provenance.describe_patients()
    if patients is not None:
        lines += ["", f"Learned from {patients}."]
    keys = ("sources", "license", "attribution")
    for terms in dict.fromkeys(
        tuple(entry[key] for key in keys) for entry in provenance.training_data if set(keys) <= set(entry)
    ):
        lines += ["", f"Real data: {terms[0]}. License: {terms[1]}. Attribution: {terms[2]}"]
    return "\n".join(lines)


def describe_license(access: str) -> str:
    """Under what terms the weights may be had."""
    code = "The code is Apache-2.0."
    if access in ("none", "synthetic"):
        return f"Apache-2.0, code and {'weights' if access == 'none' else 'what comes of drawn data'} alike."
    if access == "open":
        return f"{code} The data have licenses of their own, and what was made from them follows these."
    return (
        f"{code} What was made from credentialed data (such as MIMIC's, of PhysioNet) may be shared only under the terms of "
        "their data use agreement."
    )
