# SPDX-License-Identifier: Apache-2.0
"""torch.compile of the whole model and torch.export of what stands before the language model."""

import copy

import pytest
import torch
from torch import nn
from torch.export import Dim

from .test_modeling_medtvt import ALL, RAW, with_labels
from tests.toy import SUBSETS, assert_close, build_inputs, build_model


@pytest.fixture(autouse=True)
def _no_graphs_of_other_tests():
    yield
    torch.compiler.reset()


@pytest.fixture(scope="module")
def shallow(tokenizer):
    """A model of one decoder layer, and short ECGs below: each layer and each time step takes a while to trace."""
    model = build_model(tokenizer, num_modality_tokens=3)
    model.model.language_model.layers = model.model.language_model.layers[:1]
    model.config.text_config.num_hidden_layers = 1
    return model


def build_short_inputs(model, subsets, seed=0):
    inputs = build_inputs(model, subsets, seed=seed)
    return {**inputs, "ecg_values": inputs["ecg_values"][:, :, :200]}


@torch.no_grad()
def test_the_whole_forward_compiles_to_one_graph(shallow):
    model = shallow
    inputs = build_short_inputs(model, SUBSETS)
    absent = torch.tensor([[modality not in subset for modality in ALL] for subset in SUBSETS])
    expected = model(**inputs).logits
    for i, name in enumerate(RAW):  # what a row does not have may be anything
        inputs[name][absent[:, i]] = torch.nan
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert_close(compiled(**inputs).logits, expected)
    # other rows hold the modalities, and one tensor is not there: no row's contents decide the graph
    inputs = build_short_inputs(model, [subset for subset in reversed(SUBSETS) if "cxr" not in subset] * 2)
    inputs.pop("pixel_values")
    assert_close(compiled(**inputs).logits, model(**inputs).logits)
    inputs["input_ids"][0, -1] = model.config.ecg_token_id  # a prompt that is refused, as without a graph
    with pytest.raises(RuntimeError, match="assertion failed"):
        compiled(**inputs)


def test_a_compiled_training_step_has_the_same_gradients(shallow):
    model = copy.deepcopy(shallow).train()
    inputs = with_labels(build_short_inputs(model, [ALL, ("ecg",), ()]))
    gradients = []
    for step in (model, torch.compile(model, backend="eager", fullgraph=True)):
        model.zero_grad()
        step(**inputs).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-3, atol=1e-5, msg=name)


class Modalities(nn.Module):
    """Encoders, projectors and perception layer, as an engine would run them before a language model of its own."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, ecg_values, pixel_values, lab_values):
        outputs = self.model.get_modality_embeds(input_ids, ecg_values, pixel_values, lab_values)
        return outputs.embeds, outputs.gates


@torch.no_grad()
def test_what_stands_before_the_language_model_exports(shallow, tmp_path):
    names = ("input_ids", *RAW)
    inputs = build_short_inputs(shallow, SUBSETS[1:4])
    batch = Dim("batch", min=1, max=64)
    shapes = {name: {0: batch} for name in RAW} | {"input_ids": {0: batch, 1: Dim("length", min=2, max=4096)}}
    program = torch.export.export(Modalities(shallow), tuple(inputs[name] for name in names), dynamic_shapes=shapes)
    torch.export.save(program, tmp_path / "modalities.pt2")
    exported = torch.export.load(tmp_path / "modalities.pt2").module()
    for subsets in (SUBSETS, [ALL]):
        inputs = build_short_inputs(shallow, subsets, seed=1)
        expected = shallow.get_modality_embeds(**{name: inputs[name] for name in names})
        embeds, gates = exported(*(inputs[name] for name in names))
        assert_close(embeds, expected.embeds)
        assert_close(gates, expected.gates)
    inputs["input_ids"][0, -1] = shallow.config.ecg_token_id
    with pytest.raises(RuntimeError, match="assertion failed"):
        exported(*(inputs[name] for name in names))
