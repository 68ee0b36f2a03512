# SPDX-License-Identifier: Apache-2.0
import copy
import inspect

import pytest
import torch
from peft import get_peft_model
from trl import GRPOTrainer

from medtvt_training.data.collator import MedTVTDataCollator
from medtvt_training.data.feature_cache import FeatureCache
from medtvt_training.stages.evidence_reward import evidence_reward
from medtvt_training.stages.rewards import empty_reward, format_reward
from medtvt_training.stages.trl_private import OVERRIDDEN, READ
from modeling_medtvt import DISEASES

from .grpo_toy import MAX_NEW_TOKENS, NUM_GENERATIONS, WAYS, length_reward, make_way, perturb, score


FEATURES = {"ecg_features", "cxr_features", "lab_features"}


def independent_logps(model, output, rows, processor):
    """Log-probabilities of each completion, from a plain forward of one unpadded sample with its raw inputs."""
    model = copy.deepcopy(model).eval()
    inputs_of = [MedTVTDataCollator(processor).modality_inputs([row]) for row in rows]
    found = []
    for i in range(len(output["prompt_ids"])):
        prompt = output["prompt_ids"][i][output["prompt_mask"][i].bool()]
        completion = output["completion_ids"][i][output["completion_mask"][i].bool()]
        ids = torch.cat([prompt, completion])[None]
        with torch.no_grad():
            logits = model(input_ids=ids, **inputs_of[i // NUM_GENERATIONS]).logits[0]
        logps = logits[len(prompt) - 1 : -1].log_softmax(-1)
        found.append(logps.gather(1, completion[:, None])[:, 0])
    return torch.nn.utils.rnn.pad_sequence(found, batch_first=True)


class Recorder:
    """(tokens a row, rows, modality -> rows) of every forward of a model's base, and rows that the encoders saw."""

    def __init__(self, *models):
        self.forwards, self.encoded = [], {"ecg": [], "cxr": [], "lab": []}
        for model in models:
            model = model.get_base_model() if hasattr(model, "get_base_model") else model
            model.model.register_forward_pre_hook(self._record, with_kwargs=True)
            for name, rows in self.encoded.items():
                encoder = getattr(model.model, f"{name}_encoder")
                encoder.register_forward_pre_hook(
                    lambda module, args, kwargs, rows=rows: rows.append(len(next(iter([*args, *kwargs.values()])))),
                    with_kwargs=True,
                )

    def _record(self, module, args, kwargs):
        modalities = {
            name: len(value)
            for name, value in kwargs.items()
            if value is not None
            and name.endswith(("_features", "_values", "modality_embeds"))
            and name != "past_key_values"
        }
        self.forwards.append((kwargs["input_ids"].shape[1], len(kwargs["input_ids"]), modalities))


@pytest.mark.parametrize(("name", "parameters"), OVERRIDDEN.items())
def test_overridden_methods_have_the_signature_that_they_had(name, parameters):
    parameters = parameters.split()
    assert list(inspect.signature(getattr(GRPOTrainer, name)).parameters)[: len(parameters)] == parameters


def test_attributes_that_are_read_exist(policy, make_trainer):
    trainer = make_trainer(policy, max_steps=1)
    assert all(hasattr(trainer, name) for name in READ)


@pytest.mark.parametrize("way", WAYS)
def test_every_pass_sees_the_modalities_and_encoders_run_once_per_prompt(way, policy, make_trainer):
    model, kwargs = make_way(way, policy)
    trainer = make_trainer(
        model,
        per_device_train_batch_size=4,
        steps_per_generation=2,
        gradient_accumulation_steps=1,
        max_steps=2,
        **kwargs,
    )
    recorder = Recorder(*[model for model in (trainer.model, trainer.ref_model) if model is not None])
    trainer.train()
    prompts, completions, micro = 2, 8, 4
    # one of the two lacks a modality: its row is zeros, and no encoder runs again
    assert {name: sum(found) for name, found in recorder.encoded.items()} == dict.fromkeys(
        ("ecg", "cxr", "lab"), prompts
    )
    assert all(len(found) == 1 for found in recorder.encoded.values())
    prefill, *decoding = recorder.forwards[: MAX_NEW_TOKENS + 1]
    assert prefill[1:] == (prompts, dict.fromkeys(FEATURES, prompts))
    steps = [forward for forward in decoding if forward[0] == 1]
    assert steps and all(forward == (1, completions, {}) for forward in steps)
    scored = recorder.forwards[1 + len(steps) :]
    # old, reference and policy, two micro-batches each: the one prompt of a group, then its completions
    one_prompt = [(1, dict.fromkeys(FEATURES, 1)), (micro, {})]
    assert [forward[1:] for forward in scored] == one_prompt * 6
    assert {forward[0] for forward in scored[::2]} == {prefill[0]}


@pytest.mark.parametrize("way", WAYS)
def test_reference_is_the_sft_model(way, policy, rows, processor, make_trainer):
    model, kwargs = make_way(way, policy)
    sft = copy.deepcopy(model)
    trainer = make_trainer(model, steps_per_generation=2, gradient_accumulation_steps=1, **kwargs)
    perturb(trainer.model, seed=2)
    two = [rows[0], rows[1]]
    output = score(trainer, two)
    assert len(set(output["prompt_mask"].sum(1).tolist())) == 2  # padded, on the left
    assert output["prompt_mask"][:, -1].all()
    reference = independent_logps(sft, output, two, processor)
    policy_logps = independent_logps(trainer.model, output, two, processor)
    mask = output["completion_mask"].bool()
    torch.testing.assert_close(output["ref_per_token_logps"][mask], reference[mask], atol=2e-5, rtol=0)
    torch.testing.assert_close(output["old_per_token_logps"][mask], policy_logps[mask], atol=2e-5, rtol=0)
    assert (reference - policy_logps)[mask].abs().max() > 0.01


@pytest.mark.parametrize("way", WAYS)
def test_kl_is_zero_at_the_first_step_and_then_grows(way, policy, make_trainer):
    policy.config.text_config.attention_dropout = 0.5
    for layer in policy.model.language_model.layers:
        layer.self_attn.attention_dropout = 0.5
    model, kwargs = make_way(way, policy, dropout=0.5)
    trainer = make_trainer(model, max_steps=2, **kwargs)
    trainer.train()
    kl = [entry["kl"] for entry in trainer.state.log_history if "kl" in entry]
    assert kl[0] == pytest.approx(0, abs=1e-9)
    assert kl[-1] > 1e-5


def test_what_is_not_trained_stays(policy, make_trainer):
    model, kwargs = make_way("fresh adapter", policy)
    trainer = make_trainer(model, max_steps=2, **kwargs)
    before = {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}
    trainer.train()
    changed = {name for name, value in trainer.model.named_parameters() if not torch.equal(value, before[name])}
    trained = {name for name in before if ".default." in name}
    assert {name for name in before if "lora_" in name} <= changed <= trained
    assert any("perception" in name for name in changed)


def test_frozen_parameters_are_shared_with_the_reference(policy, make_trainer):
    model, _ = make_way("perception", policy)
    trainer = make_trainer(model)
    of_reference = dict(trainer.ref_model.named_parameters())
    for name, parameter in trainer.model.named_parameters():
        assert (parameter is of_reference[name]) == ("perception" not in name)


def test_rollouts_are_what_the_model_generates_row_by_row(policy, rows, processor, make_trainer):
    model, kwargs = make_way("all", policy)
    perturb(model, seed=5)  # greedy answers that differ between patients
    trainer = make_trainer(model, generation_kwargs={"do_sample": False}, **kwargs)
    two = [rows[0], rows[1]]
    output = score(trainer, two)
    collator, expected = MedTVTDataCollator(processor), []
    for row in two:
        prompt = torch.tensor([collator.encode(row)[0]])
        inputs = {"attention_mask": torch.ones_like(prompt), **collator.modality_inputs([row])}
        tokens = model.eval().generate(input_ids=prompt, **inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
        expected.append(tokens[0, prompt.shape[1] :].tolist())
    assert expected[0] != expected[1]
    for i, (ids, mask) in enumerate(zip(output["completion_ids"], output["completion_mask"])):
        assert ids[mask.bool()].tolist() == expected[i // NUM_GENERATIONS]


def test_placeholders_are_never_sampled(policy, rows, make_trainer):
    placeholders = list(policy.config.modality_token_ids)

    def prefer_placeholders(module, args, logits):
        logits[..., placeholders] += 1e4
        return logits

    policy.lm_head.register_forward_hook(prefer_placeholders)
    output = score(make_trainer(policy), [rows[0], rows[1]])
    assert not torch.isin(output["completion_ids"], torch.tensor(placeholders)).any()


def test_a_feature_cache_spares_the_encoders(policy, rows, processor, make_trainer, tmp_path):
    def run(features):
        trainer = make_trainer(copy.deepcopy(policy), data_collator=MedTVTDataCollator(processor, features=features))
        recorder = Recorder(trainer.model)
        trainer.train()
        return recorder, trainer.state.log_history[0]

    cache = FeatureCache(tmp_path / "cache", policy, processor)
    cache.build(rows, progress=False)
    without, expected = run(None)
    cached, found = run(cache)
    assert cached.encoded == {"ecg": [], "cxr": [], "lab": []} and without.encoded["ecg"]
    assert cached.forwards == without.forwards
    for name in ("loss", "kl", "reward", "grad_norm", "entropy"):
        assert found[name] == pytest.approx(expected[name], abs=1e-5)


def test_validation_in_the_middle_of_a_generation_batch_does_not_disturb_it(policy, rows, make_trainer):
    kwargs = {"max_steps": 2, "steps_per_generation": 2, "gradient_accumulation_steps": 1}
    losses = []
    for evaluated in ({}, {"eval_dataset": rows.select([2, 3]), "eval_strategy": "steps", "eval_steps": 1}):
        trainer = make_trainer(copy.deepcopy(policy), per_device_train_batch_size=4, **kwargs, **evaluated)
        trainer.train()
        losses.append([entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry])
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: {"train_dataset": rows.remove_columns(["ecg", "diseases"])}, "column.* ecg, diseases"),
        (lambda rows: {"train_dataset": rows.map(lambda row: {"diseases": []})}, "4 of 4 rows .* no true disease"),
        (lambda rows: {"eval_dataset": rows.map(lambda row: {"diseases": []})}, "`eval_dataset` have no true disease"),
        (lambda rows: {"train_dataset": rows.map(lambda row: {"diseases": ["Gout"]})}, "Gout"),
        (lambda rows: {"train_dataset": rows.map(lambda row: {"id": "same"})}, "each row needs its own"),
        (lambda rows: {"train_dataset": rows.select([])}, "no rows"),
        (lambda rows: {"train_dataset": None}, "datasets.Dataset"),
        (lambda rows: {"data_collator": None}, "data_collator"),
        (lambda rows: {"num_generations": 3}, "divisible by num_generations"),
        (lambda rows: {"remove_unused_columns": True}, "remove_unused_columns"),
        (lambda rows: {"use_vllm": True}, "use_vllm"),
        (lambda rows: {"cache_implementation": "static"}, "cache_implementation"),
        (lambda rows: {"sync_ref_model": True}, "sync_ref_model"),
        (
            lambda rows: {"reward_funcs": [stage_reward]},
            "stage_reward needs the column.* stage, which `train_dataset`",
        ),
        (
            lambda rows: {
                "reward_funcs": [evidence_reward],
                "train_dataset": rows.map(lambda row: {"modalities": ["cxr"]}),
            },
            "nothing to check",
        ),
    ],
)
def test_bad_input_is_named_before_the_first_step(change, message, model, rows, make_trainer):
    with pytest.raises(ValueError, match=message):
        make_trainer(model, **change(rows))


def test_models_without_a_right_reference_are_refused(policy, make_trainer):
    with pytest.raises(ValueError, match="no trainable parameter"):
        make_trainer(copy.deepcopy(policy).requires_grad_(False))
    config = make_way("fresh adapter", policy)[1]["peft_config"]
    with pytest.raises(ValueError, match="outside the adapter.*modules_to_save"):
        model = get_peft_model(copy.deepcopy(policy), config)
        model.base_model.model.model.ecg_projector.requires_grad_(True)
        make_trainer(model)
    with pytest.raises(ValueError, match="'default'"):
        make_trainer(get_peft_model(copy.deepcopy(policy), config, adapter_name="sft"))
    unfrozen = copy.deepcopy(policy)
    unfrozen.model.ecg_encoder.requires_grad_(True)
    with pytest.raises(ValueError, match="freeze_encoders"):
        make_trainer(unfrozen)
    with pytest.raises(ValueError, match="MedTVTForCausalLM"):
        make_trainer(policy.model.language_model)


def stage_reward(completions, stage, diseases=None, **kwargs):
    return [0.0] * len(completions)


def test_rewards_get_what_they_ask_for(policy, rows, make_trainer):
    """Each row is measured once, and probabilities are those of each completion."""
    seen = {}

    def asking(completions, id, measured, probabilities, **kwargs):
        seen.update(id=id, measured=measured, probabilities=probabilities)
        return length_reward(completions)

    trainer = make_trainer(policy, reward_funcs=[asking, empty_reward])
    score(trainer, [rows[0], rows[1]])
    assert len({id(measured) for measured in seen["measured"]}) == 2
    for measured, row in zip(seen["measured"], [rows[0]] * 4 + [rows[1]] * 4):
        given = {"ecg": measured["ecg"] is not None, "cxr": measured["has_cxr"], "lab": measured["lab"] is not None}
        assert [name for name in given if given[name]] == sorted(row["modalities"], key=list(given).index)
    assert all(set(found) == set(DISEASES) for found in seen["probabilities"])
    assert all(0 <= value <= 1 for found in seen["probabilities"] for value in found.values())
    assert trainer.model.training and len({tuple(found.values()) for found in seen["probabilities"]}) > 4
    entry = trainer._metrics["train"]
    assert entry["rewards/asking/moved"] == entry["rewards/asking/moved_alone"] == [1]
    assert entry["rewards/empty_reward/moved"] == [0]


def test_patients_without_a_disease_are_kept_where_they_can_earn(policy, rows, make_trainer):
    cured = rows.map(lambda row: {"diseases": []})
    make_trainer(policy, train_dataset=cured, reward_funcs=[format_reward, empty_reward])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None])
def test_a_reward_that_is_not_finite_stops_the_run_before_a_step(value, policy, make_trainer):
    def broken(completions, **kwargs):
        return [1.0] * (len(completions) - 1) + [value]

    trainer = make_trainer(policy, reward_funcs=[length_reward, broken])
    before = copy.deepcopy(policy.state_dict())
    with pytest.raises(ValueError, match="broken returned (nan|inf) for 1 of 8"):
        trainer.train()
    assert all(torch.equal(value, before[name]) for name, value in policy.state_dict().items())


def test_a_prompt_may_not_end_with_a_placeholder(policy, rows, make_trainer):
    def cut(row):
        content = row["prompt"][0]["content"]
        return {"prompt": [{"role": "user", "content": content[:-1]}]}

    with pytest.raises(ValueError, match="ends with a placeholder"):
        make_trainer(policy, train_dataset=rows.map(cut)).train()
