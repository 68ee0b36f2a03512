# SPDX-License-Identifier: Apache-2.0
"""The processor of MedTVT-R1: text, ECG, chest X-ray and laboratory panel in, model inputs out."""

import os
import re
from typing import Any

import numpy as np
from PIL.Image import Image
from transformers.feature_extraction_utils import BatchFeature
from transformers.image_utils import load_image
from transformers.processing_utils import ImagesKwargs, ProcessingKwargs, ProcessorMixin, TextKwargs

from .evidence_medtvt import Evidence, Measurement, Measurements, check_evidence, list_measurements
from .feature_extraction_medtvt_ecg import MedTVTEcgFeatureExtractor
from .feature_extraction_medtvt_lab import MedTVTLabFeatureExtractor
from .measure_ecg_medtvt import SAMPLING_RATE as ECG_MEASURING_RATE
from .measure_ecg_medtvt import measure_ecg
from .patient_medtvt import Patient, check_patient, merge_patients
from .read_cxr_medtvt import read_cxr


MODALITIES = ("ecg", "cxr", "lab")
PLACEHOLDER = re.compile(r"<(ecg|cxr|lab)>")

# The authors' format: the question, a space, the answer, the end. A prompt ends with the question.
PLAIN_CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ ' ' + message['content'] + eos_token }}{% endgeneration %}"
    "{% else %}"
    "{{ ' ' if not loop.first and loop.previtem['role'] != 'assistant' }}{{ message['content'] }}"
    "{% endif %}"
    "{% endfor %}"
)


class MedTVTProcessorKwargs(ProcessingKwargs, total=False):
    """Keywords of [`MedTVTProcessor`] beside those of its tokenizer and its image processor."""

    _defaults = {}  # type: ignore[misc]  # transformers 5.19 reads it

    sampling_rate: float | None
    leads: list[str] | None
    unit: str | None
    return_alterations: bool
    return_patients: bool
    return_measurements: bool
    strict: bool


class MedTVTProcessor(ProcessorMixin):
    r"""
    Wraps the two feature extractors, an image processor and a tokenizer into one processor.

    Args:
        ecg_feature_extractor ([`MedTVTEcgFeatureExtractor`]): Turns ECG records into `ecg_values`.
        image_processor: Turns X-rays into `pixel_values`; [`MedTVTImageProcessor`] or any of transformers.
        lab_feature_extractor ([`MedTVTLabFeatureExtractor`]): Turns laboratory panels into `lab_values`.
        tokenizer: A tokenizer with the special tokens `<ecg>`, `<cxr>` and `<lab>`.
        num_modality_tokens (`int`, *optional*, defaults to 1): Placeholder tokens (k) that a modality takes in the
            prompt; as in the model's config.
        chat_template (`str` or `dict[str, str]`, *optional*): Defaults to the authors' format: question, space, answer,
            end of sequence. Contents reach the template as text, typed parts already as placeholders, so that the
            template of any backbone will do.
    """

    # set by `ProcessorMixin`
    ecg_feature_extractor: MedTVTEcgFeatureExtractor
    lab_feature_extractor: MedTVTLabFeatureExtractor
    image_processor: Any
    tokenizer: Any

    default_chat_template = PLAIN_CHAT_TEMPLATE
    valid_processor_kwargs = MedTVTProcessorKwargs

    def __init__(
        self,
        ecg_feature_extractor: MedTVTEcgFeatureExtractor,
        image_processor: Any,
        lab_feature_extractor: MedTVTLabFeatureExtractor,
        tokenizer: Any,
        num_modality_tokens: int = 1,
        chat_template: str | dict[str, str] | None = None,
    ):
        missing = [f"<{m}>" for m in MODALITIES if len(tokenizer.encode(f"<{m}>", add_special_tokens=False)) != 1]
        if missing:
            raise ValueError(
                f"The tokenizer has no single token for {', '.join(missing)}. Add the placeholders with "
                f"`tokenizer.add_special_tokens({{'additional_special_tokens': {missing}}})` and resize the embeddings."
            )
        self.num_modality_tokens = num_modality_tokens
        if chat_template is None:
            chat_template = self.default_chat_template
        super().__init__(
            ecg_feature_extractor, image_processor, lab_feature_extractor, tokenizer, chat_template=chat_template
        )

    def __repr__(self) -> str:
        # not the parts' own: their tables and vocabularies are long
        parts = ", ".join(f"{name}={type(getattr(self, name)).__name__}" for name in self.get_attributes())
        return f"{type(self).__name__}({parts}, num_modality_tokens={self.num_modality_tokens})"

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any) -> Any:
        """As in transformers, and the file from which `AutoFeatureExtractor` makes the ECG's extractor."""
        self.ecg_feature_extractor.save_pretrained(save_directory)
        return super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)

    def measure(
        self,
        ecg: Any = None,
        cxr: Any = None,
        lab: Any = None,
        sampling_rate: float | None = None,
        leads: list[str] | None = None,
        unit: str | None = None,
        patient: Patient | None = None,
    ) -> Measurements:
        """
        What can be measured in one patient's inputs, for `check_evidence` of `evidence_medtvt.py`.

        Args:
            ecg, cxr, lab, sampling_rate, leads, unit (*optional*): As in `__call__`, of one patient.
            patient ([`Patient`], *optional*): Age and sex, which choose the reference ranges.

        Raises:
            ValueError: if an input cannot be used.
        """
        sources = {
            "ecg": None if ecg is None else self.ecg_feature_extractor.read(ecg, sampling_rate, leads, unit),
            "cxr": None if cxr is None else [cxr],
            "lab": None if lab is None else self.lab_feature_extractor.read(lab),
        }
        present = {modality: source for modality, source in sources.items() if source is not None}
        measured = self._measure(present, dict.fromkeys(present, 0))
        return {**measured, "patient": check_patient(patient)}

    def _measure(self, sources: dict[str, Any], rows: dict[str, int]) -> Measurements:
        """Of the patient whose inputs, as `_read` returns them, stand in these rows."""
        measured: Measurements = {"ecg": None, "lab": None, "has_cxr": "cxr" in rows, "patient": check_patient(None)}
        if "ecg" in rows:
            # what the model's own extractor took is measured, whatever is missing
            extractor = MedTVTEcgFeatureExtractor(sampling_rate=ECG_MEASURING_RATE, max_dead_leads=11)
            signal = extractor(sources["ecg"][rows["ecg"]])["ecg_values"][0]
            measured["ecg"] = measure_ecg(np.asarray(signal))
        if "lab" in rows:
            values = sources["lab"].measured[rows["lab"]]
            names = self.lab_feature_extractor.lab_names
            measured["lab"] = {name: float(value) for name, value in zip(names, values) if value == value}
        return measured

    def check_evidence(self, text: str, measured: Measurements) -> Evidence:
        """The statements of a reasoning with their verdicts, and abnormal measurements that it leaves out."""
        return check_evidence(text, measured)

    def list_measurements(self, measured: Measurements) -> list[Measurement]:
        """What was measured, a dict a value with its unit and reference range."""
        return list_measurements(measured)

    @staticmethod
    def get_possibly_dynamic_module(module_name: str) -> Any:
        # A folder with remote code is loaded in processes where our classes are in no registry
        for extractor_class in (MedTVTEcgFeatureExtractor, MedTVTLabFeatureExtractor):
            if extractor_class.__name__ == module_name:
                return extractor_class
        return ProcessorMixin.get_possibly_dynamic_module(module_name)

    @classmethod
    def _get_arguments_from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        processor_dict: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> list[Any]:
        if "ecg_feature_extractor" not in (processor_dict or {}):
            raise ValueError(
                f"{pretrained_model_name_or_path} holds no MedTVT processor (a processor_config.json with an "
                "`ecg_feature_extractor`). Save one beside the weights with `processor.save_pretrained(folder)`."
            )
        return super()._get_arguments_from_pretrained(pretrained_model_name_or_path, processor_dict, **kwargs)

    def __call__(
        self,
        text: str | list[str] | None = None,
        ecg: Any = None,
        cxr: Any = None,
        lab: Any = None,
        patient: Any = None,
        images: Any = None,
        **kwargs: Any,
    ) -> BatchFeature:
        r"""
        Args:
            text (`str` or `list[str]`, *optional*): Prompts with at most one `<ecg>`, `<cxr>` and `<lab>` each.
            ecg, cxr, lab (*optional*): One input where `text` is a string; a list with one entry a prompt, None where
                the prompt lacks the modality, where `text` is a list. See [`MedTVTEcgFeatureExtractor`], [`load_cxr`]
                and [`MedTVTLabFeatureExtractor`] for what each accepts.
            images (*optional*): The X-rays, in place of `cxr`, as transformers names pictures: also as a list of one a
                prompt.
            patient (`dict`, *optional*): Age and sex, see [`check_patient`], where the inputs do not state them or are
                wrong; a list with one entry a prompt where `text` is a list. They choose reference ranges and never enter
                the model.
            sampling_rate, leads, unit (*optional*): What an ECG given as an array does not state itself.
            return_tensors (`str`, *optional*): `"pt"` or `"np"`.
            return_alterations (`bool`, *optional*, defaults to `False`): Whether to add `alterations`, a list for each prompt of what was altered or
                imputed in its inputs.
            return_patients (`bool`, *optional*, defaults to `False`): Whether to add `patients`, a dict for each prompt with `age` and `sex`, None where
                unknown.
            return_measurements (`bool`, *optional*, defaults to `False`): Whether to add `measurements`, for each prompt
                what [`~MedTVTProcessor.measure`] finds in its inputs, which are read only once.
            strict (`bool`, *optional*, defaults to `False`): Whether to refuse what is otherwise only warned of: an input that may be no ECG or no frontal
                chest film, or inputs that state different patients.
            **kwargs: Keywords of the tokenizer, or `text_kwargs` and `images_kwargs`.

        Returns:
            `BatchFeature`: `input_ids` and `attention_mask` (batch, length), each placeholder k times, left-padded
            where lengths differ; `ecg_values` (batch, leads, samples), `pixel_values` (batch, 3, height, width) and
            `lab_values` (batch, 2 * labs) for the modalities that the call has, zero rows where a prompt lacks one.

        Raises:
            ValueError: if an input cannot be used, a modality comes without its placeholder, a placeholder without its
                modality, or a placeholder twice.
            TypeError: if there is no such keyword.
        """
        # transformers' own chat template passes every kind
        kwargs = {
            name: value for name, value in kwargs.items() if name not in ("videos", "audio") or value is not None
        }
        ecg_kwargs = {name: kwargs.pop(name, None) for name in ("sampling_rate", "leads", "unit")}
        return_tensors = kwargs.pop("return_tensors", None)
        switches = ("return_alterations", "return_patients", "return_measurements", "strict")
        return_alterations, return_patients, return_measurements, strict = (
            kwargs.pop(name, False) for name in switches
        )
        self._check_keywords(kwargs)
        cxr = _take_images(images, cxr)
        texts = [text] if isinstance(text, str) else text
        rows = self._align(texts, {"ecg": ecg, "cxr": cxr, "lab": lab}, single=isinstance(text, str))
        keywords: Any = ProcessingKwargs  # ours are taken out; transformers 5.19 merges the parts' only
        merged = self._merge_kwargs(keywords, tokenizer_init_kwargs=self.tokenizer.init_kwargs, **kwargs)

        if texts == [] or (texts is None and all(item is None for items in rows.values() for item in items)):
            raise ValueError("Nothing to process: pass at least one of `text`, `ecg`, `cxr` and `lab`.")
        num_samples = len(texts) if texts is not None else len(next(iter(rows.values())))
        data: dict[str, Any] = {}
        alterations: list[list[str]] = [[] for _ in range(num_samples)]
        patients = self._align_patients(patient, num_samples, single=texts is None or isinstance(text, str))
        if texts is not None:
            self._check_placeholders(texts, rows)
            data.update(self._tokenize(texts, merged["text_kwargs"]))
        sources: dict[str, Any] = {}
        places: list[dict[str, int]] = [{} for _ in range(num_samples)]
        for modality, items in rows.items():
            present = [i for i, item in enumerate(items) if item is not None]
            if present:
                sources[modality] = self._read(modality, [items[i] for i in present], ecg_kwargs)
                for place, i in enumerate(present):
                    places[i][modality] = place
                outputs = self._extract(modality, sources[modality], merged["images_kwargs"], strict)
                for i, found in zip(present, outputs.pop("alterations")):
                    alterations[i].extend(found)
                for i, stated in zip(present, outputs.pop("patients", [])):
                    patients[i].append(stated)
                for name, values in outputs.items():
                    data[name] = self._scatter(values, present, len(items))
        features = BatchFeature(
            data, tensor_type=return_tensors, skip_tensor_conversion=["text_replacement_offsets", "alterations"]
        )
        known = [merge_patients(*stated) for stated in patients]
        if strict and (contradictions := [note for _, notes in known for note in notes]):
            raise ValueError(f"Refused as `strict` asks. {contradictions[0].split(';')[0]}.")
        if return_alterations:
            features["alterations"] = [[*found, *notes] for found, (_, notes) in zip(alterations, known)]
        if return_patients:
            features["patients"] = [merged_patient for merged_patient, _ in known]
        if return_measurements:
            features["measurements"] = [
                {**self._measure(sources, of_sample), "patient": merged_patient}
                for of_sample, (merged_patient, _) in zip(places, known)
            ]
        return features

    def _check_keywords(self, kwargs: dict[str, Any]) -> None:
        image_processor = getattr(self.image_processor, "valid_kwargs", None)
        known = {
            "text_kwargs": {*TextKwargs.__annotations__, "return_text_replacement_offsets"},
            "images_kwargs": {*ImagesKwargs.__annotations__, *getattr(image_processor, "__annotations__", {})},
        }
        known["common_kwargs"] = known["text_kwargs"] | known["images_kwargs"]
        unknown = set(kwargs) - set(known) - known["common_kwargs"]
        for name, allowed in known.items():
            unknown |= {f"{name}[{key!r}]" for key in set(kwargs.get(name) or {}) - allowed}
        if unknown:
            raise TypeError(f"Unknown keyword(s) {', '.join(sorted(unknown))} for {type(self).__name__}.")

    @staticmethod
    def _align_patients(patient: Any, num_samples: int, single: bool) -> list[list[Patient]]:
        """For each sample what is known of its patient, what the caller says first."""
        given = [patient] * num_samples if patient is None or (single and num_samples == 1) else patient
        if not isinstance(given, (list, tuple)) or len(given) != num_samples:
            raise ValueError(
                f"`patient` must be a list of {num_samples} dicts, one each (None where nothing is known)."
            )
        return [[check_patient(entry)] for entry in given]

    @staticmethod
    def _align(texts: list[str] | None, inputs: dict, single: bool) -> dict[str, list]:
        """One list a modality with one entry a sample; modalities that were not passed are left out."""
        rows = {}
        for modality, value in inputs.items():
            if value is None:
                continue
            if isinstance(value, (list, tuple)) and not (modality == "ecg" and np.ndim(_first(value)) == 1):
                rows[modality] = list(value)
            elif type(value).__name__ == "DataFrame" and modality != "ecg":  # an ECG's is one recording
                rows[modality] = [value.iloc[i] for i in range(len(value))]
            elif modality == "ecg" and getattr(value, "ndim", 2) == 3:
                rows[modality] = list(value)
            elif single or texts is None:
                rows[modality] = [value]
            else:
                raise ValueError(
                    f"`text` is a list of {len(texts)} prompts, so `{modality}` must be a list with one entry each (None "
                    f"where a prompt lacks it), got {type(value).__name__}."
                )
        expected = len(texts) if texts is not None else max(map(len, rows.values()), default=0)
        for modality, items in rows.items():
            if len(items) != expected:
                raise ValueError(
                    f"`{modality}` has {len(items)} entries for {expected} {'prompts' if texts is not None else 'samples'}; "
                    "pass one each, None where a sample lacks it."
                )
        return rows

    @staticmethod
    def _check_placeholders(texts: list[str], rows: dict[str, list]) -> None:
        for i, text in enumerate(texts):
            if not isinstance(text, str):
                raise TypeError(f"`text` must be a string or a list of strings, entry {i} is {type(text).__name__}.")
            found = PLACEHOLDER.findall(text)
            for modality in MODALITIES:
                count, given = found.count(modality), modality in rows and rows[modality][i] is not None
                if count > 1:
                    raise ValueError(
                        f"Prompt {i} has {count} <{modality}> placeholders; a prompt has at most one of each modality."
                    )
                if count != given:
                    problem = f"an `{modality}` input but no" if given else f"no `{modality}` input but a"
                    raise ValueError(f"Prompt {i} has {problem} <{modality}> placeholder; each needs the other.")

    def encode_text(self, text: str | list[str], **kwargs: Any) -> BatchFeature:
        r"""
        `input_ids` and `attention_mask` of text alone, each placeholder k times: for modalities that reach the model by
        another way, such as cached features.

        Args:
            text (`str` or `list[str]`): One text gives flat lists, several texts a batch, padded as the tokenizer says.
            **kwargs: Keywords of the tokenizer.
        """
        if isinstance(text, str):
            return BatchFeature({name: rows[0] for name, rows in self._tokenize([text], kwargs).items()})
        return BatchFeature(self._tokenize(text, kwargs))

    def _tokenize(self, texts: list[str], text_kwargs: dict) -> dict:
        return_offsets = text_kwargs.pop("return_text_replacement_offsets", False)
        text_kwargs.pop("return_mm_token_type_ids", None)
        text_kwargs.pop("return_tensors", None)
        text_kwargs.setdefault("padding", True)
        k = self.num_modality_tokens
        expanded, offsets = [], []
        for text in texts:
            spans, shift = [], 0
            for match in PLACEHOLDER.finditer(text):
                start, end = match.span()
                replacement = match.group() * k
                spans.append({"span": (start, end), "new_span": (start + shift, start + shift + len(replacement))})
                shift += len(replacement) - (end - start)
            expanded.append(PLACEHOLDER.sub(lambda match: match.group() * k, text))
            offsets.append(spans)
        encoded = dict(self.tokenizer(expanded, **text_kwargs))
        for i, (ids, text) in enumerate(zip(encoded["input_ids"], texts)):
            for modality, token_id in zip(MODALITIES, self.modality_token_ids):
                if sum(token == token_id for token in ids) != k * text.count(f"<{modality}>"):
                    raise ValueError(
                        f"Truncation to {text_kwargs.get('max_length')} tokens cuts off the <{modality}> placeholder of "
                        f"prompt {i}; raise `max_length` or shorten the text."
                    )
            if text_kwargs.get("truncation") and "</answer>" in text and "</answer>" not in self.tokenizer.decode(ids):
                raise ValueError(
                    f"Truncation to {text_kwargs.get('max_length')} tokens cuts off the answer block of prompt {i}; raise "
                    "`max_length`, or leave the sample out."
                )
        if return_offsets:
            encoded["text_replacement_offsets"] = offsets
        return encoded

    @property
    def modality_token_ids(self) -> tuple[int, int, int]:
        """Ids of `<ecg>`, `<cxr>` and `<lab>`."""
        return tuple(self.tokenizer.convert_tokens_to_ids(f"<{modality}>") for modality in MODALITIES)

    def _read(self, modality: str, items: list, ecg_kwargs: dict[str, Any]) -> Any:
        """A modality's inputs, none of which is None, read from their files: once for the model and for measuring."""
        if modality == "ecg":
            return self.ecg_feature_extractor.read(items, **ecg_kwargs)
        return items if modality == "cxr" else self.lab_feature_extractor.read(items)

    def _extract(self, modality: str, source: Any, images_kwargs: dict[str, Any], strict: bool) -> BatchFeature:
        """The tensors of what `_read` returned, `alterations`, and `patients` where they are stated."""
        strictly: dict[str, Any] = {"strict": True} if strict else {}
        if modality == "ecg":
            return self.ecg_feature_extractor(source, **strictly, return_alterations=True)
        if modality == "cxr":
            return self._process_cxr(source, images_kwargs, **strictly)
        return self.lab_feature_extractor(source, return_alterations=True)

    def _process_cxr(self, items: list, images_kwargs: dict, strict: bool = False) -> BatchFeature:
        min_decode_size = getattr(self.image_processor, "min_decode_size", None)
        strict = strict or getattr(self.image_processor, "strict", False)
        films = [read_cxr(item, min_decode_size, strict) for item in items]
        images_kwargs.pop("return_tensors", None)
        converts = images_kwargs.get("do_convert_rgb", getattr(self.image_processor, "do_convert_rgb", False))
        images = [image if converts else image.convert("RGB") for image in (film.image for film in films)]
        outputs = self.image_processor(images, return_tensors="np", **images_kwargs)
        pixel_values = outputs["pixel_values"]
        alterations = [[*film.notes, *self._describe_resizing(film.image, pixel_values.shape[-2:])] for film in films]
        patients = [film.patient for film in films]
        return BatchFeature({"pixel_values": pixel_values, "alterations": alterations, "patients": patients})

    def _describe_resizing(self, image: Image, size: tuple[int, int]) -> list[str]:
        """What the image processor takes away from an X-ray, or does to its proportions."""
        shortest_edge = dict(self.image_processor.size).get("shortest_edge")
        if shortest_edge is None:
            stretch = (image.height / size[0]) / (image.width / size[1])
            changed = not 0.95 < stretch < 1.05
            return [
                f"cxr: {image.width} x {image.height} resized to {size[1]} x {size[0]}, proportions changed"
            ] * changed
        scale = shortest_edge / min(image.size)
        kept = min(1, size[0] / (image.height * scale)) * min(1, size[1] / (image.width * scale))
        return [f"cxr: the central crop keeps {kept:.0%} of the picture"] if kept < 0.995 else []

    @staticmethod
    def _scatter(values: Any, present: list[int], num_rows: int) -> np.ndarray:
        values = np.asarray(values, dtype=np.float32)
        if len(present) == num_rows:
            return values
        scattered = np.zeros((num_rows, *values.shape[1:]), dtype=np.float32)
        scattered[present] = values
        return scattered

    def apply_chat_template(  # type: ignore[override]  # further arguments are keywords
        self,
        conversation: Any,
        chat_template: str | None = None,
        processor_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        r"""
        As in transformers, with the content parts `{"type": "ecg", "ecg": ...}`, `{"type": "cxr", "cxr": ...}`,
        `{"type": "lab", "lab": ...}` and `{"type": "text", "text": ...}`; a part of type `image`, with `image`, `path`,
        `url` or `base64` as in transformers, is the X-ray too. Each part becomes its placeholder where it
        stands; with `tokenize=True` its input is processed too. Keys of a part that hold None are ignored.
        """
        if isinstance(conversation, str) or not conversation:
            given = "none" if not conversation else f"a {type(conversation).__name__}"
            raise ValueError(f"A conversation is a list of messages, at least one; got {given}.")
        is_batched = isinstance(conversation[0], (list, tuple))
        flattened: list[list[dict[str, Any]]] = []
        inputs: dict[str, list[Any]] = {modality: [] for modality in MODALITIES}
        for messages in conversation if is_batched else [conversation]:
            found: dict[str, Any] = {}
            flattened.append([{**message, "content": _flatten(message.get("content"), found)} for message in messages])
            for modality in MODALITIES:
                inputs[modality].append(found.get(modality))
        if kwargs.get("tokenize"):
            inputs["cxr"] = [load_image(item) if _is_remote(item) else item for item in inputs["cxr"]]
            present = {m: items for m, items in inputs.items() if any(item is not None for item in items)}
            processor_kwargs = {**present, **(processor_kwargs or {})}
        return super().apply_chat_template(
            flattened if is_batched else flattened[0],
            chat_template=chat_template,
            processor_kwargs=processor_kwargs,
            **kwargs,
        )


def _first(value: list | tuple) -> Any:
    """What tells a list of ECGs from one ECG as nested lists: the latter begins with a row of numbers."""
    first = value[0] if len(value) else None
    return first if isinstance(first, (list, tuple, np.ndarray)) else None


def _take_images(images: Any, cxr: Any) -> Any:
    """X-rays, by whichever of the two names they were passed: `images` may have a list for each prompt."""
    if images is None:
        return cxr
    if cxr is not None:
        raise ValueError("Pass the chest X-ray as `cxr` or as `images`, not both.")
    if not (isinstance(images, (list, tuple)) and any(isinstance(image, (list, tuple)) for image in images)):
        return images
    rows = [row if isinstance(row, (list, tuple)) else [row] for row in images]
    for i, row in enumerate(rows):
        if len(row) > 1:
            raise ValueError(f"Prompt {i} has {len(row)} `images`; a prompt has at most one chest X-ray.")
    return [row[0] if row else None for row in rows]


def _picture(part: dict[str, Any]) -> Any:
    """The X-ray of a message part as transformers writes pictures."""
    if part.get("base64") is not None:
        return f"data:image/png;base64,{part['base64']}"
    return next((part[key] for key in ("image", "path", "url") if part.get(key) is not None), None)


def _is_remote(item: Any) -> bool:
    return isinstance(item, str) and item.startswith(("http://", "https://", "data:image/"))


def _flatten(content: str | list[dict[str, Any]] | None, found: dict[str, Any]) -> str:
    """Text of a message's content, placeholders for its modality parts; their inputs are added to `found`."""
    if content is None or isinstance(content, str):
        return content or ""
    pieces = []
    for part in content:
        kind = part.get("type")
        if kind == "text":
            pieces.append(part.get("text") or "")
        elif kind in (*MODALITIES, "image"):
            modality = "cxr" if kind == "image" else kind
            if modality in found:
                raise ValueError(f"The conversation has several `{modality}` parts; it can have one of each modality.")
            found[modality] = _picture(part) if kind == "image" else part.get(kind)
            pieces.append(f"<{modality}>")
        else:
            raise ValueError(
                f"Unknown content part {kind!r}; accepted are 'text', 'ecg', 'cxr' (or 'image') and 'lab'."
            )
    return "".join(pieces)


__all__ = ["MedTVTProcessor"]
