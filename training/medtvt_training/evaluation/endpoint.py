# SPDX-License-Identifier: Apache-2.0
"""Answers of a model that an OpenAI-compatible server runs, as vLLM and SGLang are: for models that transformers has not."""

import base64
import io
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from PIL import Image

from ..data.rows import QARow
from ..files import fingerprint
from ..mimic.teachers import EndpointRefusedError, OpenAITeacher, TeacherError
from .chat import write_conversation


class _Question(NamedTuple):
    """What the client sends."""

    messages: list[dict[str, Any]]


class EndpointAnswerer:
    """
    Asks for greedy answers, as many at a time as a batch holds. A row whose request stays without an answer is listed in
    rejects.jsonl, and asked for again by the next run.

    Args:
        client ([`OpenAITeacher`]): Where, which model, how long and how often.
        with_images (`bool`): Whether ECG and X-ray are shown as pictures; else measurements of the ECG are told.
    """

    def __init__(self, client: OpenAITeacher, with_images: bool = True) -> None:
        self.client, self.with_images = client, with_images
        self._refused: EndpointRefusedError | None = None

    def length(self, row: QARow) -> int:
        """Nothing is gained by sorting."""
        return 0

    def prepare(self, rows: Sequence[QARow]) -> list[_Question]:
        """The conversation of each row, pictures as PNG."""
        return [
            _Question([_to_openai(message) for message in write_conversation(row, self.with_images)]) for row in rows
        ]

    def answer(self, prepared: Sequence[_Question]) -> list[dict | OSError]:
        """
        `completion` of each conversation, or the error that kept it away.

        Raises:
            EndpointRefusedError: if the server refused a request before: it will refuse the others.
        """
        if self._refused is not None:
            raise self._refused
        with ThreadPoolExecutor(max(1, len(prepared))) as pool:
            return list(pool.map(self._answer_one, prepared))

    def _answer_one(self, question: _Question) -> dict | OSError:
        try:
            # the same question again is known by its key
            key = fingerprint([json.dumps(question.messages)])
            return {"completion": self.client.answer(question, key=key)}
        except TeacherError as error:
            if isinstance(error, EndpointRefusedError):
                self._refused = error
            return error


def _to_openai(message: dict[str, Any]) -> dict[str, Any]:
    """A message in the form of chat completions: images as data URLs."""
    if isinstance(message["content"], str):
        return message
    parts = [
        {"type": "image_url", "image_url": {"url": _data_url(part["image"])}} if part["type"] == "image" else part
        for part in message["content"]
    ]
    return {**message, "content": parts}


def _data_url(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="png")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
