# SPDX-License-Identifier: Apache-2.0
"""
The endpoint teacher against a misbehaving server, killed several times on the way:
`python -m tests.benchmarks.bench_endpoint --requests 1000 --kills 5`.
"""

import argparse
import json
import multiprocessing
import tempfile
import time
from pathlib import Path
from typing import Any

from medtvt_training.mimic.answers import STORE, write_answers
from medtvt_training.mimic.cohort import read_cohort
from medtvt_training.mimic.prompts import make_requests
from medtvt_training.mimic.teachers import OpenAITeacher
from medtvt_training.mimic.template_teacher import TemplateTeacher

from tests.medtvt_training.mimic.invented_cohort import write_invented_cohort
from tests.medtvt_training.mimic.misbehaving_server import misbehaving_server


def ask(build: Path, url: Any) -> None:
    write_answers(build, OpenAITeacher(url, "bench", max_retries=20, backoff=0.02, timeout=5))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        build = write_invented_cohort(Path(folder) / "build", -(-args.requests // 4))
        requests = make_requests(read_cohort(build / "cohort")[0])
        answers = {request.messages[-1]["content"]: TemplateTeacher().answer(request) for request in requests}
        start, store = time.monotonic(), build / STORE
        with misbehaving_server(answers, delay=0.05) as server:
            for kill in range(args.kills + 1):
                process = multiprocessing.get_context("spawn").Process(target=ask, args=(build, server.url))
                process.start()
                goal = len(requests) * (kill + 1) // (args.kills + 1)
                while kill < args.kills and process.is_alive():
                    if store.exists() and store.read_bytes().count(b"\n") >= goal:
                        process.kill()
                    time.sleep(0.01)
                process.join()
            keys = [json.loads(line)["key"] for line in store.read_text().splitlines()]
            accepted = json.loads((build / "answers.json").read_text())["accepted"]
            print(f"requests {len(requests)}, kills {args.kills}, {time.monotonic() - start:.0f} s")
            print(f"store: {len(keys)} answers, {len(set(keys))} keys; accepted {len(accepted)}")
            print(f"lost {len(requests) - len(set(keys))}, twice in the store {len(keys) - len(set(keys))}")
            print(f"server: wrote {len(server.generated)} answers, sent {sum(server.sent.values())} whole ones")
            print(f"sent again because a killed client had not stored them: {sum(server.sent.values()) - len(keys)}")
            print(f"faults: {dict(server.faults)}")


if __name__ == "__main__":
    main()
