# SPDX-License-Identifier: Apache-2.0
"""Losses, what a training step runs, and rows that share a sequence."""

import pytest
import torch

from .test_modeling_medtvt import ALL, RAW, count_rows, with_labels
from tests.toy import SUBSETS, assert_close, build_inputs, build_model


@pytest.fixture(params=[1, 3], ids=["k=1", "k=3"])
def either_model(request, model, model_k3):
    return model if request.param == 1 else model_k3


@pytest.fixture(scope="module")
def trained(tokenizer):
    return build_model(tokenizer).train()


# Loss


def test_chunked_loss_takes_labels_that_are_shifted_already(trained):
    inputs = with_labels(build_inputs(trained, SUBSETS))
    # as sequence parallelism passes them: the last label comes from the next process
    shifted = torch.randint(300, 600, inputs["labels"].shape, generator=torch.Generator().manual_seed(1))
    inputs["shift_labels"] = shifted.masked_fill(inputs["attention_mask"] == 0, -100)
    losses = []
    for trained.chunked_loss in (True, False):
        losses.append(trained(**inputs).loss)
    assert_close(*losses)
    inputs.pop("shift_labels")
    assert abs(trained(**inputs).loss - losses[0]) > 1e-3


@pytest.mark.parametrize("chunked", [False, True], ids=["plain", "chunked"])
@pytest.mark.parametrize("name", ["labels", "shift_labels"])
@pytest.mark.parametrize(
    "change", [lambda x: x[:, :-1], lambda x: x[:1], lambda x: x.flatten()], ids=["shorter", "fewer", "flat"]
)
def test_labels_of_another_length_are_refused(trained, monkeypatch, chunked, name, change):
    monkeypatch.setattr(trained, "chunked_loss", chunked)
    inputs = with_labels(build_inputs(trained, [ALL, ()]))
    inputs[name] = change(inputs["labels"])
    with pytest.raises(ValueError, match=rf"`{name}` must be of the logits' batch and length, \(2, \d+\)"):
        trained(**inputs)


@torch.no_grad()
def test_logits_of_positions_that_differ_by_row(model):
    inputs = build_inputs(model, SUBSETS)
    full = model(**inputs).logits
    positions = torch.stack([torch.arange(3) + i % 4 for i in range(len(SUBSETS))])
    assert_close(model(**inputs, logits_to_keep=positions).logits, full.take_along_dim(positions[..., None], 1))
    mask = inputs["attention_mask"].bool()
    assert_close(model(**inputs, logits_to_keep=mask).logits, full[mask])


# What a step runs


@pytest.mark.parametrize("subsets", [[("lab",), ("cxr", "lab")], [(), ()]], ids=["no ECG", "text alone"])
def test_every_trained_projector_takes_part_in_every_step(trained, subsets):
    """Or processes whose batches hold other modalities would wait for its gradient."""
    inputs = with_labels(build_inputs(trained, subsets))
    present = {modality for subset in subsets for modality in subset}
    given = {name: tensor for name, tensor in inputs.items() if name not in RAW}
    given |= {name: inputs[name] for name, modality in zip(RAW, ALL) if modality in present}
    losses = []
    for kwargs in (given, inputs if present else given):  # absent tensors, and tensors of no row
        trained.zero_grad()
        losses.append(trained(**kwargs).loss)
        losses[-1].backward()
        for modality in ALL:
            gradients = [p.grad for p in getattr(trained.model, f"{modality}_projector").parameters()]
            assert all(gradient is not None for gradient in gradients)
            assert any(gradient.any() for gradient in gradients) == (modality in present)
        assert all(p.grad is not None for p in trained.model.perception.parameters())
    assert_close(losses[0], trained.eval()(**inputs).loss)
    trained.train()


@pytest.mark.parametrize("mode", ["evaluation", "frozen"])
def test_nothing_runs_without_rows_where_nothing_is_trained(tokenizer, monkeypatch, mode):
    model = build_model(tokenizer)
    if mode == "frozen":
        model.train().model.requires_grad_(False)
    calls = []
    for modality in ALL:
        getattr(model.model, f"{modality}_projector").register_forward_hook(
            lambda module, inputs, output, name=modality: calls.append((name, len(output)))
        )
    model(**build_inputs(model, [("lab",), ("lab",), ()]))
    model(**{name: build_inputs(model, [()])[name] for name in ("input_ids", "attention_mask")})
    assert calls == [("lab", 2)]


def test_a_trained_encoder_sees_only_rows_that_have_its_modality(tokenizer, monkeypatch):
    model = build_model(tokenizer)
    model.model.ecg_encoder.requires_grad_(True)
    rows = count_rows(model.train(), monkeypatch)
    model(**with_labels(build_inputs(model, [("lab",), ("ecg", "lab")]))).loss.backward()
    assert rows == {"ecg": [1], "cxr": [], "lab": [2]}


# Several sequences in a row


def packed(model, *subsets):
    """One row of several patients' prompts, each with its own positions."""
    rows = [build_inputs(model, [subset], seed=i) for i, subset in enumerate(subsets)]
    inputs = {name: rows[0][name] for name in RAW}
    inputs["input_ids"] = torch.cat([row["input_ids"] for row in rows], 1)
    inputs["position_ids"] = torch.cat([torch.arange(row["input_ids"].shape[1]) for row in rows]).unsqueeze(0)
    return inputs


def bounded(inputs):
    """The same, told apart as FlashAttention's keywords do, and by nothing else."""
    inputs = dict(inputs)
    starts = (inputs.pop("position_ids").flatten() == 0).nonzero().flatten()
    bounds = torch.cat([starts, torch.tensor([inputs["input_ids"].numel()])]).int()
    return inputs | {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds}


@torch.no_grad()
@pytest.mark.parametrize("by_embeds", [False, True], ids=["values", "embeds"])
@pytest.mark.parametrize("told", [dict, bounded], ids=["position_ids", "cu_seq_lens"])
def test_modalities_of_several_patients_in_one_row_are_refused(model, by_embeds, told):
    inputs = told(packed(model, ("ecg",), ("lab",)))
    if by_embeds:
        values = {name: inputs.pop(name) for name in RAW}
        inputs["modality_embeds"] = model.get_modality_embeds(**values).embeds
    with pytest.raises(ValueError, match="Row 0 has placeholders in several sequences"):
        model(**inputs)


@torch.no_grad()
def test_bounds_between_patients_are_no_fault(model):
    assert model(**bounded(packed(model, (), ("ecg", "lab")))).gates is not None
    rows = build_inputs(model, [ALL, ALL], lengths=[5, 5])
    length = rows["input_ids"].shape[1]
    assert_close(model(**rows, cu_seq_lens_q=torch.tensor([0, length, 2 * length])).logits, model(**rows).logits)


@torch.no_grad()
def test_one_patient_may_share_a_row_with_text(model):
    inputs = packed(model, (), ("ecg", "lab"))
    alone = build_inputs(model, [("ecg", "lab")], seed=1)
    alone |= {name: inputs[name] for name in RAW}
    length = alone["input_ids"].shape[1]
    # transformers tells sequences apart where there is no cache
    assert_close(model(**inputs, use_cache=False).logits[:, -length:], model(**alone).logits)
    left_padded = build_inputs(model, SUBSETS)
    positions = (left_padded["attention_mask"].cumsum(1) - 1).masked_fill(left_padded["attention_mask"] == 0, 1)
    assert_close(model(**left_padded, position_ids=positions).logits, model(**left_padded).logits)


# Embeddings in place of ids


@torch.no_grad()
def test_placeholders_are_found_by_id_or_by_embedding(either_model):
    inputs = build_inputs(either_model, SUBSETS)
    expected = either_model(**inputs).logits
    embeds = either_model.get_input_embeddings()(inputs["input_ids"])
    assert_close(either_model(**inputs, inputs_embeds=embeds).logits, expected)
    ids = inputs.pop("input_ids")
    assert_close(either_model(**inputs, inputs_embeds=embeds).logits, expected)
    # what stands beside the placeholders may be anything
    embeds = embeds + (ids > 5).unsqueeze(-1) * 0.1
    by_embedding = either_model(**inputs, inputs_embeds=embeds).logits
    assert_close(either_model(**inputs, input_ids=ids, inputs_embeds=embeds).logits, by_embedding)
    assert (by_embedding - expected).abs().max() > 1e-3


def test_embeddings_without_placeholders_need_ids(model):
    inputs = build_inputs(model, [ALL])
    inputs["inputs_embeds"] = torch.randn(*inputs.pop("input_ids").shape, model.config.text_config.hidden_size)
    with pytest.raises(ValueError, match="Modality inputs need `input_ids`"):
        model(**inputs)
    with pytest.raises(ValueError, match="Modality inputs need `input_ids`"):
        model.generate(**inputs)
