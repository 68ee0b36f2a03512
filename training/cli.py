# SPDX-License-Identifier: Apache-2.0
"""The `medtvt` command. Each subcommand is a module with `add_arguments(parser)` and `run(args)`."""

import argparse
import importlib
import sys


COMMANDS = {
    "demo": ("training.demo", "draw an example patient and run a model on it, or on your own files"),
    "diagnose": ("training.diagnose", "run a model on one patient's files, any subset of ECG, X-ray and labs"),
    "init": ("training.initialize", "write a fresh model folder, tiny or from pretrained parts"),
    "convert": ("modeling_medtvt.convert_medtvt_weights_to_hf", "turn a checkpoint of the authors into a folder"),
    "synthesize": ("training.synthesize", "write a cohort of imaginary patients with known causes, as MedTVT-QA"),
    "export": ("training.export", "write a folder that loads anywhere, with its code inside"),
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
  medtvt init --text DIR --cxr DIR --ecg F --lab F --out my-model    a model from pretrained parts
  medtvt convert --checkpoint F --params params.json --tokenizer tokenizer.model --lab-means F --out medtvt-r1
  medtvt export --model my-model --out for-the-hub

`medtvt COMMAND --help` explains a command."""


def build_parser(command: str | None) -> argparse.ArgumentParser:
    """The parser; only the chosen command's module is imported, so that help is quick."""
    parser = argparse.ArgumentParser(
        prog="medtvt",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (module_name, summary) in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        if name == command:
            importlib.import_module(module_name).add_arguments(subparser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs a subcommand. Input errors end in one line and exit code 2; bugs keep their traceback."""
    argv = sys.argv[1:] if argv is None else argv
    args = build_parser(argv[0] if argv else None).parse_args(argv)
    try:
        importlib.import_module(COMMANDS[args.command][0]).run(args)
    except (ValueError, OSError, ImportError) as error:
        print(f"medtvt {args.command}: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
