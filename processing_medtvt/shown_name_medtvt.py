# SPDX-License-Identifier: Apache-2.0
"""File names as messages and pages show them."""

import os


def shown_name(path: str | os.PathLike) -> str:
    """
    A path on one line: line ends, control characters that a terminal would obey, and bytes that are no text are written
    as escapes.
    """
    text = os.fsdecode(path)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


__all__ = ["shown_name"]
