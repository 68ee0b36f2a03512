# SPDX-License-Identifier: Apache-2.0
"""The paper's Table 4, Table 5 and Figure 2b for a build, beside the paper's counts."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from modeling_medtvt import DISEASES

from ..files import write_csv, write_text
from .codes import paper_codes
from .cohort import read_cohort
from .ecg_statements import paper_statements


# The pie of Figure 2b. Its last four numbers do not fit Table 5: it repeats 3298 and shifts the rest.
FIGURE_2B = dict(zip(DISEASES, (3893, 3081, 6456, 3298, 3298, 1490, 3063)))


def count_statements(rows: list[dict[str, Any]]) -> Counter[str]:
    """ECGs by cleaned statement, the note that no age was entered included, as in Table 4."""
    return Counter(statement for row in rows for statement in row["ecg_labels"] or ())


def count_codes(rows: list[dict[str, Any]]) -> Counter[str]:
    """Admissions by code of Table 5, ICD-9 codes converted."""
    return Counter(code for row in rows for code in row["paper_codes"])


def write_stats(build: Path) -> dict[str, str]:
    """
    Writes `stats/table_4.csv`, `table_5.csv`, `figure_2b.csv` and `stats.md`, all of the training split as in the paper.

    Returns:
        `dict[str, str]`: the three tables as Markdown, by their name.
    """
    rows, cohort = read_cohort(build / "cohort")
    rows = [row for row in rows if row["split"] == "train"]
    statements, codes = count_statements(rows), count_codes(rows)
    paper = paper_statements()
    order = [*paper, *(text for text, _ in statements.most_common() if text not in paper)]
    tables: dict[str, tuple[tuple[str, ...], list[tuple]]] = {
        "table_4": (
            ("statement", "this build", "paper"),
            [(text, statements[text], paper.get(text, "")) for text in order],
        ),
        "table_5": (
            ("disease", "code", "official title", "this build", "paper"),
            [
                (entry["disease"], code, entry["title"], codes[code], "" if entry["count"] is None else entry["count"])
                for code, entry in paper_codes().items()
            ],
        ),
        "figure_2b": (
            (
                "disease",
                "codes in this build",
                "paper, sum of Table 5",
                "paper, Figure 2b",
                "admissions in this build",
            ),
            [_count_disease(disease, rows, codes) for disease in DISEASES],
        ),
    }
    texts = {}
    for name, (header, lines) in tables.items():
        write_csv(header, lines, build / "stats" / f"{name}.csv")
        texts[name] = _to_markdown(header, lines)
    arguments = cohort["arguments"]
    title = f"Training split, {len(rows):,} admissions; rules {arguments['rules']}, codes {arguments['codes']}."
    body = "".join(f"\n## {name.replace('_', ' ').capitalize()}\n\n{text}" for name, text in texts.items())
    write_text(f"# Statistics\n\n{title} The paper: 8,331 samples.\n{body}", build / "stats" / "stats.md")
    return texts


def _count_disease(disease: str, rows: list[dict[str, Any]], codes: Counter[str]) -> tuple[str, int, int, int, int]:
    of_disease = {code: entry["count"] or 0 for code, entry in paper_codes().items() if entry["disease"] == disease}
    occurrences = sum(codes[code] for code in of_disease)
    admissions = sum(disease in row["diseases"] for row in rows)
    return disease, occurrences, sum(of_disease.values()), FIGURE_2B[disease], admissions


def _to_markdown(header: Sequence[Any], lines: Iterable[Sequence[Any]]) -> str:
    table = [header, ["---"] * len(header), *lines]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in table)
