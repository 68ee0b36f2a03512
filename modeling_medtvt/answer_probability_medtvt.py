# SPDX-License-Identifier: Apache-2.0
"""
The probability of each disease in the answer slot.

After `<answer>` a model writes one of the 2^7 = 128 sets of diseases. The score of a set is the probability, token by
token, of its labels in the order of the training data, up to and with `</answer>`; divided by the sum over all 128,
scores are a distribution, and a disease's probability is the sum over the sets that hold it. All of it is given the
reasoning that the model wrote before, so it is the certainty of the last step, not that of the whole answer.
"""

import copy
from collections import Counter
from collections.abc import Sequence
from itertools import chain, combinations
from os.path import commonprefix

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from .answers_medtvt import DISEASES, parse_answer


# Answers scored at a time: bounds the memory of their logits
_CHUNK = 16


def label_order(references: Sequence[str]) -> list[str]:
    """The order in which answers list the diseases: first what stands before the most others more often than after."""
    before = Counter(pair for text in references for pair in combinations(parse_answer(text).diseases, 2))
    rank = {a: sum((before[a, b] < before[b, a]) - (before[a, b] > before[b, a]) for b in DISEASES) for a in DISEASES}
    return sorted(DISEASES, key=rank.__getitem__)


@torch.no_grad()
def answer_probabilities(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt_ids: Sequence[int],
    completion: str,
    order: Sequence[str],
    modality_embeds: torch.Tensor | None = None,
) -> dict[str, float]:
    """
    The probability of each disease in the answer that follows the completion's reasoning.

    Args:
        model: A [`MedTVTForCausalLM`], or another causal LM where `modality_embeds` is None.
        prompt_ids (`list[int]`): The prompt.
        completion (`str`): Its text up to the first `<answer>` is the reasoning; all of it where there is none.
        order (`list[str]`): From [`label_order`].
        modality_embeds (`torch.Tensor`, *optional*): (1, 3, k, d), as for `generate`.
    """
    reasoning = completion.split("<answer>")[0] + "<answer>"
    sets = list(chain.from_iterable(combinations(order, size) for size in range(len(order) + 1)))
    texts = [f"{reasoning}{'; '.join(labels)}</answer>" for labels in sets]
    ids: list[list[int]] = tokenizer(texts, add_special_tokens=False)["input_ids"]
    # tokens may span the end of `<answer>`: what all texts share is the context, and not the tokens of `reasoning`
    shared = commonprefix(ids)
    tails = [row[len(shared) :] for row in ids]
    context = torch.tensor([[*prompt_ids, *shared]], device=model.device)
    inputs = {} if modality_embeds is None else {"modality_embeds": modality_embeds}
    prefill = model(input_ids=context, use_cache=True, logits_to_keep=1, **inputs)
    first = prefill.logits[0, -1].float().log_softmax(-1)
    if model.config._attn_implementation in ("eager", "sdpa"):
        scores = _score_tree(model, prefill.past_key_values, first, tails)
    else:  # flash and flex attention take no such mask
        scores = torch.cat(
            [
                _score_tails(model, prefill.past_key_values, first, tails[start : start + _CHUNK])
                for start in range(0, len(tails), _CHUNK)
            ]
        )
    shares = scores.softmax(0).tolist()
    return {disease: sum(share for share, labels in zip(shares, sets) if disease in labels) for disease in DISEASES}


def _score_tree(
    model: PreTrainedModel, cache: DynamicCache, first: torch.Tensor, tails: list[list[int]]
) -> torch.Tensor:
    """
    Log-probability of each continuation, (continuations,), of a context that is in the cache, which is used up: what
    continuations begin with alike is run through the model once, in one row where each token sees the context and the tokens
    on its own way.
    """
    nodes: dict[tuple[int, int], int] = {}  # (node before, token) -> node
    ways: list[list[int]] = []
    for tail in tails:
        node = -1
        ways.append([node := nodes.setdefault((node, token), len(nodes)) for token in tail])
    parents, tokens = ([pair[i] for pair in nodes] for i in (0, 1))
    length = cache.get_seq_length()
    sees = np.ones((len(nodes), length + len(nodes)), dtype=bool)
    for node, parent in enumerate(parents):
        sees[node, length:] = sees[parent, length:] if parent >= 0 else False
        sees[node, length + node] = True
    hidden = torch.from_numpy(~sees)
    mask = torch.zeros(hidden.shape, dtype=model.dtype).masked_fill(hidden, torch.finfo(model.dtype).min)
    ids = torch.tensor(tokens, device=model.device)
    logits = model(
        input_ids=ids[None],
        position_ids=torch.from_numpy(sees.sum(1) - 1)[None].to(model.device),
        attention_mask=mask[None, None].to(model.device),
        past_key_values=cache,
    ).logits[0]
    # a token is drawn at the one before it; some at a time, as float32 logits are large
    scores = first[ids]
    inner = torch.tensor([node for node, parent in enumerate(parents) if parent >= 0], device=model.device)
    before = torch.tensor(parents, device=model.device)
    for some in inner.split(16 * _CHUNK):
        following = logits[before[some]].float().log_softmax(-1)
        scores[some] = following.gather(1, ids[some, None])[:, 0]
    values = scores.tolist()
    return torch.tensor([sum(values[node] for node in way) for way in ways])


def _score_tails(
    model: PreTrainedModel, cache: DynamicCache, first: torch.Tensor, tails: list[list[int]]
) -> torch.Tensor:
    """Log-probability of each continuation, (continuations,), of a context that is in the cache."""
    cache = copy.deepcopy(cache)
    cache.batch_repeat_interleave(len(tails))
    padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(tail) for tail in tails], batch_first=True)
    mask = torch.arange(padded.shape[1]) < torch.tensor([[len(tail)] for tail in tails])
    padded, mask = padded.to(model.device), mask.to(model.device)
    scores = first[padded[:, 0]] * mask[:, 0]
    if padded.shape[1] > 1:
        logits = model(input_ids=padded[:, :-1], past_key_values=cache).logits.float().log_softmax(-1)
        following = logits.gather(2, padded[:, 1:, None])[..., 0]
        scores = scores + (following * mask[:, 1:]).sum(1)
    return scores
