# SPDX-License-Identifier: Apache-2.0
"""
SFT on patients of your own, from a table of their files.

The table is a CSV with a row a patient: `id`, any of `ecg`, `cxr` and `lab` (paths relative to the table), `reasoning` (what
the data show, and what of it points where) and `diseases` (labels from the seven, "; " between them; empty for none).

    python examples/finetune_on_your_data.py --table patients.csv --model medtvt-r1 --out sft

writes the rows as MedTVT-QA to `sft-data/` and the model to `sft/final`. Research use only.
"""

import argparse
import csv
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from transformers import AutoProcessor

import modeling_medtvt  # noqa: F401  # registers the processor
from medtvt_training.data.conversation import MODALITIES, list_modalities, text_part
from medtvt_training.data.rows import QARow
from medtvt_training.data.schema import FEATURES, LAB_NAMES
from medtvt_training.stages.run import run_stage
from processing_medtvt import MedTVTProcessor


def make_row(line: dict[str, str], folder: Path, processor: MedTVTProcessor) -> QARow:
    """A question and answer from a line of the table."""
    modalities = [modality for modality in MODALITIES if line.get(modality)]
    labs: dict[str, float | None] = dict.fromkeys(LAB_NAMES)
    if "lab" in modalities:
        extractor = processor.lab_feature_extractor
        values = extractor.read(str(folder / line["lab"])).measured[0]
        labs |= {name: float(value) for name, value in zip(extractor.lab_names, values) if value == value}
    diseases = [label.strip() for label in line["diseases"].split(";") if label.strip()]
    question = [text_part("Can you analyze my "), *list_modalities(modalities)]
    question.append(text_part(" to determine my probable conditions?"))
    answer = text_part(f"<think>{line['reasoning']}</think><answer>{'; '.join(diseases)}</answer>")
    return {
        **{"id": line["id"], "subject_id": line["id"], "age": None, "sex": None, "level": "diagnosis"},
        **{"modalities": modalities, "ecg": line.get("ecg") or None, "cxr": line.get("cxr") or None, "lab": labs},
        "prompt": [{"role": "user", "content": question}],
        "completion": [{"role": "assistant", "content": [answer]}],
        **{"diseases": diseases, "findings": None},
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", required=True, type=Path)
    parser.add_argument("--model", required=True, help="a checkpoint folder, such as the result of PT")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--recipe", default="tiny", help="of `medtvt finetune` (default: tiny, on a CPU)")
    parser.add_argument("--epochs", default="3")
    args = parser.parse_args(arguments)

    processor = AutoProcessor.from_pretrained(args.model)
    with open(args.table, newline="", encoding="utf-8") as file:
        rows = [make_row(line, args.table.parent, processor) for line in csv.DictReader(file)]
    data = args.out.with_name(f"{args.out.name}-data")
    (data / "diagnosis").mkdir(parents=True, exist_ok=True)
    held_out = max(1, len(rows) // 10)  # the last patients
    for split, of_split in (("train", rows[:-held_out]), ("validation", rows[-held_out:])):
        pq.write_table(pa.Table.from_pylist(of_split, FEATURES.arrow_schema), data / "diagnosis" / f"{split}.parquet")

    folder = str(args.table.parent.resolve())
    settings = {
        **{
            "--data": str(data),
            "--ecg-root": folder,
            "--cxr-root": folder,
            "--model": args.model,
            "--out": str(args.out),
        },
        **{"--eval-answers": "0", "--replay": "0"},  # no physiology rows in this example
        # the reasoning is one text, which cannot lose what it says of a modality
        **{"--modality-dropout": "0", "--num_train_epochs": args.epochs},
    }
    run_stage("sft", args.recipe, [word for pair in settings.items() for word in pair])
    print(f"Written to {args.out / 'final'}. Next: medtvt diagnose --model {args.out / 'final'} --ecg FILE")


if __name__ == "__main__":
    main()
