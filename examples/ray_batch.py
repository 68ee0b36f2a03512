# SPDX-License-Identifier: Apache-2.0
"""
A table of patients over the machines of a Ray cluster, with the stock pipeline in each worker (`pip install "ray[data]"`):

    python examples/ray_batch.py --model medtvt-r1 --table patients.csv --out answers --workers 4 --gpus 1

The table is that of `medtvt diagnose --batch`; its paths, and MODEL, must be there on every machine. One machine needs no
Ray: `medtvt diagnose --batch` goes on after a stop, too.
"""

import argparse
import json
from typing import Any

from medtvt_training.inference.load import load_pipeline
from medtvt_training.inference.patient_table import TablePatient, read_patient_table
from processing_medtvt.report_medtvt import RESEARCH_USE


def as_row(patient: TablePatient) -> dict[str, str]:
    """A patient as a row of text, whatever inputs the patient has: Arrow wants the same columns in every row."""
    return {"id": patient.id, "inputs": json.dumps(patient.inputs), "error": patient.problem or ""}


class Diagnose:
    """
    What a worker is: it loads the model once and answers batches.

    Args:
        model (`str`): Checkpoint folder.
        **settings: Keywords of the pipeline.
    """

    def __init__(self, model: str, **settings: Any) -> None:
        self.diagnose, self.settings = load_pipeline(model), settings

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        """Columns of patients -> `id` and `result`, the pipeline's as JSON, or `{"error": ...}`."""
        results = [{"error": error} if error else None for error in batch["error"]]
        places = [place for place, result in enumerate(results) if result is None]
        inputs = [json.loads(batch["inputs"][place]) for place in places]
        if inputs:
            found = self.diagnose(inputs, batch_size=len(inputs), on_error="skip", **self.settings)
            for number, (place, result) in enumerate(zip(places, found, strict=True)):
                if "error" in result:
                    result = {"error": result["error"].removeprefix(f"Item {number}: ")}
                results[place] = result
        return {"id": list(batch["id"]), "result": [json.dumps(result) for result in results]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--table", required=True)
    parser.add_argument("--out", required=True, help="folder for JSON lines")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--gpus", type=float, default=0, help="of each worker")
    args = parser.parse_args()

    import ray

    patients = [as_row(patient) for patient in read_patient_table(args.table)]
    answers = ray.data.from_items(patients).map_batches(
        Diagnose,
        fn_constructor_kwargs={"model": args.model},
        batch_size=args.batch_size,
        num_gpus=args.gpus,
        compute=ray.data.ActorPoolStrategy(size=args.workers),
    )
    answers.write_json(args.out)
    print(f"{args.out}: {len(patients)} patients. {RESEARCH_USE}")


if __name__ == "__main__":
    main()
