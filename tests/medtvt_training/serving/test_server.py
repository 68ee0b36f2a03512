# SPDX-License-Identifier: Apache-2.0
"""A real server on a free port: many clients, and clients that misbehave."""

import contextlib
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import uvicorn

from medtvt_training.cli import main
from medtvt_training.serving.app import Limits, create_app


CLIENTS = 50


@pytest.fixture
def start(diagnose, served):
    """Starts a server with these limits; returns its address."""
    stops = []

    def run(**limits):
        listening = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(create_app(diagnose, served, Limits(**limits)), log_config=None, access_log=False)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()

        def stop():
            server.should_exit = True
            thread.join(60)
            listening.close()

        stops.append(stop)
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        assert httpx.get(f"{address}/health", timeout=60).status_code == 200
        return address

    yield run
    for stop in stops:
        stop()


def test_fifty_clients_lose_nothing(start):
    address = start(max_wait=0.2)

    def ask(number):
        labs = {"Creatinine": "x"} if number % 10 == 3 else {"Creatinine": 1 + number / 100}
        body = {"lab": labs, "patient": {"age": 20 + number}, "max_new_tokens": 3}
        if number % 10 == 5:
            chat = {"role": "user", "content": [{"type": "lab", "lab": labs}]}
            body = {"messages": [chat], "patient": body["patient"], "max_tokens": 3, "stream": True}
        path = "chat/completions" if "messages" in body else "diagnose"
        return httpx.post(f"{address}/v1/{path}", json=body, timeout=120)

    with ThreadPoolExecutor(CLIENTS) as clients:
        responses = list(clients.map(ask, range(CLIENTS)))
    for number, response in enumerate(responses):
        if number % 10 == 3:
            assert response.status_code == 400 and "Creatinine" in response.json()["error"]["message"]
            continue
        assert response.status_code == 200, response.text
        if number % 10 == 5:
            last = json.loads(response.text.splitlines()[-4].removeprefix("data: "))
            result = last["result"]
        else:
            result = response.json()
        assert result["patient"]["age"] == 20 + number


def test_a_request_of_100_mb_is_refused(start):
    address = start()
    with socket.create_connection(("127.0.0.1", int(address.rsplit(":", 1)[1])), timeout=60) as connection:
        head = "POST /v1/diagnose HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 100000000\r\n\r\n"
        connection.sendall(head.encode())  # and nothing of the body
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 413 ") and b"accepted are 32,000,000 bytes" in answer
    # a client that sends it all the same is cut off, maybe before it reads the answer
    with contextlib.suppress(httpx.TransportError):
        sent = httpx.post(f"{address}/v1/diagnose", json={"question": "a" * 100_000_000}, timeout=60)
        assert sent.status_code == 413
    assert httpx.get(f"{address}/health").status_code == 200


def test_clients_that_leave_do_not_hold_up_others(start):
    address = start(max_batch=1)
    long = {"lab": {"Creatinine": 2}, "max_new_tokens": 64}
    for _ in range(10):
        with pytest.raises(httpx.TimeoutException):
            httpx.post(f"{address}/v1/diagnose", json=long, timeout=httpx.Timeout(30, read=0.05))
    body = {"messages": [{"role": "user", "content": "a"}], "stream": True}
    for _ in range(5):
        with httpx.stream("POST", f"{address}/v1/chat/completions", json=body, timeout=60) as response:
            next(response.iter_lines())
    began = time.monotonic()
    last = httpx.post(f"{address}/v1/diagnose", json={**long, "max_new_tokens": 1}, timeout=120)
    assert last.status_code == 200
    deadline = began + 60
    while httpx.get(f"{address}/health").json()["waiting"] and time.monotonic() < deadline:
        time.sleep(0.05)
    assert httpx.get(f"{address}/health").json()["waiting"] == 0


def test_an_answer_that_takes_too_long_and_a_body_that_does_not_come(start):
    address = start(timeout=0.5, max_wait=60)  # it waits for others, who do not come
    late = httpx.post(f"{address}/v1/diagnose", json={"question": "a"}, timeout=60)
    assert late.status_code == 504 and "0.5 s (--timeout)" in late.json()["error"]["message"]
    with socket.create_connection(("127.0.0.1", int(address.rsplit(":", 1)[1])), timeout=60) as connection:
        head = (
            "POST /v1/diagnose HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
        )
        connection.sendall(head.encode())
        assert connection.recv(65536).startswith(b"HTTP/1.1 408 ")


def test_too_many_requests_are_sent_away(start):
    address = start(max_requests=1, max_batch=1)
    with ThreadPoolExecutor(6) as clients:
        post = lambda _: httpx.post(f"{address}/v1/diagnose", json={"question": "a", "num_samples": 8}, timeout=60)  # noqa: E731
        codes = [response.status_code for response in clients.map(post, range(6))]
    assert set(codes) == {200, 503} and httpx.get(f"{address}/health").status_code == 200


def test_the_command_refuses_a_port_in_use(checkpoint, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "--model", str(checkpoint), "--port", str(port)]) == 2
    assert f"cannot listen at 127.0.0.1, port {port}" in capsys.readouterr().err
    assert main(["serve", "--model", str(checkpoint), "--max-batch", "0"]) == 2
