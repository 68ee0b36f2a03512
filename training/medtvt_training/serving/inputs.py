# SPDX-License-Identifier: Apache-2.0
"""A patient's inputs out of JSON. Nothing in a request names a file of the server."""

import base64
import binascii
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any


MAX_FILES = {"ecg": 16, "cxr": 1, "lab": 1}
INLINE = {
    "ecg": "signal, sampling_rate, leads and unit",
    "lab": "values by name, or FHIR",
}
FILE_NAME = re.compile(r"[\w-][\w .()+-]{0,99}")


def read_input(modality: str, value: Mapping[str, Any], folder: Path) -> Any:
    """
    What the pipeline takes for a modality.

    Args:
        modality (`str`): `"ecg"`, `"cxr"` or `"lab"`.
        value (`dict`): `{"files": {NAME: BASE64}}`: one file or, for an ECG as WFDB record, its header and its signal files.
            Or the content itself: an ECG's `signal` (leads, samples), `sampling_rate`, `leads` and `unit`; labs as
            `{NAME: value}`, `{NAME: {"value": 5.9, "unit": "mmol/L"}}`, or a FHIR resource.
        folder (`Path`): Empty, for the files.

    Raises:
        ValueError: if it is neither.
    """
    accepted = " or ".join(
        filter(None, [f'{{"files": {{NAME: BASE64}}}} ({_describe(modality)})', INLINE.get(modality)])
    )
    if "files" not in value:
        if modality not in INLINE:
            raise ValueError(f"{modality}: it holds no files; accepted is {accepted}.")
        return dict(value)
    files = value["files"]
    if len(value) > 1 or not isinstance(files, Mapping) or not 1 <= len(files) <= MAX_FILES[modality]:
        raise ValueError(f"{modality}: its files cannot be used as they are; accepted is {accepted}.")
    for number, (name, content) in enumerate(files.items(), start=1):
        if not FILE_NAME.fullmatch(name):
            raise ValueError(
                f"{modality}: the name of file {number} is no plain file name; accepted are letters, digits, blanks and "
                "any of _.+-(), at most 100."
            )
        (folder / name).write_bytes(_decode(content, f"{modality}: file {number}"))
    if len(files) == 1:
        return str(folder / next(iter(files)))
    headers = [name for name in files if name.lower().endswith(".hea")]
    if len(headers) != 1:
        raise ValueError(
            f"{modality}: {len(files)} files, {len(headers)} of them .hea; accepted is one file, or a WFDB record: one "
            "header and its signal files."
        )
    return str(folder / headers[0])


def _describe(modality: str) -> str:
    return "one file" if MAX_FILES[modality] == 1 else "one file, or a WFDB record's"


def _decode(content: Any, where: str) -> bytes:
    try:
        return base64.b64decode(content, validate=True)
    except (TypeError, binascii.Error, ValueError) as error:
        raise ValueError(
            f"{where} is no base64; accepted is the file's content, base64-encoded in one string."
        ) from error
