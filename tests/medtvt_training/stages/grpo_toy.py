# SPDX-License-Identifier: Apache-2.0
"""Ways to train a tiny policy by RFT, and what trl makes of a generation batch."""

import torch
from peft import LoraConfig, get_peft_model


TARGETS = r".*language_model\..*\.(q_proj|v_proj|up_proj)"
WAYS = ["fresh adapter", "passed adapter", "perception", "all"]
NUM_GENERATIONS, MAX_NEW_TOKENS = 4, 8


def length_reward(completions, **kwargs):
    return [float(len(completion[-1]["content"])) for completion in completions]


def make_way(way, policy, dropout=0.0):
    """The policy as it is trained in each way, and the keywords of its trainer."""
    config = LoraConfig(target_modules=TARGETS, modules_to_save=["perception"], lora_dropout=dropout)
    if way == "fresh adapter":
        return policy, {"peft_config": config}
    if way == "passed adapter":
        model = get_peft_model(policy, config)
        perturb(model, seed=1)
        return model, {}
    policy.requires_grad_(way == "all")
    policy.model.perception.requires_grad_(True)
    policy.model.freeze_encoders()
    return policy, {}


def perturb(model, seed, scale=0.1):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += scale * torch.randn(parameter.shape, generator=generator)


def score(trainer, rows):
    """What trl makes of a generation batch: each row G times."""
    trainer.model.train()
    return trainer._generate_and_score_completions([row for row in rows for _ in range(NUM_GENERATIONS)])
