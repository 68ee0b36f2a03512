# SPDX-License-Identifier: Apache-2.0
"""A completion's text, as reward functions get it."""

from ..data.conversation import message_text


def completion_text(completion: str | list[dict]) -> str:
    """The text of a completion: a string, or the content of its last message."""
    if isinstance(completion, str):
        return completion
    return message_text(completion[-1:])
