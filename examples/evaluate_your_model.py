# SPDX-License-Identifier: Apache-2.0
"""
The evaluation of this package with a model that is none of ours.

What answers has three methods (`Answerer` of `medtvt_training.evaluation.run`). This one reads two labs and writes an answer by
two rules; put your own model in its place.

    python examples/evaluate_your_model.py --data cohort --out results-rules

writes predictions.jsonl, metrics.json, report.md and figures. `medtvt metrics --predictions A --versus B` compares two runs.
Research use only.
"""

import argparse
from pathlib import Path

from medtvt_training.data.rows import QARow
from medtvt_training.evaluation.run import Records, Scoring, predict, score_run


class Rules:
    """Two rules on labs, in the form of an answer."""

    def length(self, row: QARow) -> int:
        """Rows of one length share a batch."""
        return len(row["modalities"])

    def prepare(self, rows: list[QARow]) -> list[QARow]:
        """Reads the inputs of some rows: nothing to read here, the labs stand in the row."""
        return rows

    def answer(self, prepared: list[QARow]) -> list[dict]:
        """A `completion` for each row."""
        return [{"completion": self._write(row)} for row in prepared]

    @staticmethod
    def _write(row: QARow) -> str:
        creatinine, glucose = row["lab"].get("Creatinine"), row["lab"].get("Glucose")
        evidence, named = [], []
        if creatinine is not None and creatinine > 1.5:
            evidence.append("raised creatinine")
            named.append("Acute Renal Failure")
        if glucose is not None and glucose > 200:
            evidence.append("glucose above 200")
            named.append("Diabetes Mellitus")
        return f"<think>Labs: {'; '.join(evidence) or 'nothing found'}.</think><answer>{'; '.join(named)}</answer>"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a MedTVT-QA folder")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--resamples", type=int, default=1000, help="of the bootstrap over patients (default: 1000)")
    args = parser.parse_args(arguments)

    rows = Records(args.data, split="test").load().to_list()
    about = {"model": "two rules on labs", "level": "diagnosis", "split": "test"}
    answers = predict(rows, Rules(), args.out, about, batch_size=16)
    scoring = Scoring(resamples=args.resamples)
    results = score_run(answers, args.out, scoring, scoring.scorer(args.out), args.data)
    print(
        f"F1 of the label set: {results['strict']['f1_samples']:.3f} on {len(answers)} records. Written to {args.out}/."
    )


if __name__ == "__main__":
    main()
