# SPDX-License-Identifier: Apache-2.0
"""What `generate` does to logits: placeholders never come, and logits that are not finite are an error."""

import torch
from transformers import LogitsProcessor


class PlaceholderLogitsProcessor(LogitsProcessor):
    """
    Keeps placeholders from being generated. transformers' `suppress_tokens` does the same by searching the whole
    vocabulary at each token.
    """

    def __init__(self, token_ids: tuple[int, ...]):
        self.token_ids = torch.tensor(token_ids)

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        self.token_ids = self.token_ids.to(scores.device)
        return scores.index_fill(-1, self.token_ids, -torch.inf)  # type: ignore[return-value]  # a Tensor, as all are


class FiniteLogitsProcessor(LogitsProcessor):
    """
    Looks at the first logits of a generation, once: where they are NaN, text would come out all the same. Minus infinity is
    what other processors write for a token that may not come.

    Raises:
        ValueError: if a logit is NaN or infinity, or none of a sequence is finite.
    """

    def __init__(self) -> None:
        self.is_checked = False

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        if not self.is_checked:
            self.is_checked = True
            wrong = scores.isnan().any(-1) | scores.isposinf().any(-1) | scores.isneginf().all(-1)
            if wrong.any():
                raise ValueError(
                    f"The logits of {int(wrong.sum())} of {len(scores)} sequences are not finite: the weights, or the "
                    "inputs, hold NaN or infinity."
                )
        return scores
