# SPDX-License-Identifier: Apache-2.0
"""Pretrained encoders from the files of ECGFM-KED (ECG) and Symile (laboratory)."""

import os
from typing import Any

import torch

from .configuration_medtvt import MedTVTConfig, MedTVTLabConfig
from .convert_medtvt_weights_to_hf import ecg_config, read_pickled, source_name
from .modeling_medtvt_encoders import MedTVTEcgEncoder, MedTVTLabEncoder


def _state_dict(path: str | os.PathLike, key: str, prefix: str) -> dict[str, torch.Tensor]:
    """Tensors under `key` of the file whose names, but for `module.`, begin with `prefix`, without both."""
    loaded = read_pickled(path)
    if not isinstance(loaded, dict) or not isinstance(loaded.get(key), dict):
        found = ", ".join(map(str, list(loaded)[:8])) if isinstance(loaded, dict) else type(loaded).__name__
        raise ValueError(f"Checkpoint {path}: has no {key!r} with tensors; found {found}.")
    if not all(isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in loaded[key].items()):
        raise ValueError(f"Checkpoint {path}: {key!r} holds something else than named tensors.")
    tensors = {name.removeprefix("module."): tensor for name, tensor in loaded[key].items()}
    selected = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    if not selected:
        raise ValueError(f"Checkpoint {path}: {key!r} has no tensors {prefix}*; found {', '.join(list(tensors)[:8])}.")
    return selected


def _load(encoder: torch.nn.Module, tensors: dict[str, torch.Tensor], path: str | os.PathLike) -> Any:
    try:
        encoder.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"Checkpoint {path}: does not fit {type(encoder).__name__}. {error}") from error
    return encoder.eval()


def load_ecg_encoder(path: str | os.PathLike) -> MedTVTEcgEncoder:
    """
    The ECG encoder of an ECGFM-KED file (`{"ecg_model": state_dict, ...}`), whatever its depth and width. A
    classification head in the file is left out.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is refused (see [`read_pickled`]), or holds no xresnet1d.
    """
    source = {f"ecg_encoder.{name}": tensor for name, tensor in _state_dict(path, "ecg_model", "").items()}
    try:
        config = MedTVTConfig(ecg_config=ecg_config(source))
    except ValueError as error:
        raise ValueError(f"Checkpoint {path}: {error}") from error
    encoder = MedTVTEcgEncoder(config.ecg_config)
    names = {name: source_name(f"model.ecg_encoder.{name}", config) for name in encoder.state_dict()}
    lacking = sorted(set(names.values()) - set(source))
    if lacking:
        raise ValueError(f"Checkpoint {path}: lacks {', '.join(lacking[:5])} of an xresnet1d.")
    return _load(encoder, {name: source[other] for name, other in names.items()}, path)


def load_lab_encoder(path: str | os.PathLike) -> MedTVTLabEncoder:
    """
    The laboratory encoder of a Symile checkpoint of Lightning (`{"state_dict": {"labs_encoder.fc1.weight": ...}}`).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is refused (see [`read_pickled`]), or holds no laboratory encoder.
    """
    tensors = _state_dict(path, "state_dict", "labs_encoder.")
    try:
        intermediate_size, num_inputs = tensors["fc1.weight"].shape
        hidden_size = tensors["fc2.weight"].shape[0]
    except (KeyError, ValueError) as error:
        raise ValueError(f"Checkpoint {path}: labs_encoder has no matrices fc1.weight and fc2.weight.") from error
    config = MedTVTLabConfig(num_labs=num_inputs // 2, intermediate_size=intermediate_size, hidden_size=hidden_size)
    return _load(MedTVTLabEncoder(config), tensors, path)
