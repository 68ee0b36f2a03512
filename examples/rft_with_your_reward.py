# SPDX-License-Identifier: Apache-2.0
"""
RFT (GRPO) with a reward of your own beside the paper's two.

A reward is a function of the completions and of whatever it names of the dataset's columns; it returns a number each. This one
asks for short reasonings.

    python examples/rft_with_your_reward.py --data cohort --model sft/final --out rft

writes a LoRA adapter to `rft`; `medtvt merge` folds it into the model. Research use only.
"""

import argparse
from typing import Any

import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoProcessor
from trl import GRPOConfig

import modeling_medtvt
from medtvt_training import MedTVTDataCollator, MedTVTGRPOTrainer, load_medtvt_qa
from medtvt_training.stages.completion import completion_text
from medtvt_training.stages.rewards import format_reward, jaccard_reward


FEW_WORDS = 80


def brevity_reward(completions: list[Any], **columns: Any) -> list[float]:
    """1 for a reasoning of at most `FEW_WORDS` words, less for a longer one, 0 for none."""
    rewards = []
    for completion in completions:
        reasoning = modeling_medtvt.parse_answer(completion_text(completion)).reasoning
        words = len((reasoning or "").split())
        rewards.append(min(1.0, FEW_WORDS / words) if words else 0.0)
    return rewards


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a MedTVT-QA folder")
    parser.add_argument("--model", required=True, help="the result of SFT")
    parser.add_argument("--out", required=True)
    parser.add_argument("--max-steps", type=int, default=100)
    parser.add_argument("--max-completion-length", type=int, default=256)
    args = parser.parse_args(arguments)

    model = AutoModelForCausalLM.from_pretrained(args.model)
    processor = AutoProcessor.from_pretrained(args.model)
    rows = load_medtvt_qa(args.data, "diagnosis", "train").filter(lambda row: bool(row["diseases"]))
    on_gpu = torch.cuda.is_available()
    trainer = MedTVTGRPOTrainer(
        model,
        reward_funcs=[format_reward, jaccard_reward, brevity_reward],
        args=GRPOConfig(
            output_dir=args.out,
            max_steps=args.max_steps,
            max_completion_length=args.max_completion_length,
            num_generations=4,
            per_device_train_batch_size=8,
            beta=0.04,
            learning_rate=1e-5,
            reward_weights=[1.0, 1.0, 0.2],
            bf16=on_gpu,
            use_cpu=not on_gpu,
            gradient_checkpointing=False,
            report_to=[],
            logging_steps=1,
            save_strategy="no",
        ),
        train_dataset=rows,
        data_collator=MedTVTDataCollator(processor),
        peft_config=LoraConfig(
            task_type="CAUSAL_LM",
            target_modules=r".*language_model.*\.(q_proj|v_proj)",
            modules_to_save=["perception"],
        ),
    )
    trainer.train()
    trainer.save_model(args.out)
    processor.save_pretrained(args.out)
    print(f"Written to {args.out}. Next: medtvt merge --adapter {args.out} --out merged")


if __name__ == "__main__":
    main()
