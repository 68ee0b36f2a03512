# SPDX-License-Identifier: Apache-2.0
import json
import os
import subprocess
import sys

import pytest
import torch
from peft import AutoPeftModelForCausalLM, LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoProcessor, pipeline

from modeling_medtvt import MedTVTForCausalLM, export_for_hub

from tests.toy import SUBSETS, assert_close, build_inputs


ANYWHERE = """
import sys, torch
from transformers import (
    AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForMultimodalLM, AutoProcessor,
    pipeline,
)
{imports}
folder, kwargs = {folder!r}, {kwargs!r}
assert AutoConfig.from_pretrained(folder, **kwargs).model_type == "medtvt"
processor = AutoProcessor.from_pretrained(folder, **kwargs)
assert type(processor).__name__ == "MedTVTProcessor"
assert type(processor.image_processor).__name__ == "MedTVTImageProcessor"
features = processor(text="Labs <lab>?", lab={{"Creatinine": 4.0}}, return_tensors="pt")
expected = torch.load({expected!r}, weights_only=True)
for auto in (AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForMultimodalLM):
    model = auto.from_pretrained(folder, **kwargs)
    assert type(model).__name__ == "MedTVTForCausalLM"
    with torch.no_grad():
        torch.testing.assert_close(model(**features).logits, expected, atol=1e-4, rtol=0)
assert type(AutoModel.from_pretrained(folder, **kwargs)).__name__ == "MedTVTModel"
diagnose = pipeline("medical-diagnosis", model=folder, **kwargs)
result = diagnose(lab={{"Creatinine": 4.0}}, max_new_tokens=4)
diagnose.save_pretrained("again")
again = pipeline("medical-diagnosis", model="again", **kwargs)
repeated = again(lab={{"Creatinine": 4.0}}, max_new_tokens=4)
contribution, expected = (x.pop("contributions")["lab"] for x in (repeated, dict(result)))
assert abs(contribution - expected) < 1e-5 and repeated == {{k: v for k, v in result.items() if k != "contributions"}}
assert len(result["diseases"]) == 7 and result["contributions"]["lab"] is not None
ours = [name for name in sys.modules if name.split(".")[0] in ("modeling_medtvt", "processing_medtvt", "medtvt_training")]
assert bool(ours) == {installed}, ours
"""


def run(code, tmp_path, without_package):
    """In a fresh process; `-S` and a bare path keep our editable install out of it."""
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    if without_package:
        site = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
        environment["PYTHONPATH"] = os.pathsep.join(site)
    command = [sys.executable, *(["-S"] if without_package else []), "-c", code]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.fixture(scope="module")
def expected(checkpoint, tmp_path_factory):
    processor = AutoProcessor.from_pretrained(checkpoint)
    features = processor(text="Labs <lab>?", lab={"Creatinine": 4.0}, return_tensors="pt")
    path = tmp_path_factory.mktemp("expected") / "logits.pt"
    with torch.no_grad():
        torch.save(MedTVTForCausalLM.from_pretrained(checkpoint)(**features).logits, path)
    return str(path)


def test_plain_folder_loads_with_one_import(checkpoint, expected, tmp_path):
    code = ANYWHERE.format(
        imports="import modeling_medtvt", folder=str(checkpoint), kwargs={}, expected=expected, installed=True
    )
    run(code, tmp_path, without_package=False)


def test_exported_folder_loads_without_the_package(checkpoint, expected, tmp_path):
    folder = export_for_hub(checkpoint, tmp_path / "exported")
    code = ANYWHERE.format(
        imports="", folder=str(folder), kwargs={"trust_remote_code": True}, expected=expected, installed=False
    )
    run(code, tmp_path, without_package=True)


def test_exported_folder_holds_no_machine_paths_and_exports_again(checkpoint, tmp_path):
    first = export_for_hub(checkpoint, tmp_path / "first")
    second = export_for_hub(first, tmp_path / "second")
    names = sorted(path.name for path in first.iterdir())
    assert names == sorted(path.name for path in second.iterdir())
    assert {"modeling_medtvt.py", "pipeline_medtvt.py", "processing_medtvt.py", "model.safetensors"} <= set(names)
    assert not any(name.startswith(("convert_", "export_", "__")) for name in names)
    for file in first.glob("*.json*"):
        text = file.read_text()
        assert str(checkpoint) not in text and str(tmp_path) not in text and os.path.expanduser("~") not in text, file
    assert json.loads((first / "config.json").read_text()) == json.loads((second / "config.json").read_text())


def test_what_is_saved_of_an_exported_folder_is_plain(checkpoint, tmp_path):
    folder = export_for_hub(checkpoint, tmp_path / "exported")
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(tmp_path / "plain")
    AutoProcessor.from_pretrained(folder).save_pretrained(tmp_path / "plain")
    config = json.loads((tmp_path / "plain" / "config.json").read_text())
    assert "auto_map" not in config and "custom_pipelines" not in config
    assert pipeline("medical-diagnosis", model=str(tmp_path / "plain"))(question="?", max_new_tokens=2)


def test_export_refuses_to_overwrite_and_leaves_nothing_behind(checkpoint, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(FileExistsError, match="full"):
        export_for_hub(checkpoint, tmp_path / "full")
    with pytest.raises((OSError, ValueError), match="nothing"):
        export_for_hub(tmp_path / "nothing", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full"]


# Adapters


@pytest.fixture(scope="module")
def adapted(checkpoint, tmp_path_factory):
    """An adapter folder on the tiny model: LoRA on the language model, the perception layer trained in full."""
    base = MedTVTForCausalLM.from_pretrained(checkpoint)
    config = LoraConfig(
        target_modules=r".*language_model.*\.(q_proj|v_proj|down_proj)",
        modules_to_save=["perception", "lab_projector"],
        init_lora_weights=False,
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(base, config).train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    inputs = build_inputs(base, SUBSETS)
    model(**inputs, labels=inputs["input_ids"]).loss.backward()
    optimizer.step()
    folder = tmp_path_factory.mktemp("adapter")
    model.save_pretrained(folder)
    with torch.no_grad():
        return folder, model.eval()(**inputs).logits, inputs, model


@torch.no_grad()
def test_adapter_loads_through_every_route(adapted, checkpoint):
    folder, expected, inputs, _ = adapted
    for model in (
        AutoPeftModelForCausalLM.from_pretrained(folder),
        AutoModelForCausalLM.from_pretrained(folder),
        PeftModel.from_pretrained(MedTVTForCausalLM.from_pretrained(checkpoint), folder),
    ):
        assert_close(model.eval()(**inputs).logits, expected)


@torch.no_grad()
def test_merged_folder_differs_below_1e_5(adapted, tmp_path):
    folder, expected, inputs, _ = adapted
    AutoPeftModelForCausalLM.from_pretrained(folder).merge_and_unload().save_pretrained(tmp_path)
    assert (MedTVTForCausalLM.from_pretrained(tmp_path)(**inputs).logits - expected).abs().max() < 1e-5


def test_adapter_generates_with_modalities(adapted):
    _, _, inputs, model = adapted
    tokens = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    assert tokens.shape[1] <= inputs["input_ids"].shape[1] + 4
