# SPDX-License-Identifier: Apache-2.0
"""The `medtvt` command: its table of subcommands, and what becomes of their errors."""

import argparse
import dis
import importlib
import logging
import sys
from types import ModuleType
from typing import NamedTuple

from .extras import require_extra


class Command(NamedTuple):
    """A module of `commands` with `add_arguments(parser)` and `run(args)`, its summary, and the extra that it needs."""

    module: str
    summary: str
    extra: str | None = None


COMMANDS = {
    "demo": Command("demo", "run a model on a synthetic example patient, or on your own files"),
    "diagnose": Command("diagnose", "run a model on one patient's files, or on a table of patients"),
    "labs": Command("labs", "print the labs that the model knows: units, names, codes, reference ranges"),
    "init": Command("init", "create a model, tiny or from pretrained parts"),
    "convert": Command("convert", "convert a checkpoint of the authors"),
    "synthesize": Command("synthesize", "write a synthetic cohort with known causes, as MedTVT-QA", "train"),
    "open-data": Command("open_data", "write open data sets (PTB-XL, chest films with labels) as MedTVT-QA", "train"),
    "train-encoders": Command(
        "train_encoders", "train the encoders to predict the findings of their modality", "train"
    ),
    "pretrain": Command("pretrain", "PT: projectors and language model learn to describe one modality", "train"),
    "finetune": Command(
        "finetune", "SFT: perception layer and language model learn to diagnose with evidence", "train"
    ),
    "reinforce": Command("reinforce", "RFT: GRPO with the format and Jaccard rewards", "train"),
    "cache": Command("cache", "run the frozen encoders over a dataset before training, on all your devices", "train"),
    "merge": Command("merge", "merge a LoRA adapter into its base model", "train"),
    "evaluate": Command("evaluate", "generate answers to a dataset's questions and compute metrics", "train"),
    "calibrate": Command("calibrate", "fit the probabilities of a model's answers on a validation split", "train"),
    "metrics": Command("metrics", "compute the metrics of existing answers", "train"),
    "baseline": Command("baseline", "evaluate another model, or gradient boosting, on the same records", "train"),
    "ablate": Command("ablate", "train and evaluate the ablations of the paper", "train"),
    "build-qa": Command("build_qa", "build MedTVT-QA from MIMIC, step by step", "qa"),
    "card": Command("card", "write a model card or a dataset card", "train"),
    "push": Command("push", "upload a model with its code and card to the Hub", "train"),
    "export": Command("export", "write a checkpoint folder that includes its code"),
}
DESCRIPTION = """\
MedTVT-R1 for transformers: a 12-lead ECG, a chest X-ray and a blood panel in, a reasoned diagnosis out.

For research only: not a medical device, not for the care of patients."""
EXAMPLES = """\
examples:
  medtvt demo                                           an example patient through the model, in seconds
  medtvt init --tiny my-model                           a small random model to build on
  medtvt diagnose --model my-model --ecg record.hea --cxr chest.png --lab labs.csv
  medtvt diagnose --model my-model --lab labs.csv --num-samples 8 --json
  medtvt diagnose --patient patients/0042 --report 0042.html         files told apart by their content
  medtvt diagnose --batch patients.csv --out answers.jsonl --csv answers.csv
  medtvt init --text DIR --cxr DIR --ecg F --lab F --out my-model    a model from pretrained parts
  medtvt convert --checkpoint F --params params.json --tokenizer tokenizer.model --lab-means F --out medtvt-r1
  medtvt export --model my-model --out for-the-hub
  medtvt synthesize --patients 1000 --out cohort --report            a cohort to train and test on
  medtvt finetune --recipe tiny --data cohort --model pt/final --out sft
  medtvt evaluate --model sft/final --data cohort --split test --out results

`medtvt COMMAND --help` explains a command."""
PACKAGES = ("medtvt_training", "modeling_medtvt", "processing_medtvt")


def build_parser(command: str | None) -> argparse.ArgumentParser:
    """The parser; only the chosen command's module is imported, so that help is quick."""
    parser = argparse.ArgumentParser(
        prog="medtvt",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (module, summary, _) in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        if name == command:
            _import(module).add_arguments(subparser)
    return parser


def _import(module: str) -> ModuleType:
    return importlib.import_module(f".commands.{module}", __package__)


def is_refusal(error: BaseException) -> bool:
    """
    Whether an error says that an input, the disk or the installation is not as it should be: a ValueError or ImportError
    that this project raises itself, or an OSError. Anything else is a bug, and its traceback is needed.
    """
    if isinstance(error, OSError):
        return True
    traceback = error.__traceback__
    if not isinstance(error, (ValueError, ImportError)) or traceback is None:
        return False
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    frame = traceback.tb_frame
    raised_here = frame.f_code.co_code[traceback.tb_lasti] == dis.opmap["RAISE_VARARGS"]
    return raised_here and frame.f_globals.get("__name__", "").split(".")[0] in PACKAGES


def run(argv: list[str]) -> None:
    """
    Runs a subcommand.

    Raises:
        ImportError: if the command needs an extra that is not installed.
        ValueError, OSError: if the command refuses what it was given.
    """
    command = argv[0] if argv else None
    if command in COMMANDS and (extra := COMMANDS[command].extra):
        require_extra(extra, f"medtvt {command}")
    parser = build_parser(command)
    args, rest = parser.parse_known_args(argv)
    if hasattr(args, "overrides"):  # options of a training stage, which its dataclasses define
        args.overrides = rest
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    _import(COMMANDS[args.command].module).run(args)


def main(argv: list[str] | None = None) -> int:
    """Runs a subcommand. What is refused ends in one line and exit code 2; bugs keep their traceback."""
    argv = sys.argv[1:] if argv is None else argv
    logging.basicConfig(format="%(message)s")
    logging.getLogger(__package__).setLevel(logging.INFO)
    try:
        run(argv)
    except Exception as error:
        if not is_refusal(error):
            raise
        print(f"medtvt {argv[0]}: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
