# SPDX-License-Identifier: Apache-2.0
"""Data, training, evaluation and sharing of MedTVT-R1, and the `medtvt` command."""

from importlib import import_module
from typing import Any


# imported on first use: what does not train stays quick, and needs no extra
_EXPORTS = {
    "FeatureCache": ".data.feature_cache",
    "MedTVTDataCollator": ".data.collator",
    "MedTVTGRPOTrainer": ".stages.grpo_trainer",
    "load_medtvt_qa": ".data.load",
}
__all__ = list(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("processing_medtvt").__version__
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .extras import require_extra

    require_extra("train", f"medtvt_training.{name}")
    return getattr(import_module(_EXPORTS[name], __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})
