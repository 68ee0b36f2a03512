# SPDX-License-Identifier: Apache-2.0
"""Greedy answers to drawn patients, through vLLM and through transformers, without and with LoRA."""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from medtvt_training.inference.load import load_pipeline
from medtvt_training.serving.vllm_engine import VllmEngine, write_with_vllm
from medtvt_training.stages.arguments import LORA_TARGETS
from medtvt_training.stages.rollouts import write_lora
from medtvt_training.synthetic.example_patient import write_example_patient


BATCH_SIZE = 8


class Timed:
    """A `generate`, with the seconds that it took and the tokens that it wrote."""

    def __init__(self, generate: Callable[..., torch.Tensor], pad: int) -> None:
        self.generate, self.pad, self.seconds, self.tokens = generate, pad, 0.0, 0

    def __call__(self, *, input_ids: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        began = time.perf_counter()
        found = self.generate(input_ids=input_ids, **kwargs)
        self.seconds += time.perf_counter() - began
        self.tokens += int((found[:, input_ids.shape[1] :] != self.pad).sum())
        return found


def draw_patients(folder: Path, number: int) -> list[dict[str, Any]]:
    """Inputs of imaginary patients; every third lacks a modality."""
    patients = []
    for index in range(number):
        files = write_example_patient(folder / str(index), seed=0, index=index)
        given = [name for place, name in enumerate(("ecg", "cxr", "lab")) if index % 3 or index // 3 % 3 != place]
        patients.append({name: files[name] for name in given})
    return patients


def draw_lora(model: Any) -> Any:
    """The model with an adapter that moves every layer, as RFT has it: beside LoRA, a perception layer of its own."""
    torch.manual_seed(0)
    config = LoraConfig(r=8, lora_alpha=8, target_modules=LORA_TARGETS, modules_to_save=["perception"])
    adapted = get_peft_model(model, config).eval()
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name or ("perception" in name and "modules_to_save" in name):
                parameter.add_(0.01 * torch.randn(parameter.shape))
    return adapted


def compare_answers(folder: str | os.PathLike, patients: list[dict[str, Any]], url: str) -> int:
    """How many answers differ; prints them, and tokens a second."""
    differing = 0
    for adapter in (None, "drawn"):
        ours, theirs = load_pipeline(folder), load_pipeline(folder)
        engine = VllmEngine(url)
        write_with_vllm(theirs.model, theirs.tokenizer, engine)
        if adapter:
            draw_lora(ours.model)
            with tempfile.TemporaryDirectory() as place:
                write_lora(draw_lora(theirs.model), Path(place))
                engine.load_adapter(adapter, place)
        differing += _compare(
            {"transformers": ours, "vLLM": theirs}, patients, "with LoRA" if adapter else "without LoRA"
        )
        engine.unload_adapter()
    return differing


def _compare(pipelines: dict[str, Any], patients: list[dict[str, Any]], what: str) -> int:
    texts, speeds = [], []
    for name, diagnose in pipelines.items():
        timed = diagnose.model.generate = Timed(diagnose.model.generate, diagnose.tokenizer.pad_token_id)
        texts.append([result["generated_text"] for result in diagnose(patients, batch_size=BATCH_SIZE)])
        speeds.append(f"{name} {timed.tokens} tokens, {timed.tokens / timed.seconds:.0f} a second")
    differing = [i for i, (ours, theirs) in enumerate(zip(*texts)) if ours != theirs]
    for i in differing:
        print(f"patient {i}:\n  transformers {texts[0][i]!r}\n  vLLM         {texts[1][i]!r}")
    equal = len(patients) - len(differing)
    print(f"{what}: {equal} of {len(patients)} answers are equal; {'; '.join(speeds)}", flush=True)
    return len(differing)
