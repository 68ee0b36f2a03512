# SPDX-License-Identifier: Apache-2.0
"""Batches of MedTVT-QA rows."""

import functools
import itertools
import zlib
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset

from processing_medtvt import MedTVTProcessor

from .columns import read_column
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
        `length`, times the share of its `characters` that stay (see [`measure_rows`]).
        """
        ids = read_column(dataset, "id").combine_chunks()
        lengths = read_column(dataset, "length").to_numpy()
        if not self.modality_dropout:
            return lengths.tolist()
        column = read_column(dataset, "modalities").combine_chunks()
        codes = pc.index_in(column.flatten(), pa.array(MODALITIES)).to_numpy()
        ends = pc.list_value_length(column).to_numpy().cumsum()
        masks = np.bincount(pc.list_parent_indices(column), weights=1 << codes, minlength=len(ids)).astype(np.int64)
        kept = masks.copy()
        for i in (masks & (masks - 1)).nonzero()[0]:  # of two or more
            modalities = [MODALITIES[code] for code in codes[ends[i - 1] if i else 0 : ends[i]]]
            kept[i] -= sum(1 << MODALITIES.index(name) for name in self._draw_withheld(ids[i].as_py(), modalities))
        characters = _stack_lists(read_column(dataset, "characters"), 1 << len(MODALITIES))
        rows = np.arange(len(lengths))
        if (unknown := (characters[rows, kept] < 0).nonzero()[0]).size:
            self._withhold(dataset[int(unknown[0])])  # says what is wrong with it
        return (lengths * characters[rows, kept] / characters[rows, masks]).tolist()

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
        for modality in self._draw_withheld(row["id"], modalities):
            row = withhold(row, modality)
        return row

    def _draw_withheld(self, row_id: str, modalities: list[Modality]) -> list[Modality]:
        rng = np.random.default_rng([self.seed, self.epoch, zlib.crc32(row_id.encode())])
        withheld = [modality for modality in modalities if rng.random() < self.modality_dropout]
        if len(withheld) == len(modalities):
            withheld.pop(rng.integers(len(withheld)))
        return withheld


def _num_characters(row: QARow) -> int:
    return sum(
        len(part["text"] or "")
        for message in (*row["prompt"], *row["completion"])
        for part in message["content"]
        if part["type"] == "text"
    )


def _stack_lists(lists: pa.ChunkedArray, length: int) -> np.ndarray:
    """(rows, length) of lists that all have that length."""
    return lists.combine_chunks().flatten().to_numpy().reshape(-1, length)


def _count_characters(row: QARow) -> list[int]:
    """
    Characters of prompt and completion without each set of modalities, by the mask of those that stay; -1 where the row's
    parts do not tell, or the row has not those modalities.
    """
    counts = [-1] * (1 << len(MODALITIES))
    has = [modality for modality in MODALITIES if modality in row["modalities"]]
    for size in range(len(has), -1, -1):
        for kept in itertools.combinations(has, size):
            mask = sum(1 << MODALITIES.index(modality) for modality in kept)
            if len(has) in (0, size):
                counts[mask] = _num_characters(row)
            elif kept:
                try:
                    # in the order of the row, as modality dropout does it
                    left = functools.reduce(withhold, [name for name in row["modalities"] if name not in kept], row)
                    counts[mask] = _num_characters(left)
                except ValueError:
                    continue
    return counts


def measure_rows(table: pa.Table, processor: MedTVTProcessor) -> pa.Table:
    """
    Adds to rows how long they are: `length`, the tokens of prompt and completion, which
    `TrainingArguments(train_sampling_strategy="group_by_length")` reads, and `characters`, those that are left when
    modalities are withheld.
    """
    encode = MedTVTDataCollator(processor).encode
    lengths, characters = [], []
    names = [name for name in ("id", "modalities", "prompt", "completion", "findings") if name in table.column_names]
    for batch in table.select(names).to_batches(1000):
        for row in batch.to_pylist():
            lengths.append(sum(map(len, encode(row))))
            characters.append(_count_characters(row))
    table = table.drop_columns([name for name in ("length", "characters") if name in table.column_names])
    table = table.append_column("length", pa.array(lengths, pa.int64()))
    table = table.append_column("characters", pa.array(characters, pa.list_(pa.int32())))
    return table.replace_schema_metadata(None)  # what `datasets` put there does not know the two columns


def drop_long_rows(
    dataset: Dataset, processor: MedTVTProcessor, max_length: int
) -> tuple[Dataset, list[dict[str, Any]]]:
    """
    The rows of at most `max_length` tokens, prompt and completion together, whole, with the columns of [`measure_rows`],
    which are computed where the dataset lacks them.

    Returns:
        The dataset, and what was left out as a list of `{"id", "length"}`.

    Raises:
        ValueError: if no row is left.
    """
    if "characters" not in dataset.column_names:
        dataset = Dataset(measure_rows(dataset.with_format("arrow")[:], processor))
    lengths = read_column(dataset, "length").to_numpy()
    is_long = lengths > max_length
    if len(lengths) and is_long.all():
        raise ValueError(
            f"All {len(lengths)} rows have more than {max_length} tokens; the shortest has {lengths.min()}."
        )
    if not is_long.any():
        return dataset, []
    ids = read_column(dataset, "id").filter(pa.array(is_long)).to_pylist()
    dropped = [{"id": row_id, "length": int(n)} for row_id, n in zip(ids, lengths[is_long])]
    return dataset.select((~is_long).nonzero()[0]), dropped
