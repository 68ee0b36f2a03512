# SPDX-License-Identifier: Apache-2.0
"""
What `torchrun` starts in test_processes.py: runs of stages, one after the other, in processes that meet over gloo.

`torchrun --nproc-per-node 2 launched.py jobs.json FOLDER` writes NAME.json to the folder for each job: an error message, or
null. A job has `name`, `env` (what accelerate's launcher would set), `stage` and its `words`, and how it is to `end` early.
"""

import importlib
import json
import os
import sys
import zlib
from pathlib import Path

import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import DistributedType

from medtvt_training import cli
from medtvt_training.stages import callbacks
from medtvt_training.stages.grpo_trainer import MedTVTGRPOTrainer
from medtvt_training.stages.rewards import REWARDS
from medtvt_training.stages.run import run_stage


def length_reward(completions, **kwargs):
    return [float(len(completion[-1]["content"])) for completion in completions]


def draw_completions(patch):
    """
    Rollouts that follow from a prompt and a completion's place in its group alone, whichever process draws them; and a
    reward that a random model earns.
    """
    patch.setitem(REWARDS, "length", length_reward)
    rollout = MedTVTGRPOTrainer._generate_from_unique_prompts

    def generate_alike(trainer, model, generate, input_ids, attention_mask, generation_config, **inputs):
        def draw(input_ids, **kwargs):
            rows = []
            for i, position in enumerate(trainer._positions):
                place = (trainer.accelerator.process_index * len(input_ids) + i) % trainer.num_generations
                seed = zlib.crc32(f"{trainer._rows[position]['id']} {place} {trainer.state.global_step}".encode())
                generator = torch.Generator().manual_seed(seed)
                rows.append(torch.randint(300, 600, (generation_config.max_new_tokens,), generator=generator))
            return torch.cat([input_ids, torch.stack(rows).to(input_ids.device)], 1)

        return rollout(trainer, model, draw, input_ids, attention_mask, generation_config, **inputs)

    patch.setattr(MedTVTGRPOTrainer, "_generate_from_unique_prompts", generate_alike)


def allow_cpu(patch):
    """accelerate refuses FSDP and DeepSpeed on a CPU, where only their speed would be wrong: let it take gloo for NCCL."""
    patch.setenv("ACCELERATE_TORCH_DEVICE", "cpu")
    patch.setattr(PartialState, "_prepare_backend", lambda *args: ("gloo", DistributedType.MULTI_GPU))
    if "ACCELERATE_USE_DEEPSPEED" in os.environ:
        backend = importlib.import_module("deepspeed.comm.torch")
        patch.setattr(backend, "build_shm_op", lambda: None)  # a minute of compiling


def end_early(patch, end):
    """Calls `end` with the process's rank before the third step."""

    def on_step_begin(callback, args, state, control, **kwargs):
        if state.global_step == 2:
            end(args.process_index)

    patch.setattr(callbacks.SaveConfigCallback, "on_step_begin", on_step_begin)


def stop(rank):
    raise ValueError("stopped")


def die(rank):
    """As a node does that loses power."""
    if rank == 1:
        os._exit(1)


def run_job(job, patch):
    for name, value in job["env"].items():
        patch.setenv(name, value)
    if job["env"]:
        allow_cpu(patch)
    if job["stage"] == "rft":
        draw_completions(patch)
    if job["end"]:
        end_early(patch, {"stop": stop, "die": die}[job["end"]])
    try:
        words = [word.replace("RANK", os.environ["RANK"]) for word in job["words"]]
        cli.run(["cache", *words]) if job["stage"] == "cache" else run_stage(job["stage"], "tiny", words)
    except (ValueError, OSError) as error:
        return f"{type(error).__name__}: {error}"
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()


def main():
    import pytest

    torch.set_num_threads(1)
    jobs, folder = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    for job in jobs:
        with pytest.MonkeyPatch.context() as patch:
            error = run_job(job, patch)
        (folder / f"{job['name']}-{os.environ['RANK']}.json").write_text(json.dumps(error))


if __name__ == "__main__":
    main()
