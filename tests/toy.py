# SPDX-License-Identifier: Apache-2.0
"""
The toy world of the tests: a tokenizer, models, a checkpoint folder, inputs and a dataset, all small and drawn.

A [`toy_tokenizer`] learns from the fixed text below, so that no test depends on the wording of the synthetic cohort.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from transformers import GenerationConfig, PreTrainedTokenizerFast

from medtvt_training.data.conversation import MODALITIES, list_modalities, text_part
from medtvt_training.data.rows import Modality, Part, QARow
from medtvt_training.data.schema import FEATURES, LAB_NAMES, SPLITS
from medtvt_training.stages.initialize import default_processor, tiny_config, tiny_tokenizer
from modeling_medtvt import DISEASES, MedTVTForCausalLM
from processing_medtvt import LAB_DEFINITIONS
from processing_medtvt.feature_extraction_medtvt_ecg import STANDARD_LEADS


FIXTURES = Path(__file__).parent / "fixtures"
SUBSETS: list[tuple[Modality, ...]] = [
    (),
    ("ecg",),
    ("cxr",),
    ("lab",),
    ("ecg", "cxr"),
    ("ecg", "lab"),
    ("cxr", "lab"),
    ("ecg", "cxr", "lab"),
]
DEPTH = 101  # layers of the ECG encoder, the longest way from an input to the logits
EVIDENCE: dict[Modality, str] = {"ecg": "sinus rhythm at 70", "cxr": "opacity at the base", "lab": "Creatinine raised"}
# Every sixth patient lacks the X-ray, the ECG or the labs; the first three of six have all.
ABSENT: dict[int, Modality] = {3: "cxr", 4: "ecg", 5: "lab"}
TEXT = (
    *(lab.name for lab in LAB_DEFINITIONS),
    *["Can you analyze my ECG, CXR and lab result to determine my probable conditions? Describe my ECG."] * 5,
    *[f"<answer>{disease}; {disease}</answer>" for disease in DISEASES] * 20,
    *["<think>ECG: x.\nCXR: x.\nLabs: x.\n</think>"] * 40,
    "The rhythm is irregular without P waves, which fits Atrial Fibrillation; the QRS complex is narrow and the axis normal.",
    "The film shows an enlarged heart, an effusion on the left and an opacity at the right base, as in Pneumonia.",
    "Creatinine and potassium are raised, pointing to Acute Renal Failure; white cells above 12 with a neutrophil shift.",
    "No direct evidence of hypertension or diabetes in these data, yet treated or silent disease stays possible.",
)


# Tokenizer and models


def toy_tokenizer() -> PreTrainedTokenizerFast:
    """The tiny tokenizer's settings, with a vocabulary learned from `TEXT`."""
    return tiny_tokenizer().train_new_from_iterator(TEXT, vocab_size=1280, show_progress=False)


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int = 0, **config_kwargs: Any) -> MedTVTForCausalLM:
    """A tiny random model whose every weight matters: what starts at zero or one is drawn too."""
    torch.manual_seed(seed)
    model = MedTVTForCausalLM(tiny_config(tokenizer, **config_kwargs)).eval()
    with torch.no_grad():
        # embeddings on the scale of the projectors' outputs, so that modalities move the logits
        model.model.language_model.embed_tokens.weight.mul_(1.25)
        for projector in (model.model.ecg_projector, model.model.cxr_projector, model.model.lab_projector):
            projector.linear.weight.mul_(5)
        if model.model.perception is not None:
            for parameter in model.model.perception.parameters():
                parameter.normal_(std=0.3)
    return model


def write_checkpoint(folder: Path, seed: int = 0, **config_kwargs: Any) -> Path:
    """Writes a tiny checkpoint folder with random weights, as `medtvt init --tiny` does; returns it."""
    tokenizer = toy_tokenizer()
    torch.manual_seed(seed)
    model = MedTVTForCausalLM(tiny_config(tokenizer, **config_kwargs))
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    model.generation_config = GenerationConfig(**ids, max_new_tokens=64)
    model.save_pretrained(folder)
    default_processor(tokenizer, model.config.num_modality_tokens).save_pretrained(folder)
    return folder


def build_inputs(
    model: MedTVTForCausalLM,
    subsets: Sequence[Sequence[Modality]],
    seed: int = 0,
    padding_side: str = "left",
    lengths: Sequence[int] | None = None,
) -> dict[str, torch.Tensor]:
    """Random ids with the subsets' placeholders in the middle, and one row of every modality tensor a sample."""
    generator = torch.Generator().manual_seed(seed)
    config = model.config
    ids_of = dict(zip(MODALITIES, config.modality_token_ids))
    rows = []
    for i, subset in enumerate(subsets):
        length = 5 + i % 3 if lengths is None else lengths[i]
        before = torch.randint(300, 600, (length,), generator=generator).tolist()
        after = torch.randint(300, 600, (4,), generator=generator).tolist()
        placeholders = [ids_of[modality] for modality in subset for _ in range(config.num_modality_tokens)]
        rows.append([config.text_config.bos_token_id, *before, *placeholders, *after])
    width = max(map(len, rows))
    pad = config.text_config.pad_token_id
    pads = [[pad] * (width - len(row)) for row in rows]
    left = padding_side == "left"
    ids = [padding + row if left else row + padding for padding, row in zip(pads, rows)]
    masks = [[0] * len(p) + [1] * len(r) if left else [1] * len(r) + [0] * len(p) for p, r in zip(pads, rows)]
    n = len(rows)
    return {
        "input_ids": torch.tensor(ids),
        "attention_mask": torch.tensor(masks),
        "ecg_values": torch.randn(n, 12, 1000, generator=generator),
        "pixel_values": torch.randn(n, 3, 224, 224, generator=generator),
        "lab_values": torch.rand(n, 100, generator=generator),
    }


def draw_ecg_array() -> np.ndarray:
    """Twelve leads in MIMIC's order, 500 Hz, 10 s, mV, with limb leads that obey their relations."""
    rng = np.random.default_rng(0)
    lead_i, lead_ii, *chest = rng.normal(size=(8, 5000)).cumsum(axis=1) / 50
    return np.stack(
        [
            lead_i,
            lead_ii,
            lead_ii - lead_i,
            -(lead_i + lead_ii) / 2,
            lead_ii - lead_i / 2,
            lead_i - lead_ii / 2,
            *chest,
        ]
    )


def assert_close(actual: torch.Tensor, expected: torch.Tensor, depth: int = DEPTH) -> None:
    """
    Equal but for rounding: each layer may be off by two units in the last place of the largest value. No BLAS promises the
    same bits for another batch shape, another place in memory, or another processor.
    """
    scale = expected[expected.isfinite()].abs().max().item() if expected.isfinite().any() else 1.0
    tolerance = 2 * depth * torch.finfo(expected.dtype).eps * max(scale, 1e-3)
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=0)


# Dataset


def write_toy_dataset(folder: str | os.PathLike, patients: int = 6, seed: int = 0) -> Path:
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
        rows: dict[str, list[QARow]] = {"physiology": [], "diagnosis": []}
        for i in range(patients):
            patient = _write_patient(folder, str(1000 * (s + 1) + i), ABSENT.get(i % 6), rng)
            rows["diagnosis"].append(_diagnosis_row(patient))
            rows["physiology"] += [_physiology_row(patient, modality) for modality in patient["modalities"]]
        for level, level_rows in rows.items():
            table = pa.Table.from_pylist(level_rows, schema=FEATURES.arrow_schema)
            pq.write_table(table, folder / level / f"{split}.parquet")
    return folder


def _write_patient(folder: Path, subject_id: str, absent: Modality | None, rng: np.random.Generator) -> QARow:
    """Files of one patient (100 Hz, 10 s; 40 x 40 pixels), and the columns that all rows of the patient share."""
    modalities = [modality for modality in MODALITIES if modality != absent]
    patient: QARow = {
        "id": "",
        "subject_id": subject_id,
        "age": 40.0 + int(subject_id) % 50,
        "sex": "F" if int(subject_id) % 2 else "M",
        "level": "",
        "modalities": modalities,
        "prompt": [],
        "completion": [],
        "ecg": None,
        "cxr": None,
        "lab": dict.fromkeys(LAB_NAMES),
        "diseases": [disease for disease in DISEASES if rng.random() < 0.3],
        "findings": None,
    }
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
        Image.fromarray(rng.integers(0, 256, (40, 40), dtype=np.uint8)).save(folder / "cxr" / f"{subject_id}.png")
    if "lab" in modalities:
        for lab in LAB_DEFINITIONS[:20]:
            if lab.reference_low is not None and lab.reference_high is not None:
                patient["lab"][lab.name] = round(rng.uniform(lab.reference_low, lab.reference_high), 2)
    return patient


def _diagnosis_row(patient: QARow) -> QARow:
    question = [
        text_part("Can you analyze my "),
        *list_modalities(patient["modalities"]),
        text_part(" to determine my probable conditions?"),
    ]
    evidence: list[Part] = [
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
    }


def _physiology_row(patient: QARow, modality: Modality) -> QARow:
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
