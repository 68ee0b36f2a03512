# SPDX-License-Identifier: Apache-2.0
"""A chat-completions server on this machine that answers late, with errors, with half of an answer, or well."""

import json
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


FAULTS = ("429", "429 in silence", "500", "cut before", "cut within", "malformed", "no choices")


@contextmanager
def misbehaving_server(
    answers: dict[str, str], fault_share: float = 0.5, delay: float = 0.01, seed: int = 0
) -> Iterator[Any]:
    """
    Yields the server. It writes (and would charge for) an answer once for each `Idempotency-Key`, which is what
    `generated` counts; `faults` counts what it did wrong, `sent` the whole answers that left it.

    Args:
        answers (`dict[str, str]`): By the text of the last message.
    """
    generator, lock = random.Random(seed), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                fault = generator.choice(FAULTS) if generator.random() < fault_share else None
                pause = delay * generator.uniform(0, 2)
            time.sleep(pause)
            server.faults[fault] += 1
            if fault in ("429", "429 in silence", "500"):
                self.send_response(int(fault[:3]))
                if fault == "429":
                    self.send_header("Retry-After", "0")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if fault == "cut before":
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            key = self.headers["Idempotency-Key"]
            with lock:
                if key not in server.generated:
                    server.generated[key] = answers[body["messages"][-1]["content"]]
            content = json.dumps({"choices": [{"message": {"content": server.generated[key]}}]}).encode()
            content = {"malformed": content[: len(content) // 2], "no choices": b'{"choices": []}'}.get(
                fault or "", content
            )
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if fault == "cut within" else content)
            with lock:
                server.sent[key] += fault is None

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        generated: dict[str, str] = {}
        faults: Counter[str | None] = Counter()
        sent: Counter[str] = Counter()
        url: str

        def handle_error(self, *_: Any) -> None:  # clients that were killed
            pass

    server = Server(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
