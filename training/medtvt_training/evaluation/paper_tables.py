# SPDX-License-Identifier: Apache-2.0
"""The paper's tables from metrics.json files: its own metrics first, then the strict ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..data.conversation import MODALITIES, MODALITY_NAMES
from ..data.rows import Modality
from ..files import markdown_table
from .report import read_metrics
from .values import format_value


_Columns = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Table:
    """
    A table of the paper.

    Args:
        title (`str`): Its heading.
        paper, strict: Columns in each mode: heading and name of the metric.
        published (`dict`): Rows that the paper printed, values of the columns `paper`; they stand above one's own.
    """

    title: str
    paper: _Columns
    strict: _Columns
    published: Mapping[str, Sequence[float]] = field(default_factory=dict)


_TEXT = [
    ("BLEU", "paper/bleu"),
    ("METEOR", "paper/meteor"),
    ("ROUGE", "paper/rouge"),
    ("BERTScore", "paper/bert_score"),
]
_STRICT_TEXT = [("BLEU", "strict/bleu"), ("ROUGE-1", "strict/rouge1"), ("ROUGE-2", "strict/rouge2")]
_STRICT_TEXT += [("ROUGE-L", "strict/rougeL"), ("METEOR", "strict/meteor"), ("BERTScore F1", "strict/bert_score")]
_STRICT_ANSWER = [
    ("parsed", "strict/parse_rate"),
    ("F1 samples", "strict/f1_samples"),
    ("F1 macro", "strict/f1_macro"),
]
_STRICT_ANSWER += [("F1 micro", "strict/f1_micro"), ("Jaccard", "strict/jaccard_samples")]
_STRICT_ANSWER += [("exact", "strict/exact_match"), ("AUROC", "strict/auroc_macro")]
TABLES = {
    1: Table(
        "Table 1: disease level",
        paper=[*_TEXT, *((name, f"paper/{name.lower()}") for name in ("Precision", "Recall", "F1", "AUC"))],
        strict=[*_STRICT_ANSWER, *_STRICT_TEXT],
    ),
    2: Table("Table 2: physiology level", paper=_TEXT, strict=_STRICT_TEXT),
    3: Table(
        "Table 3: ablations, disease level",
        paper=[_TEXT[1], _TEXT[2], ("Recall", "paper/recall"), ("F1", "paper/f1")],
        strict=_STRICT_ANSWER,
        published={
            "paper: without cyclic attention": (0.3455, 0.2013, 0.5733, 0.4977),
            "paper: without contribution gate": (0.3378, 0.2145, 0.5826, 0.4867),
            "paper: ECG withheld in PT": (0.3245, 0.2058, 0.5320, 0.4739),
            "paper: CXR withheld in PT": (0.3267, 0.2019, 0.5739, 0.4869),
            "paper: LAB withheld in PT": (0.3455, 0.2218, 0.5845, 0.5023),
            "paper: MedTVT-R1": (0.3536, 0.2295, 0.5908, 0.5190),
        },
    ),
}


def render_table(number: int, files: Mapping[str, str]) -> str:
    """
    A table in Markdown, with 95 % intervals.

    Args:
        number (`int`): 1 (disease level), 2 (physiology level, each modality) or 3 (ablations).
        files (`dict[str, str]`): Path of the metrics.json of each row, by the row's name.

    Raises:
        ValueError: if there is no such table, or a file has not what the table needs.
    """
    if number not in TABLES:
        raise ValueError(f"There is no table {number}; there are {', '.join(map(str, TABLES))}.")
    table = TABLES[number]
    results = {name: read_metrics(path) for name, path in files.items()}
    parts = [f"# {table.title}\n"]
    published = [[name, *map(format_value, values)] for name, values in table.published.items()]
    sections: Sequence[Modality | None] = MODALITIES if number == 2 else [None]
    for mode, columns, above in (("paper", table.paper, published), ("strict", table.strict, [])):
        for modality in sections:
            rows = [[name, *_cells(found, columns, modality, files[name])] for name, found in results.items()]
            heading = [name for name, _ in columns]
            label = f"{MODALITY_NAMES[modality]}, " if modality else ""
            parts.append(f"{label}{mode} metrics\n\n" + markdown_table(["", *heading], above + rows))
    return "\n".join(parts)


def _cells(results: Mapping, columns: _Columns, modality: Modality | None, file: str) -> list[str]:
    intervals = results["intervals"]
    if modality is not None:
        if "by_modality" not in results:
            raise ValueError(f"{file} has no metrics of the physiology level; evaluate with --level physiology.")
        results = results["by_modality"].get(modality, {})
        intervals = intervals.get("by_modality", {}).get(modality, {})
    cells = []
    for _, name in columns:
        mode, metric = name.split("/")
        cells.append(format_value(results.get(mode, {}).get(metric), intervals.get(mode, {}).get(metric)))
    return cells
