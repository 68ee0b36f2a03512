# SPDX-License-Identifier: Apache-2.0
"""
The outputs of the frozen encoders, computed once over a dataset and kept on disk.

A cache folder has one subfolder for each modality, encoder and processor: `cache.json` (what it belongs to),
`index.txt` (a line for each entry: the digest of its input) and `features.bin` (the entries, in the same order); a second
process writes `index-1.txt` and `features-1.bin`, and so on. An entry counts once its line is complete, and its line is
written after its data has reached the disk; so a build that was killed goes on where it stopped. `built-KEY-FIRST-END.json`
says that the rows FIRST to END of a dataset were gone through, and which of them cannot be used.
"""

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset
from filelock import FileLock
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from modeling_medtvt import MedTVTForCausalLM
from processing_medtvt import MedTVTProcessor
from processing_medtvt.read_ecg_medtvt import ecg_files

from ..files import read_json, write_json, write_text
from .columns import hash_ids, read_column
from .conversation import MODALITIES
from .inputs import read_values
from .rejects import Reject, check_rejects, drop_rejects, make_reject
from .rows import Modality, QARow


FORMAT = 1
# entries, the rows of `stored_rows`, and lists of what was gone through
CONTENT_NAME = re.compile(r"(ecg|cxr|lab|rows)-[0-9a-f]{16}|built-[0-9a-f]{16}-\d+-\d+\.json")
HEXADECIMAL = np.isin(np.arange(256), list(b"0123456789abcdef"))
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
        foreign = sorted(name for name in names if not name.startswith(".") and not CONTENT_NAME.fullmatch(name))
        if foreign:
            raise ValueError(f"{self.folder} is no feature cache: it holds {', '.join(foreign[:3])}.")
        self._model, self._processor = model, processor
        shapes = _feature_shapes(model, processor)
        self._stores = {
            modality: _Store(self.folder, modality, _key(model, processor, modality, dtype), shapes[modality], dtype)
            for modality in MODALITIES
        }
        self._reasons: dict[tuple[Modality, str], str] = {}  # why an input could not be read, by modality and digest

    def __getstate__(self) -> dict[str, Any]:
        # DataLoader workers only read; the model stays where it is
        return {**self.__dict__, "_model": None, "_processor": None}

    def build(
        self,
        dataset: Dataset,
        batch_size: int = 32,
        num_workers: int = 0,
        max_rejected: float = 0.01,
        rejects_file: str | os.PathLike | None = None,
        progress: bool = True,
        part: tuple[int, int] = (0, 1),
        trust_built: bool = False,
    ) -> Dataset:
        """
        Computes what the cache lacks of a dataset, each distinct input once. Several processes may share the work: each
        computes its part first, and then, when all are done, calls this with the whole and `trust_built`.

        Args:
            dataset (`datasets.Dataset`): From [`load_medtvt_qa`].
            batch_size (`int`): Inputs an encoder sees at once.
            num_workers (`int`): Processes that read files.
            max_rejected (`float`): Share of rows that may be left out because an input cannot be read.
            rejects_file (`str` or `os.PathLike`, *optional*): JSON lines (`id`, `path`, `reason`) of the rows left out.
            progress (`bool`): Whether to show progress bars.
            part (`tuple[int, int]`): Number of this process, and how many share the work.
            trust_built (`bool`): Whether rows that were gone through before are not looked at again. A file that has
                changed since is then an error when it is read.

        Returns:
            `datasets.Dataset`: without the rejected rows of the part.

        Raises:
            ValueError: if more rows than allowed are rejected. What was computed stays.
            OSError: if the disk has too little space; says how much is needed.
        """
        if self._model is None:
            raise ValueError("A copy of the cache can only be read; build with the one that was given the model.")
        number, count = part
        first, end = number * len(dataset) // count, (number + 1) * len(dataset) // count
        key = self._built_key(dataset)
        work = _Work(batch_size, num_workers, max_rejected, rejects_file, progress)
        if not trust_built or self._list_built(key, first, end) is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / (f".lock-{number}" if number else ".lock")):
                if not trust_built or self._list_built(key, first, end) is None:
                    rejects = self._build(dataset.select(range(first, end)), len(dataset), number, work)
                    write_json(rejects, self.folder / f"built-{key}-{first}-{end}.json")
        rejects = self._list_built(key, first, end) or []
        if trust_built and rejects:  # their files may have been mended
            ids = pa.array([reject["id"] for reject in rejects], pa.string())
            again = pc.is_in(read_column(dataset, "id"), ids).to_numpy().nonzero()[0]
            with FileLock(self.folder / ".lock"):
                rejects = self._build(dataset.select(again), len(dataset), 0, work)
        return drop_rejects(dataset, rejects, max_rejected, rejects_file)

    def _build(self, dataset: Dataset, total: int, number: int, work: "_Work") -> list[Reject]:
        wanted, rejects = self._list_inputs(dataset)
        rejected = check_rejects(rejects, total, work.max_rejected, work.rejects_file)  # before hours of work
        self._reasons = {}
        for modality, inputs in wanted.items():
            for digest in self._stores[modality].open_for_writing(number, list(inputs)):
                del inputs[digest]
        self._check_space(wanted)
        for modality, inputs in wanted.items():
            self._reasons |= self._encode(modality, dataset, inputs, work)
        if self._reasons:
            for row in _input_rows(dataset):
                for modality in row["modalities"] if row["id"] not in rejected else ():
                    if reason := self._reasons.get((modality, self._digest(row, modality))):
                        rejects.append(make_reject(row, modality, reason))
        return rejects

    def _built_key(self, dataset: Dataset) -> str:
        roots = [dataset[0][modality] for modality in ("ecg", "cxr")] if len(dataset) else []
        return _hash([hash_ids(dataset), roots, [store.folder.name for store in self._stores.values()]])[:16]

    def _list_built(self, key: str, first: int, end: int) -> list[Reject] | None:
        """The rejects of rows that were gone through, by however many processes; None if some were not."""
        rejects, reached = [], first
        ranges = [path.stem.split("-")[2:] for path in self.folder.glob(f"built-{key}-*.json")]
        for start, stop in sorted((int(start), int(stop)) for start, stop in ranges):
            if start <= reached < stop or (start, stop) == (first, end):
                rejects += read_json(self.folder / f"built-{key}-{start}-{stop}.json")
                reached = max(reached, stop)
        return rejects if reached >= end else None

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
                "dataset, again if the file has changed since (`medtvt cache`)."
            )
        return torch.from_numpy(features.astype(np.float32))

    def _list_inputs(self, dataset: Dataset) -> tuple[dict[Modality, dict[str, int]], list[Reject]]:
        """Modality -> digest -> number of a row with this input; and rejects for files that are not there."""
        wanted: dict[Modality, dict[str, int]] = {modality: {} for modality in MODALITIES}
        rejects: list[Reject] = []
        for i, row in enumerate(_input_rows(dataset)):
            for modality in row["modalities"]:
                try:
                    wanted[modality].setdefault(self._digest(row, modality), i)
                except (ValueError, OSError) as error:
                    rejects.append(make_reject(row, modality, str(error)))
        return wanted, rejects

    def _digest(self, row: QARow, modality: Modality) -> str:
        if modality == "lab":
            present = {name: value for name, value in row["lab"].items() if value is not None and value == value}
            return _hash(["lab", present])
        path = cast(str, row[modality])
        files = _ecg_files(path) if modality == "ecg" else [Path(path)]
        stats = [file.stat() for file in files]
        return _hash([modality, [[str(file), s.st_size, s.st_mtime_ns] for file, s in zip(files, stats)]])

    def _check_space(self, missing: dict[Modality, dict[str, int]]) -> None:
        needed = sum(len(inputs) * self._stores[modality].entry_bytes for modality, inputs in missing.items())
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise OSError(
                errno.ENOSPC,
                f"{self.folder} needs {needed / 1e9:.2f} GB for {sum(map(len, missing.values()))} new entries, the disk "
                f"has {free / 1e9:.2f} GB left. Make room, take another disk, or halve it with `dtype='float16'` (`--feature-dtype float16`)",
            )

    def _encode(
        self, modality: Modality, dataset: Dataset, inputs: dict[str, int], work: "_Work"
    ) -> dict[tuple[Modality, str], str]:
        """Fills the store; (modality, digest) -> reason for what cannot be read or encoded."""
        store = self._stores[modality]
        reasons: dict[tuple[Modality, str], str] = {}
        items = _Inputs(dataset, list(inputs.items()), modality, self._processor)
        loader = DataLoader(items, work.batch_size, num_workers=work.num_workers, collate_fn=list)
        for batch in tqdm(loader, desc=f"{modality} features", disable=not work.progress or not inputs):
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


@dataclass
class _Work:
    """The arguments of [`FeatureCache.build`] that its steps share."""

    batch_size: int
    num_workers: int
    max_rejected: float
    rejects_file: str | os.PathLike | None
    progress: bool


def _input_rows(dataset: Dataset) -> Iterator[QARow]:
    """What says which inputs a row has, read in batches."""
    columns = dataset.select_columns(["id", "modalities", *MODALITIES])
    for start in range(0, len(columns), 1000):
        yield from columns.select(range(start, min(start + 1000, len(columns)))).to_list()


class _Inputs(torch.utils.data.Dataset):
    """Digest, and what the encoder takes in or why it cannot be had."""

    def __init__(
        self, dataset: Dataset, items: list[tuple[str, int]], modality: Modality, processor: MedTVTProcessor
    ) -> None:
        self.dataset = dataset.select_columns(["id", modality])
        self.items, self.modality, self.processor = items, modality, processor

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[str, np.ndarray | str]:
        digest, i = self.items[index]
        try:
            return digest, read_values(self.dataset[i], self.modality, self.processor)
        except ValueError as error:
            return digest, str(error)


class _Shard:
    """What one process wrote of a store, mapped into memory: digests, their order, entries."""

    def __init__(self, index: Path, data: Path) -> None:
        self.index, self.data = index, data
        self.size = -1
        self.digests, self.order = np.zeros(0, f"S{LINE_BYTES}"), np.zeros(0, np.int64)
        self.features: np.ndarray | None = None

    def find(self, digest: str) -> int | None:
        line = f"{digest}\n".encode()
        place = int(np.searchsorted(self.digests, line, sorter=self.order))
        if place == len(self.order) or self.digests[self.order[place]] != line:
            return None
        return int(self.order[place])

    def load(self, store: "_Store") -> None:
        """Reads the index, as far as its lines are complete, and maps the data; nothing where it has not grown."""
        size = self.index.stat().st_size if self.index.exists() else 0
        if size == self.size:
            return
        count = size // LINE_BYTES
        digests = np.memmap(self.index, f"S{LINE_BYTES}", "r", shape=(count,)) if count else self.digests[:0]
        for start in range(0, count, 100_000):
            lines = digests[start : start + 100_000].view(np.uint8).reshape(-1, LINE_BYTES)
            if not (HEXADECIMAL[lines[:, :-1]].all() and (lines[:, -1] == ord("\n")).all()):
                raise store.damaged(f"{self.index.name} holds something else than digests")
        order = np.argsort(digests, kind="stable")
        if count and (digests[order[1:]] == digests[order[:-1]]).any():
            raise store.damaged(f"{self.index.name} holds a digest twice")
        needed = count * (store.entry_bytes - LINE_BYTES)
        found = self.data.stat().st_size if self.data.exists() else 0
        if found < needed:
            raise store.damaged(f"{self.data.name} has {found} bytes, its index needs {needed}")
        self.digests, self.order, self.size = digests, order.astype(np.int32), size
        self.features = np.memmap(self.data, store.dtype, "r", shape=(count, *store.shape)) if count else None


class _Store:
    """The entries of one modality, encoder and processor: files that only grow."""

    def __init__(self, folder: Path, modality: Modality, key: str, shape: tuple[int, int], dtype: str) -> None:
        self.folder = folder / f"{modality}-{key[:16]}"
        self.shape, self.dtype = shape, np.dtype(dtype)
        self.entry_bytes = shape[0] * shape[1] * self.dtype.itemsize + LINE_BYTES
        self.about = {"format": FORMAT, "modality": modality, "key": key, "shape": list(shape), "dtype": dtype}
        self._shards: dict[str, _Shard] = {}
        self._written = self._shard("")
        if self.folder.exists():
            self._load()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_shards": {}, "_written": None}

    def _shard(self, suffix: str) -> _Shard:
        return _Shard(self.folder / f"index{suffix}.txt", self.folder / f"features{suffix}.bin")

    def _find(self, digest: str) -> np.ndarray | None:
        for shard in self._shards.values():
            if shard.features is not None and (position := shard.find(digest)) is not None:
                return shard.features[position]
        return None

    def read(self, digest: str) -> np.ndarray | None:
        features = self._find(digest)
        if features is None:
            self._load()  # another process may have added it
            features = self._find(digest)
        return features

    def open_for_writing(self, number: int, digests: list[str]) -> list[str]:
        """Makes or repairs the files of a process; those of the digests that are complete, whoever wrote them."""
        self.folder.mkdir(exist_ok=True)
        if not (self.folder / "cache.json").exists():
            write_text(json.dumps(self.about), self.folder / "cache.json")
        self._written = self._shard(f"-{number}" if number else "")
        self._written.index.touch()
        self._written.data.touch()
        self._load()
        count = len(self._shards[self._written.index.name].order)
        os.truncate(self._written.index, count * LINE_BYTES)
        os.truncate(self._written.data, count * (self.entry_bytes - LINE_BYTES))
        return [digest for digest in digests if self._find(digest) is not None]

    def append(self, digests: list[str], features: np.ndarray) -> None:
        """The data reach the disk before the lines that make them count."""
        try:
            _append(self._written.data, np.ascontiguousarray(features).data)
            _append(self._written.index, "".join(f"{digest}\n" for digest in digests).encode())
        except OSError as error:
            text = f"{self.folder}: {error.strerror} while writing features. What is complete is kept: make room, and "
            raise OSError(error.errno, text + "`build` goes on from there") from error

    def _load(self) -> None:
        """Maps what has been added."""
        if not self.folder.exists():
            return
        suffixes = [path.stem.removeprefix("index") for path in self.folder.glob("index*.txt")]
        try:
            about = json.loads((self.folder / "cache.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            if suffixes or any(self.folder.glob("features*.bin")):
                raise self.damaged("cache.json is missing") from None
            return
        except ValueError as error:
            raise self.damaged("cache.json is no JSON file") from error
        if about != self.about:
            raise self.damaged("cache.json does not belong to this encoder and processor")
        for suffix in sorted(suffixes):
            shard = self._shard(suffix)
            shard = self._shards.setdefault(shard.index.name, shard)
            shard.load(self)

    def damaged(self, reason: str) -> ValueError:
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
    """All files of a recording: of a WFDB record, the header and the signal files."""
    return [Path(file) for file in ecg_files(path, "ecg")]
