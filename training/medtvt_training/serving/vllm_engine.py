# SPDX-License-Identifier: Apache-2.0
"""Text from a vLLM server, by prompt embeddings; encoders, perception layer and every check stay in this process."""

import base64
import io
import os
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
import torch

from modeling_medtvt import MedicalDiagnosisPipeline
from modeling_medtvt.checkpoint_folder import open_checkpoint


PROBE = "Can you analyze my ECG, CXR and lab result to determine my probable conditions?"
# How far two implementations of the same weights may be apart in a log-probability
TOLERANCE = {torch.float32: 0.02}
HALF_TOLERANCE = 0.25
# What of `generate` has the same meaning there
SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
KNOWN = {"max_new_tokens", "do_sample", "num_return_sequences", "streamer", "stopping_criteria", *SAMPLING}


class VllmEngine:
    """
    A vLLM server, started with `vllm serve FOLDER --enable-prompt-embeds`.

    Args:
        url (`str`): Such as `"http://127.0.0.1:8001"`.
        timeout (`float`): Seconds until the answers of a batch must be there.

    Raises:
        ValueError: if no vLLM answers there.
    """

    def __init__(self, url: str, timeout: float = 600) -> None:
        self.url, self._client = url.rstrip("/"), httpx.Client(timeout=timeout)
        models = self._request("GET", "/v1/models")
        try:
            self.name = models["data"][0]["id"]
        except (KeyError, IndexError, TypeError) as error:
            raise ValueError(
                f"--engine-url {self.url} lists no model at /v1/models; a vLLM server is needed."
            ) from error

    def complete(self, embeds: Sequence[torch.Tensor], **settings: Any) -> list[dict[str, Any]]:
        """
        Args:
            embeds (`list[torch.Tensor]`): A prompt each, (length, d).
            **settings: Of vLLM's completions.

        Returns:
            `list[dict]`: The choices, in the order of the prompts, with `token_ids`.

        Raises:
            ValueError: if the server refuses.
        """
        body = {
            "model": self.name,
            "prompt_embeds": [_encode(prompt) for prompt in embeds],
            "return_token_ids": True,
            "skip_special_tokens": False,
            **settings,
        }
        choices = self._request("POST", "/v1/completions", body)["choices"]
        return sorted(choices, key=lambda choice: choice["index"])

    def _request(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        try:
            response = self._client.request(method, self.url + path, json=body)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ValueError(
                f"--engine-url {self.url} does not answer ({type(error).__name__}). It is started with: vllm serve MODEL "
                "--enable-prompt-embeds"
            ) from error
        if response.status_code != 200:
            reason = " ".join(response.text.split())[:300]
            raise ValueError(f"--engine-url {self.url} refuses {path} with {response.status_code}: {reason}")
        return response.json()


class VllmDiagnosisPipeline(MedicalDiagnosisPipeline):
    """
    The pipeline, whose texts a vLLM server of the same weights writes.

    Args:
        engine ([`VllmEngine`]): Of the language model of these weights.
        *args, **kwargs: As in [`MedicalDiagnosisPipeline`].

    Raises:
        ValueError: if the engine holds other weights.
    """

    def __init__(self, *args: Any, engine: VllmEngine, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.engine = engine
        self._check_weights()

    @torch.no_grad()
    def _check_weights(self) -> None:
        """The first token after a fixed prompt must be as probable there as here."""
        ids = torch.tensor([self.tokenizer(PROBE)["input_ids"]], device=self.model.device)
        embeds = self.model.get_prompt_embeds(ids)
        choice = self.engine.complete([embeds[0]], max_tokens=1, temperature=0, logprobs=1)[0]
        theirs = choice["logprobs"]["token_logprobs"][0]
        token = choice["token_ids"][0]
        is_known = token < self.model.config.text_config.vocab_size
        ours = (
            self.model(inputs_embeds=embeds).logits[0, -1].float().log_softmax(-1)[token].item() if is_known else None
        )
        tolerance = TOLERANCE.get(self.model.dtype, HALF_TOLERANCE)
        if ours is None or abs(ours - theirs) > tolerance:
            raise ValueError(
                f"--engine-url {self.engine.url} serves other weights ({self.engine.name}) than "
                f"{self.model.config.name_or_path}: its first token after a fixed prompt is not as probable here. Serve the "
                "same folder in both."
            )

    def _generate(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, modality_embeds: torch.Tensor, **kwargs: Any
    ) -> torch.Tensor:
        if unknown := sorted(set(kwargs) - KNOWN):
            raise ValueError(f"{', '.join(unknown)}: not with --engine vllm; accepted are {', '.join(sorted(KNOWN))}.")
        prompts = self.model.get_prompt_embeds(input_ids, attention_mask, modality_embeds=modality_embeds)
        rows = [row[mask.bool()] for row, mask in zip(prompts, attention_mask)]
        choices = self.engine.complete(rows, **self._settings(kwargs))
        pad = self.tokenizer.pad_token_id
        found = [torch.tensor(choice["token_ids"]) for choice in choices]
        tokens = torch.nn.utils.rnn.pad_sequence(found, batch_first=True, padding_value=pad)
        if (streamer := kwargs.get("streamer")) is not None:
            streamer.put(input_ids.cpu())
            for step in tokens.T:
                streamer.put(step)
            streamer.end()
        return tokens.to(input_ids.device)

    def _settings(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Keywords of `generate`, and what the generation config says, as settings of vLLM's completions."""
        config = self.model.generation_config
        asked = {name: kwargs.get(name, getattr(config, name, None)) for name in ("do_sample", *SAMPLING)}
        settings: dict[str, Any] = {
            "max_tokens": kwargs.get("max_new_tokens") or config.max_new_tokens,
            "n": kwargs.get("num_return_sequences") or 1,
            "logit_bias": {str(token): -100 for token in self.model.config.modality_token_ids},
            "temperature": 0,
        }
        if asked["do_sample"]:
            settings |= {"temperature": 1.0, **{name: asked[name] for name in SAMPLING if asked[name] is not None}}
            settings["seed"] = int(torch.randint(2**31, ()))  # so that `set_seed` counts there too
        return settings


def load_vllm_pipeline(folder: str | os.PathLike, url: str) -> VllmDiagnosisPipeline:
    """
    The pipeline on a checkpoint folder, with a vLLM server of the same folder for its texts.

    Raises:
        ValueError: if the folder does not open, no vLLM answers, or it holds other weights.
    """
    engine = VllmEngine(url)
    model, processor = open_checkpoint(folder, dtype="auto")
    return VllmDiagnosisPipeline(model=model, processor=processor, task="medical-diagnosis", engine=engine)


def _encode(tensor: torch.Tensor) -> str:
    buffer = io.BytesIO()
    torch.save(tensor.cpu().contiguous().clone(), buffer)  # a view would be saved with all that it is a view of
    return base64.b64encode(buffer.getvalue()).decode()
