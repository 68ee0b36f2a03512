# SPDX-License-Identifier: Apache-2.0
"""ECG waveforms in DICOM files (PS3.3 C.10.9)."""

import os
import re
import warnings
import zlib
from typing import Any

import numpy as np

from .leads_ecg_medtvt import canonical_lead, millivolts
from .recording_medtvt import Recording, check_size, known_patient


MAX_FILE_BYTES = 256_000_000
DEFLATED = "1.2.840.10008.1.2.1.99"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
# Waveform Sample Interpretation and Waveform Bits Allocated; mu-law and A-law (MB, AB) hold sound
SAMPLE_TYPES = {
    ("SS", 16): "i2",
    ("US", 16): "u2",
    ("SB", 8): "i1",
    ("UB", 8): "u1",
    ("SL", 32): "i4",
    ("UL", 32): "u4",
}
# The last part of a lead's code in MDC ("2:1") and SCPECG ("5.6.3-9-1")
LEAD_CODES = {1: "I", 2: "II", 3: "V1", 4: "V2", 5: "V3", 6: "V4", 7: "V5", 8: "V6", 61: "III", 62: "aVR"}
LEAD_CODES |= {63: "aVL", 64: "aVF"}
YEARS = {"Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}


def is_dicom(head: bytes) -> bool:
    """Whether a file's first bytes are those of DICOM."""
    return head[128:132] == b"DICM"


def is_bare_dicom(head: bytes) -> bool:
    """Whether they are those of DICOM without its preamble, as some archives write it; samples can look like this too."""
    return head[:4] in (b"\x02\x00\x00\x00", b"\x08\x00\x00\x00", b"\x08\x00\x05\x00")


def read_dicom_ecg(path: str, name: str) -> Recording:
    """
    The rhythm in a DICOM file, by the channels' own sensitivity, unit and baseline.

    Raises:
        ValueError: if the file is damaged or too large, holds no ECG waveform, or declares no unit for it.
        ImportError: if pydicom is not installed.
    """
    pydicom = _import_pydicom(name)
    if os.path.getsize(path) > MAX_FILE_BYTES:
        raise ValueError(f"{name}: the DICOM file is larger than {MAX_FILE_BYTES} bytes.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            _check_deflated(pydicom, path, name)
            dataset = pydicom.dcmread(path, force=True)
            syntax = str(getattr(dataset, "file_meta", {}).get("TransferSyntaxUID", ""))
            groups = list(dataset.get("WaveformSequence") or [])
            if not groups:
                modality = re.sub(r"[^A-Z]", "", str(dataset.get("Modality", "")))[:4]
                kind = f"of modality {modality} " if modality else ""
                raise ValueError(f"{name}: the DICOM file {kind}holds no waveform; an ECG is a DICOM waveform.")
            return _read_groups(groups, dataset, ">" if syntax == BIG_ENDIAN else "<", name)
        except Exception as err:  # pydicom raises whatever the damage triggers; its text quotes the file
            if str(err).startswith(f"{name}: "):  # a refusal in our own words
                raise ValueError(str(err)) from None
            raise ValueError(f"{name}: the DICOM file is damaged ({type(err).__name__}).") from err


def _import_pydicom(name: str) -> Any:
    # Inside `try`, or loading this file as remote code would demand pydicom of everyone.
    try:
        import pydicom
    except ImportError as err:
        raise ImportError(f'{name}: DICOM files need pydicom 3 or later: pip install "medtvt-r1[dicom]"') from err
    return pydicom


def _check_deflated(pydicom: Any, path: str, name: str) -> None:
    """pydicom unpacks a deflated data set as a whole; refuse one that would fill the memory."""
    with open(path, "rb") as file:
        if not is_dicom(file.read(132)):
            return
        meta = pydicom.filereader.read_file_meta_info(path)
        if str(meta.get("TransferSyntaxUID", "")) != DEFLATED:
            return
        file.seek(132 + 12 + int(meta.FileMetaInformationGroupLength))
        unpack, total = zlib.decompressobj(-zlib.MAX_WBITS), 0
        while block := file.read(65536):
            while block:
                total += len(unpack.decompress(block, 1_000_000))
                block = unpack.unconsumed_tail
                if total > MAX_FILE_BYTES:
                    raise ValueError(f"{name}: the deflated DICOM file unpacks to more than {MAX_FILE_BYTES} bytes.")


def _read_groups(groups: list[Any], dataset: Any, order: str, name: str) -> Recording:
    """The rhythm out of all multiplex groups: recorded rather than computed, with the most leads, the longest."""
    candidates = []
    for group in groups:
        leads = [_lead_name(channel, name) for channel in group.ChannelDefinitionSequence]
        known = {lead for lead in leads if canonical_lead(lead)}
        label = str(group.get("MultiplexGroupLabel") or "")
        computed = group.get("WaveformOriginality") == "DERIVED" or re.search(
            "MEDIAN|AVERAGE|TEMPLATE|REPRES", label, re.I
        )
        seconds = int(group.NumberOfWaveformSamples) / float(group.SamplingFrequency)
        candidates.append((bool(known), not computed, len(known), seconds, group, leads))
    has_leads, recorded, _, _, group, leads = max(candidates, key=lambda found: found[:4])
    if not has_leads:
        raise ValueError(f"{name}: the DICOM waveform has no ECG lead among its {len(leads)} channels.")
    signal, units, notes = _read_group(group, leads, order, name)
    rate = float(group.SamplingFrequency)
    shown = ", ".join(sorted({unit for lead, unit in zip(leads, units) if canonical_lead(lead)}))
    notes.insert(0, f"DICOM: {len(leads)} leads at {rate:g} Hz, scaled to {shown} as the file declares")
    if len(groups) > 1:
        notes.insert(1, f"the rhythm is used, out of {len(groups)} waveforms in the file")
    if not recorded:
        notes.insert(1, "the file holds no recorded rhythm, only a computed beat: intervals and rhythm mean nothing")
    patient = known_patient(_age(dataset), dataset.get("PatientSex"))
    return Recording(name, signal, rate, leads, units, notes, patient)


def _lead_name(channel: Any, name: str) -> str:
    """A channel's lead by its code; by the code's meaning or the channel's label where the code is no known one."""
    source = (channel.get("ChannelSourceSequence") or [{}])[0]
    scheme, value = str(source.get("CodingSchemeDesignator", "")), str(source.get("CodeValue", ""))
    number = re.search(r"(?:^2:|^5\.6\.3-9-)(\d{1,3})$", value)
    coded = LEAD_CODES.get(int(number[1])) if number and scheme in ("MDC", "SCPECG") else canonical_lead(value)
    labels = [str(source.get("CodeMeaning", "")), str(channel.get("ChannelLabel", ""))]
    named = {canonical_lead(label) for label in labels} - {None}
    if coded and named - {coded}:
        raise ValueError(
            f"{name}: a channel is lead {coded} by its code and {', '.join(sorted(map(str, named)))} by its name."
        )
    return coded or next(
        (str(canonical_lead(label)) for label in labels if canonical_lead(label)), labels[0] or labels[1]
    )


def _read_group(group: Any, leads: list[str], order: str, name: str) -> tuple[np.ndarray, list[str], list[str]]:
    """Samples (channels, samples) in each channel's unit, the units, and notes."""
    channels, samples = int(group.NumberOfWaveformChannels), int(group.NumberOfWaveformSamples)
    kind = (str(group.WaveformSampleInterpretation), int(group.WaveformBitsAllocated))
    if kind not in SAMPLE_TYPES:
        raise ValueError(
            f"{name}: DICOM waveforms of {kind[1]} bits {kind[0]} are not read; {list(SAMPLE_TYPES)} are."
        )
    if channels != len(leads):
        raise ValueError(f"{name}: the DICOM waveform has {channels} channels and describes {len(leads)}.")
    check_size(channels, samples, name)
    dtype, data = np.dtype(order + SAMPLE_TYPES[kind]), group.WaveformData
    if len(data) < channels * samples * dtype.itemsize:
        found = f"{len(data)} bytes of {channels * samples * dtype.itemsize}"
        raise ValueError(f"{name}: the DICOM waveform is cut short: {found}.")
    raw = np.frombuffer(data, dtype, channels * samples).reshape(samples, channels).T
    padding = group.get("WaveformPaddingValue")
    missing = raw == _padding(padding, dtype) if padding is not None else np.zeros(raw.shape, bool)
    values, notes, units = raw.astype(np.float64), [], []
    for row, (channel, lead) in enumerate(zip(group.ChannelDefinitionSequence, leads)):
        stored = int(channel.get("WaveformBitsStored") or kind[1])
        if (
            kind[0] in ("SS", "SL", "SB")
            and stored < kind[1]
            and values[row].min() >= 0
            and values[row].max() >= 2 ** (stored - 1)
        ):
            # no sign in the bits that are stored: the highest of them is the sign
            values[row] -= (values[row] >= 2 ** (stored - 1)) * 2.0**stored
            notes.append(f"lead {canonical_lead(lead) or row + 1}: sign taken from bit {stored}, as the file declares")
        unit_code = (channel.get("ChannelSensitivityUnitsSequence") or [{}])[0]
        unit = str(unit_code.get("CodeValue", ""))
        if canonical_lead(lead) and (channel.get("ChannelSensitivity") is None or millivolts(unit) is None):
            raise ValueError(
                f"{name}: the DICOM waveform declares no sensitivity in a unit of voltage for lead {lead}."
            )
        values[row] *= float(channel.get("ChannelSensitivity") or 1) * float(
            channel.get("ChannelSensitivityCorrectionFactor") or 1
        )
        values[row] += float(channel.get("ChannelBaseline") or 0)
        units.append(unit)
    values[missing] = np.nan
    return values, units, notes


def _padding(value: Any, dtype: np.dtype[Any]) -> Any:
    """The sample that stands for a missing one; pydicom gives bytes or a number."""
    if isinstance(value, bytes):
        return np.frombuffer(value, dtype, 1)[0]
    return np.array([int(value)]).astype(dtype)[0]


def _age(dataset: Any) -> float | None:
    """Age in years: as declared, else from the dates of birth and recording."""
    found = re.fullmatch(r"(\d{1,3})([YMWD])", str(dataset.get("PatientAge", "")).strip())
    if found:
        return int(found[1]) * YEARS[found[2]]
    born, recorded = (
        re.fullmatch(r"(\d{4})(\d\d)(\d\d)\d*(\.\d*)?", str(dataset.get(key) or ""))
        for key in ("PatientBirthDate", "AcquisitionDateTime" if dataset.get("AcquisitionDateTime") else "StudyDate")
    )
    if not (born and recorded):
        return None
    (y0, m0, d0), (y1, m1, d1) = (tuple(map(int, found.groups()[:3])) for found in (born, recorded))
    return y1 - y0 - ((m1, d1) < (m0, d0))


__all__ = ["is_bare_dicom", "is_dicom", "read_dicom_ecg"]
