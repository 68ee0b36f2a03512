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
from transformers.utils import cached_file

from .answer_probability_medtvt import answer_probabilities
from .answers_medtvt import DISEASES, ParsedAnswer, parse_answer
from .calibration_medtvt import CALIBRATION_FILE, Calibration, read_calibration
from .result_medtvt import DiagnosisBatch, DiagnosisResult


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


# Keywords of drawing, which a greedy answer beside drawn ones does not take
SAMPLING_KEYWORDS = {
    "do_sample",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "num_return_sequences",
    "streamer",
}
# Of the result's keys; it changes when one goes or means something else
SCHEMA_VERSION = 1

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
    measured: dict[str, Any]
    withheld_ids: dict[str, torch.Tensor]
    warnings: list[str]
    error: str | None


class GeneratedAnswers(TypedDict):
    """
    What [`~MedicalDiagnosisPipeline._forward`] hands on: (batch, samples, tokens), the greedy answers (batch, tokens) beside
    drawn ones, (batch, 3; NaN where absent), and raw probabilities by disease, an entry a patient.
    """

    new_tokens: torch.Tensor
    greedy_tokens: torch.Tensor | None
    contributions: torch.Tensor
    probabilities: Any
    influence: Any
    patient: dict[str, Any]
    measured: dict[str, Any]
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


def _majority_draw(texts: Sequence[str]) -> str | None:
    """The first text that names what more than half of them name, and nothing else; None where there is none."""
    named = [frozenset(parse_answer(text).diseases) for text in texts]
    votes = Counter(disease for diseases in named for disease in diseases)
    wanted = frozenset(disease for disease, number in votes.items() if 2 * number > len(texts))
    return next((text for text, diseases in zip(texts, named) if diseases == wanted), None)


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
        self.calibration = self._read_calibration()
        # a batch is padded on the left, whatever side the processor pads on for training
        self.tokenizer = copy.copy(self.processor.tokenizer)
        self.tokenizer.padding_side = "left"

    def _read_calibration(self) -> Calibration | None:
        name = self.model.config.name_or_path
        found = name and cached_file(
            name,
            CALIBRATION_FILE,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
            _raise_exceptions_for_gated_repo=False,
        )
        return read_calibration(found) if found else None

    def _sanitize_parameters(
        self,
        question: str | None = None,
        on_error: str | None = None,
        strict: bool | None = None,
        influence: bool | None = None,
        num_samples: int | None = None,
        abstain: float | None = None,
        **generate_kwargs: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        unknown = sorted(set(generate_kwargs) - GENERATE_KEYWORDS)
        if unknown:
            known = [
                *INPUT_KEYS,
                "num_samples",
                "on_error",
                "strict",
                "influence",
                "abstain",
                "batch_size",
                *sorted(GENERATE_KEYWORDS),
            ]
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
        if abstain is not None and self.calibration is None:
            raise ValueError(
                f"`abstain` needs calibrated probabilities, and {self.model.config.name_or_path or 'the model'!r} comes without "
                f"{CALIBRATION_FILE}. `medtvt calibrate` fits them."
            )
        preprocess_kwargs = {"question": question, "on_error": on_error, "strict": strict, "influence": influence}
        postprocess_kwargs = {} if abstain is None else {"abstain": abstain}
        return {k: v for k, v in preprocess_kwargs.items() if v is not None}, generate_kwargs, postprocess_kwargs

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
            influence (`bool`, *optional*, defaults to `False`): Whether to answer again without each modality, and to say how
                far each disease's probability moves.
            abstain (`float`, *optional*): A risk, such as 0.1: a disease that can neither be left out nor named with at most
                this risk is `undecided`. Needs a calibrated model.
            batch_size (`int`, *optional*, defaults to 1): Patients a batch; they may have different modalities.
            **kwargs: Keywords of `generate`, `streamer` among them.

        Returns:
            [`DiagnosisResult`], a `dict`; a list of them for a list, an iterator for a generator or dataset:

            - `version`: of this schema, 1.
            - `warnings`: the limits of the weights first, then what was altered, imputed or could not be read.
            - `diseases`: all seven, the named ones first. `named`: with several samples, what more than half of them name.
              `score`: the share of samples that name it, None with one. `probability`: calibrated, None without a
              calibration. `evidence`: how many supported statements the reasoning cites for it. With `abstain`, `undecided` and
              `undecided_zone`, the probabilities from and to which it is so.
            - `reasoning`, `answer` (None where no answer block parses), `generated_text`; `text_source` says whether that is
              the greedy answer or a drawn one. With several samples it is one that names what `diseases` names, or else
              the greedy one.
            - `evidence`: the statements of the reasoning, each with its verdict and what it was held against;
              `unmentioned`: abnormal measurements that it leaves out, the gravest first.
            - `measurements`: intervals of the ECG and values of the labs, each with `unit`, reference range (`low`, `high`)
              and `flag`.
            - `contributions`: the gate's score a modality, None where absent, or where the model has no gate.
            - `influence`: by disease and modality, how much lower the probability of the answer slot is without it; None
              unless asked for. `influence_noise`: by disease, how far that probability moves where nothing is withheld and
              only the order of the modalities in the question changes: an influence that is no larger says nothing. None
              where there is one modality, or the question holds their places.
            - `patient`: `age` and `sex`, None where unknown.
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
            numbered = [{"index": i, "item": item} for i, item in enumerate(inputs)]
            return DiagnosisBatch(super().__call__(numbered, **kwargs))
        if is_dataset:
            return super().__call__(NumberedPatients(inputs), **kwargs)
        return super().__call__(({"index": i, "item": item} for i, item in enumerate(inputs)), **kwargs)

    def preprocess(  # type: ignore[override]  # parameters by name
        self,
        numbered: Mapping[str, Any],
        question: str | None = None,
        on_error: str = "raise",
        strict: bool = False,
        influence: bool = False,
    ) -> PreparedPatient:
        error = None
        try:
            features = self._process(numbered["item"], question, strict, influence)
        except (ValueError, TypeError, OSError, ImportError) as caught:
            where = "" if numbered["index"] is None else f"Item {numbered['index']}: "
            if on_error != "skip":
                # subclasses such as UnicodeDecodeError cannot be made from a text
                kinds = (FileNotFoundError, OSError, ImportError, TypeError, ValueError)
                raise next(kind for kind in kinds if isinstance(caught, kind))(f"{where}{caught}") from caught
            error = f"{where}{caught}"
            # something stands in its place, or the batch would have a hole
            features = self._process({"question": " "}, None, strict, False)
        features["error"] = error
        return features

    def _process(self, item: Any, question: str | None, strict: bool, influence: bool) -> PreparedPatient:
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
        prompt = self._chat(self._prompt(list(given), asked))
        meta = {key: item[key] for key in ("sampling_rate", "leads", "unit") if item.get(key) is not None}
        if isinstance(meta.get("leads"), str):  # a cell of a table
            meta["leads"] = split_leads(meta["leads"])
        features = self.processor(
            text=prompt,
            **given,
            **meta,
            patient=_patient_of(item),
            strict=strict,
            add_special_tokens=self._needs_special_tokens(prompt),
            return_tensors="pt",
            return_alterations=True,
            return_patients=True,
            return_measurements=True,
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
            "measured": features["measurements"][0],
            "withheld_ids": self._withheld_ids(list(given), asked) if influence and given else {},
            "warnings": features["alterations"][0],
            "error": None,
        }

    def _chat(self, text: str) -> str:
        return self.processor.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True)

    def _needs_special_tokens(self, prompt: str) -> bool:
        bos = self.processor.tokenizer.bos_token
        return not (bos and prompt.startswith(bos))

    def _withheld_ids(self, given: list[str], asked: str | None) -> dict[str, torch.Tensor]:
        """
        The ids (tokens,) of the prompt without each modality, of the whole one, under `"none"`, and of the whole one with its
        modalities in another order, under `"reordered"`, where there is another.
        """
        found = {}
        has_places = asked is not None and any(f"<{modality}>" in asked for modality in given)
        for modality in [*given, "none", *(["reordered"] if len(given) > 1 and not has_places else [])]:
            others = [other for other in given if other != modality]
            if modality == "reordered":
                others.reverse()
            question = None if asked is None else asked.replace(f"<{modality}>", "")
            prompt = self._chat(self._prompt(others, question or (None if others else " ")))
            encoded = self.processor.encode_text(prompt, add_special_tokens=self._needs_special_tokens(prompt))
            found[modality] = torch.tensor(encoded["input_ids"]).reshape(-1)
        return found

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
        input_ids = model_inputs["input_ids"]
        encoded = self._encode(model_inputs)
        modalities = self.model.get_modality_embeds(input_ids, **encoded)
        self._check_finite(modalities.embeds)
        if num_samples > 1:
            if generate_kwargs.get("do_sample") is False:
                raise ValueError("`num_samples` > 1 draws answers, which contradicts `do_sample=False`.")
            generate_kwargs = {**generate_kwargs, "do_sample": True}
        if generate_kwargs.get("stop_strings"):
            generate_kwargs = {**generate_kwargs, "tokenizer": self.tokenizer}
        prompts = (input_ids, model_inputs["attention_mask"], modalities.embeds)
        new_tokens = self._generate(*prompts, num_return_sequences=num_samples, **generate_kwargs)
        new_tokens = new_tokens.unflatten(0, (len(input_ids), num_samples))
        texts = [self.processor.batch_decode(row, skip_special_tokens=True) for row in new_tokens]
        greedy_tokens = None
        if any(_majority_draw(of_patient) is None for of_patient in texts):
            greedy_kwargs = {k: v for k, v in generate_kwargs.items() if k not in SAMPLING_KEYWORDS}
            greedy_tokens = self._generate(*prompts, **greedy_kwargs, do_sample=False)
        gates = modalities.gates
        contributions = torch.full_like(modalities.presence, torch.nan, dtype=torch.float)
        if gates is not None:
            gates = gates.mean(dim=1).float().to(contributions.device)
            contributions = gates.masked_fill(~modalities.presence.to(gates.device), torch.nan)
        # a single patient comes as it is, those of a batch as a list
        is_single = isinstance(model_inputs["patient"], Mapping)
        probabilities, influence = self._probabilities(
            model_inputs, encoded, modalities.embeds, texts, generate_kwargs
        )
        return {
            "new_tokens": new_tokens,
            "greedy_tokens": greedy_tokens,
            "contributions": contributions,
            "probabilities": probabilities[0] if is_single else probabilities,
            "influence": influence[0] if is_single else influence,
            "patient": model_inputs["patient"],
            "measured": model_inputs["measured"],
            "warnings": model_inputs["warnings"],
            "error": model_inputs["error"],
        }

    def _encode(self, inputs: PreparedPatient) -> dict[str, torch.Tensor]:
        """The raw tensors or, where a patient is answered again without a modality, the encoders' outputs for all of that."""
        raw = {"ecg": inputs["ecg_values"], "cxr": inputs["pixel_values"], "lab": inputs["lab_values"]}
        withheld = inputs["withheld_ids"]
        if not any([withheld] if isinstance(withheld, Mapping) else withheld):
            return dict(zip(TENSOR_NAMES, raw.values()))
        return {f"{m}_features": getattr(self.model, f"get_{m}_features")(values) for m, values in raw.items()}

    def _generate(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, modality_embeds: torch.Tensor, **kwargs: Any
    ) -> torch.Tensor:
        """The new tokens (batch * sequences, tokens)."""
        generated = self.model.generate(
            input_ids=input_ids,
            attention_mask=attention_mask,
            modality_embeds=modality_embeds,
            return_dict_in_generate=False,
            **kwargs,
        )
        return generated[:, input_ids.shape[1] :]

    def _probabilities(
        self,
        inputs: PreparedPatient,
        encoded: Mapping[str, torch.Tensor],
        embeds: torch.Tensor,
        texts: Sequence[Sequence[str]],
        generate_kwargs: Mapping[str, Any],
    ) -> tuple[list[dict[str, float] | None], list[dict[str, Any] | None]]:
        """For each patient the probabilities of the answer slot, averaged over the reasonings, and the influences."""
        withheld = inputs["withheld_ids"]
        of_patients = [withheld] if isinstance(withheld, Mapping) else withheld
        probabilities: list[dict[str, float] | None] = []
        influences: list[dict[str, Any] | None] = []
        for i, (ids, mask) in enumerate(zip(inputs["input_ids"], inputs["attention_mask"])):
            if self.calibration is None and not of_patients[i]:
                probabilities.append(None)
                influences.append(None)
                continue
            found = [self._slot(ids[mask.bool()].tolist(), text, embeds[i : i + 1]) for text in texts[i]]
            whole = {disease: sum(one[disease] for one in found) / len(found) for disease in DISEASES}
            probabilities.append(whole)
            influences.append(
                self._influence(
                    {name: rows[i : i + 1] for name, rows in encoded.items()}, of_patients[i], generate_kwargs
                )
                if of_patients[i]
                else None
            )
        return probabilities, influences

    def _slot(self, prompt_ids: list[int], text: str, embeds: torch.Tensor) -> dict[str, float]:
        order = DISEASES if self.calibration is None else self.calibration.order
        return answer_probabilities(self.model, self.tokenizer, prompt_ids, text, order, embeds)

    def _influence(
        self,
        features: Mapping[str, torch.Tensor],
        withheld_ids: Mapping[str, torch.Tensor],
        generate_kwargs: Mapping[str, Any],
    ) -> dict[str, Any]:
        """
        `influence`: by disease and modality, how much lower the probability is where the patient is answered, greedily,
        without it. `influence_noise`: by disease, how far it moves where nothing is withheld and only the order changes.
        """
        device = next(iter(features.values())).device
        batch = self.tokenizer.pad(
            {"input_ids": [ids.tolist() for ids in withheld_ids.values()]}, padding_side="left", return_tensors="pt"
        ).to(device)
        repeated = {
            name: rows.expand(len(withheld_ids), *rows.shape[1:])
            for name, rows in features.items()
            if name.removesuffix("_features") in withheld_ids
        }
        embeds = self.model.get_modality_embeds(batch["input_ids"], **repeated).embeds
        greedy = {k: v for k, v in generate_kwargs.items() if k not in SAMPLING_KEYWORDS}
        tokens = self._generate(batch["input_ids"], batch["attention_mask"], embeds, **greedy, do_sample=False)
        texts = self.processor.batch_decode(tokens, skip_special_tokens=True)
        found = {
            withheld: self._slot(ids.tolist(), texts[i], embeds[i : i + 1])
            for i, (withheld, ids) in enumerate(withheld_ids.items())
        }
        whole, reordered = found.pop("none"), found.pop("reordered", None)
        moved = {
            disease: {modality: whole[disease] - without[disease] for modality, without in found.items()}
            for disease in DISEASES
        }
        noise = None if reordered is None else {d: abs(whole[d] - reordered[d]) for d in DISEASES}
        return {"influence": moved, "influence_noise": noise}

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

    def postprocess(  # type: ignore[override]  # typed
        self, model_outputs: GeneratedAnswers, abstain: float | None = None
    ) -> DiagnosisResult:
        if model_outputs["error"] is not None:
            return DiagnosisResult(error=model_outputs["error"])
        texts = self.processor.batch_decode(model_outputs["new_tokens"][0], skip_special_tokens=True)
        answers = [parse_answer(text) for text in texts]
        votes = Counter(disease for answer in answers for disease in answer.diseases)
        named = {disease for disease in DISEASES if 2 * votes[disease] > len(texts)}
        shown, source = _majority_draw(texts), "answer" if len(texts) == 1 else "drawn answer"
        greedy = model_outputs["greedy_tokens"]
        if shown is None and greedy is not None:
            shown, source = self.processor.decode(greedy[0], skip_special_tokens=True), "greedy answer"
        answer = parse_answer(shown or "")
        checked = self.processor.check_evidence(answer.reasoning or "", model_outputs["measured"])
        contributions = model_outputs["contributions"][0].tolist()
        warnings = self._warnings(answers, model_outputs["new_tokens"][0])
        if set(answer.diseases) != named:
            warnings.append(
                "answer: no drawn answer names just what most of them name; the text shown is the greedy one"
            )
        return DiagnosisResult(
            version=SCHEMA_VERSION,
            warnings=[*self._limits(), *model_outputs["warnings"], *warnings],
            diseases=self._diseases(
                named, votes, len(texts), model_outputs["probabilities"], checked.statements, abstain
            ),
            reasoning=answer.reasoning,
            answer=answer.answer,
            evidence=checked.statements,
            unmentioned=checked.unmentioned,
            measurements=self.processor.list_measurements(model_outputs["measured"]),
            contributions={m: None if value != value else value for m, value in zip(MODALITIES, contributions)},
            influence=(model_outputs["influence"] or {}).get("influence"),
            influence_noise=(model_outputs["influence"] or {}).get("influence_noise"),
            patient=model_outputs["patient"],
            text_source=source,
            generated_text=shown,
        )

    def _diseases(
        self,
        named: set[str],
        votes: Mapping[str, int],
        num_samples: int,
        raw: Mapping[str, float] | None,
        statements: Sequence[Mapping[str, Any]],
        abstain: float | None,
    ) -> list[dict[str, Any]]:
        probabilities: Mapping[str, float | None] = dict.fromkeys(DISEASES)
        if self.calibration is not None and raw is not None:
            probabilities = self.calibration.apply(raw)
        rows = []
        for disease in DISEASES:
            supporting = [
                statement
                for statement in statements
                if statement["status"] == "supported" and disease.lower() in statement["conclusion"].lower()
            ]
            row = {
                "label": disease,
                "named": disease in named,
                "score": votes.get(disease, 0) / num_samples if num_samples > 1 else None,
                "probability": probabilities[disease],
                "evidence": len(supporting),
            }
            if abstain is not None and self.calibration is not None:
                probability = probabilities[disease]
                row["undecided"] = self.calibration.is_undecided(disease, probability, abstain)
                zone = None if probability is None else self.calibration.undecided_zone(disease, abstain)
                row["undecided_zone"] = None if zone is None or zone[0] > zone[1] else list(zone)
            rows.append(row)
        return sorted(
            rows, key=lambda row: (not row["named"], -(row["probability"] or 0), -votes.get(row["label"], 0))
        )

    def _limits(self) -> list[str]:
        """What the weights are worth, which a reader must know first."""
        warnings = []
        provenance = self.model.provenance
        if provenance.stage is None:
            warnings.append("model: the weights are untrained, the answer means nothing")
        patients = provenance.describe_patients()
        if patients == "imaginary patients only":
            warnings.append("model: trained on imaginary patients only, the answer says nothing about a real one")
        elif patients is not None:
            warnings.append(f"model: trained on {patients}; what it says of a real patient is not validated")
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
