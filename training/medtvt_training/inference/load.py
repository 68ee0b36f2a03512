# SPDX-License-Identifier: Apache-2.0
"""Opens a checkpoint folder as a pipeline."""

import os

from modeling_medtvt import MedicalDiagnosisPipeline
from modeling_medtvt.checkpoint_folder import open_checkpoint


def load_pipeline(folder: str | os.PathLike) -> MedicalDiagnosisPipeline:
    """
    The pipeline on a checkpoint folder, with the installed code even where the folder brings its own.

    Raises:
        ValueError: if the folder does not open, or holds something else.
    """
    model, processor = open_checkpoint(folder, dtype="auto")
    return MedicalDiagnosisPipeline(model=model, processor=processor, task="medical-diagnosis")
