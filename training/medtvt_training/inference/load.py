# SPDX-License-Identifier: Apache-2.0
"""Opens a checkpoint folder as a pipeline."""

from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoProcessor

from modeling_medtvt import MedicalDiagnosisPipeline


def load_pipeline(folder: str) -> MedicalDiagnosisPipeline:
    """The pipeline on a checkpoint folder, with the installed code even where the folder brings its own."""
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", trust_remote_code=False)
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise ValueError(f"{folder} does not open as a MedTVT checkpoint. {error}") from error
    if model.config.model_type != "medtvt":
        raise ValueError(f"{folder} holds a model of type {model.config.model_type!r}, not a MedTVT checkpoint.")
    return MedicalDiagnosisPipeline(model=model, processor=processor, task="medical-diagnosis")
