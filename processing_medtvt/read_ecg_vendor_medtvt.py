# SPDX-License-Identifier: Apache-2.0
"""
ECG files of hospital systems and recorders, through ecgdatakit's parsers: GE MUSE, Philips, HL7 aECG and Mortara XML,
SCP-ECG, EDF, ISHNE, MFER, Kardia, EDAN and XLE. A parser decodes; what it decoded is judged here.
"""

import base64
import binascii
import importlib
import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .leads_ecg_medtvt import canonical_lead, millivolts, shown_leads
from .recording_medtvt import Recording, check_size, known_patient


MAX_FILE_BYTES = 64_000_000
MAX_XML_BYTES = 32_000_000
HEAD_BYTES = 4096


class Format(NamedTuple):
    """A kind of file and the class of ecgdatakit that decodes it."""

    title: str
    module: str
    parser: str
    is_text: bool
    arguments: dict[str, Any] = {}


MUSE = Format("GE MUSE XML", "ge_muse_xml", "GEMuseXMLParser", True)
PHILIPS = Format("Philips SierraECG XML", "sierra_xml", "SierraXMLParser", True)
AECG = Format("HL7 aECG", "hl7_aecg", "HL7aECGParser", True)
MORTARA = Format("Mortara ELI XML", "mortara_el250", "MortaraEL250Parser", True)
KARDIA = Format("AliveCor Kardia JSON", "alivecor_kardia", "AliveCorKardiaParser", True)
SCP = Format("SCP-ECG", "scp_ecg", "SCPECGParser", False)
EDF = Format("EDF", "edf", "EDFParser", False)
ISHNE = Format("ISHNE", "ishne_holter", "ISHNEHolterParser", False)
MFER = Format("MFER", "mfer", "MFERParser", False)
EDAN = Format("EDAN", "edan_arc", "EDANARCHolterParser", False)
XLE = Format("XLE", "xle", "XLEParser", False, {"wilson_correction": True})

# What a parser's warning means for the recording; what is not here concerns other parts of the file. The texts are not
# passed on: they quote the file.
MEANINGS = {
    r"Additional rhythm waveform|rhythm series found|sets in the rhythm|redefine the channels":
        "the file holds more than one rhythm recording; the first is used",
    r"truncated|incomplete final|partial frame|records is -1|shorter than the frame":
        "the file ends before the length that it declares; what is there is used",
    r"gaps between data records|starts at pointer": "the recording has gaps; its parts are joined end to end",
    r"OFFSET is non-zero|FirstSampleBaseline|LeadOffsetFirstSample":
        "the file states a baseline offset of a lead whose meaning is not documented; it is not applied",
    r"experimental": "the maker does not document this format: compare the curve with the recorder's own print",
    r"Wilson correction": "chest leads computed from leads against the right arm",
}  # fmt: skip
# Why a parser gave up, by words of its message, which itself quotes the file.
REASONS = {
    r"[Ee]ntit": "it declares XML entities, which are never opened",
    r"[Mm]alformed|not well-formed|ParseError": "the XML is damaged",
    r"no samples|[Nn]o rhythm|No ECG lead|No CHANNEL|parsedwaveforms|no WaveFormData|is missing":
        "it has no rhythm recording, or lacks a part of it",
    r"[Uu]nsupported|not supported|BDF": "this variant of the format is not read",
}  # fmt: skip


def vendor_format(head: bytes, path: str) -> Format | None:
    """The format of a file by its first bytes; None if it is none of these."""
    text = head.decode("utf-16" if head[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8", errors="ignore")
    text = text.lstrip("\ufeff \t\r\n")
    if text.startswith("<"):
        for pattern, kind in (
            (r"<restingecgdata\b", PHILIPS),
            (r"<RestingECG\b|<MuseInfo\b", MUSE),
            (r"<([\w.-]+:)?AnnotatedECG\b", AECG),
            (r"<ECG\b[^>]*>", MORTARA),
        ):
            if re.search(pattern, text, re.IGNORECASE):
                return kind
        return None
    if text.startswith("{"):
        return KARDIA if '"recordedAt"' in text else None
    if head[:8] in (b"0       ", b"\xffBIOSEMI"):
        return EDF
    if head[:8] == b"ISHNE1.0":
        return ISHNE
    if head[:1] == b"\x40" and head[2:6] == b"MFR ":
        return MFER
    if _is_scp(head):
        return SCP
    if path.lower().endswith(".arc"):
        return EDAN
    return XLE if path.lower().endswith(".xle") else None


def _is_scp(head: bytes) -> bool:
    """Whether a file begins with SCP-ECG's section 0, whose first pointer is to itself."""
    if len(head) < 32:
        return False
    record, section = (int.from_bytes(head[at : at + 4], "little") for at in (2, 10))
    points_to_itself = head[8:10] == bytes(2) == head[22:24] and head[28:32] == b"\x07\x00\x00\x00"
    return points_to_itself and 26 <= section <= record - 6 and section % 10 == 6


def read_vendor(path: str, kind: Format, name: str) -> Recording:
    """
    The rhythm of a hospital system's file, in the units that it declares.

    Raises:
        ValueError: if the file is damaged, too large, or holds no rhythm in a unit of voltage.
        ImportError: if ecgdatakit is not installed.
    """
    parser = _import_parser(kind, name)
    limit = MAX_XML_BYTES if kind.is_text else MAX_FILE_BYTES
    if os.path.getsize(path) > limit:
        raise ValueError(f"{name}: the {kind.title} file is larger than {limit} bytes; export the rhythm strip alone.")
    if kind is PHILIPS:
        _check_compressed(Path(path).read_bytes(), name)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            record = parser(**kind.arguments).parse(Path(path))
        except Exception as err:  # a parser raises whatever the damage triggers; its text quotes the file
            reason = next((text for words, text in REASONS.items() if re.search(words, str(err))), "it is damaged")
            raise ValueError(f"{name}: the {kind.title} file cannot be read: {reason}.") from err
    messages = [str(warning.message) for warning in caught]
    if any(warning.category.__name__ == "ChecksumWarning" for warning in caught):
        raise ValueError(
            f"{name}: a checksum of the {kind.title} file does not fit its content: it was damaged or changed after it "
            "was recorded. Export it again."
        )
    recording = _to_recording(record, kind, name)
    recording.notes += [note for words, note in MEANINGS.items() if any(re.search(words, text) for text in messages)]
    _remove_calibration_pulse(recording)
    return recording


def _import_parser(kind: Format, name: str) -> Callable[..., Any]:
    # The one parser: the package as a whole brings a neural denoiser with it.
    try:
        return getattr(importlib.import_module(f"ecgdatakit.parsing.parsers.{kind.module}"), kind.parser)
    except ImportError as err:
        raise ImportError(f'{name}: {kind.title} files need ecgdatakit: pip install "medtvt-r1[formats]"') from err


def _to_recording(record: Any, kind: Format, name: str) -> Recording:
    """The leads of a record of ecgdatakit that share rate and length with its first ECG lead."""
    leads = [lead for lead in record.leads if len(lead.samples)]
    if not leads:
        raise ValueError(f"{name}: the {kind.title} file holds no rhythm recording.")
    first = next((lead for lead in leads if canonical_lead(lead.label)), leads[0])
    rate, length = _exact_rate(record, first), len(first.samples)
    kept = [lead for lead in leads if _exact_rate(record, lead) == rate and len(lead.samples) == length]
    for lead in leads:
        if canonical_lead(lead.label) and not any(lead is one for one in kept):
            raise ValueError(
                f"{name}: lead {canonical_lead(lead.label)} has another rate or length than {first.label}."
            )
    check_size(len(kept), length, name)
    scaled = [
        lead.to_physical() if lead.is_raw and lead.resolution_unit and lead.resolution else lead for lead in kept
    ]
    signal = np.stack([np.asarray(lead.samples, np.float64) for lead in scaled])
    labels, units = [lead.label for lead in scaled], ["" if lead.is_raw else lead.units for lead in scaled]
    for label, unit in zip(labels, units):
        if canonical_lead(label) and millivolts(unit) is None:
            raise ValueError(
                f"{name}: the {kind.title} file declares no unit of voltage for lead {canonical_lead(label)}."
            )
    shown = sorted({unit for label, unit in zip(labels, units) if canonical_lead(label)}) or ["no unit"]
    notes = [f"{kind.title}: {len(kept)} leads at {rate:g} Hz, scaled to {', '.join(shown)} as the file declares"]
    if record.median_beats:
        notes.append("the rhythm is used, not the median beat that the file holds too")
    if record.raw_metadata.get("sampling_rate_stated") is False:
        notes.append(f"the file states no sampling rate; {rate:g} Hz, usual for this format, is used")
    if "scale_warning" in record.raw_metadata:
        notes.append("the file states no voltage scale; the one usual for this format is used")
    if len(kept) < len(leads):
        others = shown_leads([lead.label for lead in leads if not any(lead is one for one in kept)])
        notes.append(f"signals with another rate or length left out: {', '.join(others)}")
    if len({lead.annotations.get("start_sample") for lead in scaled}) > 1:
        notes.append("the leads were not recorded at the same time")
    return Recording(name, signal, rate, labels, units, notes, known_patient(record.patient.age, record.patient.sex))


def _exact_rate(record: Any, lead: Any) -> float:
    """The rate that the file declares; a lead of ecgdatakit has it rounded to whole numbers."""
    found = record.raw_metadata
    if interval := found.get("rhythm_sample_interval_us"):  # SCP-ECG
        rate = 1e6 / interval
    elif isinstance(time := found.get("rhythm_time"), dict):  # aECG
        rate = time.get("sampling_rate_exact", lead.sampling_rate)
    elif isinstance(block := found.get("raw"), dict):  # Kardia
        declared = block.get("frequency")
        rate = declared if isinstance(declared, (int, float)) else lead.sampling_rate
    elif lead.label in found.get("exact_sampling_rates", {}):  # EDF
        rate = found["exact_sampling_rates"][lead.label]
    elif any(lead is one for one in record.leads) and len(found.get("sampling_rates", ())) == len(
        record.leads
    ):  # MFER
        rate = found["sampling_rates"][[one is lead for one in record.leads].index(True)]
    else:
        rate = lead.sampling_rate
    return round(rate) if abs(rate - round(rate)) < 1e-6 * rate else rate


def _remove_calibration_pulse(recording: Recording) -> None:
    """
    Cut off the pulse of 1 mV that some devices, Philips' among them, store after the rhythm: there, unlike in any
    heartbeat, all leads have the same samples.
    """
    factors = [millivolts(unit) or np.nan for unit in recording.units or []]
    values = recording.signal * np.array(factors)[:, None]
    if len(values) < 3:
        return
    same = np.ptp(values, axis=0) < 1e-6
    edges = np.flatnonzero(np.diff(np.concatenate([[False], same, [False]]).astype(np.int8)))
    start, end = 0, values.shape[1]
    for first, last in zip(edges[::2], edges[1::2]):
        level = values[0, first:last]
        if last - first < 0.1 * recording.sampling_rate or not 0.5 < level.max() - level.min() < 2:
            continue
        if last == values.shape[1]:
            end = first
        elif first == 0:
            start = last
        else:
            recording.signal[:, first:last] = np.nan
    if (start, end) != (0, values.shape[1]):
        seconds = (values.shape[1] - (end - start)) / recording.sampling_rate
        recording.signal = recording.signal[:, start:end]
        recording.notes.append(f"the calibration pulse ({seconds:.2g} s) is left out")


def _check_compressed(content: bytes, name: str) -> None:
    """
    Refuse Philips' compressed waveforms (XLI: LZW codes of 10 bits) that would unpack to more than is read. Only the
    lengths are followed here.
    """
    text = content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "latin-1", errors="replace")
    for found in re.finditer(r"<parsedwaveforms\b[^>]*XLI[^>]*>([^<]*)<", text):
        try:
            data = base64.b64decode("".join(found[1].split()))
        except (binascii.Error, ValueError):
            return  # the parser says so
        total, position = 0, 0
        while position + 8 <= len(data):
            size = int.from_bytes(data[position : position + 4], "little", signed=True)
            if size <= 0:
                return
            total += _unpacked_length(data[position + 8 : position + 8 + size])
            position += 8 + size
            if total > MAX_FILE_BYTES:
                raise ValueError(f"{name}: the compressed waveforms unpack to more than {MAX_FILE_BYTES} bytes.")


def _unpacked_length(chunk: bytes) -> int:
    """Bytes that a chunk of LZW codes stands for."""
    bits = np.unpackbits(np.frombuffer(chunk, np.uint8))
    codes = bits[: len(bits) // 10 * 10].reshape(-1, 10) @ (1 << np.arange(9, -1, -1))
    lengths, previous, total = [1] * 256, 0, 0
    for code in codes.tolist():
        length = lengths[code] if code < len(lengths) else previous + 1
        if previous and len(lengths) < 1023:
            lengths.append(previous + 1)
        total, previous = total + length, length
    return total


__all__ = ["HEAD_BYTES", "Format", "read_vendor", "vendor_format"]
