# SPDX-License-Identifier: Apache-2.0
"""
Rewards of RFT, in the signature of trl's reward functions: R = R_F + R_J (paper, section 3.2.2).

Each takes `prompts`, `completions` and the dataset's columns as keywords, one entry a completion, and returns a list of
floats. A completion is a string, or a list of messages of which the last one counts.
"""

from collections.abc import Sequence
from typing import Any

from modeling_medtvt import DISEASES, parse_answer

from .completion import completion_text
from .evidence_reward import evidence_reward


TAGS = ("<think>", "</think>", "<answer>", "</answer>")


def is_well_formed(text: str) -> bool:
    """Whether a text is a think block and an answer block, each tag once, with nothing but whitespace around them."""
    parsed = parse_answer(text)
    whole = f"<think>{parsed.reasoning}</think><answer>{parsed.answer}</answer>"
    return all(text.count(tag) == 1 for tag in TAGS) and "".join(text.split()) == "".join(whole.split())


def format_reward(prompts: Sequence, completions: Sequence[str | list[dict]], **kwargs: Any) -> list[float]:
    """
    R_F: 1 if the whole completion is `<think>…</think><answer>…</answer>`, else 0. Whitespace around the blocks is
    allowed (the authors' template itself puts a space before an answer) and a block may be empty. Text before, between
    or after the blocks, a missing tag, and a tag that comes twice give 0.
    """
    return [float(is_well_formed(completion_text(completion))) for completion in completions]


def jaccard_reward(
    prompts: Sequence, completions: Sequence[str | list[dict]], diseases: Sequence[list[str] | None], **kwargs: Any
) -> list[float]:
    """
    R_J (equation 7): the size of the intersection of L_C and L_G over that of their union, or 0 where the union is
    empty. L_G is the row's `diseases`, L_C the set of entries of the completion's answer as [`parse_answer`] reads it:

    - order, case, spacing, empty entries and repetitions do not matter;
    - an entry that is none of the seven diseases is in L_C too, so it enlarges the union;
    - of several answer blocks the first counts, and text around it is ignored: that is R_F's business;
    - without a complete answer block L_C is empty, and so the reward is 0;
    - empty against empty is 0. A patient without a listed disease can earn nothing here; see [`empty_reward`].

    Args:
        prompts: not read.
        completions (`list[str]` or `list[list[dict]]`): the policy's answers.
        diseases (`list[list[str]]`): the true labels of each completion's row, of [`DISEASES`].

    Raises:
        ValueError: if a row has no list of labels, or a label that is none of the seven.
    """
    rewards = []
    for completion, labels in zip(completions, diseases, strict=True):
        parsed = parse_answer(completion_text(completion))
        predicted = {*parsed.diseases, *(entry.lower() for entry in parsed.unknown)}
        truth = _true_labels(labels)
        union = predicted | truth
        rewards.append(len(predicted & truth) / len(union) if union else 0.0)
    return rewards


def _true_labels(labels: list[str] | None) -> set[str]:
    if labels is None or isinstance(labels, str):
        raise ValueError(f"`diseases` must be a list of labels in each row, got {labels!r}.")
    parsed = parse_answer(f"<answer>{';'.join(labels)}</answer>")
    if parsed.unknown:
        raise ValueError(f"`diseases` holds {', '.join(parsed.unknown)}; accepted are {', '.join(DISEASES)}.")
    return set(parsed.diseases)


def graded_format_reward(prompts: Sequence, completions: Sequence[str | list[dict]], **kwargs: Any) -> list[float]:
    """
    A slope towards R_F, for a policy that hardly ever earns it: an eighth for each of the four tags that occurs exactly
    once, and a half where the whole format is right. Not in the paper.
    """
    texts = [completion_text(completion) for completion in completions]
    return [sum(text.count(tag) == 1 for tag in TAGS) / 8 + is_well_formed(text) / 2 for text in texts]


def empty_reward(
    prompts: Sequence, completions: Sequence[str | list[dict]], diseases: Sequence[list[str] | None], **kwargs: Any
) -> list[float]:
    """
    1 where the row lists no disease and the completion's answer block is there and names nothing, else 0: what R_J leaves
    out, so that with both a model is paid for saying that there is none of the seven. ECG-R1 (arXiv 2602.04279) has 1 there
    too; not in the paper.

    Args and errors: see [`jaccard_reward`].
    """
    rewards = []
    for completion, labels in zip(completions, diseases, strict=True):
        parsed = parse_answer(completion_text(completion))
        says_none = parsed.answer is not None and not parsed.diseases and not parsed.unknown
        rewards.append(float(says_none and not _true_labels(labels)))
    return rewards


def probability_reward(
    prompts: Sequence,
    completions: Sequence[str | list[dict]],
    diseases: Sequence[list[str] | None],
    probabilities: Sequence[dict[str, float]],
    **kwargs: Any,
) -> list[float]:
    """
    1 less the mean Brier score of the seven probabilities in the answer slot that follows the completion's reasoning (see
    [`answer_probabilities`]); 0 without an answer block. Bounded and proper, as RLCR (arXiv 2507.16806) asks for; not in
    the paper.

    Args:
        probabilities (`list[dict[str, float]]`): of each completion; [`MedTVTGRPOTrainer`] computes them, which costs a
            prefill and 128 short answers each.

    Other args and errors: see [`jaccard_reward`].
    """
    rewards = []
    for completion, labels, scores in zip(completions, diseases, probabilities, strict=True):
        truth = _true_labels(labels)
        has_answer = parse_answer(completion_text(completion)).answer is not None
        brier = sum((scores[disease] - (disease in truth)) ** 2 for disease in DISEASES) / len(DISEASES)
        rewards.append(1 - brier if has_answer else 0.0)
    return rewards


# Names of a recipe's `rewards`; the paper's are the first two.
REWARDS = {
    "format": format_reward,
    "jaccard": jaccard_reward,
    "empty": empty_reward,
    "evidence": evidence_reward,
    "probability": probability_reward,
    "graded_format": graded_format_reward,
}
