# SPDX-License-Identifier: Apache-2.0
"""What a stage leaves behind: a model folder, and an adapter where one was trained."""

import shutil
from pathlib import Path
from typing import Any, cast

from peft import PeftModel
from transformers import PreTrainedModel, Trainer

from modeling_medtvt.output_folder import new_folder

from .arguments import ModelArguments
from .callbacks import save_configs
from .checkpoints import output_folder
from .merge import merge_adapter


def save_result(trainer: Trainer, arguments: ModelArguments) -> None:
    """
    Writes `final/`, a plain model folder, and `adapter/` where LoRA was trained, from the Trainer's model as it is.

    All processes call this; one of them writes.
    """
    args, model = trainer.args, cast(PreTrainedModel | PeftModel, trainer.model)
    model.config.use_cache = True  # the Trainer had switched it off
    output_dir = output_folder(args)
    folder = output_dir / ("adapter" if isinstance(model, PeftModel) else "final")
    if args.should_save and folder.exists():
        shutil.rmtree(folder)  # of this run, which ended between the two folders
    # gathered from all processes, in the first's memory
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if args.should_save:
        with new_folder(folder) as target:
            _save_weights(model, weights, target)
            save_configs(model, target)
            if trainer.processing_class is not None:
                trainer.processing_class.save_pretrained(target)
    if args.should_save:
        trainer.save_state()
        if isinstance(model, PeftModel):
            merge_adapter(folder, output_dir / "final", arguments.model)
    trainer.accelerator.wait_for_everyone()


def _save_weights(model: PreTrainedModel | PeftModel, weights: dict[str, Any], folder: Path) -> None:
    # an adapter has none
    tied = model.all_tied_weights_keys if isinstance(model, PreTrainedModel) else {}
    # what is gathered no longer shares memory, and would be written twice
    model.save_pretrained(
        str(folder), state_dict={name: weight for name, weight in weights.items() if name not in tied}
    )
    if not any(folder.glob("*.safetensors")):
        raise RuntimeError(f"No weights were written to {folder.name}.")
