# SPDX-License-Identifier: Apache-2.0
"""What a stage leaves behind: a model folder, and an adapter where one was trained."""

import shutil
from contextlib import nullcontext

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
    args, model = trainer.args, trainer.model
    assert isinstance(model, PreTrainedModel | PeftModel)
    model.config.use_cache = True  # the Trainer had switched it off
    output_dir = output_folder(args)
    folder = output_dir / ("adapter" if isinstance(model, PeftModel) else "final")
    if args.should_save and folder.exists():
        shutil.rmtree(folder)  # of this run, which ended between the two folders
    with new_folder(folder) if args.should_save else nullcontext(folder) as target:
        trainer.save_model(str(target))
        if args.should_save:
            save_configs(model, target)
            (target / "training_args.bin").unlink(missing_ok=True)
    if args.should_save:
        trainer.save_state()
        if isinstance(model, PeftModel):
            merge_adapter(folder, output_dir / "final", arguments.model)
    trainer.accelerator.wait_for_everyone()
