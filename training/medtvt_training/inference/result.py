# SPDX-License-Identifier: Apache-2.0
"""A result of the pipeline as text for a terminal."""

import textwrap
from typing import Any

from processing_medtvt.report_medtvt import RESEARCH_USE, describe_patient


def format_result(result: dict[str, Any]) -> str:
    """A result of the pipeline as text for a terminal."""
    lines = [f"Patient: {describe_patient(result['patient'])}", "Diseases"]
    for disease in result["diseases"]:
        score = "" if disease["score"] is None else f"{disease['score']:6.0%} of the answers"
        lines.append(f"  [{'x' if disease['named'] else ' '}] {disease['label']:<24}{score}".rstrip())
    lines.append("Contributions of the modalities (gate scores, 0 to 1)")
    for modality, value in result["contributions"].items():
        lines.append(f"  {modality:<4}{'-' if value is None else format(value, '.2f')}")
    lines.append("Altered or imputed, and other warnings")
    lines.extend(textwrap.indent(textwrap.fill(warning, 100), "  ") for warning in result["warnings"] or ["none"])
    lines.append("Reasoning")
    lines.append(textwrap.indent(textwrap.fill(result["reasoning"] or "none", 100), "  "))
    lines.append("Generated text")
    lines.append(textwrap.indent(textwrap.fill(result["generated_text"] or "(empty)", 100), "  "))
    return "\n".join([*lines, "", RESEARCH_USE])
