# SPDX-License-Identifier: Apache-2.0
"""WFDB records, PhysioNet's format: a header (.hea) and signal files (.dat, WFDB's .mat)."""

import math
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .patient_medtvt import Patient
from .recording_medtvt import Recording, check_size, check_timing, known_patient, read_array
from .shown_name_medtvt import shown_name


MAX_HEADER_BYTES = 1_000_000
MAX_SIGNALS = 64
# Formats of fixed size; the compressed ones (508, 516, 524) cannot be checked before they are unpacked.
BYTES_PER_SAMPLE = {8: 1, 16: 2, 24: 3, 32: 4, 61: 2, 80: 1, 160: 2, 212: 1.5, 310: 4 / 3, 311: 4 / 3}
# Both patterns are stricter than wfdb's: what passes here, wfdb cannot read as other numbers. Rate and length are free.
RECORD_LINE = re.compile(
    r"(?P<record>\S+)\s+(?P<n_signals>\d{1,9})"
    r"(\s+(?P<rate>\d+\.?\d*)(/-?\d+\.?\d*(\(-?\d+\.?\d*\))?)?(\s+(?P<n_samples>\d{1,18})(\s.*)?)?)?"
)
SIGNAL_LINE = re.compile(
    r"(?P<file>\S+)\s+(?P<format>\d{1,9})(x(?P<per_frame>[1-9]\d?))?(?P<skew>:\d{1,4})?(\+(?P<offset>\d{1,9}))?"
    r"\s+(?P<gain>-?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?)(\((?P<baseline>-?\d+)\))?(/(?P<unit>\S+))?(\s+(?P<rest>.*))?"
)
# of a signal line that leaves nothing to defaults: resolution, zero, first value, checksum, block size, name
DESCRIPTION = re.compile(r"-?\d+\s+(?P<zero>-?\d+)(\s+-?\d+){3}\s+(?P<lead>\S.*)")
MISSING_16 = -32768
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# "# Age: 78", "#Sex: Male", "# <age>: 69  <sex>: M"
COMMENTED = re.compile(r"<?\b(age|sex|gender)\b>?\s*[:=]\s*([^\s<]+)", re.IGNORECASE)


@dataclass
class Header:
    """A header that was checked."""

    path: str
    sampling_rate: float
    n_samples: int
    signals: list[re.Match[str]]
    files: dict[str, str]  # name in the header -> path
    patient: Patient
    lines: list[str]  # without comments
    is_plain: bool  # wfdb reads it as it is


def read_wfdb(path: str | os.PathLike[str], name: str, sampling_rate: Any = None) -> Recording:
    """
    A WFDB record, by its path with or without extension; `sampling_rate` where its header declares none.

    Raises:
        ValueError: if the header is malformed, promises absurd or missing data or points outside its folder.
        FileNotFoundError: if a file is missing. ImportError: if the signal's format takes wfdb, which is missing.
    """
    header = find_header(os.fsdecode(path), name)
    name = f"{name}: {shown_name(header)}"
    checked = check_header(header, name, sampling_rate)
    recording = _read_format_16(checked, name)
    if recording is None:
        recording = read_wfdb_record(_read_by_wfdb(checked, name), name)
    recording.patient = checked.patient
    return recording


def wfdb_files(path: str | os.PathLike[str], name: str, sampling_rate: Any = None) -> list[str]:
    """The header and the signal files of a record."""
    header = find_header(os.fsdecode(path), name)
    checked = check_header(header, f"{name}: {shown_name(header)}", sampling_rate)
    return [header, *sorted(checked.files.values())]


def read_wfdb_record(record: Any, name: str) -> Recording:
    """`wfdb.Record` -> `Recording`."""
    signal = record.p_signal
    if signal is None and record.d_signal is not None:
        signal = record.dac()
    if signal is None or record.sig_name is None or record.units is None:
        needs = "p_signal or d_signal (wfdb.rdrecord with smooth_frames=True), sig_name and units"
        raise ValueError(f"{name}: the wfdb.Record must have {needs}.")
    recording = read_array(signal.T, name, record.fs, record.sig_name, record.units)
    recording.patient = _patient_of([str(comment) for comment in getattr(record, "comments", None) or []])
    return recording


def _read_format_16(header: Header, name: str) -> Recording | None:
    """
    A checked record whose signals are all 16-bit numbers in one file and fully described, as in MIMIC-IV-ECG, PTB-XL
    and Symile; None for any other. wfdb needs many times as long, for the header alone.
    """
    descriptions = []
    first = header.signals[0]
    for signal in header.signals:
        description = DESCRIPTION.fullmatch(signal["rest"] or "")
        in_first_file = (signal["file"], signal["offset"]) == (first["file"], first["offset"])
        is_plain = signal["format"] == "16" and not signal["per_frame"] and not signal["skew"]
        if not (in_first_file and is_plain and description and re.fullmatch(r"[A-Za-z]+", signal["unit"] or "")):
            return None
        descriptions.append(description)
    shape = (header.n_samples, len(header.signals))
    path, offset = header.files[first["file"]], int(first["offset"] or 0)
    digital = np.fromfile(path, "<i2", count=math.prod(shape), offset=offset).reshape(shape).T
    # where the header gives no baseline, it is the converter's zero
    baselines = [int(signal["baseline"] or found["zero"]) for signal, found in zip(header.signals, descriptions)]
    values = digital.astype(np.float64, order="C") - np.array(baselines, dtype=np.float64)[:, None]
    values /= np.array([float(signal["gain"]) for signal in header.signals])[:, None]
    values[digital == MISSING_16] = np.nan
    leads = [description["lead"] for description in descriptions]
    return Recording(name, values, header.sampling_rate, leads, [signal["unit"] for signal in header.signals])


def _read_by_wfdb(header: Header, name: str) -> Any:
    """Checked record in any format -> `wfdb.Record`."""
    try:
        import wfdb
    except ImportError as err:
        raise ImportError(f"{name}: reading this record requires wfdb: `pip install wfdb`.") from err
    try:
        if header.is_plain:
            return wfdb.rdrecord(header.path.removesuffix(".hea"))
        with tempfile.TemporaryDirectory() as folder:
            for file, path in header.files.items():
                shutil.copyfile(path, os.path.join(folder, file))
            first = f"record {len(header.signals)} {header.sampling_rate:.12g} {header.n_samples}"
            Path(folder, "record.hea").write_text("\n".join([first, *header.lines[1:]]) + "\n", encoding="ascii")
            return wfdb.rdrecord(os.path.join(folder, "record"))
    except Exception as err:  # wfdb raises whatever the malformed part triggers
        raise ValueError(f"{name}: wfdb cannot read the record ({type(err).__name__}).") from err


def find_header(path: str, name: str) -> str:
    """Absolute path of the `.hea` file of the record that `path` names, whatever the case of its name."""
    full_path = os.path.abspath(path)
    if "://" in path or "::" in full_path:  # wfdb would open these through fsspec
        raise ValueError(f"{name}: {path!r} is not a local path; download the record first.")
    stem, extension = os.path.splitext(full_path)  # of a bare record name with dots this is not an extension
    header = (stem if extension.lower() in (".hea", ".dat", ".mat") else full_path) + ".hea"
    found = _find_file(os.path.dirname(header), os.path.basename(header))
    if found is None:
        raise FileNotFoundError(f"{name}: there is no WFDB record {path!r} (header {shown_name(header)} not found).")
    return found


def _find_file(folder: str, file: str) -> str | None:
    """The file of that name, or the only one that differs from it in case alone, as names do after DOS."""
    path = os.path.join(folder, file)
    if os.path.isfile(path):
        return path
    if not os.path.isdir(folder):
        return None
    alike = [entry.path for entry in os.scandir(folder) if entry.name.lower() == file.lower() and entry.is_file()]
    return alike[0] if len(alike) == 1 else None


def check_header(header: str, name: str, sampling_rate: Any = None) -> Header:
    """Refuse headers that are malformed, promise absurd amounts of data or point outside their own folder."""
    with open(header, "rb") as file:
        content = file.read(MAX_HEADER_BYTES + 1)
    if len(content) > MAX_HEADER_BYTES:
        raise ValueError(f"{name}: the header is larger than {MAX_HEADER_BYTES} bytes.")
    text = content.removeprefix(BYTE_ORDER_MARK).decode("ascii", errors="surrogateescape")
    every_line = [line.strip() for line in text.splitlines()]
    lines = [line for line in every_line if line and not line.startswith("#")]
    # wfdb drops such characters, which would turn µV into V.
    if not all(line.isascii() for line in lines):
        raise ValueError(f"{name}: the header has characters other than ASCII outside its comments (µV is uV here).")

    first_line = lines[0] if lines else ""
    record = RECORD_LINE.fullmatch(first_line)
    if record is None:
        raise ValueError(f"{name}: the header's first line is not 'name signals rate samples'.")
    if "/" in record["record"]:
        raise ValueError(f"{name}: multi-segment records are not opened; read it with wfdb and pass the wfdb.Record.")
    if record["rate"] is None and sampling_rate is None:
        raise ValueError(f"{name}: the header's first line declares no sampling rate; pass sampling_rate=.")
    n_signals = int(record["n_signals"])
    if not 1 <= n_signals <= MAX_SIGNALS or n_signals != len(lines) - 1:
        found = f"announces {n_signals} signals and describes {len(lines) - 1}"
        raise ValueError(f"{name}: the header {found}; accepted are 1 to {MAX_SIGNALS}, all described.")
    signals = _match_signals(lines[1:], name)
    files = _find_signal_files(header, name, signals)
    n_samples = int(record["n_samples"]) if record["n_samples"] else _samples_in(files, signals)
    rate = check_timing(sampling_rate if record["rate"] is None else record["rate"], n_samples, name)
    check_size(sum(int(signal["per_frame"] or 1) for signal in signals), n_samples, name)
    _check_signal_sizes(files, name, signals, n_samples)
    patient = _patient_of([line for line in every_line if line.startswith("#")])
    is_plain = (
        header.endswith(".hea")
        and not content.startswith(BYTE_ORDER_MARK)
        and all(os.path.basename(path) == file for file, path in files.items())
        and record["n_samples"] is not None
    )
    return Header(header, rate, n_samples, signals, files, patient, lines, is_plain)


def _match_signals(lines: list[str], name: str) -> list[re.Match[str]]:
    """What `SIGNAL_LINE` finds in each of the header's signal lines."""
    found = []
    for number, line in enumerate(lines, start=1):
        signal = SIGNAL_LINE.fullmatch(line)
        if signal is None:
            raise ValueError(f"{name}: the header's line of signal {number} is not 'file format gain/unit ... lead'.")
        if not re.fullmatch(r"[\w-][\w.-]*", signal["file"]) or ".." in signal["file"]:
            raise ValueError(f"{name}: the file of signal {number} is not a plain name in the header's folder.")
        if int(signal["format"]) not in BYTES_PER_SAMPLE:
            raise ValueError(f"{name}: signal format {signal['format']} is not one of {list(BYTES_PER_SAMPLE)}.")
        if not 0 < abs(float(signal["gain"])) < math.inf:
            raise ValueError(f"{name}: gain {signal['gain']} (uncalibrated) in the header's line of signal {number}.")
        found.append(signal)
    return found


def _find_signal_files(header: str, name: str, signals: list[re.Match[str]]) -> dict[str, str]:
    """Paths of the files named by the header's signal lines, which must be its neighbors."""
    files = {}
    for file in dict.fromkeys(signal["file"] for signal in signals):
        path = _find_file(os.path.dirname(header), file)
        if path is None:
            raise FileNotFoundError(f"{name}: the signal file {file} is missing.")
        if not _stays_inside(path):
            raise ValueError(
                f"{name}: the signal file {file} is a link that leads outside its folder; copy the file there."
            )
        files[file] = path
    return files


def _stays_inside(path: str) -> bool:
    """
    Whether a file is in its own folder once links are resolved or, where the folder belongs to a Hub cache or to a
    git-annex (DataLad), in the store of the same repository: there, names are links to the files proper.
    """
    folder, target = Path(os.path.realpath(os.path.dirname(path))), Path(os.path.realpath(path))
    if target.parent == folder:
        return True
    repositories = [parent for parent in folder.parents if parent.name == "snapshots" and "--" in parent.parent.name]
    stores = [parent.parent / "blobs" for parent in repositories]
    stores += [parent / ".git" / "annex" / "objects" for parent in (folder, *folder.parents)]
    return any(target.is_relative_to(store) for store in stores)


def _layout(file: str, signals: list[re.Match[str]]) -> tuple[int, float]:
    """Offset of a signal file's first sample, and bytes per sample of all its signals together."""
    inside = [signal for signal in signals if signal["file"] == file]
    per_frame = sum(int(signal["per_frame"] or 1) for signal in inside)
    return int(inside[0]["offset"] or 0), per_frame * BYTES_PER_SAMPLE[int(inside[0]["format"])]


def _samples_in(files: dict[str, str], signals: list[re.Match[str]]) -> int:
    """How many whole samples the files hold, where the header does not say."""
    lengths = []
    for file, path in files.items():
        offset, frame_bytes = _layout(file, signals)
        lengths.append(int((os.path.getsize(path) - offset) / frame_bytes))
    return max(0, min(lengths))


def _check_signal_sizes(files: dict[str, str], name: str, signals: list[re.Match[str]], n_samples: int) -> None:
    """The signal files must hold all the promised bytes."""
    for file, path in files.items():
        offset, frame_bytes = _layout(file, signals)
        promised = offset + math.ceil(n_samples * frame_bytes)
        size = os.path.getsize(path)
        if size < promised:
            raise ValueError(f"{name}: signal file {file} has {size} bytes, the header promises {promised}.")


def _patient_of(comments: list[str]) -> Patient:
    """Age and sex from a header's comments."""
    found = {key.lower(): value for comment in comments for key, value in COMMENTED.findall(comment)}
    return known_patient(found.get("age"), found.get("sex") or found.get("gender"))


__all__ = ["check_header", "find_header", "read_wfdb", "read_wfdb_record", "wfdb_files"]
