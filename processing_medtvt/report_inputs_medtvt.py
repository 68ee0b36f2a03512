# SPDX-License-Identifier: Apache-2.0
"""A patient's inputs read once more, for the eye: what the report and the figure draw."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from .feature_extraction_medtvt_ecg import MedTVTEcgFeatureExtractor, read_item, select_leads
from .lab_definitions_medtvt import flag_value, reference_range
from .measure_ecg_medtvt import SAMPLING_RATE, Waves, find_waves
from .patient_medtvt import Patient, check_patient, merge_patients
from .read_cxr_medtvt import load_cxr
from .recording_medtvt import Recording


MAX_DRAWN_RATE = 500  # Hz


class LabRow(NamedTuple):
    """
    A measured lab.

    Args:
        value (`float`, *optional*): in `unit`; None where its percentile was given.
        low, high (`float`, *optional*): the reference range.
        flag (`str`, *optional*): `"low"`, `"normal"` or `"high"`; None where there is no value or no range.
        percentile (`float`): 0 to 1, what the model gets.
    """

    name: str
    value: float | None
    unit: str
    low: float | None
    high: float | None
    flag: str | None
    percentile: float

    @property
    def shown_unit(self) -> str:
        """The unit as it is written beside the value; pH and ratios have none."""
        return "" if self.unit in ("units", "ratio") else self.unit

    @property
    def distance(self) -> float:
        """How far beyond its range the value lies, in widths of the range; 0 inside; -1 where that is not known."""
        if self.value is None or self.low is None or self.high is None:
            return -1.0
        return max(self.value - self.high, self.low - self.value, 0.0) / (self.high - self.low)


class DrawnEcg(NamedTuple):
    """
    Args:
        signal (`np.ndarray`): (leads, samples) in mV, NaN where nothing was recorded.
        leads (`list[str]`): names of its rows.
        rate (`float`): in Hz.
        waves (`Waves`, *optional*): where P, QRS and T lie; None where no beats were found.
    """

    signal: np.ndarray
    leads: list[str]
    rate: float
    waves: Waves | None


class DrawnInputs(NamedTuple):
    """
    Args:
        ecg (`DrawnEcg`, *optional*): as recorded.
        cxr (`tuple`, *optional*): the original and what the model saw, as RGB pictures.
        lab (`list[LabRow]`, *optional*): what was measured, in the order of the panel.
        absent (`list[str]`): names of the labs that were not measured.
    """

    ecg: DrawnEcg | None
    cxr: tuple[Image.Image, Image.Image] | None
    lab: list[LabRow] | None
    absent: list[str]


def read_inputs(
    processor: Any,
    ecg: Any = None,
    cxr: Any = None,
    lab: Any = None,
    sampling_rate: float | None = None,
    leads: Sequence[str] | None = None,
    unit: str | None = None,
    patient: Patient | None = None,
) -> DrawnInputs:
    """
    Reads a patient's inputs once more, for the eye.

    Args:
        processor ([`MedTVTProcessor`]): The one that prepared them for the model.
        ecg, cxr, lab, sampling_rate, leads, unit (*optional*): One input each, as the processor takes it.
        patient ([`Patient`], *optional*): `age` and `sex`, which choose the reference ranges of the labs; they come before
            what a file states.

    Raises:
        ValueError: as the processor does.
    """
    drawn_ecg = None
    if ecg is not None:
        drawn_ecg = _read_ecg(processor.ecg_feature_extractor, read_item(ecg, "ecg", sampling_rate, leads, unit))
    rows, absent = (None, []) if lab is None else _read_labs(processor.lab_feature_extractor, lab, patient)
    pictures = None
    if cxr is not None:
        original = load_cxr(cxr)[0].convert("RGB")
        pixels = processor.image_processor([original], return_tensors="np")["pixel_values"][0]
        pictures = (original, _as_picture(pixels, processor.image_processor))
    return DrawnInputs(drawn_ecg, pictures, rows, absent)


def _read_ecg(extractor: Any, recording: Recording) -> DrawnEcg:
    """The recording, at its own rate up to that of the page, with holes where the extractor fills gaps for the model."""
    rate = min(float(recording.sampling_rate), MAX_DRAWN_RATE)
    stated = {"sampling_rate": recording.sampling_rate, "leads": recording.leads, "unit": recording.units}
    as_recorded = type(extractor)(
        leads=extractor.leads,
        sampling_rate=rate,
        duration=extractor.duration,
        nan_policy=extractor.nan_policy,
        max_dead_leads=extractor.max_dead_leads,
    )
    signal = as_recorded(recording.signal, **stated)["ecg_values"][0]
    source = np.rint(np.arange(signal.shape[1]) * float(recording.sampling_rate) / rate).astype(int)
    source = source[source < recording.signal.shape[1]]
    signal[:, len(source) :] = np.nan
    for lead, values in select_leads(recording, extractor.leads, []).items():
        # a lead without any sample is derived from others, or drawn as the zeros that the model got
        if lead in extractor.leads and not np.isnan(values[source]).all():
            signal[extractor.leads.index(lead), : len(source)][np.isnan(values[source])] = np.nan
    # as the evidence check measures it
    measuring = MedTVTEcgFeatureExtractor(sampling_rate=SAMPLING_RATE, max_dead_leads=11)
    waves = find_waves(np.asarray(measuring(recording.signal, **stated)["ecg_values"][0]))
    return DrawnEcg(signal, list(extractor.leads), rate, waves)


def _as_picture(pixels: np.ndarray, image_processor: Any) -> Image.Image:
    """(3, height, width) of the model's input back to a picture."""
    mean, std = (np.asarray(getattr(image_processor, f"image_{name}"))[:, None, None] for name in ("mean", "std"))
    values = pixels * std + mean if image_processor.do_normalize else pixels
    values = values * 255 if image_processor.do_rescale else values
    return Image.fromarray(np.rint(np.clip(values, 0, 255)).astype(np.uint8).transpose(1, 2, 0))


def _read_labs(extractor: Any, lab: Any, patient: Patient | None) -> tuple[list[LabRow], list[str]]:
    readings = extractor.read(lab)
    patient, _ = merge_patients(check_patient(patient), readings.patients[0])
    percentiles, present = np.split(extractor(lab)["lab_values"][0], 2)
    rows, absent = [], []
    for definition, value, percentile, is_present in zip(
        extractor.labs, readings.measured[0], percentiles, present, strict=True
    ):
        if not is_present:
            absent.append(definition["name"])
            continue
        low, high = reference_range(definition, patient)
        measured = None if np.isnan(value) else float(value)
        flag = flag_value(measured, low, high)
        unit = definition.get("unit") or ""
        rows.append(LabRow(definition["name"], measured, unit, low, high, flag, float(percentile)))
    return rows, absent


__all__ = ["DrawnEcg", "DrawnInputs", "LabRow", "read_inputs"]
