# SPDX-License-Identifier: Apache-2.0
"""Export of a checkpoint folder that opens anywhere, with `trust_remote_code=True` and without this package."""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from transformers.dynamic_module_utils import get_relative_import_files

from .checkpoint_folder import open_checkpoint
from .output_folder import check_new_folder, new_folder
from .pipeline_medtvt import CUSTOM_PIPELINES, MedicalDiagnosisPipeline


MODEL_AUTO_MAP = {
    "AutoConfig": "configuration_medtvt.MedTVTConfig",
    "AutoModel": "modeling_medtvt.MedTVTModel",
    "AutoModelForCausalLM": "modeling_medtvt.MedTVTForCausalLM",
    "AutoModelForImageTextToText": "modeling_medtvt.MedTVTForCausalLM",
    "AutoModelForMultimodalLM": "modeling_medtvt.MedTVTForCausalLM",
    "AutoProcessor": "processing_medtvt.MedTVTProcessor",
}


def export_for_hub(model_dir: str | os.PathLike, output_dir: str | os.PathLike) -> Path:
    """
    Writes a self-contained copy of a checkpoint folder: weights, processor, the code of both, the pipeline's file and
    the complete `auto_map`.

    The result loads through every Auto class and through `pipeline("medical-diagnosis", trust_remote_code=True)` in a
    process that has never seen this package. Where the package is installed, `pipeline` asks for the flag all the same.

    Args:
        model_dir (`str` or `os.PathLike`): A folder that `save_pretrained` of model and processor wrote.
        output_dir (`str` or `os.PathLike`): Folder to write. It appears only when it is complete.

    Raises:
        FileExistsError: if `output_dir` exists and is not empty.
        ValueError: if `model_dir` is no MedTVT checkpoint, or an adapter that is not merged.
    """
    check_new_folder(output_dir)
    if (Path(model_dir) / "adapter_config.json").exists():
        raise ValueError(
            f"{model_dir} holds an adapter. Merge it first: `AutoPeftModelForCausalLM.from_pretrained(folder)"
            ".merge_and_unload().save_pretrained(merged)`, and the processor beside it."
        )
    model, processor = open_checkpoint(model_dir, dtype="auto")

    with new_folder(output_dir) as folder:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        kinds: list[type] = [type(model), MedicalDiagnosisPipeline, type(processor)]
        if type(processor.image_processor).__name__.startswith("MedTVT"):  # the processor takes any, and imports none
            kinds.append(type(processor.image_processor))
        for kind in kinds:
            file = str(sys.modules[kind.__module__].__file__)
            for path in (file, *get_relative_import_files(file)):
                shutil.copyfile(path, folder / Path(path).name)  # its content, not its mode
        _update_json(folder / "config.json", auto_map=MODEL_AUTO_MAP, custom_pipelines=CUSTOM_PIPELINES)
        processor_file = folder / "processor_config.json"
        image_processor = json.loads(processor_file.read_text())["image_processor"]
        if image_processor["image_processor_type"].startswith("MedTVT"):
            image_processor["auto_map"] = {"AutoImageProcessor": "image_processing_medtvt.MedTVTImageProcessor"}
        _update_json(
            folder / "preprocessor_config.json",
            auto_map={"AutoFeatureExtractor": "feature_extraction_medtvt_ecg.MedTVTEcgFeatureExtractor"},
        )
        _update_json(
            processor_file,
            auto_map={"AutoProcessor": MODEL_AUTO_MAP["AutoProcessor"]},
            image_processor=image_processor,
        )
    return Path(output_dir)


def _update_json(path: Path, **entries: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}, indent=2) + "\n")


__all__ = ["export_for_hub"]
