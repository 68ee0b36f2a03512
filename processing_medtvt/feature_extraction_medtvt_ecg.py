# SPDX-License-Identifier: Apache-2.0
"""ECG feature extractor of MedTVT-R1: any 12-lead recording becomes raw millivolts in the encoder's lead order."""

import math
from typing import Any

import numpy as np
from transformers.feature_extraction_utils import BatchFeature, FeatureExtractionMixin
from transformers.utils import TensorType

from .check_ecg_medtvt import SMALL_MV, find_contradictions, find_doubts
from .leads_ecg_medtvt import (
    LEADS_BY_KEY,
    LIMB_LEADS,
    STANDARD_LEADS,
    canonical_lead,
    derive_limb_lead,
    millivolts,
    shown_leads,
)
from .read_ecg_medtvt import depth, read_item, read_path
from .recording_medtvt import MAX_SAMPLING_RATE, MAX_SECONDS, Recording, check_timing


IMPOSSIBLE_MV, LARGE_MV = 100, 10


class MedTVTEcgFeatureExtractor(FeatureExtractionMixin):
    r"""
    Turns ECG recordings into the input of the MedTVT-R1 ECG encoder: leads chosen by name, mV, resampled with
    `scipy.signal.resample` over the whole record, first `duration` seconds, no filter and no normalization. This is
    the authors' preprocessing (which assumes 500 Hz, 10 s and MIMIC's lead order) with every assumption checked.

    Args:
        leads (`list[str]`, *optional*, defaults to the 12 standard leads in MIMIC-IV-ECG's order):
            Rows of the output, top to bottom.
        sampling_rate (`int`, *optional*, defaults to 100):
            Output sampling rate in Hz.
        duration (`float`, *optional*, defaults to 10.0):
            Output length in seconds. Longer recordings are cut, shorter ones padded with zeros at the end.
        nan_policy (`str`, *optional*, defaults to `"interpolate"`):
            `"interpolate"` fills missing samples linearly in time (nearest value at the edges) before resampling.
            `"zero"` sets a lead with any missing sample to zero, which is what the authors' code amounts to: the FFT
            spreads one NaN over its whole lead and NaN is then replaced by zero.
        max_dead_leads (`int`, *optional*, defaults to 6):
            A recording with more leads than this that are constant, practically zero or wholly missing is refused.

    Raises:
        `ValueError`: an argument is out of range.
    """

    model_input_names = ["ecg_values"]

    def __init__(
        self,
        leads: list[str] | tuple[str, ...] = STANDARD_LEADS,
        sampling_rate: int = 100,
        duration: float = 10.0,
        nan_policy: str = "interpolate",
        max_dead_leads: int = 6,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        names = [canonical_lead(lead) or str(lead) for lead in leads]
        if not names or len(set(names)) < len(names) or not set(names) <= set(STANDARD_LEADS):
            raise ValueError(f"leads must be distinct names out of {', '.join(STANDARD_LEADS)}; got {list(leads)}")
        _check_number("sampling_rate", sampling_rate, 1, MAX_SAMPLING_RATE, "Hz")
        _check_number("duration", duration, 1, MAX_SECONDS, "s")
        _check_number("max_dead_leads", max_dead_leads, 0, len(STANDARD_LEADS), "leads")
        if nan_policy not in ("interpolate", "zero"):
            raise ValueError(f'nan_policy must be "interpolate" or "zero"; got {nan_policy!r}')
        self.leads = names
        self.sampling_rate = sampling_rate
        self.duration = duration
        self.nan_policy = nan_policy
        self.max_dead_leads = max_dead_leads

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(leads={len(self.leads)}, sampling_rate={self.sampling_rate}, duration={self.duration}, "
            f"nan_policy={self.nan_policy!r})"
        )

    def __call__(
        self,
        ecg: Any,
        sampling_rate: float | None = None,
        leads: list[str] | None = None,
        unit: str | list[str] | None = None,
        return_tensors: str | TensorType | None = None,
        return_alterations: bool = False,
        strict: bool = False,
    ) -> BatchFeature:
        r"""
        Args:
            ecg:
                One recording or a list of recordings, each of them

                - the path of a WFDB record, with or without its extension (`.hea`, `.dat`, WFDB's `.mat`);
                - the path of another ECG file, recognized by its content: DICOM waveform, GE MUSE, Philips, HL7 aECG
                  and Mortara XML, SCP-ECG, EDF, ISHNE, MFER (extra `formats`), a table with a column a lead
                  (a digitizer's CSV), a bare `.mat`;
                - a `wfdb.Record`;
                - a 2-D array, tensor or nested list, (leads, samples) or (samples, leads), described by the next
                  three arguments (a 3-D array is a batch of them; masked samples are missing samples);
                - a DataFrame with a column a lead, maybe with a column of times;
                - a dict with the keys `signal` (such an array), `sampling_rate`, `leads` and `unit`;
                - a [`Recording`] that `read` returned.
            sampling_rate (`float`, *optional*):
                Sampling rate in Hz of every array in `ecg`. Required with arrays, as the next two, and with files that
                do not declare it. What a file declares must not be contradicted.
            leads (`list[str]`, *optional*):
                Lead names in the order of the arrays.
            unit (`str` or `list[str]`, *optional*):
                V, mV, uV or nV; one for all leads or one per lead.
            return_tensors (`str` or [`~utils.TensorType`], *optional*):
                `"pt"` or `"np"`; a numpy array if not given.
            return_alterations (`bool`, *optional*, defaults to `False`):
                Also return `alterations`: for every recording, the list of what was changed or looked odd; and
                `patients`: for every recording, what its header says of `age` and `sex` ([`Patient`]).
            strict (`bool`, *optional*, defaults to `False`):
                Refuse, instead of noting it, a signal that looks like no 12-lead ECG, or like one whose leads or
                electrodes were exchanged.

        Returns:
            [`BatchFeature`] with `ecg_values`: float32, (batch, leads, sampling_rate * duration), in mV.

        Raises:
            `ValueError`: a recording is unreadable, incomplete or implausible. `FileNotFoundError`: a file is missing.
            `TypeError`: `ecg` is none of the above. `ImportError`: the library that a path's format takes is missing.
        """
        values, alterations, patients = [], [], []
        for recording in self.read(ecg, sampling_rate, leads, unit):
            item_values, item_alterations = self._extract(recording, return_alterations or strict, strict)
            values.append(item_values)
            alterations.append([f"ecg: {text}" for text in item_alterations])
            patients.append(recording.patient)
        features = BatchFeature({"ecg_values": np.stack(values)}, tensor_type=return_tensors)
        if return_alterations:
            features["alterations"] = alterations
            features["patients"] = patients
        return features

    def read(
        self,
        ecg: Any,
        sampling_rate: float | None = None,
        leads: list[str] | None = None,
        unit: str | list[str] | None = None,
    ) -> list[Recording]:
        """
        The recordings as they were written, for those who need them for more than the tensor: `__call__` takes them too.

        Args:
            ecg, sampling_rate, leads, unit: As in `__call__`.

        Raises:
            ValueError, FileNotFoundError, TypeError, ImportError: as `__call__`, of what cannot be read.
        """
        items = as_items(ecg)
        names = ["ecg"] if len(items) == 1 else [f"ecg[{i}]" for i in range(len(items))]
        return [read_item(item, name, sampling_rate, leads, unit) for item, name in zip(items, names)]

    def _extract(self, recording: Recording, check: bool, strict: bool) -> tuple[np.ndarray, list[str]]:
        """One recording -> float32 (leads, samples) in mV and the list of alterations."""
        notes = list(recording.notes)
        rate = check_timing(recording.sampling_rate, recording.signal.shape[1], recording.name)
        signals = select_leads(recording, self.leads, notes)
        # A lead is judged dead by the part that the encoder will see.
        window = max(1, round(self.duration * rate))
        recorded = {lead: row[:window] for lead, row in signals.items()}
        self._settle_leads(recording, signals, window, notes)
        signal = np.stack([signals[lead] for lead in self.leads])
        doubts = check_amplitude(recording.name, signal, window, notes)
        self._fill_gaps(signal, notes)
        values = self._fit_length(signal, rate, notes)
        if check:
            length = min(values.shape[1], round(signal.shape[1] * self.sampling_rate / rate))
            contradictions = find_contradictions(recorded)
            doubts += contradictions
            doubts += find_doubts(values[:, :length], self.leads, self.sampling_rate, electrodes=not contradictions)
        if strict and doubts:
            raise ValueError(f"{recording.name}: {'; '.join(doubts)}.")
        return values.astype(np.float32), notes + doubts

    def _settle_leads(self, recording: Recording, signals: dict, window: int, notes: list[str]) -> None:
        """Derive missing limb leads, zero wholly missing precordial ones and refuse what is too incomplete."""
        name = recording.name
        if absent := [lead for lead in self.leads if lead not in signals and lead not in LIMB_LEADS]:
            raise ValueError(
                f"{name}: lead {', '.join(absent)} is missing and cannot be derived from other leads; found "
                f"{', '.join(shown_leads(recording.leads or []))}; required {', '.join(self.leads)} (limb leads: any two)."
            )
        for lead, values in signals.items():
            missing = np.count_nonzero(~np.isfinite(values[:window]))
            if missing > values[:window].size / 2:
                # more would be invented than was recorded
                signals[lead] = np.full_like(values, np.nan)
        spans = {lead: value_range(values[:window]) for lead, values in signals.items()}
        empty = [lead for lead, span in spans.items() if span is None]
        constant = [lead for lead, span in spans.items() if span == 0]
        if any((span or 0) > SMALL_MV for span in spans.values()):  # else the unit is in doubt
            constant = [lead for lead, span in spans.items() if span is not None and span <= SMALL_MV]
        dead = [lead for lead in self.leads if lead in empty or lead in constant]
        if signals and len(empty) == len(signals):
            raise ValueError(f"{name}: no finite sample in the first {self.duration:g} s.")
        if len(dead) > self.max_dead_leads:
            found = (
                f"in the first {self.duration:g} s {len(dead)} leads are constant or not recorded ({', '.join(dead)})"
            )
            raise ValueError(f"{name}: {found}; at most {self.max_dead_leads} are accepted.")
        live = [lead for lead in LIMB_LEADS if lead in signals and lead not in empty]
        sources = sorted(live, key=lambda lead: lead in constant)[:2]  # a dead lead only if nothing else is there
        for lead in [lead for lead in self.leads if lead in LIMB_LEADS and lead not in live and len(sources) == 2]:
            signals[lead] = derive_limb_lead(lead, sources, signals)
            notes.append(f"lead {lead} derived from {sources[0]} and {sources[1]}")
        if lacking := [lead for lead in self.leads if lead not in signals]:
            found = f"lead {', '.join(lacking)} is missing and the limb leads recorded are {', '.join(live) or 'none'}"
            raise ValueError(f"{name}: {found}; deriving it takes two of {', '.join(LIMB_LEADS)}.")
        for lead in dead:
            if lead in constant:
                notes.append(f"lead {lead} is {'constant' if spans[lead] == 0 else 'practically zero'}")
            elif lead not in LIMB_LEADS or len(sources) < 2:
                signals[lead] = np.zeros_like(signals[lead])
                notes.append(f"lead {lead} not recorded, set to zero")

    def _fill_gaps(self, signal: np.ndarray, notes: list[str]) -> None:
        """Apply `nan_policy` to (leads, samples), in place."""
        missing = np.isnan(signal)
        for row in np.flatnonzero(missing.any(axis=1)):
            gaps, lead = missing[row], self.leads[row]
            samples = f"{gaps.sum()} missing sample{'s' if gaps.sum() > 1 else ''}"
            if self.nan_policy == "zero" or gaps.all():  # all: derived from two leads with no sample in common
                signal[row] = 0  # what remains of the lead after the authors' resampling
                notes.append(f"lead {lead} set to zero because of {samples}")
            else:
                signal[row, gaps] = np.interp(np.flatnonzero(gaps), np.flatnonzero(~gaps), signal[row, ~gaps])
                notes.append(f"{samples} in {lead} interpolated")

    def _fit_length(self, signal: np.ndarray, rate: float, notes: list[str]) -> np.ndarray:
        """Resample (leads, samples) to the output rate, then cut or pad it to the output length."""
        seconds = signal.shape[1] / rate
        if rate != self.sampling_rate:
            from scipy.signal import resample

            signal = resample(signal, round(signal.shape[1] * self.sampling_rate / rate), axis=1)
            notes.append(f"resampled from {rate:g} Hz to {self.sampling_rate:g} Hz")
        length = round(self.duration * self.sampling_rate)
        if signal.shape[1] > length:
            notes.append(f"only the first {self.duration:g} s of {seconds:.4g} s used")
        elif signal.shape[1] < length:
            notes.append(f"recording lasts {seconds:.4g} s, padded with zeros to {self.duration:g} s")
            signal = np.pad(signal, ((0, 0), (0, length - signal.shape[1])))
        return signal[:, :length]


def select_leads(recording: Recording, wanted: list[str], notes: list[str]) -> dict[str, np.ndarray]:
    """Wanted leads and all limb leads, in float64 mV, infinities turned to NaN; the others are noted."""
    names, units = recording.leads or [], recording.units or []
    factors: dict[str, float] = {}
    rows, ignored = [], []
    for row, (lead_name, unit) in enumerate(zip(names, units, strict=True)):
        lead = canonical_lead(lead_name)
        if lead is None or (lead not in wanted and lead not in LIMB_LEADS):
            ignored.append(shown_leads(names)[row])
            continue
        if lead in factors:
            raise ValueError(f"{recording.name}: lead {lead} occurs twice in {', '.join(shown_leads(names))}.")
        factor = millivolts(unit)
        if factor is None:
            raise ValueError(f"{recording.name}: the unit of lead {lead} is not one of V, mV, uV (µV), nV.")
        factors[lead] = factor
        rows.append(row)
    if ignored:
        notes.append(f"ignored leads {', '.join(ignored)}")
    signal = recording.signal[rows].astype(np.float64, order="C")
    signal *= np.array(list(factors.values()))[:, None]
    signal[~np.isfinite(signal)] = np.nan
    return dict(zip(factors, signal))


def value_range(values: np.ndarray) -> float | None:
    """Peak-to-peak of the finite values, None if there are none."""
    low, high = values.min(), values.max()
    if not math.isfinite(high - low):
        values = values[np.isfinite(values)]
        low, high = (values.min(), values.max()) if values.size else (None, None)
    return None if low is None else float(high - low)


def check_amplitude(name: str, signal: np.ndarray, window: int, notes: list[str]) -> list[str]:
    """Refuse impossible amplitudes anywhere; note large ones in the part that is used, and doubt small ones."""
    highest = np.nanmax(np.abs(signal))
    if highest > IMPOSSIBLE_MV:
        raise ValueError(f"{name}: amplitude {highest:.4g} mV exceeds {IMPOSSIBLE_MV} mV; is the unit wrong?")
    peak = np.nanmax(np.abs(signal[:, :window]))
    if peak > LARGE_MV:
        notes.append(f"peak amplitude {peak:.1f} mV exceeds {LARGE_MV} mV")
    if all((value_range(values) or 0) <= SMALL_MV for values in signal[:, :window]):
        return [f"no lead varies by more than {SMALL_MV} mV, suspiciously small: is the unit right?"]
    return []


def as_items(ecg: Any) -> list:
    """The recordings in `ecg`: itself, the elements of a list, or those of a 3-D array."""
    if depth(ecg) == 3 or (isinstance(ecg, (list, tuple)) and depth(ecg) != 2):
        if len(ecg) == 0:
            raise ValueError("ecg: the list is empty; at least one recording is required.")
        return list(ecg)
    return [ecg]


def _check_number(key: str, value: Any, low: float, high: float, unit: str) -> None:
    is_number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if not (is_number and low <= value <= high):
        raise ValueError(f"{key} must be a number between {low} and {high} {unit}; got {value!r}")


__all__ = [
    "LEADS_BY_KEY",
    "LIMB_LEADS",
    "STANDARD_LEADS",
    "MedTVTEcgFeatureExtractor",
    "canonical_lead",
    "read_item",
    "read_path",
    "select_leads",
]
