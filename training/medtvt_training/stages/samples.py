# SPDX-License-Identifier: Apache-2.0
"""Completions of RFT that are kept beside its checkpoints, to be read."""

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import GRPOTrainer

from ..files import JsonlLog, read_jsonl, write_jsonl
from .checkpoints import output_folder
from .completion import completion_text


class SampleCallback(TrainerCallback):
    """
    Adds some of the last completions to `samples.jsonl` in the output folder at each log: `step`, `id` and true
    `diseases` of the row, `completion`, `rewards` and `advantage`. Nothing else of the patient is written.

    Args:
        trainer ([`MedTVTGRPOTrainer`]): Whose completions.
        num_samples (`int`): How many at each log; the first of the batch, so that groups stay together.
    """

    def __init__(self, trainer: GRPOTrainer, num_samples: int) -> None:
        self.trainer, self.num_samples = trainer, num_samples
        self.path = output_folder(trainer.args) / "samples.jsonl"

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # a run that goes on writes the samples after its checkpoint again
        if state.is_world_process_zero and self.path.exists():
            write_jsonl([sample for sample in read_jsonl(self.path) if sample["step"] <= state.global_step], self.path)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any
    ) -> None:
        if not state.is_world_process_zero or "loss" not in logs:  # a validation, or the summary at the end
            return
        logs = self.trainer._logs
        completions = [completion_text(completion) for completion in logs["completion"]][: self.num_samples]
        with JsonlLog(self.path) as log:
            log.append(
                {
                    "step": state.global_step,
                    **{column: logs["extra"][column][i] for column in ("id", "diseases")},
                    "completion": completion,
                    "rewards": {name: values[i] for name, values in logs["rewards"].items()},
                    "advantage": logs["advantages"][i],
                }
                for i, completion in enumerate(completions)
            )
