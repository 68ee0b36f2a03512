# SPDX-License-Identifier: Apache-2.0
"""What a user waits for: the demo, and an example patient by the shipped weights in a warm pipeline, part by part."""

import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from medtvt_training.inference.load import load_pipeline
from medtvt_training.synthetic.example_patient import write_example_patient
from modeling_medtvt import DEFAULT_CHECKPOINT, MedicalDiagnosisPipeline, pipeline_medtvt
from modeling_medtvt.pipeline_medtvt import TENSOR_NAMES

from .harness import ROOT, Row, Settings, divide, environment, interleave, medians, timed


DEMO_SECONDS = 6.0
FILES = ("ecg", "cxr", "lab")
# part -> whose method it is, and which; what one calls of another counts as the inner one's
PARTS: dict[str, Callable[[MedicalDiagnosisPipeline], list[tuple[Any, str]]]] = {
    "files to tensors": lambda pipe: [(type(pipe.processor), "_read"), (type(pipe.processor), "_extract")],
    "measures of the ECG and labs": lambda pipe: [(type(pipe.processor), "_measure")],
    "encoders, projectors and perception layer": lambda pipe: [(type(pipe.model), "get_modality_embeds")],
    "generate": lambda pipe: [(type(pipe.model), "generate")],
    "probabilities": lambda pipe: [(pipeline_medtvt, "answer_probabilities")],
    "evidence": lambda pipe: [(type(pipe.processor), "check_evidence"), (type(pipe.processor), "list_measurements")],
}
WITHOUT = ("measures of the ECG and labs", "probabilities", "evidence")


def measure(settings: Settings) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        patient = write_example_patient(folder)
        files = {modality: patient[modality] for modality in FILES}
        return [measure_demo(Path(folder), settings.repeats), *measure_patient(files, settings)]


def measure_demo(folder: Path, repeats: int) -> Row:
    command = [sys.executable, "-m", "medtvt_training.cli", "demo", "--out", str(folder / "demo")]

    def run() -> Any:
        subprocess.run(command, check=True, capture_output=True, env=environment(), cwd=ROOT)

    found = interleave({"demo": partial(timed, run, "cpu")}, repeats)
    ratios = [seconds / DEMO_SECONDS for seconds in found["demo"]]
    what = f"`medtvt demo` on this machine's cores, over {DEMO_SECONDS:g} s"
    return Row("first-use", what, ratios, at_most=1, note=medians(found))


@contextmanager
def watch(pipe: MedicalDiagnosisPipeline) -> Iterator[dict[str, float]]:
    """Seconds of each part, for as long as this is open."""
    seconds: dict[str, float] = defaultdict(float)
    inner = [0.0]

    def wrap(part: str, function: Callable) -> Callable:
        def call(*args: Any, **kwargs: Any) -> Any:
            inner.append(0.0)
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                taken = time.perf_counter() - start
                seconds[part] += taken - inner.pop()
                inner[-1] += taken

        return call

    patches = [
        mock.patch.object(owner, name, wrap(part, getattr(owner, name)))
        for part, find in PARTS.items()
        for owner, name in find(pipe)
    ]
    for patch in patches:
        patch.start()
    try:
        yield seconds
    finally:
        for patch in patches:
            patch.stop()


def measure_patient(files: dict[str, Any], settings: Settings) -> list[Row]:
    pipe = load_pipeline(DEFAULT_CHECKPOINT)
    prepared: Any = pipe.preprocess({"index": None, "item": files})
    tensors = {name: prepared[name].to(pipe.device) for name in ("input_ids", "attention_mask", *TENSOR_NAMES)}

    def whole() -> dict[str, float]:
        with watch(pipe) as seconds:
            taken = timed(lambda: pipe(**files, do_sample=False), "cpu")
        return {**seconds, "whole": taken}

    def generate() -> float:
        return timed(lambda: pipe.model.generate(**tensors, do_sample=False), "cpu")

    found = interleave({"pipeline": whole, "generate alone": generate}, settings.repeats)
    runs, alone = found["pipeline"], found["generate alone"]
    totals = [run["whole"] for run in runs]
    bare = [run["whole"] - sum(run[part] for part in WITHOUT) for run in runs]
    note = medians({"pipeline": totals, "generate alone": alone})
    rows = [
        Row(
            "first-use",
            "a patient without probabilities and evidence over `generate` alone",
            divide(bare, alone),
            at_most=1.1,
            note=note,
        ),
        Row("first-use", "a patient with both over `generate` alone", divide(totals, alone), note=note),
    ]
    for part in PARTS:
        spent = [run[part] for run in runs]
        rows.append(
            Row(
                "first-use",
                f"share of a patient's time, {part}",
                divide(spent, totals),
                note=medians({part: spent}, "ms", 1000),
            )
        )
    rest = [run["whole"] - sum(run[part] for part in PARTS) for run in runs]
    rows.append(
        Row(
            "first-use",
            "share of a patient's time, the rest",
            divide(rest, totals),
            note=medians({"rest": rest}, "ms", 1000),
        )
    )
    return rows
