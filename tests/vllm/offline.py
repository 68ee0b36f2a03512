# SPDX-License-Identifier: Apache-2.0
"""
The same comparison with vLLM in this process, `LLM(enable_prompt_embeds=True)`, as scripts over many patients may use it:
`python -m tests.vllm.offline`.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest

from medtvt_training.inference.load import load_pipeline
from medtvt_training.stages.rollouts import write_lora
from modeling_medtvt import DEFAULT_CHECKPOINT

from .answers import BATCH_SIZE, draw_lora, draw_patients


@torch.no_grad()
def write_with_transformers(
    diagnose: Any, patients: list[dict[str, Any]]
) -> tuple[list[list[int]], list[torch.Tensor]]:
    """Tokens of each patient's greedy answer, and the embeddings of each prompt."""
    prompts: list[torch.Tensor] = []
    answers: list[list[int]] = []
    model, eos = diagnose.model, diagnose.tokenizer.eos_token_id

    def keep(
        input_ids: torch.Tensor, attention_mask: torch.Tensor, modality_embeds: torch.Tensor, **kwargs: Any
    ) -> Any:
        embeds = model.get_prompt_embeds(input_ids, attention_mask, modality_embeds=modality_embeds)
        prompts.extend(row[mask.bool()].clone() for row, mask in zip(embeds, attention_mask))
        found = generate(input_ids=input_ids, attention_mask=attention_mask, modality_embeds=modality_embeds, **kwargs)
        for row in found[:, input_ids.shape[1] :].tolist():
            answers.append(row[: row.index(eos) + 1] if eos in row else row)
        return found

    generate, model.generate = model.generate, keep
    diagnose(patients, batch_size=BATCH_SIZE)
    model.generate = generate
    return answers, prompts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=DEFAULT_CHECKPOINT, help="checkpoint folder (default: the package's own)")
    parser.add_argument("--patients", type=int, default=24)
    args = parser.parse_args()
    diagnose = load_pipeline(args.model)
    config = diagnose.model.generation_config
    settings = SamplingParams(
        temperature=0,
        max_tokens=config.max_new_tokens,
        logit_bias=dict.fromkeys(diagnose.model.config.modality_token_ids, -100.0),
    )
    options = {"enable_prompt_embeds": True, "dtype": "float32", "enforce_eager": True, "max_model_len": 1024}
    options |= {"enable_lora": True, "max_lora_rank": 16}
    engine: Any = LLM(str(args.model), **options)
    differing = 0
    with tempfile.TemporaryDirectory() as name:
        patients = draw_patients(Path(name, "patients"), args.patients)
        for what in ("without LoRA", "with LoRA"):
            request = None
            if what == "with LoRA":
                write_lora(draw_lora(diagnose.model), Path(name, "adapter"))
                request = LoRARequest("drawn", 1, str(Path(name, "adapter")))
            expected, prompts = write_with_transformers(diagnose, patients)
            began = time.perf_counter()
            outputs = engine.generate(
                [{"prompt_embeds": prompt} for prompt in prompts], settings, lora_request=request
            )
            seconds = time.perf_counter() - began
            found = [list(output.outputs[0].token_ids) for output in outputs]
            equal = sum(ours == theirs for ours, theirs in zip(expected, found, strict=True))
            speed = sum(map(len, found)) / seconds
            print(
                f"offline, {what}: {equal} of {len(found)} answers are equal; {speed:.0f} tokens a second", flush=True
            )
            differing += len(found) - equal
    sys.exit(min(1, differing))


if __name__ == "__main__":
    main()
