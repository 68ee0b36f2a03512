# SPDX-License-Identifier: Apache-2.0
"""The options of the training commands."""

import argparse
import dataclasses
import shutil
import textwrap

from ..stages.arguments import OWN_ARGUMENTS, packaged_recipes


def add_stage_options(parser: argparse.ArgumentParser, stage: str) -> None:
    """Adds `--recipe`; all other words stay in `args.overrides`, for [`run_stage`]."""
    parser.add_argument("--recipe", help=f"a YAML file, or one of {', '.join(packaged_recipes(stage))}")
    parser.set_defaults(overrides=[])
    width = shutil.get_terminal_size().columns - 2
    lines = ["options, also accepted as keys of a recipe (the command line has priority):"]
    for fields in map(dataclasses.fields, OWN_ARGUMENTS[stage]):
        for item in fields:
            required = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
            default = item.default if item.default_factory is dataclasses.MISSING else item.default_factory()
            said = "(default: " in item.metadata["help"] or default in (None, [])
            shown = " (required)" if required else "" if said else f" (default: {_write(default)})"
            line = f"  --{item.name.replace('_', '-'):<20} {item.metadata['help'].removesuffix('.')}{shown}."
            lines.append(textwrap.fill(line, width, subsequent_indent=" " * 25, break_long_words=False))
    trainer = "trl.GRPOConfig" if stage == "rft" else "transformers.TrainingArguments"
    lines += [f"  --{'out':<20} Folder for checkpoints and the result (required).", ""]
    parser.epilog = "\n".join([*lines, f"and every argument of {trainer}, such as --max_steps."])
    parser.formatter_class = argparse.RawDescriptionHelpFormatter


def _write(default: object) -> str:
    """As it is written on the command line."""
    if isinstance(default, list):
        return " ".join(map(str, default))
    return str(default).lower() if isinstance(default, bool) else str(default)
