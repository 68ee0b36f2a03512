# SPDX-License-Identifier: Apache-2.0
"""ECG feature extractor of MedTVT-R1: any 12-lead recording becomes raw millivolts in the encoder's lead order."""

import math
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from transformers.feature_extraction_utils import BatchFeature, FeatureExtractionMixin
from transformers.utils import TensorType

from .shown_name_medtvt import shown_name


# Share of leads I and II in every limb lead (Einthoven's triangle, Goldberger's augmented leads).
LIMB_LEADS = {
    "I": (1.0, 0.0),
    "II": (0.0, 1.0),
    "III": (-1.0, 1.0),
    "aVR": (-0.5, -0.5),
    "aVF": (-0.5, 1.0),
    "aVL": (1.0, -0.5),
}
# The order of MIMIC-IV-ECG, on which the encoder was trained: aVF comes before aVL.
STANDARD_LEADS = (*LIMB_LEADS, "V1", "V2", "V3", "V4", "V5", "V6")
LEADS_BY_KEY = {lead.upper(): lead for lead in STANDARD_LEADS}

MILLIVOLTS = {"v": 1e3, "mv": 1.0, "\u03bcv": 1e-3, "uv": 1e-3, "nv": 1e-6}  # casefold() turns the micro sign into mu
MILLIVOLTS.update({"volt": 1e3, "millivolt": 1.0, "microvolt": 1e-3, "nanovolt": 1e-6})

MIN_SAMPLING_RATE, MAX_SAMPLING_RATE = 50, 10_000  # Hz
MIN_SECONDS, MAX_SECONDS = 2.5, 3600
IMPOSSIBLE_MV, LARGE_MV, SMALL_MV = 100, 10, 0.01

MAX_HEADER_BYTES = 1_000_000
MAX_SIGNALS = 64
# Formats of fixed size; the compressed ones (508, 516, 524) cannot be checked before they are unpacked.
BYTES_PER_SAMPLE = {8: 1, 16: 2, 24: 3, 32: 4, 61: 2, 80: 1, 160: 2, 212: 1.5, 310: 4 / 3, 311: 4 / 3}
# Both patterns are stricter than wfdb's: what passes here, wfdb cannot read as other numbers.
RECORD_LINE = re.compile(
    r"(?P<record>\S+)\s+(?P<n_signals>\d{1,9})\s+(?P<rate>\d+\.?\d*)(/-?\d+\.?\d*(\(-?\d+\.?\d*\))?)?"
    r"\s+(?P<n_samples>\d{1,18})(\s.*)?"
)
SIGNAL_LINE = re.compile(
    r"(?P<file>\S+)\s+(?P<format>\d{1,9})(x(?P<per_frame>[1-9]\d?))?(?P<skew>:\d{1,4})?(\+(?P<offset>\d{1,9}))?"
    r"\s+(?P<gain>-?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?)(\((?P<baseline>-?\d+)\))?(/(?P<unit>\S+))?(\s+(?P<rest>.*))?"
)
# of a signal line that leaves nothing to defaults: resolution, zero, first value, checksum, block size, name
DESCRIPTION = re.compile(r"-?\d+\s+(?P<zero>-?\d+)(\s+-?\d+){3}\s+(?P<lead>\S.*)")
MISSING_16 = -32768


class Recording(NamedTuple):
    """What an item says about itself; nothing has been checked or converted yet."""

    name: str  # for error messages
    signal: np.ndarray  # (leads, samples)
    sampling_rate: Any
    leads: list[str]
    units: list[str]  # one per lead


class MedTVTEcgFeatureExtractor(FeatureExtractionMixin):
    r"""
    Turns ECG recordings into the input of the MedTVT-R1 ECG encoder: leads chosen by name, mV, resampled with
    `scipy.signal.resample` over the whole record, first `duration` seconds, no filter and no normalisation. This is
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
            A recording with more constant or wholly missing leads than this is refused.
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
        names = [canonical_lead(lead) for lead in leads]
        if not names or len(set(names)) < len(names) or not set(names) <= set(STANDARD_LEADS):
            raise ValueError(f"leads must be distinct names out of {', '.join(STANDARD_LEADS)}; got {list(leads)}")
        if not (sampling_rate > 0 and duration > 0):
            raise ValueError(f"sampling_rate and duration must be positive; got {sampling_rate} and {duration}")
        if nan_policy not in ("interpolate", "zero"):
            raise ValueError(f'nan_policy must be "interpolate" or "zero"; got {nan_policy!r}')
        self.leads = names
        self.sampling_rate = sampling_rate
        self.duration = duration
        self.nan_policy = nan_policy
        self.max_dead_leads = max_dead_leads

    def __call__(
        self,
        ecg: Any,
        sampling_rate: float | None = None,
        leads: list[str] | None = None,
        unit: str | list[str] | None = None,
        return_tensors: str | TensorType | None = None,
        return_alterations: bool = False,
    ) -> BatchFeature:
        r"""
        Args:
            ecg:
                One recording or a list of recordings, each of them

                - the path of a WFDB record, with or without its extension (`.hea`, `.dat`, WFDB's `.mat`);
                - a `wfdb.Record`;
                - a 2-D array, tensor or nested list, (leads, samples) or (samples, leads), described by the next
                  three arguments (a 3-D array is a batch of them);
                - a dict with the keys `signal` (such an array), `sampling_rate`, `leads` and `unit`.
            sampling_rate (`float`, *optional*):
                Sampling rate in Hz of every array in `ecg`. Only with arrays, then required, as the next two.
            leads (`list[str]`, *optional*):
                Lead names in the order of the arrays.
            unit (`str` or `list[str]`, *optional*):
                V, mV, uV or nV; one for all leads or one per lead.
            return_tensors (`str` or [`~utils.TensorType`], *optional*):
                `"pt"` or `"np"`; a numpy array if not given.
            return_alterations (`bool`, *optional*, defaults to `False`):
                Also return `alterations`: for every recording, the list of what was changed or looked odd.

        Returns:
            [`BatchFeature`] with `ecg_values`: float32, (batch, leads, sampling_rate * duration), in mV.

        Raises:
            `ValueError`: a recording is unreadable, incomplete or implausible. `FileNotFoundError`: a file is missing.
            `TypeError`: `ecg` is none of the above. `ImportError`: a path's format takes wfdb, which is missing.
        """
        items = as_items(ecg)
        values, alterations = [], []
        for i, item in enumerate(items):
            name = "ecg" if len(items) == 1 else f"ecg[{i}]"
            item_values, item_alterations = self._extract(read_item(item, name, sampling_rate, leads, unit))
            values.append(item_values)
            alterations.append([f"ecg: {text}" for text in item_alterations])
        features = BatchFeature({"ecg_values": np.stack(values)}, tensor_type=return_tensors)
        if return_alterations:
            features["alterations"] = alterations
        return features

    def _extract(self, recording: Recording) -> tuple[np.ndarray, list[str]]:
        """One recording -> float32 (leads, samples) in mV and the list of alterations."""
        notes: list[str] = []
        rate = check_timing(recording.sampling_rate, recording.signal.shape[1], recording.name)
        signals = select_leads(recording, self.leads, notes)
        # A lead is judged dead by the part that the encoder will see.
        window = max(1, round(self.duration * rate))
        self._settle_leads(recording, signals, window, notes)
        signal = np.stack([signals[lead] for lead in self.leads])
        check_amplitude(recording.name, signal, window, notes)
        self._fill_gaps(signal, notes)
        return self._fit_length(signal, rate, notes).astype(np.float32), notes

    def _settle_leads(self, recording: Recording, signals: dict, window: int, notes: list[str]) -> None:
        """Derive missing limb leads, zero wholly missing precordial ones and refuse what is too incomplete."""
        name = recording.name
        if absent := [lead for lead in self.leads if lead not in signals and lead not in LIMB_LEADS]:
            raise ValueError(
                f"{name}: lead {', '.join(absent)} is missing and cannot be derived from other leads; found "
                f"{', '.join(shown_leads(recording.leads))}; required {', '.join(self.leads)} (limb leads: any two)."
            )
        for lead, values in signals.items():
            missing = np.count_nonzero(~np.isfinite(values[:window]))
            if missing > values[:window].size / 2:
                # more would be invented than was recorded
                signals[lead] = np.full_like(values, np.nan)
        spans = {lead: value_range(values[:window]) for lead, values in signals.items()}
        empty = [lead for lead, span in spans.items() if span is None]
        constant = [lead for lead, span in spans.items() if span == 0]
        dead = [lead for lead in self.leads if lead in empty or lead in constant]
        if signals and len(empty) == len(signals):
            raise ValueError(f"{name}: no finite sample in the first {self.duration:g} s.")
        if len(dead) > self.max_dead_leads:
            found = f"{len(dead)} leads are constant or not recorded ({', '.join(dead)})"
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
                notes.append(f"lead {lead} is constant")
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

            signal = resample(signal, int(signal.shape[1] * self.sampling_rate / rate), axis=1)
            notes.append(f"resampled from {rate:g} Hz to {self.sampling_rate:g} Hz")
        length = round(self.duration * self.sampling_rate)
        if signal.shape[1] > length:
            notes.append(f"only the first {self.duration:g} s of {seconds:.4g} s used")
        elif signal.shape[1] < length:
            notes.append(f"recording lasts {seconds:.4g} s, padded with zeros to {self.duration:g} s")
            signal = np.pad(signal, ((0, 0), (0, length - signal.shape[1])))
        return signal[:, :length]


def canonical_lead(name: str) -> str | None:
    """Standard name of a lead ("AVR", "Lead avR", "MDC_ECG_LEAD_aVR" -> "aVR"), None for any other signal."""
    # A minus sign at the start of a word stays, so that an inverted lead ("-aVR") is not taken for the lead.
    key = re.sub(r"(?<=[^\s_])-|[\s_]", "", str(name).strip()).upper()
    return LEADS_BY_KEY.get(re.sub(r"^(MDCECGLEAD|LEAD)", "", key))


def shown_leads(names: list) -> list[str]:
    """
    Names as messages show them. In a file they are free text, which may name a person: what is neither a standard lead
    nor as short as one ("vx", "-aVR", "V3R") goes by its number.
    """
    return [
        str(name).strip()
        if canonical_lead(name) or re.fullmatch(r"-?[A-Za-z]{1,3}\d{0,2}[Rr]?", str(name).strip())
        else f"signal {number}"
        for number, name in enumerate(names, start=1)
    ]


def select_leads(recording: Recording, wanted: list[str], notes: list[str]) -> dict[str, np.ndarray]:
    """Wanted leads and all limb leads, in float64 mV, infinities turned to NaN; the others are noted."""
    factors: dict[str, float] = {}
    rows, ignored = [], []
    for row, (lead_name, unit) in enumerate(zip(recording.leads, recording.units, strict=True)):
        lead = canonical_lead(lead_name)
        if lead not in wanted and lead not in LIMB_LEADS:
            ignored.append(shown_leads(recording.leads)[row])
            continue
        if lead in factors:
            raise ValueError(
                f"{recording.name}: lead {lead} occurs twice in {', '.join(shown_leads(recording.leads))}."
            )
        factor = MILLIVOLTS.get(re.sub(r"(?<=volt)s$", "", str(unit).strip().casefold()))
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


def derive_limb_lead(lead: str, sources: list[str], signals: dict[str, np.ndarray]) -> np.ndarray:
    """The limb leads span a plane, so any one is a weighted sum of any two others."""
    weights = np.linalg.solve(np.array([LIMB_LEADS[source] for source in sources]).T, LIMB_LEADS[lead])
    return weights[0] * signals[sources[0]] + weights[1] * signals[sources[1]]


def value_range(values: np.ndarray) -> float | None:
    """Peak-to-peak of the finite values, None if there are none."""
    low, high = values.min(), values.max()
    if not math.isfinite(high - low):
        values = values[np.isfinite(values)]
        low, high = (values.min(), values.max()) if values.size else (None, None)
    return None if low is None else float(high - low)


def check_timing(sampling_rate: Any, n_samples: int, name: str) -> float:
    """Sampling rate as a float, after refusing absurd rates and durations."""
    try:
        rate = float(sampling_rate)
    except (TypeError, ValueError):
        rate = math.nan
    if not MIN_SAMPLING_RATE <= rate <= MAX_SAMPLING_RATE:
        limits = f"{MIN_SAMPLING_RATE} and {MAX_SAMPLING_RATE} Hz"
        raise ValueError(f"{name}: sampling rate {sampling_rate!r} is not a number between {limits}.")
    if not MIN_SECONDS <= n_samples / rate <= MAX_SECONDS:
        found = f"{n_samples} samples at {rate:g} Hz last {n_samples / rate:.3g} s"
        raise ValueError(f"{name}: {found}; accepted are {MIN_SECONDS} to {MAX_SECONDS} s.")
    return rate


def check_amplitude(name: str, signal: np.ndarray, window: int, notes: list[str]) -> None:
    """Refuse impossible amplitudes anywhere; note odd ones in the part that is used."""
    highest = np.nanmax(np.abs(signal))
    if highest > IMPOSSIBLE_MV:
        raise ValueError(f"{name}: amplitude {highest:.4g} mV exceeds {IMPOSSIBLE_MV} mV; is the unit wrong?")
    peak = np.nanmax(np.abs(signal[:, :window]))
    if peak > LARGE_MV:
        notes.append(f"peak amplitude {peak:.1f} mV exceeds {LARGE_MV} mV")
    if all((value_range(values) or 0) <= SMALL_MV for values in signal[:, :window]):
        notes.append(f"no lead varies by more than {SMALL_MV} mV, suspiciously small: is the unit right?")


def as_items(ecg: Any) -> list:
    """The recordings in `ecg`: itself, the elements of a list, or those of a 3-D array."""
    if depth(ecg) == 3 or (isinstance(ecg, (list, tuple)) and depth(ecg) != 2):
        if len(ecg) == 0:
            raise ValueError("ecg: the list is empty; at least one recording is required.")
        return list(ecg)
    return [ecg]


def depth(value: Any) -> int:
    """Number of dimensions of an array, a tensor or a nested list; 0 for anything else."""
    if isinstance(value, (list, tuple)):
        return 1 + depth(value[0]) if value else 1
    return getattr(value, "ndim", 0)


def read_item(item: Any, name: str, sampling_rate: Any, leads: Any, unit: Any) -> Recording:
    """Bring one item of any accepted kind into the form of a `Recording`."""
    metadata = {"sampling_rate": sampling_rate, "leads": leads, "unit": unit}
    if depth(item):
        missing = [key for key, value in metadata.items() if value is None]
        if missing:
            raise ValueError(f"{name}: an array needs sampling_rate=, leads= and unit=; missing {', '.join(missing)}.")
        return read_array(item, name, **metadata)

    is_record = all(hasattr(item, field) for field in ("p_signal", "d_signal", "sig_name", "units", "fs"))
    if not (is_record or isinstance(item, (str, os.PathLike, dict))):
        raise TypeError(
            f"{name}: got {type(item).__name__}; accepted are the path of a WFDB record, a wfdb.Record, a 2-D array "
            f"and a dict with signal, sampling_rate, leads and unit."
        )
    given = [key for key, value in metadata.items() if value is not None]
    if given:
        raise ValueError(f"{name}: {', '.join(given)} given, but a {type(item).__name__} item states its own.")
    if isinstance(item, dict):
        if set(item) != {"signal", *metadata}:
            raise ValueError(f"{name}: a dict needs exactly signal, {', '.join(metadata)}; got {', '.join(item)}.")
        return read_array(name=name, **item)
    return read_record(item, name) if is_record else read_path(item, name)


def read_array(signal: Any, name: str, sampling_rate: Any, leads: Any, unit: Any) -> Recording:
    """Array with stated metadata; the axis as long as `leads` is the lead axis."""
    if hasattr(signal, "detach"):
        signal = signal.detach().cpu().double()
    try:
        signal = np.asarray(signal)
    except ValueError as err:
        raise ValueError(f"{name}: the nested list is not a rectangular array.") from err
    if signal.dtype.kind not in "iuf":
        raise ValueError(f"{name}: the array must hold real numbers; got dtype {signal.dtype}.")
    if isinstance(leads, str) or not hasattr(leads, "__len__"):
        raise ValueError(f"{name}: leads must be a list of lead names; got {leads!r}.")
    if signal.ndim != 2 or len(leads) not in signal.shape:
        shapes = f"({len(leads)}, samples) or (samples, {len(leads)})"
        raise ValueError(f"{name}: shape {signal.shape} with {len(leads)} lead names; accepted is {shapes}.")
    units = [unit] * len(leads) if isinstance(unit, str) or not hasattr(unit, "__len__") else list(unit)
    if len(units) != len(leads):
        raise ValueError(f"{name}: {len(units)} units for {len(leads)} leads; give one for all or one per lead.")
    signal = signal if signal.shape[0] == len(leads) else signal.T
    return Recording(name, signal, sampling_rate, list(leads), units)


def read_record(record: Any, name: str) -> Recording:
    """`wfdb.Record` -> `Recording`."""
    signal = record.p_signal
    if signal is None and record.d_signal is not None:
        signal = record.dac()
    if signal is None or record.sig_name is None or record.units is None:
        needs = "p_signal or d_signal (wfdb.rdrecord with smooth_frames=True), sig_name and units"
        raise ValueError(f"{name}: the wfdb.Record must have {needs}.")
    return read_array(signal.T, name, record.fs, record.sig_name, record.units)


def read_path(path: str | os.PathLike, name: str) -> Recording:
    """Path of a WFDB record -> `Recording`, after its header was checked."""
    header = find_header(os.fsdecode(path), name)
    name = f"{name}: {shown_name(header)}"
    recording = read_format_16(header, name, *check_header(header, name))
    return read_record(read_wfdb(header, name), name) if recording is None else recording


def read_format_16(header: str, name: str, record: re.Match, signals: list[re.Match]) -> Recording | None:
    """
    A checked record whose signals are all 16-bit numbers in one file and fully described, as in MIMIC-IV-ECG, PTB-XL
    and Symile; None for any other. wfdb needs many times as long, for the header alone.
    """
    descriptions = [DESCRIPTION.fullmatch(signal["rest"] or "") for signal in signals]
    first = signals[0]
    for signal, description in zip(signals, descriptions):
        in_first_file = (signal["file"], signal["offset"]) == (first["file"], first["offset"])
        is_plain = signal["format"] == "16" and not signal["per_frame"] and not signal["skew"]
        if not (in_first_file and is_plain and description and re.fullmatch(r"[A-Za-z]+", signal["unit"] or "")):
            return None
    path = os.path.join(os.path.dirname(header), first["file"])
    shape = (int(record["n_samples"]), len(signals))
    digital = np.fromfile(path, "<i2", count=math.prod(shape), offset=int(first["offset"] or 0)).reshape(shape).T
    # where the header gives no baseline, it is the converter's zero
    baselines = [int(signal["baseline"] or found["zero"]) for signal, found in zip(signals, descriptions)]
    values = digital.astype(np.float64, order="C") - np.array(baselines, dtype=np.float64)[:, None]
    values /= np.array([float(signal["gain"]) for signal in signals])[:, None]
    values[digital == MISSING_16] = np.nan
    leads = [description["lead"] for description in descriptions]
    return Recording(name, values, record["rate"], leads, [signal["unit"] for signal in signals])


def read_wfdb(header: str, name: str) -> Any:
    """Checked header of a WFDB record, in any format -> `wfdb.Record`."""
    try:
        import wfdb
    except ImportError as err:
        raise ImportError(f"{name}: reading this record requires wfdb: `pip install wfdb`.") from err
    try:
        return wfdb.rdrecord(header.removesuffix(".hea"))
    except Exception as err:  # wfdb raises whatever the malformed part triggers
        raise ValueError(f"{name}: wfdb cannot read the record ({type(err).__name__}).") from err


def find_header(path: str, name: str) -> str:
    """Absolute path of the `.hea` file of the record that `path` names."""
    full_path = os.path.abspath(path)
    if "://" in path or "::" in full_path:  # wfdb would open these through fsspec
        raise ValueError(f"{name}: {path!r} is not a local path; download the record first.")
    stem, extension = os.path.splitext(full_path)  # of a bare record name with dots this is not an extension
    header = (stem if extension in (".hea", ".dat", ".mat") else full_path) + ".hea"
    if os.path.isfile(header):
        return header
    if extension in (".hea", ".dat") or not os.path.isfile(full_path):
        raise FileNotFoundError(f"{name}: there is no WFDB record {path!r} (header {shown_name(header)} not found).")
    reason = "DICOM, XML, EDF and other formats are not read"
    if extension == ".mat":
        reason = "a .mat without a .hea beside it (CPSC2018, CODE-15) has no header with lead names, unit and rate"
    raise ValueError(
        f"{name}: {path!r} is not a WFDB record (.hea with .dat or .mat): {reason}; "
        "pass its array with sampling_rate=, leads= and unit=."
    )


def check_header(header: str, name: str) -> tuple[re.Match, list[re.Match]]:
    """
    Refuse headers that are malformed, promise absurd amounts of data or point outside their own folder; return what
    `RECORD_LINE` and `SIGNAL_LINE` find in the others.
    """
    with open(header, "rb") as file:
        content = file.read(MAX_HEADER_BYTES + 1)
    if len(content) > MAX_HEADER_BYTES:
        raise ValueError(f"{name}: the header is larger than {MAX_HEADER_BYTES} bytes.")
    lines = [line.strip() for line in content.decode("ascii", errors="surrogateescape").splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    # wfdb drops such characters, which would turn µV into V.
    if not all(line.isascii() for line in lines):
        raise ValueError(f"{name}: the header has characters other than ASCII outside its comments (µV is uV here).")

    first_line = lines[0] if lines else ""
    record = RECORD_LINE.fullmatch(first_line)
    if record is None:
        raise ValueError(f"{name}: the header's first line is not 'name signals rate samples'.")
    if "/" in record["record"]:
        raise ValueError(f"{name}: multi-segment records are not opened; read it with wfdb and pass the wfdb.Record.")
    n_signals, n_samples = int(record["n_signals"]), int(record["n_samples"])
    if not 1 <= n_signals <= MAX_SIGNALS or n_signals != len(lines) - 1:
        found = f"announces {n_signals} signals and describes {len(lines) - 1}"
        raise ValueError(f"{name}: the header {found}; accepted are 1 to {MAX_SIGNALS}, all described.")
    check_timing(record["rate"], n_samples, name)
    return record, check_signal_files(header, name, lines[1:], n_samples)


def _stays_inside(path: str) -> bool:
    """
    Whether a file is in its own folder once links are resolved or, where the folder belongs to a Hub cache, in the cache
    of the same repository: there, names are links to the files proper.
    """
    folder, target = Path(os.path.realpath(os.path.dirname(path))), Path(os.path.realpath(path))
    if target.parent == folder:
        return True
    repositories = [parent for parent in folder.parents if parent.name == "snapshots" and "--" in parent.parent.name]
    return any(target.is_relative_to(parent.parent / "blobs") for parent in repositories)


def check_signal_files(header: str, name: str, lines: list[str], n_samples: int) -> list[re.Match]:
    """The files named by the header's signal lines must be its neighbours and hold all the promised bytes."""
    files: dict[str, list[re.Match]] = {}
    found = []
    for number, line in enumerate(lines, start=1):
        signal = SIGNAL_LINE.fullmatch(line)
        if signal is None:
            raise ValueError(f"{name}: the header's line of signal {number} is not 'file format gain/unit ... lead'.")
        if not re.fullmatch(r"[\w-][\w.-]*", signal["file"]) or ".." in signal["file"]:
            raise ValueError(f"{name}: the file of signal {number} is not a plain name in the header's folder.")
        if int(signal["format"]) not in BYTES_PER_SAMPLE:
            raise ValueError(f"{name}: signal format {signal['format']} is not one of {list(BYTES_PER_SAMPLE)}.")
        if float(signal["gain"]) == 0:
            raise ValueError(f"{name}: gain 0 (uncalibrated) in the header's line of signal {number}.")
        files.setdefault(signal["file"], []).append(signal)
        found.append(signal)

    for file_name, signals in files.items():
        path = os.path.join(os.path.dirname(header), file_name)
        if not os.path.isfile(path):
            raise FileNotFoundError(f"{name}: the signal file {file_name} is missing.")
        if not _stays_inside(path):
            raise ValueError(
                f"{name}: the signal file {file_name} is a link that leads outside its folder; copy the file there."
            )
        per_frame = sum(int(signal["per_frame"] or 1) for signal in signals)
        sample_bytes = BYTES_PER_SAMPLE[int(signals[0]["format"])]
        promised = int(signals[0]["offset"] or 0) + math.ceil(n_samples * per_frame * sample_bytes)
        size = os.path.getsize(path)
        if size < promised:
            raise ValueError(f"{name}: signal file {file_name} has {size} bytes, the header promises {promised}.")
    return found
