# SPDX-License-Identifier: Apache-2.0
"""
The applied model card of the Coalition for Health AI, schema v0.2 (github.com/coalition-for-health-ai/mc-schema), filled
from a model folder and a metrics.json. What nobody has stated or measured is said to be so.
"""

import json
import os
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from modeling_medtvt import DISEASES, Provenance

from ..data.provenance import read_access
from ..evaluation.report import HEADLINES
from ..files import hash_folder
from .cards import ACCESS_NOTES, describe_license, describe_parts, describe_training_data
from .evaluation_sections import NOT_DONE, describe_cohort, read_run
from .model_facts import ERROR_HANDLING, LIMITS, OUT_OF_SCOPE, PURPOSE, WORKFLOW


NAMESPACE = "https://mc.chai.org/v0.2/schema.xsd"
NOT_STATED = "Not stated."
# What only the people behind a model know, and may state themselves
STATED = (
    *("ModelDeveloper", "DeveloperContact", "ReleaseDate", "ReleaseVersion", "GlobalAvailability"),
    *("FundingSource", "StakeholdersConsulted", "PeerReviewedPublications", "OngoingMaintenance"),
)
_Result = tuple[str, Any]


def chai_card(
    model_dir: str | os.PathLike,
    metrics: str | os.PathLike | None = None,
    name: str | None = None,
    stated: Mapping[str, str] | None = None,
) -> str:
    """
    The card as XML.

    Args:
        model_dir (`str` or `os.PathLike`): Model folder.
        metrics (`str` or `os.PathLike`, *optional*): A metrics.json of this model.
        name (`str`, *optional*): The model's; the folder's by default.
        stated (`dict`, *optional*): Texts of the fields `STATED`.

    Raises:
        ValueError: if the metrics are those of another model, or a field is none of `STATED`.
    """
    stated = stated or {}
    if unknown := sorted(stated.keys() - set(STATED)):
        raise ValueError(
            f"A card cannot be given {', '.join(unknown)}; fields that can be stated: {', '.join(STATED)}."
        )
    if wrong := sorted(key for key, text in stated.items() if not isinstance(text, str)):
        raise ValueError(f"Stated fields are texts; {', '.join(wrong)} are none.")
    folder = Path(model_dir)
    results = None if metrics is None else read_run(metrics, folder)
    ET.register_namespace("", NAMESPACE)
    root = ET.Element(_tag("AppliedModelCard"))
    _add(root, _fields(folder, results, name or folder.resolve().name, stated))
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _tag(name: str) -> str:
    return f"{{{NAMESPACE}}}{name}"


def _add(parent: ET.Element, fields: Mapping[str, Any]) -> None:
    """Texts, nested dicts, and lists of elements of one name, in the schema's order."""
    for name, value in fields.items():
        for entry in value if isinstance(value, list) else [value]:
            child = ET.SubElement(parent, _tag(name))
            if isinstance(entry, Mapping):
                _add(child, entry)
            else:
                child.text = entry


def _fields(folder: Path, results: Mapping | None, name: str, stated: Mapping[str, str]) -> dict[str, Any]:
    access, provenance = read_access(folder), Provenance.from_pretrained(folder)
    say = {field: stated.get(field, NOT_STATED) for field in STATED}
    data = describe_training(provenance, access)
    untrained = provenance.stage is None
    return {
        "BasicInfo": {
            "ModelName": name,
            "ModelDeveloper": say["ModelDeveloper"],
            "DeveloperContact": say["DeveloperContact"],
        },
        "ReleaseInfo": {
            "ReleaseStage": "Research only" + (", random weights" if untrained else f", after {provenance.stage}"),
            "ReleaseDate": say["ReleaseDate"],
            "ReleaseVersion": stated.get("ReleaseVersion", f"weights {hash_folder(folder)[:16]}"),
            "GlobalAvailability": say["GlobalAvailability"],
            "RegulatoryApproval": "None. Not a medical device.",
        },
        "ModelSummary": {
            "Summary": (
                "Takes a 12-lead ECG, a chest X-ray and a blood panel, any subset of them, and writes its evidence and which "
                f"of seven diseases it names: {', '.join(DISEASES)}."
                + (" The weights are random and untrained; the answers mean nothing." if untrained else "")
            ),
            "Keywords": {
                "Keyword": ["ECG", "chest X-ray", "laboratory", "multimodal language model", "research only"]
            },
        },
        "UsesAndDirections": {
            "IntendedUseAndWorkflow": f"{PURPOSE} {WORKFLOW}",
            "PrimaryIntendedUsers": "Researchers. Not clinicians in the care of a patient, and not patients.",
            "HowToUse": f'pipeline("medical-diagnosis", model="{name}", trust_remote_code=True), or `medtvt diagnose`.',
            "TargetedPatientPopulation": f"None. Trained on: {data}",
            "CautionedOutOfScopeSettings": OUT_OF_SCOPE,
        },
        "Warnings": {
            "KnownRisksAndLimitations": " ".join(LIMITS),
            "KnownBiasesOrEthicalConsiderations": _biases(results),
            "ClinicalRiskLevel": "Not assessed: for research only, and no patient is to be cared for by it.",
        },
        "TrustIngredients": {
            "AISystemFacts": {
                "OutcomesAndOutputs": "A text with evidence, the diseases it names, and a probability where calibrated.",
                "ModelType": "; ".join(f"{part}: {what}" for part, what in describe_parts(folder)),
                "FoundationModels": f"Language model: {describe_parts(folder)[0][1]}",
                "InputDataSource": "Files that the user names; nothing is fetched.",
                "OutputAndInputDataTypes": "In: 12-lead ECG signal, frontal chest film, values of up to 50 labs. Out: text.",
                "DevelopmentDataCharacterization": data,
                "BiasMitigationApproaches": "None. Age and sex are never an input of the model.",
                "OngoingMaintenance": say["OngoingMaintenance"],
                "Security": "Weights are safetensors; the program sends nothing anywhere.",
                "Transparency": f"Code and recipes are public. {describe_license(access)} {ERROR_HANDLING}",
            },
            "TransparencyInformation": {
                "FundingSource": say["FundingSource"],
                "StakeholdersConsulted": say["StakeholdersConsulted"],
            },
        },
        "KeyMetrics": _key_metrics(results, data),
        "Resources": {
            "PeerReviewedPublications": say["PeerReviewedPublications"],
            "PatientConsentOrDisclosure": (
                "No data of any person went into the weights."
                if access in ("none", "synthetic")
                else "Not recorded here; see the terms of the training data."
            ),
        },
        "Bibliography": "MedTVT-R1, arXiv 2506.18512.",
    }


def describe_training(provenance: Provenance, access: str) -> str:
    """The training data in a sentence."""
    entries = [
        f"{e.get('stage')}: {e.get('name')} ({ACCESS_NOTES[e['access']]})" for e in provenance.training_data or []
    ]
    return "; ".join(dict.fromkeys(entries)) or describe_training_data(provenance, access)


def _biases(results: Mapping | None) -> str:
    audited = [column for column, found in (results or {}).get("subgroups", {}).items() if found["groups"]]
    said = f"Audited by {', '.join(audited)} (FairnessEquity below)." if audited else "No subgroup was audited."
    return f"{said} Reasoning that reads well may be believed though it is wrong."


def _key_metrics(results: Mapping | None, data: str) -> dict[str, Any]:
    tested = NOT_DONE if results is None else f"{describe_cohort(results)}. Training data: {data}"
    process = (
        NOT_DONE
        if results is None
        else (
            "Internal: `medtvt evaluate` on one split. Intervals are 95 % over "
            f"{results['about']['bootstrap']['resamples']} resamples of patients. No external validation is part of it."
        )
    )
    groups = {
        "UsefulnessUsabilityEfficacy": (
            "Name the diseases that a patient has, and rank patients by them.",
            list(_useful(results or {})),
            "An answer that does not parse counts as an empty one. Compare with the simpler models and the published "
            "single-modality numbers of the model card before any use.",
        ),
        "FairnessEquity": (
            "The same quality for every group of patients that is recorded.",
            list(_fair(results or {})),
            "A gap whose interval excludes 0 is a difference between these groups here; its cause may lie in who was "
            "measured how. Groups that are too small are left out.",
        ),
        "SafetyReliability": (
            "State what is measured, be sure only where right, and change little when inputs are missing.",
            list(_safe(results or {})),
            "Contradicted statements are wrong by measurement. Errors of the surest answers are what remains where the "
            "others are withheld.",
        ),
    }
    return {
        name: {
            "MetricGoal": goal,
            "Results": {
                "MetricResult": [
                    {"Label": label, "ValueJson": json.dumps(value)} for label, value in found or [("Not done", None)]
                ]
            },
            "Interpretation": interpretation if found else NOT_DONE,
            "TestType": "Retrospective, on stored records" if found else NOT_DONE,
            "TestingDataDescription": tested if found else NOT_DONE,
            "ValidationProcessAndJustification": process if found else NOT_DONE,
        }
        for name, (goal, found, interpretation) in groups.items()
    }


def _value(results: Mapping, *path: str) -> dict[str, Any] | None:
    """A value of metrics.json with its interval; None where undefined or absent."""
    value: Any = results
    limits: Any = results.get("intervals", {})
    for key in path:
        value, limits = (value or {}).get(key), (limits or {}).get(key)
    return None if value is None else {"value": value, "interval": limits}


def _useful(results: Mapping) -> Iterator[_Result]:
    for mode, name, title in HEADLINES:
        if mode != "evidence" and (found := _value(results, mode, name)):
            yield title, found
    for disease in DISEASES:
        for name in ("f1", "auroc"):
            if found := _value(results, "strict", "per_disease", disease, name):
                yield f"{disease}, {name.upper()}", found


def _fair(results: Mapping) -> Iterator[_Result]:
    for column, found in results.get("subgroups", {}).items():
        for group, entry in found["groups"].items():
            values = {key: value for key, value in entry.items() if not isinstance(value, Mapping)}
            values |= {key: _plain(value) for key, value in entry.items() if isinstance(value, Mapping)}
            yield f"{column}: {group}", values
        for name, gap in found["gaps"].items():
            yield f"{column}: largest gap in {name}", gap
    if matched := results.get("matched_prior"):
        yield "AUROC among patients of equal prior, mean", _plain(matched["macro"]["within"])


def _safe(results: Mapping) -> Iterator[_Result]:
    for mode, name, title in (*(entry for entry in HEADLINES if entry[0] == "evidence"), *_RELIABILITY):
        if found := _value(results, mode, name):
            yield title, found
    for disease, entry in results.get("selective", {}).get("per_disease", {}).items():
        yield (
            f"{disease}: errors, and errors of the surest {results['selective']['kept']:.0%}",
            [_plain(entry["error"]), _plain(entry["error_kept"])],
        )
    for pair in results.get("agreement", []):
        yield f"Jaccard of answers given {pair['first']} and given {pair['second']}", _plain(pair["jaccard"])
    for point in results.get("subsets", []):
        yield f"F1 given {point['given']} alone", point["f1_samples"]
    for point in results.get("labs_withheld", []):
        yield f"F1 with {point['withheld']:.0%} of the labs withheld", point["f1_samples"]


_RELIABILITY: Sequence[tuple[str, str, str]] = (
    ("strict", "parse_rate", "Answers that parse"),
    ("strict", "brier_macro", "Brier score, mean over the diseases"),
    ("strict", "ece_macro", "Expected calibration error, mean over the diseases"),
)


def _plain(entry: Mapping) -> dict[str, Any]:
    return {"value": entry["value"], "interval": entry["interval"]}
