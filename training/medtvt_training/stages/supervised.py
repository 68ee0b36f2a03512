# SPDX-License-Identifier: Apache-2.0
"""PT and SFT, from their arguments to their saved results (paper, 3.2.2)."""

from datasets import Dataset
from peft import PeftModel
from transformers import Trainer, TrainingArguments, set_seed

from modeling_medtvt import MedTVTForCausalLM

from ..data.columns import read_column
from .arguments import DataArguments, ModelArguments
from .callbacks import DiseaseF1Callback, EpochCallback, FiniteLossCallback, SaveConfigCallback
from .checkpoints import check_fits, explain_write_errors, find_checkpoint, output_folder
from .launch import check_launch, check_same_rows, set_fsdp_layers
from .model import calibrate_perception, check_precision, load_model, record_training_data, set_trainable
from .result import save_result
from .rows import StageCollator, cache_features, load_rows


def train_stage(
    stage: str,
    model_arguments: ModelArguments,
    data_arguments: DataArguments,
    training: TrainingArguments,
    modality_dropout: float = 0.0,
    eval_answers: int = 0,
) -> Trainer:
    """
    Runs PT or SFT from its arguments to its saved result.

    Args:
        stage (`str`): `"pt"` or `"sft"`.
        modality_dropout (`float`): Probability that a training row loses a modality.
        eval_answers (`int`): Validation rows to answer at each evaluation, for the disease F1.

    Returns:
        The `Trainer`, as it is after training.

    Raises:
        ValueError: if arguments, model, data or checkpoint are not what they should be, or the loss is not finite.
        OSError: if a file cannot be read or written.
    """
    check_launch(training)
    check_precision(model_arguments, training)
    if training.remove_unused_columns:
        raise ValueError("`remove_unused_columns` must be false: the Trainer would drop the signals' columns.")
    training.label_names = ["labels"]  # a PEFT model's signature does not tell
    checkpoint = find_checkpoint(training, data_arguments.resume)
    set_seed(training.seed)
    model, processor, is_drawn = load_model(stage, model_arguments, training.device)
    splits = {split: load_rows(stage, split, data_arguments, training, processor) for split in ("train", "validation")}
    check_same_rows(splits)
    record_training_data(model, stage, data_arguments.data)
    if is_drawn:
        calibrate_perception(model, processor, splits["train"])
    splits, cache = cache_features(splits, data_arguments, training, model, processor)
    # room for the longest answer, as prompt and answer together
    generation = model.generation_config
    longest = int(read_column(splits["train"], "length").to_numpy().max())
    generation.max_new_tokens = max(generation.max_new_tokens or 0, longest)
    trained = set_trainable(model, stage, model_arguments)
    set_fsdp_layers(training, trained)
    if checkpoint:
        check_fits(checkpoint, trained)
    collator = StageCollator(processor, cache, modality_dropout, training.seed)
    trainer = _make_trainer(trained, splits, collator, training, eval_answers)
    with explain_write_errors(output_folder(training)):
        trainer.train(resume_from_checkpoint=checkpoint)
        save_result(trainer, model_arguments)
    return trainer


def _make_trainer(
    model: MedTVTForCausalLM | PeftModel,
    splits: dict[str, Dataset],
    collator: StageCollator,
    training: TrainingArguments,
    eval_answers: int,
) -> Trainer:
    trainer = Trainer(
        model=model,
        args=training,
        data_collator=collator,
        train_dataset=splits["train"],
        eval_dataset=splits["validation"],
        processing_class=collator.training.processor,
        callbacks=[EpochCallback(collator.training, splits["train"]), FiniteLossCallback(model), SaveConfigCallback()],
    )
    if eval_answers:
        trainer.add_callback(DiseaseF1Callback(trainer, splits["validation"], collator.evaluation, eval_answers))
    return trainer
