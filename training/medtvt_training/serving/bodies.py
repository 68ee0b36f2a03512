# SPDX-License-Identifier: Apache-2.0
"""What the bodies of requests hold, and what they become for the pipeline."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field


MAX_SAMPLES = 16

Count = Annotated[int, Field(ge=1)]
Input = Annotated[dict[str, Any], Field(description="its content as JSON, or files: {NAME: BASE64}")]


class Strict(BaseModel):
    """What has no field that is not known."""

    model_config = ConfigDict(extra="forbid")


class Body(Strict):
    """
    What all requests may say.

    Args:
        model (`str`, *optional*): Name of the model that is meant, as /v1/models says.
        fingerprint (`str`, *optional*): Of the weights that are meant; a server of others refuses.
        patient (`dict`, *optional*): `age` in years and `sex`, "F" or "M".
        temperature, top_p (`float`, *optional*): Of answers that are drawn; temperature 0 asks for the greedy one.
        seed (`int`, *optional*): Of answers that are drawn. Such a request is answered by itself.
    """

    model: str | None = None
    fingerprint: str | None = None
    patient: dict[str, Any] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**32)] | None = None

    def sampling(self) -> dict[str, Any]:
        """The keywords of `generate` on how tokens are chosen."""
        drawn = {"temperature": self.temperature, "top_p": self.top_p}
        found: dict[str, Any] = {name: value for name, value in drawn.items() if value is not None}
        if self.temperature == 0:
            return {"do_sample": False}
        return {"do_sample": True, **found} if found else {}


class DiagnoseBody(Body):
    """
    Of /v1/diagnose: the pipeline's inputs and keywords.

    Args:
        ecg, cxr, lab (`dict`, *optional*): See [`read_input`].
        question, num_samples, influence, strict, abstain, max_new_tokens (*optional*): As in the pipeline.
    """

    ecg: Input | None = None
    cxr: Input | None = None
    lab: Input | None = None
    question: str | None = None
    num_samples: Annotated[int, Field(ge=1, le=MAX_SAMPLES)] = 1
    influence: bool = False
    strict: bool = False
    abstain: Annotated[float, Field(gt=0, lt=1)] | None = None
    max_new_tokens: Count | None = None

    def inputs(self) -> dict[str, dict[str, Any]]:
        """The inputs by modality."""
        given = {"ecg": self.ecg, "cxr": self.cxr, "lab": self.lab}
        return {modality: value for modality, value in given.items() if value is not None}

    def settings(self) -> dict[str, Any]:
        """Keywords of the pipeline."""
        settings: dict[str, Any] = {"num_samples": self.num_samples, "strict": self.strict, **self.sampling()}
        if self.influence:
            settings["influence"] = True
        if self.abstain is not None:
            settings["abstain"] = self.abstain
        return settings


class TextPart(Strict):
    """A part of a message that is text. With `<ecg>`, `<cxr>` and `<lab>` it says itself where the inputs stand."""

    type: Literal["text"]
    text: str


class EcgPart(Strict):
    """A part of a message that is an ECG."""

    type: Literal["ecg"]
    ecg: Input


class CxrPart(Strict):
    """A part of a message that is a chest X-ray."""

    type: Literal["cxr"]
    cxr: Input


class LabPart(Strict):
    """A part of a message that is a laboratory panel."""

    type: Literal["lab"]
    lab: Input


Part = Annotated[TextPart | EcgPart | CxrPart | LabPart, Field(discriminator="type")]


class Message(Strict):
    """The question: the model was trained on one turn, so there are neither system messages nor earlier answers."""

    role: Literal["user"]
    content: str | list[Part]


class ChatBody(Body):
    """
    Of /v1/chat/completions, in OpenAI's form.

    Args:
        messages: One message of the user.
        max_tokens, max_completion_tokens (`int`, *optional*): Length limit of the answer, by either name.
        n (`int`): 1; /v1/diagnose draws several answers and turns them into scores.
        stream (`bool`): Whether the text comes as it is written.
    """

    messages: Annotated[list[Message], Field(min_length=1, max_length=1)]
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    n: Annotated[int, Field(ge=1, le=1)] = 1
    stream: bool = False

    @property
    def max_new_tokens(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def question(self) -> str | None:
        """The text of the message; None where it has none, so that the pipeline asks."""
        content = self.messages[0].content
        if isinstance(content, str):
            return content or None
        return " ".join(part.text for part in content if isinstance(part, TextPart)) or None

    def inputs(self) -> dict[str, dict[str, Any]]:
        """
        The inputs by modality.

        Raises:
            ValueError: if a modality comes twice.
        """
        content = self.messages[0].content
        found: dict[str, dict[str, Any]] = {}
        for part in content if isinstance(content, list) else ():
            if isinstance(part, TextPart):
                continue
            if part.type in found:
                raise ValueError(f"messages: several parts are of type {part.type}; a patient has at most one.")
            found[part.type] = getattr(part, part.type)
        return found

    def settings(self) -> dict[str, Any]:
        """Keywords of the pipeline."""
        return self.sampling()
