# SPDX-License-Identifier: Apache-2.0
"""`pipeline("medical-diagnosis")`. For research only: not a medical device, not for the care of patients."""

import copy
import difflib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import torch
from PIL import Image
from torch.utils.data import Dataset
from transformers import GenerationConfig, Pipeline
from transformers.dynamic_module_utils import custom_object_save

from .answers_medtvt import DISEASES, ParsedAnswer, parse_answer


MODALITIES = ("ecg", "cxr", "lab")
TENSOR_NAMES = ("ecg_values", "pixel_values", "lab_values")
INPUT_KEYS = (*MODALITIES, "question", "sampling_rate", "leads", "unit", "patient", "age", "sex")
# Columns of a MedTVT-QA row that are no input
ROW_KEYS = ("id", "subject_id", "level", "modalities", "prompt", "completion", "diseases", "findings")
MODALITY_NAMES = {"ecg": "ECG", "cxr": "CXR", "lab": "lab result"}
GENERATE_KEYWORDS = {
    *(
        name
        for name in vars(GenerationConfig())
        if not name.startswith(("_", "output_", "return_dict", "transformers_"))
    ),
    *("generation_config", "streamer", "logits_processor", "stopping_criteria", "prefix_allowed_tokens_fn"),
}


# What the config of a folder with this file says of it
CUSTOM_PIPELINES = {
    "medical-diagnosis": {
        "impl": "pipeline_medtvt.MedicalDiagnosisPipeline",
        "pt": ["AutoModelForCausalLM"],
        "type": "multimodal",
    }
}


class PreparedPatient(TypedDict):
    """What [`~MedicalDiagnosisPipeline.preprocess`] hands on; transformers pads and stacks the tensors of a batch."""

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    ecg_values: torch.Tensor
    pixel_values: torch.Tensor
    lab_values: torch.Tensor
    patient: dict[str, Any]
    warnings: list[str]
    error: str | None


class GeneratedAnswers(TypedDict):
    """What [`~MedicalDiagnosisPipeline._forward`] hands on: (batch, samples, tokens) and (batch, 3; NaN where absent)."""

    new_tokens: torch.Tensor
    contributions: torch.Tensor
    patient: dict[str, Any]
    warnings: list[str]
    error: str | None


def split_leads(text: str) -> list[str]:
    """Lead names out of a cell of a table: apart by commas or semicolons, or else by blanks."""
    separator = r"[,;]" if re.search(r"[,;]", text) else r"\s+"
    return [name.strip() for name in re.split(separator, text.strip()) if name.strip()]


def _patient_of(item: Mapping[str, Any]) -> Any:
    """What an item says of age and sex: its `patient`, or its columns `age` and `sex`."""
    given = item.get("patient")
    columns = {key: item[key] for key in ("age", "sex") if item.get(key) is not None}
    if given is None or not columns:
        return given if given is not None else columns
    raise TypeError(f"A patient's age and sex come as `patient` or as {' and '.join(columns)}, not both.")


class NumberedPatients(Dataset):
    """Patients of a dataset with their numbers, which errors name."""

    def __init__(self, patients: Any):
        self.patients = patients

    def __len__(self) -> int:
        return len(self.patients)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"index": index, "item": self.patients[index]}


class MedicalDiagnosisPipeline(Pipeline):
    r"""
    Diagnoses from any subset of a 12-lead ECG, a chest X-ray and a laboratory panel.

    ```python
    >>> from transformers import pipeline
    >>> import modeling_medtvt

    >>> diagnose = pipeline("medical-diagnosis", model="medtvt-r1")
    >>> diagnose(ecg="40689238", cxr="chest.jpg", lab={"Creatinine": 2.3, "Potassium": 5.9})
    ```

    Research use only: not a medical device.
    """

    # set by `Pipeline`
    model: Any
    processor: Any
    tokenizer: Any

    # the base class has None there
    _load_processor = True  # type: ignore[assignment]
    _load_image_processor = False  # type: ignore[assignment]
    _load_feature_extractor = False  # type: ignore[assignment]
    _load_tokenizer = False  # type: ignore[assignment]
    _pipeline_calls_generate = False

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if self.model.config.model_type != "medtvt" or not self.model.can_generate():
            raise ValueError(
                f"This pipeline runs a MedTVTForCausalLM, but {self.model.config.name_or_path or 'the model'!r} is a "
                f"{type(self.model).__name__} of type {self.model.config.model_type!r}."
            )
        if not hasattr(self.processor, "ecg_feature_extractor"):
            raise ValueError(
                f"{self.model.config.name_or_path or 'The model'!r} comes without a MedTVT processor. Save one beside the "
                "weights with `processor.save_pretrained(folder)`, or pass `processor=`."
            )
        if self.processor.num_modality_tokens != self.model.config.num_modality_tokens:
            raise ValueError(
                f"The processor writes {self.processor.num_modality_tokens} placeholder tokens a modality, the model takes "
                f"{self.model.config.num_modality_tokens}: `num_modality_tokens` must agree."
            )
        # a batch is padded on the left, whatever side the processor pads on for training
        self.tokenizer = copy.copy(self.processor.tokenizer)
        self.tokenizer.padding_side = "left"

    def _sanitize_parameters(
        self,
        question: str | None = None,
        on_error: str | None = None,
        strict: bool | None = None,
        num_samples: int | None = None,
        **generate_kwargs: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        unknown = sorted(set(generate_kwargs) - GENERATE_KEYWORDS)
        if unknown:
            known = [*INPUT_KEYS, "num_samples", "on_error", "strict", "batch_size", *sorted(GENERATE_KEYWORDS)]
            near = difflib.get_close_matches(unknown[0], known, n=1)
            raise TypeError(
                f"Unknown keyword(s) {', '.join(unknown)}" + (f"; did you mean `{near[0]}`?" if near else ".")
            )
        if "num_return_sequences" in generate_kwargs:
            raise TypeError("Use `num_samples=` for several answers; it also turns them into scores.")
        if on_error not in (None, "raise", "skip"):
            raise ValueError(f"`on_error` must be 'raise' or 'skip', got {on_error!r}.")
        if num_samples is not None:
            if not isinstance(num_samples, int) or num_samples < 1:
                raise ValueError(f"`num_samples` must be a whole number of at least 1, got {num_samples!r}.")
            generate_kwargs["num_samples"] = num_samples
        preprocess_kwargs = {"question": question, "on_error": on_error, "strict": strict}
        return {k: v for k, v in preprocess_kwargs.items() if v is not None}, generate_kwargs, {}

    def __call__(self, inputs: Any = None, **kwargs: Any) -> Any:  # type: ignore[override]  # all others are keywords
        r"""
        Args:
            inputs (`dict`, or a list, generator or dataset of dicts, *optional*): Patients, each with the keys `ecg`,
                `cxr`, `lab` (each optional), `question`, `sampling_rate`, `leads`, `unit` for an ECG that does not state
                them, and `patient`, or `age` and `sex`. A `datasets.Dataset` has them as columns, None where one is absent.
            ecg, cxr, lab, sampling_rate, leads, unit, patient (*optional*): One patient, as keywords instead.
            patient (`dict`, *optional*): `age` in years and `sex` ("F" or "M"), where the inputs do not state them. They
                choose the reference ranges of the labs and never enter the model.
            question (`str`, *optional*): The question; its placeholders `<ecg>`, `<cxr>`, `<lab>` are used where it has
                them. A question without any modality is answered too.
            num_samples (`int`, *optional*, defaults to 1): Answers to draw a patient; scores are shares of them.
            on_error (`str`, *optional*, defaults to `"raise"`): `"skip"` returns `{"error": ...}` for a patient whose
                inputs cannot be used, and goes on.
            strict (`bool`, *optional*, defaults to `False`): Whether inputs are refused that are otherwise only warned of.
            batch_size (`int`, *optional*, defaults to 1): Patients a batch; they may have different modalities.
            **kwargs: Keywords of `generate`, `streamer` among them.

        Returns:
            `dict`, a list of them for a list, an iterator for a generator or dataset: `diseases` (all seven, the named
            ones first; `score` is the share of sampled answers that name it, None with one sample), `reasoning`,
            `answer` (None where no answer block parses), `contributions` (the gate's score a modality, None where
            absent), `patient` (`age` and `sex`, None where unknown), `warnings` (what was altered, imputed or could not be read) and `generated_text`. With several
            samples, texts are those of the most frequent disease set.
        """
        item = {key: kwargs.pop(key) for key in INPUT_KEYS if key in kwargs and key != "question"}
        if inputs is not None and item:
            raise TypeError(
                f"Pass patients as `inputs` or one as keywords, not both (got `inputs` and {', '.join(item)})."
            )
        if inputs is None or isinstance(inputs, Mapping):
            return super().__call__({"index": None, "item": item if inputs is None else inputs}, **kwargs)
        is_dataset = hasattr(inputs, "__len__") and hasattr(inputs, "__getitem__")
        if isinstance(inputs, (str, bytes)) or not (is_dataset or isinstance(inputs, Iterable)):
            raise TypeError(
                f"`inputs` must be a dict with the keys {', '.join(INPUT_KEYS[:4])}, or a list, generator or dataset of "
                f"such dicts, got {type(inputs).__name__}."
            )
        if isinstance(inputs, (list, tuple)):
            if not inputs:
                raise ValueError("`inputs` is an empty list; pass at least one patient.")
            return super().__call__([{"index": i, "item": item} for i, item in enumerate(inputs)], **kwargs)
        if is_dataset:
            return super().__call__(NumberedPatients(inputs), **kwargs)
        return super().__call__(({"index": i, "item": item} for i, item in enumerate(inputs)), **kwargs)

    def preprocess(  # type: ignore[override]  # parameters by name
        self, numbered: Mapping[str, Any], question: str | None = None, on_error: str = "raise", strict: bool = False
    ) -> PreparedPatient:
        error = None
        try:
            features = self._process(numbered["item"], question, strict)
        except (ValueError, TypeError, OSError, ImportError) as caught:
            where = "" if numbered["index"] is None else f"Item {numbered['index']}: "
            if on_error != "skip":
                # subclasses such as UnicodeDecodeError cannot be made from a text
                kinds = (FileNotFoundError, OSError, ImportError, TypeError, ValueError)
                raise next(kind for kind in kinds if isinstance(caught, kind))(f"{where}{caught}") from caught
            error = f"{where}{caught}"
            # something stands in its place, or the batch would have a hole
            features = self._process({"question": " "}, None, strict)
        features["error"] = error
        return features

    def _process(self, item: Any, question: str | None, strict: bool) -> PreparedPatient:
        if not isinstance(item, Mapping):
            raise TypeError(
                f"A patient is a dict with the keys {', '.join(INPUT_KEYS[:4])}, got {type(item).__name__}."
            )
        unknown = set(item) - {*INPUT_KEYS, *ROW_KEYS}
        if unknown:
            raise TypeError(
                f"Unknown key(s) {', '.join(map(repr, sorted(unknown)))}; accepted are {', '.join(INPUT_KEYS)}."
            )
        given = {modality: item[modality] for modality in MODALITIES if item.get(modality) is not None}
        asked = item.get("question") or question
        if not isinstance(asked, str | None):
            raise TypeError(f"`question` must be a string, got {type(asked).__name__}.")
        text = self._prompt(list(given), asked)
        prompt = self.processor.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True)
        meta = {key: item[key] for key in ("sampling_rate", "leads", "unit") if item.get(key) is not None}
        if isinstance(meta.get("leads"), str):  # a cell of a table
            meta["leads"] = split_leads(meta["leads"])
        bos = self.processor.tokenizer.bos_token
        features = self.processor(
            text=prompt,
            **given,
            **meta,
            patient=_patient_of(item),
            strict=strict,
            add_special_tokens=not (bos and prompt.startswith(bos)),
            return_tensors="pt",
            return_alterations=True,
            return_patients=True,
        )
        # one row a sample for each modality, so that patients with different modalities share a batch
        ecg, cxr, lab = (features[name] if name in features else self._blank(name) for name in TENSOR_NAMES)
        return {
            "input_ids": features["input_ids"],
            "attention_mask": features["attention_mask"],
            "ecg_values": ecg,
            "pixel_values": cxr,
            "lab_values": lab,
            "patient": features["patients"][0],
            "warnings": features["alterations"][0],
            "error": None,
        }

    @staticmethod
    def _prompt(modalities: list[str], question: str | None) -> str:
        if not modalities and not question:
            raise ValueError("Nothing to answer: pass at least one of `ecg`, `cxr`, `lab` and `question`.")
        if question and any(f"<{modality}>" in question for modality in MODALITIES):
            return question
        parts = [f"{MODALITY_NAMES[modality]} <{modality}>" for modality in modalities]
        listed = ", ".join(parts[:-1]) + (" and " if len(parts) > 1 else "") + parts[-1] if parts else ""
        if question:
            return f"Given my {listed}: {question}" if listed else question
        return f"Can you analyze my {listed} to determine my probable conditions?"

    def _blank(self, name: str) -> torch.Tensor:
        if name == "ecg_values":
            extractor = self.processor.ecg_feature_extractor
            return torch.zeros(1, len(extractor.leads), round(extractor.sampling_rate * extractor.duration))
        if name == "lab_values":
            return torch.zeros(1, 2 * self.model.config.lab_config.num_labs)
        image = Image.new("RGB", (64, 64))
        return torch.zeros_like(self.processor.image_processor([image], return_tensors="pt")["pixel_values"])

    def _forward(  # type: ignore[override]  # parameters by name
        self, model_inputs: PreparedPatient, num_samples: int = 1, **generate_kwargs: Any
    ) -> GeneratedAnswers:
        input_ids, attention_mask = model_inputs["input_ids"], model_inputs["attention_mask"]
        modalities = self.model.get_modality_embeds(
            input_ids,
            ecg_values=model_inputs["ecg_values"],
            pixel_values=model_inputs["pixel_values"],
            lab_values=model_inputs["lab_values"],
        )
        self._check_finite(modalities.embeds)
        if num_samples > 1:
            if generate_kwargs.get("do_sample") is False:
                raise ValueError("`num_samples` > 1 draws answers, which contradicts `do_sample=False`.")
            generate_kwargs = {**generate_kwargs, "do_sample": True}
        if generate_kwargs.get("stop_strings"):
            generate_kwargs = {**generate_kwargs, "tokenizer": self.tokenizer}
        generated = self.model.generate(
            input_ids=input_ids,
            attention_mask=attention_mask,
            modality_embeds=modalities.embeds,
            num_return_sequences=num_samples,
            return_dict_in_generate=False,
            **generate_kwargs,
        )
        new_tokens = generated[:, input_ids.shape[1] :].unflatten(0, (len(input_ids), num_samples))
        gates = modalities.gates
        contributions = torch.full_like(modalities.presence, torch.nan, dtype=torch.float)
        if gates is not None:
            gates = gates.mean(dim=1).float().to(contributions.device)
            contributions = gates.masked_fill(~modalities.presence.to(gates.device), torch.nan)
        return {
            "new_tokens": new_tokens,
            "contributions": contributions,
            "patient": model_inputs["patient"],
            "warnings": model_inputs["warnings"],
            "error": model_inputs["error"],
        }

    def _check_finite(self, embeds: torch.Tensor) -> None:
        if embeds.isfinite().all():
            return
        name = self.model.config.name_or_path or "The model"
        for weight, tensor in self.model.state_dict().items():
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise ValueError(f"{name} cannot answer: its weight {weight} holds NaN or infinity.")
        raise ValueError(
            f"{name} cannot answer: what it makes of the inputs is not finite, though its weights are. Either its "
            f"processor gives NaN or infinity, or numbers leave the range of {self.model.dtype}: load it in torch.float32."
        )

    def postprocess(self, model_outputs: GeneratedAnswers) -> dict[str, Any]:  # type: ignore[override]  # typed
        if model_outputs["error"] is not None:
            return {"error": model_outputs["error"]}
        texts = self.processor.batch_decode(model_outputs["new_tokens"][0], skip_special_tokens=True)
        answers = [parse_answer(text) for text in texts]
        named = Counter(disease for answer in answers for disease in answer.diseases)
        most_frequent = Counter(frozenset(answer.diseases) for answer in answers).most_common(1)[0][0]
        chosen = next(i for i, answer in enumerate(answers) if frozenset(answer.diseases) == most_frequent)
        answer = answers[chosen]
        scores = {disease: named[disease] / len(texts) if len(texts) > 1 else None for disease in DISEASES}
        order = sorted(DISEASES, key=lambda disease: (-named[disease], DISEASES.index(disease)))
        contributions = model_outputs["contributions"][0].tolist()
        return {
            "diseases": [
                {"label": disease, "score": scores[disease], "named": disease in answer.diseases} for disease in order
            ],
            "reasoning": answer.reasoning,
            "answer": answer.answer,
            "contributions": {m: None if value != value else value for m, value in zip(MODALITIES, contributions)},
            "patient": model_outputs["patient"],
            "warnings": [
                *self._limits(),
                *model_outputs["warnings"],
                *self._warnings(answers, model_outputs["new_tokens"][0]),
            ],
            "generated_text": texts[chosen],
        }

    def _limits(self) -> list[str]:
        """What the weights are worth, which a reader must know first."""
        warnings = []
        provenance = self.model.provenance
        if provenance.stage is None:
            warnings.append("model: the weights are untrained, the answer means nothing")
        data = provenance.training_data
        if data and all(entry["access"] == "synthetic" for entry in data):
            warnings.append("model: trained on imaginary patients only, the answer says nothing about a real one")
        return warnings

    def _warnings(self, answers: Sequence[ParsedAnswer], new_tokens: torch.Tensor) -> list[str]:
        warnings = []
        unparsed = sum(answer.answer is None for answer in answers)
        if unparsed:
            warnings.append(f"answer: {unparsed} of {len(answers)} generated texts have no <answer> block")
        config = self.model.generation_config
        stop_ids = [config.eos_token_id] if isinstance(config.eos_token_id, int) else config.eos_token_id or []
        cut = (~torch.isin(new_tokens[:, -1], torch.tensor([*stop_ids, self.processor.tokenizer.pad_token_id]))).sum()
        if cut:
            warnings.append(
                f"answer: {cut} of {len(answers)} generated texts were cut at {new_tokens.shape[1]} tokens"
            )
        unknown = sorted({label for answer in answers for label in answer.unknown})
        if unknown:
            warnings.append(f"answer: {', '.join(map(repr, unknown))} are none of the seven diseases")
        return warnings

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Saves model and processor to a folder that the pipeline opens again, with its code where that was remote."""
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory)
        if self.model._auto_class is not None:
            custom_object_save(self, save_directory)
            config_file = Path(save_directory) / "config.json"
            config = {**json.loads(config_file.read_text()), "custom_pipelines": CUSTOM_PIPELINES}
            config_file.write_text(json.dumps(config, indent=2) + "\n")


__all__ = ["MedicalDiagnosisPipeline"]
