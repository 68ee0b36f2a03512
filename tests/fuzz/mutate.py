# SPDX-License-Identifier: Apache-2.0
"""Seeded changes to files: of their bytes, of the nodes of a JSON or YAML document, of the cells of a table."""

import copy
import random
import re
from collections.abc import Iterator
from typing import Any


SECRET = "Zbigniew"  # stands where a patient's name could; no error may quote it
VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 7, 10**6, 10**30, 0.5, float("nan"), float("inf"), -1e308, "", " ", "a", SECRET, "\u2028",
    "\ud800", "\x00", "é", "a" * 5000, "1e5", "nan", "<ecg>", "<answer>", "Sepsis", "../../etc/passwd", "/etc/passwd", [], [None],
    [[]], {}, {"a": 1}, ["Sepsis"], [1, 2], {"": None},
]  # fmt: skip
BYTES = [
    b"",
    b"\x00",
    b"\xff",
    b"\n",
    b",",
    b'"',
    b"{",
    b"]",
    b"\xe2\x80\xa8",
    b"\xc3",
    b"1" * 400,
    b"[" * 3000,
    b"nan",
]


def mutate_bytes(content: bytes, random: random.Random) -> bytes:
    """One to four cuts, repeats, flips and insertions."""
    for _ in range(random.randint(1, 4)):
        start = random.randrange(len(content) + 1)
        end = min(len(content), start + random.choice([0, 1, 2, 8, 64, len(content)]))
        kind = random.randrange(4)
        if kind == 0:
            content = content[:start] + content[end:]
        elif kind == 1:
            content = content[:start] + content[start:end] * 2 + content[end:]
        elif kind == 2:
            content = content[:start] + random.choice(BYTES) + content[end:]
        elif start < len(content):
            content = content[:start] + bytes([random.randrange(256)]) + content[start + 1 :]
    return content


NUMBERS = [
    "0",
    "-1",
    "1",
    "2",
    "255",
    "65536",
    "4294967295",
    "999999999999",
    "0.5",
    "1e300",
    "1e-300",
    "nan",
    "inf",
    SECRET,
]


def mutate_numbers(content: bytes, random: random.Random) -> bytes:
    """One to three numbers replaced by others: written out (in markup anywhere, else in the first 4,000 bytes) or binary."""
    for _ in range(random.randint(1, 3)):
        head = content if content.startswith(b"<") else content[:4000]
        written = list(re.finditer(rb"(?<![\w+/])\d+(\.\d+)?(?![\w+/=])", head))  # not those in Base64
        if written and random.random() < 0.7:
            found = random.choice(written)
            content = content[: found.start()] + random.choice(NUMBERS).encode() + content[found.end() :]
        else:
            start, size = random.randrange(min(len(content), 4000)), random.choice([1, 2, 4])
            value = random.choice([0, 1, 2**7, 2**8 - 1, 2**15, 2**16 - 1, 2**31, 2**32 - 1]) % 2 ** (8 * size)
            content = content[:start] + value.to_bytes(size, "little") + content[start + size :]
    return content


def mutate_tree(tree: Any, random: random.Random) -> Any:
    """One to three nodes of a document of dicts and lists replaced, removed, renamed or repeated."""
    tree = copy.deepcopy(tree)
    for _ in range(random.randint(1, 3)):
        places = list(_places(tree))
        if not places:
            return random.choice(VALUES)
        parent, key = random.choice(places)
        kind = random.randrange(4)
        if kind == 0:
            del parent[key]
        elif kind == 1 and isinstance(parent, dict):
            parent[random.choice(["", "a", SECRET, str(key) + "_"])] = parent.pop(key)
        elif kind == 1:
            parent.insert(key, copy.deepcopy(parent[key]))
        else:
            parent[key] = copy.deepcopy(random.choice(VALUES))
    return tree


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield tree, key
            yield from _places(value)
    elif isinstance(tree, list):
        for i, value in enumerate(tree):
            yield tree, i
            yield from _places(value)


def mutate_cells(rows: list[list[str]], random: random.Random) -> list[list[str]]:
    """One to three cells of a table (with its header) replaced, removed or repeated."""
    rows = [list(row) for row in rows]
    texts = [str(value) for value in VALUES if not isinstance(value, str) or "\ud800" not in value]
    for _ in range(random.randint(1, 3)):
        row = random.choice(rows)
        if not row:
            continue
        column, kind = random.randrange(len(row)), random.randrange(5)
        if kind == 0:
            del row[column]
        elif kind == 1:
            row.insert(column, row[column])
        elif kind == 2:
            rows.insert(0, list(row))
        else:
            row[column] = random.choice(texts)
    return rows
