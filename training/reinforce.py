# SPDX-License-Identifier: Apache-2.0
"""`medtvt reinforce`: RFT, the third stage. GRPO rewards format and diagnoses, and the SFT model holds it (paper, 3.2.2)."""

import sys
from dataclasses import dataclass, field

from .arguments import DataArguments, ModelArguments, add_stage_arguments, parse_stage_arguments
from .cli import main


@dataclass
class ReinforceArguments:
    """What only RFT has."""

    rewards: list[str] = field(
        default_factory=lambda: ["format", "jaccard"],
        metadata={"help": "What to reward: format, jaccard, graded_format, evidence. `reward_weights` weighs them."},
    )
    sample_completions: int = field(
        default=8, metadata={"help": "Completions to add to samples.jsonl at each log, with their patients' diseases."}
    )


ARGUMENTS = (ModelArguments, DataArguments, ReinforceArguments)


def add_arguments(parser):
    """Arguments of `medtvt reinforce`."""
    add_stage_arguments(parser, "reinforce", ARGUMENTS)
    parser.epilog = parser.epilog.replace("transformers.TrainingArguments", "trl.GRPOConfig")


def run(args):
    """Entry point of `medtvt reinforce`."""
    from trl import GRPOConfig

    reinforce(*parse_stage_arguments("reinforce", (*ARGUMENTS, GRPOConfig), args.config, args.overrides))


def reinforce(model_arguments: ModelArguments, data_arguments: DataArguments, arguments: ReinforceArguments, training):
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

    from . import stages
    from .callbacks import FiniteLossCallback, SaveConfigCallback
    from .collator import MedTVTDataCollator
    from .grpo_trainer import MedTVTGRPOTrainer, SampleCallback
    from .rewards import REWARDS

    if not training.output_dir:
        raise ValueError("`output_dir` is missing: the folder for checkpoints and result.")
    if unknown := [name for name in arguments.rewards if name not in REWARDS]:
        raise ValueError(f"`rewards` has {', '.join(unknown)}; accepted are {', '.join(REWARDS)}.")
    checkpoint = stages.find_checkpoint(training, data_arguments.resume)
    set_seed(training.seed)
    model, processor, is_drawn = stages.load_model("rft", model_arguments, training.device)
    if is_drawn:
        raise ValueError(f"{model_arguments.model} has no perception layer: RFT starts from SFT's result.")
    stages.record_training_data(model.config, "rft", data_arguments.data)
    model.to(training.device)
    names = ["train"] if training.eval_strategy == "no" else ["train", "validation"]
    splits = {name: _keep_diseased(stages.load_rows("rft", name, data_arguments, processor), name) for name in names}
    cache = None
    if data_arguments.feature_cache:
        splits, cache = stages.cache_features(splits, data_arguments.feature_cache, training, model, processor)
    peft_config = None
    if model_arguments.tuning == "lora":
        peft_config = stages.lora_config("rft", model_arguments)
    else:
        model = stages.set_trainable(model, "rft", model_arguments)
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
        stages.check_fits(checkpoint, trainer.model)
    with stages.explain_write_errors(training.output_dir):
        trainer.train(resume_from_checkpoint=checkpoint)
        stages.save_result(trainer, model_arguments)
    return trainer


def _keep_diseased(dataset, split: str):
    """The rows that can earn the Jaccard reward; says how many there are not."""
    kept = [i for i, diseases in enumerate(dataset["diseases"]) if diseases]
    print(f"{split}: {len(dataset) - len(kept)} of {len(dataset)} rows list no disease and are left out.")
    return dataset.select(kept)


if __name__ == "__main__":
    sys.exit(main(["reinforce", *sys.argv[1:]]))
