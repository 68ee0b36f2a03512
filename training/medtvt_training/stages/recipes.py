# SPDX-License-Identifier: Apache-2.0
"""Recipes: YAML files with the defaults of a stage's arguments, which a command line may override."""

import dataclasses
import difflib
import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml
from transformers import HfArgumentParser, TrainingArguments

from .arguments import OWN_ARGUMENTS, RECIPE_NAMES, RECIPES, packaged_recipes


class StageParser(HfArgumentParser):
    """Raises its errors, so that those of a recipe and of a command line read alike."""

    def __init__(self, dataclass_types: Sequence[Any]) -> None:
        super().__init__(dataclass_types, allow_abbrev=False, add_help=False)

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def stage_arguments(stage: str) -> tuple[type, ...]:
    """The dataclasses that hold a stage's arguments: its own, then the trainer's."""
    if stage == "rft":
        from trl import GRPOConfig

        return (*OWN_ARGUMENTS[stage], GRPOConfig)
    return (*OWN_ARGUMENTS[stage], TrainingArguments)


def parse_arguments(stage: str, recipe: str | None, overrides: Sequence[str]) -> tuple:
    """
    Reads a recipe and a command line into the dataclasses of a stage.

    Args:
        stage (`str`): One of `RECIPE_NAMES`.
        recipe (`str`, *optional*): Path of a YAML file, or the name of a folder of packaged recipes.
        overrides (`list[str]`): Words of a command line, which win over the recipe. The stage's own options are spelled
            with dashes, those of `TrainingArguments` as transformers spells them; `--out` sets `output_dir`.

    Raises:
        ValueError: if the recipe cannot be read, a key is unknown, a value is not of its type, or one is missing.
    """
    types = stage_arguments(stage)
    parser = StageParser(types)
    path, content = read_recipe(stage, recipe) if recipe else (None, {})
    known = {item.name for fields in map(dataclasses.fields, types) for item in fields if item.init}
    for key in content:
        if key not in known:
            raise ValueError(f"{path}: unknown key {str(key)[:100]!r}{_suggest(str(key), known)}.")
    # through the command line's own conversions, so that 1e-4, which YAML takes for text, is a number
    parser.set_defaults(**{key: None for key, value in content.items() if value is None})
    words = [word for key, value in content.items() if value is not None for word in _to_words(key, value)]
    try:
        *parsed, rest = parser.parse_args_into_dataclasses(
            [*words, *_spell(overrides, stage)], return_remaining_strings=True, look_for_args_file=False
        )
    # what transformers' and trl's arguments raise on values that they cannot use
    except (ArithmeticError, AttributeError, ImportError, KeyError, TypeError, ValueError) as error:
        text = textwrap.shorten(str(error), 500)  # it quotes the value, however long
        raise ValueError(f"{text} (recipe: {path})" if path else text) from error
    if rest:
        name = rest[0].split("=")[0].lstrip("-").replace("-", "_")
        where = f" (recipe: {path})" if path else ""
        raise ValueError(f"unknown argument {rest[0][:100]!r}{_suggest(name, known)}{where}.")
    return tuple(parsed)


def read_recipe(stage: str, recipe: str) -> tuple[Path, dict[str, Any]]:
    """Path and content of a recipe, given as a file, as a folder with a file for each stage, or by its packaged name."""
    name = f"{RECIPE_NAMES[stage]}.yaml"
    path = Path(recipe, name) if Path(recipe).is_dir() else Path(recipe)
    if not path.is_file():
        path = RECIPES / recipe / name
    if not path.is_file():
        raise ValueError(
            f"{recipe!r} is neither a file nor a packaged recipe of this stage ({', '.join(packaged_recipes(stage))})."
        )
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError) as error:  # dates that are none are ValueErrors
        raise ValueError(f"{path} is no YAML file. {str(error)[:500]}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold `key: value` lines, found a {type(content).__name__}.")
    return path, content


def _spell(overrides: Sequence[str], stage: str) -> list[str]:
    own = {item.name for fields in map(dataclasses.fields, OWN_ARGUMENTS[stage]) for item in fields}
    words = []
    for word in overrides:
        option, *value = word.split("=", 1)
        if "_" in option and option.removeprefix("--") in own:
            raise ValueError(f"unknown argument {option!r}; it is spelled {option.replace('_', '-')!r}.")
        words.append("=".join(["--output_dir" if option == "--out" else option, *value]))
    return words


def _to_words(key: str, value: Any) -> list[str]:
    if isinstance(value, dict):
        value = json.dumps(value, default=str)
    if isinstance(value, list):
        return [f"--{key}", *map(str, value)]
    return [f"--{key}={value}"]


def _suggest(name: str, known: set[str]) -> str:
    close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0)[0]
    return f"; the nearest known one is {close!r}"
