# SPDX-License-Identifier: Apache-2.0
"""The rows of a stage, and the batches of them."""

import logging
import sys
from typing import Any

from datasets import Dataset
from transformers import TrainingArguments

from modeling_medtvt import MedTVTForCausalLM
from processing_medtvt import MedTVTProcessor

from ..data.collator import MedTVTDataCollator, drop_long_rows
from ..data.feature_cache import FeatureCache
from ..data.load import load_medtvt_qa
from .arguments import DataArguments
from .checkpoints import output_folder
from .model import QA_STAGES


logger = logging.getLogger(__name__)


def load_rows(stage: str, split: str, arguments: DataArguments, processor: MedTVTProcessor) -> Dataset:
    """The rows of a split that are not too long, with `length` (tokens) and `split`."""
    dataset = load_medtvt_qa(
        arguments.data,
        QA_STAGES[stage],
        split,
        ecg_root=arguments.ecg_root,
        cxr_root=arguments.cxr_root,
        max_rejected=arguments.max_rejected,
    )
    if not len(dataset):
        raise ValueError(f"{arguments.data} has no row in {QA_STAGES[stage]}/{split}.")
    if split == "validation" and arguments.max_eval_rows is not None:
        dataset = dataset.select(range(min(arguments.max_eval_rows, len(dataset))))
    dataset, dropped = drop_long_rows(dataset, processor, arguments.max_length or sys.maxsize)
    if dropped:
        ids = ", ".join(row["id"] for row in dropped[:5])
        logger.warning("%s: %d rows are longer than `max_length` and left out, e.g. %s.", split, len(dropped), ids)
    return dataset.add_column("split", [split] * len(dataset))


def cache_features(
    datasets: dict[str, Dataset],
    folder: str,
    training: TrainingArguments,
    model: MedTVTForCausalLM,
    processor: MedTVTProcessor,
) -> tuple[dict[str, Dataset], FeatureCache]:
    """
    Runs the frozen encoders over the datasets of each split.

    Returns:
        The datasets without unreadable rows, listed in `rejects_SPLIT.jsonl` of the output folder, and the cache.
    """
    cache = FeatureCache(folder, model, processor)
    for split, dataset in datasets.items():
        with training.main_process_first():  # the others find it done
            datasets[split] = cache.build(
                dataset,
                batch_size=training.per_device_eval_batch_size,
                num_workers=training.dataloader_num_workers,
                rejects_file=output_folder(training) / f"rejects_{split}.jsonl",
            )
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
