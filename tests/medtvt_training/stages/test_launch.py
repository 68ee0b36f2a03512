# SPDX-License-Identifier: Apache-2.0
import errno
import json
import shutil
import traceback

import pytest
import torch
from filelock import FileLock
from torch.distributed.checkpoint.api import CheckpointException

from medtvt_training import cli
from medtvt_training.stages.checkpoints import explain_write_errors, find_checkpoint, is_whole, kind_of
from medtvt_training.stages.launch import check_launch
from medtvt_training.stages.recipes import parse_arguments
from medtvt_training.stages.run import run_stage

from tests.toy import write_toy_dataset


DEEPSPEED = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}
FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT"}


def parse(out, *words, stage="pt", recipe="tiny"):
    return parse_arguments(stage, recipe, ["--model=M", "--data=D", f"--out={out}", "--use_cpu", *words])[-1]


@pytest.mark.parametrize(
    ("variables", "words", "message"),
    [
        (DEEPSPEED, [], "ZeRO-3 is not supported.*Use FSDP2"),
        ({**FSDP, "FSDP_VERSION": "1"}, [], "FSDP 1 is not supported; set `fsdp_version: 2`"),
        ({}, ["--use_liger_kernel"], "`use_liger_kernel` would change nothing"),
    ],
)
@pytest.mark.parametrize("stage", ["pt", "sft", "rft"])
def test_what_is_not_supported_is_refused_before_anything_is_read(
    stage, variables, words, message, tmp_path, monkeypatch
):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    words = ["--model=M", "--data=D", f"--out={tmp_path / 'run'}", "--use_cpu", *words]
    with pytest.raises(ValueError, match=message):
        run_stage(stage, "tiny", words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("stage", ["pt", "sft", "rft"])
def test_the_lowest_learning_rate_is_a_share_which_every_optimizer_knows(stage, tmp_path):
    training = parse(tmp_path, stage=stage, recipe="smollm2-135m")
    lowest = training.lr_scheduler_kwargs["min_lr"]
    check_launch(training)
    assert training.lr_scheduler_kwargs == {"min_lr_rate": lowest / training.learning_rate}
    check_launch(training)  # nothing is left to state


# Checkpoints


def write_checkpoint(folder, step, *names):
    """A checkpoint's files with nothing in them, and its state."""
    checkpoint = folder / f"checkpoint-{step}"
    for name in names:
        file = checkpoint / name
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save({}, file) if file.suffix == ".pt" else file.touch()
    (checkpoint / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    return checkpoint


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["model.safetensors"], "plain"),
        (["adapter_model.safetensors", "adapter_config.json"], "plain"),
        (["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"], "plain"),
        (["config.json"], "plain"),  # killed before it had weights
        (["pytorch_model_fsdp.bin", "model.safetensors"], "FSDP, full"),
        (["pytorch_model_fsdp_0/.metadata", "pytorch_model_fsdp_0/__0_0.distcp"], "FSDP, sharded"),
        (["pytorch_model_fsdp_0/__0_0.distcp"], "FSDP, sharded"),
        (["global_step3/mp_rank_00_model_states.pt", "model.safetensors", "latest"], "DeepSpeed"),
        (["pytorch_model.bin"], None),
        (["model.ckpt", "config.json"], None),
        (["weights/0.npy"], None),
    ],
)
def test_kinds_of_checkpoints(names, kind, tmp_path):
    assert kind_of(write_checkpoint(tmp_path, 3, *names)) == kind


def test_a_checkpoint_of_an_unknown_kind_is_left_alone_and_named(tmp_path):
    foreign = write_checkpoint(tmp_path, 3, "model.ckpt")
    begun = write_checkpoint(tmp_path, 4, "config.json")
    with pytest.raises(ValueError, match="checkpoint-3 is of a kind that is not known here, and is left as it is"):
        find_checkpoint(parse(tmp_path), resume=True)
    assert foreign.is_dir() and begun.is_dir()


def test_sharded_checkpoints_are_whole_with_their_last_file(tmp_path, monkeypatch):
    for name, value in FSDP.items():
        monkeypatch.setenv(name, value)
    whole = write_checkpoint(tmp_path, 3, "pytorch_model_fsdp_0/.metadata", "pytorch_model_fsdp_0/__0_0.distcp")
    begun = write_checkpoint(tmp_path, 4, "pytorch_model_fsdp_0/__0_0.distcp")
    assert is_whole(whole) and not is_whole(begun)
    assert find_checkpoint(parse(tmp_path), resume=True) == str(whole)
    assert not begun.exists()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["pytorch_model_fsdp_0/.metadata"], "is of the kind FSDP, sharded, this run would write plain"),
        (["global_step3/mp_rank_00_model_states.pt"], "is of the kind DeepSpeed, this run would write plain"),
    ],
)
def test_a_checkpoint_of_another_launch_is_refused(names, message, tmp_path):
    checkpoint = write_checkpoint(tmp_path, 3, *names)
    with pytest.raises(ValueError, match=message):
        find_checkpoint(parse(tmp_path), resume=True)
    assert checkpoint.is_dir()


def test_deepspeed_goes_on_with_as_many_processes(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    ranks = [f"global_step3/zero_pp_rank_{rank}_mp_rank_00_optim_states.pt" for rank in (0, 1)]
    write_checkpoint(tmp_path, 3, "global_step3/mp_rank_00_model_states.pt", *ranks)
    with pytest.raises(ValueError, match="was written by 2 processes of DeepSpeed, and 1 cannot go on from it"):
        find_checkpoint(parse(tmp_path), resume=True)


def test_a_full_disk_on_one_node_is_explained_on_all(tmp_path):
    nowhere = traceback.StackSummary()
    failures = {1: (OSError(errno.ENOSPC, "No space left on device"), nowhere)}
    with pytest.raises(OSError, match="could not be written.*go on with --resume, from the beginning"):
        with explain_write_errors(tmp_path):
            raise CheckpointException("write", failures)
    with pytest.raises(CheckpointException), explain_write_errors(tmp_path):
        raise CheckpointException("write", {0: (KeyError("a bug"), nowhere)})


@pytest.mark.parametrize("variables", [FSDP, {**DEEPSPEED, "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}])
def test_encoders_are_whole_on_each_device(variables, tmp_path, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="not with FSDP or DeepSpeed"):
        run_stage("encoders", "tiny", ["--model=M", "--data=D", f"--out={tmp_path / 'run'}", "--use_cpu"])


# The output folder


def test_two_runs_in_one_folder_are_refused(checkpoint, tmp_path, capsys):
    data, out = write_toy_dataset(tmp_path / "data"), tmp_path / "run"
    words = ["pretrain", "--recipe=tiny", f"--model={checkpoint}", f"--data={data}", f"--out={out}", "--max_steps=1"]
    words += ["--save_strategy=no", "--eval_strategy=no", "--eval_on_start=false", "--report_to=none"]
    out.mkdir()
    with FileLock(out / ".training.lock"):
        assert cli.main(words) == 2
        assert "run is in use by another training run" in capsys.readouterr().err
    assert cli.main(words) == 0 and (out / "final").is_dir()
    shutil.rmtree(out / "final")
    assert cli.main([*words, "--resume=true"]) == 0  # the lock of a run that ended is free
    assert cli.main([*words, "--resume=true"]) == 0  # and a finished run is no failure
