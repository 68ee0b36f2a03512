# SPDX-License-Identifier: Apache-2.0
"""Rollouts of RFT that a vLLM server writes: each step's LoRA is handed to it, all else stays in the trainer."""

import copy
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from safetensors.torch import save_file

from modeling_medtvt import MedTVTForCausalLM

from ..serving.vllm_engine import VllmEngine, check_weights, completion_settings


class VllmRollouts:
    """
    Completions from a vLLM server that serves the model which RFT starts from.

    Args:
        engine ([`VllmEngine`]): The server. It must see the files of this machine.
        model (`PeftModel`): The policy: LoRA on the language model, and what is trained beside it.
        tokenizer: Its own.

    Raises:
        ValueError: if something of the language model is trained that is no LoRA, or the server holds other weights.
    """

    def __init__(self, engine: VllmEngine, model: Any, tokenizer: Any) -> None:
        if not isinstance(model, PeftModel):
            raise ValueError("`rollout_engine: vllm` hands LoRA to the server: it needs `tuning: lora`.")
        trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        strayed = [n for n in trained if ("language_model" in n or "lm_head" in n) and "lora_" not in n]
        if strayed:
            raise ValueError(
                f"`rollout_engine: vllm` hands LoRA to the server, but {strayed[0]} is trained and is none; leave it out of "
                "`modules_to_save`."
            )
        self.engine, self._loaded = engine, -1
        with model.disable_adapter():
            check_weights(cast(MedTVTForCausalLM, model.get_base_model()), tokenizer, engine)

    def hand_over(self, model: PeftModel, step: int, accelerator: Accelerator) -> None:
        """Gives the server the LoRA of a step, once; all processes call this, one of them writes."""
        if step == self._loaded:
            return
        names = [f"rft-{step}-{uuid.uuid4().hex[:8]}"]
        broadcast_object_list(names)
        failure: list[Exception | None] = [None]
        if accelerator.is_main_process:
            with tempfile.TemporaryDirectory() as folder:
                write_lora(model, Path(folder))
                try:
                    self.engine.load_adapter(names[0], folder)
                except (ValueError, OSError) as error:
                    failure = [error]
        broadcast_object_list(failure)
        if failure[0] is not None:
            raise failure[0]
        self.engine.adapter = names[0]
        self._loaded = step

    @torch.no_grad()
    def generate(
        self,
        model: MedTVTForCausalLM,
        prompts: Sequence[torch.Tensor],
        positions: Sequence[int],
        generation_config: Any,
    ) -> torch.Tensor:
        """
        Completions, padded on the right.

        Args:
            model ([`MedTVTForCausalLM`]): Whose settings count where `generation_config` has none.
            prompts (`list[torch.Tensor]`): The unique prompts as embeddings, (length, d) each.
            positions (`list[int]`): For each completion its prompt; those of a prompt lie together.
            generation_config: trl's.

        Returns:
            `torch.Tensor`: (completions, tokens).
        """
        asked = {name: value for name, value in generation_config.to_dict().items() if value is not None}
        number = max(positions.count(i) for i in range(len(prompts)))
        settings = completion_settings(model, {**asked, "num_return_sequences": number})
        choices = self.engine.complete(prompts, **settings)
        # fewer of a prompt lie at the border between two processes
        kept = [i * number + n for i in range(len(prompts)) for n in range(positions.count(i))]
        found = [torch.tensor(choices[place]["token_ids"]) for place in kept]
        return torch.nn.utils.rnn.pad_sequence(found, True, model.generation_config.pad_token_id)


def write_lora(model: PeftModel, folder: Path) -> None:
    """An adapter folder with the LoRA weights alone, which vLLM reads."""
    weights = get_peft_model_state_dict(model)
    lora = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items() if "lora_" in name}
    config = cast(LoraConfig, copy.deepcopy(model.peft_config["default"]))
    config.modules_to_save = None
    config.target_modules = sorted({name.removeprefix("base_model.model.").split(".lora_")[0] for name in lora})
    config.inference_mode = True
    config.save_pretrained(str(folder))
    save_file(lora, folder / "adapter_model.safetensors")
