# SPDX-License-Identifier: Apache-2.0
"""RFT's rollouts through vLLM held against those of transformers: tokens, log-probabilities, rewards and time."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from trl import GRPOConfig

from medtvt_training.data.collator import MedTVTDataCollator
from medtvt_training.data.load import load_medtvt_qa
from medtvt_training.serving.vllm_engine import VllmEngine
from medtvt_training.stages.grpo_trainer import MedTVTGRPOTrainer
from medtvt_training.stages.rewards import format_reward, jaccard_reward
from medtvt_training.synthetic.cohort import write_cohort
from modeling_medtvt.checkpoint_folder import open_checkpoint

from .answers import draw_lora


GENERATIONS = 4
TOLERANCE = 1e-3  # of a log-probability in float32


def make_trainer(model_folder: Any, data: Path, engine: VllmEngine | None, **settings: Any) -> MedTVTGRPOTrainer:
    """RFT of a drawn adapter on the diseased patients of a dataset."""
    model, processor = open_checkpoint(model_folder, dtype="auto")
    model.model.freeze_encoders()
    rows = load_medtvt_qa(data, "diagnosis", "train")
    arguments = {
        **{"output_dir": str(data / "out"), "num_generations": GENERATIONS, "max_completion_length": 340},
        **{"per_device_train_batch_size": 4 * GENERATIONS, "bf16": False, "use_cpu": True, "save_strategy": "no"},
        **{"report_to": [], "logging_steps": 1, "disable_tqdm": True, "shuffle_dataset": False, "beta": 0.04},
        **{"gradient_checkpointing": False, "learning_rate": 1e-3, **settings},
    }
    return MedTVTGRPOTrainer(
        draw_lora(model),
        [format_reward, jaccard_reward],
        args=GRPOConfig(**arguments),
        train_dataset=rows.filter(lambda row: bool(row["diseases"])),
        data_collator=MedTVTDataCollator(processor),
        rollout_engine=engine,
    )


def compare_rollouts(model_folder: str | os.PathLike, data: Path, number: int, url: str) -> int:
    """How many greedy completions differ, or have a token whose log-probability does."""
    write_cohort(data, 4 * number)
    settings = {"generation_kwargs": {"do_sample": False}, "steps_per_generation": 2}
    ours = make_trainer(model_folder, data, None, **settings)
    theirs = make_trainer(model_folder, data, engine := VllmEngine(url), **settings)
    logps = _keep_logps(engine)
    differing, equal, largest = 0, 0, 0.0
    for row in list(ours.train_dataset)[:number]:
        outputs = [trainer._generate_and_score_completions([row] * GENERATIONS) for trainer in (ours, theirs)]
        ids, other = (output["completion_ids"][output["completion_mask"].bool()].tolist() for output in outputs)
        if ids != other:
            differing += 1
            print(f"{row['id']}: the completions differ:\n  transformers {ids}\n  vLLM         {other}")
            continue
        found = torch.tensor([value for one in logps[-GENERATIONS:] for value in one])
        expected = outputs[1]["old_per_token_logps"][outputs[1]["completion_mask"].bool()]
        gap = (found - expected).abs().max().item()
        largest = max(largest, gap)
        differing += gap > TOLERANCE
        equal += gap <= TOLERANCE
    print(f"rollouts: {equal} of {number} groups are equal; log-probabilities at most {largest:.1e} apart", flush=True)
    theirs._rollouts.engine.unload_adapter()  # type: ignore[union-attr]  # it has one
    return differing


def _keep_logps(engine: VllmEngine) -> list[list[float]]:
    """A list that gets the log-probabilities of each completion that the engine writes."""
    kept: list[list[float]] = []
    complete = engine.complete

    def complete_and_keep(embeds: Any, **settings: Any) -> Any:
        choices = complete(embeds, **{**settings, "logprobs": 1})
        kept.extend(choice["logprobs"]["token_logprobs"] for choice in choices)
        return choices

    engine.complete = complete_and_keep  # type: ignore[method-assign]
    return kept


def compare_runs(model_folder: str | os.PathLike, data: Path, steps: int, url: str) -> None:
    """Prints what a run through each earns, seconds a step, and the share of them that is rollout."""
    write_cohort(data, 16 * steps)
    for name, engine in (("transformers", None), ("vLLM", VllmEngine(url))):
        trainer = make_trainer(model_folder, data, engine, max_steps=steps)
        clock = Clock(trainer._generate_single_turn)
        trainer._generate_single_turn = clock  # type: ignore[method-assign]
        began = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - began
        rewards = [round(entry["reward"], 3) for entry in trainer.state.log_history if "reward" in entry]
        kl = [round(entry["kl"], 4) for entry in trainer.state.log_history if "kl" in entry]
        share = clock.seconds / seconds
        print(
            f"RFT, {name}: {seconds / steps:.1f} s a step, {share:.0%} of it rollout; rewards {rewards}, KL {kl}",
            flush=True,
        )
        if engine is not None:
            engine.unload_adapter()


class Clock:
    """A function, with the seconds that it took."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function, self.seconds = function, 0.0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        try:
            return self.function(*args, **kwargs)
        finally:
            self.seconds += time.perf_counter() - began
