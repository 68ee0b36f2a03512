# SPDX-License-Identifier: Apache-2.0
"""RFT, the third stage: GRPO rewards format and diagnoses, and the SFT model holds it (paper, 3.2.2)."""

import logging

import pyarrow.compute as pc
from datasets import Dataset
from transformers import EarlyStoppingCallback, set_seed
from trl import GRPOConfig

from modeling_medtvt import MedTVTForCausalLM
from processing_medtvt import MedTVTProcessor

from ..data.collator import MedTVTDataCollator
from ..data.columns import read_column
from ..data.feature_cache import FeatureCache
from ..serving.vllm_engine import VllmEngine
from .arguments import DataArguments, ModelArguments, ReinforceArguments
from .callbacks import DiseaseF1Callback, FiniteLossCallback, SaveConfigCallback
from .checkpoints import check_fits, explain_write_errors, find_checkpoint, output_folder
from .grpo_trainer import MedTVTGRPOTrainer
from .launch import check_launch, check_same_rows, set_fsdp_layers
from .model import check_precision, load_model, lora_config, record_training_data, set_trainable
from .result import save_result
from .rewards import REWARDS
from .rows import cache_features, load_rows
from .samples import SampleCallback


logger = logging.getLogger(__name__)


def reinforce(
    model_arguments: ModelArguments,
    data_arguments: DataArguments,
    arguments: ReinforceArguments,
    training: GRPOConfig,
) -> MedTVTGRPOTrainer:
    """
    Runs RFT from its arguments to its saved result.

    Args:
        model_arguments ([`ModelArguments`]): `model` is the merged SFT folder, which is the reference of the KL term too.
        data_arguments ([`DataArguments`]): The diagnosis rows; patients without a listed disease are left out, unless the
            rewards have `empty`.
        arguments ([`ReinforceArguments`]): Rewards, refill, selection and samples.
        training (`trl.GRPOConfig`): The rest.

    Returns:
        The [`MedTVTGRPOTrainer`], as it is after training.

    Raises:
        ValueError: before the first step, if arguments, model, data or checkpoint are not what they should be; later, if
            a reward, the loss or a gradient is not finite.
        OSError: if a file cannot be read or written.
    """
    if unknown := [name for name in arguments.rewards if name not in REWARDS]:
        raise ValueError(f"`rewards` has {', '.join(unknown)}; accepted are {', '.join(REWARDS)}.")
    if arguments.patience and not training.load_best_model_at_end:
        raise ValueError("`patience` needs `load_best_model_at_end`, and with it `metric_for_best_model`.")
    if arguments.eval_answers and training.eval_strategy == "no":
        raise ValueError("`eval_answers` needs an `eval_strategy`: answers are given at evaluations.")
    if arguments.rollout_engine == "vllm" and model_arguments.tuning != "lora":
        raise ValueError("`rollout_engine: vllm` hands LoRA to the server: it needs `tuning: lora`.")
    engine = VllmEngine(arguments.rollout_url) if arguments.rollout_engine == "vllm" else None
    check_launch(training)
    check_precision(model_arguments, training)
    checkpoint = find_checkpoint(training, data_arguments.resume)
    set_seed(training.seed)
    model, processor, is_drawn = load_model("rft", model_arguments, training.device)
    if is_drawn:
        raise ValueError(f"{model_arguments.model} has no perception layer: RFT starts from SFT's result.")
    record_training_data(model, "rft", data_arguments.data)
    set_fsdp_layers(training, model)
    keeps_healthy = "empty" in arguments.rewards
    splits, cache = _load_splits(data_arguments, training, model, processor, keeps_healthy)
    peft_config = lora_config("rft", model_arguments) if model_arguments.tuning == "lora" else None
    collator = MedTVTDataCollator(processor, cache)
    trainer = MedTVTGRPOTrainer(
        model if peft_config else set_trainable(model, "rft", model_arguments),
        reward_funcs=[REWARDS[name] for name in arguments.rewards],
        args=training,
        train_dataset=splits["train"],
        eval_dataset=splits.get("validation"),
        data_collator=collator,
        callbacks=[SaveConfigCallback()],
        peft_config=peft_config,
        refill=arguments.refill,
        rollout_engine=engine,
    )
    trainer.add_callback(FiniteLossCallback(trainer.model))
    trainer.add_callback(SampleCallback(trainer, arguments.sample_completions))
    if arguments.eval_answers:
        trainer.add_callback(DiseaseF1Callback(trainer, splits["validation"], collator, arguments.eval_answers))
    if arguments.patience:
        trainer.add_callback(EarlyStoppingCallback(arguments.patience))
    if checkpoint:
        check_fits(checkpoint, trainer.model)
    with explain_write_errors(output_folder(training)):
        trainer.train(resume_from_checkpoint=checkpoint)
        _compare_with_start(trainer)
        save_result(trainer, model_arguments)
    return trainer


def _load_splits(
    arguments: DataArguments,
    training: GRPOConfig,
    model: MedTVTForCausalLM,
    processor: MedTVTProcessor,
    keeps_healthy: bool,
) -> tuple[dict[str, Dataset], FeatureCache | None]:
    """The rows of each split that can earn a reward, and the feature cache where there is one."""
    names = ["train"] if training.eval_strategy == "no" else ["train", "validation"]
    splits = {name: load_rows("rft", name, arguments, training, processor) for name in names}
    if not keeps_healthy:
        splits = {name: _keep_diseased(dataset, name) for name, dataset in splits.items()}
    check_same_rows(splits)
    return cache_features(splits, arguments, training, model, processor)


def _keep_diseased(dataset: Dataset, split: str) -> Dataset:
    """The rows that can earn the Jaccard reward; says how many there are not."""
    kept = pc.list_value_length(read_column(dataset, "diseases")).to_numpy().nonzero()[0]
    logger.info("%s: %d of %d rows list no disease and are left out.", split, len(dataset) - len(kept), len(dataset))
    return dataset.select(kept)


def _compare_with_start(trainer: MedTVTGRPOTrainer) -> None:
    """Says so where the best checkpoint is no better than the model that RFT started from, which no checkpoint holds."""
    state, name = trainer.state, trainer.args.metric_for_best_model
    if state.best_metric is None or not name:
        return
    key = name if name.startswith("eval_") else f"eval_{name}"
    start = next((entry[key] for entry in state.log_history if entry["step"] == 0 and key in entry), None)
    gain = None if start is None else state.best_metric - start
    if gain is not None and (gain <= 0 if trainer.args.greater_is_better else gain >= 0):
        logger.warning(
            "RFT gained nothing: %s is %.4f at its best (step %s) and was %.4f before. Keep the model that it started from.",
            *(key, state.best_metric, state.best_global_step, start),
        )
