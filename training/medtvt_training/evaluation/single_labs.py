# SPDX-License-Identifier: Apache-2.0
"""
What a model says of patients of whom one lab is known, and that one normal: every statement about another lab, an ECG or a
film is about what was not measured, and no disease is established.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modeling_medtvt import DISEASES, parse_answer
from processing_medtvt import LAB_DEFINITIONS

from ..data.rows import QARow
from ..files import hash_folder, markdown_table, write_json, write_text
from .answerer import MedTVTAnswerer
from .evidence_check import EvidenceChecker
from .questions import ask_diagnosis
from .run import open_model, predict
from .values import RESEARCH_USE


def evaluate_single_labs(
    model_dir: str | os.PathLike,
    out: str | os.PathLike,
    *,
    batch_size: int = 8,
    max_new_tokens: int | None = None,
    device: str | None = None,
) -> dict[str, Any]:
    """
    Answers and counts. A run that was stopped continues where it stopped.

    Args:
        model_dir (`str` or `os.PathLike`): Checkpoint folder.
        out (`str` or `os.PathLike`): Folder for predictions.jsonl, single_labs.json and single_labs.md.

    Returns:
        `dict`: content of single_labs.json, that of [`count_single_labs`] and `about`.

    Raises:
        ValueError: if the model does not open, or `out` holds another run.
    """
    model, processor = open_model(model_dir, device)
    answerer = MedTVTAnswerer(model, processor, max_new_tokens=max_new_tokens, order=DISEASES)
    about = {"model": hash_folder(model_dir), "max_new_tokens": answerer.max_new_tokens}
    answers = predict(single_lab_rows(), answerer, Path(out), about, batch_size, EvidenceChecker())
    results = {"about": about, **count_single_labs(answers)}
    write_json(results, Path(out, "single_labs.json"))
    write_text(render_single_labs(results), Path(out, "single_labs.md"))
    return results


def single_lab_rows() -> list[QARow]:
    """A row for each lab that has a lower and an upper limit of reference: that lab alone, midway between the two."""
    rows = []
    for lab in LAB_DEFINITIONS:
        if lab.reference_low is not None and lab.reference_high is not None:
            middle = (lab.reference_low + lab.reference_high) / 2
            rows.append(ask_diagnosis(f"single-lab-{lab.name}", "lab", {lab.name: middle}))
    return rows


def count_single_labs(answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """
    Of the answers with their `evidence`: `inputs`, `inputs_beyond` that make a statement about what was not measured,
    `inputs_with_disease` that name one, `statements` and `statements_beyond`, and `labs_beyond`, the labs of `inputs_beyond`.
    """
    statements = [answer["evidence"]["statements"] for answer in answers]
    beyond = [sum(found["status"] == "not measured" for found in listed) for listed in statements]
    return {
        "inputs": len(answers),
        "inputs_beyond": sum(map(bool, beyond)),
        "inputs_with_disease": sum(bool(parse_answer(answer["completion"]).diseases) for answer in answers),
        "statements": sum(map(len, statements)),
        "statements_beyond": sum(beyond),
        "labs_beyond": [answer["labs_measured"][0] for answer, number in zip(answers, beyond) if number],
    }


def render_single_labs(results: Mapping[str, Any]) -> str:
    """single_labs.md."""
    inputs, statements = results["inputs"], results["statements"]
    rows = [
        ["inputs that state something that was not measured", f"{results['inputs_beyond']} of {inputs}"],
        ["statements about what was not measured", f"{results['statements_beyond']} of {statements}"],
        ["inputs for which a disease is named", f"{results['inputs_with_disease']} of {inputs}"],
    ]
    about = f"{inputs} inputs: one lab each, midway between its limits of reference, and nothing else. {RESEARCH_USE}"
    listed = f"\nStated beyond: {', '.join(results['labs_beyond'])}.\n" if results["labs_beyond"] else ""
    return f"# Single labs\n\n{about}\n\n{markdown_table(['', ''], rows)}{listed}"
