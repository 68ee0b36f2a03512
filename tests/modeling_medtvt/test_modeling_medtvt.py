# SPDX-License-Identifier: Apache-2.0
import copy
import importlib.util
import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM, Dinov2Config, LlamaConfig, LlamaForCausalLM, ViTConfig

from medtvt_training.stages.initialize import tiny_config
from modeling_medtvt import (
    MedTVTConfig,
    MedTVTEcgConfig,
    MedTVTEcgEncoder,
    MedTVTForCausalLM,
    MedTVTLabConfig,
    MedTVTLabEncoder,
)

from tests.benchmarks.bench_gate import measure_gate
from tests.toy import SUBSETS, assert_close, build_inputs, build_model


RAW = ("ecg_values", "pixel_values", "lab_values")
ALL = ("ecg", "cxr", "lab")
LORA_TARGETS = r".*language_model.*\.(q_proj|v_proj)"


def with_labels(inputs):
    return {**inputs, "labels": inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)}


@pytest.fixture(params=[1, 3], ids=["k=1", "k=3"])
def either_model(request, model, model_k3):
    return model if request.param == 1 else model_k3


# Architecture


def test_default_config_is_the_papers_model():
    config = MedTVTConfig()
    assert (config.text_config.hidden_size, config.text_config.num_hidden_layers) == (2048, 16)
    assert config.text_config.num_key_value_heads == 8 and config.tie_word_embeddings
    assert (config.cxr_sequence_length, config.cxr_hidden_size) == (197, 768)
    assert config.ecg_config.hidden_size == 768 and config.lab_config.hidden_size == 1024
    assert (config.num_modality_tokens, config.num_perception_heads, config.fusion_scale) == (1, 4, 1.0)
    assert config.image_token_id == config.cxr_token_id


def test_full_size_encoders_have_the_shapes_of_the_design():
    with torch.no_grad():
        assert MedTVTEcgEncoder(MedTVTEcgConfig()).eval()(torch.randn(2, 12, 1000))[0].shape == (2, 32, 768)
        assert MedTVTLabEncoder(MedTVTLabConfig())(torch.rand(2, 100))[0].shape == (2, 1, 1024)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"num_modality_tokens": 0},
        {"num_perception_heads": 5},
        {"ecg_token_id": 7, "cxr_token_id": 7},
        {"lab_token_id": 10**6},
        {"gate_form": "mix"},
    ],
)
def test_config_refuses_contradictions(kwargs):
    with pytest.raises(Exception, match=next(iter(kwargs))):
        MedTVTConfig(**kwargs)


@torch.no_grad()
def test_config_made_of_another_models_leaves_that_model_as_it_was():
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    language_model = LlamaForCausalLM(LlamaConfig(vocab_size=64, **sizes)).eval()
    ids = torch.arange(3, 11)[None]
    expected = language_model(ids).logits
    dino = Dinov2Config(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=28)
    placeholders = {"ecg_token_id": 1, "cxr_token_id": 2, "lab_token_id": 3}
    MedTVTConfig(text_config=language_model.config, cxr_config=dino, **placeholders)
    assert torch.equal(language_model(ids).logits, expected)


def test_towers_return_features(model):
    inputs = build_inputs(model, [ALL, ALL])
    config = model.config
    assert model.get_ecg_features(inputs["ecg_values"]).shape == (2, 32, config.ecg_config.hidden_size)
    assert model.get_cxr_features(inputs["pixel_values"]).shape == (
        2,
        config.cxr_sequence_length,
        config.cxr_hidden_size,
    )
    assert model.get_lab_features(inputs["lab_values"]).shape == (2, 1, config.lab_config.hidden_size)


@torch.no_grad()
def test_image_features_are_an_output_of_transformers(either_model):
    pixel_values = build_inputs(either_model, [ALL, ALL])["pixel_values"]
    features = either_model.get_cxr_features(pixel_values)
    outputs = either_model.get_image_features(pixel_values, output_hidden_states=True)
    assert_close(outputs.last_hidden_state, features)
    assert_close(outputs.pooler_output, either_model.model.cxr_projector(features))
    assert len(outputs.hidden_states) > 1
    assert_close(either_model.get_image_features(pixel_values, return_dict=False)[0], features)


@torch.no_grad()
def test_ecg_encoder_records_its_blocks(model):
    encoder, values = model.model.ecg_encoder, build_inputs(model, [ALL, ALL])["ecg_values"]
    outputs = encoder(values, output_hidden_states=True)
    assert len(outputs.hidden_states) == sum(encoder.config.depths) + 1
    assert_close(outputs.hidden_states[-1].transpose(1, 2), outputs.last_hidden_state)
    assert encoder(values).hidden_states is None
    assert_close(encoder(values, return_dict=False)[0], outputs.last_hidden_state)


# Modalities


@torch.no_grad()
def test_all_subsets_in_one_batch_equal_each_alone(either_model):
    inputs = build_inputs(either_model, SUBSETS)
    batched = either_model(**inputs).logits
    for i in range(len(SUBSETS)):
        real = inputs["attention_mask"][i].bool()
        row = {name: tensor[i : i + 1] for name, tensor in inputs.items()}
        row["input_ids"], row["attention_mask"] = row["input_ids"][:, real], row["attention_mask"][:, real]
        assert_close(batched[i, real], either_model(**row).logits[0])


@torch.no_grad()
def test_padding_side_does_not_matter(model):
    left, right = (build_inputs(model, SUBSETS, padding_side=side) for side in ("left", "right"))
    left_logits, right_logits = model(**left).logits, model(**right).logits
    assert_close(left_logits[left["attention_mask"].bool()], right_logits[right["attention_mask"].bool()])


@torch.no_grad()
def test_rows_without_the_placeholder_are_ignored_and_not_encoded(model, monkeypatch):
    inputs = build_inputs(model, [("ecg",), ("lab",), ("cxr", "lab")])
    expected = model(**inputs).logits
    inputs["ecg_values"][1:] = torch.nan
    inputs["pixel_values"][:2] = torch.nan
    inputs["lab_values"][0] = torch.nan
    rows = count_rows(model, monkeypatch)
    assert_close(model(**inputs).logits, expected)
    assert rows == {"ecg": [1], "cxr": [1], "lab": [2]}


@torch.no_grad()
@pytest.mark.parametrize("name", RAW)
def test_every_modality_moves_the_logits(either_model, name):
    inputs = build_inputs(either_model, [ALL])
    before = either_model(**inputs).logits
    inputs[name] = inputs[name].flip(-1) + 0.5
    assert (either_model(**inputs).logits - before).abs().max() > 1e-3


@torch.no_grad()
def test_modalities_are_told_apart_by_placeholder_not_by_place(model):
    inputs = build_inputs(model, [ALL])
    config = model.config
    embeds = model.get_modality_embeds(inputs["input_ids"], **{name: inputs[name] for name in RAW}).embeds
    swapped = inputs["input_ids"].clone()
    swapped[inputs["input_ids"] == config.ecg_token_id] = config.lab_token_id
    swapped[inputs["input_ids"] == config.lab_token_id] = config.ecg_token_id
    logits = model(swapped, attention_mask=inputs["attention_mask"], modality_embeds=embeds).logits
    expected = model(
        inputs["input_ids"], attention_mask=inputs["attention_mask"], modality_embeds=embeds[:, [2, 1, 0]]
    ).logits
    assert_close(logits, expected)


@torch.no_grad()
def test_features_and_embeds_stand_in_for_raw_inputs(either_model):
    inputs = build_inputs(either_model, SUBSETS)
    expected = either_model(**inputs)
    text = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    features = {
        "ecg_features": either_model.get_ecg_features(inputs["ecg_values"]),
        "cxr_features": either_model.get_cxr_features(inputs["pixel_values"]),
        "lab_features": either_model.get_lab_features(inputs["lab_values"]),
    }
    from_features = either_model(**text, **features)
    assert_close(from_features.logits, expected.logits)
    assert_close(from_features.gates, expected.gates)
    mixed = either_model(**text, ecg_values=inputs["ecg_values"], **dict(list(features.items())[1:]))
    assert_close(mixed.logits, expected.logits)
    modalities = either_model.get_modality_embeds(text["input_ids"], **features)
    k, d = either_model.config.num_modality_tokens, either_model.config.text_config.hidden_size
    assert modalities.embeds.shape == (8, 3, k, d)
    assert modalities.presence.tolist() == [[m in subset for m in ALL] for subset in SUBSETS]
    assert_close(either_model(**text, modality_embeds=modalities.embeds).logits, expected.logits)


@torch.no_grad()
@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_prompt_embeds_are_the_whole_prompt(either_model, padding_side):
    inputs = build_inputs(either_model, SUBSETS, padding_side=padding_side)
    embeds, mask = either_model.get_prompt_embeds(**inputs), inputs["attention_mask"].bool()
    assert embeds.shape == (*inputs["input_ids"].shape, 128) and (embeds[~mask] == 0).all()
    from_embeds = either_model(inputs_embeds=embeds, attention_mask=inputs["attention_mask"]).logits
    assert_close(from_embeds[mask], either_model(**inputs).logits[mask])
    # a row alone, as an engine without padding takes it
    alone = {name: tensor[3:4] for name, tensor in inputs.items()}
    alone["input_ids"] = alone["input_ids"][:, mask[3]]
    del alone["attention_mask"]
    assert_close(either_model.get_prompt_embeds(**alone)[0], embeds[3, mask[3]])
    modality_embeds = either_model.get_modality_embeds(inputs["input_ids"], *(inputs[name] for name in RAW)).embeds
    text = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    assert_close(either_model.get_prompt_embeds(**text, modality_embeds=modality_embeds), embeds)
    with pytest.raises(ValueError, match="`attention_mask` must be of the prompt's batch and length"):
        either_model.get_prompt_embeds(**{**inputs, "attention_mask": inputs["attention_mask"][:, 1:]})


@torch.no_grad()
def test_presence_without_ids_is_what_was_passed(model):
    inputs = build_inputs(model, [ALL, ALL])
    modalities = model.get_modality_embeds(ecg_values=inputs["ecg_values"], lab_values=inputs["lab_values"])
    assert modalities.presence.tolist() == [[True, False, True]] * 2


@pytest.mark.parametrize(
    "change, match",
    [
        (lambda m, i: i.pop("ecg_values"), r"2 of 2 prompts have a <ecg> placeholder, but 0 rows"),
        (lambda m, i: [i.pop(name) for name in RAW], r"<ecg> placeholder, but 0 rows"),
        (lambda m, i: i["input_ids"][1, -1:].fill_(m.config.cxr_token_id), r"Row 1 has 2 <cxr> tokens.* exactly 1"),
        (lambda m, i: i.update(ecg_features=torch.zeros(2, 32, 96)), "not both"),
        (lambda m, i: i.update(modality_embeds=torch.zeros(2, 3, 1, 128)), "in place of every other"),
        (lambda m, i: i.update(lab_values=i["lab_values"][:1]), r"`lab_values` has 1 rows for a batch of 2"),
        (lambda m, i: i.update(ecg_values=i["ecg_values"][:, :8]), r"12 leads, samples\), got \(2, 8, 1000\)"),
        (lambda m, i: i.update(lab_values=i["lab_values"][:, :50]), r"\(batch, 100\).*got \(2, 50\)"),
        (lambda m, i: i.update(pixel_values=i["pixel_values"][:, 0]), r"got \(2, 224, 224\)"),
        (lambda m, i: i.update(inputs_embeds=torch.zeros(2, 9, 128)), "same batch and length"),
        (lambda m, i: i.update(input_ids=None), "Pass `input_ids` or `inputs_embeds`"),
        (
            lambda m, i: [i.pop("lab_values"), i.update(lab_features=torch.zeros(2, 2, 128))],
            r"`lab_features` must be \(batch, 1, 128\), got \(2, 2, 128\)",
        ),
        (
            lambda m, i: [[i.pop(name) for name in RAW], i.update(modality_embeds=torch.zeros(7, 3, 1, 128))],
            r"`modality_embeds` must be \(2, 3, 1, 128\), got \(7, 3, 1, 128\)",
        ),
        (lambda m, i: i.update(inputs_embeds=torch.zeros(2, 9, 128), input_ids=None), "need `input_ids`"),
    ],
)
def test_bad_inputs_get_one_clear_error(model, change, match):
    inputs = build_inputs(model, [ALL, ALL], lengths=[5, 5])
    change(model, inputs)
    with pytest.raises(ValueError, match=match):
        model(**inputs)


# Perception layer


@torch.no_grad()
def test_gates_are_one_score_a_modality_and_token(either_model):
    gates = either_model(**build_inputs(either_model, SUBSETS)).gates
    assert gates.shape == (8, either_model.config.num_modality_tokens, 3)
    present = torch.tensor([[m in subset for m in ALL] for subset in SUBSETS])[:, None].expand_as(gates)
    assert (gates[present] > 0).all() and (gates[present] < 1).all() and (gates[~present] == 0).all()


@torch.no_grad()
@pytest.mark.parametrize("attention", [True, False])
@pytest.mark.parametrize("gate", [True, False])
def test_perception_switches(tokenizer, attention, gate):
    model = build_model(tokenizer, use_cyclic_attention=attention, use_contribution_gate=gate)
    outputs = model(**build_inputs(model, SUBSETS))
    assert (outputs.gates is not None) == gate and torch.isfinite(outputs.logits).all()


@torch.no_grad()
def test_fusion_needs_all_three_modalities(model):
    perception = copy.deepcopy(model.model.perception)
    embeds = torch.randn(2, 3, 1, 128)
    presence = torch.tensor([[True, True, True], [True, False, True]])
    before, _ = perception(embeds, presence)
    perception.attention.o_proj.bias.normal_()
    after, _ = perception(embeds, presence)
    assert (after[0] - before[0]).abs().max() > 1e-2
    assert_close(after[1], before[1])


@torch.no_grad()
def test_cyclic_attention_rounds(model_k3):
    """(Q, K, V) = (E, C, L), (C, L, E), (L, E, C), by the textbook formula."""
    attention = model_k3.model.perception.attention
    embeds = torch.randn(2, 3, 3, 128)
    rounds = []
    for q, k, v in [(0, 1, 2), (1, 2, 0), (2, 0, 1)]:
        query, key, value = (
            attention.q_proj(embeds[:, q]),
            attention.k_proj(embeds[:, k]),
            attention.v_proj(embeds[:, v]),
        )
        heads = [x.view(2, 3, 4, 32).transpose(1, 2) for x in (query, key, value)]
        weights = (heads[0] @ heads[1].transpose(-1, -2) / 32**0.5).softmax(-1)
        rounds.append(attention.o_proj((weights @ heads[2]).transpose(1, 2).reshape(2, 3, 128)))
    assert_close(attention(embeds)[0], torch.stack(rounds).mean(0))


@pytest.fixture(params=[1, 3], ids=["k=1", "k=3"])
def mixing_model(request, tokenizer):
    return build_model(tokenizer, num_modality_tokens=request.param, gate_form="absent")


@torch.no_grad()
def test_gate_of_the_papers_form_scales(either_model):
    """T = g M, by the formula; M is what the same layer puts out without its gate."""
    perception, ungated = (copy.deepcopy(either_model.model.perception) for _ in range(2))
    ungated.gate = None
    k = either_model.config.num_modality_tokens
    embeds, presence = torch.randn(2, 3, k, 128), torch.tensor([[True] * 3, [True, False, True]])
    mixed, gates = perception(embeds, presence)
    assert either_model.config.gate_form == "scale" and perception.absent_embeds.shape == (3, 128)
    assert_close(mixed, ungated(embeds, presence)[0] * gates.transpose(1, 2)[..., None])


@torch.no_grad()
def test_gate_mixes_a_modality_with_its_absent_vector(mixing_model):
    perception, ungated = (copy.deepcopy(mixing_model.model.perception) for _ in range(2))
    ungated.gate = None
    k = mixing_model.config.num_modality_tokens
    embeds, presence = torch.randn(2, 3, k, 128), torch.tensor([[True] * 3, [True, False, True]])
    mixed, gates = perception(embeds, presence)
    modality, scores = ungated(embeds, presence)[0], gates.transpose(1, 2)[..., None]
    assert perception.absent_embeds.shape == (3, k, 128)
    absent = perception.absent_embeds / perception.absent_embeds.norm(dim=-1, keepdim=True)
    expected = scores * modality + (1 - scores) * absent * modality.norm(dim=-1, keepdim=True)
    assert_close(mixed, expected)
    assert (mixed[1, 1] == 0).all() and (gates[1, :, 1] == 0).all()  # nothing stands for what is absent
    # the gate reads directions: training may scale the projectors without saturating it
    ungated.layer_norm.weight.mul_(50), ungated.layer_norm.bias.mul_(50)
    ungated.gate = perception.gate
    assert_close(ungated(embeds, presence)[1], gates)


@torch.no_grad()
def test_a_mixing_gate_is_saved_and_told_from_the_papers(mixing_model, model, tmp_path):
    inputs = build_inputs(mixing_model, SUBSETS)
    mixing_model.save_pretrained(tmp_path / "mixing")
    loaded = MedTVTForCausalLM.from_pretrained(tmp_path / "mixing")
    assert loaded.config.gate_form == "absent"
    assert_close(loaded(**inputs).logits, mixing_model(**inputs).logits)
    model.save_pretrained(tmp_path / "scaling")
    with pytest.raises(RuntimeError, match="size mismatch|mismatched"):
        MedTVTForCausalLM.from_pretrained(tmp_path / "scaling", gate_form="absent")


@pytest.mark.parametrize("gate_form", ["scale", "absent"])
def test_a_gate_starts_open_and_learns(tokenizer, gate_form):
    torch.manual_seed(0)
    model = MedTVTForCausalLM(tiny_config(tokenizer, gate_form=gate_form)).train()
    output = model(**with_labels(build_inputs(model, SUBSETS)))
    gates = output.gates[output.gates > 0]
    assert ((gates > 0.85) & (gates < 0.99)).all()
    output.loss.backward()
    perception = model.model.perception
    assert all(
        p.grad.isfinite().all() for p in (perception.gate.weight, perception.gate.bias, perception.absent_embeds)
    )
    assert perception.gate.bias.grad.abs().min() > 0


@pytest.mark.parametrize("gate_form", ["scale", "absent"])
def test_only_a_mixing_gate_acts_on_the_loss(tokenizer, gate_form):
    """Eight patients whom a model has learned to tell apart by their ECG: a gate of 0.2, beside another patient's ECG."""
    torch.manual_seed(0)
    model = MedTVTForCausalLM(tiny_config(tokenizer, gate_form=gate_form)).train()
    inputs = build_inputs(model, [("ecg",)] * 8, lengths=[5] * 8)
    ids = inputs["input_ids"][:1].repeat(8, 1)
    ids[:, -1] = torch.arange(700, 708)  # what the ECG says
    labels = torch.full_like(ids, -100)
    labels[:, -1] = ids[:, -1]
    features = (torch.randn(1, 1, 192) + torch.randn(8, 1, 192) / 2).expand(-1, 8, -1)
    batch = {"input_ids": ids, "ecg_features": features, "labels": labels}
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    for _ in range(100):
        optimizer.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        if loss < 0.2:  # learned, and not by heart
            break
    losses = measure_gate(model.eval(), [batch])
    assert losses["own"] < 0.3 and losses["other"] > 2
    assert losses["ratio"] >= 0.25 if gate_form == "absent" else losses["ratio"] < 0.1


@torch.no_grad()
@pytest.mark.parametrize("gate_form", ["scale", "absent"])
@pytest.mark.parametrize("scale", [1, 20, 200])
def test_fresh_perception_layer_starts_near_the_identity(tokenizer, tmp_path, scale, gate_form):
    """SFT begins where PT ended, however much PT has scaled the projectors."""
    torch.manual_seed(0)
    before = MedTVTForCausalLM(tiny_config(tokenizer, use_perception=False)).eval()
    for projector in (before.model.ecg_projector, before.model.cxr_projector, before.model.lab_projector):
        projector.linear.weight.mul_(scale)
    before.save_pretrained(tmp_path)
    after = MedTVTForCausalLM.from_pretrained(tmp_path, use_perception=True, gate_form=gate_form)
    inputs = build_inputs(before, [ALL] * 4)
    raw = {name: inputs[name] for name in RAW}
    flat, perceived = (m.get_modality_embeds(**raw).embeds.flatten(0, 2) for m in (before, after))
    # what is left is the mean that the norm takes away; it shrinks with the width, here 128
    assert torch.nn.functional.cosine_similarity(flat, perceived, dim=-1).min() > 0.9
    assert perceived.norm() / flat.norm() == pytest.approx(1, abs=0.2)


@torch.no_grad()
def test_perception_is_calibrated_on_patients_too(tokenizer):
    model = build_model(tokenizer)
    inputs = build_inputs(model, [ALL] * 4)
    model.model.calibrate_perception(**{name: inputs[name] for name in RAW})
    weight = model.model.perception.layer_norm.weight
    on_patients = weight.clone()
    model.model.calibrate_perception()
    assert not torch.equal(weight, on_patients) and weight.unique().numel() == 1
    model.model.perception = None
    with pytest.raises(ValueError, match="Nothing to calibrate"):
        model.model.calibrate_perception()
    flat = model.get_modality_embeds(**{name: inputs[name] for name in RAW}).embeds
    assert_close(on_patients, flat.pow(2).mean().sqrt().expand_as(weight))


# Frozen encoders


def test_frozen_encoders_stay_in_eval_and_keep_their_statistics(tokenizer):
    model = build_model(tokenizer).train()
    inputs = with_labels(build_inputs(model, [ALL, ("ecg",)]))
    encoders = [model.model.ecg_encoder, model.model.cxr_encoder, model.model.lab_encoder]
    before = [copy.deepcopy(encoder.state_dict()) for encoder in encoders]
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    named_before = {name: p.detach().clone() for name, p in model.named_parameters()}
    model(**inputs).loss.backward()
    optimizer.step()
    for encoder, state in zip(encoders, before):
        assert not encoder.training and not any(p.requires_grad for p in encoder.parameters())
        assert all(torch.equal(value, state[name]) for name, value in encoder.state_dict().items())
    # query and key projections are dead with one token a modality
    dead = ("perception.attention.q_proj", "perception.attention.k_proj")
    for name, parameter in model.named_parameters():
        frozen = any(part in name for part in ("_encoder.", *dead))
        assert torch.equal(parameter, named_before[name]) == frozen, name
    assert model.model.ecg_projector.training and model.model.language_model.training


def test_loaded_encoders_are_frozen_until_one_is_let_free(checkpoint):
    loaded = MedTVTForCausalLM.from_pretrained(checkpoint)
    assert loaded.model.has_frozen_encoders and loaded.lm_head.weight.requires_grad
    loaded.model.ecg_encoder.requires_grad_(True)
    loaded.train()  # leaves free what the user has let free, and eval mode where it was
    assert loaded.model.ecg_encoder.training and all(p.requires_grad for p in loaded.model.ecg_encoder.parameters())
    assert not loaded.model.cxr_encoder.training and not loaded.model.has_frozen_encoders
    loaded(**with_labels(build_inputs(loaded, [ALL]))).loss.backward()
    assert all(p.grad is not None for p in loaded.model.ecg_encoder.parameters())
    loaded.model.freeze_encoders()
    assert loaded.model.has_frozen_encoders and not loaded.model.ecg_encoder.training


# Saving, loading, initialisation


@torch.no_grad()
def test_save_and_load_keep_weights_and_run_time_names(either_model, tmp_path):
    inputs = build_inputs(either_model, SUBSETS)
    either_model.save_pretrained(tmp_path, max_shard_size="300KB")
    loaded = MedTVTForCausalLM.from_pretrained(tmp_path)
    weights = either_model.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in loaded.state_dict().items())
    assert_close(loaded(**inputs).logits, either_model(**inputs).logits)
    # Trainer resumes with load_state_dict: every name on disk must be one of the model's
    on_disk = {name for file in tmp_path.glob("*.safetensors") for name in load_file(file)}
    assert on_disk == set(either_model.state_dict()) - {"lm_head.weight"}
    base = AutoModel.from_pretrained(tmp_path)
    assert_close(base(**inputs).last_hidden_state, either_model.model(**inputs).last_hidden_state)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@torch.no_grad()
def test_half_precision(checkpoint, dtype):
    model = MedTVTForCausalLM.from_pretrained(checkpoint, dtype=dtype)
    outputs = model(**build_inputs(model, SUBSETS))
    assert outputs.logits.dtype == dtype and torch.isfinite(outputs.logits).all()
    assert model.model.ecg_encoder.dtype == (torch.float32 if dtype == torch.float16 else dtype)


PARTS = ["ecg_encoder", "cxr_encoder", "lab_encoder", "ecg_projector", "cxr_projector", "lab_projector", "perception"]


def save_without(model, folder, part, **config):
    """A checkpoint that lacks a part's weights."""
    model.save_pretrained(folder)
    state = {k: v for k, v in load_file(folder / "model.safetensors").items() if f"model.{part}." not in k}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))


@pytest.mark.parametrize("part", [*PARTS, "language_model"])
def test_incomplete_weights_are_refused(model, tmp_path, part):
    save_without(model, tmp_path, part)
    for auto_class in (AutoModelForCausalLM, AutoModel):
        with pytest.raises(ValueError, match=rf"lacks \d+ tensors of this model, such as .*{part}"):
            auto_class.from_pretrained(tmp_path)


def test_a_perception_layer_is_drawn_as_in_a_fresh_model_where_pt_had_none(model, tmp_path):
    save_without(model, tmp_path, "perception", use_perception=False)
    loaded, info = MedTVTForCausalLM.from_pretrained(
        pretrained_model_name_or_path=tmp_path, use_perception=True, output_loading_info=True
    )
    missing = {name for name in info["missing_keys"] if name != "lm_head.weight"}
    assert missing and all(name.startswith("model.perception.") for name in missing)
    torch.manual_seed(1)
    fresh = MedTVTForCausalLM(model.config).state_dict()
    for name, value in loaded.state_dict().items():
        if name not in missing:
            assert torch.equal(value, model.state_dict()[name]), name
        elif value.is_floating_point():
            assert torch.isfinite(value).all(), name
            if value.numel() == 1:
                assert torch.equal(value, fresh[name]), name
            else:
                assert value.std().item() == pytest.approx(fresh[name].std().item(), rel=0.5, abs=0.02), name


def test_the_plan_of_tensor_parallelism_covers_what_is_tied(model):
    """An embedding that is spread over processes cannot share its weight with a head that is not."""
    assert model.config.tie_word_embeddings
    assert model.tp_plan["lm_head"] == "colwise_gather_output"
    assert "model.language_model.embed_tokens" in model.tp_plan


@pytest.mark.parametrize("tied", [True, False])
@torch.no_grad()
def test_tied_and_untied_heads_and_resizing(tokenizer, tmp_path, tied):
    config = build_model(tokenizer).config
    config.text_config.tie_word_embeddings = config.tie_word_embeddings = tied
    torch.manual_seed(0)
    model = MedTVTForCausalLM(config).eval()
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == tied
    inputs = build_inputs(model, [ALL])
    before = model(**inputs).logits
    old_size = config.text_config.vocab_size
    model.resize_token_embeddings(old_size + 16)
    assert model.config.text_config.vocab_size == old_size + 16
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == tied
    after = model(**inputs).logits
    assert after.shape[-1] == old_size + 16
    assert_close(after[..., :old_size], before)
    model.save_pretrained(tmp_path)
    loaded = MedTVTForCausalLM.from_pretrained(tmp_path)
    assert (loaded.lm_head.weight is loaded.get_input_embeddings().weight) == tied
    assert_close(loaded(**inputs).logits, after)


# Habits of the library


@torch.no_grad()
def test_eager_equals_sdpa_and_attentions_are_returned(either_model, tmp_path):
    model = either_model
    model.save_pretrained(tmp_path)
    inputs = build_inputs(model, SUBSETS)
    eager = MedTVTForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    outputs = eager(**inputs, output_attentions=True, output_hidden_states=True)
    real = inputs["attention_mask"].bool()
    assert_close(outputs.logits[real], model(**inputs).logits[real])
    batch, length = inputs["input_ids"].shape
    assert len(outputs.attentions) == 4 and outputs.attentions[0].shape == (batch, 4, length, length)
    assert len(outputs.hidden_states) == 5 and outputs.hidden_states[0].shape == (batch, length, 128)
    [weights] = outputs.cross_attentions
    k = model.config.num_modality_tokens
    assert weights.shape == (batch, 3, 4, k, k)
    assert_close(weights.sum(-1), torch.ones(batch, 3, 4, k))
    outputs = eager(**inputs)
    assert outputs.attentions is None and outputs.hidden_states is None and outputs.cross_attentions is None
    eager.set_attn_implementation({"text_config": "sdpa"})  # the ResNet of this model has none
    assert_close(eager(**inputs).logits[real], model(**inputs).logits[real])


@torch.no_grad()
def test_return_dict_and_logits_to_keep(model):
    inputs = build_inputs(model, SUBSETS)
    full = model(**inputs).logits
    assert_close(model(**inputs, return_dict=False)[0], full)
    assert_close(model(**inputs, logits_to_keep=2).logits, full[:, -2:])
    assert_close(model(**inputs, logits_to_keep=torch.tensor([0, 3])).logits, full[:, [0, 3]])


def test_loss_is_the_shifted_cross_entropy_and_takes_the_global_count(model):
    inputs = with_labels(build_inputs(model, SUBSETS))
    with torch.no_grad():
        outputs = model(**inputs)
        shifted = inputs["labels"][:, 1:]
        summed = torch.nn.functional.cross_entropy(
            outputs.logits[:, :-1].transpose(1, 2), shifted, ignore_index=-100, reduction="sum"
        )
        assert_close(outputs.loss, summed / (shifted != -100).sum())
        assert_close(model(**inputs, num_items_in_batch=torch.tensor(1000)).loss, summed / 1000)


@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "autocast"])
@pytest.mark.parametrize("count", [None, 1000, torch.tensor(1000)], ids=["mean", "number", "tensor"])
def test_chunked_loss_equals_the_plain_one(tokenizer, monkeypatch, count, autocast):
    monkeypatch.setattr("modeling_medtvt.loss_medtvt.LOSS_CHUNK", 7)
    model = build_model(tokenizer).train()
    inputs = with_labels(build_inputs(model, SUBSETS))
    inputs |= {} if count is None else {"num_items_in_batch": count}
    losses, gradients = [], []
    for model.chunked_loss in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            outputs = model(**inputs)
        assert (outputs.logits is None) == model.chunked_loss
        outputs.loss.backward()
        losses.append(outputs.loss)
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert_close(*losses)
    for name, gradient in gradients[0].items():
        # rounded to bfloat16 in another order
        torch.testing.assert_close(
            gradients[1][name], gradient, rtol=0.05 if autocast else 1e-4, atol=2e-3 if autocast else 1e-6
        )
    inputs["labels"] = torch.full_like(inputs["labels"], -100)
    chunked, plain = (model.train(mode)(**inputs).loss for mode in (True, False))  # in evaluation, logits are wanted
    torch.testing.assert_close(chunked, plain, equal_nan=True)


@pytest.mark.parametrize("peft", [False, True], ids=["full", "peft"])
def test_gradient_checkpointing_does_not_change_gradients(tokenizer, peft):
    gradients = []
    for checkpointing in (False, True):
        model = build_model(tokenizer)
        if peft:
            torch.manual_seed(0)
            model = get_peft_model(model, LoraConfig(target_modules=LORA_TARGETS, init_lora_weights=False))
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            model.enable_input_require_grads()
            assert any(getattr(m, "gradient_checkpointing", False) for m in model.modules())
        model.train()
        model(**with_labels(build_inputs(model, SUBSETS))).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and gradients[0]
    for name, gradient in gradients[0].items():
        assert_close(gradient, gradients[1][name])


def test_anchored_lora_reaches_the_language_model_only(tokenizer, tmp_path):
    model = get_peft_model(build_model(tokenizer), LoraConfig(target_modules=LORA_TARGETS))
    adapted = {name for name, _ in model.named_parameters() if "lora_" in name}
    assert adapted and all("language_model" in name for name in adapted)


def test_compiles_without_graph_breaks_past_the_encoders(model):
    inputs = build_inputs(model, SUBSETS)
    with torch.no_grad():
        embeds = model.get_modality_embeds(inputs["input_ids"], **{name: inputs[name] for name in RAW}).embeds
        text = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        assert_close(compiled(**text, modality_embeds=embeds).logits, model(**inputs).logits)
    torch.compiler.reset()


def test_device_map_splits_between_blocks(model, tmp_path):
    model.save_pretrained(tmp_path / "checkpoint")
    expected = {"MedTVTEcgBlock", "MedTVTPerceptionLayer", "LlamaDecoderLayer", "MedTVTCxrProjector"}
    assert expected <= set(model._no_split_modules)
    split = MedTVTForCausalLM.from_pretrained(
        tmp_path / "checkpoint", device_map="auto", max_memory={"cpu": "1MB"}, offload_folder=tmp_path / "offload"
    )
    assert set(split.hf_device_map.values()) == {"cpu", "disk"}
    inputs = build_inputs(model, SUBSETS)
    with torch.no_grad():
        assert_close(split(**inputs).logits, model(**inputs).logits)


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="needs bitsandbytes")
@pytest.mark.parametrize("bits", [4, 8])
def test_quantised_loading_leaves_encoders_and_projectors_alone(checkpoint, bits):
    from transformers import BitsAndBytesConfig

    model = MedTVTForCausalLM.from_pretrained(
        checkpoint, quantization_config=BitsAndBytesConfig(**{f"load_in_{bits}bit": True}), device_map="cpu"
    )
    quantised = {name for name, m in model.named_modules() if type(m).__name__ in ("Linear4bit", "Linear8bitLt")}
    assert quantised and all(name.startswith("model.language_model.") for name in quantised)
    with torch.no_grad():
        assert torch.isfinite(model(**build_inputs(model, SUBSETS)).logits).all()


def test_timm_backbone_without_timm_names_the_extra(tokenizer, monkeypatch):
    monkeypatch.setattr("modeling_medtvt.modeling_medtvt.is_timm_available", lambda: False)
    config = build_model(tokenizer).config.to_dict()
    config["cxr_config"] = {"model_type": "timm_wrapper", "architecture": "resnet18"}
    with pytest.raises(ImportError, match=r"medtvt-r1\[timm\]"):
        MedTVTForCausalLM(MedTVTConfig(**config))


@pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="needs timm")
@pytest.mark.parametrize("architecture", ["resnet10t", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_timm_backbones(tokenizer, tmp_path, architecture):
    from transformers import TimmWrapperConfig

    config = build_model(tokenizer).config.to_dict()
    for name in ("cxr_config", "cxr_hidden_size", "cxr_sequence_length"):
        config.pop(name)
    pretrained_cfg = {"input_size": [3, 224, 224], "mean": [0.5] * 3, "std": [0.5] * 3}
    timm_config = TimmWrapperConfig.from_dict(
        {"architecture": architecture, "num_classes": 10, "do_pooling": False, "pretrained_cfg": pretrained_cfg}
    )
    model = MedTVTForCausalLM(MedTVTConfig(**config, cxr_config=timm_config)).eval()
    inputs = build_inputs(model, SUBSETS)
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        assert_close(MedTVTForCausalLM.from_pretrained(tmp_path)(**inputs).logits, model(**inputs).logits)


def test_any_decoder_is_a_backbone(tokenizer):
    ids = {
        name: value for name, value in build_model(tokenizer).config.to_dict().items() if name.endswith("_token_id")
    }
    ids = {name: ids[name] for name in ("ecg_token_id", "cxr_token_id", "lab_token_id")}
    text = {
        "model_type": "qwen3",
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "pad_token_id": 0,
        "bos_token_id": 1,
    }
    cxr = ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, patch_size=56)
    ecg = {"stem_sizes": (4, 4, 4), "stage_sizes": (4,), "depths": (1,)}
    model = MedTVTForCausalLM(MedTVTConfig(text_config=text, cxr_config=cxr, ecg_config=ecg, **ids)).eval()
    with torch.no_grad():
        assert torch.isfinite(model(**build_inputs(model, SUBSETS)).logits).all()


def count_rows(model, monkeypatch):
    """Rows that each encoder saw, call by call."""
    rows = {"ecg": [], "cxr": [], "lab": []}
    for modality in rows:
        encoder = getattr(model.model, f"{modality}_encoder")

        def counting(*args, forward=encoder.forward, seen=rows[modality], **kwargs):
            seen.append(len(args[0] if args else next(iter(kwargs.values()))))
            return forward(*args, **kwargs)

        monkeypatch.setattr(encoder, "forward", counting)
    return rows


def test_config_says_whether_forward_keeps_keys_and_values(tokenizer):
    model = build_model(tokenizer)
    inputs = build_inputs(model, SUBSETS[:2])
    assert model(**inputs).past_key_values is not None
    model.config.use_cache = False  # what the Trainer does
    assert model(**inputs).past_key_values is None
    assert model(**inputs, use_cache=True).past_key_values is not None
