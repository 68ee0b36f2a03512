# SPDX-License-Identifier: Apache-2.0
"""A loss on the tokens that the language model gets, so that they go on carrying findings while it learns to read them."""

from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel
from torch import nn

from modeling_medtvt import MedTVTConfig, MedTVTForCausalLM

from ..data.columns import read_column
from ..data.conversation import MODALITIES
from .findings_dataset import findings_loss


HEADS = "findings_heads"  # a module of the model while it is trained, so that checkpoints hold them


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


def add_heads(model: MedTVTForCausalLM, findings: list[str]) -> None:
    """Gives a model a linear head a modality, under the name `HEADS`, with one logit a finding."""
    config: MedTVTConfig = model.config
    size = config.num_modality_tokens * config.text_config.hidden_size
    counts = {modality: len(_columns(findings, modality)) for modality in MODALITIES}
    heads = nn.ModuleDict({modality: nn.Linear(size, count) for modality, count in counts.items() if count})
    model.add_module(HEADS, heads.to(model.device))


def remove_heads(trained: MedTVTForCausalLM | PeftModel) -> None:
    """Takes them away again, also from what an adapter saves."""
    if isinstance(trained, PeftModel):
        for config in trained.peft_config.values():
            cast(LoraConfig, config).modules_to_save.remove(HEADS)
    delattr(trained.get_base_model() if isinstance(trained, PeftModel) else trained, HEADS)


def _columns(findings: list[str], modality: str) -> list[int]:
    return [i for i, name in enumerate(findings) if name.startswith(f"{modality}:")]


class FindingsLoss:
    """
    Adds to a model's training loss that of its heads on the projectors' outputs. It works by hooks, since what the heads do
    must be part of the model's own forward where processes share its gradients.

    Args:
        model ([`MedTVTForCausalLM`]): With heads, see [`add_heads`]. Its batches hold `findings_labels` (batch, findings).
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
        for modality, head in cast(nn.ModuleDict, getattr(model, HEADS)).items():
            labels = self.labels[self.presence[modality]][:, _columns(self.findings, modality)]
            tokens = self.tokens.pop(modality, None)
            if tokens is None or not len(labels):  # every process takes part, whatever its batch holds
                output.loss = output.loss + 0 * sum(parameter.sum() for parameter in head.parameters())
                continue
            tokens = nn.functional.rms_norm(tokens.float(), tokens.shape[-1:])  # as the decoder's first norm has them
            output.loss = output.loss + self.weight * findings_loss(head(tokens.flatten(1)), labels)
        return output
