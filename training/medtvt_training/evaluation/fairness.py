# SPDX-License-Identifier: Apache-2.0
"""How hard a synthetic cohort is: scores of simple classifiers on what is drawn and measured, and checks for leaks."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

from modeling_medtvt import DISEASES

from ..data.conversation import message_text
from ..data.labels import as_label_array, sample_f1
from ..data.load import load_medtvt_qa
from ..data.measures import measure_row
from ..data.schema import LAB_NAMES, SPLITS
from ..synthetic.patient import draw_patient
from .bootstrap import RESAMPLES, Metric, mean_metric, measure_all, nest, ratio_metric
from .gradient_boosting import DiseaseClassifiers
from .metrics import auroc_of
from .values import format_value


# Linear probes on drawn signs, AUROC of ECG, CXR, LAB and all (the project's table of physiology, section 3)
PUBLISHED_AUROC = {
    "Coronary Artery Disease": (0.75, 0.74, 0.61, 0.81),
    "Acute Renal Failure": (0.63, 0.61, 0.80, 0.82),
    "Hypertension": (0.68, 0.68, 0.63, 0.74),
    "Atrial Fibrillation": (0.82, 0.75, 0.66, 0.89),
    "Pneumonia": (0.60, 0.80, 0.71, 0.84),
    "Diabetes Mellitus": (0.66, 0.62, 0.76, 0.80),
    "Sepsis": (0.70, 0.67, 0.85, 0.88),
}
CEILING = "all signs"
LOGARITHMIC = (
    *("Creatinine", "Urea Nitrogen", "Glucose", "White Blood Cells", "Lactate", "Platelet Count", "INR(PT)"),
    *("Creatine Kinase (CK)", "Bilirubin, Total", "Phosphate"),
)
NO_SIGNS = {  # fields that are no sign of the patient but faults of acquisition, or his sex
    *("male", "wander_mv", "mains_mv", "emg_mv", "f_wave_mv", "limb_swap", "misplaced", "dead_lead", "gap"),
    *("rotation", "gamma", "variety"),
}
# Fewer, and the test split has so few that an interval spans everything
MIN_PATIENTS = 200
# What is measured on the files of patients without a sign that moves it, and the range of normal adults
NORMAL_RANGES = {
    "heart_rate": (60, 100, "ecg: sinus rhythm"),
    "qrs_ms": (70, 110, "ecg: sinus rhythm"),
    "qtc_ms": (350, 460, "ecg: sinus rhythm"),
    "axis": (-30, 90, "ecg: sinus rhythm"),
}


def check_size(patients: int) -> None:
    """
    Raises:
        ValueError: if a cohort of so many patients is too small for a report.
    """
    if patients < MIN_PATIENTS:
        raise ValueError(
            f"{patients} patients are too few for a report, whose test split is a tenth of them; {MIN_PATIENTS} or more "
            "are needed."
        )


def measure_fairness(folder: str | os.PathLike, num_workers: int | None = None, progress: bool = True) -> dict:
    """
    Args:
        folder: a cohort folder.

    Returns:
        `dict`: `sample_f1` of test patients for the prior, the question alone, raw labs with simple statistics of ECG
        and film, the drawn signs of each modality, and of all (the ceiling), each with `value`, `interval`,
        `share_of_ceiling` and `share_interval`; `auroc` of linear probes on the drawn signs of labeled patients,
        five-fold, each with `value` and `interval`; `shared_signals` between splits; `measured`, what simple programs
        measure on ECGs without a sign. Intervals are 95 % over resampled patients; the classifiers are trained once.

    Raises:
        ValueError: if a split is too small to learn from.
    """
    folder = Path(folder)
    made_by = json.loads((folder / "cohort.json").read_text())
    check_size(made_by["patients"])
    rows = {
        split: [row for row in load_medtvt_qa(folder, "diagnosis", split) if row["id"].endswith("-diagnosis")]
        for split in SPLITS
    }
    everyone = [row for split in SPLITS for row in rows[split]]
    patients = [
        draw_patient(made_by["seed"], int(row["subject_id"].split("-")[1]), made_by["setting"]) for row in everyone
    ]
    truth = as_label_array([row["diseases"] for row in everyone])
    sizes = np.cumsum([len(rows[split]) for split in SPLITS])
    parts = [slice(0, sizes[0]), slice(sizes[0], sizes[1]), slice(sizes[1], sizes[2])]

    signs = sign_tables(patients)
    measured = _measure(everyone, num_workers, progress)
    questions = CountVectorizer().fit_transform(message_text(row["prompt"]) for row in everyone).toarray()
    inputs = {
        "prior: how frequent each disease is": np.zeros((len(truth), 1)),
        "question alone": questions,
        "raw labs, simple ECG and film statistics": measured.to_numpy(float),
        **{f"{modality} signs": table for modality, table in signs.items()},
    }
    prior = np.array(Counter(map(tuple, truth[parts[0]])).most_common(1)[0][0])
    always = np.tile([disease == "Hypertension" for disease in DISEASES], (sizes[2] - sizes[1], 1))
    scores = {
        "prior: the most frequent set": sample_f1(truth[parts[2]], np.tile(prior, (sizes[2] - sizes[1], 1))),
        "prior: always Hypertension": sample_f1(truth[parts[2]], always),
        **{name: _fit_and_score(table, truth, parts) for name, table in inputs.items()},
    }
    labeled = np.any(truth, axis=1)
    return {
        **made_by,
        "share_without_label": float(1 - labeled.mean()),
        "prevalence": dict(zip(DISEASES, truth.mean(0).round(4).tolist())),
        "labels_a_patient": float(truth[labeled].sum(1).mean()),
        "sample_f1": _against_ceiling(scores),
        "auroc": probe_auroc(signs, truth, labeled),
        "shared_signals": _shared_signals(rows),
        "measured": _measured_intervals(measured, everyone),
        "megabytes_a_patient": sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / len(everyone) / 1e6,
    }


def sign_tables(patients: Sequence[Any]) -> dict[str, np.ndarray]:
    """One table of numbers a modality: the drawn signs and the measured labs, and `all`."""
    ecg = pd.DataFrame([{k: v for k, v in asdict(p.ecg).items() if k not in NO_SIGNS} for p in patients])
    ecg["fast"], ecg["slow"], ecg["left"] = ecg.rate > 100, ecg.rate < 60, ecg.axis < -30
    seen = [{k: v for k, v in asdict(p.film).items() if k not in NO_SIGNS} for p in patients]
    film = pd.DataFrame([{**row, "opacity_zones": "|".join(row["opacity_zones"])} for row in seen])
    lab = pd.DataFrame([p.lab for p in patients]).astype(float)
    present = lab.notna()
    lab[list(LOGARITHMIC)] = np.log(lab[list(LOGARITHMIC)].clip(lower=0.05))
    lab = pd.concat([lab.fillna(lab.mean()).fillna(0), present], axis=1)
    tables: dict[str, np.ndarray] = {
        name: pd.get_dummies(table).to_numpy(float) for name, table in (("ecg", ecg), ("cxr", film), ("lab", lab))
    }
    return {**tables, "all": np.concatenate(list(tables.values()), axis=1)}


def _measure(rows: list[dict], num_workers: int | None, progress: bool) -> pd.DataFrame:
    with ProcessPoolExecutor(num_workers or os.cpu_count()) as pool:
        found = pool.map(measure_row, rows, chunksize=32)
        return pd.DataFrame(list(tqdm(found, total=len(rows), unit="patient", desc="measuring", disable=not progress)))


def _against_ceiling(scores: Mapping[str, np.ndarray]) -> dict[str, dict]:
    """(test patients,) scores by name, as means and as shares of the ceiling's, with intervals."""
    metrics = {}
    for name, values in scores.items():
        metrics[f"value/{name}"] = mean_metric(values)
        metrics[f"share/{name}"] = ratio_metric(values, scores[CEILING])
    found = measure_all(metrics, _one_each(len(scores[CEILING])), RESAMPLES, seed=0)
    return {
        name: {
            **found[f"value/{name}"],
            **dict(zip(("share_of_ceiling", "share_interval"), found[f"share/{name}"].values())),
        }
        for name in scores
    }


def _one_each(patients: int) -> list[str]:
    return [str(i) for i in range(patients)]


def _fit_and_score(inputs: np.ndarray, truth: np.ndarray, parts: list[slice]) -> np.ndarray:
    """Gradient boosting; one threshold for all diseases, the best on validation patients. (test patients,) F1."""
    train, validation, test = parts
    classifiers = DiseaseClassifiers(inputs[train], truth[train], max_iter=120, learning_rate=0.06, max_leaf_nodes=15)
    scores = classifiers.probabilities(inputs)
    thresholds = np.arange(0.2, 0.65, 0.025)
    best = max(thresholds, key=lambda value: sample_f1(truth[validation], scores[validation] > value).mean())
    return sample_f1(truth[test], scores[test] > best)


def probe_auroc(signs: Mapping[str, np.ndarray], truth: np.ndarray, labeled: np.ndarray) -> dict[str, dict[str, dict]]:
    """
    AUROC of linear probes with its interval, by disease and table, five-fold over the labeled patients.

    Args:
        signs (`dict[str, np.ndarray]`): From [`sign_tables`].
        truth (`np.ndarray`): (patients, 7) of bool.
        labeled (`np.ndarray`): (patients,) of bool: who has any of the seven diseases.
    """
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500))
    metrics = {}
    for k, disease in enumerate(DISEASES):
        column = truth[labeled, k]
        for modality, table in signs.items():
            scores = cross_val_predict(probe, table[labeled], column, cv=5, method="predict_proba")[:, 1]
            metrics[f"{disease}/{modality}"] = Metric(auroc_of(column, scores))
    return nest(measure_all(metrics, _one_each(int(labeled.sum())), RESAMPLES, seed=0))


def _shared_signals(rows: dict[str, list[dict]]) -> int:
    """ECGs, films and panels of one split that are in another too."""
    seen: dict[str, Any] = {}
    for split, patients in rows.items():
        seen[split] = set()
        for row in patients:
            for path in (Path(row["ecg"]).with_suffix(".dat"), Path(row["cxr"])):
                seen[split].add(hashlib.sha256(path.read_bytes()).hexdigest())
            seen[split].add(tuple(row["lab"][name] for name in LAB_NAMES))
    one, two, three = seen.values()
    return len(one & two) + len(one & three) + len(two & three)


def _measured_intervals(measured: pd.DataFrame, rows: list[dict]) -> dict[str, dict]:
    """Median and central 95 % of what is measured where no ECG sign but a sinus rhythm is."""
    found = {}
    for name, (low, high, only) in NORMAL_RANGES.items():
        without = [[f for f in row["findings"] if f.startswith("ecg")] == [only] for row in rows]
        values = measured.loc[without, f"ecg {name}"].dropna()
        lower, median, upper = np.quantile(values, [0.025, 0.5, 0.975]) if len(values) else [np.nan] * 3
        inside = float(values.between(low, high).mean())
        found[name] = {"median": median, "central_95": [lower, upper], "normal": [low, high], "inside": inside}
    return found


def format_fairness(report: dict) -> str:
    """The report as Markdown."""
    lines = [
        f"# Synthetic cohort: {report['patients']} patients, seed {report['seed']}, setting `{report['setting']}`",
        "",
        "Imaginary patients, for research only: figures from them say nothing about real ones.",
        "",
        f"{report['share_without_label']:.1%} have none of the seven diseases; the others have "
        f"{report['labels_a_patient']:.2f} on average. {report['megabytes_a_patient']:.2f} MB a patient. "
        f"Signals shared between splits: {report['shared_signals']}.",
        "",
        "| known to the classifier | F1 averaged over test patients | share of the ceiling |",
        "|---|---|---|",
        *(
            f"| {name} | {format_value(found['value'], found['interval'])} | "
            f"{format_value(found['share_of_ceiling'], found['share_interval'])} |"
            for name, found in report["sample_f1"].items()
        ),
        "",
        f"`{CEILING}` is the ceiling: what was drawn, and the labs as measured. In brackets: 95 % intervals over resampled "
        "test patients; each classifier is trained once.",
        "",
        "AUROC of linear probes on the drawn signs, patients with a label (in square brackets 95 % "
        "intervals, in round ones the published figures of the realistic setting)",
        "",
        "| disease | share | ECG | CXR | LAB | all |",
        "|---|---|---|---|---|---|",
    ]
    for disease, aurocs in report["auroc"].items():
        cells = (
            f"{found['value']:.2f} [{found['interval'][0]:.2f}, {found['interval'][1]:.2f}] ({known:.2f})"
            for found, known in zip(aurocs.values(), PUBLISHED_AUROC[disease])
        )
        lines.append(f"| {disease} | {report['prevalence'][disease]:.1%} | {' | '.join(cells)} |")
    if report["setting"] == "realistic":
        gap = max(
            abs(found["value"] - known)
            for disease, aurocs in report["auroc"].items()
            for found, known in zip(aurocs.values(), PUBLISHED_AUROC[disease])
        )
        lines += ["", f"Largest difference: {gap:.3f}."]
    lines += [
        "",
        "| measured on normal ECGs | median | central 95 % | normal adults | inside |",
        "|---|---|---|---|---|",
    ]
    for name, value in report["measured"].items():
        low, high = value["central_95"]
        lines.append(
            f"| {name} | {value['median']:.0f} | {low:.0f} to {high:.0f} | {value['normal'][0]} to {value['normal'][1]} | "
            f"{value['inside']:.1%} |"
        )
    return "\n".join(lines) + "\n"
