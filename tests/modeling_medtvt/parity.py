# SPDX-License-Identifier: Apache-2.0
"""The parity fixture: the authors' numbers for seeded weights, and the rule that gives those weights."""

import argparse
import hashlib
import json
import math
import zlib
from pathlib import Path

import numpy as np
import torch

from tests.toy import FIXTURES


FOLDER = FIXTURES / "parity"
SEED = 20250624


def fill(name: str, shape: list[int], dtype: str) -> np.ndarray:
    """Value of one tensor by the fixture's rule: it depends on name and shape alone."""
    if dtype == "int64":
        return np.zeros(shape, dtype=np.int64)
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode()) ^ SEED))
    z = generator.standard_normal(size=math.prod(shape), dtype=np.float32).reshape(shape)
    one, tenth = np.float32(1), np.float32(0.1)
    if name.endswith(".running_var"):
        return one + tenth * np.abs(z)
    if name.endswith(".running_mean"):
        return tenth * z
    if name.endswith((".position_embeddings", ".cls_token")):
        return np.float32(0.5) * z
    if len(shape) == 1:
        return one + tenth * z if name.endswith(".weight") else np.float32(0.05) * z
    return z * np.float32(1 / math.sqrt(math.prod(shape[1:])))


def read_spec(stage: int) -> list[dict]:
    """Name, shape, dtype and sha256 of every tensor of a stage 1 (PT) or 3 (SFT, RFT) checkpoint, in its order."""
    spec = json.loads((FOLDER / "state_dict_spec.json").read_text())
    entries = [entry for entry in spec["tensors"] if stage in entry["stages"]]
    if len(entries) != spec[f"stage{stage}_total_tensors"]:
        raise ValueError(f"{len(entries)} tensors in stage {stage}, expected {spec[f'stage{stage}_total_tensors']}")
    return entries


def make_state_dict(stage: int) -> dict[str, torch.Tensor]:
    """The fixture's checkpoint, every tensor checked against its sha256."""
    state_dict = {}
    for entry in read_spec(stage):
        values = fill(entry["name"], entry["shape"], entry["dtype"])
        if hashlib.sha256(values.tobytes()).hexdigest() != entry["sha256"]:
            raise ValueError(f"{entry['name']}: the fill rule gives other bytes than those the numbers were made with")
        state_dict[entry["name"]] = torch.from_numpy(values)
    return state_dict


def make_hollow_state_dict(stage: int) -> dict[str, torch.Tensor]:
    """Right names and shapes, one stored number a tensor: for files that are refused before their values count."""
    return {entry["name"]: torch.zeros(()).expand(entry["shape"]) for entry in read_spec(stage)}


def save_pt(state_dict: dict[str, torch.Tensor], path: Path) -> Path:
    """Writes a PT or SFT file as the authors' training does."""
    optimizer = {"state": {0: {"step": torch.tensor(1.0), "exp_avg": torch.zeros(8)}}, "param_groups": [{"lr": 1e-4}]}
    args = argparse.Namespace(batch_size=8, epochs=20, llama_path="/data/llama", output_dir="./output")
    torch.save(
        {"model": state_dict, "optimizer": optimizer, "epoch": 19, "scaler": {"scale": 65536.0}, "args": args}, path
    )
    return path


def save_rft(state_dict: dict[str, torch.Tensor], path: Path) -> Path:
    """Writes an RFT file: the state dict alone, its keys prefixed by DataParallel."""
    torch.save({f"module.{name}": tensor for name, tensor in state_dict.items()}, path)
    return path
