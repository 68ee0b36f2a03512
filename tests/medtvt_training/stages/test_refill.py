# SPDX-License-Identifier: Apache-2.0
from types import SimpleNamespace

import pytest
import torch

from medtvt_training.stages.grpo_checks import check_refill
from medtvt_training.stages.refill import Group, find_spread, refill_groups, stack_features

from .grpo_toy import length_reward


def group(name, has_spread):
    return Group(name, [], [], [], torch.zeros(2, 1), {}, has_spread)


def alone(number, how):
    return number


def refill(groups, fresh, rounds=2, reduce=alone, teaching="xyz"):
    """Rows are names; those of `teaching` have spread. Also what was rolled out in each round."""
    rolled = []

    def roll_out(rows):
        rolled.append(rows)
        return [group(row, row in teaching) for row in rows]

    filled, reason = refill_groups(groups, roll_out, iter(fresh), rounds, reduce)
    return "".join(group.row for group in filled), reason, rolled


@pytest.mark.parametrize(
    ("fresh", "expected", "rolled", "reason"),
    [
        ("xy", "acxy", [["x", "y"]], None),
        ("pxqy", "acxb", [["p", "x"], ["q"]], "2 rounds"),
        ("pxy", "acxy", [["p", "x"], ["y"]], None),
        ("x", "acxb", [["x"]], "no fresh prompt"),
        ("", "acbd", [], "no fresh prompt"),
    ],
)
def test_fresh_prompts_take_the_place_of_those_without_spread(fresh, expected, rolled, reason):
    groups = [group("a", True), group("b", False), group("c", True), group("d", False)]
    found, why, rounds = refill(groups, fresh)
    assert found == expected and rounds == rolled
    assert why is None if reason is None else reason in why


def test_nothing_is_rolled_out_where_all_have_spread():
    assert refill([group("a", True)], "xyz") == ("a", None, [])


@pytest.mark.parametrize(("fresh", "reason"), [("pqrstu", "2 rounds"), ("", "no fresh prompt")])
def test_all_groups_without_spread_stop_the_run(fresh, reason):
    with pytest.raises(ValueError, match=f"{reason}.*nothing to learn from.*temperature"):
        refill([group("a", False), group("b", False)], fresh)


def test_processes_roll_out_equally_many_prompts():
    """This process misses none and the other two, of whom it has one row left: both roll out one."""
    others = {"max": [2, 1], "min": [1, 0], "sum": [3]}

    def reduce(number, how):
        return (
            max(number, others[how].pop(0)) if how == "max" else min(number, others[how].pop(0)) if how == "min" else 3
        )

    found, _, rolled = refill([group("a", True), group("c", True)], "xyz", reduce=reduce)
    assert found == "ac" and rolled == [["x"]]


@pytest.mark.parametrize(
    ("rewards", "weights", "aggregation", "expected"),
    [
        ([[1, 0], [1, 0]], [1, 1], "sum_then_normalize", False),
        ([[1, 0], [0, 1]], [1, 1], "sum_then_normalize", False),
        ([[1, 0], [0, 1]], [1, 1], "normalize_then_sum", True),
        ([[1, 0], [0, 1]], [2, 1], "sum_then_normalize", True),
        ([[1, 0], [1, 1]], [1, 0], "normalize_then_sum", False),
        ([[1 / 3, 0], [1 / 3 + 1e-8, 0]], [1, 1], "normalize_then_sum", False),
    ],
)
def test_spread_is_what_an_advantage_comes_from(rewards, weights, aggregation, expected):
    found = find_spread(torch.tensor([rewards]), torch.tensor(weights).float(), aggregation)
    assert found.tolist() == [expected]


def test_features_of_groups_that_lack_a_modality_are_zero():
    with_ecg, without = group("a", True), group("b", True)
    with_ecg.features = {"ecg_features": torch.ones(2, 3)}
    stacked = stack_features([without, with_ecg])["ecg_features"]
    assert torch.equal(stacked, torch.stack([torch.zeros(2, 3), torch.ones(2, 3)]))


def flat_for(ids):
    """A reward that is the same for all completions of some rows."""

    def reward(completions, id, **kwargs):
        lengths = length_reward(completions)
        return [0.0 if row_id in ids else length for row_id, length in zip(id, lengths)]

    return reward


def test_a_batch_without_spread_is_refilled(policy, rows, make_trainer):
    flat = flat_for({rows[0]["id"]})
    shares = []
    for rounds in (0, 2):
        trainer = make_trainer(policy, reward_funcs=[flat], refill=rounds, save_strategy="no")
        trainer.train()
        entry = trainer.state.log_history[0]
        shares.append(entry["frac_reward_zero_std"])
        ids = list(trainer._logs["extra"]["id"])
    assert shares == [0.5, 0]
    assert entry["refilled"] == 0.5 and rows[0]["id"] not in ids and ids.count(rows[1]["id"]) == 4
    assert len(trainer._logs["completion"]) == len(ids) == 8  # only those that are learned from
    assert entry["kl"] == pytest.approx(0, abs=1e-9)  # the passes see what the rollouts saw


def test_refill_says_what_it_cannot_do(policy, rows, make_trainer, caplog):
    two = rows.select([0, 1])
    trainer = make_trainer(policy, reward_funcs=[flat_for({rows[0]["id"]})], train_dataset=two, refill=1)
    trainer.train()
    assert "the completions of 1 of 2 prompts earn the same: there is no fresh prompt left" in caplog.text
    with pytest.raises(ValueError, match="nothing to learn from"):
        make_trainer(policy, reward_funcs=[flat_for(set(rows["id"]))], refill=1).train()


def test_refill_needs_whole_groups_on_each_process():
    args = SimpleNamespace(per_device_train_batch_size=2, steps_per_generation=3, num_generations=4)
    with pytest.raises(ValueError, match="whole groups.* 6, .*4"):
        check_refill(args)
