# SPDX-License-Identifier: Apache-2.0
"""
One RFT step of `MedTVTGRPOTrainer` against a naive subclass, which encodes and prefills every row in every pass, and its
rollout against the bare language model's `generate`.

The theoretical saving is what the naive step spends on repeated encoders and prefill, each measured by itself.
"""

import statistics
import tempfile
import time
from collections import defaultdict
from functools import partial
from typing import Any

import torch
from peft import PeftModel
from trl import GRPOConfig, GRPOTrainer

from medtvt_training.data.collator import MedTVTDataCollator
from medtvt_training.data.load import load_medtvt_qa
from medtvt_training.stages.grpo_trainer import MedTVTGRPOTrainer
from medtvt_training.stages.initialize import default_processor, tiny_tokenizer
from modeling_medtvt.modeling_medtvt import RAW_INPUT_NAMES

from .harness import Row, Settings, divide, interleave, medians, synchronize, timed
from .sft import lora_config
from .shapes import bare, build, encode, make_prompt, make_values
from tests.toy import write_toy_dataset


PROMPT, COMPLETION, GENERATIONS = 256, 256, 8


class NaiveTrainer(MedTVTGRPOTrainer):
    """Raw inputs, one row a completion and its whole prompt, in every pass."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._shares_prompts = False

    def _tokenize_prompts(self, prompts):
        prompt_ids, images, inputs = super()._tokenize_prompts(prompts)
        self._modality_inputs = {name: tensor[self._row_of] for name, tensor in inputs.items()}
        return prompt_ids, images, dict(self._modality_inputs)

    def _generate_single_turn(self, *args, **kwargs):
        return GRPOTrainer._generate_single_turn(self, *args, **kwargs)

    def _compute_loss(self, model, inputs):
        inputs = {name: value for name, value in inputs.items() if name not in RAW_INPUT_NAMES}
        return GRPOTrainer._compute_loss(self, model, inputs)


def length_reward(completions, **kwargs):
    return [float(len(completion[-1]["content"])) for completion in completions]


def stretch(row: dict, collator: MedTVTDataCollator, length: int) -> dict:
    """The row with a question of `length` tokens."""

    def longer(words):
        content = [*row["prompt"][0]["content"], {"type": "text", "text": " a" * words, "modalities": None}]
        return {**row, "prompt": [{"role": "user", "content": content}]}

    words = next(words for words in range(2 * length) if len(collator.encode(longer(words))[0]) >= length)
    return longer(words)


def make_config(folder: str, device: str, generations: int, completion: int) -> GRPOConfig:
    return GRPOConfig(
        output_dir=folder,
        max_steps=1,
        report_to=[],
        beta=0.04,
        loss_type="grpo",
        bf16=device == "cuda",
        use_cpu=device == "cpu",
        gradient_checkpointing=False,
        per_device_train_batch_size=generations,
        num_generations=generations,
        max_completion_length=completion,
        generation_kwargs={"min_new_tokens": completion},
    )


def prepare(trainer: Any) -> Any:
    """What `train` does before its first step, as far as a step needs it."""
    trainer.create_optimizer()
    trainer.current_gradient_accumulation_steps = 1
    return trainer


def make_trainer(trainer_class, size: str, dataset, processor, config: GRPOConfig, device: str) -> MedTVTGRPOTrainer:
    """All of the language model is trained at the tiny size, LoRA at the others, as in the recipes."""
    model, peft_config = build(size, device), None
    if size == "tiny":
        model.requires_grad_(False)
        model.model.language_model.requires_grad_(True)
        model.model.perception.requires_grad_(True)
    else:
        peft_config = lora_config(modules_to_save=["perception"])
    trainer = trainer_class(
        model,
        reward_funcs=[length_reward],
        args=config,
        train_dataset=dataset,
        data_collator=MedTVTDataCollator(processor),
        peft_config=peft_config,
    )
    return prepare(trainer)


def base_model(trainer: GRPOTrainer):
    return trainer.model.get_base_model() if isinstance(trainer.model, PeftModel) else trainer.model


def watch(trainer: Any) -> tuple[dict, dict]:
    """Seconds of the last rollout, and the encoders' calls; both are filled by the trainer's passes."""
    seconds: dict[str, float] = defaultdict(float)
    calls: dict[int, int] = defaultdict(int)
    generate = trainer._generate_single_turn

    def timed_rollout(*args, **kwargs):
        start = time.perf_counter()
        output = generate(*args, **kwargs)
        synchronize(trainer.accelerator.device.type)
        seconds["rollout"] = time.perf_counter() - start
        return output

    trainer._generate_single_turn = timed_rollout
    models = [base_model(trainer), *([trainer.ref_model] if trainer.ref_model is not None else [])]

    def count(module, args, kwargs):
        calls[len(kwargs.get("pixel_values", args[0] if args else ()))] += 1

    for model in models:
        model.model.cxr_encoder.register_forward_pre_hook(count, with_kwargs=True)
    return seconds, calls


def step(trainer: Any, rows: list[dict]) -> float:
    """Rollout, scoring, loss, backward and optimizer step; the seconds of the last three."""
    trainer.model.train()
    inputs = trainer._generate_and_score_completions([dict(row) for row in rows])

    def update():
        with trainer.compute_loss_context_manager():
            loss = trainer.compute_loss(trainer.model, inputs)
        loss.backward()
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()

    return timed(update, trainer.accelerator.device.type)


def measure(settings: Settings) -> list[Row]:
    shape = PROMPT, COMPLETION, GENERATIONS
    divisor = 5 if settings.device == "cpu" else 2  # minutes a step
    return [
        row
        for size in settings.sizes
        for row in compare(size, settings.device, *shape, settings.repeats_at(size, divisor))
    ]


def compare(size: str, device: str, prompt: int, completion: int, generations: int, repeats: int) -> list[Row]:
    processor = default_processor(tiny_tokenizer())
    with tempfile.TemporaryDirectory() as folder:
        dataset = load_medtvt_qa(write_toy_dataset(folder, 12), "diagnosis", "train")
        dataset = dataset.filter(lambda row: bool(row["diseases"]))
        row = next(row for row in dataset if len(row["modalities"]) == 3)
        rows = [stretch(row, MedTVTDataCollator(processor), prompt)] * generations
        config = make_config(folder, device, generations, completion)
        trainers = {
            name: make_trainer(trainer_class, size, dataset, processor, config, device)
            for name, trainer_class in (("naive", NaiveTrainer), ("medtvt", MedTVTGRPOTrainer))
        }
        watched = {name: watch(trainer) for name, trainer in trainers.items()}

        def run(name):
            seconds, calls = watched[name]
            calls.clear()
            whole = timed(lambda: seconds.update(update=step(trainers[name], rows)), device)
            seconds["scoring"] = whole - seconds["rollout"] - seconds["update"]
            return {"step": whole, **seconds, "calls": dict(calls)}

        sides = {name: partial(run, name) for name in trainers}
        sides |= single_costs(trainers["medtvt"], prompt, generations, device)
        found = interleave(sides, repeats)
    for name, trainer in trainers.items():
        assert abs(trainer._metrics["train"]["kl"][0]) < (1e-2 if device == "cuda" else 1e-3), (
            f"{name}: the passes do not see the same inputs"
        )
    return make_rows(found, generations, f"{size}, prompt {prompt}, completion {completion}, G = {generations}")


def single_costs(trainer: MedTVTGRPOTrainer, prompt: int, generations: int, device: str) -> dict:
    """The bare rollout, and one pass of the encoders and one prefill, each of G rows and of one."""
    model = base_model(trainer)
    plain, config = bare(model), trainer.generation_config
    values = {rows: make_values(rows, device) for rows in (generations, 1)}
    prompts = {rows: make_prompt(model.config, rows, prompt, device) for rows in (generations, 1)}

    def rollout():
        model.eval()
        plain.generate(**prompts[generations], generation_config=config)

    @torch.no_grad()
    def prefill(rows):
        model.eval()
        plain(**prompts[rows], use_cache=True, logits_to_keep=1)

    costs = {"bare": rollout}
    for rows in (generations, 1):
        costs[f"encoders {rows}"] = partial(encode, model, values[rows])
        costs[f"prefill {rows}"] = partial(prefill, rows)
    autocast = torch.autocast(device, torch.bfloat16, enabled=device == "cuda")  # as the trainer's passes
    return {name: partial(timed, autocast(run), device) for name, run in costs.items()}


def make_rows(found: dict[str, list], generations: int, where: str) -> list[Row]:
    steps = {name: [run["step"] for run in found[name]] for name in ("medtvt", "naive")}
    rollouts = [run["rollout"] for run in found["medtvt"]]
    # the encoders' cost for each number of rows that they were called with
    spent = {
        name: [
            sum(calls * found[f"encoders {rows}"][i] for rows, calls in run["calls"].items())
            for i, run in enumerate(found[name])
        ]
        for name in steps
    }
    prefills = [found[f"prefill {generations}"], found["prefill 1"]]
    allowed = [a - b + many - one for a, b, many, one in zip(spent["naive"], spent["medtvt"], *prefills)]
    reached = [naive - medtvt for naive, medtvt in zip(steps["naive"], steps["medtvt"])]
    allowed_ratio = statistics.median(naive / (naive - saving) for naive, saving in zip(steps["naive"], allowed))
    calls = {
        name: " + ".join(f"{n} of {rows}" for rows, n in found[name][0]["calls"].items())
        for name in ("naive", "medtvt")
    }
    parts = {part: [run[part] for run in found["medtvt"]] for part in ("rollout", "scoring", "update")}
    return [
        Row(
            "grpo",
            f"naive step's time over the step's, {where}",
            divide(steps["naive"], steps["medtvt"]),
            note=f"{medians(steps)}; theoretical ratio {allowed_ratio:.3g}; encoder passes (rows): naive {calls['naive']}, "
            f"medtvt {calls['medtvt']}; parts of ours, rewards with the scoring: {medians(parts)}",
        ),
        Row(
            "grpo",
            f"measured saving as a fraction of the theoretical one, {where}",
            divide(reached, allowed),
            at_least=0.9,
            note=medians({"reached": reached, "allowed": allowed}),
        ),
        Row(
            "grpo",
            f"rollout tokens/s over bare `generate`, {where}",
            divide(found["bare"], rollouts),
            at_least=0.95,
            note=medians({"medtvt": rollouts, "bare": found["bare"]}),
        ),
    ]
