# SPDX-License-Identifier: Apache-2.0
"""A tiny RFT: rows, policy and trainer."""

import copy

import pytest
from trl import GRPOConfig

from medtvt_training.data.collator import MedTVTDataCollator
from medtvt_training.data.load import load_medtvt_qa
from medtvt_training.stages.grpo_trainer import MedTVTGRPOTrainer
from medtvt_training.stages.initialize import default_processor

from .grpo_toy import MAX_NEW_TOKENS, NUM_GENERATIONS, length_reward
from tests.toy import write_toy_dataset


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Patients with a disease; the second of them lacks the labs."""
    dataset = load_medtvt_qa(write_toy_dataset(tmp_path_factory.mktemp("toy"), 12), "diagnosis", "train")
    dataset = dataset.select([i for i, diseases in enumerate(dataset["diseases"]) if diseases])
    partial = [i for i, modalities in enumerate(dataset["modalities"]) if len(modalities) < 3]
    whole = [i for i in range(len(dataset)) if i not in partial]
    return dataset.select([whole[0], partial[0], *whole[1:3]])


@pytest.fixture(scope="module")
def processor(tokenizer):
    return default_processor(tokenizer)


@pytest.fixture
def policy(model):
    """A tiny model that samples different answers: its tied embeddings, scaled up elsewhere, would repeat one token."""
    policy = copy.deepcopy(model)
    policy.model.language_model.embed_tokens.weight.data.mul_(0.2)
    return policy


@pytest.fixture
def make_trainer(rows, processor, tmp_path):
    def make(model, **kwargs):
        own = ("reward_funcs", "train_dataset", "eval_dataset", "data_collator", "peft_config", "callbacks", "refill")
        own += ("rollout_engine",)
        arguments = {
            **{"output_dir": str(tmp_path / "out"), "max_steps": 1, "per_device_train_batch_size": 8, "beta": 0.04},
            **{"num_generations": NUM_GENERATIONS, "max_completion_length": MAX_NEW_TOKENS, "learning_rate": 1e-2},
            **{"bf16": False, "use_cpu": True, "save_strategy": "no", "report_to": [], "logging_steps": 1},
            **{"disable_tqdm": True, "shuffle_dataset": False, "gradient_checkpointing": False},
            **{name: value for name, value in kwargs.items() if name not in own},
        }
        return MedTVTGRPOTrainer(
            model,
            args=GRPOConfig(**arguments),
            **{
                **{"reward_funcs": [length_reward], "train_dataset": rows},
                **{"data_collator": MedTVTDataCollator(processor)},
                **{name: value for name, value in kwargs.items() if name in own},
            },
        )

    return make
