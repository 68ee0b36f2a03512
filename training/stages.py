# SPDX-License-Identifier: Apache-2.0
"""What the training stages share: what is trained, checkpoints, the saved result."""

import errno
import logging
import os
import shutil
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoConfig,
    AutoProcessor,
    BitsAndBytesConfig,
    Trainer,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from modeling_medtvt import MedTVTForCausalLM
from modeling_medtvt.output_folder import check_new_folder, new_folder

from .arguments import DataArguments, ModelArguments
from .callbacks import DiseaseF1Callback, EpochCallback, FiniteLossCallback, SaveConfigCallback, save_configs
from .cards import training_data_entry
from .collator import MedTVTDataCollator, drop_long_rows
from .data import load_medtvt_qa
from .features import FeatureCache
from .merge import merge_adapter


logger = logging.getLogger(__name__)

QA_STAGES = {"pt": "physiology", "sft": "diagnosis", "rft": "diagnosis"}
# Trained in full, beside the language model's LoRA
TRAINED_MODULES = {
    "pt": ["ecg_projector", "cxr_projector", "lab_projector"],
    "sft": ["perception"],
    "rft": ["perception"],
}
CALIBRATION_ROWS = 32


# Model


def load_model(stage: str | None, arguments: ModelArguments, device: torch.device | str = "cpu"):
    """
    The model of a stage: without perception layer in PT, with one from SFT on, as it is for None.

    Returns:
        The [`MedTVTForCausalLM`], its processor, and whether its perception layer was drawn just now.

    Raises:
        ValueError: if the folder does not open, holds another architecture or an adapter, or the arguments contradict.
    """
    if arguments.load_in_4bit and arguments.tuning == "full":
        raise ValueError("`load_in_4bit` freezes the language model, so it needs `tuning: lora`.")
    # an adapter remembers where its model is
    source = os.path.abspath(arguments.model) if os.path.isdir(arguments.model) else arguments.model
    if (Path(source) / "adapter_config.json").exists():
        raise ValueError(f"{source} holds an adapter. Merge it first, with `medtvt merge`.")
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        if config.model_type != "medtvt":
            raise ValueError(f"it is a model of type {config.model_type!r}, and a MedTVT model is needed.")
        processor = AutoProcessor.from_pretrained(source, trust_remote_code=False)
        is_drawn = stage in ("sft", "rft") and not config.use_perception
        if stage is not None:
            config.use_perception = stage != "pt"
        quantization = {}
        if arguments.load_in_4bit:
            compute_dtype = getattr(torch, arguments.dtype)
            quantization = {
                "quantization_config": BitsAndBytesConfig(
                    load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute_dtype
                ),
                "device_map": {"": device},
            }
        model = MedTVTForCausalLM.from_pretrained(
            source, config=config, dtype=getattr(torch, arguments.dtype), **quantization
        )
        if not quantization:
            model.to(device)
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise ValueError(f"{source} cannot be trained: {error}") from error
    model.config.stage = stage
    model.config.chunked_loss = arguments.chunked_loss
    return model, processor, is_drawn


def record_training_data(config, stage: str, data_dir: str):
    """Adds a stage's dataset to what the weights were trained on; the list travels with them."""
    config.training_data = [*(config.training_data or []), training_data_entry(stage, data_dir)]


def lora_config(stage: str, arguments: ModelArguments) -> LoraConfig:
    """LoRA on the language model, and what the stage trains in full."""
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=arguments.lora_rank,
        lora_alpha=arguments.lora_alpha,
        lora_dropout=arguments.lora_dropout,
        target_modules=arguments.lora_targets,
        modules_to_save=TRAINED_MODULES[stage],
    )


def set_trainable(model: MedTVTForCausalLM, stage: str, arguments: ModelArguments):
    """
    Freezes all but what the stage trains, which is held in float32.

    Returns:
        The model, wrapped by PEFT unless `tuning` is `"full"`.

    Raises:
        ValueError: if LoRA's targets are not in the language model, or there are none.
    """
    if arguments.tuning == "lora":
        model = get_peft_model(model, lora_config(stage, arguments))
        strayed = [name for name, _ in model.named_parameters() if "lora_" in name and "language_model" not in name]
        if strayed:
            raise ValueError(
                f"`lora_targets` also adapts {strayed[0]}; anchor it at the language model, e.g. "
                r"'.*language_model\..*\.(q_proj|v_proj)'."
            )
    else:
        trained = [model.model.language_model, model.lm_head]
        trained += [getattr(model.model, name) for name in TRAINED_MODULES[stage]]
        model.requires_grad_(False)
        for module in trained:
            module.requires_grad_(True)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return model


def calibrate_perception(model: MedTVTForCausalLM, processor, dataset: Dataset):
    """Fits a perception layer that was drawn just now to the projectors' outputs on patients with all modalities."""
    if model.model.perception.layer_norm is None:
        return
    indices = [i for i, modalities in enumerate(dataset["modalities"]) if len(modalities) == 3][:CALIBRATION_ROWS]
    if not indices:
        logger.warning(
            "No row has all three modalities; the perception layer is fitted to noise in place of patients."
        )
        return
    batch = MedTVTDataCollator(processor)([dataset[i] for i in indices])
    model.model.calibrate_perception(batch["ecg_values"], batch["pixel_values"], batch["lab_values"])


# Data


def load_rows(stage: str, split: str, arguments: DataArguments, processor) -> Dataset:
    """The rows of a split that are not too long, with `length` (tokens) and `split`."""
    dataset = load_medtvt_qa(
        arguments.data,
        QA_STAGES[stage],
        split,
        ecg_root=arguments.ecg_root,
        cxr_root=arguments.cxr_root,
        max_rejected=arguments.max_rejected,
    )
    if not len(dataset):
        raise ValueError(f"{arguments.data} has no row in {QA_STAGES[stage]}/{split}.")
    if split == "validation" and arguments.max_eval_rows is not None:
        dataset = dataset.select(range(min(arguments.max_eval_rows, len(dataset))))
    dataset, dropped = drop_long_rows(dataset, processor, arguments.max_length or sys.maxsize)
    if dropped:
        ids = ", ".join(row["id"] for row in dropped[:5])
        logger.warning("%s: %d rows are longer than `max_length` and left out, e.g. %s.", split, len(dropped), ids)
    return dataset.add_column("split", [split] * len(dataset))


def cache_features(datasets: dict[str, Dataset], folder: str, training: TrainingArguments, model, processor):
    """
    Runs the frozen encoders over the datasets of each split.

    Returns:
        The datasets without unreadable rows, listed in `rejects_SPLIT.jsonl` of the output folder, and the cache.
    """
    cache = FeatureCache(folder, model, processor)
    for split, dataset in datasets.items():
        with training.main_process_first():  # the others find it done
            datasets[split] = cache.build(
                dataset,
                batch_size=training.per_device_eval_batch_size,
                num_workers=training.dataloader_num_workers,
                rejects_file=Path(training.output_dir) / f"rejects_{split}.jsonl",
            )
    return datasets, cache


class StageCollator:
    """
    A `Trainer` has one collator for both of its datasets: this one withholds modalities from training rows only, and adds
    the `ids` that an error names.

    Args:
        processor, features: As for [`MedTVTDataCollator`].
        modality_dropout (`float`): Probability that a training row loses a modality.
        seed (`int`): Seed of what is withheld.
    """

    def __init__(self, processor, features=None, modality_dropout: float = 0.0, seed: int = 0):
        self.training = MedTVTDataCollator(processor, features, modality_dropout=modality_dropout, seed=seed)
        self.evaluation = MedTVTDataCollator(processor, features)

    def __call__(self, rows: list[dict]) -> dict:
        collator = self.training if rows[0]["split"] == "train" else self.evaluation
        return {**collator(rows), "ids": [row["id"] for row in rows]}


# Checkpoints


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint was written to its end: the Trainer's state, its last file, is whole, and so are the others."""
    weights = list(checkpoint.rglob("*.safetensors"))
    try:
        state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        for file in weights:
            with safe_open(file, "pt"):  # checks that the file is as long as its header says
                pass
    except (OSError, TypeError, ValueError, SafetensorError):
        return False
    archives = [*checkpoint.rglob("*.pt"), *checkpoint.rglob("*.pth"), *checkpoint.rglob("*.bin")]
    # a zip archive's directory is at its end
    return state.global_step == step_of(checkpoint) and bool(weights) and all(map(zipfile.is_zipfile, archives))


def step_of(checkpoint: Path) -> int:
    """Step of a checkpoint folder's name."""
    return int(checkpoint.name.rsplit("-", 1)[1])


def list_checkpoints(output_dir: str | os.PathLike) -> list[Path]:
    """Checkpoint folders, oldest first, whole or not."""
    found = [path for path in Path(output_dir).glob("checkpoint-*") if path.name.rsplit("-", 1)[1].isdigit()]
    return sorted(found, key=step_of)


def find_checkpoint(training: TrainingArguments, resume: bool) -> str | None:
    """
    The checkpoint to go on from: the last whole one with `--resume`, that of `--resume_from_checkpoint`, or None. What a
    killed run left half-written after it is removed.

    Raises:
        FileExistsError: if the output folder holds a finished run, or an unfinished one that is not to be resumed.
        ValueError: if a checkpoint that is asked for is not whole.
    """
    check_new_folder(Path(training.output_dir) / "final")
    if training.resume_from_checkpoint:
        if not is_whole(Path(training.resume_from_checkpoint)):
            raise ValueError(f"{training.resume_from_checkpoint} is not a whole checkpoint.")
        return training.resume_from_checkpoint
    checkpoints = list_checkpoints(training.output_dir)
    if checkpoints and not resume:
        raise FileExistsError(f"{training.output_dir} holds checkpoints; add --resume, or choose another folder.")
    for checkpoint in reversed(checkpoints):
        if is_whole(checkpoint):
            return str(checkpoint)
        logger.warning("%s was not written to its end and is removed.", checkpoint)
        if training.should_save:  # or `save_total_limit` would count it
            shutil.rmtree(checkpoint)
    return None


def check_fits(checkpoint: str, model):
    """
    Raises:
        ValueError: if a checkpoint's tensors are not those that are saved of this model.
    """
    expected = get_peft_model_state_dict(model) if isinstance(model, PeftModel) else model.state_dict()
    expected = {name: list(tensor.shape) for name, tensor in expected.items()}
    found = {}
    for file in Path(checkpoint).glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            found.update({name: tensors.get_slice(name).get_shape() for name in tensors.keys()})
    # of tied tensors only one is on disk
    tied = set() if isinstance(model, PeftModel) else set(model.all_tied_weights_keys)
    wrong = [name for name in expected if name not in tied and found.get(name) != expected[name]]
    wrong += [name for name in found if name not in expected]
    if wrong:
        raise ValueError(
            f"{checkpoint} does not fit this model and recipe: {len(wrong)} tensors differ, first {wrong[0]} "
            f"({found.get(wrong[0], 'absent')} in the checkpoint, {expected.get(wrong[0], 'absent')} in the model)."
        )


@contextmanager
def explain_write_errors(output_dir: str | os.PathLike) -> Iterator[None]:
    """Turns what safetensors and torch raise on a full disk into one OSError that names the checkpoint to go on from."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        if not (full or isinstance(error, SafetensorError) or "PytorchStreamWriter" in str(error)):
            raise
        whole = [path.name for path in list_checkpoints(output_dir) if is_whole(path)]
        raise OSError(
            f"A checkpoint could not be written to {output_dir} ({error}). Free some space and go on with --resume, from "
            f"{whole[-1] if whole else 'the beginning: no checkpoint is whole yet'}."
        ) from error


# Result


def save_result(trainer, arguments: ModelArguments):
    """
    Writes `final/`, a plain model folder, and `adapter/` where LoRA was trained, from the Trainer's model as it is.

    All processes call this; one of them writes.
    """
    args = trainer.args
    trainer.model.config.use_cache = True  # the Trainer had switched it off
    output_dir = Path(args.output_dir)
    folder = output_dir / ("adapter" if isinstance(trainer.model, PeftModel) else "final")
    if args.should_save and folder.exists():
        shutil.rmtree(folder)  # of this run, which ended between the two folders
    with new_folder(folder) if args.should_save else nullcontext(folder) as target:
        trainer.save_model(str(target))
        if args.should_save:
            save_configs(trainer.model, target)
            (target / "training_args.bin").unlink(missing_ok=True)
    if args.should_save:
        trainer.save_state()
        if isinstance(trainer.model, PeftModel):
            merge_adapter(folder, output_dir / "final", arguments.model)
    trainer.accelerator.wait_for_everyone()


# PT and SFT


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
    if not training.output_dir:
        raise ValueError("`output_dir` is missing: the folder for checkpoints and result.")
    if training.remove_unused_columns:
        raise ValueError("`remove_unused_columns` must be false: the Trainer would drop the signals' columns.")
    if model_arguments.dtype == "bfloat16" and not training.bf16:
        raise ValueError("`dtype: bfloat16` needs `bf16: true`: what is trained stays in float32.")
    training.label_names = ["labels"]  # a PEFT model's signature does not tell
    checkpoint = find_checkpoint(training, data_arguments.resume)
    set_seed(training.seed)
    model, processor, is_drawn = load_model(stage, model_arguments, training.device)
    splits = {split: load_rows(stage, split, data_arguments, processor) for split in ("train", "validation")}
    record_training_data(model.config, stage, data_arguments.data)
    if is_drawn:
        calibrate_perception(model, processor, splits["train"])
    cache = None
    if data_arguments.feature_cache:
        splits, cache = cache_features(splits, data_arguments.feature_cache, training, model, processor)
    # room for the longest answer, as prompt and answer together
    generation = model.generation_config
    generation.max_new_tokens = max(generation.max_new_tokens or 0, *splits["train"]["length"])
    model = set_trainable(model, stage, model_arguments)
    if checkpoint:
        check_fits(checkpoint, model)
    collator = StageCollator(processor, cache, modality_dropout, training.seed)
    trainer = Trainer(
        model=model,
        args=training,
        data_collator=collator,
        train_dataset=splits["train"],
        eval_dataset=splits["validation"],
        processing_class=processor,
        callbacks=[EpochCallback(collator.training, splits["train"]), FiniteLossCallback(model), SaveConfigCallback()],
    )
    if eval_answers:
        trainer.add_callback(DiseaseF1Callback(trainer, splits["validation"], collator.evaluation, eval_answers))
    with explain_write_errors(training.output_dir):
        trainer.train(resume_from_checkpoint=checkpoint)
        save_result(trainer, model_arguments)
    return trainer
