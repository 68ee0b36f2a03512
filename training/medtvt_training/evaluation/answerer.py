# SPDX-License-Identifier: Apache-2.0
"""Generates answers of a MedTVT model to rows of a dataset, in batches."""

import zlib
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from transformers import LogitsProcessor, LogitsProcessorList

from modeling_medtvt import DISEASES, MedTVTForCausalLM
from modeling_medtvt.answer_probability_medtvt import answer_probabilities
from modeling_medtvt.calibration_medtvt import Calibration
from processing_medtvt import MedTVTProcessor

from ..data.collator import MedTVTDataCollator
from ..data.conversation import MODALITIES, message_text
from ..data.feature_cache import FeatureCache
from ..data.rows import QARow


class MedTVTAnswerer:
    """
    Answers of a [`MedTVTForCausalLM`], batched, with left padding.

    Args:
        features ([`FeatureCache`], *optional*): With the encoders' outputs for the rows.
        max_new_tokens (`int`, *optional*): Defaults to the generation config's.
        num_samples (`int`): Answers to draw beside the greedy one.
        likelihood (`bool`): Whether to add [`answer_probabilities`].
        seed (`int`): Seed of the drawn answers, together with the id of their row: neither the batch nor a resumed run
            changes them.
        order (`list[str]`): From [`label_order`].
        calibration ([`Calibration`], *optional*): Turns those probabilities into `calibrated` ones; its order counts.
    """

    def __init__(
        self,
        model: MedTVTForCausalLM,
        processor: MedTVTProcessor,
        features: FeatureCache | None = None,
        max_new_tokens: int | None = None,
        num_samples: int = 0,
        likelihood: bool = False,
        seed: int = 0,
        order: Sequence[str] = DISEASES,
        calibration: Calibration | None = None,
    ) -> None:
        if num_samples < 0 or (max_new_tokens is not None and max_new_tokens < 1):
            raise ValueError("--num-samples must not be negative, and --max-new-tokens at least 1.")
        self.model, self.processor = model.eval(), processor
        self.collator = MedTVTDataCollator(processor, features)
        self.max_new_tokens = max_new_tokens or model.generation_config.max_new_tokens
        self.num_samples, self.likelihood, self.seed, self.calibration = num_samples, likelihood, seed, calibration
        self.order = order if calibration is None else calibration.order

    def length(self, row: QARow) -> int:
        """Characters of prompt and reference: answers to similar references take similarly long."""
        return len(message_text(row["prompt"])) + len(message_text(row["completion"]))

    def prepare(self, rows: list[QARow]) -> tuple:
        """Rows, ids of their prompts, and modality inputs."""
        return rows, [self.collator.encode(row)[0] for row in rows], self.collator.modality_inputs(rows)

    @torch.no_grad()
    def answer(self, prepared: tuple) -> list[dict]:
        """`completion` and, where there are some, `samples`, `probabilities` and `gates` of each row."""
        rows, prompts, inputs = prepared
        device = self.model.device
        batch = self.processor.tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt").to(
            device
        )
        inputs = {name: tensor.to(device) for name, tensor in inputs.items()}
        embeds, gates = None, None
        if inputs:
            modalities = self.model.get_modality_embeds(batch["input_ids"], **inputs)
            embeds = modalities.embeds
            if modalities.gates is not None:
                gates = modalities.gates.float().mean(1).tolist()
        completions = self._generate(batch, embeds, do_sample=False)
        answers: list[dict[str, Any]] = [{"completion": completion} for completion in completions]
        if self.num_samples:
            sampling = SeededSampling(
                [f"{self.seed} {row['id']}" for row in rows], self.num_samples, self.max_new_tokens
            )
            drawn = self._generate(
                batch,
                embeds,
                do_sample=True,
                num_return_sequences=self.num_samples,
                logits_processor=LogitsProcessorList([sampling]),
            )
            for i, answer in enumerate(answers):
                answer["samples"] = drawn[i * self.num_samples : (i + 1) * self.num_samples]
        for i, (row, answer) in enumerate(zip(rows, answers)):
            if gates is not None:
                found = dict(zip(MODALITIES, gates[i]))
                answer["gates"] = {name: found[name] if name in row["modalities"] else None for name in MODALITIES}
            if self.likelihood:
                own = None if embeds is None else embeds[i : i + 1]
                raw = answer_probabilities(
                    self.model, self.processor.tokenizer, prompts[i], answer["completion"], self.order, own
                )
                answer["probabilities"] = raw
                if self.calibration is not None:
                    answer["calibrated"] = self.calibration.apply(raw)
        return answers

    def _generate(self, batch: Mapping, embeds: torch.Tensor | None, **kwargs: Any) -> list[str]:
        generated = self.model.generate(**batch, modality_embeds=embeds, max_new_tokens=self.max_new_tokens, **kwargs)
        return self.processor.batch_decode(generated[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)


class SeededSampling(LogitsProcessor):
    """
    Draws the next token of each sequence with random numbers of its own, so that what is drawn for a row does not depend on
    the other rows of its batch. `generate` calls it after temperature, top-k and top-p.

    Args:
        seeds (`list[str]`): One a row.
        num_samples (`int`): Sequences a row, one after the other.
        max_new_tokens (`int`): Steps at most.
    """

    def __init__(self, seeds: Sequence[str], num_samples: int, max_new_tokens: int) -> None:
        self.uniform = torch.cat(
            [
                torch.rand(
                    num_samples, max_new_tokens, generator=torch.Generator().manual_seed(zlib.crc32(seed.encode()))
                )
                for seed in seeds
            ]
        )  # (sequences, steps)
        self.step = 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.FloatTensor:
        """(sequences, vocabulary) scores -> zero for the drawn token, minus infinity for the others."""
        cumulative = scores.float().softmax(-1).cumsum(-1)
        # scaled by the last sum, which rounding keeps from being one: a token of probability zero is never drawn
        drawn = self.uniform[:, self.step, None].to(scores.device) * cumulative[:, -1:]
        self.step += 1
        tokens = torch.searchsorted(cumulative, drawn, right=True).clamp(max=scores.shape[-1] - 1)
        return cast(torch.FloatTensor, torch.full_like(scores, -torch.inf).scatter(1, tokens, 0.0))
