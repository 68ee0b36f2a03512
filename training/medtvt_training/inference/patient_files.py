# SPDX-License-Identifier: Apache-2.0
"""Which file of a patient's folder is the ECG, which the X-ray and which the labs."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from processing_medtvt import MedTVTProcessor, load_cxr
from processing_medtvt.shown_name_medtvt import shown_name


MAX_FILES = 200
KINDS = {"ecg": "ECGs", "cxr": "X-rays", "lab": "laboratory panels"}


class PatientFiles(NamedTuple):
    """The file of each kind that was found, and the names of those that are of none."""

    found: dict[str, str]
    others: list[str]


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
    others = []
    for file in _list_files(folder):
        kind = _tell_kind(file, processor, ecg_keywords)
        if kind is None:
            others.append(shown_name(file.relative_to(folder)))
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
        listed = f" It holds {', '.join(others)}." if others else " It is empty."
        raise ValueError(f"{shown_name(folder)} holds neither an ECG nor an X-ray nor labs that can be read.{listed}")
    return PatientFiles(chosen, others)


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


def _tell_kind(file: Path, processor: MedTVTProcessor, ecg_keywords: Mapping[str, Any]) -> str | None:
    try:
        processor.ecg_feature_extractor(str(file), **ecg_keywords)
        return "ecg"
    except (ValueError, TypeError, OSError):
        pass
    try:
        labs = processor.lab_feature_extractor(str(file))["lab_values"][0]
        if labs[len(labs) // 2 :].any():  # at least one lab that the model knows
            return "lab"
    except (ValueError, TypeError, OSError):
        pass
    try:
        load_cxr(str(file))
        return "cxr"
    except (ValueError, TypeError, OSError):
        return None
