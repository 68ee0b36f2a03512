# SPDX-License-Identifier: Apache-2.0
"""The rows of a stage, and the batches of them."""

import functools
import logging
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from accelerate.utils import wait_for_everyone
from datasets import Dataset
from transformers import TrainingArguments

from modeling_medtvt import MedTVTForCausalLM
from processing_medtvt import MedTVTProcessor

from ..data.collator import MedTVTDataCollator, drop_long_rows
from ..data.feature_cache import FeatureCache
from ..data.rows import QARow
from ..data.stored_rows import load_stored_rows
from .arguments import DataArguments
from .checkpoints import output_folder
from .findings_dataset import label_findings
from .model import QA_STAGES


logger = logging.getLogger(__name__)


def load_rows(
    stage: str,
    split: str,
    arguments: DataArguments,
    training: TrainingArguments,
    processor: MedTVTProcessor,
    folder: str | None = None,
) -> Dataset:
    """
    The rows of a stage's level and of a split that are not too long, with `length` (tokens) and `split`, mapped into memory: from the
    feature cache's folder where there is one, so that other runs find them, else from the output folder. All processes call
    this and share the work.

    Args:
        folder (`str`, *optional*): Of a further dataset, in place of the arguments' one.
    """
    data = folder or arguments.data
    dataset = load_stored_rows(
        data,
        QA_STAGES[stage],
        split,
        arguments.feature_cache or output_folder(training),
        processor,
        ecg_root=None if folder else arguments.ecg_root,
        cxr_root=None if folder else arguments.cxr_root,
        max_rejected=arguments.max_rejected,
        part=(training.process_index, training.world_size),
        wait=wait_for_everyone,
    )
    if not len(dataset):
        raise ValueError(f"{data} has no row in {QA_STAGES[stage]}/{split}.")
    if split == "validation" and arguments.max_eval_rows is not None:
        dataset = dataset.select(range(min(arguments.max_eval_rows, len(dataset))))
    dataset, dropped = drop_long_rows(dataset, processor, arguments.max_length or sys.maxsize)
    if dropped:
        ids = ", ".join(row["id"] for row in dropped[:5])
        logger.warning(
            "%s, %s: %d rows are longer than `max_length` and left out, e.g. %s.", data, split, len(dropped), ids
        )
    return dataset


def cache_features(
    datasets: dict[str, Dataset],
    arguments: DataArguments,
    training: TrainingArguments,
    model: MedTVTForCausalLM,
    processor: MedTVTProcessor,
) -> tuple[dict[str, Dataset], FeatureCache | None]:
    """
    Runs the frozen encoders over the datasets, each under its own name, where there is to be a feature cache. All processes call
    this and share the work.

    Returns:
        The datasets without unreadable rows, listed in `rejects_NAME.jsonl` of the output folder, and the cache.
    """
    if not arguments.feature_cache:
        return datasets, None
    cache = FeatureCache(arguments.feature_cache, model, processor, arguments.feature_dtype)
    build = functools.partial(
        cache.build,
        batch_size=training.per_device_eval_batch_size,
        num_workers=training.dataloader_num_workers,
        max_rejected=arguments.max_rejected,
        progress=training.should_log,
        trust_built=True,
    )
    for name, dataset in datasets.items():
        if training.world_size > 1:
            build(dataset, part=(training.process_index, training.world_size))
            wait_for_everyone()
        rejects_file = output_folder(training) / f"rejects_{name}.jsonl" if training.should_save else None
        datasets[name] = build(dataset, rejects_file=rejects_file)
    return datasets, cache


class StageCollator:
    """
    A `Trainer` has one collator for both of its datasets: this one withholds modalities from training rows only, and adds
    the `ids` that an error names and, where findings are to be learned, their `findings_labels`.

    Args:
        processor, features: As for [`MedTVTDataCollator`].
        modality_dropout (`float`): Probability that a training row loses a modality.
        seed (`int`): Seed of what is withheld.
        findings (`list[str]`): Names of the findings that a training row's labels are for.
    """

    def __init__(
        self,
        processor: MedTVTProcessor,
        features: FeatureCache | None = None,
        modality_dropout: float = 0.0,
        seed: int = 0,
        findings: Sequence[str] = (),
    ) -> None:
        self.training = MedTVTDataCollator(processor, features, modality_dropout=modality_dropout, seed=seed)
        self.evaluation = MedTVTDataCollator(processor, features)
        self.findings = findings

    def __call__(self, rows: list[Any]) -> dict[str, Any]:
        """
        As [`MedTVTDataCollator`], of rows with their `split`; `ids`, and `findings_labels` (batch, findings), NaN where not
        known.
        """
        is_training = rows[0]["split"] == "train"
        batch = (self.training if is_training else self.evaluation)(rows)
        if is_training and self.findings:
            batch["findings_labels"] = torch.from_numpy(np.stack([self._label(row) for row in rows]))
        return {**batch, "ids": [row["id"] for row in rows]}

    def _label(self, row: QARow) -> np.ndarray:
        if row["findings"] is None:
            return np.full(len(self.findings), np.nan, dtype=np.float32)
        return label_findings(row, self.findings)
