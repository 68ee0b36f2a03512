# SPDX-License-Identifier: Apache-2.0
"""The `medtvt` command: its table of subcommands, and what becomes of their errors."""

import argparse
import dis
import importlib
import logging
import sys
from importlib import metadata
from types import ModuleType
from typing import Any, NamedTuple

import shtab

from .extras import require_extra


logger = logging.getLogger(__name__)


class Command(NamedTuple):
    """
    A subcommand.

    Args:
        module (`str`): of `commands`, with `add_arguments(parser)` and `run(args)`.
        summary (`str`): what it does.
        example (`str`): a command line that works, where the files are there.
        next (`str`, *optional*): what people run after it.
        extra (`str`, *optional*): what must be installed for it.
    """

    module: str
    summary: str
    example: str
    next: str | None = None
    extra: str | None = None


GROUPS = {
    "answer": {
        "demo": Command(
            "demo",
            "run a model on a synthetic example patient, or on your own files",
            "medtvt demo --ecg record.hea --lab labs.csv",
            "medtvt diagnose --ecg FILE --cxr FILE --lab FILE",
        ),
        "diagnose": Command(
            "diagnose",
            "run a model on one patient's files, or on a table of patients",
            "medtvt diagnose --ecg record.hea --cxr chest.png --lab labs.csv --report report.html",
        ),
        "serve": Command(
            "serve",
            "answer over HTTP, several patients at a time",
            "medtvt serve --model medtvt-r1 --port 8000",
            extra="serve",
        ),
        "labs": Command(
            "labs", "print the labs that the model knows: units, names, codes, reference ranges", "medtvt labs --json"
        ),
    },
    "model": {
        "init": Command(
            "init",
            "create a model, tiny or from pretrained parts",
            "medtvt init --tiny my-model",
            "medtvt train-encoders --recipe tiny --model MODEL --data COHORT --out encoders",
        ),
        "convert": Command(
            "convert",
            "convert a checkpoint of the authors",
            "medtvt convert --checkpoint F --params params.json --tokenizer tokenizer.model --lab-means F --out medtvt-r1",
            "medtvt diagnose --model OUT --ecg FILE --cxr FILE --lab FILE",
        ),
        "merge": Command(
            "merge",
            "merge a LoRA adapter into its base model",
            "medtvt merge --adapter sft/final --out merged",
            "medtvt evaluate --model OUT --data COHORT --split test --out results",
            "train",
        ),
        "export": Command(
            "export",
            "write a checkpoint folder that includes its code",
            "medtvt export --model my-model --out for-the-hub",
            "medtvt push --help",
        ),
    },
    "data": {
        "synthesize": Command(
            "synthesize",
            "write a synthetic cohort with known causes, as MedTVT-QA",
            "medtvt synthesize --patients 1000 --out cohort --report",
            "medtvt init --tiny my-model",
            "train",
        ),
        "build-qa": Command(
            "build_qa",
            "build MedTVT-QA from MIMIC, step by step",
            "medtvt build-qa all --mimic-iv DIR --mimic-ecg DIR --mimic-cxr DIR --cxr-reports DIR --out BUILD",
            "medtvt train-encoders --model MODEL --data FOLDER --out encoders",
            "qa",
        ),
        "open-data": Command(
            "open_data",
            "write PTB-XL or labeled chest films, open real data, as MedTVT-QA",
            "medtvt open-data --ptb-xl ptb-xl-1.0.3 --out open-ecg",
            "medtvt train-encoders --recipe tiny --model MODEL --data COHORT --extra-data OUT --out encoders",
            "train",
        ),
        "cache": Command(
            "cache",
            "run the frozen encoders over a dataset before training, on all your devices",
            "medtvt cache --model encoders/final --data cohort --out features",
            "medtvt pretrain --model encoders/final --data cohort --feature-cache features --out pt",
            "train",
        ),
    },
    "train": {
        "train-encoders": Command(
            "train_encoders",
            "train the encoders to predict the findings of their modality",
            "medtvt train-encoders --recipe tiny --model my-model --data cohort --out encoders",
            "medtvt pretrain --recipe tiny --model OUT/final --data COHORT --out pt",
            "train",
        ),
        "pretrain": Command(
            "pretrain",
            "PT: projectors and language model learn to describe one modality",
            "medtvt pretrain --recipe tiny --model encoders/final --data cohort --out pt",
            "medtvt finetune --recipe tiny --model OUT/final --data COHORT --out sft",
            "train",
        ),
        "finetune": Command(
            "finetune",
            "SFT: perception layer and language model learn to diagnose with evidence",
            "medtvt finetune --recipe tiny --model pt/final --data cohort --out sft",
            "medtvt evaluate --model OUT/final --data COHORT --split test --out results",
            "train",
        ),
        "reinforce": Command(
            "reinforce",
            "RFT: GRPO with the format and Jaccard rewards",
            "medtvt reinforce --recipe tiny --model sft/final --data cohort --out rft",
            "medtvt evaluate --model OUT/final --data COHORT --split test --out results",
            "train",
        ),
    },
    "measure": {
        "evaluate": Command(
            "evaluate",
            "generate answers to a dataset's questions and compute metrics",
            "medtvt evaluate --model sft/final --data cohort --split test --out results",
            "medtvt card --help",
            "train",
        ),
        "calibrate": Command(
            "calibrate",
            "fit the probabilities of a model's answers on a validation split",
            "medtvt calibrate --model sft/final --data cohort --out calibration",
            "medtvt evaluate --model MODEL --data COHORT --split test --out results",
            "train",
        ),
        "metrics": Command(
            "metrics",
            "compute the metrics of existing answers",
            "medtvt metrics --predictions results/predictions.jsonl --out metrics",
            None,
            "train",
        ),
        "baseline": Command(
            "baseline",
            "evaluate another model, or gradient boosting, on the same records",
            "medtvt baseline --encoders sft/final --data cohort --out boosting",
            None,
            "train",
        ),
        "probe": Command(
            "probe",
            "measure what linear probes read from the encoders and from the tokens",
            "medtvt probe --model sft/final --data cohort --out probe",
            None,
            "train",
        ),
        "ablate": Command(
            "ablate",
            "train and evaluate the ablations of the paper",
            "medtvt ablate --recipe tiny --model encoders/final --data cohort --out ablation",
            None,
            "train",
        ),
    },
    "share": {
        "card": Command(
            "card",
            "write a model card or a dataset card",
            "medtvt card --model sft/final --metrics results/metrics.json",
            "medtvt push --help",
            "train",
        ),
        "push": Command(
            "push",
            "upload a model with its code and card to the Hub",
            "medtvt push --model sft/final --repo ORG/NAME --dry-run",
            None,
            "train",
        ),
    },
}
COMMANDS = {name: command for group in GROUPS.values() for name, command in group.items()}
DESCRIPTION = """\
MedTVT-R1 for transformers: a 12-lead ECG, a chest X-ray and a blood panel in, a reasoned diagnosis out.

For research only: not a medical device, not for the care of patients."""
PACKAGES = ("medtvt_training", "modeling_medtvt", "processing_medtvt")


def build_parser(command: str | None) -> argparse.ArgumentParser:
    """The parser; only the chosen command's module is imported, so that help is quick."""
    width = max(map(len, COMMANDS))
    groups = [
        "\n".join([f"{group}:", *(f"  {name:<{width}}  {found.summary}" for name, found in commands.items())])
        for group, commands in GROUPS.items()
    ]
    parser = argparse.ArgumentParser(
        prog="medtvt",
        usage="medtvt COMMAND [options]",
        description="\n\n".join([DESCRIPTION, *groups]),
        epilog="`medtvt COMMAND --help` explains a command, with an example.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"medtvt-r1 {metadata.version('medtvt-r1')}")
    shtab.add_argument_to(parser, "--print-completion", help="print the completion script of a shell")
    completing = command == "--print-completion"
    # the groups above list the commands; shtab knows those with a help only
    subparsers = parser.add_subparsers(
        dest="command", prog="medtvt", metavar="COMMAND", help="a command" if completing else argparse.SUPPRESS
    )
    for name, (module, summary, example, _, extra) in COMMANDS.items():
        listed: dict[str, Any] = {"help": summary} if completing else {}
        subparser = subparsers.add_parser(
            name,
            **listed,
            description=f"{summary[0].upper()}{summary[1:]}.\n\nexample:\n  {example}"
            + (f"\n\nneeds:\n  pip install 'medtvt-r1[{extra}]'" if extra else ""),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if completing or name == command:
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
    parser = build_parser(command)
    args, rest = parser.parse_known_args(argv)
    if args.command is None:
        parser.print_help()
        return
    if extra := COMMANDS[args.command].extra:
        require_extra(extra, f"medtvt {args.command}")
    if hasattr(args, "overrides"):  # options of a training stage, which its dataclasses define
        args.overrides = rest
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    _import(COMMANDS[args.command].module).run(args)
    if following := COMMANDS[args.command].next:
        logger.info("next: %s", following)


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
