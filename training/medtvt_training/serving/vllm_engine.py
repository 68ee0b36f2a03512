# SPDX-License-Identifier: Apache-2.0
"""Text from a vLLM server, by prompt embeddings; encoders, perception layer and every check stay in this process."""

import base64
import functools
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import torch

from modeling_medtvt import MedTVTForCausalLM


PROBE = "Can you analyze my ECG, CXR and lab result to determine my probable conditions?"
# How far two implementations of the same weights may be apart in a log-probability
TOLERANCE = {torch.float32: 0.02}
HALF_TOLERANCE = 0.25
# What of `generate` has the same meaning there, and what transformers takes where nobody says
SAMPLING = {"temperature": 1.0, "top_p": 1.0, "top_k": 50, "min_p": None}
KNOWN = {"max_new_tokens", "do_sample", "num_return_sequences", "streamer", "stopping_criteria", *SAMPLING}


class EngineError(ConnectionError):
    """The server does not answer: no fault of the request, and what was answered before stays."""


class VllmEngine:
    """
    A vLLM server, started with `vllm serve FOLDER --enable-prompt-embeds`.

    Args:
        url (`str`): Such as `"http://127.0.0.1:8001"`.
        timeout (`float`): Seconds until the answers of a batch must be there.

    Attributes:
        name (`str`): Of the model there.
        adapter (`str`, *optional*): The name of the adapter that answers are written with.

    Raises:
        EngineError: if nothing answers there.
        ValueError: if that is no vLLM.
    """

    def __init__(self, url: str, timeout: float = 600) -> None:
        self.url, self._client = url.rstrip("/"), httpx.Client(timeout=timeout)
        self.adapter: str | None = None
        models = self._request("GET", "/v1/models")
        try:
            self.name = models["data"][0]["id"]
        except (KeyError, IndexError, TypeError) as error:
            raise ValueError(
                f"--engine-url {self.url} lists no model at /v1/models; a vLLM server is needed."
            ) from error

    def load_adapter(self, name: str, folder: str | os.PathLike) -> None:
        """
        Answers from now on with an adapter of the language model alone.

        Args:
            name (`str`): New to the server, which keeps what it computed with an adapter by the adapter's name.
            folder (`str` or `os.PathLike`): Of the adapter; the server reads it.

        Raises:
            ValueError: if the server refuses, as one does that was not started for it.
            EngineError: if it does not answer.
        """
        try:
            self._request(
                "POST", "/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(Path(folder).resolve())}
            )
        except ValueError as error:
            raise ValueError(
                f"{error} It must have been started with --enable-lora, a --max-lora-rank that is not below the adapter's, and "
                "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 in its environment."
            ) from error
        self.unload_adapter()
        self.adapter = name

    def unload_adapter(self) -> None:
        """Answers from now on without an adapter."""
        if self.adapter is not None:
            name, self.adapter = self.adapter, None
            self._request("POST", "/v1/unload_lora_adapter", {"lora_name": name})

    def complete(self, embeds: Sequence[torch.Tensor], **settings: Any) -> list[dict[str, Any]]:
        """
        Args:
            embeds (`list[torch.Tensor]`): A prompt each, (length, d).
            **settings: Of vLLM's completions.

        Returns:
            `list[dict]`: The choices, in the order of the prompts, with `token_ids`.

        Raises:
            ValueError: if the server refuses.
            EngineError: if it does not answer.
        """
        # vLLM refuses to write the same several times
        same = settings.pop("n", 1) if settings.get("temperature") == 0 else 1
        body = {
            "model": self.adapter or self.name,
            "prompt_embeds": [_encode(prompt) for prompt in embeds],
            "return_token_ids": True,
            "skip_special_tokens": False,
            **settings,
        }
        choices = self._request("POST", "/v1/completions", body)["choices"]
        in_order = sorted(choices, key=lambda choice: choice["index"])
        return [choice for choice in in_order for _ in range(same)]

    def _request(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        try:
            response = self._client.request(method, self.url + path, json=body)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise EngineError(
                f"--engine-url {self.url} does not answer ({type(error).__name__}). With the extra `vllm` installed, it is "
                "started by: vllm serve MODEL --enable-prompt-embeds"
            ) from error
        reason = " ".join(response.text.split())[:300]
        if response.status_code >= 500:
            raise EngineError(f"--engine-url {self.url} failed at {path} with {response.status_code}: {reason}")
        if response.status_code != 200:
            raise ValueError(f"--engine-url {self.url} refuses {path} with {response.status_code}: {reason}")
        return response.json() if "json" in response.headers.get("content-type", "") else None


def write_with_vllm(model: MedTVTForCausalLM, tokenizer: Any, engine: VllmEngine) -> None:
    """
    Lets `model.generate` write with a vLLM server of the same weights; all else of the model stays in this process.

    Args:
        model ([`MedTVTForCausalLM`]): Whose `generate` from now on takes what a prompt consists of, and these settings:
            `max_new_tokens`, `do_sample`, `num_return_sequences`, those of sampling, `streamer`, which gets the text once
            all of it is written, and `stopping_criteria`, which is not asked.
        tokenizer: Its own.
        engine ([`VllmEngine`]): Of its weights.

    Raises:
        ValueError: if the engine holds other weights.
    """
    check_weights(model, tokenizer, engine)
    model.generate = functools.partial(generate, model, engine)  # type: ignore[method-assign]


@torch.no_grad()
def check_weights(model: MedTVTForCausalLM, tokenizer: Any, engine: VllmEngine) -> None:
    """
    The first token after a fixed prompt must be as probable there as here.

    Raises:
        ValueError: if it is not.
    """
    ids = torch.tensor([tokenizer(PROBE)["input_ids"]], device=model.device)
    embeds = model.get_prompt_embeds(ids)
    choice = engine.complete([embeds[0]], max_tokens=1, temperature=0, logprobs=1)[0]
    theirs, token = choice["logprobs"]["token_logprobs"][0], choice["token_ids"][0]
    scores = model(inputs_embeds=embeds).logits[0, -1].float().log_softmax(-1)
    tolerance = TOLERANCE.get(embeds.dtype, HALF_TOLERANCE)
    if token >= len(scores) or abs(scores[token].item() - theirs) > tolerance:
        raise ValueError(
            f"--engine-url {engine.url} serves other weights ({engine.name}) than {model.config.name_or_path}: its first "
            "token after a fixed prompt is not as probable here. Serve the same folder in both."
        )


@torch.no_grad()
def generate(
    model: MedTVTForCausalLM,
    engine: VllmEngine,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    modality_embeds: torch.Tensor | None = None,
    return_dict_in_generate: bool = False,
    **kwargs: Any,
) -> torch.Tensor:
    """
    What `model.generate` returns: (batch * sequences, prompt and new tokens), padded on the right.

    Raises:
        ValueError: if a setting has no counterpart in vLLM, or the server refuses.
        EngineError: if it does not answer.
    """
    unknown = sorted({*kwargs, *["return_dict_in_generate"] * return_dict_in_generate} - KNOWN)
    if unknown:
        raise ValueError(f"{', '.join(unknown)}: not with --engine vllm; accepted are {', '.join(sorted(KNOWN))}.")
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    embeds = model.get_prompt_embeds(input_ids, mask, modality_embeds=modality_embeds)
    settings = completion_settings(model, kwargs)
    choices = engine.complete([row[kept.bool()] for row, kept in zip(embeds, mask)], **settings)
    found = [torch.tensor(choice["token_ids"]) for choice in choices]
    new_tokens = torch.nn.utils.rnn.pad_sequence(found, True, model.generation_config.pad_token_id)
    if (streamer := kwargs.get("streamer")) is not None:
        streamer.put(input_ids.cpu())
        for step in new_tokens.T:
            streamer.put(step)
        streamer.end()
    prompts = input_ids.repeat_interleave(settings["n"], 0)
    return torch.cat([prompts, new_tokens.to(prompts.device)], 1)


def completion_settings(model: MedTVTForCausalLM, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """
    Keywords of `generate`, and what the generation config says, as settings of vLLM's completions.

    Raises:
        ValueError: if one of them has another meaning there.
    """
    config = model.generation_config
    asked = {
        name: next((value for value in (kwargs.get(name), getattr(config, name)) if value is not None), default)
        for name, default in {"do_sample": False, "repetition_penalty": 1.0, **SAMPLING}.items()
    }
    if asked["repetition_penalty"] != 1.0:
        raise ValueError("repetition_penalty: not with vLLM, for which the prompt has no tokens; accepted is 1.0.")
    settings: dict[str, Any] = {
        "max_tokens": kwargs.get("max_new_tokens") or config.max_new_tokens,
        "n": kwargs.get("num_return_sequences") or 1,
        "logit_bias": {str(token): -100 for token in model.config.modality_token_ids},
        "temperature": 0,
    }
    if asked["do_sample"]:
        settings |= {name: asked[name] for name in SAMPLING if asked[name] is not None}
        settings["seed"] = int(torch.randint(2**31, ()))  # so that `set_seed` counts there too
    return settings


def _encode(tensor: torch.Tensor) -> str:
    buffer = io.BytesIO()
    torch.save(tensor.cpu().contiguous().clone(), buffer)  # a view would be saved with all that it is a view of
    return base64.b64encode(buffer.getvalue()).decode()
