# SPDX-License-Identifier: Apache-2.0
"""
The outputs of the frozen encoders, computed once over a dataset and kept on disk.

A cache folder has one subfolder for each modality, encoder and processor: `cache.json` (what it belongs to),
`index.txt` (a line for each entry: the digest of its input) and `features.bin` (the entries, in the same order). An
entry counts once its line is complete, and its line is written after its data has reached the disk; so a build that was
killed goes on where it stopped.
"""

import errno
import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from datasets import Dataset
from filelock import FileLock
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from modeling_medtvt import MedTVTForCausalLM
from processing_medtvt import MedTVTProcessor
from processing_medtvt.feature_extraction_medtvt_ecg import check_header, find_header

from ..files import write_text
from .conversation import MODALITIES
from .inputs import read_values
from .rejects import Reject, check_rejects, drop_rejects, make_reject
from .rows import Modality, QARow


FORMAT = 1
FOLDER_NAME = re.compile(r"(ecg|cxr|lab)-[0-9a-f]{16}")
DIGEST = re.compile(rb"([0-9a-f]{40})\n")
LINE_BYTES = 41
PROCESSOR_PARTS = {"ecg": "ecg_feature_extractor", "cxr": "image_processor", "lab": "lab_feature_extractor"}
# of an encoder's config, what does not change its output
IRRELEVANT = ("_name_or_path", "architectures", "transformers_version")


class FeatureCache:
    """
    Encoder outputs of a dataset's ECGs, X-rays and laboratory panels, for training with the `*_features` inputs.

    An entry belongs to the encoder's weights and config, to the processor's config, and to a file's path, size and
    time of change (of an ECG: all its files; of labs: their values). If one of them changes, [`build`] computes the
    entry anew; the old one stays until the folder is deleted. Inputs are cached as they are: random augmentation and a
    cache rule each other out.

    Args:
        folder (`str` or `os.PathLike`): Made if missing. Several processes may share it: one computes, the
            others wait and read.
        model ([`MedTVTForCausalLM`]): With frozen encoders, before an adapter wraps it.
        processor ([`MedTVTProcessor`]): What turns files into the encoders' inputs.
        dtype (`str`): `"float32"`, or `"float16"` for half the space and three significant digits.

    Raises:
        ValueError: if the encoders are not frozen, or the folder holds something else or is damaged.
    """

    def __init__(
        self, folder: str | os.PathLike, model: MedTVTForCausalLM, processor: MedTVTProcessor, dtype: str = "float32"
    ) -> None:
        if not model.model.has_frozen_encoders:
            raise ValueError("Only the outputs of frozen encoders can be cached: `model.model.freeze_encoders()`.")
        if dtype not in ("float32", "float16"):
            raise ValueError(f'`dtype` must be "float32" or "float16"; got {dtype!r}.')
        self.folder = Path(folder).absolute()
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"{self.folder} is a file; a feature cache is a folder.")
        names = [path.name for path in self.folder.iterdir()] if self.folder.exists() else []
        foreign = sorted(name for name in names if not name.startswith(".") and not FOLDER_NAME.fullmatch(name))
        if foreign:
            raise ValueError(f"{self.folder} is no feature cache: it holds {', '.join(foreign[:3])}.")
        self._model, self._processor = model, processor
        shapes = _feature_shapes(model, processor)
        self._stores = {
            modality: _Store(self.folder, modality, _key(model, processor, modality, dtype), shapes[modality], dtype)
            for modality in MODALITIES
        }
        self._digests: dict[tuple[Modality, str], str] = {}
        self._reasons: dict[tuple[Modality, str], str] = {}  # why an input could not be read, by modality and digest

    def __getstate__(self) -> dict[str, Any]:
        # DataLoader workers only read; the model stays where it is
        return {**self.__dict__, "_model": None, "_processor": None, "_digests": {}}

    def build(
        self,
        dataset: Dataset,
        batch_size: int = 32,
        num_workers: int = 0,
        max_rejected: float = 0.01,
        rejects_file: str | os.PathLike | None = None,
        progress: bool = True,
    ) -> Dataset:
        """
        Computes what the cache lacks of a dataset, each distinct input once.

        Args:
            dataset (`datasets.Dataset`): From [`load_medtvt_qa`].
            batch_size (`int`): Inputs an encoder sees at once.
            num_workers (`int`): Processes that read files.
            max_rejected (`float`): Share of rows that may be left out because an input cannot be read.
            rejects_file (`str` or `os.PathLike`, *optional*): JSON lines (`id`, `path`, `reason`) of the rows left out.
            progress (`bool`): Whether to show progress bars.

        Returns:
            `datasets.Dataset`: without the rejected rows.

        Raises:
            ValueError: if more rows than allowed are rejected. What was computed stays.
            OSError: if the disk has too little space; says how much is needed.
        """
        if self._model is None:
            raise ValueError("A copy of the cache can only be read; build with the one that was given the model.")
        self._digests.clear()  # files may have changed
        rows = list(dataset.select_columns(["id", "modalities", *MODALITIES]))
        wanted, rejects = self._list_inputs(rows)
        rejected = check_rejects(rejects, len(rows), max_rejected, rejects_file)  # before hours of work
        self._reasons = {}
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / ".lock"):
            for modality, inputs in wanted.items():
                for digest in self._stores[modality].open_for_writing():
                    inputs.pop(digest, None)
            self._check_space(wanted)
            for modality, inputs in wanted.items():
                self._reasons |= self._encode(modality, inputs, batch_size, num_workers, progress)
        for row in rows:
            for modality in row["modalities"] if self._reasons and row["id"] not in rejected else ():
                reason = self._reasons.get((modality, self._digest(row, modality)))
                if reason is not None:
                    rejects.append(make_reject(row, modality, reason))
        return drop_rejects(dataset, rejects, max_rejected, rejects_file)

    def get(self, row: QARow, modality: Modality) -> torch.Tensor:
        """
        (time steps or image tokens, hidden size) float32, the encoder's output for one modality of a row.

        Raises:
            ValueError: if it is not in the cache, or could not be read when the cache was built.
        """
        digest = self._digest(row, modality)
        features = self._stores[modality].read(digest)
        if features is None and (reason := self._reasons.get((modality, digest))):
            raise ValueError(reason)
        if features is None:
            raise ValueError(
                f"The {modality} of row {row['id']} is not in the feature cache {self.folder}: run `build` on this "
                "dataset, again if the file has changed since."
            )
        return torch.from_numpy(features.astype(np.float32))

    def _list_inputs(self, rows: list[QARow]) -> tuple[dict[Modality, dict[str, QARow]], list[Reject]]:
        """Modality -> digest -> a row with this input; and rejects for files that are not there."""
        wanted: dict[Modality, dict[str, QARow]] = {modality: {} for modality in MODALITIES}
        rejects: list[Reject] = []
        for row in rows:
            for modality in row["modalities"]:
                try:
                    wanted[modality].setdefault(self._digest(row, modality), row)
                except (ValueError, OSError) as error:
                    rejects.append(make_reject(row, modality, str(error)))
        return wanted, rejects

    def _digest(self, row: QARow, modality: Modality) -> str:
        if modality == "lab":
            present = {name: value for name, value in row["lab"].items() if value is not None and value == value}
            return _hash(["lab", present])
        path = cast(str, row[modality])
        key = modality, path
        if key not in self._digests:
            files = _ecg_files(path) if modality == "ecg" else [Path(path)]
            stats = [file.stat() for file in files]
            facts = [[str(file), stat.st_size, stat.st_mtime_ns] for file, stat in zip(files, stats)]
            self._digests[key] = _hash([modality, facts])
        return self._digests[key]

    def _check_space(self, missing: dict[Modality, dict[str, QARow]]) -> None:
        needed = sum(len(inputs) * self._stores[modality].entry_bytes for modality, inputs in missing.items())
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise OSError(
                errno.ENOSPC,
                f"{self.folder} needs {needed / 1e9:.2f} GB for {sum(map(len, missing.values()))} new entries, the disk "
                f"has {free / 1e9:.2f} GB left. Make room, take another disk, or halve it with `dtype='float16'`",
            )

    def _encode(
        self, modality: Modality, inputs: dict[str, QARow], batch_size: int, num_workers: int, progress: bool
    ) -> dict[tuple[Modality, str], str]:
        """Fills the store; (modality, digest) -> reason for what cannot be read or encoded."""
        store = self._stores[modality]
        reasons: dict[tuple[Modality, str], str] = {}
        items = _Inputs(list(inputs.items()), modality, self._processor)
        loader = DataLoader(items, batch_size, num_workers=num_workers, collate_fn=list)
        for batch in tqdm(loader, desc=f"{modality} features", disable=not progress or not inputs):
            found = {}
            for digest, values in batch:
                if isinstance(values, str):
                    reasons[modality, digest] = values
                else:
                    found[digest] = values
            if not found:
                continue
            features = self._run_encoder(modality, np.stack(list(found.values())))
            with np.errstate(over="ignore"):
                features = features.astype(store.dtype)
            finite = np.isfinite(features).all(axis=(1, 2))
            for digest in np.array(list(found))[~finite]:
                reasons[modality, str(digest)] = f"its {modality} features are not finite in {store.dtype.name}"
            store.append([digest for digest, is_finite in zip(found, finite) if is_finite], features[finite])
        return reasons

    @torch.no_grad()
    def _run_encoder(self, modality: Modality, values: np.ndarray) -> np.ndarray:
        encoder = getattr(self._model.model, f"{modality}_encoder")
        device = next(encoder.parameters()).device
        with torch.autocast(device.type, enabled=False):
            features = getattr(self._model, f"get_{modality}_features")(torch.from_numpy(values).to(device))
        return features.float().cpu().numpy()


class _Inputs(torch.utils.data.Dataset):
    """Digest, and what the encoder takes in or why it cannot be had."""

    def __init__(self, items: list[tuple[str, QARow]], modality: Modality, processor: MedTVTProcessor) -> None:
        self.items, self.modality, self.processor = items, modality, processor

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[str, np.ndarray | str]:
        digest, row = self.items[index]
        try:
            return digest, read_values(row, self.modality, self.processor)
        except ValueError as error:
            return digest, str(error)


class _Store:
    """The entries of one modality, encoder and processor: files that only grow."""

    def __init__(self, folder: Path, modality: Modality, key: str, shape: tuple[int, int], dtype: str) -> None:
        self.folder = folder / f"{modality}-{key[:16]}"
        self.data, self.index = self.folder / "features.bin", self.folder / "index.txt"
        self.shape, self.dtype = shape, np.dtype(dtype)
        self.entry_bytes = shape[0] * shape[1] * self.dtype.itemsize + LINE_BYTES
        self.about = {"format": FORMAT, "modality": modality, "key": key, "shape": list(shape), "dtype": dtype}
        self._positions: dict[str, int] = {}
        self._features: np.ndarray | None = None
        if self.folder.exists():
            self._load()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_positions": {}, "_features": None}

    def read(self, digest: str) -> np.ndarray | None:
        if digest not in self._positions:
            self._load()  # another process may have added it
        position = self._positions.get(digest)
        return None if position is None or self._features is None else self._features[position]

    def open_for_writing(self) -> list[str]:
        """Makes or repairs the files; the digests of what is complete."""
        self.folder.mkdir(exist_ok=True)
        if not (self.folder / "cache.json").exists():
            write_text(json.dumps(self.about), self.folder / "cache.json")
        for file in (self.data, self.index):
            file.touch()
        self._load()
        count = len(self._positions)
        os.truncate(self.index, count * LINE_BYTES)
        os.truncate(self.data, count * (self.entry_bytes - LINE_BYTES))
        return list(self._positions)

    def append(self, digests: list[str], features: np.ndarray) -> None:
        """The data reach the disk before the lines that make them count."""
        try:
            _append(self.data, np.ascontiguousarray(features).data)
            _append(self.index, "".join(f"{digest}\n" for digest in digests).encode())
        except OSError as error:
            text = f"{self.folder}: {error.strerror} while writing features. What is complete is kept: make room, and "
            raise OSError(error.errno, text + "`build` goes on from there") from error

    def _load(self) -> None:
        """Reads the index, as far as its lines are complete, and maps the data."""
        if not self.folder.exists():
            return
        try:
            about = json.loads((self.folder / "cache.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            if self.data.exists() or self.index.exists():
                raise self._damaged("cache.json is missing") from None
            return
        except ValueError as error:
            raise self._damaged("cache.json is no JSON file") from error
        if about != self.about:
            raise self._damaged("cache.json does not belong to this encoder and processor")
        lines = self.index.read_bytes() if self.index.exists() else b""
        count = len(lines) // LINE_BYTES
        digests = DIGEST.findall(lines[: count * LINE_BYTES])
        if len(digests) != count or len(set(digests)) != count:
            raise self._damaged("index.txt holds something else than digests")
        needed = count * (self.entry_bytes - LINE_BYTES)
        size = self.data.stat().st_size if self.data.exists() else 0
        if size < needed:
            raise self._damaged(f"features.bin has {size} bytes, its index needs {needed}")
        self._positions = {digest.decode(): position for position, digest in enumerate(digests)}
        self._features = np.memmap(self.data, self.dtype, "r", shape=(count, *self.shape)) if count else None

    def _damaged(self, reason: str) -> ValueError:
        return ValueError(
            f"The feature cache {self.folder} is damaged: {reason}. Delete the folder and build it anew."
        )


def _append(file: Path, content: bytes | memoryview) -> None:
    with open(file, "ab") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(opened.fileno())


def _hash(facts: list[Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:40]


def _key(model: MedTVTForCausalLM, processor: MedTVTProcessor, modality: Modality, dtype: str) -> str:
    """Digest of all that turns an input into features."""
    encoder = getattr(model.model, f"{modality}_encoder")
    config = {name: value for name, value in encoder.config.to_dict().items() if name not in IRRELEVANT}
    about = [FORMAT, dtype, config, getattr(processor, PROCESSOR_PARTS[modality]).to_dict()]
    digest = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode())
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


@torch.no_grad()
def _feature_shapes(model: MedTVTForCausalLM, processor: MedTVTProcessor) -> dict[Modality, tuple[int, int]]:
    """Shape of one entry of each modality; that of an ECG depends on its length, so one of zeros is encoded."""
    config: Any = model.config
    extractor = getattr(processor, PROCESSOR_PARTS["ecg"])
    samples = round(extractor.duration * extractor.sampling_rate)
    device = next(model.model.ecg_encoder.parameters()).device
    ecg = model.get_ecg_features(torch.zeros(1, len(extractor.leads), samples, device=device))
    return {
        "ecg": (ecg.shape[1], ecg.shape[2]),
        "cxr": (config.cxr_sequence_length, config.cxr_hidden_size),
        "lab": (1, config.lab_config.hidden_size),
    }


def _ecg_files(path: str) -> list[Path]:
    """The header and the signal files of a WFDB record."""
    header = Path(find_header(path, "ecg"))
    check_header(str(header), f"ecg: {header}")
    lines = [line.strip() for line in header.read_text(encoding="ascii", errors="surrogateescape").splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    return [header, *(header.parent / name for name in sorted({line.split()[0] for line in lines[1:]}))]
