# SPDX-License-Identifier: Apache-2.0
"""Rollouts through a stand-in of vLLM; `make vllm-test` holds them against vLLM itself."""

import copy

import pytest
from peft import LoraConfig, get_peft_model

from medtvt_training.serving.vllm_engine import VllmEngine

from ..serving.stand_in import URL, StandIn, put_in_place_of_the_network
from .grpo_toy import NUM_GENERATIONS, TARGETS, make_way, perturb, score


GREEDY = {"generation_kwargs": {"do_sample": False}, "steps_per_generation": 2, "gradient_accumulation_steps": 1}


@pytest.fixture
def engine(policy, monkeypatch):
    stand_in = StandIn(copy.deepcopy(policy))
    put_in_place_of_the_network(monkeypatch, stand_in)
    return stand_in


def test_greedy_rollouts_are_those_of_transformers(engine, policy, rows, make_trainer):
    ours, kwargs = make_way("passed adapter", policy)
    theirs = copy.deepcopy(ours)
    expected = score(make_trainer(ours, **GREEDY, **kwargs), [rows[0], rows[1]])
    trainer = make_trainer(theirs, rollout_engine=VllmEngine(URL), **GREEDY, **kwargs)
    output = score(trainer, [rows[0], rows[1]])
    assert output["completion_ids"].tolist() == expected["completion_ids"].tolist()
    # one request, a prompt once, with the adapter of this step
    asked = engine.requests[-1]
    assert len(asked["prompt_embeds"]) == 2 and asked["model"].startswith("rft-0-")
    before = output["completion_ids"]
    perturb(trainer.model, seed=3)
    trainer.state.global_step = 1
    after = score(trainer, [rows[0], rows[1]])["completion_ids"]
    assert engine.requests[-1]["model"].startswith("rft-1-") and after.tolist() != before.tolist()
    assert len(engine.models) == 2  # the adapter of the step before is gone


def test_a_run_draws_there_and_learns(engine, policy, make_trainer):
    model, kwargs = make_way("fresh adapter", policy)
    trainer = make_trainer(model, rollout_engine=VllmEngine(URL), max_steps=2, **kwargs)
    trainer.train()
    asked = [request for request in engine.requests if request.get("n")]
    assert (
        all(request["temperature"] == 1.0 and request["n"] == NUM_GENERATIONS for request in asked)
        and len({r["seed"] for r in asked}) == 2
    )
    assert [entry["kl"] > 1e-5 for entry in trainer.state.log_history if "kl" in entry] == [False, True]


@pytest.mark.parametrize("way", ["perception", "head", "other weights"])
def test_what_cannot_be_handed_over_is_refused(way, engine, policy, make_trainer):
    message, kwargs, model = "tuning: lora", {}, policy
    if way == "perception":
        model, kwargs = make_way(way, policy)
    elif way == "head":
        modules = ["perception", "layers.0.mlp.down_proj"]
        model = get_peft_model(policy, LoraConfig(target_modules=TARGETS, modules_to_save=modules))
        message = "is trained and is none"
    else:
        perturb(engine.models["served"].requires_grad_(True), seed=5)
        model, kwargs = make_way("fresh adapter", policy)
        message = "serves other weights"
    with pytest.raises(ValueError, match=message):
        make_trainer(model, rollout_engine=VllmEngine(URL), **kwargs)
