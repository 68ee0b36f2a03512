# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path

import pytest
import torch
from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoProcessor

from medtvt_training.stages import rft
from medtvt_training.stages.initialize import init_tiny
from medtvt_training.stages.recipes import RECIPES, parse_arguments
from medtvt_training.stages.rewards import REWARDS
from medtvt_training.stages.run import run_stage
from medtvt_training.stages.samples import SampleCallback

from tests.toy import write_toy_dataset


SHORT = {
    **{"max_steps": 4, "save_steps": 2, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 1},
    **{"num_generations": 4, "max_completion_length": 8, "learning_rate": 1e-2, "report_to": "none"},
    **{"disable_tqdm": "true", "rewards": "length"},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Twelve patients, of whom the first has no disease."""
    folder = write_toy_dataset(tmp_path_factory.mktemp("toy"), 12)
    file = str(folder / "diagnosis" / "train.parquet")
    rows = load_dataset("parquet", data_files=file, split="train", cache_dir=str(folder / "cache"))

    def cure(row, index):
        if index:
            return row
        parts = [
            *row["completion"][0]["content"][:-1],
            {"type": "text", "text": "</think><answer></answer>", "modalities": None},
        ]
        return {"diseases": [], "completion": [{"role": "assistant", "content": parts}]}

    rows.map(cure, with_indices=True, features=rows.features, load_from_cache_file=False).to_parquet(file)
    return folder


@pytest.fixture(scope="module", autouse=True)
def reward_of_length():
    """A reward that a random model earns."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(REWARDS, "length", length_reward)
        yield


def length_reward(completions, **kwargs):
    return [float(len(completion[-1]["content"])) for completion in completions]


@pytest.fixture(scope="module")
def run(checkpoint, data):
    def run(output_dir, recipe="tiny", **overrides):
        overrides = {"model": checkpoint, "data": data, "output_dir": output_dir, **SHORT, **overrides}
        options = {key.replace("_", "-"): str(value).split() for key, value in overrides.items()}
        run_stage("rft", recipe, [word for key, values in options.items() for word in (f"--{key}", *values)])
        return Path(output_dir)

    return run


@pytest.fixture(scope="module", params=["full", "lora"])
def finished(request, run, tmp_path_factory):
    """A finished run, and the keywords that it was made with."""
    folder = tmp_path_factory.mktemp("finished")
    kwargs = {"tuning": request.param, "lora_rank": 4, "rewards": "length format jaccard", "sample_completions": 3}
    if request.param == "lora":
        kwargs["feature_cache"] = folder / "cache"
    return run(folder / "out", **kwargs), kwargs


def test_a_run_ends_in_a_plain_folder_with_samples(finished, checkpoint):
    out, _ = finished
    model = AutoModelForCausalLM.from_pretrained(out / "final")
    assert model.provenance.stage == "rft"
    AutoProcessor.from_pretrained(out / "final")
    before = AutoModelForCausalLM.from_pretrained(checkpoint).state_dict()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert any("language_model.layers" in name for name in changed) and any("perception" in name for name in changed)
    assert not any("encoder" in name or "projector" in name for name in changed)
    log = json.loads((out / "trainer_state.json").read_text())["log_history"]
    steps = [entry for entry in log if "kl" in entry]
    assert steps[0]["kl"] == pytest.approx(0, abs=1e-9) and steps[-1]["kl"] > 0
    assert {"rewards/format_reward/mean", "rewards/jaccard_reward/mean", "parse_rate", "completions/mean_length",
            "frac_reward_zero_std"} <= steps[0].keys()  # fmt: skip
    samples = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    assert [sample["step"] for sample in samples] == [step for step in (1, 2, 3, 4) for _ in range(3)]
    assert set(samples[0]) == {"step", "id", "diseases", "completion", "rewards", "advantage"}
    assert all(sample["diseases"] and sample["id"].startswith("diagnosis-") for sample in samples)
    assert set(samples[0]["rewards"]) == {"length_reward", "format_reward", "jaccard_reward"}
    assert not (out / "README.md").exists()


def test_a_run_that_was_killed_goes_on_as_if_it_had_not_been(finished, run, tmp_path, caplog):
    whole, kwargs = finished
    killed = tmp_path / "killed"

    class Kill(SampleCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 3:
                raise KeyboardInterrupt

    caplog.set_level("INFO", logger="medtvt_training")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(rft, "SampleCallback", Kill)
        run(killed, **kwargs)
    assert "train: 1 of 12 rows list no disease and are left out." in caplog.text
    with open(killed / "samples.jsonl", "a") as file:
        file.write('{"step": 3, "id')
    with pytest.raises(FileExistsError, match="--resume"):
        run(killed, **kwargs)
    run(killed, **kwargs, resume="true")
    expected = AutoModelForCausalLM.from_pretrained(whole / "final").state_dict()
    found = AutoModelForCausalLM.from_pretrained(killed / "final").state_dict()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-6, rtol=1e-5, msg=name)
    assert (killed / "samples.jsonl").read_text() == (whole / "samples.jsonl").read_text()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"rewards": "format jacard"}, "jacard"),
        ({"num_generations": 3}, "divisible by num_generations"),
        ({"model": Path(__file__).parent}, "does not open"),
        ({"data": "nowhere"}, "nowhere"),
        ({"use_vllm": "true"}, "use_vllm"),
        ({"rollout_engine": "vllm"}, "tuning: lora"),
        ({"rollout_engine": "vllm", "tuning": "lora", "rollout_url": "http://127.0.0.1:9"}, "does not answer"),
        ({"patience": 2}, "load_best_model_at_end"),
        ({"eval_answers": 2}, "eval_strategy"),
        ({"bta": 0.1}, "'beta'"),
    ],
)
def test_bad_input_is_one_error_and_leaves_no_result(overrides, message, run, tmp_path):
    with pytest.raises((ValueError, OSError), match=message):
        run(tmp_path / "out", **overrides)
    assert not (tmp_path / "out" / "final").exists() and not list(tmp_path.glob("out/checkpoint-*"))


def test_rft_starts_from_a_model_with_a_perception_layer(run, tmp_path):
    init_tiny(tmp_path / "pt", use_perception=False)
    with pytest.raises(ValueError, match="SFT"):
        run(tmp_path / "out", model=tmp_path / "pt")


@pytest.mark.parametrize("recipe", sorted(path.parent.name for path in RECIPES.glob("*/reinforce.yaml")))
def test_packaged_recipes_are_read(recipe):
    words = ["--model", "m", "--data", "d", "--output_dir", "o", "--bf16", "false", "--use_cpu"]
    *_, arguments, training = parse_arguments("rft", recipe, words)
    assert training.num_generations == 8 and training.beta == 0.04
    if recipe.endswith("-plus"):
        assert arguments.rewards == ["format", "jaccard", "empty", "evidence"] and arguments.refill
        assert training.multi_objective_aggregation == "normalize_then_sum" and training.loss_type == "dapo"
        assert training.epsilon_high == 0.3 and training.mask_truncated_completions
        assert training.load_best_model_at_end and training.metric_for_best_model == "disease_f1"
    else:
        assert arguments.rewards == ["format", "jaccard"] and not arguments.refill
        assert training.multi_objective_aggregation == "sum_then_normalize" and training.loss_type == "grpo"


def test_the_best_answers_to_validation_rows_are_kept(run, tmp_path, caplog):
    """A random model earns nothing, so that the first checkpoint is the best, no better than the start."""
    plus = {"rewards": "length format empty evidence", "eval_steps": 1, "save_steps": 1, "eval_answers": 3}
    plus |= {"max_steps": 9, "patience": 2, "refill": 1, "max_eval_rows": 4, "per_device_eval_batch_size": 4}
    out = run(tmp_path / "out", recipe="tiny-plus", **plus)
    state = json.loads((out / "trainer_state.json").read_text())
    scores = [entry["eval_disease_f1"] for entry in state["log_history"] if "eval_disease_f1" in entry]
    assert len(scores) == 4 and state["global_step"] == 3  # the start, the best, and the two after it
    assert state["best_global_step"] == 1 and (out / "checkpoint-1").is_dir()
    assert "left out" not in caplog.text
    assert "RFT gained nothing: eval_disease_f1 is" in caplog.text
    best = AutoModelForCausalLM.from_pretrained(out / "checkpoint-1").state_dict()
    kept = AutoModelForCausalLM.from_pretrained(out / "final").state_dict()
    for name, value in best.items():
        torch.testing.assert_close(kept[name], value, msg=name)
