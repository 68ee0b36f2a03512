# SPDX-License-Identifier: Apache-2.0
"""The bare .mat files of public data sets (CODE-15, CPSC 2018): samples, but mostly no names, unit or rate."""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .recording_medtvt import MAX_VALUES, Recording, known_patient


MAX_BYTES = 8 * MAX_VALUES
COMPRESSED = 15
RATE_NAMES = ("fs", "sampling_rate", "samplingrate", "sample_rate", "samplerate", "sfreq")


def is_matlab(head: bytes) -> bool:
    """Whether a file's first bytes are those of a MATLAB file: a text header, or version 4 as WFDB writes it."""
    if head[:6] == b"MATLAB":
        return True
    if len(head) < 20:
        return False
    kind, rows, columns, imaginary, name_length = struct.unpack("<5i", head[:20])
    return kind in (0, 10, 20, 30, 40, 50) and rows > 0 and columns > 0 and imaginary == 0 and 1 < name_length < 64


def read_matlab(path: str, name: str) -> Recording:
    """
    The largest numeric matrix of a .mat file, also inside a struct. Rate, age and sex where the file holds them; lead
    names and unit it does not.

    Raises:
        ValueError: if the file is damaged, too large, of version 7.3 (HDF5), or holds no matrix.
    """
    content = Path(path).read_bytes() if Path(path).stat().st_size <= MAX_BYTES else None
    if content is None or _unpacked_size(content) > MAX_BYTES:
        raise ValueError(f"{name}: the .mat file has more than {MAX_BYTES} bytes; cut the recording first.")
    if b"MATLAB 7.3" in content[:128]:
        raise ValueError(f"{name}: MATLAB 7.3 (HDF5) files are not read; save it with MATLAB's option -v7.")
    from scipy.io import loadmat

    try:
        found = loadmat(path)
        values = list(_leaves({key: value for key, value in found.items() if not key.startswith("__")}))
    except Exception as err:  # scipy raises whatever the damage triggers
        raise ValueError(f"{name}: the .mat file is damaged ({type(err).__name__}).") from err
    matrices = [value for _, value in values if value.ndim == 2 and min(value.shape) > 1 and value.dtype.kind in "iuf"]
    if not matrices:
        raise ValueError(f"{name}: the .mat file holds no matrix of numbers with leads and samples.")
    scalars = {key.lower(): value.ravel()[0] for key, value in values if value.size == 1}
    rate = next((scalars[key] for key in RATE_NAMES if key in scalars), None)
    patient = known_patient(scalars.get("age"), scalars.get("sex", scalars.get("gender")))
    signal = max(matrices, key=lambda matrix: matrix.size)
    return Recording(
        name, signal, rate, None, None, ["MATLAB file: lead names and unit as given, not declared"], patient
    )


def _leaves(values: dict[str, Any], depth: int = 0) -> Iterator[tuple[str, np.ndarray]]:
    """Names and arrays of a file, those in structs too."""
    for key, value in values.items():
        if not isinstance(value, np.ndarray):
            continue
        if value.dtype.names and value.size == 1 and depth < 4:
            yield from _leaves({field: value.ravel()[0][field] for field in value.dtype.names}, depth + 1)
        elif value.dtype.names is None:
            yield key, value


def _unpacked_size(content: bytes) -> int:
    """Bytes of all elements of a MATLAB 5 file once they are unpacked; counted up to what is read."""
    if content[:6] != b"MATLAB":
        return len(content)
    order = ">" if content[126:128] == b"MI" else "<"
    position, total = 128, 0
    while position + 8 <= len(content) and total <= MAX_BYTES:
        kind, size = struct.unpack(f"{order}II", content[position : position + 8])
        element = content[position + 8 : position + 8 + size]
        if kind == COMPRESSED:
            try:
                total += len(zlib.decompressobj().decompress(element, MAX_BYTES + 1))
            except zlib.error:
                return total  # scipy says so
        else:
            total += size
        position += 8 + size
    return total


__all__ = ["is_matlab", "read_matlab"]
