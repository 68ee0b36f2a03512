# SPDX-License-Identifier: Apache-2.0
"""Asks a teacher for every answer of a cohort, checks each, and keeps all of them in the store."""

import json
import logging
import time
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..files import write_text
from .cohort import read_cohort
from .prompts import TEMPLATES, Request, make_requests
from .store import AnswerStore, request_key
from .teachers import EndpointRefusedError, Teacher, TeacherError, is_loopback
from .verify import check_answer


logger = logging.getLogger(__name__)
STORE = "store/answers.jsonl"


def write_answers(build: Path, teacher: Teacher, seed: int = 0, templates: Path = TEMPLATES) -> dict[str, int]:
    """
    Answers every request of `build/cohort`. What the store has is not asked again, so a run that was stopped or killed is
    continued by the same call.

    Writes `answers.json` (the accepted answers by id and key), `rejected_answers.jsonl` and a line in `runs.jsonl`.

    Args:
        teacher: has `identity`, `concurrency`, `attempts`, `host` and `answer(request, attempt)`.
        seed (`int`): Chooses the questions.

    Returns:
        `dict[str, int]`: `accepted`, `rejected`, `asked` (of the teacher in this run).

    Raises:
        OSError: if requests stayed unanswered. What was answered is kept; call again.
    """
    rows, _ = read_cohort(build / "cohort")
    requests = make_requests(rows, seed, templates)
    started = time.monotonic()
    asked: list[str] = []
    synced = teacher.identity["teacher"] != "template"  # its answers cost nothing
    with AnswerStore(build / STORE, sync=synced) as store:
        try:
            results = _ask_all(requests, teacher, store, asked)
        finally:
            _log_run(build, teacher, len(asked), time.monotonic() - started)
    unanswered = [result for result in results if isinstance(result, TeacherError)]
    if unanswered:
        raise TeacherError(
            f"{len(unanswered)} of {len(requests)} requests stayed unanswered ({unanswered[0]}). The other answers are kept: "
            "run the same command again."
        )
    accepted, rejected = [], []
    for request, (key, attempt, problems) in zip(requests, results):
        entry = {"id": request.id, "key": key, "attempt": attempt}
        if problems:
            rejected.append({**entry, "problems": problems})
        else:
            accepted.append(entry)
    result = {"teacher": teacher.identity, "remote": _is_remote(teacher), "seed": seed, "accepted": accepted}
    write_text(json.dumps(result, indent=1) + "\n", build / "answers.json")
    write_text("".join(json.dumps(entry) + "\n" for entry in rejected), build / "rejected_answers.jsonl")
    return {"accepted": len(accepted), "rejected": len(rejected), "asked": len(asked)}


def _ask_all(requests: list[Request], teacher: Teacher, store: AnswerStore, asked: list[str]) -> list[Any]:
    """A result or a TeacherError for each request, in their order."""
    limit = max(20, 4 * teacher.concurrency)  # failures in a row after which nobody is there
    failed_in_a_row = 0

    def ask(request: Request) -> tuple[str, int, list[str]] | TeacherError:
        nonlocal failed_in_a_row
        try:
            result = _ask(request, teacher, store, asked)
            failed_in_a_row = 0
            return result
        except EndpointRefusedError:
            raise
        except TeacherError as error:
            failed_in_a_row += 1
            if failed_in_a_row >= limit:
                raise EndpointRefusedError(f"{limit} requests in a row failed, the last one so: {error}") from error
            return error

    with ThreadPoolExecutor(teacher.concurrency) as pool, tqdm(total=len(requests), unit="answer") as bar:
        futures = [pool.submit(ask, request) for request in requests]
        for future in futures:
            future.add_done_callback(lambda _: bar.update())
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
            return [future.result() for future in futures]
        except BaseException:
            if hasattr(teacher, "stop"):
                teacher.stop()
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _ask(request: Request, teacher: Teacher, store: AnswerStore, asked: list[str]) -> tuple[str, int, list[str]]:
    """`(key, attempt, problems)` of the first answer that passes, or of the last one."""
    for attempt in range(teacher.attempts):
        key = request_key(teacher.identity, request.messages, attempt)
        with store.reserve(key):
            text = store.get(key)
            if text is None:
                further = {"key": key} if teacher.host else {}
                text = teacher.answer(request, attempt, **further)
                store.put(key, text)
                asked.append(key)
        problems = check_answer(text, request)
        if not problems:
            break
    return key, attempt, problems


def _is_remote(teacher: Teacher) -> bool:
    return teacher.host is not None and not is_loopback(teacher.host)


def _log_run(build: Path, teacher: Teacher, asked: int, seconds: float) -> None:
    """Host, model, time and number; never content."""
    entry = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": teacher.host,
        **teacher.identity,
        "records": asked,
        "seconds": round(seconds, 1),
    }
    with open(build / "runs.jsonl", "a") as file:
        file.write(json.dumps(entry) + "\n")
    logger.info("%s", entry)


def read_answers(build: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """
    `answers.json`, and the accepted texts by row id.

    Raises:
        FileNotFoundError: if `write_answers` has not finished.
    """
    if not (build / "answers.json").is_file():
        raise FileNotFoundError(f"{build} holds no answers; `medtvt build-qa answers` writes them.")
    result = json.loads((build / "answers.json").read_text())
    with AnswerStore(build / STORE) as store:
        texts = {entry["id"]: store.get(entry["key"]) for entry in result["accepted"]}
    missing = [row_id for row_id, text in texts.items() if text is None]
    if missing:
        raise ValueError(
            f"{build / STORE} lacks {len(missing)} answers of answers.json; run `build-qa answers` again."
        )
    return result, {row_id: text for row_id, text in texts.items() if text is not None}
