# SPDX-License-Identifier: Apache-2.0
"""Opening a checkpoint folder, with one error for all that may be wrong with it."""

import os
import re
import textwrap
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoProcessor


# What transformers and the libraries below it raise on a damaged or foreign folder
_OPEN_ERRORS = (
    OSError,
    RuntimeError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    SafetensorError,
    StrictDataclassError,
)


def check_checkpoint_name(name: str | os.PathLike) -> str:
    """
    Raises:
        ValueError: if `name` is no folder and cannot be a Hub repository (ORG/NAME) either. Nothing is asked of the Hub.
    """
    name = os.fspath(name)
    if not os.path.isdir(name) and not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name):
        raise ValueError(f"There is no folder {name!r}.")
    return name


def read_config(name: str | os.PathLike) -> Any:
    """
    The [`MedTVTConfig`] of a checkpoint folder or Hub repository.

    Raises:
        ValueError: if there is none, or it cannot be read.
    """
    name = check_checkpoint_name(name)
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    except _OPEN_ERRORS as error:
        raise ValueError(f"{name} does not open as a MedTVT checkpoint. {_describe(error)}") from error
    if config.model_type != "medtvt":
        raise ValueError(f"{name} holds a model of type {config.model_type!r}, not a MedTVT checkpoint.")
    return config


def open_checkpoint(name: str | os.PathLike, **kwargs: Any) -> tuple[Any, Any]:
    """
    Model and processor of a checkpoint folder or Hub repository, with the installed code even where the folder brings
    its own.

    Args:
        kwargs: Of `from_pretrained` of the model.

    Returns:
        [`MedTVTForCausalLM`] and its processor.

    Raises:
        ValueError: if the folder does not open, or holds something else.
    """
    name = check_checkpoint_name(name)
    config = None if (Path(name) / "adapter_config.json").exists() else read_config(name)
    try:
        model = AutoModelForCausalLM.from_pretrained(name, trust_remote_code=False, **kwargs)
        processor = AutoProcessor.from_pretrained(name, trust_remote_code=False)
    except _OPEN_ERRORS as error:
        raise ValueError(f"{name} does not open as a MedTVT checkpoint. {_describe(error)}") from error
    if config is None and model.config.model_type != "medtvt":
        raise ValueError(f"{name} holds a model of type {model.config.model_type!r}, not a MedTVT checkpoint.")
    return model, processor


def _describe(error: BaseException) -> str:
    said = isinstance(error, (OSError, ValueError, RuntimeError, StrictDataclassError))
    # some quote a value, however long
    return textwrap.shorten(str(error) if said else f"{type(error).__name__}: {error}", 1000)


__all__ = ["check_checkpoint_name", "open_checkpoint", "read_config"]
