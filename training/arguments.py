# SPDX-License-Identifier: Apache-2.0
"""Arguments of the training stages, and the recipes (YAML) that hold their defaults."""

import argparse
import dataclasses
import difflib
import json
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from transformers import HfArgumentParser


RECIPES = Path(__file__).parent / "recipes"
LORA_TARGETS = r".*language_model\..*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


@dataclass
class ModelArguments:
    """What is trained."""

    model: str = field(metadata={"help": "Folder (or Hub id) of the MedTVT model to start from."})
    tuning: str = field(
        default="lora",
        metadata={
            "help": "'lora': LoRA on the language model. 'full': all of the language model, for one that is not pretrained.",
            "choices": ["lora", "full"],
        },
    )
    dtype: str = field(
        default="float32",
        metadata={
            "help": "Precision of what is frozen; what is trained is always float32.",
            "choices": ["float32", "bfloat16"],
        },
    )
    load_in_4bit: bool = field(
        default=False, metadata={"help": "Hold the frozen language model in 4 bits (QLoRA, bitsandbytes NF4)."}
    )
    chunked_loss: bool = field(
        default=False,
        metadata={
            "help": "Compute logits a chunk at a time, where there are labels: saves memory with a large vocabulary."
        },
    )
    lora_rank: int = field(default=8, metadata={"help": "Rank of LoRA."})
    lora_alpha: int = field(default=8, metadata={"help": "Scale of LoRA; its weights count alpha / rank times."})
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout before LoRA."})
    lora_targets: str = field(
        default=LORA_TARGETS, metadata={"help": "Regular expression of the adapted linear layers' whole names."}
    )


@dataclass
class DataArguments:
    """What it is trained on."""

    data: str = field(metadata={"help": "Folder of a MedTVT-QA dataset."})
    ecg_root: str | None = field(default=None, metadata={"help": "Folder of the ECG paths (default: the dataset's)."})
    cxr_root: str | None = field(
        default=None, metadata={"help": "Folder of the X-ray paths (default: the dataset's)."}
    )
    max_rejected: float = field(
        default=0.01, metadata={"help": "Share of rows that may be unusable before the run is refused."}
    )
    max_length: int | None = field(
        default=None, metadata={"help": "Rows of more tokens are left out, with a note, never cut."}
    )
    feature_cache: str | None = field(
        default=None, metadata={"help": "Folder for the frozen encoders' outputs, so that each file is read once."}
    )
    max_eval_rows: int | None = field(
        default=None, metadata={"help": "Validation rows to take the validation loss on (default: all)."}
    )
    resume: bool = field(
        default=False, metadata={"help": "Go on from the last whole checkpoint in the output folder, if there is one."}
    )


class StageParser(HfArgumentParser):
    """Errors are raised, so that the recipe's and the command line's read alike."""

    def __init__(self, dataclass_types):
        super().__init__(dataclass_types, allow_abbrev=False, add_help=False)

    def error(self, message):
        raise ValueError(message)


def add_stage_arguments(parser, stage: str, dataclass_types):
    """`--config`; everything else stays in `args.overrides`, for [`parse_stage_arguments`]."""
    parser.add_argument("--config", help=f"recipe: a YAML file, or one of {', '.join(packaged_recipes(stage))}")
    parser.set_defaults(overrides=[])
    lines = ["arguments, also keys of a recipe (the command line wins):"]
    for fields in map(dataclasses.fields, dataclass_types):
        for item in fields:
            required = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
            default = item.default if item.default_factory is dataclasses.MISSING else item.default_factory()
            default = "required" if required else f"default: {default}"
            lines.append(f"  --{item.name:<20} {item.metadata['help']} ({default})")
    parser.epilog = "\n".join(
        [*lines, "", "and every argument of transformers.TrainingArguments, such as --output_dir."]
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter


def parse_stage_arguments(stage: str, dataclass_types, config: str | None, overrides: list[str]) -> tuple:
    """
    Reads a recipe and a command line into dataclasses.

    Args:
        stage (`str`): Name of the recipe file, e.g. `"finetune"`, where `config` names a packaged recipe.
        dataclass_types: As for `HfArgumentParser`.
        config (`str`, *optional*): Path of a YAML file, or the name of a folder under `training/recipes`.
        overrides (`list[str]`): `--key value` pairs, which win over the recipe.

    Raises:
        ValueError: if the recipe cannot be read, a key is unknown, a value is not of its type, or one is missing.
    """
    parser = StageParser(dataclass_types)
    path, recipe = read_recipe(stage, config) if config else (None, {})
    known = {item.name for fields in map(dataclasses.fields, dataclass_types) for item in fields if item.init}
    for key in recipe:
        if key not in known:
            raise ValueError(f"{path}: unknown key {key!r}{_suggest(key, known)}.")
    # through the command line's own conversions, so that 1e-4, which YAML takes for text, is a number
    parser.set_defaults(**{key: None for key, value in recipe.items() if value is None})
    words = [word for key, value in recipe.items() if value is not None for word in _to_words(key, value)]
    try:
        *parsed, rest = parser.parse_args_into_dataclasses(
            [*words, *overrides], return_remaining_strings=True, look_for_args_file=False
        )
    except ValueError as error:
        raise ValueError(f"{error} (recipe: {path})" if path else str(error)) from error
    if rest:
        name = rest[0].split("=")[0].lstrip("-").replace("-", "_")
        raise ValueError(f"unknown argument {rest[0]!r}{_suggest(name, known)}.")
    return tuple(parsed)


def packaged_recipes(stage: str) -> list[str]:
    """Names of the packaged recipes of a stage."""
    return sorted(path.parent.name for path in RECIPES.glob(f"*/{stage}.yaml"))


def read_recipe(stage: str, config: str) -> tuple[Path, dict]:
    """Path and content of a recipe, given by path or by its packaged name."""
    path = Path(config)
    if not path.is_file():
        path = RECIPES / config / f"{stage}.yaml"
    if not path.is_file():
        raise ValueError(
            f"{config!r} is neither a file nor a packaged recipe of this stage ({', '.join(packaged_recipes(stage))})."
        )
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no YAML file. {error}") from error
    if not isinstance(recipe, dict):
        raise ValueError(f"{path} must hold `key: value` lines, found a {type(recipe).__name__}.")
    return path, recipe


def _to_words(key: str, value) -> list[str]:
    if isinstance(value, dict):
        value = json.dumps(value)
    if isinstance(value, list):
        return [f"--{key}", *map(str, value)]
    return [f"--{key}={value}"]


def _suggest(name: str, known: set[str]) -> str:
    close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0)[0]
    return f"; the nearest known one is {close!r}"
