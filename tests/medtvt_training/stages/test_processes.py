# SPDX-License-Identifier: Apache-2.0
"""Runs of the stages in two processes, which must end as one process does; see launched.py."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from medtvt_training.stages.recipes import RECIPES
from medtvt_training.stages.run import run_stage

from .launched import draw_completions
from tests.toy import write_toy_dataset


STEPS = 3
WORDS = {
    "pt": ["--gradient_checkpointing=true"],
    "sft": ["--tuning=lora", "--modality-dropout=0.3", "--eval-answers=0"],
    "rft": ["--tuning=lora", "--rewards=length", "--num_generations=4", "--max_completion_length=6", "--beta=0.04"],
}
KINDS = {"ddp": None, "fsdp": "fsdp", "sharded": "fsdp-sharded", "zero2": "zero2"}


def launcher_variables(kind):
    """What `accelerate launch --config_file KIND.yaml` sets, in float32."""
    if KINDS[kind] is None:
        return {}
    config = yaml.safe_load((RECIPES / "accelerate" / f"{KINDS[kind]}.yaml").read_text())
    if config["distributed_type"] == "DEEPSPEED":
        given = {f"ACCELERATE_DEEPSPEED_{name.upper()}": value for name, value in config["deepspeed_config"].items()}
        return {"ACCELERATE_USE_DEEPSPEED": "true", **{name: str(value) for name, value in given.items()}}
    given = {name.upper(): str(value) for name, value in config["fsdp_config"].items()}
    return {"ACCELERATE_USE_FSDP": "true", **given}


class Runs:
    """Folders of the runs, by name, and how each was made."""

    def __init__(self, folder, model):
        self.folder, self.model, self.jobs = folder, model, []
        for name in ("data", "other-0", "other-1"):
            write_toy_dataset(folder / name, 9 if name == "other-1" else 8)

    def words(self, stage, name, batch_size, *words):
        rft = stage == "rft"
        return [
            *("--disable_tqdm=true", f"--model={self.model}", f"--data={self.folder / 'data'}", "--report_to=none"),
            *(f"--max_steps={STEPS}", "--logging_steps=1", "--save_strategy=steps", "--save_steps=2"),
            *(f"--per_device_train_batch_size={4 * batch_size if rft else batch_size}", "--learning_rate=1e-3"),
            "--adam_epsilon=1e-5",  # a gradient that is zero but for rounding makes no step
            *(["--gradient_accumulation_steps=1"] if rft else ["--train_sampling_strategy=random"]),
            *([] if rft else ["--eval_strategy=no", "--eval_on_start=false", "--warmup_steps=0"]),
            *(*WORDS[stage], f"--out={self.folder / name}", *words),
        ]

    def add(self, stage, kind, *words, name=None, end=None):
        """A job in two processes."""
        env = launcher_variables(kind)
        words = self.words(stage, f"{stage}-{kind}", 1, *(["--use_cpu=false"] if env else []), *words)
        name = name or f"{stage}-{kind}"
        self.jobs.append({"name": name, "stage": stage, "env": env, "words": words, "end": end})

    def launch(self):
        file = self.folder / "jobs.json"
        file.write_text(json.dumps(self.jobs))
        command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        script = [str(Path(__file__).with_name("launched.py")), str(file), str(self.folder)]
        return subprocess.run([sys.executable, *command, *script], capture_output=True, text=True, timeout=600)

    def errors(self, name):
        return [json.loads((self.folder / f"{name}-{rank}.json").read_text()) for rank in (0, 1)]


@pytest.fixture(scope="module")
def runs(checkpoint, tmp_path_factory):
    """All runs in two processes, started together: processes take long to start."""
    runs = Runs(tmp_path_factory.mktemp("runs"), checkpoint)
    words = [f"--model={checkpoint}", f"--data={runs.folder / 'data'}", f"--out={runs.folder / 'cache'}"]
    runs.jobs.append({"name": "cache", "stage": "cache", "env": {}, "words": words, "end": None})
    for kind in KINDS:
        for stage in ("pt", "sft", "rft"):
            if kind != "sharded" or stage == "sft":
                words = [f"--feature-cache={runs.folder / 'cache'}"] * (stage == "sft")
                if (stage, kind) in RESUMED:
                    runs.add(stage, kind, *words, name=f"{stage}-{kind}-stopped", end="stop")
                    words.append("--resume=true")
                runs.add(stage, kind, *words)
    other = f"--data={runs.folder / 'other-RANK'}"
    runs.add("pt", "ddp", other, f"--out={runs.folder / 'other'}", name="other-rows")
    # the last one takes the processes with it
    runs.add("pt", "ddp", f"--out={runs.folder / 'dead'}", name="dead", end="die")
    runs.done = runs.launch()
    return runs


RESUMED = [("pt", "fsdp"), ("sft", "sharded"), ("sft", "zero2"), ("sft", "ddp")]
LAUNCHED = [(stage, kind) for kind in KINDS for stage in ("pt", "sft", "rft") if kind != "sharded" or stage == "sft"]


@pytest.fixture(scope="module")
def alone(runs):
    """The same runs in this process."""
    with pytest.MonkeyPatch.context() as patch:
        draw_completions(patch)
        for stage in WORDS:
            run_stage(stage, "tiny", runs.words(stage, stage, 2))
    return runs.folder


def read_log(run, *keys):
    history = json.loads((run / "trainer_state.json").read_text())["log_history"]
    return [[entry[key] for key in keys] for entry in history if keys[0] in entry]


@pytest.mark.parametrize(("stage", "kind"), LAUNCHED)
def test_two_processes_end_as_one_does(stage, kind, runs, alone):
    name = f"{stage}-{kind}"
    assert runs.errors(name) == [None, None], runs.done.stderr[-3000:]
    keys = ["loss", "grad_norm"] if stage != "rft" else ["loss", "kl", "reward", "grad_norm"]
    found, expected = read_log(runs.folder / name, *keys), read_log(alone / stage, *keys)
    assert len(found) == STEPS
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), rtol=1e-4, atol=1e-6)
    assert not any((runs.folder / name).glob("rows-*"))  # no copy of the rows is left beside the result
    ours = load_file(runs.folder / name / "final" / "model.safetensors")
    theirs = load_file(alone / stage / "final" / "model.safetensors")
    assert set(ours) == set(theirs)  # a tied head is there once
    for key, value in theirs.items():
        torch.testing.assert_close(ours[key], value, atol=1e-4, rtol=1e-3, msg=key)


def test_processes_share_the_work_of_a_cache(runs, model):
    assert runs.errors("cache") == [None, None]
    cache = runs.folder / "cache"
    lines = {file: file.read_text().split() for file in cache.glob("*-*/index*.txt")}
    assert {file.name for file in lines} == {"index.txt", "index-1.txt"}
    stores = {file.parent for file in lines}
    assert len(stores) == 3
    for store in stores:
        digests = [digest for file in lines if file.parent == store for digest in lines[file]]
        assert len(digests) == len(set(digests)) == 14  # of 16 patients' each
    spans = sorted(path.name.split("-", 2)[2] for path in cache.glob("built-*.json"))
    assert spans.count("0-4.json") == spans.count("4-8.json") == 2  # train and validation of diagnosis


def test_the_reward_moves(runs, alone):
    rewards = [reward for (reward,) in read_log(alone / "rft", "reward")]
    assert len(set(rewards)) == STEPS


@pytest.mark.parametrize(("stage", "kind"), RESUMED)
def test_a_run_was_stopped_and_went_on(stage, kind, runs):
    assert runs.errors(f"{stage}-{kind}-stopped") == ["ValueError: stopped"] * 2
    folder = runs.folder / f"{stage}-{kind}"
    assert sorted(path.name for path in folder.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-3"]


def test_processes_that_read_different_rows_are_refused(runs):
    message = (
        "ValueError: Process 1 has read 24 rows of train, process 0 21: the dataset must be the same on every node."
    )
    assert runs.errors("other-rows") == [message] * 2
    assert not {"final", "adapter"} & {path.name for path in (runs.folder / "other").iterdir()}


def test_a_dead_process_ends_the_run_and_loses_nothing(runs, alone):
    assert runs.done.returncode != 0 and not (runs.folder / "dead-0.json").exists()
    dead = runs.folder / "dead"
    assert (dead / "checkpoint-2").is_dir() and not (dead / "final").exists()
    run_stage("pt", "tiny", runs.words("pt", "dead", 2, "--resume=true"))
    found, expected = read_log(dead, "loss"), read_log(alone / "pt", "loss")
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), rtol=1e-4, atol=0)
