# SPDX-License-Identifier: Apache-2.0
"""One reader for an ECG of any accepted kind; files are recognized by their content."""

import os
from typing import Any

from .read_ecg_dicom_medtvt import is_bare_dicom, is_dicom, read_dicom_ecg
from .read_ecg_matlab_medtvt import is_matlab, read_matlab
from .read_ecg_table_medtvt import has_lead_columns, is_table, read_frame, read_table
from .read_ecg_vendor_medtvt import HEAD_BYTES, read_vendor, vendor_format
from .read_ecg_wfdb_medtvt import find_header, read_wfdb, read_wfdb_record, wfdb_files
from .recording_medtvt import Recording, complete, read_array
from .shown_name_medtvt import shown_name


ACCEPTED_FILES = (
    "WFDB, DICOM waveforms, GE MUSE, Philips, HL7 aECG and Mortara XML, SCP-ECG, EDF, ISHNE, MFER, CSV, .mat"
)


def depth(value: Any) -> int:
    """Number of dimensions of an array, a tensor or a nested list, counted up to 4; 0 for anything else."""
    found = 0
    while isinstance(value, (list, tuple)) and found < 4:
        found += 1
        if not value:
            return found
        value = value[0]
    return found + getattr(value, "ndim", 0)


def read_item(item: Any, name: str, sampling_rate: Any, leads: Any, unit: Any) -> Recording:
    """
    Bring one item of any accepted kind into the form of a [`Recording`].

    Raises:
        ValueError: if it cannot be read, or lacks or contradicts `sampling_rate`, `leads` or `unit`.
        TypeError: if it is of no accepted kind. FileNotFoundError, ImportError: as [`read_path`].
    """
    if isinstance(item, Recording):
        return item
    metadata = {"sampling_rate": sampling_rate, "leads": leads, "unit": unit}
    if type(item).__name__ == "DataFrame" and has_lead_columns(item):
        return complete(read_frame(item, name), sampling_rate, leads, unit)
    if depth(item):
        missing = [key for key, value in metadata.items() if value is None]
        if missing:
            raise ValueError(f"{name}: an array needs sampling_rate=, leads= and unit=; missing {', '.join(missing)}.")
        if depth(item) > 2:
            raise ValueError(f"{name}: an array of more than two dimensions; one recording has leads and samples.")
        return read_array(item, name, **metadata)

    is_record = all(hasattr(item, attribute) for attribute in ("p_signal", "d_signal", "sig_name", "units", "fs"))
    if not (is_record or isinstance(item, (str, os.PathLike, dict))):
        raise TypeError(
            f"{name}: got {type(item).__name__}; accepted are the path of a WFDB record or of another ECG file, a "
            "wfdb.Record, a 2-D array, a DataFrame and a dict with signal, sampling_rate, leads and unit."
        )
    if isinstance(item, (str, os.PathLike)):
        return read_path(item, name, sampling_rate, leads, unit)
    given = [key for key, value in metadata.items() if value is not None]
    if given:
        raise ValueError(f"{name}: {', '.join(given)} given, but a {type(item).__name__} item states its own.")
    if isinstance(item, dict):
        if set(item) != {"signal", *metadata}:
            got = ", ".join(map(str, item))
            raise ValueError(f"{name}: a dict needs exactly signal, {', '.join(metadata)}; got {got}.")
        return read_array(name=name, **item)
    return read_wfdb_record(item, name)


def read_path(
    path: str | os.PathLike[str], name: str, sampling_rate: Any = None, leads: Any = None, unit: Any = None
) -> Recording:
    """
    Read an ECG file. `sampling_rate`, `leads` and `unit` are for what the file does not declare.

    Raises:
        ValueError: if the file is of no known kind, damaged, too large, or says otherwise than the arguments.
        FileNotFoundError: if a file is missing. ImportError: if the library that decodes it is missing.
    """
    text = os.fsdecode(path)
    head = _head(text)
    shown = f"{name}: {shown_name(text)}"
    if head is not None and (kind := vendor_format(head, text)):
        recording = read_vendor(text, kind, shown)
    elif head is not None and is_dicom(head):
        recording = read_dicom_ecg(text, shown)
    elif head is None or _has_header(text, name):
        recording = read_wfdb(path, name, sampling_rate)
    elif is_bare_dicom(head):
        recording = read_dicom_ecg(text, shown)
    elif is_matlab(head):
        recording = read_matlab(text, shown)
    elif is_table(head):
        recording = read_table(text, shown)
    else:
        raise ValueError(f"{shown} is none of the ECG files that are read: {ACCEPTED_FILES}.")
    return complete(recording, sampling_rate, leads, unit)


def ecg_files(path: str | os.PathLike[str], name: str, sampling_rate: Any = None) -> list[str]:
    """All files of the recording that `path` names."""
    text = os.fsdecode(path)
    head = _head(text)
    foreign = head is not None and (vendor_format(head, text) or is_dicom(head) or not _has_header(text, name))
    return [os.path.abspath(text)] if foreign else wfdb_files(path, name, sampling_rate)


def _head(path: str) -> bytes | None:
    """The first bytes of a file; None where there is no such file, but maybe a record of that name."""
    if not os.path.isfile(path):
        return None
    with open(path, "rb") as file:
        return file.read(HEAD_BYTES)


def _has_header(path: str, name: str) -> bool:
    """Whether a file belongs to a WFDB record: it is its header, or has one beside it."""
    if os.path.splitext(path)[1].lower() in (".hea", ".dat"):
        return True
    try:
        find_header(path, name)
    except FileNotFoundError:
        return False
    return True


__all__ = ["ecg_files", "read_item", "read_path"]
