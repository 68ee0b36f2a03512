# SPDX-License-Identifier: Apache-2.0
"""A folder of MedTVT-QA's schema with a few tiny files, for tests of what reads one."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from medtvt_training.data.conversation import MODALITIES, list_modalities, text_part
from medtvt_training.data.schema import FEATURES, LAB_NAMES, SPLITS
from modeling_medtvt import DISEASES
from processing_medtvt import LAB_DEFINITIONS
from processing_medtvt.feature_extraction_medtvt_ecg import STANDARD_LEADS


EVIDENCE = {"ecg": "sinus rhythm at 70", "cxr": "opacity at the base", "lab": "Creatinine raised"}
# Every sixth patient lacks the X-ray, the ECG or the labs; the first three of six have all.
ABSENT = {3: "cxr", 4: "ecg", 5: "lab"}


def write_toy_dataset(folder, patients: int = 6, seed: int = 0) -> Path:
    """
    Writes `{physiology,diagnosis}/{train,validation,test}.parquet` and the files that they name.

    Args:
        folder: made if missing.
        patients (`int`): Patients in each split. A patient has one diagnosis row, and a physiology row a modality.
        seed (`int`): Seed of signals, pictures, labs and diseases.

    Returns:
        `Path`: the folder.
    """
    folder = Path(folder)
    for name in ("ecg", "cxr", "physiology", "diagnosis"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for s, split in enumerate(SPLITS):
        rows: dict[str, list[dict]] = {"physiology": [], "diagnosis": []}
        for i in range(patients):
            patient = _write_patient(folder, str(1000 * (s + 1) + i), ABSENT.get(i % 6), rng)
            rows["diagnosis"].append(_diagnosis_row(patient))
            rows["physiology"] += [_physiology_row(patient, modality) for modality in patient["modalities"]]
        for stage, stage_rows in rows.items():
            table = pa.Table.from_pylist(stage_rows, schema=FEATURES.arrow_schema)
            pq.write_table(table, folder / stage / f"{split}.parquet")
    return folder


def _write_patient(folder, subject_id, absent, rng):
    """Files of one patient (100 Hz, 10 s; 40 x 40 pixels), and the row's columns that both stages share."""
    modalities = [modality for modality in MODALITIES if modality != absent]
    patient = {"subject_id": subject_id, "modalities": modalities, "ecg": None, "cxr": None}
    patient["lab"] = dict.fromkeys(LAB_NAMES)
    patient["diseases"] = [disease for disease in DISEASES if rng.random() < 0.3]
    if "ecg" in modalities:
        limb_one, limb_two, *chest = rng.normal(size=(8, 1000)).cumsum(axis=1) / 20
        three, right = limb_two - limb_one, -(limb_one + limb_two) / 2
        signal = [limb_one, limb_two, three, right, limb_two - limb_one / 2, limb_one - limb_two / 2, *chest]
        samples = np.rint(np.stack(signal, 1) * 1000).clip(-32767, 32767).astype("<i2")
        samples.tofile(folder / "ecg" / f"{subject_id}.dat")
        header = [
            f"{subject_id} 12 100 1000",
            *(f"{subject_id}.dat 16 1000/mV 16 0 0 0 0 {x}" for x in STANDARD_LEADS),
        ]
        (folder / "ecg" / f"{subject_id}.hea").write_text("\n".join(header) + "\n")
        patient["ecg"] = f"ecg/{subject_id}"
    if "cxr" in modalities:
        patient["cxr"] = f"cxr/{subject_id}.png"
        Image.fromarray(rng.integers(0, 256, (40, 40), dtype=np.uint8)).save(folder / patient["cxr"])
    if "lab" in modalities:
        for lab in LAB_DEFINITIONS[:20]:
            if lab.reference_low is not None:
                patient["lab"][lab.name] = round(rng.uniform(lab.reference_low, lab.reference_high), 2)
    return patient


def _diagnosis_row(patient):
    question = [
        text_part("Can you analyze my "),
        *list_modalities(patient["modalities"]),
        text_part(" to determine my probable conditions?"),
    ]
    evidence = [
        text_part(f"{modality.upper()}: {EVIDENCE[modality]}. ", [modality]) for modality in patient["modalities"]
    ]
    answer = f"</think><answer>{'; '.join(patient['diseases'])}</answer>"
    return {
        **patient,
        "id": f"diagnosis-{patient['subject_id']}",
        "level": "diagnosis",
        "prompt": [{"role": "user", "content": question}],
        "completion": [
            {"role": "assistant", "content": [text_part("<think>"), *evidence, text_part(answer)]},
        ],
        "findings": None,
    }


def _physiology_row(patient, modality):
    question = [text_part("Describe my "), *list_modalities([modality]), text_part(".")]
    return {
        **patient,
        "id": f"{modality}-{patient['subject_id']}",
        "level": "physiology",
        "modalities": [modality],
        "ecg": patient["ecg"] if modality == "ecg" else None,
        "cxr": patient["cxr"] if modality == "cxr" else None,
        "lab": patient["lab"] if modality == "lab" else dict.fromkeys(LAB_NAMES),
        "prompt": [{"role": "user", "content": question}],
        "completion": [{"role": "assistant", "content": [text_part(f"It shows {EVIDENCE[modality]}.", [modality])]}],
        "findings": [EVIDENCE[modality]],
    }
