# SPDX-License-Identifier: Apache-2.0
"""The model of a stage: loaded, with what the stage trains set to be trained."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import pyarrow.compute as pc
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import BitsAndBytesConfig, TrainingArguments

from modeling_medtvt import MedTVTForCausalLM
from modeling_medtvt.checkpoint_folder import open_checkpoint, read_config
from processing_medtvt import MedTVTProcessor

from ..data.collator import MedTVTDataCollator
from ..data.columns import read_column
from ..data.provenance import training_data_entry
from .arguments import ModelArguments
from .findings_loss import HEAD


logger = logging.getLogger(__name__)
QA_STAGES = {"pt": "physiology", "sft": "diagnosis", "rft": "diagnosis"}
# Trained in full, beside the language model's LoRA
TRAINED_MODULES = {
    "pt": ["ecg_projector", "cxr_projector", "lab_projector"],
    "sft": ["perception"],
    "rft": ["perception"],
}
CALIBRATION_ROWS = 32


def load_model(
    stage: str | None, arguments: ModelArguments, device: torch.device | str = "cpu"
) -> tuple[MedTVTForCausalLM, MedTVTProcessor, bool]:
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
    config = read_config(source)
    is_drawn = stage in ("sft", "rft") and not config.use_perception
    if stage is not None:
        config.use_perception = stage != "pt"
    quantization = {}
    if arguments.load_in_4bit:
        compute_dtype = getattr(torch, arguments.dtype)
        quantization = {
            "quantization_config": BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_compute_dtype=compute_dtype,
                bnb_4bit_quant_storage=compute_dtype,  # FSDP shards parameters of one dtype together
            ),
            "device_map": {"": device},
        }
    model, processor = open_checkpoint(source, config=config, dtype=getattr(torch, arguments.dtype), **quantization)
    if not quantization:
        model.to(device)
    model.provenance.stage = stage
    model.chunked_loss = arguments.chunked_loss
    return model, processor, is_drawn


def check_precision(arguments: ModelArguments, training: TrainingArguments) -> None:
    """
    Raises:
        ValueError: if the frozen weights are held in a precision that the step does not compute in.
    """
    if arguments.dtype == "bfloat16" and not training.bf16:
        raise ValueError("`dtype: bfloat16` needs `bf16: true`: what is trained stays in float32.")


def record_training_data(model: MedTVTForCausalLM, stage: str, data_dir: str) -> None:
    """Adds a stage's dataset to what the weights were trained on; the list travels with them."""
    model.provenance.training_data.append(training_data_entry(stage, data_dir))


def lora_config(stage: str, arguments: ModelArguments, further: Sequence[str] = ()) -> LoraConfig:
    """LoRA on the language model, and what the stage, and `further` modules, train in full."""
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=arguments.lora_rank,
        lora_alpha=arguments.lora_alpha,
        lora_dropout=arguments.lora_dropout,
        target_modules=arguments.lora_targets,
        modules_to_save=[*TRAINED_MODULES[stage], *further],
    )


def set_trainable(model: MedTVTForCausalLM, stage: str, arguments: ModelArguments) -> MedTVTForCausalLM | PeftModel:
    """
    Freezes all but what the stage trains, which is held in float32.

    Returns:
        The model, wrapped by PEFT unless `tuning` is `"full"`.

    Raises:
        ValueError: if LoRA's targets are not in the language model, or there are none.
    """
    trained: MedTVTForCausalLM | PeftModel = model
    heads = [HEAD] if hasattr(model, HEAD) else []
    if arguments.tuning == "lora":
        trained = get_peft_model(model, lora_config(stage, arguments, heads))
        strayed = [name for name, _ in trained.named_parameters() if "lora_" in name and "language_model" not in name]
        if strayed:
            raise ValueError(
                f"`lora_targets` also adapts {strayed[0]}; anchor it at the language model, e.g. "
                r"'.*language_model\..*\.(q_proj|v_proj)'."
            )
    else:
        model.requires_grad_(False)
        modules = [getattr(model.model, name) for name in ("language_model", *TRAINED_MODULES[stage])]
        for module in (*modules, model.lm_head, *(getattr(model, name) for name in heads)):
            module.requires_grad_(True)
    for parameter in trained.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return trained


def calibrate_perception(model: MedTVTForCausalLM, processor: MedTVTProcessor, dataset: Dataset) -> None:
    """Fits a perception layer that was drawn just now to the projectors' outputs on patients with all modalities."""
    if model.model.perception.layer_norm is None:
        return
    counts = pc.list_value_length(read_column(dataset, "modalities")).to_numpy()
    indices = (counts == 3).nonzero()[0][:CALIBRATION_ROWS].tolist()
    if not indices:
        logger.warning(
            "No row has all three modalities; the perception layer is fitted to noise in place of patients."
        )
        return
    batch = MedTVTDataCollator(processor)([dataset[i] for i in indices])
    model.model.calibrate_perception(batch["ecg_values"], batch["pixel_values"], batch["lab_values"])
