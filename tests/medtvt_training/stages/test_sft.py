# SPDX-License-Identifier: Apache-2.0
import importlib.util
import json

import pytest
import torch
from safetensors.torch import load_file

from medtvt_training import cli
from medtvt_training.data.collator import MedTVTDataCollator, drop_long_rows
from medtvt_training.data.labels import as_label_array, sample_f1
from medtvt_training.data.load import load_medtvt_qa
from medtvt_training.stages import callbacks
from medtvt_training.stages.callbacks import answer_rows
from medtvt_training.stages.merge import merge_adapter
from medtvt_training.stages.mixture import MixedSampler
from medtvt_training.stages.rows import StageCollator
from modeling_medtvt import DISEASES, MedTVTForCausalLM
from processing_medtvt import MedTVTProcessor

from .test_pt import LINEAR, changed_parameters, run


@pytest.fixture(scope="module")
def data(toy):
    return toy


@pytest.fixture(scope="module")
def pretrained(checkpoint, tmp_path_factory):
    """A folder as PT leaves it: no perception layer, projectors off their initial scale."""
    model = MedTVTForCausalLM.from_pretrained(checkpoint, use_perception=False)
    with torch.no_grad():
        for projector in (model.model.ecg_projector, model.model.cxr_projector, model.model.lab_projector):
            projector.linear.weight.mul_(3)
    model.provenance.stage = "pt"
    folder = tmp_path_factory.mktemp("pt") / "final"
    model.save_pretrained(folder)
    MedTVTProcessor.from_pretrained(checkpoint).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("data") / "cache"


@pytest.fixture
def finetune_toy(pretrained, data, cache):
    def train(output_dir, **arguments):
        defaults = {
            "model": pretrained,
            "data": data,
            "feature_cache": cache,
            "num_train_epochs": 2,
            "per_device_train_batch_size": 3,
            "save_strategy": "no",
            "eval_strategy": "no",
            "eval_on_start": "false",
            "eval_answers": 0,
            "replay": 0,
            "warmup_steps": 0,
        }
        run("sft", output_dir=output_dir, **defaults | arguments)
        return output_dir

    return train


def read_log(run, key):
    history = json.loads((run / "trainer_state.json").read_text())["log_history"]
    return [entry[key] for entry in history if key in entry]


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_what_trains_and_what_is_frozen(tuning, finetune_toy, pretrained, tmp_path):
    final = finetune_toy(tmp_path / "run", tuning=tuning) / "final"
    names = set(load_file(final / "model.safetensors"))
    drawn = names - set(load_file(pretrained / "model.safetensors"))
    assert {name.split(".")[1] for name in drawn} == {"perception"}
    language = {name for name in names if "language_model" in name}
    expected = {name for name in language if name.split(".")[-2] in LINEAR} if tuning == "lora" else language
    before, after = load_file(pretrained / "model.safetensors"), load_file(final / "model.safetensors")
    assert {name for name in names - drawn if not torch.equal(before[name], after[name])} == expected
    model = MedTVTForCausalLM.from_pretrained(final)
    assert model.provenance.stage == "sft" and model.config.use_perception
    assert model.provenance.training_data[-1]["stage"] == "sft"
    assert model.model.perception.attention.o_proj.weight.abs().sum() > 0  # starts at zero
    assert model.model.perception.gate.weight.abs().sum() > 0


def test_begins_where_pretraining_ended(finetune_toy, pretrained, data, tmp_path):
    run = finetune_toy(tmp_path / "run", tuning="full", eval_strategy="epoch", eval_on_start="true")
    model = MedTVTForCausalLM.from_pretrained(pretrained)
    assert model.model.perception is None
    collator = MedTVTDataCollator(MedTVTProcessor.from_pretrained(pretrained))
    with torch.no_grad():
        expected = model.eval()(**collator(list(load_medtvt_qa(data, "diagnosis", "validation")))).loss.item()
    losses = read_log(run, "eval_loss")
    assert losses[0] == pytest.approx(expected, rel=5e-3)
    assert losses[0] > losses[1] > losses[2]


def test_perception_is_fitted_to_patients_not_to_noise(finetune_toy, pretrained, tmp_path):
    final = (
        finetune_toy(tmp_path / "run", tuning="full", max_steps=1, learning_rate=0, lr_scheduler_type="constant")
        / "final"
    )
    fitted = MedTVTForCausalLM.from_pretrained(final).model.perception.layer_norm.weight
    noise = MedTVTForCausalLM.from_pretrained(pretrained, use_perception=True).model.perception.layer_norm.weight
    assert torch.allclose(fitted, fitted[0]) and 0.5 < fitted[0] / noise[0] < 2 and fitted[0] != noise[0]


def test_the_feature_cache_changes_nothing(finetune_toy, tmp_path):
    arguments = {"tuning": "full", "modality_dropout": 0.3, "num_train_epochs": 1}
    raw = finetune_toy(tmp_path / "raw", feature_cache=None, **arguments)
    cached = finetune_toy(tmp_path / "cached", **arguments)
    raw, cached = (load_file(run / "final" / "model.safetensors") for run in (raw, cached))
    # half a step of Adam, which makes a step of rounding where a gradient is near zero
    assert all(torch.allclose(raw[name], cached[name], atol=5e-4) for name in raw)
    assert (tmp_path / "cached" / "rejects_train.jsonl").read_text() == ""


def test_the_chunked_loss_changes_nothing_but_rounding(finetune_toy, tmp_path):
    plain, chunked = finetune_toy(tmp_path / "plain"), finetune_toy(tmp_path / "chunked", chunked_loss="true")
    plain, chunked = (load_file(run / "final" / "model.safetensors") for run in (plain, chunked))
    assert all(torch.allclose(plain[name], chunked[name], atol=1e-4) for name in plain)


def test_resume_is_bit_equal_with_modality_dropout(finetune_toy, tmp_path):
    arguments = {"tuning": "lora", "save_strategy": "steps", "save_steps": 1, "save_total_limit": 9}
    arguments |= {"modality_dropout": 0.5, "lora_dropout": 0.1, "resume": "true"}
    arguments["train_sampling_strategy"] = "group_by_length"
    run = finetune_toy(tmp_path / "run", **arguments)
    (run / "checkpoint-3").rename(tmp_path / "checkpoint-3")
    (tmp_path / "resumed").mkdir()
    (tmp_path / "checkpoint-3").rename(tmp_path / "resumed" / "checkpoint-3")
    finetune_toy(tmp_path / "resumed", **arguments)
    assert changed_parameters(run / "final", tmp_path / "resumed" / "final") == set()


def test_rows_are_grouped_by_what_the_epoch_leaves_of_them(finetune_toy, pretrained, data, tmp_path, monkeypatch):
    grouped = []
    iterate = MixedSampler.__iter__
    monkeypatch.setattr(MixedSampler, "__iter__", lambda self: grouped.append(self.lengths) or iterate(self))
    finetune_toy(tmp_path / "run", modality_dropout=0.5, train_sampling_strategy="group_by_length")
    processor = MedTVTProcessor.from_pretrained(pretrained)
    rows, _ = drop_long_rows(load_medtvt_qa(data, "diagnosis", "train"), processor, 1000)
    collator = MedTVTDataCollator(processor, modality_dropout=0.5, seed=42)
    for collator.epoch, lengths in enumerate(grouped):
        assert lengths == collator.estimate_lengths(rows) != rows["length"]
        true = [int(collator([row])["attention_mask"].sum()) for row in rows]
        assert lengths == pytest.approx(true, rel=0.2)
    assert len(grouped) == 2 and grouped[0] != grouped[1]


# Disease F1


def test_disease_f1_is_logged_and_chooses_the_best_checkpoint(finetune_toy, data, tmp_path, monkeypatch):
    everything = "<answer>" + ";".join(DISEASES) + "</answer>"
    answers = iter(["Sepsis", everything, "<answer>Sepsis</answer>"])  # at the start and after each epoch
    monkeypatch.setattr(callbacks, "answer_rows", lambda model, collator, rows: [next(answers)] * len(rows))
    best = {"load_best_model_at_end": "true", "metric_for_best_model": "disease_f1", "save_strategy": "epoch"}
    arguments = {"tuning": "lora", "eval_strategy": "epoch", "eval_on_start": "true", "eval_answers": 6}
    run = finetune_toy(tmp_path / "run", **arguments, **best)
    truth = load_medtvt_qa(data, "diagnosis", "validation")["diseases"]
    truth = as_label_array(truth)
    of_none, of_all, of_one = (
        sample_f1(truth, as_label_array([named] * 6)).mean() for named in ((), DISEASES, ["Sepsis"])
    )
    assert of_all > of_one > of_none
    assert read_log(run, "eval_disease_f1") == pytest.approx([of_none, of_all, of_one])  # the first does not parse
    assert read_log(run, "eval_parse_rate") == [0, 1, 1]
    state = json.loads((run / "trainer_state.json").read_text())
    assert state["best_metric"] == pytest.approx(of_all) and state["best_global_step"] == 2


def test_answers_are_those_of_the_pipeline_prompt(pretrained, data):
    """Batched, left-padded prompts without their answers give what each row gives alone."""
    model = MedTVTForCausalLM.from_pretrained(pretrained).train()
    model.generation_config.max_new_tokens = 5
    collator = MedTVTDataCollator(MedTVTProcessor.from_pretrained(pretrained))
    rows = list(load_medtvt_qa(data, "diagnosis", "validation"))
    together = answer_rows(model, collator, rows)
    assert together == [answer_rows(model, collator, [row])[0] for row in rows]
    assert model.training and all(together)


# Modality dropout


def test_modalities_are_withheld_from_training_rows_only(pretrained, data):
    collator = StageCollator(MedTVTProcessor.from_pretrained(pretrained), modality_dropout=0.9)
    rows = list(load_medtvt_qa(data, "diagnosis", "train"))[:3]
    placeholders = torch.tensor([MedTVTForCausalLM.from_pretrained(pretrained).config.modality_token_ids])

    def count(split):
        batch = collator([{**row, "split": split} for row in rows])
        assert batch["ids"] == [row["id"] for row in rows]
        return (batch["input_ids"].flatten()[:, None] == placeholders).sum().item()

    assert count("validation") == 9
    assert count("train") < 9


# Precision, merging


def test_mixed_precision_trains_and_answers(finetune_toy, tmp_path):
    arguments = {"tuning": "lora", "dtype": "bfloat16", "bf16": "true", "max_steps": 1}
    run = finetune_toy(tmp_path / "run", eval_strategy="steps", eval_steps=1, eval_answers=1, **arguments)
    assert len(read_log(run, "eval_parse_rate")) == 1
    assert {tensor.dtype for tensor in load_file(run / "adapter" / "adapter_model.safetensors").values()} == {
        torch.float32
    }


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="needs bitsandbytes")
def test_qlora_trains_and_merges_into_the_unquantised_model(finetune_toy, pretrained, tmp_path):
    run = finetune_toy(tmp_path / "run", tuning="lora", load_in_4bit="true", learning_rate=1e-3)
    model = MedTVTForCausalLM.from_pretrained(run / "final")
    assert not hasattr(model.config, "quantization_config")
    before = load_file(pretrained / "model.safetensors")
    name = "model.language_model.layers.0.self_attn.q_proj.weight"
    difference = model.state_dict()[name] - before[name]
    assert torch.linalg.matrix_rank(difference, rtol=1e-3) <= 8 and difference.abs().max() > 0


def test_merge_folds_in_an_adapter_and_a_checkpoint(finetune_toy, pretrained, tmp_path):
    run = finetune_toy(tmp_path / "run", tuning="lora", save_strategy="epoch")
    for name in ("adapter", "checkpoint-4"):
        cli.run(["merge", "--adapter", str(run / name), "--out", str(tmp_path / name)])
        assert changed_parameters(run / "final", tmp_path / name) == set()
        assert MedTVTProcessor.from_pretrained(tmp_path / name)
    moved = tmp_path / "moved"
    pretrained.rename(moved)
    try:
        with pytest.raises(ValueError, match="does not open; say where it is"):
            cli.run(["merge", "--adapter", str(run / "adapter"), "--out", str(tmp_path / "out")])
        assert not (tmp_path / "out").exists()
        arguments = ["--adapter", str(run / "adapter"), "--out", str(tmp_path / "out"), "--model", str(moved)]
        cli.run(["merge", *arguments])
    finally:
        moved.rename(pretrained)


def test_merge_refuses_what_is_no_adapter(pretrained, tmp_path):
    with pytest.raises(ValueError, match="it has no adapter_config.json"):
        merge_adapter(pretrained, tmp_path / "out")


def test_refuses_to_start_from_an_adapter(finetune_toy, tmp_path):
    (tmp_path / "adapter_config.json").touch()
    with pytest.raises(ValueError, match="Merge it first"):
        finetune_toy(tmp_path / "next", model=tmp_path)
