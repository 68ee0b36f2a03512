# SPDX-License-Identifier: Apache-2.0
"""Commands and training of MedTVT-R1."""

from importlib import import_module


# imported on first use: the commands that do not train stay quick, and need no extra
_EXPORTS = {
    "FeatureCache": "training.features",
    "MedTVTDataCollator": "training.collator",
    "MedTVTGRPOTrainer": "training.grpo_trainer",
    "format_reward": "training.rewards",
    "jaccard_reward": "training.rewards",
    "load_medtvt_qa": "training.data",
}

__all__ = list(_EXPORTS)


def __getattr__(name):
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)


def __dir__():
    return sorted({*globals(), *_EXPORTS})
