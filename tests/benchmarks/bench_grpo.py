# SPDX-License-Identifier: Apache-2.0
"""
One RFT step of `MedTVTGRPOTrainer` against a naive subclass, which encodes and prefills every row in every pass.

    python -m tests.benchmarks.bench_grpo                      tiny encoders
    python -m tests.benchmarks.bench_grpo --paper-encoders     encoders of the paper's size

Prints JSON: CPU seconds of each phase (medians of interleaved steps), which other load on the machine changes little;
encoder calls and rows, prefilled rows, the ratio of the step times, and KL at step 0.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections import defaultdict

import torch
from trl import GRPOConfig, GRPOTrainer

from modeling_medtvt import MedTVTConfig, MedTVTForCausalLM
from modeling_medtvt.modeling_medtvt import RAW_INPUT_NAMES
from tests.training.toy_dataset import write_toy_dataset
from training.collator import MedTVTDataCollator
from training.data import load_medtvt_qa
from training.grpo_trainer import MedTVTGRPOTrainer
from training.initialize import default_processor, tiny_config, tiny_tokenizer


class NaiveTrainer(MedTVTGRPOTrainer):
    """Raw inputs, one row a completion, in every pass."""

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


def build_model(tokenizer, arguments):
    config = tiny_config(tokenizer)
    text = {
        **{"hidden_size": arguments.hidden_size, "intermediate_size": 3 * arguments.hidden_size},
        **{"num_hidden_layers": arguments.layers, "num_attention_heads": arguments.hidden_size // 64},
        **{"num_key_value_heads": arguments.hidden_size // 64, "head_dim": 64, "max_position_embeddings": 1024},
    }
    fields = {**config.to_dict(), "text_config": {**config.text_config.to_dict(), **text}}
    if arguments.paper_encoders:
        for name in ("ecg_config", "cxr_config", "lab_config", "cxr_sequence_length", "cxr_hidden_size"):
            fields[name] = MedTVTConfig().to_dict()[name]
    torch.manual_seed(0)
    return MedTVTForCausalLM(MedTVTConfig(**fields))


def stretch(row, collator, length):
    """The row with a question of `length` tokens."""

    def longer(words):
        content = [*row["prompt"][0]["content"], {"type": "text", "text": " a" * words, "modalities": None}]
        return {**row, "prompt": [{"role": "user", "content": content}]}

    words = next(words for words in range(2 * length) if len(collator.encode(longer(words))[0]) >= length)
    return longer(words)


def make_trainer(trainer_class, model, dataset, processor, folder, arguments):
    config = GRPOConfig(
        **{"output_dir": folder, "max_steps": 1, "bf16": False, "use_cpu": True, "report_to": [], "beta": 0.04},
        **{"per_device_train_batch_size": arguments.prompts * arguments.num_generations, "loss_type": "grpo"},
        **{"num_generations": arguments.num_generations, "max_completion_length": arguments.completion},
        **{"generation_kwargs": {"min_new_tokens": arguments.completion}, "gradient_checkpointing": False},
    )
    model.requires_grad_(False)
    model.model.language_model.requires_grad_(True)
    model.model.perception.requires_grad_(True)
    trainer = trainer_class(
        model,
        reward_funcs=[length_reward],
        args=config,
        train_dataset=dataset,
        data_collator=MedTVTDataCollator(processor),
    )
    trainer.create_optimizer()
    trainer.current_gradient_accumulation_steps = 1
    return trainer


def watch(trainer):
    """Seconds of each phase and counts of each kind, filled by the trainer's passes."""
    seconds, counts = defaultdict(float), defaultdict(int)

    def timed(name, phase):
        method = getattr(trainer, name)

        def run(*args, **kwargs):
            start = time.process_time()
            try:
                return method(*args, **kwargs)
            finally:
                seconds[phase] += time.process_time() - start

        setattr(trainer, name, run)

    timed("_generate_single_turn", "rollout")
    timed("_calculate_rewards", "reward")
    timed("_generate_and_score_completions", "generate_and_score")
    for model in (trainer.model, trainer.ref_model):
        for name in ("ecg", "cxr", "lab"):
            encoder = getattr(model.model, f"{name}_encoder")

            def count_encoded(module, args, kwargs, name=name):
                counts[f"{name}_encoder_calls"] += 1
                counts[f"{name}_encoder_rows"] += len(next(iter([*args, *kwargs.values()])))

            encoder.register_forward_pre_hook(count_encoded, with_kwargs=True)

    def count_prefilled(module, args, kwargs):
        if kwargs.get("use_cache") and kwargs["input_ids"].shape[1] > 1:
            counts["prefilled_rows"] += len(kwargs["input_ids"])

    trainer.model.model.register_forward_pre_hook(count_prefilled, with_kwargs=True)
    return seconds, counts


def step(trainer, rows, seconds, counts):
    """One optimizer step; its seconds and counts."""
    seconds.clear(), counts.clear()
    trainer.model.train()
    start = time.process_time()
    inputs = trainer._generate_and_score_completions(rows)
    generated = time.process_time()
    trainer.compute_loss(trainer.model, inputs).backward()
    trainer.optimizer.step()
    trainer.optimizer.zero_grad()
    end = time.process_time()
    scoring = seconds["generate_and_score"] - seconds["rollout"] - seconds["reward"]
    phases = {"rollout": seconds["rollout"], "reward": seconds["reward"], "scoring": scoring}
    return {**phases, "update": end - generated, "step": end - start}, dict(counts)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=1, help="unique prompts a step")
    parser.add_argument("--prompt", type=int, default=256, help="tokens of a prompt")
    parser.add_argument("--completion", type=int, default=256, help="tokens of a completion")
    parser.add_argument("--num-generations", type=int, default=8)
    parser.add_argument("--hidden-size", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--paper-encoders", action="store_true", help="encoders of the paper's size")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    tokenizer = tiny_tokenizer()
    processor = default_processor(tokenizer)
    collator = MedTVTDataCollator(processor)
    with tempfile.TemporaryDirectory() as folder:
        dataset = load_medtvt_qa(write_toy_dataset(folder, 12), "diagnosis", "train")
        rows = [row for row in dataset if row["diseases"] and len(row["modalities"]) == 3][: arguments.prompts]
        rows = [stretch(row, collator, arguments.prompt) for row in rows for _ in range(arguments.num_generations)]
        dataset = dataset.filter(lambda row: bool(row["diseases"]))
        found = {}
        for name, trainer_class in (("naive", NaiveTrainer), ("shared", MedTVTGRPOTrainer)):
            model = build_model(tokenizer, arguments)
            trainer = make_trainer(trainer_class, model, dataset, processor, folder, arguments)
            found[name] = (trainer, *watch(trainer), [])
        kl = {}
        for repeat in range(arguments.repeats + 1):
            for name, (trainer, seconds, counts, runs) in found.items():
                runs.append(step(trainer, rows, seconds, counts))
                kl.setdefault(name, trainer._metrics["train"]["kl"][0])
                if not repeat:
                    runs.clear()  # warm-up
    report = {"arguments": vars(arguments), "kl_at_step_0": kl}
    for name, (_, _, _, runs) in found.items():
        phases = {phase: statistics.median(times[phase] for times, _ in runs) for phase in runs[0][0]}
        report[name] = {"seconds": phases, "counts": runs[0][1]}
    ratios = [shared[0]["step"] / naive[0]["step"] for naive, shared in zip(found["naive"][3], found["shared"][3])]
    report["step_time_ratio"] = {"median": statistics.median(ratios), "all": [round(ratio, 3) for ratio in ratios]}
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
