# SPDX-License-Identifier: Apache-2.0
"""Which file of a patient's folder is the ECG, which the X-ray and which the labs."""

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from processing_medtvt import MedTVTProcessor, load_cxr
from processing_medtvt.shown_name_medtvt import shown_name


MAX_FILES = 200
KINDS = {"ecg": "ECGs", "cxr": "X-rays", "lab": "laboratory panels"}
SUFFIXES = {
    "ecg": (".hea", ".mat", ".xml", ".scp", ".edf", ".ecg"),
    "lab": (".csv", ".tsv", ".json"),
    "cxr": (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".dcm"),
}


class PatientFiles(NamedTuple):
    """The file of each kind that was found, and a note for each that is of none."""

    found: dict[str, str]
    notes: list[str]


def find_patient_files(
    folder: str | os.PathLike,
    processor: MedTVTProcessor,
    given: Mapping[str, Any] | None = None,
    **ecg_keywords: Any,
) -> PatientFiles:
    """
    Looks through a patient's folder and those inside it. What a file is, its content decides: it is what the reader of
    ECGs, of laboratory panels or of X-rays takes, tried in this order.

    Args:
        folder (`str` or `os.PathLike`): One patient's.
        processor ([`MedTVTProcessor`]): Whose readers are tried.
        given (`dict`, *optional*): Inputs by modality that are known already; no other file of that kind is asked for.
        **ecg_keywords: `sampling_rate`, `leads` and `unit`, where ECG files do not state them.

    Raises:
        ValueError: if the folder is none, holds too many files, nothing that is read, or more than one file of a kind.
        ImportError: if a file needs a library that is not installed.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{shown_name(folder)} is no folder.")
    known = {kind: value for kind, value in (given or {}).items() if value is not None}
    found: dict[str, list[Path]] = {kind: [] for kind in KINDS}
    notes = []
    for file in _list_files(folder):
        kind, reason = _tell_kind(file, processor, ecg_keywords)
        if kind is None:
            notes.append(f"folder: {shown_name(file.relative_to(folder))} left out: {reason}")
        else:
            found[kind].append(file)
    for kind, files in found.items():
        if len(files) > 1 and kind not in known:
            names = ", ".join(shown_name(file.relative_to(folder)) for file in files)
            raise ValueError(
                f"{shown_name(folder)} holds {len(files)} {KINDS[kind]}: {names}. Choose one with --{kind} FILE."
            )
    chosen = {kind: str(files[0]) for kind, files in found.items() if files and kind not in known}
    if not chosen and not known:
        raise ValueError(
            f"{shown_name(folder)} holds neither an ECG nor an X-ray nor labs that can be read. "
            + (" ".join(notes) or "It is empty.")
        )
    return PatientFiles(chosen, notes)


def _list_files(folder: Path) -> list[Path]:
    """Files that are looked at: no hidden ones, none outside of the folder, and not the signals of a WFDB header."""
    root = folder.resolve()
    inside = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and path.resolve().is_relative_to(root)
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    if len(inside) > MAX_FILES:
        raise ValueError(
            f"{shown_name(folder)} holds {len(inside)} files; a patient's folder holds at most {MAX_FILES}. For many "
            "patients, write a table and use --batch."
        )
    signals = {path for file in inside if file.suffix.lower() == ".hea" for path in _signal_files(file)}
    return [path for path in inside if path not in signals]


def _signal_files(header: Path) -> set[Path]:
    """The files that a WFDB header names: the first word of each line of a signal."""
    lines = header.read_bytes()[:65536].decode("latin-1").splitlines()
    words = [line.split()[0] for line in lines if line.strip() and not line.startswith("#")]
    return {header.with_name(Path(word).name) for word in words[1:]}


def _tell_kind(file: Path, processor: MedTVTProcessor, ecg_keywords: Mapping[str, Any]) -> tuple[str | None, str]:
    """The kind of a file, or None and why it is none."""
    readers: dict[str, Callable[[str], Any]] = {
        "ecg": partial(_read_ecg, processor, ecg_keywords),
        "lab": partial(_read_labs, processor),
        "cxr": load_cxr,
    }
    refusals = {}
    for kind, read in readers.items():
        try:
            read(str(file))
            return kind, ""
        except (ValueError, TypeError, OSError) as error:
            refusals[kind] = str(error)
    # which reader's reason to give, the name may say: nothing else hangs on it
    meant = next((kind for kind, suffixes in SUFFIXES.items() if file.suffix.lower() in suffixes), None)
    return None, refusals[meant] if meant else "it is neither ECG nor X-ray nor labs"


def _read_ecg(processor: MedTVTProcessor, ecg_keywords: Mapping[str, Any], path: str) -> None:
    try:
        processor.ecg_feature_extractor(path)
    except ValueError:
        if not ecg_keywords:
            raise
        processor.ecg_feature_extractor(path, **ecg_keywords)


def _read_labs(processor: MedTVTProcessor, path: str) -> None:
    labs = processor.lab_feature_extractor(path)["lab_values"][0]
    if not labs[len(labs) // 2 :].any():
        raise ValueError(f"{shown_name(path)} holds no lab that the model knows.")
