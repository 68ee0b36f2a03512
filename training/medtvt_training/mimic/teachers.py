# SPDX-License-Identifier: Apache-2.0
"""Teachers that are models: a chat model's folder on this machine, or an OpenAI-compatible endpoint."""

import hashlib
import http.client
import ipaddress
import json
import logging
import random
import threading
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from .prompts import Request


logger = logging.getLogger(__name__)
ACKNOWLEDGMENT = (
    "The service at this endpoint retains no data, trains on no data and has no human review, which I have verified as "
    "PhysioNet's notice of 24 September 2025 asks."
)
MAX_RESPONSE_BYTES = 10_000_000
MAX_WAIT = 600.0  # seconds


class TeacherError(OSError):
    """A request stayed without an answer; others may get one."""


class EndpointRefusedError(TeacherError):
    """The endpoint refuses us, so it will refuse the other requests too."""


class HasMessages(Protocol):
    """A [`Request`], or anything else with the messages of a chat."""

    @property
    def messages(self) -> Any: ...


class Teacher(Protocol):
    """
    Who writes answers.

    Attributes:
        identity (`dict`): what decides its answers, JSON.
        concurrency (`int`): answers that may be asked for at a time.
        attempts (`int`): how often an answer is asked for until one passes.
        host (`str`, *optional*): where the requests go, None if they stay in this process. A teacher with a host takes
            `key` too, see [`OpenAITeacher`].
    """

    @property
    def identity(self) -> dict[str, Any]: ...
    @property
    def concurrency(self) -> int: ...
    @property
    def attempts(self) -> int: ...
    @property
    def host(self) -> str | None: ...

    @property
    def answer(self) -> Callable[..., str]:
        """Takes a request and the number of the attempt, returns a text."""
        ...


class LocalTeacher:
    """
    A chat model of transformers. Greedy at first; later attempts are sampled with the attempt as seed.

    Args:
        folder (`Path`): Model folder with a tokenizer that has a chat template. Nothing is downloaded.
        attempts (`int`): How often an answer is written until one passes.
        max_tokens (`int`): Longest answer.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if the tokenizer has no chat template.
    """

    host = None
    concurrency = 1

    def __init__(self, folder: Path, attempts: int = 3, max_tokens: int = 900) -> None:
        folder = Path(folder)
        if not (folder / "config.json").is_file():
            raise FileNotFoundError(f"{folder} is no model folder (no config.json).")
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        if not self.tokenizer.chat_template:
            raise ValueError(f"{folder}: its tokenizer has no chat template; a chat model is needed.")
        self.model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, dtype="auto").eval()
        self.attempts = attempts
        self.max_tokens = max_tokens
        # two models may have folders of one name
        digest = hashlib.sha256((folder / "config.json").read_bytes())
        digest.update(repr(sorted((file.name, file.stat().st_size) for file in folder.glob("*.safetensors"))).encode())
        name = f"{folder.resolve().name}@{digest.hexdigest()[:12]}"
        self.identity = {"teacher": "local", "model": name, "max_tokens": max_tokens}

    def answer(self, request: Request, attempt: int = 0) -> str:
        """The text of an answer."""
        import torch

        torch.manual_seed(attempt)
        inputs: Any = self.tokenizer.apply_chat_template(
            request.messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        sampling = {"do_sample": True, "temperature": 0.7} if attempt else {"do_sample": False}
        with torch.inference_mode():
            output = self.model.generate(**inputs, max_new_tokens=self.max_tokens, **sampling)
        text: Any = self.tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return text.strip()


class OpenAITeacher:
    """
    Any server with `POST {endpoint}/chat/completions`, vLLM and SGLang too. No proxy is used and no redirect followed:
    data go to the host of the endpoint and nowhere else.

    Args:
        endpoint (`str`): e.g. `http://127.0.0.1:8000/v1`.
        model (`str`): The name by which the server knows it.
        acknowledgment (`str`, *optional*): Must be [`ACKNOWLEDGMENT`] unless the host is this machine.
        api_key (`str`, *optional*): Sent as bearer token.
        concurrency (`int`): Requests at a time.
        requests_per_minute (`float`, *optional*): No more than these are begun in a minute.
        attempts (`int`): How often an answer is asked for until one passes.
        max_retries (`int`): How often a request is repeated after 408, 409, 429, 5xx, a broken connection or a malformed
            response, after a wait that doubles from one second, or as the server says (`Retry-After`).
        timeout (`float`): Seconds of silence after which a connection counts as broken.
        backoff (`float`): First wait in seconds.
        allow_empty (`bool`): Whether an empty text is an answer; else it is asked for again.

    Raises:
        ValueError: if the endpoint is no such URL, or the acknowledgment is missing.
    """

    def __init__(
        self,
        endpoint: str,
        model: str,
        *,
        acknowledgment: str | None = None,
        api_key: str | None = None,
        concurrency: int = 8,
        requests_per_minute: float | None = None,
        attempts: int = 3,
        max_tokens: int = 900,
        max_retries: int = 6,
        timeout: float = 120.0,
        backoff: float = 1.0,
        allow_empty: bool = False,
    ) -> None:
        self.secure, self.host, self.port, self.path = parse_endpoint(endpoint)
        if not is_loopback(self.host) and acknowledgment != ACKNOWLEDGMENT:
            raise ValueError(
                f"{self.host} is not this machine. MIMIC's data may go there only if you have verified three things; if so, "
                f'say it with --acknowledge-data-use "{ACKNOWLEDGMENT}"'
            )
        if not self.secure and not is_loopback(self.host):
            logger.warning("The connection to %s is not encrypted.", self.host)
        self.concurrency, self.attempts, self.max_tokens = concurrency, attempts, max_tokens
        self.max_retries, self.timeout, self.backoff = max_retries, timeout, backoff
        self.allow_empty = allow_empty
        self.identity = {"teacher": "openai", "model": model, "max_tokens": max_tokens}
        self._model = model
        self._api_key = api_key
        self._interval = 60 / requests_per_minute if requests_per_minute else 0.0
        self._next_start = 0.0
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Ends the waiting of requests that are to be repeated; they raise TeacherError."""
        self._stopped.set()

    def answer(self, request: HasMessages, attempt: int = 0, key: str | None = None) -> str:
        """
        The text of an answer.

        Args:
            key (`str`, *optional*): Sent as `Idempotency-Key`, by which a server may tell a repeated request.

        Raises:
            TeacherError: if there is none after `max_retries`.
            EndpointRefusedError: for any other 3xx or 4xx.
        """
        body = {"model": self._model, "messages": request.messages, "max_tokens": self.max_tokens, "seed": attempt}
        body["temperature"] = 0.7 if attempt else 0.0
        reason: str | None = "stopped"
        for retry in range(self.max_retries + 1):
            self._wait_for_turn()
            if self._stopped.is_set():
                break
            text, reason, wait = self._post(json.dumps(body).encode(), key)
            if text is not None:
                return text
            if retry < self.max_retries:
                pause = wait if wait is not None else self.backoff * 2**retry * random.uniform(0.75, 1.25)
                self._stopped.wait(min(pause, MAX_WAIT))
        raise TeacherError(f"{self.host} gave no answer to a request ({reason}).")

    def _post(self, body: bytes, key: str | None) -> tuple[str | None, str | None, float | None]:
        """`(text, None, None)`, or `(None, reason, seconds to wait)`."""
        connect = http.client.HTTPSConnection if self.secure else http.client.HTTPConnection
        connection = connect(self.host, self.port, timeout=self.timeout)
        headers = {"Content-Type": "application/json"}
        if self._api_key:
            headers["Authorization"] = f"Bearer {self._api_key}"
        if key:
            headers["Idempotency-Key"] = key
        try:
            connection.request("POST", self.path, body, headers)
            response = connection.getresponse()
            content = response.read(MAX_RESPONSE_BYTES)
        except (OSError, http.client.HTTPException) as error:
            return None, type(error).__name__, None
        finally:
            connection.close()
        if response.status in (408, 409, 429) or response.status >= 500:
            return None, f"status {response.status}", _retry_after(response.headers.get("Retry-After"))
        if response.status != 200:
            raise EndpointRefusedError(f"{self.host} refuses requests with status {response.status}.")
        try:
            text = json.loads(content)["choices"][0]["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError):
            return None, "malformed response", None
        if isinstance(text, str) and (self.allow_empty or text.strip()):
            return text.strip(), None, None
        return None, "empty answer", None

    def _wait_for_turn(self) -> None:
        with self._lock:
            now = time.monotonic()
            start = max(now, self._next_start)
            self._next_start = start + self._interval
        self._stopped.wait(start - now)


def parse_endpoint(endpoint: str) -> tuple[bool, str, int | None, str]:
    """
    `(whether encrypted, host, port, path of chat completions)`.

    Raises:
        ValueError: if it is not a plain http(s) URL.
    """
    try:
        url = urlsplit(endpoint)
        port = url.port
    except ValueError as error:
        raise ValueError(f"The endpoint {endpoint!r} is no URL ({error}).") from error
    odd = "\\" in endpoint or any(character.isspace() for character in endpoint)
    if (
        url.scheme not in ("http", "https")
        or not url.hostname
        or "@" in url.netloc
        or url.query
        or url.fragment
        or odd
    ):
        raise ValueError("The endpoint must look like https://host:port/v1, without user, query or fragment.")
    return url.scheme == "https", url.hostname, port, f"{url.path.rstrip('/')}/chat/completions"


def is_loopback(host: str) -> bool:
    """Whether a host is this machine by its name alone; other names are not looked up."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _retry_after(value: str | None) -> float | None:
    """Seconds of the header, which is a number or a date."""
    if not value:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None
