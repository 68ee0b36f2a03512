# SPDX-License-Identifier: Apache-2.0
"""Numbers as spreadsheets of several countries write them: 4.2 and 4,2, 7,200 and 7.200 and 7 200."""

import re
from collections.abc import Iterable

from .lab_panel_medtvt import split_comparator


_DECIMAL_COMMA = re.compile(r"[+-]?(?:\d+,(?:\d{1,2}|\d{4,})|0+,\d+|\d{4,},\d+|\d{1,3}(?:\.\d{3})+,\d+)")
_DECIMAL_POINT = re.compile(
    r"[+-]?(?:\d*\.(?:\d{1,2}|\d{4,})|0*\.\d+|\d{4,}\.\d+|\d{1,3}(?:,\d{3})+\.\d+|\d{1,3}(?:,\d{3}){2,})"
)
_COMMA_AND_THREE = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}")
_POINT_AND_THREE = re.compile(r"[+-]?[1-9]\d{0,2}\.\d{3}")
_SPACED = re.compile(r"([+-]?\d{1,3})((?:[ \u00a0\u2009\u202f'’]\d{3})+)([.,]\d+)?")


class NumberStyle:
    """
    How the numbers of one file are written, as they show themselves. A comma before three digits is read as decimal where
    another number of the file has a decimal comma and none a decimal point, as thousands in the opposite case, and refused
    where nothing tells.
    """

    def __init__(self, texts: Iterable[str]):
        numbers = [_bare(text) for text in texts]
        self.has_comma = any(_DECIMAL_COMMA.fullmatch(number) for number in numbers)
        self.has_point = any(_DECIMAL_POINT.fullmatch(number) for number in numbers)
        self.notes: list[str] = []

    @staticmethod
    def is_number(text: str) -> bool:
        """Whether a text is a number in any style, a censored one too."""
        return re.fullmatch(r"[+-]?\d*[.,]?\d+(?:[.,]\d+)*(?:e[+-]?\d+)?", _bare(text), re.IGNORECASE) is not None

    def convert(self, text: str, where: str) -> str:
        """
        The text with a decimal point and without thousands signs; other text as it is.

        Raises:
            ValueError: a comma or point that may be a decimal or a thousands sign.
        """
        comparator, _ = split_comparator(text)
        return (comparator or "") + self._to_plain(_bare(text), where)

    def _to_plain(self, number: str, where: str) -> str:
        if _DECIMAL_COMMA.fullmatch(number):
            return number.replace(".", "").replace(",", ".")
        if _DECIMAL_POINT.fullmatch(number):
            return number.replace(",", "")
        if _COMMA_AND_THREE.fullmatch(number):
            if self.has_comma == self.has_point:
                raise ValueError(
                    f"{where}: a comma before three digits, which may be a decimal or a thousands sign. Write a decimal "
                    "point and no thousands signs."
                )
            if self.has_comma:
                return number.replace(",", ".")
            self._note("comma")
            return number.replace(",", "")
        if _POINT_AND_THREE.fullmatch(number) and self.has_comma:
            if self.has_point:
                raise ValueError(
                    f"{where}: a point before three digits in a file that has decimal commas and decimal points, so that "
                    "it may be a decimal or a thousands sign."
                )
            self._note("point")
            return number.replace(".", "")
        return number

    def _note(self, sign: str) -> None:
        text = f"lab: a {sign} before three digits read as thousands sign, as the file's other numbers show"
        if text not in self.notes:
            self.notes.append(text)


def _bare(text: str) -> str:
    """The number of a cell without comparator, flag and spaces between thousands."""
    _, number = split_comparator(text)
    spaced = _SPACED.fullmatch(number)
    return spaced[1] + re.sub(r"\D", "", spaced[2]) + (spaced[3] or "") if spaced else number
