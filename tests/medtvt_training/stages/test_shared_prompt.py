# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from medtvt_training.stages.shared_prompt import keep_groups_together

from .grpo_toy import make_way, perturb, score


def take_step(trainer, output, shares):
    """Loss and gradients of an update on a generation batch."""
    trainer._shares_prompts = shares
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.zero_grad()
    loss = trainer.compute_loss(trainer.model, output)
    loss.backward()
    named = trainer.model.named_parameters()
    return loss.detach(), {name: p.grad.clone() for name, p in named if p.grad is not None}


@pytest.mark.parametrize("loss_type", ["grpo", "dapo"])
@pytest.mark.parametrize("way", ["fresh adapter", "all"])
def test_shared_prompts_change_neither_loss_nor_gradients(way, loss_type, policy, rows, make_trainer):
    model, kwargs = make_way(way, policy)
    trainer = make_trainer(model, steps_per_generation=2, gradient_accumulation_steps=1, loss_type=loss_type, **kwargs)
    perturb(trainer.model, seed=2)  # away from the reference
    output = score(trainer, [rows[0], rows[1]])  # of different lengths; one lacks a modality
    output["completion_mask"][1] = 0  # as `mask_truncated_completions` does
    order = torch.tensor([0, 5, 2, 4, 1, 7, 3, 6])
    shuffled = {name: value[order] if value.ndim else value for name, value in output.items()}
    plain_loss, plain = take_step(trainer, output, shares=False)
    assert max(gradient.abs().max() for gradient in plain.values()) > 1e-3
    for batch in (output, shuffled):
        loss, shared = take_step(trainer, batch, shares=True)
        torch.testing.assert_close(loss, plain_loss, atol=1e-5, rtol=0)
        assert shared.keys() == plain.keys()
        for name, gradient in plain.items():
            torch.testing.assert_close(shared[name], gradient, atol=1e-5, rtol=0, msg=name)


def test_shared_prompts_are_scored_alike(policy, rows, make_trainer):
    model, kwargs = make_way("all", policy)
    kwargs = {**kwargs, "steps_per_generation": 2, "gradient_accumulation_steps": 1}
    trainer = make_trainer(model, generation_kwargs={"do_sample": False}, **kwargs)
    perturb(trainer.model, seed=2)
    found = []
    for shares in (True, False):
        trainer._shares_prompts = shares
        found.append(score(trainer, [rows[0], rows[1]]))
    assert torch.equal(found[0]["completion_ids"], found[1]["completion_ids"])
    for name in ("old_per_token_logps", "ref_per_token_logps"):
        torch.testing.assert_close(found[0][name], found[1][name], atol=1e-5, rtol=0)


def test_with_gradient_checkpointing_prompts_are_not_shared(policy, make_trainer, caplog):
    model, kwargs = make_way("all", policy)
    trainer = make_trainer(model, gradient_checkpointing=True, **kwargs)
    assert "computed again in scoring and update passes: transformers drops the cache" in caplog.text
    trainer.train()
    assert trainer.state.log_history[0]["grad_norm"] > 0


def test_groups_stay_together_in_the_order_of_their_first_row():
    prompts = torch.tensor([2, 0, 2, 1, 0, 1, 2, 0])
    batches = [{"prompt_index": half, "x": 10 * half, "n": torch.tensor(7)} for half in prompts.split(4)]
    first, second = keep_groups_together(batches)
    assert first["prompt_index"].tolist() == [2, 2, 2, 0] and second["prompt_index"].tolist() == [0, 0, 1, 1]
    assert first["x"].tolist() == [20, 20, 20, 0] and first["n"] == second["n"] == 7
