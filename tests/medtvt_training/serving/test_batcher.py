# SPDX-License-Identifier: Apache-2.0
import threading
import time

import pytest

from medtvt_training.serving.batcher import Answer, Batcher, Job


class Worker:
    """Notes the batches that it gets, and begins none before it may."""

    def __init__(self):
        self.batches = []
        self.may_begin = threading.Event()

    def answer(self, jobs):
        assert self.may_begin.wait(30)
        self.batches.append([job.prepared for job in jobs])
        for job in jobs:
            job.future.set_result(Answer({"of": job.prepared}, 1, 1, False))


@pytest.fixture
def worker():
    return Worker()


def settle(batcher, worker, jobs):
    for job in jobs:
        batcher.submit(job)
    worker.may_begin.set()
    return [job.future.result(30).result["of"] for job in jobs if not job.is_stopped]


def test_jobs_of_the_same_settings_share_batches_and_the_oldest_is_next(worker):
    batcher = Batcher(worker.answer, max_batch=3, max_wait=0)
    batcher.submit(Job("first", {}))
    while batcher.waiting:
        time.sleep(0.001)
    jobs = [
        Job("a1", {"a": 1}),
        Job("b1", {"b": 1}),
        *(Job(f"a{i}", {"a": 1}) for i in range(2, 6)),
        Job("c", {}, True),
    ]
    assert settle(batcher, worker, jobs) == ["a1", "b1", "a2", "a3", "a4", "a5", "c"]
    assert worker.batches == [["first"], ["a1", "a2", "a3"], ["b1"], ["a4", "a5"], ["c"]]
    batcher.close()


def test_a_batch_waits_for_others(worker):
    batcher = Batcher(worker.answer, max_batch=2, max_wait=30)
    assert settle(batcher, worker, [Job(i, {}) for i in range(4)]) == [0, 1, 2, 3]
    assert worker.batches == [[0, 1], [2, 3]]
    batcher.close()


def test_a_stopped_job_is_not_begun(worker):
    batcher = Batcher(worker.answer, max_batch=1, max_wait=0)
    jobs = [Job(i, {}) for i in range(3)]
    jobs[1].stop()
    assert settle(batcher, worker, jobs) == [0, 2]
    assert worker.batches == [[0], [2]]
    batcher.close()


def test_closing_stops_what_waits(worker):
    batcher = Batcher(worker.answer, max_batch=1, max_wait=0)
    jobs = [Job(i, {}) for i in range(3)]
    for job in jobs:
        batcher.submit(job)
    while batcher.waiting > 2:
        time.sleep(0.001)
    threading.Timer(0.1, worker.may_begin.set).start()
    batcher.close()
    assert jobs[0].future.result(0) and jobs[0].is_stopped
    assert jobs[1].future.cancelled() and jobs[2].future.cancelled() and not batcher.is_alive
    late = Job("late", {})
    batcher.submit(late)
    assert late.future.cancelled()
