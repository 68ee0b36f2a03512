# SPDX-License-Identifier: Apache-2.0
"""An append-only file of answers, addressed by the content of their request."""

import hashlib
import json
import threading
from collections import defaultdict
from pathlib import Path
from typing import Any

from ..files import JsonlLog


def request_key(teacher: dict[str, Any], messages: list[dict[str, str]], attempt: int) -> str:
    """SHA-256 of everything that an answer depends on."""
    content = {"teacher": teacher, "messages": messages, "attempt": attempt}
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


class AnswerStore:
    """
    Answers by key in `file`, a [`JsonlLog`].

    Raises:
        OSError: if another process has the store open.
        ValueError: if a line in the middle is damaged.
    """

    def __init__(self, file: Path, sync: bool = True) -> None:
        self._log = JsonlLog(file, sync)
        self._lock = threading.Lock()
        self._reserved: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._answers: dict[str, str] = {}
        for number, entry in enumerate(self._log.records, start=1):
            try:
                self._answers.setdefault(entry["key"], entry["answer"])
            except (KeyError, TypeError) as error:
                self._log.close()
                raise ValueError(
                    f"{file}: line {number} is damaged; restore the file, or remove that line."
                ) from error

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, key: str) -> str | None:
        """The answer, None if there is none."""
        return self._answers.get(key)

    def reserve(self, key: str) -> threading.Lock:
        """Held while one thread gets an answer, so that requests of the same content are asked once."""
        with self._lock:
            return self._reserved[key]

    def put(self, key: str, answer: str) -> None:
        """Adds an answer; one that is there already stays."""
        with self._lock:
            if key not in self._answers:
                self._log.append([{"key": key, "answer": answer}])
                self._answers[key] = answer

    def close(self) -> None:
        """Lets other processes open it."""
        self._log.close()

    def __enter__(self) -> "AnswerStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
