# SPDX-License-Identifier: Apache-2.0
"""An append-only file of answers, addressed by the content of their request."""

import hashlib
import json
import os
import threading
from collections import defaultdict
from pathlib import Path


def request_key(teacher: dict, messages: list[dict], attempt: int) -> str:
    """SHA-256 of everything that an answer depends on."""
    content = {"teacher": teacher, "messages": messages, "attempt": attempt}
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


class AnswerStore:
    """
    Answers by key in `file`, one JSON object a line. A line is written at once, and with `sync` it is on the disk before
    [`put`] returns, so a killed run loses at most the line it was writing: the next one removes the torn end. One process
    writes at a time.

    Raises:
        OSError: if another process has the store open.
        ValueError: if a line in the middle is damaged.
    """

    def __init__(self, file: Path, sync: bool = True):
        self.file = file
        self.sync = sync
        file.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._reserved = defaultdict(threading.Lock)
        self._descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            _lock_file(self._descriptor, file)
            self._answers = self._read()
        except BaseException:
            os.close(self._descriptor)
            raise

    def _read(self) -> dict[str, str]:
        content = self.file.read_bytes()
        complete = content[: content.rfind(b"\n") + 1]
        if len(complete) < len(content):
            os.ftruncate(self._descriptor, len(complete))
        answers = {}
        for number, line in enumerate(complete.splitlines(), start=1):
            try:
                entry = json.loads(line)
                answers.setdefault(entry["key"], entry["answer"])
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{self.file}: line {number} is damaged; restore the file, or remove that line."
                ) from error
        return answers

    def __len__(self):
        return len(self._answers)

    def get(self, key: str) -> str | None:
        """The answer, None if there is none."""
        return self._answers.get(key)

    def reserve(self, key: str) -> threading.Lock:
        """Held while one thread gets an answer, so that requests of the same content are asked once."""
        with self._lock:
            return self._reserved[key]

    def put(self, key: str, answer: str):
        """Adds an answer; one that is there already stays."""
        line = json.dumps({"key": key, "answer": answer}, ensure_ascii=False).encode() + b"\n"
        with self._lock:
            if key in self._answers:
                return
            while line:
                line = line[os.write(self._descriptor, line) :]
            if self.sync:
                os.fsync(self._descriptor)
            self._answers[key] = answer

    def close(self):
        """Lets other processes open it."""
        os.close(self._descriptor)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def _lock_file(descriptor: int, file: Path):
    try:
        import fcntl
    except ImportError:  # Windows has no flock; a second writer is then the user's mistake
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise OSError(f"{file} is in use by another process.") from error
