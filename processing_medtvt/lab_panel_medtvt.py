# SPDX-License-Identifier: Apache-2.0
"""What a reader finds of one patient's labs, as written, and how a value is read."""

import math
import numbers
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from .patient_medtvt import Patient


class LabEntry(NamedTuple):
    """
    One measurement as its source states it.

    Args:
        name (`Any`): Name as written, or a key of a dict.
        value (`Any`): A number or text.
        unit (`Any`, *optional*): Unit as written.
        comparator (`str`, *optional*): "<", "<=", ">" or ">=" where the value is a limit of what can be measured.
        time (`float`, *optional*): When it was measured, on a scale on which later is larger.
        code (`str`, *optional*): LOINC code or MIMIC item id. It decides what the entry is, whatever its name says.
        place (`str`): Where it stands, such as "row 3": errors name it in place of its content. Empty for a program's dict.
        specimen (`str`, *optional*): What was examined, as written.
    """

    name: Any
    value: Any
    unit: Any = None
    comparator: str | None = None
    time: float | None = None
    code: str | None = None
    place: str = ""
    specimen: str | None = None


class LabPanel(NamedTuple):
    """Entries of one patient, notes for a clinician on what was left out or decided, and what is known of the patient."""

    entries: list[LabEntry]
    notes: list[str]
    patient: Patient


_ABSENT = {
    *("", "nan", "na", "n/a", "n.a.", "n.a", "#n/a", "#na", "<na>", "null", "none", "nil", "-", "--", "---", "–", "—", "nd", "n.d."),
    *("not done", "not measured", "not available", "not performed", "not tested", "missing", "unknown", "pending", "cancelled"),
    "canceled",
}  # fmt: skip
_COMPARATORS = {
    **{"<": "<", ">": ">", "<=": "<=", "=<": "<=", ">=": ">=", "=>": ">=", "≤": "<=", "≥": ">=", "⩽": "<=", "⩾": ">="},
    **{"less than": "<", "below": "<", "under": "<", "up to": "<=", "at most": "<="},
    **{"greater than": ">", "more than": ">", "above": ">", "over": ">", "at least": ">="},
}
_COMPARED = re.compile(
    r"(<=|=<|>=|=>|<|>|≤|≥|⩽|⩾|less than(?: or equal to)?|below|under|up to|at most|greater than(?: or equal to)?|more than|above|over"
    r"|at least)\s*(.+)",
    re.IGNORECASE,
)
_FLAGGED = re.compile(r"(.*\d)\s*(?:\(?(?:HH|LL|H|L)\)?|\*{1,2}|!|↑{1,2}|↓{1,2})", re.IGNORECASE)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?inf(inity)?", re.ASCII | re.IGNORECASE)


def is_absent(cell: Any) -> bool:
    """True for None, NaN, pandas' NA, and text that says that nothing was measured; alone or with a unit."""
    if isinstance(cell, tuple) and cell:
        cell = cell[0]
    elif isinstance(cell, Mapping):
        cell = cell.get("value")
    if isinstance(cell, str):
        return cell.strip().casefold() in _ABSENT
    if isinstance(cell, numbers.Number):
        return is_nan(cell)
    return cell is None or type(cell).__name__ in ("NAType", "NaTType")


def is_nan(number: Any) -> bool:
    """NaN of any kind of number, a signaling decimal included, which must not be compared."""
    return number.is_nan() if hasattr(number, "is_nan") else bool(number != number)


def split_comparator(text: str) -> tuple[str | None, str]:
    """The sign of a censored value, "<", "<=", ">" or ">=", and the rest of its text without a laboratory's flag (H, L, *)."""
    text = text.strip()
    found = _COMPARED.fullmatch(text)
    comparator = None
    if found:
        words = found[1].casefold()
        equal, words = words.endswith(" or equal to"), words.removesuffix(" or equal to")
        comparator, text = _COMPARATORS[words] + "=" * equal, found[2].strip()
    flagged = _FLAGGED.fullmatch(text)
    return comparator, flagged[1].strip() if flagged else text


def read_number(value: Any, where: str) -> tuple[float, str | None]:
    """
    A value as a number, and the sign of a censored one.

    Raises:
        ValueError: what is no number, or no finite one; the text is not quoted.
    """
    comparator = None
    if isinstance(value, str):
        comparator, text = split_comparator(value)
        if re.fullmatch(r"[+-]?\d+(,\d+)+", text):
            raise ValueError(f"{where}: the value has a comma; write decimals with a point and no thousands sign.")
        if _NUMBER.fullmatch(text):
            return _check_finite(float(text), where), comparator
    elif isinstance(value, numbers.Number) and not isinstance(value, (bool, complex)):
        try:
            return _check_finite(float(value), where), comparator  # type: ignore[arg-type]
        except OverflowError as error:
            raise ValueError(f"{where}: the number is too large.") from error
        except (TypeError, ValueError) as error:
            if str(error).startswith(where):
                raise
    kind = "text" if isinstance(value, str) else type(value).__name__
    raise ValueError(
        f"{where}: the value ({kind}) is not a number. A number is needed, or None where the lab is absent."
    )


def _check_finite(number: float, where: str) -> float:
    if math.isinf(number):
        raise ValueError(f"{where}: {number} is not a finite number.")
    return number


def split_cell(cell: Any, where: str) -> tuple[Any, Any]:
    """A cell of a program as (value, unit or None): a value, a pair, or a dict of `value` and `unit`."""
    if isinstance(cell, tuple):
        if len(cell) != 2:
            raise ValueError(f"{where}: a tuple of {len(cell)} is not a pair (value, unit).")
        return cell
    if isinstance(cell, Mapping):
        if "value" not in cell or set(cell) - {"value", "unit"}:
            raise ValueError(f"{where}: a dict needs 'value' and may have 'unit'; found {sorted(map(str, cell))}.")
        return cell["value"], cell.get("unit")
    return cell, None
