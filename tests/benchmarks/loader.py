# SPDX-License-Identifier: Apache-2.0
"""Samples per second of a DataLoader with 4 workers that reads raw files of MIMIC's sizes; on CUDA, over what an SFT step eats."""

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from medtvt_training.data.collator import MedTVTDataCollator
from medtvt_training.data.rows import QARow
from medtvt_training.stages.initialize import default_processor, tiny_tokenizer
from medtvt_training.synthetic.answers import make_rows
from medtvt_training.synthetic.patient import generators, write_patient
from processing_medtvt import MedTVTProcessor

from .files import write_full_size
from .harness import Row, Settings, divide, interleave, medians, timed
from .sft import LENGTHS, make_steps


PATIENTS = 4
WORKERS, BATCH = 4, 8


def write_rows(folder: Path) -> list[QARow]:
    """Diagnosis rows of a few imaginary patients: WFDB at 500 Hz, JPEG of 2544 x 3056, labs."""
    rows: list[QARow] = []
    for index in range(PATIENTS):
        patient = write_patient(folder, {"ecg": f"{index}.hea", "cxr": f"{index}.png"}, 0, index)
        film = write_full_size(folder / f"{index}.png", folder / f"{index}.jpg")
        files, wording = {"ecg": str(folder / f"{index}.hea"), "cxr": str(film)}, generators(0, index)[6]
        rows += make_rows(patient.subject_id, patient.causes, patient.findings, files, patient.lab, wording)[-1:]
    return rows


def read(rows: list[QARow], processor: MedTVTProcessor, batches: int) -> float:
    """Samples per second once all workers run."""
    repeated: Any = [rows[i % len(rows)] for i in range(BATCH * (batches + WORKERS))]
    loader: DataLoader = DataLoader(repeated, BATCH, collate_fn=MedTVTDataCollator(processor), num_workers=WORKERS)
    for i, _ in enumerate(loader):
        if i == WORKERS - 1:
            start = time.perf_counter()
    return BATCH * batches / (time.perf_counter() - start)


def measure(settings: Settings, batches: int = 8) -> list[Row]:
    processors = {"whole": default_processor(tiny_tokenizer()), "reduced": default_processor(tiny_tokenizer())}
    processors["reduced"].image_processor.min_decode_size = 448
    with tempfile.TemporaryDirectory() as folder:
        rows = write_rows(Path(folder))
        sides: dict[str, Callable[[], float]] = {
            name: partial(read, rows, processor, batches) for name, processor in processors.items()
        }
        size = settings.sizes[-1]
        if settings.device == "cuda":
            steps = make_steps(size, settings.device, LENGTHS)
            sides["step"] = lambda: len(LENGTHS) / timed(steps["raw inputs"], settings.device)
        found = interleave(sides, settings.repeats_at("large"))
    what = f"samples/s of raw files by {WORKERS} workers (ECG 500 Hz, JPEG 2544 x 3056, labs)"
    if "step" not in found:
        note = f"{medians(found, 'samples/s')}; what a 1B SFT step eats is measured on CUDA"
        reduced = f"{what}, `min_decode_size` over films decoded whole"
        return [Row("loader", reduced, divide(found["reduced"], found["whole"]), note=note)]
    return [
        Row(
            "loader",
            f"{what}{', `min_decode_size`' * (name == 'reduced')} over those an SFT step eats, {size}",
            divide(found[name], found["step"]),
            at_least=1,
            note=medians({side: found[side] for side in (name, "step")}, "samples/s"),
        )
        for name in processors
    ]
