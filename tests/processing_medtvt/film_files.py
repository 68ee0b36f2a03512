# SPDX-License-Identifier: Apache-2.0
"""A drawn film, and small TIFF, PNG and DICOM files of it: by hand where Pillow does not write such."""

import struct
import zlib
from typing import Any, Literal

import numpy as np
import pydicom


def draw_film(height: int = 120, width: int = 100) -> np.ndarray:
    """A crude frontal chest film, uint8, that uses the whole of 0..255: spine, lungs, abdomen, air beside the neck."""
    y, x = np.linspace(0, 1, height)[:, None], np.abs(np.linspace(-1, 1, width))
    lungs = np.exp(-(((x - 0.42) / 0.22) ** 2) - ((y - 0.4) / 0.25) ** 2)
    air = 1 / (1 + np.exp(-(x - 0.95 + 0.5 * np.clip(0.25 - y, 0, 1)) * 20))
    film = 0.55 + 0.25 * np.exp(-((x / 0.15) ** 2)) + 0.3 / (1 + np.exp(-(y - 0.7) * 12)) - 0.5 * lungs - 0.5 * air
    return np.rint((film - film.min()) / (film.max() - film.min()) * 255).astype(np.uint8)


GREY = draw_film()
TIFF_TYPES = {1: "B", 3: "H", 4: "I"}


def tiff(
    values: np.ndarray,
    order: Literal["<", ">"] = "<",
    photometric: int = 1,
    bits: int = 0,
    compressed: bool = False,
    **tags: Any,
) -> bytes:
    """
    One TIFF page in one strip. `values` is (H, W), (H, W, C), or with `planar=2` (C, H, W); `tags` are `predictor`,
    `sample_format`, `extra`, `colormap`, `orientation`, `subfile` and `planar`. `bits` below 8 packs grey values.
    """
    is_planar = tags.get("planar") == 2
    height, width = values.shape[-2:] if is_planar else values.shape[:2]
    channels = values.size // (height * width)
    kind = values.dtype.kind
    bits = bits or 8 * values.dtype.itemsize
    if tags.get("predictor") == 2:
        values = np.diff(values, axis=1, prepend=np.zeros_like(values[:, :1]))
    if bits < 8:
        shifted = values[..., None] >> np.arange(bits - 1, -1, -1) & 1
        planes = [np.packbits(shifted.reshape(height, -1), axis=1).tobytes()]
    else:
        planes = [
            part.astype(values.dtype.newbyteorder(order)).tobytes() for part in (values if is_planar else [values])
        ]
    planes = [zlib.compress(plane) if compressed else plane for plane in planes]
    starts = [8 + sum(map(len, planes[:i])) for i in range(len(planes))]
    entries = {256: (4, [width]), 257: (4, [height]), 258: (3, [bits] * channels), 259: (3, [8 if compressed else 1])}
    entries |= {262: (3, [photometric]), 273: (4, starts), 277: (3, [channels]), 278: (4, [height])}
    entries |= {279: (4, list(map(len, planes))), 339: (3, [{"u": 1, "i": 2, "f": 3}[kind]] * channels)}
    numbers = {"predictor": 317, "extra": 338, "colormap": 320, "orientation": 274, "subfile": 254, "planar": 284}
    for name, value in tags.items():
        entries[numbers[name]] = (3, list(np.atleast_1d(value)))
    return _assemble(order, b"".join(planes), entries)


def _assemble(order: Literal["<", ">"], data: bytes, entries: dict) -> bytes:
    data += b"\0" * (len(data) % 2)
    start = 8 + len(data)
    late = start + 2 + 12 * len(entries) + 4
    directory, extra = struct.pack(order + "H", len(entries)), b""
    for tag, (kind, items) in sorted(entries.items()):
        packed = struct.pack(f"{order}{len(items)}{TIFF_TYPES[kind]}", *map(int, items))
        if len(packed) > 4:
            place = struct.pack(order + "I", late + len(extra))
            extra += packed + b"\0" * (len(packed) % 2)
        else:
            place = packed.ljust(4, b"\0")
        directory += struct.pack(order + "HHI", tag, kind, len(items)) + place
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", start)
    return head + data + directory + b"\0" * 4 + extra


def chain(first: bytes, *others: bytes) -> bytes:
    """Little-endian TIFF pages of [`tiff`] as one file."""
    content = first
    for page in others:
        shift = len(content)
        (start,) = struct.unpack("<I", page[4:8])
        (count,) = struct.unpack("<H", page[start : start + 2])
        moved = bytearray(page)
        for at in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, number = struct.unpack("<HHI", moved[at : at + 8])
            if tag == 273 or number * {1: 1, 3: 2, 4: 4}[kind] > 4:
                (place,) = struct.unpack("<I", moved[at + 8 : at + 12])
                moved[at + 8 : at + 12] = struct.pack("<I", place + shift)
        linked = bytearray(content)
        last = _last_link(content)
        linked[last : last + 4] = struct.pack("<I", start + shift)
        content = bytes(linked) + bytes(moved)
    return content


def _last_link(content: bytes) -> int:
    link = 4
    while start := struct.unpack("<I", content[link : link + 4])[0]:
        link = start + 2 + 12 * struct.unpack("<H", content[start : start + 2])[0]
    return link


def png(values: np.ndarray, color: int, bits: int = 0, **chunks: bytes) -> bytes:
    """A PNG of (H, W) or (H, W, C) with filter "up" on each row; `chunks` such as `PLTE` and `tRNS` stand before the data."""
    height, width = values.shape[:2]
    bits = bits or 8 * values.dtype.itemsize
    if bits < 8:
        shifted = values[..., None] >> np.arange(bits - 1, -1, -1) & 1
        rows = np.packbits(shifted.reshape(height, -1), axis=1)
    else:
        rows = np.frombuffer(values.astype(values.dtype.newbyteorder(">")).tobytes(), np.uint8).reshape(height, -1)
    filtered = np.diff(rows, axis=0, prepend=np.zeros_like(rows[:1]))
    data = np.hstack([np.full((height, 1), 2, np.uint8), filtered]).tobytes()
    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    parts = {"IHDR": header, **chunks, "IDAT": zlib.compress(data), "IEND": b""}
    content = b"\x89PNG\r\n\x1a\n"
    for name, part in parts.items():
        body = name.encode() + part
        content += struct.pack(">I", len(part)) + body + struct.pack(">I", zlib.crc32(body))
    return content


def write_dicom(path: Any, values: np.ndarray = GREY, **header: Any) -> Any:
    """A DICOM radiograph; a header keyword given as None is left out."""
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    syntax = pydicom.uid.UID(header.pop("TransferSyntaxUID", pydicom.uid.ExplicitVRLittleEndian))
    dataset.file_meta.TransferSyntaxUID = syntax
    bits = values.dtype.itemsize * 8
    defaults: dict[str, Any] = {
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.1",
        "SOPInstanceUID": "1.2.3",
        "PatientName": "Secret^Name",
    }
    defaults |= {"Modality": "CR", "BodyPartExamined": "CHEST", "ViewPosition": "PA", "SamplesPerPixel": 1}
    defaults |= {"Rows": values.shape[0], "Columns": values.shape[1], "PhotometricInterpretation": "MONOCHROME2"}
    defaults |= {"BitsAllocated": bits, "BitsStored": bits, "HighBit": header.get("BitsStored", bits) - 1}
    defaults |= {"PixelRepresentation": int(values.dtype.kind == "i"), "PixelData": values.tobytes()}
    for keyword, value in (defaults | header).items():
        if value is not None:
            setattr(dataset, keyword, value)
    if syntax.is_encapsulated:
        dataset.PixelData = pydicom.encaps.encapsulate([header.get("PixelData", b"none")])
    if "PixelData" in dataset:
        dataset["PixelData"].VR = "OW"
    dataset.save_as(path, enforce_file_format=True)
    return path
