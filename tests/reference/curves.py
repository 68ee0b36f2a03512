# SPDX-License-Identifier: Apache-2.0
"""Twenty steps of each stage of the toy model, and what they log."""

import json
from pathlib import Path
from typing import Any

import pytest

from medtvt_training.stages.rewards import REWARDS
from medtvt_training.stages.run import run_stage

from tests.toy import write_checkpoint, write_toy_dataset


STEPS = 20
# AdamW divides a gradient by its own size: a small rate keeps rounding from growing
COMMON: dict[str, Any] = {
    **{"max_steps": STEPS, "logging_steps": 1, "save_strategy": "no", "report_to": "none", "disable_tqdm": "true"},
    **{"learning_rate": 1e-3, "warmup_steps": 0, "per_device_train_batch_size": 4, "seed": 0},
}
STAGES: dict[str, dict[str, Any]] = {
    "pt": {"eval_strategy": "no", "eval_on_start": "false"},
    "sft": {"eval_strategy": "no", "eval_on_start": "false", "eval_answers": 0, "replay": 0},
    "rft": {
        **{"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, "num_generations": 4},
        **{"max_completion_length": 8, "learning_rate": 1e-5, "rewards": "letters"},
    },
}
LOGGED = {"pt": ("loss",), "sft": ("loss",), "rft": ("reward", "kl")}


def count_letters(completions: list, **kwargs: object) -> list[float]:
    """A reward that a random model earns: the share of letters in the answer."""
    texts = [completion[-1]["content"] for completion in completions]
    return [sum(letter.isalpha() for letter in text) / max(len(text), 1) for text in texts]


def run_curves(
    folder: Path, stages: tuple[str, ...] = ("pt", "sft", "rft"), further: dict[str, Any] | None = None
) -> dict[str, dict[str, list[float]]]:
    """
    Stage -> what is logged -> its value at each step. All stages start from the same random checkpoint.

    Args:
        further (`dict[str, Any]`, *optional*): Options of all stages that go before those above.
    """
    checkpoint, data = write_checkpoint(folder / "checkpoint"), write_toy_dataset(folder / "data", 12)
    curves = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(REWARDS, "letters", count_letters)
        for stage in stages:
            out = folder / stage
            options: dict[str, Any] = {
                **COMMON,
                **STAGES[stage],
                **(further or {}),
                "model": checkpoint,
                "data": data,
                "output_dir": out,
            }
            run_stage(stage, "tiny", [f"--{name.replace('_', '-')}={value}" for name, value in options.items()])
            log = json.loads((out / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
            curves[stage] = {key: [entry[key] for entry in log if key in entry] for key in LOGGED[stage]}
    return curves
