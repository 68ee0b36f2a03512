# SPDX-License-Identifier: Apache-2.0
"""What the pipeline returns: plain dicts and lists that a notebook shows as tables."""

import html
from collections.abc import Iterable, Mapping
from typing import Any

from .answers_medtvt import DISEASES


STATUS_SIGNS = {"supported": "✓", "contradicted": "✗", "not measured": "?", "not checkable": "–"}
NUMBERS = {"probability": "Probability", "score": "Share of answers"}
NOTICE = "Research use only: not a medical device, not for the care of patients."


class DiagnosisResult(dict[str, Any]):
    """
    One patient's result. It is a `dict`; its keys are attributes too, as in transformers' outputs: `result.diseases`.
    [`~MedicalDiagnosisPipeline.__call__`] says what each holds. A patient whose inputs could not be used has `error` alone.
    """

    version: int
    warnings: list[str]
    diseases: list[dict[str, Any]]
    reasoning: str | None
    answer: str | None
    generated_text: str
    text_source: str
    evidence: list[dict[str, Any]]
    unmentioned: list[dict[str, str]]
    measurements: list[dict[str, Any]]
    contributions: dict[str, float | None]
    influence: dict[str, dict[str, float]] | None
    patient: dict[str, Any]
    error: str

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"a result has no {name!r}; it has {', '.join(self)}") from None

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self})

    def to_dict(self) -> dict[str, Any]:
        """As a plain `dict`, which JSON takes."""
        return dict(self)

    def _repr_html_(self) -> str:
        """For notebooks: the limits, the diseases, and the evidence with its verdicts."""
        if "error" in self:
            return f"<p><b>No answer:</b> {_escape(self['error'])}</p>"
        limits = [warning for warning in self["warnings"] if warning.startswith("model:")]
        statements = [
            (
                f"{STATUS_SIGNS[statement['status']]} {statement['status']}",
                f"{'no ' if statement['negated'] else ''}{statement['text']}",
                statement["conclusion"],
                statement["measured"],
            )
            for statement in self["evidence"]
        ]
        parts = [f"<p><b>{_escape(text)}</b></p>" for text in (*limits, NOTICE)]
        numbers = [key for key in NUMBERS if any(disease[key] is not None for disease in self["diseases"])]
        header = ("Disease", "Named", *map(NUMBERS.__getitem__, numbers))
        parts.append(_table(header, (_disease(disease, numbers) for disease in self["diseases"])))
        if statements:
            parts.append(_table(("Status", "Evidence", "For", "Measured"), statements))
        if self["unmentioned"]:
            left_out = "; ".join(entry["measured"] for entry in self["unmentioned"])
            parts.append(f"<p>Abnormal and left out: {_escape(left_out)}</p>")
        return "".join(parts)


class DiagnosisBatch(list):
    """The results of several patients. It is a `list`."""

    def _repr_html_(self) -> str:
        """For notebooks: a row a patient, with what is named of the seven diseases."""
        rows = []
        for number, result in enumerate(self):
            if "error" in result:
                rows.append((str(number), *[""] * len(DISEASES), str(result["error"])))
                continue
            named = {disease["label"] for disease in result["diseases"] if disease["named"]}
            marks = ["yes" if disease in named else "" for disease in DISEASES]
            others = [warning for warning in result["warnings"] if not warning.startswith("model:")]
            rows.append((str(number), *marks, "; ".join(others)))
        return f"<p><b>{NOTICE}</b></p>" + _table(("Patient", *DISEASES, "Altered, in doubt, or why no answer"), rows)


def _disease(disease: Mapping[str, Any], numbers: Iterable[str]) -> tuple[str, ...]:
    named = f"{'yes' if disease['named'] else 'no'}{', undecided' if disease.get('undecided') else ''}"
    shares = [disease[key] for key in numbers]
    return (disease["label"], named, *("" if share is None else f"{share:.0%}" for share in shares))


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = "".join(f'<th scope="col">{_escape(cell)}</th>' for cell in header)
    body = "".join(f"<tr>{''.join(f'<td>{_escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _escape(text: Any) -> str:
    return html.escape(str(text))


__all__ = ["DiagnosisBatch", "DiagnosisResult"]
