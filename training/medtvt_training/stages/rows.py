# SPDX-License-Identifier: Apache-2.0
"""The rows of a stage, and the batches of them."""

import functools
import logging
import sys
from typing import Any

from accelerate.utils import wait_for_everyone
from datasets import Dataset
from transformers import TrainingArguments

from modeling_medtvt import MedTVTForCausalLM
from processing_medtvt import MedTVTProcessor

from ..data.collator import MedTVTDataCollator, drop_long_rows
from ..data.feature_cache import FeatureCache
from ..data.stored_rows import load_stored_rows
from .arguments import DataArguments
from .checkpoints import output_folder
from .model import QA_STAGES


logger = logging.getLogger(__name__)


def load_rows(
    stage: str, split: str, arguments: DataArguments, training: TrainingArguments, processor: MedTVTProcessor
) -> Dataset:
    """
    The rows of a split that are not too long, with `length` (tokens) and `split`, mapped into memory: from the feature
    cache's folder where there is one, so that other runs find them, else from the output folder. All processes call this
    and share the work.
    """
    dataset = load_stored_rows(
        arguments.data,
        QA_STAGES[stage],
        split,
        arguments.feature_cache or output_folder(training),
        processor,
        ecg_root=arguments.ecg_root,
        cxr_root=arguments.cxr_root,
        max_rejected=arguments.max_rejected,
        part=(training.process_index, training.world_size),
        wait=wait_for_everyone,
    )
    if not len(dataset):
        raise ValueError(f"{arguments.data} has no row in {QA_STAGES[stage]}/{split}.")
    if split == "validation" and arguments.max_eval_rows is not None:
        dataset = dataset.select(range(min(arguments.max_eval_rows, len(dataset))))
    dataset, dropped = drop_long_rows(dataset, processor, arguments.max_length or sys.maxsize)
    if dropped:
        ids = ", ".join(row["id"] for row in dropped[:5])
        logger.warning("%s: %d rows are longer than `max_length` and left out, e.g. %s.", split, len(dropped), ids)
    return dataset


def cache_features(
    datasets: dict[str, Dataset],
    arguments: DataArguments,
    training: TrainingArguments,
    model: MedTVTForCausalLM,
    processor: MedTVTProcessor,
) -> tuple[dict[str, Dataset], FeatureCache | None]:
    """
    Runs the frozen encoders over the datasets of each split, where there is to be a feature cache. All processes call
    this and share the work.

    Returns:
        The datasets without unreadable rows, listed in `rejects_SPLIT.jsonl` of the output folder, and the cache.
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
    for split, dataset in datasets.items():
        if training.world_size > 1:
            build(dataset, part=(training.process_index, training.world_size))
            wait_for_everyone()
        rejects_file = output_folder(training) / f"rejects_{split}.jsonl" if training.should_save else None
        datasets[split] = build(dataset, rejects_file=rejects_file)
    return datasets, cache


class StageCollator:
    """
    A `Trainer` has one collator for both of its datasets: this one withholds modalities from training rows only, and adds
    the `ids` that an error names.

    Args:
        processor, features: As for [`MedTVTDataCollator`].
        modality_dropout (`float`): Probability that a training row loses a modality.
        seed (`int`): Seed of what is withheld.
    """

    def __init__(
        self,
        processor: MedTVTProcessor,
        features: FeatureCache | None = None,
        modality_dropout: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.training = MedTVTDataCollator(processor, features, modality_dropout=modality_dropout, seed=seed)
        self.evaluation = MedTVTDataCollator(processor, features)

    def __call__(self, rows: list[Any]) -> dict[str, Any]:
        """As [`MedTVTDataCollator`], of rows with their `split`, and `ids`."""
        collator = self.training if rows[0]["split"] == "train" else self.evaluation
        return {**collator(rows), "ids": [row["id"] for row in rows]}
