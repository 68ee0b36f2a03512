# SPDX-License-Identifier: Apache-2.0
"""RFT, the third stage: GRPO rewards format and diagnoses, and the SFT model holds it (paper, 3.2.2)."""

import logging
from typing import TYPE_CHECKING

from datasets import Dataset

from .arguments import DataArguments, ModelArguments, ReinforceArguments


if TYPE_CHECKING:  # trl takes long to import
    from trl import GRPOConfig

    from .grpo_trainer import MedTVTGRPOTrainer


logger = logging.getLogger(__name__)


def reinforce(
    model_arguments: ModelArguments,
    data_arguments: DataArguments,
    arguments: ReinforceArguments,
    training: "GRPOConfig",
) -> "MedTVTGRPOTrainer":
    """
    Runs RFT from its arguments to its saved result.

    Args:
        model_arguments ([`ModelArguments`]): `model` is the merged SFT folder, which is the reference of the KL term too.
        data_arguments ([`DataArguments`]): The diagnosis rows; patients without a listed disease are left out.
        arguments ([`ReinforceArguments`]): Rewards and samples.
        training (`trl.GRPOConfig`): The rest.

    Returns:
        The [`MedTVTGRPOTrainer`], as it is after training.

    Raises:
        ValueError: before the first step, if arguments, model, data or checkpoint are not what they should be; later, if
            a reward, the loss or a gradient is not finite.
        OSError: if a file cannot be read or written.
    """
    from transformers import set_seed

    from ..data.collator import MedTVTDataCollator
    from .callbacks import FiniteLossCallback, SaveConfigCallback
    from .checkpoints import check_fits, explain_write_errors, find_checkpoint
    from .grpo_trainer import MedTVTGRPOTrainer, SampleCallback
    from .model import load_model, lora_config, record_training_data, set_trainable
    from .result import save_result
    from .rewards import REWARDS
    from .rows import cache_features, load_rows

    if not training.output_dir:
        raise ValueError("`output_dir` is missing: the folder for checkpoints and result.")
    if unknown := [name for name in arguments.rewards if name not in REWARDS]:
        raise ValueError(f"`rewards` has {', '.join(unknown)}; accepted are {', '.join(REWARDS)}.")
    checkpoint = find_checkpoint(training, data_arguments.resume)
    set_seed(training.seed)
    model, processor, is_drawn = load_model("rft", model_arguments, training.device)
    if is_drawn:
        raise ValueError(f"{model_arguments.model} has no perception layer: RFT starts from SFT's result.")
    record_training_data(model, "rft", data_arguments.data)
    model.to(training.device)
    names = ["train"] if training.eval_strategy == "no" else ["train", "validation"]
    splits = {name: _keep_diseased(load_rows("rft", name, data_arguments, processor), name) for name in names}
    cache = None
    if data_arguments.feature_cache:
        splits, cache = cache_features(splits, data_arguments.feature_cache, training, model, processor)
    peft_config = None
    if model_arguments.tuning == "lora":
        peft_config = lora_config("rft", model_arguments)
    else:
        model = set_trainable(model, "rft", model_arguments)
    trainer = MedTVTGRPOTrainer(
        model,
        reward_funcs=[REWARDS[name] for name in arguments.rewards],
        args=training,
        train_dataset=splits["train"],
        eval_dataset=splits.get("validation"),
        data_collator=MedTVTDataCollator(processor, cache),
        callbacks=[SaveConfigCallback()],
        peft_config=peft_config,
    )
    trainer.add_callback(FiniteLossCallback(trainer.model))
    trainer.add_callback(SampleCallback(trainer, arguments.sample_completions))
    if checkpoint:
        check_fits(checkpoint, trainer.model)
    with explain_write_errors(training.output_dir):
        trainer.train(resume_from_checkpoint=checkpoint)
        save_result(trainer, model_arguments)
    return trainer


def _keep_diseased(dataset: Dataset, split: str) -> Dataset:
    """The rows that can earn the Jaccard reward; says how many there are not."""
    kept = [i for i, diseases in enumerate(dataset["diseases"]) if diseases]
    logger.info("%s: %d of %d rows list no disease and are left out.", split, len(dataset) - len(kept), len(dataset))
    return dataset.select(kept)
