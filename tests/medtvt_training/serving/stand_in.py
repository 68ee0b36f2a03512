# SPDX-License-Identifier: Apache-2.0
"""What speaks vLLM's protocol in this process; `make vllm-test` holds the client against vLLM itself."""

import base64
import copy
import io
import json
from typing import Any

import httpx
import pytest
import torch
from peft import PeftModel

from modeling_medtvt import MedTVTForCausalLM


URL = "http://engine.test"
CLIENT = httpx.Client


class StandIn:
    """
    /v1/models, /v1/completions and adapters, answered by a model.

    Args:
        model ([`MedTVTForCausalLM`]): Answers.
        prompts (`int`, *optional*): After so many it is gone.
    """

    def __init__(self, model: MedTVTForCausalLM, prompts: int | None = None) -> None:
        self.models: dict[str, Any] = {"served": model}
        self.requests: list[dict[str, Any]] = []
        self.left = prompts

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/models":
            return httpx.Response(200, json={"object": "list", "data": [{"id": "served"}]})
        body = json.loads(request.content)
        if request.url.path == "/v1/load_lora_adapter":
            base = copy.deepcopy(self.models["served"])
            self.models[body["lora_name"]] = PeftModel.from_pretrained(base, body["lora_path"]).eval()
            return httpx.Response(200, text="Success")
        if request.url.path == "/v1/unload_lora_adapter":
            del self.models[body["lora_name"]]
            return httpx.Response(200, text="Success")
        if self.left is not None:
            self.left -= len(body["prompt_embeds"])
            if self.left < 0:
                raise httpx.ConnectError("gone")
        self.requests.append(body)
        if body["model"] not in self.models:
            return httpx.Response(404, json={"error": {"message": "no such model"}})
        choices = [
            self.complete(prompt, body, n) | {"index": place * body.get("n", 1) + n}
            for place, prompt in enumerate(body["prompt_embeds"])
            for n in range(body.get("n", 1))
        ]
        return httpx.Response(200, json={"choices": choices[::-1]})

    @torch.no_grad()
    def complete(self, prompt: str, body: dict[str, Any], n: int) -> dict[str, Any]:
        model = self.models[body["model"]]
        embeds = torch.load(io.BytesIO(base64.b64decode(prompt)), weights_only=True)[None]
        drawn: dict[str, Any] = {"do_sample": False}
        if body["temperature"]:
            drawn = {"do_sample": True, "temperature": body["temperature"]}
        torch.manual_seed(body.get("seed", 0) + n)
        mask = torch.ones(embeds.shape[:2], dtype=torch.long)
        tokens = model.generate(inputs_embeds=embeds, attention_mask=mask, max_new_tokens=body["max_tokens"], **drawn)[
            0
        ]
        scores = model(inputs_embeds=embeds).logits[0, -1].log_softmax(-1)
        return {"token_ids": tokens.tolist(), "logprobs": {"token_logprobs": [scores[tokens[0]].item()]}}


def put_in_place_of_the_network(patch: pytest.MonkeyPatch, handler: Any) -> None:
    """Whatever httpx's clients ask, the handler answers."""
    patch.setattr(httpx, "Client", lambda **kwargs: CLIENT(transport=httpx.MockTransport(handler), **kwargs))
