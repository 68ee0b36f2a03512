# SPDX-License-Identifier: Apache-2.0
"""
The topics of TRIPOD-LLM (Gallifant et al., Nature Medicine 2025, doi 10.1038/s41591-024-03425-5), in our words and without
its numbers, each with what the files of a model and an evaluation say; "not done" where they say nothing.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from modeling_medtvt import DISEASES, Provenance

from ..data.provenance import read_access
from ..evaluation.values import format_value
from ..files import markdown_table
from .cards import describe_license, describe_parts, describe_training_data
from .evaluation_sections import describe_cohort, read_run
from .model_facts import LIMITS, OUT_OF_SCOPE, PURPOSE


NOT_DONE = "not done"


def tripod_checklist(model_dir: str | os.PathLike, metrics: str | os.PathLike | None = None) -> str:
    """
    The checklist in Markdown.

    Args:
        model_dir (`str` or `os.PathLike`): Model folder.
        metrics (`str` or `os.PathLike`, *optional*): A metrics.json of this model.

    Raises:
        ValueError: if the metrics are those of another model.
    """
    folder = Path(model_dir)
    results = read_run(metrics, folder) if metrics is not None else {}
    rows = [[part, topic, text or NOT_DONE] for part, topic, text in _topics(folder, results)]
    missing = sum(text == NOT_DONE for *_, text in rows)
    return (
        "# Topics of TRIPOD-LLM\n\nIn our words; the statement has the exact items. "
        f"{len(rows)} topics, of which {missing} are not done.\n\n{markdown_table(['part', 'topic', 'what there is'], rows)}"
    )


def _topics(folder: Path, results: Mapping) -> list[tuple[str, str, str | None]]:
    access, provenance = read_access(folder), Provenance.from_pretrained(folder)
    parts = dict(describe_parts(folder))
    stages = "; ".join(
        dict.fromkeys(f"{entry.get('stage')} on {entry.get('name')}" for entry in provenance.training_data or [])
    )
    run, about = results.get("run", {}), results.get("about", {})
    subgroups = [column for column, found in results.get("subgroups", {}).items() if found["groups"]]
    settings = ", ".join(f"{key} {value}" for key, value in (run.get("settings") or {}).items())
    return [
        ("Introduction", "background, and intended use", PURPOSE),
        ("Introduction", "objective", f"Name which of seven diseases a patient has: {', '.join(DISEASES)}."),
        (
            "Methods",
            "training data, sources and dates",
            f"{stages}; dates not recorded" if stages else describe_training_data(provenance, access),
        ),
        ("Methods", "evaluation data", describe_cohort(results) if results else None),
        ("Methods", "overlap of training and evaluation data", None),
        ("Methods", "missing data", _missing(results)),
        ("Methods", "model: name, size, parts", "; ".join(f"{name}: {what}" for name, what in parts.items())),
        ("Methods", "how the model was trained", stages or None),
        ("Methods", "settings of generation", settings or None),
        ("Methods", "prompts", "One chat template, saved in the folder; a question names what is given."),
        ("Methods", "how output becomes a result", "The diseases in the answer block; no block, no disease."),
        ("Methods", "metrics and their uncertainty", _uncertainty(about)),
        ("Methods", "annotation: who labeled, agreement", _labels(access)),
        (
            "Methods",
            "summarization, instruction tuning",
            "Supervised tuning on questions and answers." if stages else None,
        ),
        ("Methods", "computing resources", _cost(about)),
        ("Methods", "ethical approval", "No data of any person." if access in ("none", "synthetic") else None),
        ("Open science", "availability of code and weights, license", describe_license(access)),
        ("Open science", "funding, conflicts of interest, protocol, registration", None),
        ("Patients", "involvement of patients and the public", None),
        ("Results", "participants", describe_cohort(results) if results else None),
        ("Results", "performance", _performance(results)),
        ("Results", "performance in subgroups", f"by {', '.join(subgroups)}" if subgroups else None),
        ("Results", "calibration", _value(results, "ece_macro", "expected calibration error")),
        ("Results", "errors of the generated text", _evidence(results)),
        ("Results", "comparison with clinicians", None),
        ("Results", "external validation", None),
        ("Discussion", "limits", " ".join(LIMITS)),
        ("Discussion", "use in care", f"None. Out of scope: {OUT_OF_SCOPE}"),
    ]


def _missing(results: Mapping) -> str:
    said = "Any subset of the inputs; labs that were not measured are told to the model as such."
    titles = {"subsets": "each subset of the modalities", "labs_withheld": "single labs withheld"}
    tested = [title for key, title in titles.items() if results.get(key)]
    return f"{said} Tested: {', '.join(tested)}." if tested else f"{said} How answers change without them: {NOT_DONE}."


def _uncertainty(about: Mapping) -> str | None:
    if not about:
        return None
    return f"95 % intervals over {about['bootstrap']['resamples']} resamples of patients, one training."


def _labels(access: str) -> str | None:
    return "Known causes of imaginary patients." if access == "synthetic" else None


def _cost(about: Mapping) -> str | None:
    cost = about.get("run", {})
    return ", ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in cost.items()) or None


def _value(results: Mapping, name: str, title: str) -> str | None:
    value = results.get("strict", {}).get(name)
    if value is None:
        return None
    return f"{title} {format_value(value, results['intervals'].get('strict', {}).get(name))}"


def _performance(results: Mapping) -> str | None:
    found = [_value(results, name, title) for name, title in (("f1_samples", "F1"), ("auroc_macro", "AUROC"))]
    return "; ".join(text for text in found if text) or None


def _evidence(results: Mapping) -> str | None:
    value = results.get("evidence", {}).get("contradicted")
    if value is None:
        return None
    limits = results["intervals"].get("evidence", {}).get("contradicted")
    return f"share of statements that measurements contradict {format_value(value, limits)}"
