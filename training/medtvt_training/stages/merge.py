# SPDX-License-Identifier: Apache-2.0
"""Folds a LoRA adapter into its model."""

import os
from pathlib import Path

import torch
from peft import PeftConfig, PeftModel
from transformers import AutoProcessor, GenerationConfig

from modeling_medtvt import MedTVTConfig, MedTVTForCausalLM, Provenance
from modeling_medtvt.output_folder import check_new_folder, new_folder


def merge_adapter(
    adapter: str | os.PathLike, output_dir: str | os.PathLike, model: str | os.PathLike | None = None
) -> None:
    """
    Writes a plain model folder from an adapter and the model that it was trained on, in that model's own precision (also
    where it was held in 4 bits during training).

    Args:
        adapter (`str` or `os.PathLike`): Folder with the adapter and the config of the model as it was trained.
        output_dir (`str` or `os.PathLike`): Folder to write. It appears only when it is complete.
        model (`str` or `os.PathLike`, *optional*): The model, if it is no longer where the adapter says.

    Raises:
        FileExistsError: if the folder exists and is not empty.
        ValueError: if the folder holds no adapter of a MedTVT model, or its model is not found.
    """
    check_new_folder(output_dir)
    adapter = os.fspath(adapter)
    for name in ("adapter_config.json", "config.json"):
        if not Path(adapter, name).is_file():
            raise ValueError(f"{adapter} is no adapter of a training stage: it has no {name}.")
    model = model or PeftConfig.from_pretrained(adapter).base_model_name_or_path
    config = MedTVTConfig.from_pretrained(adapter)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    try:
        base = MedTVTForCausalLM.from_pretrained(model, config=config, dtype="auto")
    except OSError as error:
        raise ValueError(f"{adapter} was trained on {model}, which does not open; say where it is. {error}") from error
    with torch.no_grad():
        merged = PeftModel.from_pretrained(base, adapter).merge_and_unload(safe_merge=True)
    merged.generation_config = GenerationConfig.from_pretrained(adapter)
    merged.provenance = Provenance.from_pretrained(adapter)
    with new_folder(output_dir) as folder:
        merged.save_pretrained(folder)
        AutoProcessor.from_pretrained(model).save_pretrained(folder)
