# SPDX-License-Identifier: Apache-2.0
"""Batches of MedTVT-QA rows."""

import zlib
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from processing_medtvt import MedTVTProcessor

from .conversation import MODALITIES, message_text, withhold
from .feature_cache import FeatureCache
from .inputs import FEATURE_INPUTS, RAW_INPUTS, read_values
from .rows import Message, Modality, QARow


class MedTVTDataCollator:
    """
    Turns rows of MedTVT-QA into inputs of the model, with a loss on the answer alone. Any mix of modalities makes a
    batch.

    Args:
        processor ([`MedTVTProcessor`]): Its chat template must keep the answer as it is.
        features ([`FeatureCache`], *optional*): Where to read the encoders' outputs from, instead of files.
        modality_dropout (`float`): Probability with which each modality of a row is withheld, from the question as from
            the answer; at least one stays. Needs rows whose parts say which modality they cite. What is withheld
            depends on `seed`, `epoch` and the row's id alone, so that a resumed run repeats it.
        seed (`int`): Seed of the dropout.
        max_length (`int`, *optional*): A row with more tokens is an error; see [`drop_long_rows`].

    Attributes:
        epoch (`int`): To be set at the start of each epoch, or every epoch withholds the same. Seen by running
            DataLoader workers too.
    """

    def __init__(
        self,
        processor: MedTVTProcessor,
        features: FeatureCache | None = None,
        modality_dropout: float = 0.0,
        seed: int = 0,
        max_length: int | None = None,
    ) -> None:
        if not 0 <= modality_dropout < 1:
            raise ValueError(f"`modality_dropout` must be in 0..1, less than 1; got {modality_dropout}.")
        self.processor = processor
        self.features = features
        self.modality_dropout = modality_dropout
        self.seed = seed
        self.max_length = max_length
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # persistent workers are not made anew

    @property
    def epoch(self) -> int:
        return int(self._epoch.item())

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self._epoch.fill_(epoch)

    def __call__(self, rows: list[QARow]) -> dict[str, torch.Tensor]:
        """
        Returns:
            `input_ids`, `attention_mask` and `labels` (batch, longest row), padded on the right, labels -100 except on
            the answer and its end; and [`~MedTVTDataCollator.modality_inputs`].

        Raises:
            ValueError: if a row has more than `max_length` tokens, or its file or text cannot be used.
        """
        rows = [self._withhold(row) for row in rows]
        encoded = [self.encode(row) for row in rows]
        lengths = [len(prompt) + len(completion) for prompt, completion in encoded]
        for row, length in zip(rows, lengths):
            if self.max_length is not None and length > self.max_length:
                raise ValueError(
                    f"Row {row['id']} has {length} tokens, `max_length` is {self.max_length}. Its answer is not cut; "
                    "leave such rows out with `medtvt_training.data.collator.drop_long_rows`."
                )
        pad = self.processor.tokenizer.pad_token_id
        shape = (len(rows), max(lengths))
        batch = {
            "input_ids": torch.full(shape, 0 if pad is None else pad),
            "attention_mask": torch.zeros(shape, dtype=torch.int64),
            "labels": torch.full(shape, -100),
        }
        for i, ((prompt, completion), length) in enumerate(zip(encoded, lengths)):
            batch["input_ids"][i, :length] = torch.tensor(prompt + completion)
            batch["attention_mask"][i, :length] = 1
            batch["labels"][i, len(prompt) : length] = torch.tensor(completion)
        return {**batch, **self.modality_inputs(rows)}

    def modality_inputs(self, rows: list[QARow]) -> dict[str, torch.Tensor]:
        """
        `ecg_values`, `pixel_values` and `lab_values`, or with a feature cache `ecg_features`, `cxr_features` and
        `lab_features`: one row a sample, zeros where it lacks the modality. What no sample has is left out.
        """
        inputs = {}
        for modality in MODALITIES:
            present = [i for i, row in enumerate(rows) if modality in row["modalities"]]
            if not present:
                continue
            values = torch.stack([self._read(rows[i], modality) for i in present])
            name = (RAW_INPUTS if self.features is None else FEATURE_INPUTS)[modality]
            inputs[name] = values.new_zeros(len(rows), *values.shape[1:])
            inputs[name][present] = values
        return inputs

    def estimate_lengths(self, dataset: Dataset) -> list[float]:
        """
        Tokens of each row as modality dropout leaves it in this epoch, for batches of similar length: those of the column
        `length` (see [`drop_long_rows`]), times the share of its characters that stay.
        """
        columns = ["id", "modalities", "prompt", "completion", "length"]
        return [
            row["length"] * _num_characters(self._withhold(row)) / _num_characters(row)
            for row in dataset.select_columns(columns)
        ]

    def encode(self, row: QARow) -> tuple[list[int], list[int]]:
        """
        Token ids of the prompt, as generation sees it, and of the completion with its end.

        Raises:
            ValueError: if the chat template does not put the completion, unaltered, behind the prompt.
        """
        prompt, both = self._render(row["prompt"], row["completion"])
        tokenizer = self.processor.tokenizer
        answer = message_text(row["completion"]).strip()
        if not both.startswith(prompt) or answer not in both[len(prompt) :]:
            raise ValueError(
                f"Row {row['id']}: the chat template does not put the answer, as it is, behind the prompt with "
                "`add_generation_prompt=True`, so the answer cannot be told from the question. Give the processor "
                "another `chat_template`."
            )
        # as in `apply_chat_template(tokenize=True)`: a template that begins with BOS has all special tokens
        has_bos = bool(tokenizer.bos_token) and prompt.startswith(tokenizer.bos_token)
        prompt_ids = self.processor.encode_text(prompt, add_special_tokens=not has_bos)["input_ids"]
        completion_ids = tokenizer(both[len(prompt) :], add_special_tokens=False)["input_ids"]
        # nothing is generated after the end: a template's trailing newline goes
        ends = [i for i, token in enumerate(completion_ids) if token == tokenizer.eos_token_id]
        return prompt_ids, completion_ids[: ends[-1] + 1] if ends else [*completion_ids, tokenizer.eos_token_id]

    def _render(self, prompt: list[Message], completion: list[Message]) -> tuple[str, str]:
        render = self.processor.apply_chat_template
        return render(prompt, add_generation_prompt=True, tokenize=False), render(prompt + completion, tokenize=False)

    def _read(self, row: QARow, modality: Modality) -> torch.Tensor:
        if self.features is not None:
            return self.features.get(row, modality)
        return torch.from_numpy(read_values(row, modality, self.processor))

    def _withhold(self, row: QARow) -> QARow:
        modalities = row["modalities"]
        if not self.modality_dropout or len(modalities) < 2:
            return row
        rng = np.random.default_rng([self.seed, self.epoch, zlib.crc32(row["id"].encode())])
        withheld = [modality for modality in modalities if rng.random() < self.modality_dropout]
        if len(withheld) == len(modalities):
            withheld.pop(rng.integers(len(withheld)))
        for modality in withheld:
            row = withhold(row, modality)
        return row


def _num_characters(row: QARow) -> int:
    return sum(
        len(part["text"] or "")
        for message in (*row["prompt"], *row["completion"])
        for part in message["content"]
        if part["type"] == "text"
    )


def drop_long_rows(
    dataset: Dataset, processor: MedTVTProcessor, max_length: int
) -> tuple[Dataset, list[dict[str, Any]]]:
    """
    The rows of at most `max_length` tokens, prompt and completion together, whole. They get the column `length`, which
    `TrainingArguments(train_sampling_strategy="group_by_length")` reads.

    Returns:
        The dataset, and what was left out as a list of `{"id", "length"}`.

    Raises:
        ValueError: if no row is left.
    """
    encode = MedTVTDataCollator(processor).encode
    texts = dataset.select_columns(["id", "prompt", "completion"])
    lengths = [sum(map(len, encode(row))) for row in texts]
    dropped = [{"id": row_id, "length": n} for row_id, n in zip(dataset["id"], lengths) if n > max_length]
    if lengths and len(dropped) == len(lengths):
        raise ValueError(
            f"All {len(lengths)} rows have more than {max_length} tokens; the shortest has {min(lengths)}."
        )
    if "length" in dataset.column_names:
        dataset = dataset.remove_columns("length")
    dataset = dataset.add_column("length", lengths)
    if dropped:
        dataset = dataset.select([i for i, length in enumerate(lengths) if length <= max_length])
    return dataset, dropped
