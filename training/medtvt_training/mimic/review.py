# SPDX-License-Identifier: Apache-2.0
"""Human review: a batch of answers as CSV and as a page to read, and the reviewers' verdicts back."""

import csv
import hashlib
import html
import json
from collections import Counter
from pathlib import Path
from typing import Any

from ..data.conversation import message_text
from ..files import write_csv, write_text
from .answers import read_answers
from .cohort import read_cohort
from .prompts import TEMPLATES, TITLES, Request, make_requests
from .verify import check_answer


COLUMNS = ("id", "answer_sha256", "question", "answer", "verdict", "edited_answer", "reviewer", "comment")
VERDICTS = ("accept", "edit", "reject")


def export_review(build: Path, number: int = 50, seed: int = 0, templates: Path = TEMPLATES) -> tuple[Path, Path]:
    """
    Writes `review.csv`, to be filled in, and `review.html`, to be read beside it, for answers drawn by `seed` that have no
    verdict yet.
    """
    rows, _ = read_cohort(build / "cohort")
    result, texts = read_answers(build)
    verdicts = read_verdicts(build)
    requests = [
        request
        for request in make_requests(rows, result["seed"], templates)
        if request.id in texts and (request.id, digest(texts[request.id])) not in verdicts
    ]
    drawn = sorted(requests, key=lambda request: hashlib.sha256(f"{seed}:{request.id}".encode()).digest())[:number]
    lines, cards = [], []
    for request in drawn:
        text = texts[request.id]
        question = _read_question(request)
        lines.append({"id": request.id, "answer_sha256": digest(text), "question": question, "answer": text})
        evidence = "".join(
            f"<h3>{TITLES[modality]}</h3><ul>{''.join(f'<li>{html.escape(line)}</li>' for line in found.lines)}</ul>"
            for modality, found in request.evidence.items()
        )
        labels = f"<p><b>Labels:</b> {html.escape('; '.join(request.row['diseases']) or 'none of the seven')}</p>"
        cards.append(
            f'<article id="{request.id}"><h2>{request.id}</h2><p><b>Question:</b> {html.escape(question)}</p>'
            f"<section>{evidence}{labels if request.level == 'diagnosis' else ''}</section>"
            f"<blockquote>{html.escape(text)}</blockquote></article>"
        )
    csv_file, page = build / "review.csv", build / "review.html"
    # a byte order mark, or spreadsheets read other letters
    write_csv(COLUMNS, ([line.get(column, "") for column in COLUMNS] for line in lines), csv_file, "utf-8-sig")
    write_text(_PAGE.replace("{cards}", "\n".join(cards)).replace("{number}", str(len(cards))), page)
    return csv_file, page


def import_review(build: Path, file: Path, templates: Path = TEMPLATES) -> dict[str, int]:
    """
    Takes the verdicts of a filled-in `review.csv`; rows without one are skipped. Verdicts are appended to
    `verdicts.jsonl`, the last one of an answer counts.

    Returns:
        `dict[str, int]`: how many were accepted, edited and rejected, and left open.

    Raises:
        ValueError: naming the first lines that cannot be taken; then none is.
    """
    rows, _ = read_cohort(build / "cohort")
    result, texts = read_answers(build)
    requests = {request.id: request for request in make_requests(rows, result["seed"], templates)}
    with open(file, newline="", encoding="utf-8-sig") as lines:
        reader = csv.DictReader(lines)
        missing = {"id", "answer_sha256", "verdict", "edited_answer"} - set(reader.fieldnames or ())
        if missing:
            raise ValueError(f"{file}: has no column {', '.join(sorted(missing))}.")
        entries = list(reader)
    taken, problems = [], []
    counts: Counter[str] = Counter()
    for number, entry in enumerate(entries, start=2):
        verdict = (entry["verdict"] or "").strip().lower()
        if not verdict:
            counts["open"] += 1
            continue
        problem = _find_problem(entry, verdict, texts, requests)
        if problem:
            problems.append(f"line {number} ({entry['id']}): {problem}")
            continue
        counts[verdict] += 1
        text = entry["edited_answer"].replace("\r\n", "\n").strip() if verdict == "edit" else texts[entry["id"]]
        further = {name: entry.get(name) or "" for name in ("reviewer", "comment")}
        taken.append(
            {"id": entry["id"], "answer_sha256": entry["answer_sha256"], "verdict": verdict, "answer": text, **further}
        )
    if problems:
        raise ValueError(
            f"{file}: {len(problems)} verdicts cannot be taken, so none was:\n  " + "\n  ".join(problems[:10])
        )
    with open(build / "verdicts.jsonl", "a", encoding="utf-8") as out:
        out.write("".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in taken))
    return {
        "accepted": counts["accept"],
        "edited": counts["edit"],
        "rejected": counts["reject"],
        "open": counts["open"],
    }


def _find_problem(
    entry: dict[str, Any], verdict: str, texts: dict[str, str], requests: dict[str, Request]
) -> str | None:
    if verdict not in VERDICTS:
        return f"the verdict is {verdict!r}; accepted are {', '.join(VERDICTS)}"
    if entry["id"] not in texts:
        return "there is no answer of this id"
    if entry["answer_sha256"] != digest(texts[entry["id"]]):
        return "the answer has changed since it was exported"
    if verdict == "edit":
        problems = check_answer((entry["edited_answer"] or "").replace("\r\n", "\n").strip(), requests[entry["id"]])
        return f"the edited answer does not pass: {problems[0]}" if problems else None
    return None


def read_verdicts(build: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """The last verdict by row id and [`digest`] of the answer."""
    verdicts = {}
    file = build / "verdicts.jsonl"
    if file.is_file():
        for line in file.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            verdicts[entry["id"], entry["answer_sha256"]] = entry
    return verdicts


def digest(text: str) -> str:
    """SHA-256 of an answer, by which a verdict knows it."""
    return hashlib.sha256(text.encode()).hexdigest()


def _read_question(request: Request) -> str:
    return message_text([{"role": "user", "content": request.question}])


_PAGE = """\
<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Review of MedTVT-QA</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 52rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a }
article { border-top: 2px solid #ccc; padding: 1rem 0 }
section { background: #f4f4f2; padding: .5rem 1rem; font-size: .9rem }
h2 { font-size: 1rem; font-family: ui-monospace, monospace } h3 { font-size: .9rem; margin: .5rem 0 0 }
ul { margin: 0 } blockquote { white-space: pre-wrap; margin: 1rem 0; padding-left: 1rem; border-left: 4px solid #268 }
</style>
<h1>Review of {number} answers</h1>
<p>Gray: what the data show. Blue bar: the answer. Write <code>accept</code>, <code>edit</code> (with the whole new text in
<code>edited_answer</code>) or <code>reject</code> into <code>review.csv</code>. Patient data: keep this page where the data
may be.</p>
{cards}
</html>
"""
