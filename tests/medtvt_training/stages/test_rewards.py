# SPDX-License-Identifier: Apache-2.0
import pytest

from medtvt_training.stages.rewards import (
    REWARDS,
    format_reward,
    graded_format_reward,
    jaccard_reward,
    probability_reward,
)
from modeling_medtvt import DISEASES


GOOD = "<think>Creatinine raised.</think><answer>Acute Renal Failure; Sepsis</answer>"
TRUTH = ["Acute Renal Failure", "Sepsis"]


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        (GOOD, 1),
        (f"  {GOOD}\n", 1),
        (GOOD.replace("</think>", "</think>\n\n "), 1),
        ("<think></think><answer></answer>", 1),
        ("<think>two\nlines</think><answer>Sepsis</answer>", 1),
        ("", 0),
        ("Sepsis", 0),
        (f"Well, {GOOD}", 0),
        (f"{GOOD} So be it.", 0),
        (GOOD.replace("</think>", "</think> and "), 0),
        (GOOD.replace("</answer>", ""), 0),
        (GOOD.replace("<think>", ""), 0),
        (GOOD + "<answer>Sepsis</answer>", 0),
        ("<think><answer>Sepsis</answer></think><answer>Sepsis</answer>", 0),
        ("<think>a<think>b</think><answer>Sepsis</answer>", 0),
        ("<answer>Sepsis</answer><think>late</think>", 0),
        ("<Think>a</Think><Answer>Sepsis</Answer>", 0),
    ],
)
def test_format_reward(completion, expected):
    assert format_reward(prompts=[""], completions=[completion]) == [expected]


@pytest.mark.parametrize(
    ("completion", "truth", "expected"),
    [
        (GOOD, TRUTH, 1),
        (GOOD, ["Sepsis", "Acute Renal Failure"], 1),
        (GOOD, ["Sepsis"], 1 / 2),
        (GOOD, ["Pneumonia"], 0),
        (GOOD, [*TRUTH, "Pneumonia"], 2 / 3),
        ("<answer>Sepsis</answer>", ["Sepsis"], 1),
        ("<answer> ; sepsis;SEPSIS ;\n Acute  renal Failure;</answer>", TRUTH, 1),
        ("<answer>Sepsis; Gout</answer>", ["Sepsis"], 1 / 2),
        ("<answer>Sepsis; Gout; gout; Influenza</answer>", ["Sepsis"], 1 / 3),
        ("<answer>Sepsis, Pneumonia</answer>", ["Sepsis", "Pneumonia"], 0),
        ("<answer>Sepsis</answer><answer>Pneumonia</answer>", ["Sepsis"], 1),
        ("<answer>Sepsis</answer><answer>Pneumonia</answer>", ["Pneumonia"], 0),
        ("<answer>Sepsis</answer> and Pneumonia", ["Sepsis"], 1),
        ("<answer>Sepsis", ["Sepsis"], 0),
        ("Sepsis", ["Sepsis"], 0),
        ("", ["Sepsis"], 0),
        ("<answer></answer>", ["Sepsis"], 0),
        ("<answer></answer>", [], 0),
        ("no answer", [], 0),
        ("<answer>Sepsis</answer>", [], 0),
        ("<answer>Gout</answer>", [], 0),
    ],
)
def test_jaccard_reward(completion, truth, expected):
    assert jaccard_reward(prompts=[""], completions=[completion], diseases=[truth]) == [pytest.approx(expected)]


@pytest.mark.parametrize(
    "completion",
    [
        [{"role": "assistant", "content": GOOD}],
        [{"role": "assistant", "content": [{"type": "text", "text": GOOD}]}],
        [{"role": "assistant", "content": "<answer>"}, {"role": "assistant", "content": GOOD}],
    ],
)
def test_conversational_completions(completion):
    assert format_reward(prompts=[""], completions=[completion]) == [1]
    assert jaccard_reward(prompts=[""], completions=[completion], diseases=[TRUTH]) == [1]


@pytest.mark.parametrize(
    ("diseases", "message"),
    [
        ([None], "list of labels"),
        (["Sepsis"], "list of labels"),
        ([["Gout"]], "Gout"),
        ([["Sepsis"], ["Sepsis"]], "zip"),
    ],
)
def test_truth_that_cannot_be_used(diseases, message):
    with pytest.raises(ValueError, match=message):
        jaccard_reward(prompts=[""], completions=[GOOD], diseases=diseases)


def test_graded_format_reward_rises_towards_the_format():
    steps = ["Sepsis", "<think>", "<think>a</think>", "<think>a</think><answer>", f"x{GOOD}", GOOD]
    rewards = graded_format_reward(prompts=[""] * 6, completions=steps)
    assert rewards == [0, 1 / 8, 2 / 8, 3 / 8, 4 / 8, 1]


@pytest.mark.parametrize(
    ("completion", "scores", "expected"),
    [
        (GOOD, {"Acute Renal Failure": 1, "Sepsis": 1}, 1),
        (GOOD, {}, 5 / 7),
        (GOOD, dict.fromkeys(DISEASES, 1), 2 / 7),
        (GOOD, dict.fromkeys(DISEASES, 0.5), 3 / 4),
        (GOOD, {"Acute Renal Failure": 0.9, "Sepsis": 0.8}, 1 - 0.05 / 7),
        ("<think>Creatinine raised.</think>", {"Acute Renal Failure": 1, "Sepsis": 1}, 0),
    ],
)
def test_probability_reward_is_one_less_the_brier_score(completion, scores, expected):
    probabilities = [{**dict.fromkeys(DISEASES, 0), **scores}]
    found = probability_reward([""], [completion], diseases=[TRUTH], probabilities=probabilities)
    assert found == [pytest.approx(expected)]


def test_rewards_are_named_as_in_recipes():
    assert list(REWARDS)[:2] == ["format", "jaccard"]
