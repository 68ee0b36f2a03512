# SPDX-License-Identifier: Apache-2.0
"""When values were measured, as spreadsheets of several countries write it: only the order counts."""

from collections.abc import Iterable
from datetime import UTC, datetime


def read_times(texts: Iterable[str], notes: list[str]) -> list[float | None]:
    """Times as seconds, by one format for the whole column; None where a cell has none, and where the order is open."""
    texts = list(texts)
    stated = [text for text in texts if text]
    if not stated:
        return [None] * len(texts)
    try:
        numbers = [float(text) if text else None for text in texts]
        return [None if number != number else number for number in numbers]
    except ValueError:
        pass
    orders = [[read_time(text, day_first) for text in texts] for day_first in (False, True)]
    complete = [times for times in orders if all(time is not None for time, text in zip(times, texts) if text)]
    if not complete:
        return [None] * len(texts)
    if len(complete) == 2 and _ranks(complete[0]) != _ranks(complete[1]):
        notes.append("lab: the dates of the file may be day/month or month/day, so that the newest value is not known")
        return [None] * len(texts)
    return complete[0]


def _ranks(times: list[float | None]) -> list[int]:
    known = sorted({time for time in times if time is not None})
    return [-1 if time is None else known.index(time) for time in times]


def read_time(text: str, day_first: bool = False) -> float | None:
    """A date, with a time of day or without, in seconds; None if it is none. Without a time zone, UTC."""
    text = text.strip()
    if not any(c.isdigit() for c in text) or text.isdigit():
        return None
    day_month = ("%d/%m/%Y", "%d/%m/%y", "%d-%m-%Y") if day_first else ("%m/%d/%Y", "%m/%d/%y", "%m-%d-%Y")
    formats = [
        f"{date}{time}"
        for date in ("%d.%m.%Y", "%d.%m.%y", "%Y/%m/%d", "%d-%b-%Y", "%d %b %Y", *day_month)
        for time in ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p", ", %H:%M")
    ]
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        for form in formats:
            try:
                found = datetime.strptime(text, form)
                break
            except ValueError:
                continue
        else:
            return None
    try:
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except (OverflowError, ValueError):
        return None
