# SPDX-License-Identifier: Apache-2.0
"""
Dynamic sampling (DAPO, arXiv 2503.14476): prompts whose completions all earn the same teach nothing, so fresh prompts take
their place. trl only counts them, as `frac_reward_zero_std`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch

from ..data.rows import QARow


# Rewards that differ by less are the same: what rounding makes of a sum
SPREAD = 1e-6


@dataclass
class Group:
    """
    A prompt with its completions.

    Args:
        row (`QARow`): Whose prompt.
        prompt_ids (`list[int]`): Tokens of the prompt.
        completion_ids (`list[list[int]]`): Tokens of each of the G completions.
        completions (`list`): Their texts, as reward functions get them.
        rewards (`torch.Tensor`): (G, reward functions).
        features (`dict[str, torch.Tensor]`): The encoders' outputs by the model's input names, without the batch.
        has_spread (`bool`): Whether the completions earn different rewards.
    """

    row: QARow
    prompt_ids: list[int]
    completion_ids: list[list[int]]
    completions: list
    rewards: torch.Tensor
    features: dict[str, torch.Tensor]
    has_spread: bool


def find_spread(rewards: torch.Tensor, weights: torch.Tensor, aggregation: str) -> torch.Tensor:
    """
    Which groups teach something, (groups,).

    Args:
        rewards (`torch.Tensor`): (groups, G, reward functions).
        weights (`torch.Tensor`): (reward functions,).
        aggregation (`str`): trl's `multi_objective_aggregation`: whether their sum must differ, or any that has a weight.
    """
    weighed = rewards * weights
    if aggregation == "sum_then_normalize":
        weighed = weighed.sum(2, keepdim=True)
    return (weighed.amax(1) - weighed.amin(1) > SPREAD).any(1)


def refill_groups(
    groups: list[Group],
    roll_out: Callable[[list[QARow]], list[Group]],
    fresh: Iterator[QARow],
    rounds: int,
    reduce: Callable[[int, str], int],
) -> tuple[list[Group], str | None]:
    """
    As many groups as there were, with fresh ones in place of those without spread, as far as there are any.

    All processes call this together and roll out equally many prompts in each round: what one has too many is dropped.

    Args:
        groups (`list[Group]`): Of this process.
        roll_out (`Callable`): Makes groups of rows.
        fresh (`Iterator[QARow]`): Rows to try, of this process.
        rounds (`int`): How often to try, at most.
        reduce (`Callable`): The `"max"`, `"min"` or `"sum"` of a number over all processes.

    Returns:
        The groups, and why some of them are still without spread, None where all have it.

    Raises:
        ValueError: if no group of any process has spread.
    """
    kept = [group for group in groups if group.has_spread]
    reason = f"{rounds} rounds of fresh prompts were not enough"
    for _ in range(rounds):
        missing = reduce(len(groups) - len(kept), "max")
        if missing <= 0:
            break
        rows = list(islice(fresh, missing))
        if not (count := reduce(len(rows), "min")):
            reason = "there is no fresh prompt left"
            break
        kept += [group for group in roll_out(rows[:count]) if group.has_spread]
    if not reduce(len(kept), "sum"):
        raise ValueError(
            f"Refill: {reason}, and the completions of each prompt earn the same, so there is nothing to learn from. Look at "
            "samples.jsonl: raise `temperature`, or choose rewards that this model sometimes earns."
        )
    without = [group for group in groups if not group.has_spread]
    short = len(kept) < len(groups)
    return [*kept, *without][: len(groups)], reason if short else None


def stack_features(groups: list[Group]) -> dict[str, torch.Tensor]:
    """One row a group, zeros where a group lacks the modality."""
    like = {name: tensor for group in groups for name, tensor in group.features.items()}
    return {
        name: torch.stack([group.features.get(name, torch.zeros_like(tensor)) for group in groups])
        for name, tensor in like.items()
    }
