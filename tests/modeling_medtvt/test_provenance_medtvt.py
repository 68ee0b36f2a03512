# SPDX-License-Identifier: Apache-2.0
import json

import pytest
import torch
from peft import LoraConfig, get_peft_model

from modeling_medtvt import MedTVTConfig, MedTVTForCausalLM, Provenance

from .test_modeling_medtvt import LORA_TARGETS
from tests.toy import build_model


ENTRY = {"stage": "sft", "name": "cohort", "access": "synthetic"}
OLD_KEYS = {"stage": "sft", "training_data": [ENTRY], "chunked_loss": True, "freeze_encoders": False}


def edit(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_it_travels_with_the_weights(tokenizer, tmp_path):
    model = build_model(tokenizer)
    model.save_pretrained(tmp_path / "untrained")
    assert not (tmp_path / "untrained" / "provenance.json").exists()
    model.provenance = Provenance("sft", [ENTRY])
    model.save_pretrained(tmp_path / "trained")
    loaded = MedTVTForCausalLM.from_pretrained(tmp_path / "trained")
    assert loaded.provenance == Provenance("sft", [ENTRY])
    assert not set(OLD_KEYS) & set(json.loads((tmp_path / "trained" / "config.json").read_text()))
    loaded.provenance = Provenance()
    loaded.save_pretrained(tmp_path / "trained")  # over the other one
    assert MedTVTForCausalLM.from_pretrained(tmp_path / "trained").provenance == Provenance()


def test_folders_of_older_versions_open(tokenizer, tmp_path):
    build_model(tokenizer).save_pretrained(tmp_path / "old")
    edit(tmp_path / "old" / "config.json", **OLD_KEYS)
    loaded = MedTVTForCausalLM.from_pretrained(tmp_path / "old")
    assert loaded.provenance == Provenance("sft", [ENTRY])
    assert not any(hasattr(loaded.config, name) for name in OLD_KEYS)
    loaded.save_pretrained(tmp_path / "new")
    assert Provenance.from_pretrained(tmp_path / "new") == Provenance("sft", [ENTRY])


def test_an_adapter_says_what_it_was_trained_on_or_what_its_model_was(tokenizer, tmp_path):
    model = build_model(tokenizer)
    model.provenance = Provenance("pt", [])
    model.save_pretrained(tmp_path / "model")
    base = MedTVTForCausalLM.from_pretrained(tmp_path / "model")
    get_peft_model(base, LoraConfig(target_modules=LORA_TARGETS)).save_pretrained(tmp_path / "adapter")
    assert MedTVTForCausalLM.from_pretrained(tmp_path / "adapter").provenance.stage == "pt"
    Provenance("sft", [ENTRY]).save_pretrained(tmp_path / "adapter")
    assert MedTVTForCausalLM.from_pretrained(tmp_path / "adapter").provenance.stage == "sft"


@pytest.mark.parametrize(
    "content",
    [b"{", b"[]", b"\xff", b"[" * 100_000, b'{"stage": "rlhf"}', b'{"training_data": [{"name": "x"}]}'],
    ids=range(6),
)
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / "provenance.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"provenance\.json: "):
        Provenance.from_pretrained(tmp_path)


def test_no_config_of_a_caller_is_changed(tokenizer, tmp_path):
    config = build_model(tokenizer).config
    config.cxr_hidden_size = config.cxr_sequence_length = None  # to be measured
    before = config.to_dict()
    with torch.device("meta"):  # where nothing can be computed
        model = MedTVTForCausalLM(config)
    assert config.to_dict() == before
    assert (model.config.cxr_sequence_length, model.config.cxr_hidden_size) == (49, 160)
    assert model.config is model.model.config
    config = MedTVTConfig(**build_model(tokenizer).config.to_dict())
    config.auto_map = {"AutoModel": "modeling_medtvt.MedTVTModel"}
    model = MedTVTForCausalLM(config)
    model.save_pretrained(tmp_path)
    assert model.config is config and model.config.auto_map == {"AutoModel": "modeling_medtvt.MedTVTModel"}
    assert "auto_map" not in json.loads((tmp_path / "config.json").read_text())


@pytest.mark.parametrize("part", ["top", "base"])
def test_encoders_are_found_by_modality(model, part):
    top = model if part == "top" else model.model
    assert top.get_encoder("image") is model.model.cxr_encoder
    assert top.get_encoder("ecg") is model.model.ecg_encoder and top.get_encoder("lab") is model.model.lab_encoder
    encoder = model.model.lab_encoder
    top.set_encoder(torch.nn.Identity(), "lab")
    assert isinstance(model.model.lab_encoder, torch.nn.Identity)
    top.set_encoder(encoder, "lab")
    with pytest.raises(ValueError, match="smell"):
        top.get_encoder("smell")
