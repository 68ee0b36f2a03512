# SPDX-License-Identifier: Apache-2.0
"""
What the contribution gate does to a checkpoint's loss, beside what another patient's signal does:
`python -m tests.benchmarks.bench_gate --model MODEL --data DATA`.

Three losses a token of the answers: as they are; with the gate of one modality at a value (0.2); with that modality of
another patient of the batch. A gate that acts moves the loss by at least a quarter of what the other patient moves it.
"""

import argparse
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch

from medtvt_training.data.collator import MedTVTDataCollator
from medtvt_training.data.conversation import MODALITIES
from medtvt_training.data.inputs import FEATURE_INPUTS, RAW_INPUTS
from medtvt_training.data.load import load_medtvt_qa
from medtvt_training.data.rows import Modality
from modeling_medtvt import MedTVTForCausalLM
from modeling_medtvt.checkpoint_folder import open_checkpoint


@contextmanager
def fixed_gate(model: MedTVTForCausalLM, modality: Modality, score: float) -> Iterator[None]:
    """Every token of a modality has this gate score, whatever stands beside it."""
    gate, i = model.model.perception.gate, MODALITIES.index(modality)
    weight, bias = gate.weight[i].clone(), gate.bias[i].clone()
    try:
        gate.weight[i], gate.bias[i] = 0, math.log(score / (1 - score))
        yield
    finally:
        gate.weight[i], gate.bias[i] = weight, bias


@torch.no_grad()
def measure_gate(
    model: MedTVTForCausalLM,
    batches: Iterable[Mapping[str, torch.Tensor]],
    modality: Modality = "ecg",
    score: float = 0.2,
) -> dict[str, float]:
    """
    Losses a token, `own`, `gated` and `other`, and `ratio`, the gate's change of the loss over the other patient's.

    Args:
        batches: Inputs of the model, with labels, whose rows all have the modality.

    Raises:
        ValueError: if the model has no gate, or a batch has one row.
    """
    if model.model.perception is None or model.model.perception.gate is None:
        raise ValueError("The model has no contribution gate.")
    sums = dict.fromkeys(("own", "gated", "other"), 0.0)
    tokens = 0
    for batch in batches:
        name = next(name for name in (RAW_INPUTS[modality], FEATURE_INPUTS[modality]) if name in batch)
        if len(batch[name]) < 2:
            raise ValueError("Another patient needs batches of at least two rows.")
        count = int((batch["labels"][:, 1:] != -100).sum())
        tokens += count
        sums["own"] += model(**batch).loss.item() * count
        with fixed_gate(model, modality, score):
            sums["gated"] += model(**batch).loss.item() * count
        sums["other"] += model(**{**batch, name: batch[name].roll(1, 0)}).loss.item() * count
    losses = {name: value / tokens for name, value in sums.items()}
    return {**losses, "ratio": abs(losses["gated"] - losses["own"]) / abs(losses["other"] - losses["own"])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="checkpoint folder")
    parser.add_argument("--data", required=True, help="MedTVT-QA folder")
    parser.add_argument("--level", default="diagnosis")
    parser.add_argument("--split", default="validation")
    parser.add_argument("--modality", choices=MODALITIES, default="ecg")
    parser.add_argument("--gate", type=float, default=0.2, help="score that the gate is held at (default: 0.2)")
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=20)
    args = parser.parse_args()
    model, processor = open_checkpoint(args.model)
    rows = load_medtvt_qa(args.data, args.level, args.split)
    chosen = [row for row in rows if args.modality in row["modalities"]][: args.rows]
    collate = MedTVTDataCollator(processor)
    chunks = [chosen[i : i + args.batch_size] for i in range(0, len(chosen), args.batch_size)]
    chunks = [chunk for chunk in chunks if len(chunk) > 1]
    result = measure_gate(model.eval(), map(collate, chunks), args.modality, args.gate)
    print(
        f"gate form {model.config.gate_form}, {sum(map(len, chunks))} rows, gate of the {args.modality} at {args.gate}"
    )
    print(", ".join(f"{name} {value:.4f}" for name, value in result.items()))


if __name__ == "__main__":
    main()
