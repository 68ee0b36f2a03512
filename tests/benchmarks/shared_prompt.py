# SPDX-License-Identifier: Apache-2.0
"""
Scoring (reference pass) and update of an RFT step that compute the prompt of a group once, against the same passes over whole
rows; and the whole step, with the rollout that both have.

Completions are drawn at random, of full length, so that both sides score the same; the rollout is measured by itself.
"""

import tempfile
from functools import partial
from typing import Any

import torch

from medtvt_training.data.collator import MedTVTDataCollator
from medtvt_training.data.load import load_medtvt_qa
from medtvt_training.stages.grpo_trainer import MedTVTGRPOTrainer
from medtvt_training.stages.initialize import default_processor, tiny_tokenizer

from .grpo import make_config, make_trainer, step, stretch, watch
from .harness import Row, Settings, divide, interleave, medians, timed
from tests.toy import write_toy_dataset


GENERATIONS = 8
# tokens of prompt and completion
LENGTHS = ((256, 256), (256, 600), (1000, 300))
# of the time over whole rows, at 256 / 256
TARGETS = {"tiny": 0.80, "width-512": 0.65, "smollm2-135m": 0.65}


class DrawnTrainer(MedTVTGRPOTrainer):
    """Completions without a rollout."""

    def _generate_from_unique_prompts(self, model, generate, input_ids, attention_mask, generation_config, **inputs):
        def draw(input_ids, **kwargs):
            generator = torch.Generator().manual_seed(0)
            shape = len(input_ids), generation_config.max_new_tokens
            return torch.cat([input_ids, torch.randint(300, 600, shape, generator=generator).to(input_ids.device)], 1)

        return super()._generate_from_unique_prompts(
            model, draw, input_ids, attention_mask, generation_config, **inputs
        )


class WholeRowsTrainer(DrawnTrainer):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._shares_prompts = False


def measure(settings: Settings) -> list[Row]:
    return [
        row
        for size in settings.sizes
        for prompt, completion in LENGTHS
        for row in compare(size, settings.device, prompt, completion, settings.repeats_at(size))
    ]


def compare(size: str, device: str, prompt: int, completion: int, repeats: int) -> list[Row]:
    processor = default_processor(tiny_tokenizer())
    collator = MedTVTDataCollator(processor)
    with tempfile.TemporaryDirectory() as folder:
        dataset = load_medtvt_qa(write_toy_dataset(folder, 12), "diagnosis", "train")
        dataset = dataset.filter(lambda row: bool(row["diseases"]))
        row = next(row for row in dataset if len(row["modalities"]) == 3)
        rows = [stretch(row, collator, prompt)] * GENERATIONS
        config = make_config(folder, device, GENERATIONS, completion)
        make = partial(make_trainer, size=size, dataset=dataset, processor=processor, config=config, device=device)
        trainers = {"shared": make(DrawnTrainer), "whole": make(WholeRowsTrainer)}
        watched = {name: watch(trainer)[0] for name, trainer in trainers.items()}

        def run(name: str) -> float:
            seconds = timed(lambda: step(trainers[name], rows), device)
            return seconds - watched[name]["rollout"]

        rollouts: Any = make(MedTVTGRPOTrainer)

        def roll_out() -> float:
            rollouts.model.train()
            rollouts._take_rows(rows)
            return timed(lambda: rollouts._generate([row["prompt"] for row in rows]), device)

        found = interleave({**{name: partial(run, name) for name in trainers}, "rollout": roll_out}, repeats)
    steps = {name: [a + b for a, b in zip(found[name], found["rollout"])] for name in trainers}
    where = f"{size}, prompt {prompt}, completion {completion}, G = {GENERATIONS}"
    is_target = (prompt, completion) == LENGTHS[0]
    tokens = (prompt + GENERATIONS * completion) / (GENERATIONS * (prompt + completion))
    return [
        Row(
            "shared-prompt",
            f"time of scoring and update with shared prompts over that of whole rows, {where}",
            divide(found["shared"], found["whole"]),
            at_most=TARGETS.get(size) if is_target else None,
            note=f"{medians(found)}; tokens {tokens:.2f}",
        ),
        Row(
            "shared-prompt",
            f"the same of the whole step, {where}",
            divide(steps["shared"], steps["whole"]),
            note=medians(steps),
        ),
    ]
