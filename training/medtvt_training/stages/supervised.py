# SPDX-License-Identifier: Apache-2.0
"""PT and SFT, from their arguments to their saved results (paper, 3.2.2)."""

from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset, concatenate_datasets
from peft import PeftModel
from transformers import Trainer, TrainingArguments, set_seed

from modeling_medtvt import MedTVTForCausalLM
from processing_medtvt import MedTVTProcessor

from ..data.columns import read_column
from ..data.schema import FEATURES
from .arguments import DataArguments, FinetuneArguments, MixtureArguments, ModelArguments, PretrainArguments
from .callbacks import DiseaseF1Callback, EpochCallback, FiniteLossCallback, SaveConfigCallback
from .checkpoints import check_fits, explain_write_errors, find_checkpoint, output_folder
from .findings_loss import FindingsLoss, add_head, list_findings, remove_head
from .launch import check_launch, check_same_rows, set_fsdp_layers
from .mixture import MixedSampler, MixtureTrainer, count_draws
from .model import QA_STAGES, calibrate_perception, check_precision, load_model, record_training_data, set_trainable
from .result import save_result
from .rows import StageCollator, cache_features, load_rows


REPLAY = "replay"  # the name of physiology rows among those of SFT


def pretrain(
    model_arguments: ModelArguments,
    data_arguments: DataArguments,
    mixture: MixtureArguments,
    pretrain_arguments: PretrainArguments,
    training: TrainingArguments,
) -> Trainer:
    """
    Runs PT from its arguments to its saved result. Raises as [`finetune`] does.

    Returns:
        The `Trainer`, as it is after training.
    """
    return _train(
        "pt", model_arguments, data_arguments, mixture, training, findings_weight=pretrain_arguments.findings_weight
    )


def finetune(
    model_arguments: ModelArguments,
    data_arguments: DataArguments,
    mixture: MixtureArguments,
    finetune_arguments: FinetuneArguments,
    training: TrainingArguments,
) -> Trainer:
    """
    Runs SFT from its arguments to its saved result.

    Returns:
        The `Trainer`, as it is after training.

    Raises:
        ValueError: if arguments, model, data or checkpoint are not what they should be, or the loss is not finite.
        OSError: if a file cannot be read or written.
    """
    return _train(
        "sft",
        model_arguments,
        data_arguments,
        mixture,
        training,
        finetune_arguments.modality_dropout,
        finetune_arguments.eval_answers,
        finetune_arguments.replay,
    )


def _train(
    stage: str,
    model_arguments: ModelArguments,
    data_arguments: DataArguments,
    mixture: MixtureArguments,
    training: TrainingArguments,
    modality_dropout: float = 0.0,
    eval_answers: int = 0,
    replay: float = 0.0,
    findings_weight: float = 0.0,
) -> Trainer:
    check_launch(training)
    check_precision(model_arguments, training)
    if training.remove_unused_columns:
        raise ValueError("`remove_unused_columns` must be false: the Trainer would drop the signals' columns.")
    training.label_names = ["labels"]  # a PEFT model's signature does not tell
    shares = ([replay] if replay else []) + mixture.shares_of(mixture.extra_data)
    checkpoint = find_checkpoint(training, data_arguments.resume)
    set_seed(training.seed)
    model, processor, is_drawn = load_model(stage, model_arguments, training.device)
    datasets = _load_datasets(stage, data_arguments, mixture, replay, training, processor)
    check_same_rows(datasets)
    for folder in (data_arguments.data, *mixture.extra_data):
        record_training_data(model, stage, folder)
    if is_drawn:
        calibrate_perception(model, processor, datasets["train"])
    datasets, cache = cache_features(datasets, data_arguments, training, model, processor)
    validation = datasets.pop("validation")
    _, *further = datasets
    sizes = [len(dataset) for dataset in datasets.values()]
    draws = count_draws(sizes, shares, further)
    train = _concatenate(list(datasets.values()))
    # room for the longest answer, as prompt and answer together
    generation = model.generation_config
    longest = int(read_column(train, "length").to_numpy().max())
    generation.max_new_tokens = max(generation.max_new_tokens or 0, longest)
    findings = list_findings(datasets["train"]) if findings_weight else []
    if findings:
        add_head(model, findings)
    trained = set_trainable(model, stage, model_arguments)
    set_fsdp_layers(training, trained)
    if checkpoint:
        check_fits(checkpoint, trained)
    collator = StageCollator(processor, cache, modality_dropout, training.seed, findings)
    grouped = training.train_sampling_strategy == "group_by_length"
    batch_size = training.train_batch_size * training.gradient_accumulation_steps
    sampler = MixedSampler(sizes, draws, training.seed, batch_size if grouped else None)
    trainer = _make_trainer(trained, train, validation, collator, sampler, training, eval_answers)
    loss = FindingsLoss(model, findings, findings_weight * _loss_scale(trainer)) if findings else None
    with explain_write_errors(output_folder(training)):
        trainer.train(resume_from_checkpoint=checkpoint)
        if loss is not None:
            loss.remove()
            remove_head(trained)
        save_result(trainer, model_arguments)
    return trainer


def _load_datasets(
    stage: str,
    arguments: DataArguments,
    mixture: MixtureArguments,
    replay: float,
    training: TrainingArguments,
    processor: MedTVTProcessor,
) -> dict[str, Dataset]:
    """
    `train` and `validation`; then what is mixed in with `train`: `replay`, and the folders of further data.
    Of those, SFT takes the physiology rows where they hold no diagnosis rows.
    """
    load = {split: load_rows(stage, split, arguments, training, processor) for split in ("train", "validation")}
    if replay:
        load[REPLAY] = load_rows("pt", "train", arguments, training, processor)
    for folder in mixture.extra_data:
        level = stage if Path(folder, QA_STAGES[stage]).is_dir() else "pt"
        load[folder] = load_rows(level, "train", arguments, training, processor, folder)
    return load


def _concatenate(datasets: Sequence[Dataset]) -> Dataset:
    if len(datasets) == 1:
        return datasets[0]
    columns = [*FEATURES, "length", "characters", "split"]  # further ones need not be the same
    return concatenate_datasets([dataset.select_columns(columns) for dataset in datasets])


def _loss_scale(trainer: Trainer) -> float:
    """
    What makes a mean over a batch count as the Trainer's own loss does: that is a sum over tokens, divided by the tokens of
    all accumulated batches and processes, where the model takes their number.
    """
    args = trainer.args
    if not trainer.model_accepts_loss_kwargs:
        return 1.0
    processes = args.world_size if args.average_tokens_across_devices else 1
    return 1 / (args.gradient_accumulation_steps * processes)


def _make_trainer(
    model: MedTVTForCausalLM | PeftModel,
    train: Dataset,
    validation: Dataset,
    collator: StageCollator,
    sampler: MixedSampler,
    training: TrainingArguments,
    eval_answers: int,
) -> Trainer:
    trainer = MixtureTrainer(
        model=model,
        args=training,
        data_collator=collator,
        train_dataset=train,
        eval_dataset=validation,
        processing_class=collator.training.processor,
        callbacks=[EpochCallback(sampler, collator.training, train), FiniteLossCallback(model), SaveConfigCallback()],
        sampler=sampler,
    )
    if eval_answers:
        trainer.add_callback(DiseaseF1Callback(trainer, validation, collator.evaluation, eval_answers))
    return trainer
