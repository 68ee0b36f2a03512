# SPDX-License-Identifier: Apache-2.0
"""Runs a stage from its recipe."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .recipes import parse_arguments


logger = logging.getLogger(__name__)


def run_stage(stage: str, recipe: str | None, overrides: Sequence[str] = ()) -> Any:
    """
    Trains a stage and writes its result to its output folder.

    Args:
        stage (`str`): `"encoders"`, `"pt"`, `"sft"` or `"rft"`.
        recipe, overrides: See [`parse_arguments`].

    Returns:
        What the stage returns: the metrics of the encoders, or the trainer as it is after training. None where `resume`
        meets a finished run.

    Raises:
        ValueError: if arguments, model, data or checkpoint are not what they should be, or a loss is not finite.
        OSError: if a file cannot be read or written, or another run writes to the output folder.
    """
    from ..data.stored_rows import remove_stored_rows
    from .checkpoints import output_folder
    from .launch import locked_folder

    arguments = parse_arguments(stage, recipe, overrides)
    first, training = arguments[0 if stage == "encoders" else 1], arguments[-1]
    final = Path(training.output_dir or "", "final")
    if first.resume and training.output_dir and final.is_dir():
        logger.info("%s is there already: this run is finished.", final)
        return None
    output_dir = output_folder(training)
    with locked_folder(training, output_dir):
        result = _run(stage, arguments)
        if training.should_save:  # patients' texts need not lie beside a result
            remove_stored_rows(output_dir)
        return result


def _run(stage: str, arguments: tuple) -> Any:
    if stage == "encoders":
        from .encoders import train_encoders

        return train_encoders(*arguments)
    if stage == "rft":
        from .rft import reinforce

        return reinforce(*arguments)
    from .supervised import finetune, pretrain

    return pretrain(*arguments) if stage == "pt" else finetune(*arguments)
