# SPDX-License-Identifier: Apache-2.0
"""
What a model reads of real ECGs and films that it learned nothing from: five-fold cross-validation over patients.

    python -m tests.benchmarks.open_folds --model pt/final --data cohort --ptb-xl ptbxl --films nih/labels.csv --out folds

A fold is two of the ten folds of `medtvt open-data`. For each, encoders, PT and SFT learn from the others by the recipes
`tiny-open` and `tiny`, but for one epoch (encoders) and half of one (SFT); `--model` must have seen none of the records.
With `--folds 1 2`, say, only those are trained, so that several machines can share the work. What is there already is taken
up. Once all are there, the answers are pooled.
"""

import argparse
from pathlib import Path

from medtvt_training import cli
from medtvt_training.evaluation.open_data import read_open_rows
from medtvt_training.evaluation.open_metrics import measure_open_data, render_open_data
from medtvt_training.evaluation.predictions import PREDICTIONS_FILE, read_predictions
from medtvt_training.files import write_json, write_text


NUMBER = 5
ONE_EPOCH = "--ecg-epochs 1 --cxr-epochs 1".split()
SHORT = "--num-train-epochs 0.5 --eval-strategy no --eval-on-start false --eval-answers 0 --save-strategy no".split()
SHARES = {"train-encoders": 0.4, "pretrain": 0.2, "finetune": 0.12}


def medtvt(*words: object) -> None:
    """A command; raises where it fails."""
    if cli.main([str(word) for word in words]):
        raise SystemExit(f"medtvt {words[0]} failed.")


def train_fold(number: int, args: argparse.Namespace) -> None:
    """Trains without the records of a fold, and answers them."""
    folder = Path(args.out, str(number))
    data = folder / "open"
    if not data.exists():
        held_out = (2 * number - 1, 2 * number)
        sources = ("--ptb-xl", args.ptb_xl, "--films", args.films)
        medtvt("open-data", *sources, "--out", data, "--test-folds", *held_out, "--validation-folds")
    model = Path(args.model)
    for stage, recipe, further in (
        ("train-encoders", "tiny-open", ONE_EPOCH),
        ("pretrain", "tiny-open", ("--feature-cache", folder / "cache", "--findings-weight", 0.1)),
        ("finetune", "tiny", ("--feature-cache", folder / "cache", *SHORT)),
    ):
        out = folder / stage
        if not (out / "final").exists():
            mixture = ("--extra-data", data, "--extra-share", SHARES[stage])
            medtvt(stage, "--recipe", recipe, "--model", model, "--data", args.data, *mixture, "--out", out, *further)
        model = out / "final"
    medtvt("evaluate", "--model", model, "--open-data", data, "--likelihood", "--out", folder / "answers")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="checkpoint after PT, to go on from")
    parser.add_argument("--data", required=True, help="cohort")
    parser.add_argument("--ptb-xl", required=True, help="folder of PTB-XL")
    parser.add_argument("--films", required=True, help="table of films")
    parser.add_argument("--out", required=True, help="folder of the folds, and of open_data.json and open_data.md")
    parser.add_argument("--folds", type=int, nargs="+", default=range(1, NUMBER + 1), help="folds to train")
    args = parser.parse_args()
    for number in args.folds:
        train_fold(number, args)
    folders = [Path(args.out, str(number)) for number in range(1, NUMBER + 1)]
    if not all((folder / "answers" / "open_data.json").is_file() for folder in folders):
        return
    rows, answers = [], []
    for folder in folders:
        of_fold = {record["id"]: record for record in read_predictions(folder / "answers" / PREDICTIONS_FILE)}
        kept = [row for row in read_open_rows(folder / "open", "test")[0] if row["id"] in of_fold]
        rows += kept
        answers += [of_fold[row["id"]] for row in kept]
    about = {"split": f"{NUMBER} folds, pooled", "trained_on_open_data": []}
    results = {**measure_open_data(rows, answers), "about": about}
    write_json(results, Path(args.out, "open_data.json"))
    write_text(render_open_data(results), Path(args.out, "open_data.md"))
    print(render_open_data(results))


if __name__ == "__main__":
    main()
