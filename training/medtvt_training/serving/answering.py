# SPDX-License-Identifier: Apache-2.0
"""The stock pipeline in two steps: inputs are read in one thread, batches are answered in another."""

import copy
import logging
import os
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tokenizers.decoders import DecodeStream
from transformers import StoppingCriteria, StoppingCriteriaList, set_seed
from transformers.generation.streamers import BaseStreamer
from transformers.pipelines.base import pad_collate_fn
from transformers.pipelines.pt_utils import PipelineIterator

from modeling_medtvt import MedicalDiagnosisPipeline

from .batcher import Answer, Job
from .inputs import read_input
from .vllm_engine import EngineError


logger = logging.getLogger(__name__)

# What the pipeline raises on inputs that cannot be used
INPUT_ERRORS = (ValueError, TypeError, OSError, ImportError)


class AnswerError(RuntimeError):
    """A bug, or a machine that is out of memory: not the request's fault. It says nothing of the patient."""


class _Prepared(NamedTuple):
    """A patient's inputs as tensors, and how long the prompt is."""

    features: Any
    prompt_tokens: int


class PipelineAnswers:
    """
    Reads and answers patients with a pipeline.

    Args:
        diagnose ([`MedicalDiagnosisPipeline`]): Answers, in one thread at a time.
    """

    def __init__(self, diagnose: MedicalDiagnosisPipeline) -> None:
        self.diagnose = diagnose
        # the model is shared; a tokenizer serves one thread at a time
        self._reader = MedicalDiagnosisPipeline(
            model=diagnose.model, processor=copy.deepcopy(diagnose.processor), task=diagnose.task
        )

    def read(
        self,
        inputs: Mapping[str, Mapping[str, Any]],
        patient: Mapping[str, Any] | None,
        question: str | None,
        settings: Mapping[str, Any],
        seed: int | None = None,
    ) -> Job:
        """
        A job out of a request, in the thread of reading.

        Args:
            inputs (`dict`): By modality, see [`read_input`].
            patient, question: As in the pipeline.
            settings (`dict`): Keywords of the pipeline.
            seed (`int`, *optional*): Of answers that are drawn.

        Raises:
            ValueError: if an input cannot be used.
        """
        with tempfile.TemporaryDirectory() as folder:
            try:
                preprocess, forward, postprocess = self._reader._sanitize_parameters(**settings)
                item: dict[str, Any] = {"patient": patient, "question": question}
                for modality, value in inputs.items():
                    place = Path(folder, modality)
                    place.mkdir()
                    item[modality] = read_input(modality, value, place)
                features = self._reader.preprocess({"index": None, "item": item}, **preprocess)
            except INPUT_ERRORS as error:
                raise ValueError(self._without_places(str(error), folder)) from error
            features["warnings"] = [self._without_places(warning, folder) for warning in features["warnings"]]
        prompt_tokens = int(features["attention_mask"].sum())
        return Job(
            _Prepared(features, prompt_tokens),
            {"forward": forward, "postprocess": postprocess, "seed": seed},
            # without each modality, a patient is a batch already; and what is drawn depends on the whole batch
            alone=bool(features["withheld_ids"]) or seed is not None,
        )

    def _without_places(self, text: str, folder: str) -> str:
        """A message without the places of files on the server, which tell the client nothing."""
        for modality in ("ecg", "cxr", "lab"):
            text = text.replace(f"{Path(folder, modality)}{os.sep}", "")
        model = self.diagnose.model.config.name_or_path
        return text.replace(model, Path(model).name) if model else text

    def answer(self, jobs: list[Job]) -> None:
        """Settles the futures of a batch. Where a batch fails here, each of its jobs is answered by itself."""
        try:
            answers = self._answer(jobs)
        except Exception as error:
            is_ours = not isinstance(error, EngineError)
            for job in jobs:
                if len(jobs) > 1 and is_ours:
                    job.on_text = None  # what was written once is not written again
                    self.answer([job])
                else:
                    job.future.set_exception(_settle(error))
            return
        for job, answer in zip(jobs, answers):
            job.future.set_result(answer)

    def _answer(self, jobs: Sequence[Job]) -> list[Answer]:
        settings, is_batch = jobs[0].settings, len(jobs) > 1
        forward = {**settings["forward"], "stopping_criteria": StoppingCriteriaList([StoppedJobs(jobs)])}
        if any(job.on_text for job in jobs):
            forward["streamer"] = BatchStreamer(jobs, self.diagnose.tokenizer)
        if settings["seed"] is not None:
            set_seed(settings["seed"])
        features = [job.prepared.features for job in jobs]
        batch = pad_collate_fn(self.diagnose.tokenizer, None)(features) if is_batch else features[0]
        outputs = PipelineIterator([batch], self.diagnose.forward, forward, loader_batch_size=len(jobs))
        answers = []
        for job, output in zip(jobs, outputs, strict=True):
            result = self.diagnose.postprocess(output, **settings["postprocess"])
            completion_tokens, is_cut = self._measure(output["new_tokens"][0])
            answers.append(Answer(result, job.prepared.prompt_tokens, completion_tokens, is_cut))
        return answers

    def _measure(self, tokens: torch.Tensor) -> tuple[int, bool]:
        """How many tokens (samples, length) were written, ends included, and whether one of the answers has no end."""
        eos = self.diagnose.model.generation_config.eos_token_id
        pad = self.diagnose.processor.tokenizer.pad_token_id
        ends = torch.isin(tokens, torch.tensor([*(eos if isinstance(eos, list) else [eos]), pad]))
        lengths = torch.where(ends.any(1), ends.int().argmax(1) + 1, tokens.shape[1])
        return int(lengths.sum()), not bool(ends.any(1).all())


class BatchStreamer(BaseStreamer):
    """Hands each sequence of a batch to its job as text; transformers' own streamers take one sequence."""

    def __init__(self, jobs: Sequence[Job], tokenizer: Any) -> None:
        self.jobs, self.tokenizer = jobs, tokenizer.backend_tokenizer
        self._decoders = [DecodeStream(skip_special_tokens=True) for _ in jobs]
        self._is_prompt = True

    def put(self, value: torch.Tensor) -> None:
        """Takes the prompts first, and then (batch,) tokens a step."""
        if self._is_prompt:
            self._is_prompt = False
            return
        for job, decoder, token in zip(self.jobs, self._decoders, value.flatten().tolist(), strict=True):
            piece = decoder.step(self.tokenizer, token)
            if piece and job.on_text is not None and not job.is_stopped:
                job.on_text(piece)

    def end(self) -> None:
        """Nothing is held back."""


class StoppedJobs(StoppingCriteria):
    """Ends the sequences of jobs that nobody waits for."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.jobs = jobs

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:  # type: ignore[override]
        stopped = torch.tensor([job.is_stopped for job in self.jobs], device=input_ids.device)
        return stopped.repeat_interleave(len(input_ids) // len(self.jobs))


def _settle(error: Exception) -> Exception:
    """What the client is told of a failed answer; a bug is logged."""
    if isinstance(error, ValueError):
        return ValueError(str(error))
    if isinstance(error, EngineError):
        logger.error("%s", error)
        return EngineError("engine: what writes the answers is not there; try again later.")
    # the message and the chain may quote a patient's values, lines of code do not
    where = "".join(traceback.format_tb(error.__traceback__))
    logger.error("an answer failed: %s\n%s", type(error).__name__, where)
    return AnswerError(f"answer: it failed with {type(error).__name__}, which is no fault of the request.")
