# SPDX-License-Identifier: Apache-2.0
"""An ECG recording as its file holds it."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .leads_ecg_medtvt import canonical_lead, millivolts, shown_leads
from .patient_medtvt import MAX_AGE, Patient


MIN_SAMPLING_RATE, MAX_SAMPLING_RATE = 50, 10_000  # Hz
MIN_SECONDS, MAX_SECONDS = 2.5, 3600
# Signals times samples: an hour of twelve leads at 500 Hz has 21.6 million.
MAX_VALUES = 25_000_000


def known_patient(age: Any = None, sex: Any = None) -> Patient:
    """Age and sex as a header writes them; None for what is missing, coded or impossible (PTB-XL's 300, "U")."""
    try:
        years = float(age)
    except (TypeError, ValueError, OverflowError):
        years = math.nan
    letter = str(sex or "").strip().upper()
    return {
        "age": years if 0 <= years <= MAX_AGE else None,
        "sex": "F" if letter in ("F", "FEMALE") else "M" if letter in ("M", "MALE") else None,
    }


@dataclass
class Recording:
    """
    What an item says about itself; nothing has been checked against the model's needs or converted yet.

    Attributes:
        name (`str`): For error messages.
        signal (`np.ndarray`): (leads, samples), in `units`; NaN where the file marks a sample as missing.
        sampling_rate (`float`, *optional*): In Hz; None where the file does not declare it.
        leads (`list[str]`, *optional*): Names as the file has them; None where it has none.
        units (`list[str]`, *optional*): One a lead; None where the file does not declare any.
        notes (`list[str]`): What was chosen, left out or in doubt when the file was read, in words.
        patient ([`Patient`]): Age and sex where the file declares them.
    """

    name: str
    signal: np.ndarray
    sampling_rate: Any
    leads: list[str] | None
    units: list[str] | None
    notes: list[str] = field(default_factory=list)
    patient: Patient = field(default_factory=known_patient)


def complete(recording: Recording, sampling_rate: Any, leads: Any, unit: Any) -> Recording:
    """
    Fill in from the caller what the file does not declare. What both say has to be the same.

    Raises:
        ValueError: if something is said by neither, or differently by both, or does not fit the signal's shape.
    """
    given = {"sampling_rate": sampling_rate, "leads": leads, "unit": unit}
    declared = {"sampling_rate": recording.sampling_rate, "leads": recording.leads, "unit": recording.units}
    words = {"leads": "lead names", "unit": "unit", "sampling_rate": "rate"}
    missing = [key for key in words if declared[key] is None and given[key] is None]
    if missing:
        found, wanted = ", ".join(words[key] for key in missing), ", ".join(f"{key}=" for key in missing)
        raise ValueError(f"{recording.name}: the file has no header with {found}; pass {wanted}.")
    _check_agreement(recording, given)
    if recording.leads is None:
        recording.leads = lead_names(leads, recording.name)
    recording.signal = _lead_axis_first(recording.signal, len(recording.leads), recording.name)
    if recording.sampling_rate is None:
        recording.sampling_rate = sampling_rate
    if recording.units is None:
        recording.units = units_per_lead(unit, len(recording.leads), recording.name)
    return recording


def _check_agreement(recording: Recording, given: dict[str, Any]) -> None:
    """A caller who contradicts the file is mistaken about one of them; neither is taken silently."""
    if recording.sampling_rate is not None and given["sampling_rate"] is not None:
        if not _close(recording.sampling_rate, given["sampling_rate"]):
            found = f"the file declares {float(recording.sampling_rate):g} Hz"
            raise ValueError(f"{recording.name}: {found}, sampling_rate= says {given['sampling_rate']!r}.")
    if recording.leads is not None and given["leads"] is not None:
        names = lead_names(given["leads"], recording.name)
        if [canonical_lead(lead) or lead for lead in names] != [
            canonical_lead(lead) or lead for lead in recording.leads
        ]:
            found = ", ".join(shown_leads(recording.leads))
            raise ValueError(f"{recording.name}: the file names its leads {found}; leads= says otherwise.")
    if recording.units is not None and recording.leads is not None and given["unit"] is not None:
        units = units_per_lead(given["unit"], len(recording.leads), recording.name)
        for lead, declared, stated in zip(recording.leads, recording.units, units):
            if canonical_lead(lead) and millivolts(declared) != millivolts(stated):
                raise ValueError(
                    f"{recording.name}: the unit of lead {canonical_lead(lead)} that the file declares is not that of unit=."
                )


def _close(declared: Any, given: Any) -> bool:
    try:
        return math.isclose(float(declared), float(given), rel_tol=1e-3)  # headers round: 256.41 for 256.4103
    except (TypeError, ValueError, OverflowError):
        return False


def lead_names(leads: Any, name: str) -> list[str]:
    """Check a caller's `leads`."""
    if isinstance(leads, str) or not hasattr(leads, "__len__"):
        raise ValueError(f"{name}: leads must be a list of lead names; got {leads!r}.")
    return [str(lead) for lead in leads]


def units_per_lead(unit: Any, n_leads: int, name: str) -> list[str]:
    """A caller's `unit`, one for all leads or one a lead, as a list."""
    units = [unit] * n_leads if isinstance(unit, str) or not hasattr(unit, "__len__") else list(unit)
    if len(units) != n_leads:
        raise ValueError(f"{name}: {len(units)} units for {n_leads} leads; give one for all or one per lead.")
    return [str(one) for one in units]


def _lead_axis_first(signal: np.ndarray, n_leads: int, name: str) -> np.ndarray:
    """The axis as long as there are leads is the lead axis."""
    if signal.ndim != 2 or n_leads not in signal.shape:
        shapes = f"({n_leads}, samples) or (samples, {n_leads})"
        raise ValueError(f"{name}: shape {signal.shape} with {n_leads} lead names; accepted is {shapes}.")
    return signal if signal.shape[0] == n_leads else signal.T


def check_size(n_signals: int, n_samples: int, name: str) -> None:
    """Refuse, before memory is taken, a recording that is longer than any that is read."""
    if n_signals * n_samples > MAX_VALUES:
        raise ValueError(
            f"{name}: {n_signals} signals of {n_samples} samples are {n_signals * n_samples} values; at most "
            f"{MAX_VALUES} are read. Cut the recording first: the model sees its first seconds only."
        )


def check_timing(sampling_rate: Any, n_samples: int, name: str) -> float:
    """Sampling rate as a float, after refusing absurd rates and durations."""
    try:
        rate = float(sampling_rate)
    except (TypeError, ValueError, OverflowError):
        rate = math.nan
    if not MIN_SAMPLING_RATE <= rate <= MAX_SAMPLING_RATE:
        limits = f"{MIN_SAMPLING_RATE} and {MAX_SAMPLING_RATE} Hz"
        raise ValueError(f"{name}: sampling rate {sampling_rate!r} is not a number between {limits}.")
    if not MIN_SECONDS <= n_samples / rate <= MAX_SECONDS:
        found = f"{n_samples} samples at {rate:g} Hz last {n_samples / rate:.3g} s"
        raise ValueError(f"{name}: {found}; accepted are {MIN_SECONDS} to {MAX_SECONDS} s.")
    return rate


def read_array(signal: Any, name: str, sampling_rate: Any, leads: Any, unit: Any) -> Recording:
    """Array with stated metadata; masked samples are missing samples."""
    if hasattr(signal, "detach"):
        signal = signal.detach().cpu().double()
    if type(signal).__name__ == "DataFrame":
        signal = _numbers_of_frame(signal)
    masked = isinstance(signal, np.ma.MaskedArray) or (
        isinstance(signal, (list, tuple)) and any(isinstance(row, np.ma.MaskedArray) for row in signal)
    )
    try:
        signal = np.ma.stack(list(signal)) if masked else np.asarray(signal)
    except ValueError as err:
        raise ValueError(f"{name}: the nested list is not a rectangular array.") from err
    if signal.dtype.kind not in "iuf":
        raise ValueError(f"{name}: the array must hold real numbers; got dtype {signal.dtype}.")
    if masked:
        signal = np.ma.filled(signal.astype(np.float64), np.nan)
    recording = Recording(name, signal, None, None, None)
    if signal.ndim == 2:
        check_size(signal.shape[0], signal.shape[1], name)
    return complete(recording, sampling_rate, leads, unit)


def _numbers_of_frame(frame: Any) -> Any:
    """A DataFrame's values; pandas' own missing values (`pd.NA`) as NaN."""
    kinds = {getattr(kind, "kind", "O") for kind in frame.dtypes}
    return frame.to_numpy(dtype=np.float64, na_value=np.nan) if kinds <= set("iuf") else frame.to_numpy()


__all__ = ["MAX_VALUES", "Recording", "check_size", "check_timing", "complete", "known_patient", "read_array"]
