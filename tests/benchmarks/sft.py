# SPDX-License-Identifier: Apache-2.0
"""Tokens per second of an SFT step with LoRA, over the bare language model's LoRA step on the same lengths and labels."""

from functools import partial
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from medtvt_training.stages.arguments import LORA_TARGETS, ModelArguments

from .harness import Row, Settings, divide, interleave, medians, timed
from .shapes import build, build_bare, encode, make_prompt, make_values


# rows of a batch, as group_by_length puts them together
LENGTHS = tuple(range(343, 367, 3))
QUESTION = 24


def lora_config(targets: str = LORA_TARGETS, modules_to_save: list[str] | None = None) -> LoraConfig:
    """That of `medtvt_training.stages.supervised`, whose import needs packages that this measurement does not."""
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=ModelArguments.lora_rank,
        lora_alpha=ModelArguments.lora_alpha,
        lora_dropout=ModelArguments.lora_dropout,
        target_modules=targets,
        modules_to_save=modules_to_save,
    )


def make_batch(config: Any, lengths: tuple[int, ...], device: str) -> dict[str, torch.Tensor]:
    """Rows of these lengths, padded on the right, with a loss on all but the question."""
    batch = make_prompt(config, len(lengths), max(lengths), device)
    for i, length in enumerate(lengths):
        batch["attention_mask"][i, length:] = 0
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    labels[:, :QUESTION] = -100
    return {**batch, "labels": labels}


class Step:
    """Forward, backward, clipping and optimizer of a model with LoRA: `step(batch)` returns the loss."""

    def __init__(self, model: Any, modules_to_save: list[str] | None, device: str) -> None:
        # the bare model's layers have no `language_model` in their names
        targets = LORA_TARGETS if modules_to_save else LORA_TARGETS.replace(r".*language_model\.", "")
        self.model = get_peft_model(model, lora_config(targets, modules_to_save)).train()
        self.trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        for parameter in self.trained:
            parameter.data = parameter.data.float()
        self.optimizer = torch.optim.AdamW(self.trained, lr=1e-5)
        self.device = device

    def __call__(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        with torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda"):
            loss = self.model(**batch, use_cache=False).loss  # as the Trainer sets it
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach()


def make_steps(size: str, device: str, lengths: tuple[int, ...]) -> dict:
    """Name of a side -> one SFT step of it."""
    model = build(size, device)
    batch, values = make_batch(model.config, lengths, device), make_values(len(lengths), device)
    features = encode(model, values)
    step, bare_step = Step(model, ["perception"], device), Step(build_bare(size, device), None, device)

    def chunked() -> None:
        model.chunked_loss = True
        step({**batch, **features})
        model.chunked_loss = False

    return {
        "features": lambda: step({**batch, **features}),
        "chunked": chunked,
        "raw inputs": lambda: step({**batch, **values}),
        "bare": lambda: bare_step(batch),
    }


def measure(settings: Settings) -> list[Row]:
    return [
        row for size in settings.sizes for row in compare(size, LENGTHS, settings.device, settings.repeats_at(size))
    ]


def compare(size: str, lengths: tuple[int, ...], device: str, repeats: int) -> list[Row]:
    steps = make_steps(size, device, lengths)
    found = interleave({name: partial(timed, run, device) for name, run in steps.items()}, repeats)
    where = f"{size}, batch {len(lengths)} of {min(lengths)}-{max(lengths)} tokens"
    speeds = {name: [sum(lengths) / seconds for seconds in runs] for name, runs in found.items()}
    return [
        Row(
            "sft",
            f"tokens/s of a LoRA step over the bare model's, {how}, {where}",
            divide(speeds[name], speeds["bare"]),
            at_least=target,
            note=medians({side: speeds[side] for side in (name, "bare")}, "tokens/s"),
        )
        for name, how, target in (
            ("features", "feature cache", 0.9),
            ("chunked", "feature cache, `chunked_loss`", 0.9),
            ("raw inputs", "raw inputs, frozen encoders included", None),
        )
    ]
