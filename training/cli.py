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
    "train-encoders": ("training.train_encoders", "teach the encoders the findings of their modality"),
    "pretrain": ("training.pretrain", "PT: projectors and language model learn to describe one modality"),
    "finetune": ("training.finetune", "SFT: perception layer and language model learn to diagnose with evidence"),
    "reinforce": ("training.reinforce", "RFT: GRPO with the format and Jaccard rewards"),
    "merge": ("training.merge", "fold a LoRA adapter into its model"),
    "evaluate": ("training.evaluate", "answer a dataset's questions and measure the answers"),
    "metrics": ("training.recompute_metrics", "measure answers that are already there"),
    "baseline": ("training.baseline", "the same measurements for another model, or for gradient boosting"),
    "ablate": ("training.ablate", "train and evaluate the variants of the paper's tables, side by side"),
    "build-qa": ("training.build_qa", "MedTVT-QA from your MIMIC folders, step by step"),
    "card": ("training.cards", "write the card of a model or a dataset from its own files"),
    "push": ("training.push", "put a model on the Hub: its folder, its code, its card"),
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
  medtvt synthesize --patients 1000 --out cohort --report            a cohort to train and test on
  medtvt finetune --config tiny --data cohort --model pt/final --output_dir sft
  medtvt evaluate --model sft/final --data cohort --split test --out results

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
    parser = build_parser(argv[0] if argv else None)
    args, rest = parser.parse_known_args(argv)
    if hasattr(args, "overrides"):  # arguments of a training stage, which its recipe's dataclasses define
        args.overrides = rest
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        importlib.import_module(COMMANDS[args.command][0]).run(args)
    except (ValueError, OSError, ImportError) as error:
        print(f"medtvt {args.command}: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
