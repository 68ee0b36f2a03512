# SPDX-License-Identifier: Apache-2.0
import json
import resource
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoProcessor, LlamaConfig, LlamaForCausalLM

from medtvt_training.stages.model import TRAINED_MODULES
from medtvt_training.stages.run import run_stage


PROJECTORS = tuple(f"model.{name}." for name in TRAINED_MODULES["pt"])
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@pytest.fixture(scope="module")
def data(toy):
    return toy


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("data") / "cache"


def run(stage, *, recipe="tiny", **arguments):
    """A stage as its command runs it."""
    options = {name.replace("_", "-"): value for name, value in arguments.items() if value is not None}
    run_stage(stage, recipe, ["--disable_tqdm=true", *(f"--{name}={value}" for name, value in options.items())])


@pytest.fixture
def pretrain_toy(checkpoint, data, cache):
    """Two epochs of four steps, a checkpoint after each."""

    def train(output_dir, **arguments):
        defaults = {
            "model": checkpoint,
            "data": data,
            "feature_cache": cache,
            "num_train_epochs": 2,
            "per_device_train_batch_size": 4,
            "save_strategy": "steps",
            "save_steps": 1,
            "save_total_limit": 10,
            "eval_strategy": "no",
            "eval_on_start": "false",
            "warmup_steps": 0,
            "lora_dropout": 0.1,
        }
        run("pt", output_dir=output_dir, **defaults | arguments)
        return output_dir

    return train


@pytest.fixture(scope="module")
def trained(tmp_path_factory, checkpoint, data, cache):
    """Finished runs, by tuning."""
    runs = {}

    def get(tuning, train):
        if tuning not in runs:
            runs[tuning] = train(tmp_path_factory.mktemp("runs") / tuning, tuning=tuning)
        return runs[tuning]

    return get


def changed_parameters(before, after):
    before, after = load_file(before / "model.safetensors"), load_file(after / "model.safetensors")
    return {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_what_trains_and_what_is_frozen(tuning, trained, pretrain_toy, checkpoint):
    final = trained(tuning, pretrain_toy) / "final"
    changed = changed_parameters(checkpoint, final)
    names = load_file(final / "model.safetensors")
    expected = {name for name in names if name.startswith(PROJECTORS)}
    if tuning == "lora":
        expected |= {name for name in names if "language_model" in name and name.split(".")[-2] in LINEAR}
    else:
        expected |= {name for name in names if "language_model" in name}
    assert changed == expected


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_the_result_is_a_plain_folder(tuning, trained, pretrain_toy):
    final = trained(tuning, pretrain_toy) / "final"
    model = AutoModelForCausalLM.from_pretrained(final)
    assert model.provenance.stage == "pt" and model.model.perception is None
    assert model.config.use_cache
    # a folder that is not a drawn cohort counts as patients' data
    data = model.provenance.training_data
    assert [(entry["stage"], entry["access"]) for entry in data] == [("pt", "credentialed")]
    assert type(AutoProcessor.from_pretrained(final)).__name__ == "MedTVTProcessor"
    assert not (final / "adapter_config.json").exists() and not (final / "training_args.bin").exists()


def test_losses_fall_and_are_kept(pretrain_toy, tmp_path):
    pretrain_toy(tmp_path / "run", eval_strategy="epoch", eval_on_start="true", tuning="full", save_strategy="no")
    history = json.loads((tmp_path / "run" / "trainer_state.json").read_text())["log_history"]
    losses = [entry["eval_loss"] for entry in history if "eval_loss" in entry]
    assert len(losses) == 3 and losses[0] > losses[1] > losses[2]


# Checkpoints


def keep_checkpoints(run, folder, steps):
    for step in steps:
        shutil.copytree(run / f"checkpoint-{step}", folder / f"checkpoint-{step}")
    return folder


def truncate(folder, name):
    file = folder / name
    file.write_bytes(file.read_bytes()[:-7])


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_resume_is_bit_equal_from_the_last_whole_checkpoint(tuning, trained, pretrain_toy, tmp_path):
    run = trained(tuning, pretrain_toy)
    resumed = keep_checkpoints(run, tmp_path / "run", [2, 6, 7])  # 6 is in the middle of an epoch
    weights = "model.safetensors" if tuning == "full" else "adapter_model.safetensors"
    truncate(resumed / "checkpoint-7", weights)
    pretrain_toy(resumed, tuning=tuning, resume="true")
    assert changed_parameters(run / "final", resumed / "final") == set()
    assert len(list(resumed.glob("checkpoint-*"))) == 4


@pytest.mark.parametrize("damage", ["trainer_state.json", "optimizer.pt", "model.safetensors", "missing"])
def test_half_written_checkpoints_are_removed(damage, trained, pretrain_toy, tmp_path, caplog):
    resumed = keep_checkpoints(trained("full", pretrain_toy), tmp_path / "run", [7, 8])
    if damage == "missing":
        (resumed / "checkpoint-8" / "trainer_state.json").unlink()
    else:
        truncate(resumed / "checkpoint-8", damage)
    pretrain_toy(resumed, tuning="full", resume="true", num_train_epochs=2)
    assert "checkpoint-8 was not written to its end and is removed" in caplog.text
    assert (resumed / "final").is_dir()


def test_a_full_disk_leaves_the_earlier_checkpoint(trained, pretrain_toy, tmp_path):
    run = trained("full", pretrain_toy)
    resumed = keep_checkpoints(run, tmp_path / "run", [6])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OSError, match="could not be written.*go on with --resume, from checkpoint-6"):
            pretrain_toy(resumed, tuning="full", resume="true")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    pretrain_toy(resumed, tuning="full", resume="true")
    assert changed_parameters(run / "final", resumed / "final") == set()


def test_a_loss_that_is_not_finite_stops_and_names_the_rows(pretrain_toy, tmp_path):
    with pytest.raises(
        ValueError, match=r"(loss|weight) is (nan|inf|not finite) at step 2, rows (\w+-\d+(, )?){4}\. "
    ):
        pretrain_toy(tmp_path / "run", tuning="full", learning_rate=1e20, lr_scheduler_type="constant")
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-1"]
    weights = load_file(tmp_path / "run" / "checkpoint-1" / "model.safetensors")
    assert all(tensor.isfinite().all() for tensor in weights.values())


# Bad input


def test_refuses_to_write_over_a_run(trained, pretrain_toy, tmp_path, caplog):
    run = trained("full", pretrain_toy)
    with pytest.raises(FileExistsError, match="final exists"):
        pretrain_toy(run, tuning="full")
    caplog.set_level("INFO", logger="medtvt_training")
    pretrain_toy(run, tuning="full", resume="true")  # a job manager that starts it again sees success
    assert "final is there already: this run is finished" in caplog.text
    unfinished = keep_checkpoints(run, tmp_path / "run", [2])
    with pytest.raises(FileExistsError, match="add --resume"):
        pretrain_toy(unfinished, tuning="full")


def test_refuses_checkpoints_of_another_recipe(trained, pretrain_toy, tmp_path):
    resumed = keep_checkpoints(trained("lora", pretrain_toy), tmp_path / "run", [2])
    with pytest.raises(ValueError, match="checkpoint-2 does not fit this model and recipe"):
        pretrain_toy(resumed, tuning="lora", lora_rank=4, resume="true")


def test_refuses_another_architecture(pretrain_toy, tmp_path):
    config = LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "llama")
    with pytest.raises(ValueError, match="model of type 'llama', not a MedTVT checkpoint"):
        pretrain_toy(tmp_path / "run", model=tmp_path / "llama")
    assert not (tmp_path / "run").exists()


def test_refuses_a_dataset_without_a_column(pretrain_toy, data, tmp_path):
    import pyarrow.parquet as pq

    folder = tmp_path / "data" / "physiology"
    folder.mkdir(parents=True)
    pq.write_table(pq.read_table(data / "physiology" / "train.parquet").drop(["lab"]), folder / "train.parquet")
    with pytest.raises(ValueError, match="has no column lab"):
        pretrain_toy(tmp_path / "run", data=tmp_path / "data")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lora_targets": r".*(q_proj|fc1)"}, "anchor it at the language model"),
        ({"tuning": "full", "load_in_4bit": "true"}, "needs `tuning: lora`"),
        ({"remove_unused_columns": "true"}, "`remove_unused_columns` must be false"),
        ({"dtype": "bfloat16"}, "needs `bf16: true`"),
        ({"max_length": 5}, "more than 5 tokens"),
    ],
)
def test_refuses_arguments_that_cannot_work(arguments, message, pretrain_toy, tmp_path):
    with pytest.raises(ValueError, match=message):
        pretrain_toy(tmp_path / "run", **{"tuning": "lora"} | arguments)
