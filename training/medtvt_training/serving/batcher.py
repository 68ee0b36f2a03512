# SPDX-License-Identifier: Apache-2.0
"""Jobs that come one by one, handed on in batches by one thread."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Answer(NamedTuple):
    """
    What becomes of a job.

    Args:
        result (`dict`): The pipeline's.
        prompt_tokens, completion_tokens (`int`): Lengths, the latter of all drawn answers together.
        is_cut (`bool`): Whether an answer reached the length limit.
    """

    result: dict[str, Any]
    prompt_tokens: int
    completion_tokens: int
    is_cut: bool


@dataclass(eq=False)
class Job:
    """
    A patient who waits for an answer.

    Args:
        prepared (`Any`): What the pipeline's `preprocess` made of the inputs.
        settings (`dict`): Jobs of the same settings may share a batch.
        alone (`bool`): Whether it may not share one.
        on_text (`Callable`, *optional*): Takes the answer's text in pieces as it is written.
        future (`Future`): Of the [`Answer`].
    """

    prepared: Any
    settings: dict[str, Any]
    alone: bool = False
    on_text: Callable[[str], None] | None = None
    future: "Future[Answer]" = field(default_factory=Future)
    is_stopped: bool = False
    submitted: float = field(default_factory=time.monotonic)

    def stop(self) -> None:
        """Nobody waits for it any more: it is not begun, or ends with the next token."""
        self.is_stopped = True
        self.future.cancel()


class Batcher:
    """
    A queue and the thread that empties it.

    Args:
        answer (`Callable`): Gets a batch, whose futures it settles.
        max_batch (`int`): Jobs a batch.
        max_wait (`float`): Seconds that a job waits for others to share its batch.
    """

    def __init__(self, answer: Callable[[list[Job]], None], max_batch: int = 8, max_wait: float = 0.05) -> None:
        self.answer, self.max_batch, self.max_wait = answer, max_batch, max_wait
        self._jobs: list[Job] = []
        self._running: list[Job] = []
        self._changed = threading.Condition()
        self._is_closed = False
        self._thread = threading.Thread(target=self._work, name="answers", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether jobs are answered."""
        return self._thread.is_alive() and not self._is_closed

    @property
    def waiting(self) -> int:
        """Jobs that are not begun."""
        return len(self._jobs)

    def submit(self, job: Job) -> None:
        """Queues a job."""
        with self._changed:
            if self._is_closed:
                job.stop()
            self._jobs.append(job)
            self._changed.notify()

    def close(self) -> None:
        """Stops all jobs and waits for the thread."""
        with self._changed:
            self._is_closed = True
            for job in [*self._jobs, *self._running]:
                job.stop()
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while batch := self._take():
            begun = [job for job in batch if job.future.set_running_or_notify_cancel()]
            if begun:
                self.answer(begun)

    def _take(self) -> list[Job]:
        """The oldest job with those that may share its batch; none once it is closed."""
        with self._changed:
            while not self._jobs and not self._is_closed:
                self._changed.wait()
            if self._is_closed:
                return []
            deadline = self._jobs[0].submitted + self.max_wait
            while not self._is_closed and len(batch := self._of_first()) < self.max_batch and not batch[0].alone:
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            batch = self._of_first()
            self._jobs = [job for job in self._jobs if job not in batch]
            self._running = batch
            return batch

    def _of_first(self) -> list[Job]:
        first = self._jobs[0]
        if first.alone:
            return [first]
        return [job for job in self._jobs if not job.alone and job.settings == first.settings][: self.max_batch]
