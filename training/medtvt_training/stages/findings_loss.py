# SPDX-License-Identifier: Apache-2.0
"""A loss on the tokens that the language model gets, so that they go on carrying findings while it learns to read them."""

from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset
from peft import PeftModel
from torch import nn

from modeling_medtvt import MedTVTConfig, MedTVTForCausalLM

from ..data.columns import read_column
from ..data.conversation import MODALITIES
from .findings_dataset import findings_loss


HEAD = "findings_head"  # a module of the model while it is trained, so that checkpoints hold it


def list_findings(dataset: Dataset) -> list[str]:
    """
    Names of the findings that rows list; a name begins with its modality, as in "ecg: sinus rhythm".

    Raises:
        ValueError: if no row lists any.
    """
    column = read_column(dataset, "findings").combine_chunks()
    names = sorted(pc.unique(column.flatten()).drop_null().to_pylist()) if isinstance(column, pa.ListArray) else []
    names = [name for name in names if name.split(":")[0] in MODALITIES]
    if not names:
        raise ValueError(
            "`findings_weight` is set, but no training row lists its `findings`, each with its modality in front, as in "
            "'ecg: sinus rhythm'."
        )
    return names


def add_head(model: MedTVTForCausalLM, findings: list[str]) -> None:
    """Gives a model a linear head under the name `HEAD`, with one logit a finding from the k tokens of its modality."""
    config: MedTVTConfig = model.config
    head = nn.Linear(config.num_modality_tokens * config.text_config.hidden_size, len(findings))
    model.add_module(HEAD, head.to(model.device))


def remove_head(trained: MedTVTForCausalLM | PeftModel) -> None:
    """Takes it away again, also from what an adapter saves."""
    if isinstance(trained, PeftModel):
        for config in trained.peft_config.values():
            cast(Any, config).modules_to_save.remove(HEAD)
    delattr(trained.get_base_model() if isinstance(trained, PeftModel) else trained, HEAD)


class FindingsLoss:
    """
    Adds to a model's training loss that of its head on the projectors' outputs. It works by hooks, since what the head does
    must be part of the model's own forward where processes share its gradients.

    Args:
        model ([`MedTVTForCausalLM`]): With a head, see [`add_head`]. Its batches hold `findings_labels` (batch, findings).
        findings (`list[str]`): Names of the labels' columns.
        weight (`float`): What this loss counts beside that of the answers.
    """

    def __init__(self, model: MedTVTForCausalLM, findings: list[str], weight: float) -> None:
        self.findings, self.weight = findings, weight
        self.tokens: dict[str, torch.Tensor] = {}
        self.labels: torch.Tensor | None = None
        self.presence: dict[str, torch.Tensor] = {}
        self.hooks = [
            getattr(model.model, f"{modality}_projector").register_forward_hook(self._keeper(modality))
            for modality in MODALITIES
        ]
        self.hooks.append(model.register_forward_pre_hook(self._take_labels, with_kwargs=True))
        self.hooks.append(model.register_forward_hook(self._add_loss))

    def remove(self) -> None:
        """Leaves the model as it was before."""
        for hook in self.hooks:
            hook.remove()

    def _keeper(self, modality: str) -> Any:
        def keep(module: nn.Module, args: tuple, tokens: torch.Tensor) -> None:
            self.tokens[modality] = tokens

        return keep

    def _take_labels(self, model: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        self.labels = kwargs.pop("findings_labels", None)
        self.tokens = {}
        if self.labels is not None:
            token_ids = zip(MODALITIES, model.config.modality_token_ids)
            self.presence = {name: (kwargs["input_ids"] == token_id).any(1) for name, token_id in token_ids}
        return args, kwargs

    def _add_loss(self, model: nn.Module, args: tuple, output: Any) -> Any:
        if self.labels is None or not model.training:
            return output
        head = cast(nn.Module, getattr(model, HEAD))
        # every process takes part, whatever its batch holds
        output.loss = output.loss + 0 * sum(
            parameter.sum() for parameter in head.parameters() if parameter.requires_grad
        )
        for modality, presence in self.presence.items():
            columns = [i for i, name in enumerate(self.findings) if name.startswith(f"{modality}:")]
            if columns and presence.any():
                tokens = self.tokens[modality].float()
                tokens = nn.functional.rms_norm(tokens, tokens.shape[-1:])  # as the decoder's first norm has them
                logits = head(tokens.flatten(1))[:, columns]
                output.loss = output.loss + self.weight * findings_loss(logits, self.labels[presence][:, columns])
        return output
