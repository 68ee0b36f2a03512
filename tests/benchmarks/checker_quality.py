# SPDX-License-Identifier: Apache-2.0
"""
How good the evidence check is where it is known what the data show: every finding is asked of every record.

    python -m tests.benchmarks.checker_quality --data cohort                      a synthetic cohort
    python -m tests.benchmarks.checker_quality --data open --level physiology     real ECGs, by `medtvt open-data`

A finding that a record neither shows nor lacks by its labels is not asked. Prints for each finding how many records show
it (n), how many of those the check supports, contradicts and leaves open, how many of all that it supports and
contradicts are rightly so, and which share of all it leaves open; then the same for the statements of the rows' own answers.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping

from datasets import concatenate_datasets

from medtvt_training.data.conversation import message_text
from medtvt_training.data.rows import SPLITS, QARow
from medtvt_training.evaluation.evidence_check import EvidenceChecker
from medtvt_training.evaluation.run import Records
from medtvt_training.files import markdown_table
from medtvt_training.synthetic.findings import FINDINGS
from processing_medtvt.evidence_medtvt import Measurements, check_evidence
from processing_medtvt.findings_medtvt import PHRASES


MEASURED = ("ecg", "lab")  # a film is not
OPEN = "not checkable"
HEADER = (
    "finding",
    "n",
    "supported",
    "contradicted",
    "open",
    "supported, right",
    "contradicted, right",
    "open of all",
)


def ask(names: Iterable[str], measured: Measurements) -> Iterator[tuple[str, str]]:
    """Each finding, stated in its usual words, with the check's verdict."""
    names = sorted(names, key=lambda name: name.split(":")[0])
    titles = {"ecg": "ECG", "lab": "Labs"}
    stated = {modality: [PHRASES[name][0] for name in names if name.startswith(modality)] for modality in titles}
    text = "\n".join(f"{titles[modality]}: {'; '.join(phrases)}." for modality, phrases in stated.items() if phrases)
    statements = check_evidence(text, measured).statements
    for name, statement in zip(names, statements, strict=True):
        if statement["finding"] != name:
            raise ValueError(f"{PHRASES[name][0]!r} is not read as {name!r}.")
        yield name, statement["status"]


def known_findings(row: QARow) -> dict[str, bool]:
    """Whether the row shows each finding that a measurement can judge; those that are not known are left out."""
    shown, absent = set(row["findings"] or ()), row.get("absent_findings")
    names: Collection[str] = FINDINGS if absent is None else [name for name in PHRASES if name in {*shown, *absent}]
    of_row = [name for name in names if name.split(":")[0] in set(MEASURED).intersection(row["modalities"])]
    # a cohort lists what is far high as that only, and it is high too
    of_row = [name for name in of_row if name in shown or name.replace("high", "far high") not in shown]
    return {name: name in shown for name in of_row}


def pool(counts: Iterable[Counter[tuple[bool, str]]]) -> Counter[tuple[bool, str]]:
    pooled: Counter[tuple[bool, str]] = Counter()
    for of_one in counts:
        pooled.update(of_one)
    return pooled


def share(part: int, whole: int) -> str:
    return f"{part / whole:.3f} ({part}/{whole})" if whole else "-"


def describe(name: str, counts: Mapping[tuple[bool, str], int]) -> tuple[str, ...]:
    """A row of the table from counts by truth and status."""
    counts = Counter(counts)
    n = sum(counts[True, status] for status in ("supported", "contradicted", OPEN))
    of_status = {
        status: counts[True, status] + counts[False, status] for status in ("supported", "contradicted", OPEN)
    }
    return (
        name,
        str(n),
        *(share(counts[True, status], n) for status in of_status),
        share(counts[True, "supported"], of_status["supported"]),
        share(counts[False, "contradicted"], of_status["contradicted"]),
        share(of_status[OPEN], sum(of_status.values())),
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of MedTVT-QA rows with findings")
    parser.add_argument("--level", choices=["diagnosis", "physiology"], default="diagnosis")
    parser.add_argument("--split", nargs="+", choices=SPLITS, default=["test"])
    parser.add_argument("--limit", type=int, help="only the first so many records of each split")
    args = parser.parse_args(arguments)
    loaded = [Records(args.data, args.level, split, limit=args.limit).load() for split in args.split]
    rows = concatenate_datasets(loaded).to_list()
    checker = EvidenceChecker()
    asked: dict[str, Counter[tuple[bool, str]]] = {}
    answers: Counter[tuple[str | None, str]] = Counter()
    seen: set[tuple[str, ...]] = set()  # a record stands in several rows of the physiology level
    for number, row in enumerate(rows, start=1):
        key = (str(row["ecg"]), str(row["lab"] if "lab" in row["modalities"] else ""), *row["modalities"])
        known = known_findings(row)
        if not known:
            continue
        measured = checker.measure(row)
        statements = checker.check(message_text(row["completion"]), measured)["statements"]
        answers.update((statement["modality"], statement["status"]) for statement in statements)
        for name, status in ask(known, measured) if key not in seen else ():
            asked.setdefault(name, Counter())[known[name], status] += 1
        seen.add(key)
        if number % 100 == 0:
            print(f"{number} of {len(rows)} rows", file=sys.stderr, flush=True)
    lines = []
    for modality in MEASURED:
        names = [name for name in asked if name.startswith(modality)]
        lines += [describe(name, asked[name]) for name in names]
        if names:
            lines.append(describe(f"all {modality}", pool(asked[name] for name in names)))
    lines.append(describe("all", pool(asked.values())))
    print(f"{len(seen)} records of {args.data}, {', '.join(args.split)}\n")
    print(markdown_table(HEADER, lines))
    print("Statements of the rows' own answers")
    for modality in MEASURED:
        counts = {status: number for (of, status), number in answers.items() if of == modality}
        total = sum(counts.values())
        print(f"{modality}: " + ", ".join(f"{status} {share(n, total)}" for status, n in sorted(counts.items())))


if __name__ == "__main__":
    main()
