# SPDX-License-Identifier: Apache-2.0
"""Tests on a synthetic cohort whether the part of an input with the largest effect on a disease is its known cause."""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..data.rows import Modality
from ..inference.occlusion import occlude


STRETCH_SECONDS = 0.2
ST_WINDOW = (0.06, 0.30)  # s after the middle of QRS
# heights on the film, in the order of medtvt_training.synthetic.cxr.ZONES; the patient's right is on the left of the picture
ZONE_ROWS = {"upper": (0.15, 0.36), "middle": (0.36, 0.55), "base": (0.55, 0.76)}
ZONE_COLUMNS = {"right": (0.1, 0.45), "left": (0.55, 0.9)}
ST_LEADS = {
    "lateral": ("I", "aVL", "V5", "V6"),
    "inferior": ("II", "III", "aVF"),
    "anterior": ("V3", "V4"),
    "inferior/lateral": ("II", "III", "aVF", "V5", "V6"),
    "extensive": ("I", "II", "aVL", "V3", "V4", "V5", "V6"),
}


# The falls, and which of them belong to the cause, (parts,) or (parts, parts)
_Target = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class _Check:
    """
    One cause and where it should show.

    Args:
        has_cause: Whether what lies behind a patient, and the inputs, hold the cause.
        target: Patient, falls and inputs to the falls of its modality, and which of them belong to the cause.
    """

    disease: str
    modality: Modality
    has_cause: Callable[[Mapping, Mapping], bool]
    target: Callable[[Mapping, Mapping, Mapping], _Target]


@dataclass
class _Count:
    """What a check found so far: of each patient, whether the largest fall belongs to the cause, and its chance."""

    hits: list[bool] = field(default_factory=list)
    chances: list[float] = field(default_factory=list)
    not_named: int = 0


def occlusion_agreement(model_dir: str | os.PathLike, cohort_dir: str | os.PathLike, n: int = 50) -> dict[str, dict]:
    """
    How often the part that moves a disease most is its known cause, in test patients of a synthetic cohort who have the
    cause and whose answer names the disease: the opacity for Pneumonia, the ST segments of the leads with ischemia for
    Coronary Artery Disease, creatinine for Acute Renal Failure.

    Args:
        model_dir: A trained model.
        cohort_dir: Of `medtvt synthesize`.
        n (`int`): Patients a check, at most.

    Returns:
        `dict`: for `opacity`, `st_segment` and `creatinine`: `hits` of `patients`, `rate`, `chance` (the mean share of
        the parts that belong to the cause), `p_value` of a one-sided binomial test, and `not_named`, the patients left
        out because the answer does not name the disease.
    """
    from scipy.stats import binomtest

    from ..inference.load import load_pipeline

    diagnose, cohort = load_pipeline(os.fspath(model_dir)), Path(cohort_dir)
    found = {name: _Count() for name in _CHECKS}
    for patient, inputs in _test_patients(cohort):
        names = [name for name, check in _CHECKS.items() if check.has_cause(patient, inputs)]
        names = [name for name in names if len(found[name].hits) < n]
        if not names:
            continue
        result: Any = diagnose(inputs, do_sample=False)
        named = {entry["label"] for entry in result["diseases"] if entry["named"]}
        for name in names:
            check, count = _CHECKS[name], found[name]
            if check.disease not in named:
                count.not_named += 1
                continue
            text = result["generated_text"]
            falls = occlude(diagnose, inputs, text, check.disease, [check.modality], STRETCH_SECONDS)
            values, wanted = check.target(patient, falls, inputs)
            count.hits.append(bool(wanted.flat[values.argmax()]))
            count.chances.append(float(wanted.mean()))
    summary: dict[str, dict] = {}
    for name, count in found.items():
        hits, patients = sum(count.hits), len(count.hits)
        summary[name] = {"hits": hits, "patients": patients, "not_named": count.not_named}
        if patients:
            chance = float(np.mean(count.chances))
            test = binomtest(hits, patients, chance, alternative="greater")
            summary[name] |= {"rate": hits / patients, "chance": chance, "p_value": float(test.pvalue)}
    return summary


def _test_patients(cohort: Path) -> Iterator[tuple[dict, dict]]:
    """What lies behind each test patient, and the inputs."""
    import pandas as pd

    rows = pd.read_parquet(cohort / "diagnosis" / "test.parquet").set_index("subject_id")
    with open(cohort / "causes.jsonl", encoding="utf-8") as file:
        for patient in map(json.loads, file):
            if patient["split"] == "test":
                row = rows.loc[patient["subject_id"]]
                lab = {name: value for name, value in row["lab"].items() if value is not None and value == value}
                yield patient, {"ecg": str(cohort / row["ecg"]), "cxr": str(cohort / row["cxr"]), "lab": lab}


def _has_opacity(patient: Mapping, inputs: Mapping) -> bool:
    return "Pneumonia" in patient["diseases"] and patient["cxr"]["opacity"] in ("lobar", "patchy")


def _opacity(patient: Mapping, falls: Mapping, inputs: Mapping) -> _Target:
    values = falls["cxr"]
    middles = (np.arange(len(values)) + 0.5) / len(values)
    wanted = np.zeros(values.shape, bool)
    for zone in patient["cxr"]["opacity_zones"]:
        side, height = zone.split()
        inside = [(low <= middles) & (middles <= high) for low, high in (ZONE_ROWS[height], ZONE_COLUMNS[side])]
        wanted |= np.outer(*inside)
    return values, wanted


def _ischemia(patient: Mapping) -> str | None:
    return patient["ecg"]["acute"] or patient["ecg"]["ischaemia"]


def _has_ischemia(patient: Mapping, inputs: Mapping) -> bool:
    return "Coronary Artery Disease" in patient["diseases"] and _ischemia(patient) in ST_LEADS


def _st_segment(patient: Mapping, falls: Mapping, inputs: Mapping) -> _Target:
    import wfdb

    from processing_medtvt.feature_extraction_medtvt_ecg import STANDARD_LEADS
    from processing_medtvt.measure_ecg_medtvt import find_beats

    from ..synthetic.ecg import SAMPLING_RATE

    signal = np.nan_to_num(wfdb.rdrecord(inputs["ecg"].removesuffix(".hea")).p_signal.T)
    beats = find_beats(signal)[0] / SAMPLING_RATE
    values = falls["ecg"]
    middles = (np.arange(values.shape[1]) + 0.5) * STRETCH_SECONDS
    inside = [(beat + ST_WINDOW[0] <= middles) & (middles <= beat + ST_WINDOW[1]) for beat in beats]
    wanted = np.zeros(values.shape, bool)
    for lead in ST_LEADS[_ischemia(patient) or ""]:
        wanted[STANDARD_LEADS.index(lead)] = np.any(inside, axis=0) if inside else False
    return values, wanted


def _has_creatinine(patient: Mapping, inputs: Mapping) -> bool:
    return "Acute Renal Failure" in patient["diseases"] and "Creatinine" in inputs["lab"]


def _creatinine(patient: Mapping, falls: Mapping, inputs: Mapping) -> _Target:
    return np.array(list(falls["lab"].values())), np.array([name == "Creatinine" for name in falls["lab"]])


_CHECKS = {
    "opacity": _Check("Pneumonia", "cxr", _has_opacity, _opacity),
    "st_segment": _Check("Coronary Artery Disease", "ecg", _has_ischemia, _st_segment),
    "creatinine": _Check("Acute Renal Failure", "lab", _has_creatinine, _creatinine),
}
