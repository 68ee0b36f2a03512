# SPDX-License-Identifier: Apache-2.0
"""The server's routes. For research only: not a medical device, not for the care of patients."""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException

from modeling_medtvt import MedicalDiagnosisPipeline
from processing_medtvt.report_medtvt import RESEARCH_USE

from .answering import AnswerError, PipelineAnswers
from .batcher import Answer, Batcher, Job
from .bodies import ChatBody, DiagnoseBody
from .guard import Guard, error_content
from .vllm_engine import EngineError


@dataclass(frozen=True)
class ServedModel:
    """
    What a server says of its model.

    Args:
        name (`str`): Of the folder, without its place on the disk.
        fingerprint (`str`): Hash of what decides the answers.
    """

    name: str
    fingerprint: str


@dataclass(frozen=True)
class Limits:
    """
    Args:
        max_batch (`int`): Patients that are answered at a time.
        max_wait (`float`): Seconds that a patient waits for others to share the batch.
        max_request_mb (`float`): Size of a body in MB.
        max_requests (`int`): Requests at a time; more are sent away.
        timeout (`float`): Seconds until an answer must be there, and in which a body must have come.

    Raises:
        ValueError: if one of them leaves nothing.
    """

    max_batch: int = 8
    max_wait: float = 0.05
    max_request_mb: float = 32
    max_requests: int = 64
    timeout: float = 300

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not (value > 0 or (name == "max_wait" and value == 0)):
                raise ValueError(f"--{name.replace('_', '-')} must be greater than 0, got {value}.")


def create_app(diagnose: MedicalDiagnosisPipeline, served: ServedModel, limits: Limits | None = None) -> FastAPI:
    """
    The ASGI application. It reads inputs in one thread and answers in another.

    Args:
        diagnose ([`MedicalDiagnosisPipeline`]): Answers.
        served ([`ServedModel`]): Its name and fingerprint.
        limits ([`Limits`], *optional*): Of requests.
    """
    limits = limits or Limits()
    server = _Server(diagnose, served, limits)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        server.open()
        yield
        await asyncio.to_thread(server.close)

    # no pages that load scripts from elsewhere
    app = FastAPI(title="MedTVT-R1", description=RESEARCH_USE, docs_url=None, redoc_url=None, lifespan=lifespan)
    app.add_middleware(
        Guard,
        max_request_bytes=int(limits.max_request_mb * 1e6),
        max_requests=limits.max_requests,
        upload_timeout=limits.timeout,
    )
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(ValueError, _on_refusal)
    app.add_exception_handler(AnswerError, _on_failure)
    app.add_exception_handler(EngineError, _on_absence)
    app.get("/health")(server.health)
    app.get("/v1/models")(server.models)
    app.post("/v1/diagnose", response_model=None)(server.diagnose)
    app.post("/v1/chat/completions", response_model=None)(server.chat)
    return app


class _Server:
    def __init__(self, diagnose: MedicalDiagnosisPipeline, served: ServedModel, limits: Limits) -> None:
        self.served, self.limits = served, limits
        self.answers = PipelineAnswers(diagnose)
        self.max_new_tokens: int = diagnose.model.generation_config.max_new_tokens
        self.provenance = diagnose.model.provenance
        self.started = int(time.time())

    def open(self) -> None:
        self.reading = ThreadPoolExecutor(1, thread_name_prefix="reading")
        self.batcher = Batcher(self.answers.answer, self.limits.max_batch, self.limits.max_wait)

    def close(self) -> None:
        self.batcher.close()
        self.reading.shutdown(cancel_futures=True)

    async def health(self) -> JSONResponse:
        """Whether patients are answered, and how many wait."""
        is_alive = self.batcher.is_alive
        content = {"status": "ok" if is_alive else "stopped", "waiting": self.batcher.waiting, "notice": RESEARCH_USE}
        return JSONResponse(content, 200 if is_alive else 503)

    async def models(self) -> JSONResponse:
        """The one model: name, fingerprint, and what it was trained on."""
        model = {
            "id": self.served.name,
            "object": "model",
            "created": self.started,
            "owned_by": "medtvt-r1",
            "fingerprint": self.served.fingerprint,
            "stage": self.provenance.stage,
            "trained_on": self.provenance.describe_patients(),
            "max_new_tokens": self.max_new_tokens,
        }
        return JSONResponse({"object": "list", "data": [model], "notice": RESEARCH_USE})

    async def diagnose(self, body: DiagnoseBody, request: Request) -> JSONResponse:
        """The pipeline's result."""
        answer = await self._wait(await self._submit(body), request)
        return JSONResponse({**answer.result, **self._about()})

    async def chat(self, body: ChatBody, request: Request) -> JSONResponse | StreamingResponse:
        """The answer as a chat completion, with the pipeline's result beside it."""
        job = await self._submit(body, is_streamed=body.stream)
        head = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": self.served.name,
            "system_fingerprint": self.served.fingerprint,
            "notice": RESEARCH_USE,
        }
        if body.stream:
            return StreamingResponse(self._stream(job, head), media_type="text/event-stream")
        answer = await self._wait(job, request)
        message = {"role": "assistant", "content": answer.result["generated_text"]}
        choice = {"index": 0, "message": message, "finish_reason": _finish_reason(answer)}
        return JSONResponse({**head, "object": "chat.completion", "choices": [choice], **_ending(answer)})

    def _about(self) -> dict[str, str]:
        return {"model": self.served.name, "fingerprint": self.served.fingerprint, "notice": RESEARCH_USE}

    async def _submit(self, body: DiagnoseBody | ChatBody, is_streamed: bool = False) -> "_Waiting":
        """Reads the inputs and queues the job."""
        if body.model is not None and body.model != self.served.name:
            raise HTTPException(404, f"model: it is not served here; accepted is {self.served.name!r}.")
        if body.fingerprint is not None and body.fingerprint != self.served.fingerprint:
            raise HTTPException(409, f"fingerprint: these are other weights; accepted is {self.served.fingerprint}.")
        asked = body.max_new_tokens or self.max_new_tokens
        if asked > self.max_new_tokens:
            raise ValueError(
                f"max_new_tokens: {asked} is too long an answer; accepted are 1 to {self.max_new_tokens}."
            )
        settings = {**body.settings(), "max_new_tokens": asked}
        loop = asyncio.get_running_loop()
        job = await loop.run_in_executor(
            self.reading, self.answers.read, body.inputs(), body.patient, body.question, settings, body.seed
        )
        waiting = _Waiting(job, loop, is_streamed)
        self.batcher.submit(job)
        return waiting

    async def _wait(self, waiting: "_Waiting", request: Request) -> Answer:
        """The answer; the job ends with the client's patience, or the server's."""
        gone = asyncio.create_task(_until_gone(request))
        ended = asyncio.create_task(waiting.events.get())
        try:
            done, _ = await asyncio.wait(
                {gone, ended}, timeout=self.limits.timeout, return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                raise HTTPException(504, self._too_late())
            if ended not in done:
                raise HTTPException(499, "client: it closed the connection.")
            return waiting.answer()
        finally:
            gone.cancel()
            ended.cancel()
            waiting.job.stop()

    def _too_late(self) -> str:
        return f"answer: it was not there after {self.limits.timeout:g} s (--timeout)."

    async def _stream(self, waiting: "_Waiting", head: Mapping[str, Any]) -> AsyncIterator[str]:
        """Events of OpenAI's form: the text in pieces, then the pipeline's result, or an error."""
        head = {**head, "object": "chat.completion.chunk"}
        text = ""
        try:
            yield _event({**head, "choices": [_delta({"role": "assistant", "content": ""})]})
            async with asyncio.timeout(self.limits.timeout):
                while (piece := await waiting.events.get()) is not None:
                    text += piece
                    yield _event({**head, "choices": [_delta({"content": piece})]})
            answer = waiting.answer()
            written = answer.result["generated_text"]
            rest = written.removeprefix(text) if written.startswith(text) else ""
            yield _event({**head, "choices": [_delta({"content": rest}, _finish_reason(answer))], **_ending(answer)})
        except TimeoutError:
            yield _event(error_content(504, self._too_late()))
        except HTTPException as error:
            yield _event(error_content(error.status_code, error.detail))
        except ValueError as error:
            yield _event(error_content(400, str(error)))
        except AnswerError as error:
            yield _event(error_content(500, str(error)))
        except EngineError as error:
            yield _event(error_content(503, str(error)))
        finally:
            waiting.job.stop()
        yield "data: [DONE]\n\n"


class _Waiting:
    """
    A job as the event loop sees it.

    Attributes:
        events (`asyncio.Queue`): Pieces of the text, if it is streamed, then None.
    """

    def __init__(self, job: Job, loop: asyncio.AbstractEventLoop, is_streamed: bool) -> None:
        self.job, self._loop = job, loop
        self.events: asyncio.Queue[str | None] = asyncio.Queue()
        if is_streamed:
            job.on_text = self._put
        job.future.add_done_callback(self._end)

    def answer(self) -> Answer:
        """
        Raises:
            ValueError, AnswerError, EngineError: as the job. HTTPException: if the server is stopping.
        """
        if self.job.future.cancelled():
            raise HTTPException(503, "server: it is stopping; try again later.")
        return self.job.future.result()

    def _end(self, future: "Future[Answer]") -> None:
        self._put(None)

    def _put(self, piece: str | None) -> None:
        try:
            self._loop.call_soon_threadsafe(self.events.put_nowait, piece)
        except RuntimeError:  # the loop is closed
            self.job.is_stopped = True


async def _until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _delta(delta: Mapping[str, str], finish_reason: str | None = None) -> dict[str, Any]:
    return {"index": 0, "delta": dict(delta), "finish_reason": finish_reason}


def _finish_reason(answer: Answer) -> str:
    return "length" if answer.is_cut else "stop"


def _ending(answer: Answer) -> dict[str, Any]:
    usage = {
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.completion_tokens,
        "total_tokens": answer.prompt_tokens + answer.completion_tokens,
    }
    return {"usage": usage, "result": answer.result}


def _event(content: Mapping[str, Any]) -> str:
    return f"data: {json.dumps(content)}\n\n"


async def _on_http_error(request: Request, error: Any) -> JSONResponse:
    message = {
        404: "path: there is nothing; accepted are /v1/chat/completions, /v1/diagnose, /v1/models and /health.",
        405: "method: it is not the one of this path; accepted are POST for answers, GET for /v1/models and /health.",
    }.get(error.status_code)
    # what starlette says itself is the name of the status
    detail = message if message and error.detail in ("Not Found", "Method Not Allowed") else str(error.detail)
    return JSONResponse(error_content(error.status_code, detail), error.status_code)


async def _on_invalid(request: Request, error: Any) -> JSONResponse:
    """The first thing that is wrong with a body, without what stands there."""
    # of the forms that an entry may have, the one that came furthest is meant
    first = max(error.errors(), key=lambda found: len(found["loc"]))
    steps = [str(step) for step in first["loc"][1:]]
    place = ".".join(step for step in steps if step != "str" and "[" not in step)
    if not place:
        message = "body: it is no JSON object; accepted is one, with the header content-type: application/json."
    elif first["type"] == "json_invalid":
        message = (
            f"body: it is no JSON at character {first['loc'][-1]} ({first['ctx']['error']}); accepted is one object."
        )
    elif first["type"] == "extra_forbidden":
        body = ChatBody if request.url.path == "/v1/chat/completions" else DiagnoseBody
        known = f"; accepted are {', '.join(body.model_fields)}" if "." not in place else ""
        message = f"{place}: there is no such key{known}."
    else:
        message = f"{place}: {first['msg']}."
    return JSONResponse(error_content(400, message), 400)


async def _on_refusal(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse(error_content(400, str(error)), 400)


async def _on_failure(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse(error_content(500, str(error)), 500)


async def _on_absence(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse(error_content(503, str(error)), 503)
