# SPDX-License-Identifier: Apache-2.0
import json
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoProcessor, pipeline

from modeling_medtvt import MedTVTConfig, MedTVTForCausalLM
from modeling_medtvt.checkpoint_folder import open_checkpoint, read_config
from modeling_medtvt.convert_medtvt_encoders import load_ecg_encoder, load_lab_encoder


@pytest.fixture
def folder(checkpoint, tmp_path):
    return shutil.copytree(checkpoint, tmp_path / "model")


def change(folder, file, **values):
    path = folder / file
    content = json.loads(path.read_text())
    for keys, value in values.items():
        *parents, last = keys.split("__")
        target = content
        for key in parents:
            target = target[key]
        target[last] = value
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "values",
    [
        {"text_config__num_attention_heads": 0},
        {"text_config__model_type": "nonesuch"},
        {"text_config__hidden_act": "nonesuch"},
        {"text_config__rope_parameters": [1]},
        {"text_config": [1, 2]},
        {"text_config": "llama"},
        {"cxr_config__hidden_act": 3},
        {"lab_config__num_labs": "fifty"},
        {"lab_config__num_labs": -1},
        {"lab_config__hidden_act": "nonesuch"},
        {"ecg_config__depths": [1, 0, 1, 1]},
        {"ecg_config__stage_sizes": 8},
        {"num_modality_tokens": 0},
        {"num_perception_heads": 0},
        {"ecg_token_id": None},
        {"training_data": {"access": "open"}},
        {"training_data": [{"stage": "pt"}]},
        {"model_type": None},
        {"model_type": {}},
        {"dtype": "float99"},
    ],
    ids=str,
)
def test_a_config_that_cannot_be_is_one_error(folder, values):
    change(folder, "config.json", **values)
    with pytest.raises(ValueError, match="model") as error:
        open_checkpoint(folder)
    assert str(folder) in str(error.value)


@pytest.mark.parametrize("file", ["config.json", "processor_config.json", "tokenizer.json", "model.safetensors"])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b"null"], ids=range(6))
def test_a_damaged_file_is_one_error(folder, file, content):
    (folder / file).write_bytes(content)
    with pytest.raises(ValueError, match="does not open as a MedTVT checkpoint") as error:
        open_checkpoint(folder)
    assert str(folder) in str(error.value)


@pytest.mark.parametrize("name", ["nope", "./nope", "/nope", "a/b/c", ""])
def test_a_folder_that_is_not_there_is_said_at_once(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for function in (open_checkpoint, read_config):
        with pytest.raises(ValueError, match="no folder"):
            function(name)


def test_a_config_names_what_is_wrong():
    with pytest.raises(ValueError, match="text_config.*no model type 'nonesuch'"):
        MedTVTConfig(text_config={"model_type": "nonesuch"})
    with pytest.raises(ValueError, match="cxr_config.*hidden_act.*'nonesuch'"):
        MedTVTConfig(cxr_config={"hidden_act": "nonesuch"})


@pytest.mark.parametrize("load", [load_ecg_encoder, load_lab_encoder])
@pytest.mark.parametrize(
    "content",
    [{1: torch.zeros(2)}, {"fc1.weight": "text"}, {"fc1.weight": torch.zeros(2)}, [], {}, {"a": {"b": 1}}],
    ids=str,
)
def test_encoder_files_that_hold_something_else(load, content, tmp_path):
    torch.save({"ecg_model": content, "state_dict": content}, tmp_path / "file.pt")
    with pytest.raises(ValueError, match="file.pt"):
        load(tmp_path / "file.pt")


def test_a_full_disk_leaves_nothing_of_an_export(checkpoint, tmp_path, monkeypatch):
    from safetensors import SafetensorError

    from modeling_medtvt import export_for_hub

    def full(*args, **kwargs):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(MedTVTForCausalLM, "save_pretrained", full)
    with pytest.raises(OSError, match="out.*No space left on device"):
        export_for_hub(checkpoint, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_transformers_own_loaders_say_it_too(folder):
    change(folder, "config.json", num_modality_tokens="one")
    for load in (AutoConfig.from_pretrained, MedTVTForCausalLM.from_pretrained):
        with pytest.raises(ValueError, match="'num_modality_tokens'") as error:
            load(folder)
        assert "\n" not in str(error.value)
    change(folder, "config.json", num_modality_tokens=1)
    (folder / "model.safetensors").write_bytes(b"nothing" * 20)
    with pytest.raises(ValueError, match=f"{folder}: a file of weights cannot be read"):
        MedTVTForCausalLM.from_pretrained(folder)


# Adapters


def keep(file, wanted):
    """Drops the tensors of a file whose names are not wanted."""
    tensors = load_file(file)
    kept = {name: tensor for name, tensor in tensors.items() if wanted(name)}
    assert 0 < len(kept) < len(tensors)
    save_file(kept, file, metadata={"format": "pt"})


@pytest.fixture
def adapter(folder, tmp_path):
    """A folder with an adapter on `folder`, and a processor."""
    config = LoraConfig(
        target_modules=r".*language_model.*\.q_proj",
        modules_to_save=["perception"],
        init_lora_weights=False,
        task_type="CAUSAL_LM",
    )
    get_peft_model(MedTVTForCausalLM.from_pretrained(folder), config).save_pretrained(tmp_path / "adapter")
    AutoProcessor.from_pretrained(folder).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_the_pipeline_opens_an_adapter_and_answers_with_it(folder, adapter):
    question = {"question": "What is it?", "max_new_tokens": 8}
    answers = []
    for name in (folder, adapter):
        diagnose = pipeline("medical-diagnosis", model=str(name))
        answers.append(diagnose(**question)["generated_text"])
    assert answers[0] != answers[1]


def test_an_adapter_or_its_model_that_lacks_tensors_is_refused(folder, adapter):
    whole = (folder / "model.safetensors").read_bytes()
    keep(folder / "model.safetensors", lambda name: "lab_projector" not in name)
    with pytest.raises(ValueError, match=f"{folder} lacks .* tensors .*lab_projector"):
        AutoModelForCausalLM.from_pretrained(adapter)
    (folder / "model.safetensors").write_bytes(whole)
    keep(adapter / "adapter_model.safetensors", lambda name: "layers.0.self_attn.q_proj.lora_A" not in name)
    with pytest.raises(ValueError, match="lacks 1 tensors .*lora_A"):
        AutoModelForCausalLM.from_pretrained(adapter)
