# SPDX-License-Identifier: Apache-2.0
"""What stands before every request: limits of size, number and time, and the access log, which holds no content."""

import asyncio
import json
import logging
import time
import traceback
from typing import Any

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send


logger = logging.getLogger(__name__)

ROUTES = ("/health", "/v1/models", "/v1/chat/completions", "/v1/diagnose")


class Guard:
    """
    Args:
        app (`ASGIApp`): What comes behind it.
        max_request_bytes (`int`): A larger body is refused before it is read, or where its length is not stated, as soon as
            it is too long.
        max_requests (`int`): More at a time are sent away.
        upload_timeout (`float`): Seconds in which a body must have come.
    """

    def __init__(self, app: ASGIApp, max_request_bytes: int, max_requests: int, upload_timeout: float) -> None:
        self.app, self.max_request_bytes, self.max_requests = app, max_request_bytes, max_requests
        self.upload_timeout = upload_timeout
        self._requests = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.monotonic()
        status: Any = "no answer"

        async def send_noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self._requests += 1
        try:
            if refusal := self._refuse(scope):
                if refusal[0] == 503:
                    await _read_body(self._limited(receive))
                await _send_error(send_noting, *refusal)
            else:
                await self.app(scope, self._limited(receive), send_noting)
        except Exception as error:
            # a bug; its message may quote a patient's values, lines of code do not
            logger.error(
                "a request failed: %s\n%s", type(error).__name__, "".join(traceback.format_tb(error.__traceback__))
            )
            if status == "no answer":
                await _send_error(
                    send_noting, 500, f"server: it failed with {type(error).__name__}, no fault of the request."
                )
        finally:
            self._requests -= 1
            # a path may be anything, and a query too
            path = scope["path"] if scope["path"] in ROUTES else "(no such path)"
            logger.info("%s %s %s %.2f s", scope["method"], path, status, time.monotonic() - began)

    def _refuse(self, scope: Scope) -> tuple[int, str] | None:
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self.max_request_bytes:
            return 413, self._too_large()
        if self._requests > self.max_requests and scope["path"] != "/health":
            return (
                503,
                f"server: {self.max_requests} requests are being answered, and no more are accepted; try again later.",
            )
        return None

    def _too_large(self) -> str:
        return f"body: it is too large; accepted are {self.max_request_bytes:,} bytes (--max-request-mb)."

    def _limited(self, receive: Receive) -> Receive:
        size, is_whole = 0, False
        deadline = time.monotonic() + self.upload_timeout

        async def receive_limited() -> Message:
            nonlocal size, is_whole
            if is_whole:
                return await receive()
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    message = await receive()
            except TimeoutError as error:
                raise HTTPException(408, f"body: it was not whole after {self.upload_timeout:g} s.") from error
            size += len(message.get("body", b""))
            if size > self.max_request_bytes:
                raise HTTPException(413, self._too_large())
            is_whole = not message.get("more_body", False)
            return message

        return receive_limited


async def _read_body(receive: Receive) -> None:
    """A client whose connection closes before it has sent its body sees a reset, and not the answer."""
    try:
        while (await receive()).get("more_body"):
            pass
    except HTTPException:  # too large or too slow; the answer is the same
        pass


def error_content(status: int, message: str) -> dict[str, Any]:
    """The body of every error, in OpenAI's form."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": " ".join(message.split()), "type": kind, "code": status}}


async def _send_error(send: Send, status: int, message: str) -> None:
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    if status == 503:
        headers.append((b"retry-after", b"5"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(error_content(status, message)).encode()})
