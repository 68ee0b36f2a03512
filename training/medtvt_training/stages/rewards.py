# SPDX-License-Identifier: Apache-2.0
"""
Rewards of RFT, in the signature of trl's reward functions: R = R_F + R_J (paper, section 3.2.2).

Each takes `prompts`, `completions` and the dataset's columns as keywords, one entry a completion, and returns a list of
floats. A completion is a string, or a list of messages of which the last one counts.
"""

from collections.abc import Sequence
from typing import Any

from modeling_medtvt import DISEASES, parse_answer
from processing_medtvt.claims_medtvt import stated_findings

from ..data.conversation import message_text


TAGS = ("<think>", "</think>", "<answer>", "</answer>")


def completion_text(completion: str | list[dict]) -> str:
    """The text of a completion: a string, or the content of its last message."""
    if isinstance(completion, str):
        return completion
    return message_text(completion[-1:])


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
    - empty against empty is 0. A patient without a listed disease can earn nothing, so such rows stay out of RFT.

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


def evidence_reward(
    prompts: Sequence, completions: Sequence[str | list[dict]], findings: Sequence[list[str] | None], **kwargs: Any
) -> list[float]:
    """
    Share of the findings cited in the think block that the patient's data show; 0 where none is cited. For rows whose
    findings are known, which are those of the synthetic cohort. Not in the paper.

    Args:
        prompts: not read.
        completions (`list[str]` or `list[list[dict]]`): the policy's answers.
        findings (`list[list[str]]`): names of the true findings of each completion's row.

    Raises:
        ValueError: if a row's findings are not known.
    """
    rewards = []
    for completion, true in zip(completions, findings, strict=True):
        if true is None:
            raise ValueError("`evidence` needs rows with `findings`; a row has none. Leave this reward out.")
        cited = stated_findings(parse_answer(completion_text(completion)).reasoning or "")
        rewards.append(len(cited & set(true)) / len(cited) if cited else 0.0)
    return rewards


# Names of a recipe's `rewards`; the paper's are the first two.
REWARDS = {
    "format": format_reward,
    "jaccard": jaccard_reward,
    "graded_format": graded_format_reward,
    "evidence": evidence_reward,
}
