# SPDX-License-Identifier: Apache-2.0
"""Several sets of rows in one training run, by stated shares."""

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler
from transformers import Trainer
from transformers.trainer_pt_utils import get_length_grouped_indices


logger = logging.getLogger(__name__)


def count_draws(sizes: Sequence[int], shares: Sequence[float | None], names: Sequence[str]) -> list[int]:
    """
    How many rows an epoch takes of each part: all of the first, and of each other so many that they are its share of the
    epoch; all, where there is no share.

    Args:
        sizes (`list[int]`): Rows of each part.
        shares (`list[float | None]`): Of each part but the first.
        names (`list[str]`): Of each part but the first, for notes and errors.

    Raises:
        ValueError: if a share is not between 0 and 1, together they leave nothing to the first part, or a part is empty.
    """
    for name, share, size in zip(names, shares, sizes[1:], strict=True):
        if share is not None and not 0 < share < 1:
            raise ValueError(f"The share of {name} must be between 0 and 1, got {share}.")
        if not size:
            raise ValueError(f"{name} has no row to mix in.")
    if (total := sum(share or 0 for share in shares)) >= 1:
        raise ValueError(
            f"The shares of {', '.join(names)} come to {total:g}; they must leave a part to the main data."
        )
    whole = sizes[0] + sum(size for size, share in zip(sizes[1:], shares) if share is None)
    draws = [sizes[0]]
    for name, share, size in zip(names, shares, sizes[1:]):
        draws.append(size if share is None else round(whole * share / (1 - total)))
        if draws[-1] > size:
            logger.warning(
                "%s: a share of %g takes %d rows an epoch, and there are %d: each is seen %.1f times.",
                name, share, draws[-1], size, draws[-1] / size,
            )  # fmt: skip
    return draws


class MixedSampler(Sampler[int]):
    """
    Indices of an epoch over parts that lie one behind the other. Of a part no row is seen again before all others were
    seen, also across epochs. The order depends on `seed` and `epoch` alone, so that resumed and distributed runs equal one.

    Args:
        sizes, draws (`list[int]`): Rows of each part, and how many of them an epoch takes.
        seed (`int`): Of the order.
        batch_size (`int`, *optional*): Rows of similar length are put into the same batch of this size; needs `lengths`.

    Attributes:
        epoch (`int`), lengths (`list[float]`): To be set at the start of each epoch.
    """

    def __init__(self, sizes: Sequence[int], draws: Sequence[int], seed: int, batch_size: int | None = None) -> None:
        self.sizes, self.draws, self.seed, self.batch_size = list(sizes), list(draws), seed, batch_size
        self.epoch = 0
        self.lengths: Sequence[float] | None = None

    def __len__(self) -> int:
        return sum(self.draws)

    def __iter__(self) -> Iterator[int]:
        starts = np.cumsum([0, *self.sizes])
        drawn = np.concatenate([start + self._draw(part) for part, start in enumerate(starts[:-1])])
        generator = torch.Generator().manual_seed(
            int(np.random.SeedSequence([self.seed, self.epoch]).generate_state(1)[0])
        )
        if self.batch_size is None:
            order = torch.randperm(len(drawn), generator=generator).tolist()
        else:
            if self.lengths is None:
                raise ValueError("`lengths` must be set before rows of similar length can be put together.")
            lengths = np.asarray(self.lengths)[drawn].tolist()
            order = get_length_grouped_indices(lengths, self.batch_size, generator=generator)
        return iter(drawn[order].tolist())

    def _draw(self, part: int) -> np.ndarray:
        """Places `epoch * draws` and on of an endless row of permutations of the part."""
        size, draws = self.sizes[part], self.draws[part]
        first, last = self.epoch * draws, (self.epoch + 1) * draws
        passes = range(first // size, -(-last // size))
        row = np.concatenate([np.random.default_rng([self.seed, part, i]).permutation(size) for i in passes])
        return row[first - passes.start * size :][:draws]


class MixtureTrainer(Trainer):
    """
    A stock `Trainer` whose training rows come in the order of a [`MixedSampler`].

    Args:
        sampler ([`MixedSampler`]): Of the training rows.
    """

    def __init__(self, *args: Any, sampler: MixedSampler, **kwargs: Any) -> None:
        self.sampler = sampler
        super().__init__(*args, **kwargs)

    def _get_train_sampler(self, train_dataset: Any = None) -> MixedSampler:
        return self.sampler
