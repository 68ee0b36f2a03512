# SPDX-License-Identifier: Apache-2.0
import base64
import json
import re
import shutil

import pandas as pd
import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoProcessor, AutoTokenizer, pipeline

from medtvt_training import cli
from medtvt_training.inference.load import load_pipeline
from modeling_medtvt import Provenance, export_for_hub
from modeling_medtvt.convert_medtvt_weights_to_hf import convert_checkpoint

from . import parity
from .parity import make_hollow_state_dict, make_state_dict, save_pt, save_rft


EXPECTED_NAMES = [
    *("s1.logits", "s1.loss", "s1.loss_clean", "s1.loss_single"),
    *("s3.ecg_encoder_out", "s3.vit_tokens_sample", "s3.vit_token_l2", "s3.vit_token_mean", "s3.lab_encoder_out"),
    *("s3.ecg_pooled", "s3.cxr_pooled_normalized", "s3.forward_ecg", "s3.forward_image", "s3.forward_lab"),
    *("s3.cmha_ecg", "s3.cmha_cxr", "s3.cmha_lab", "s3.gate_scores", "s3.mpl_ecg", "s3.mpl_cxr", "s3.mpl_lab"),
    *("s3.inputs_embeds", "s3.hidden_1", "s3.hidden_2", "s3.final_norm", "s3.logits", "s3.loss", "s3.loss_clean"),
    *("s3.generated_ids", "s3.generated_lengths"),
]
VIT_POSITIONS = [0, 1, 2, 13, 14, 15, 98, 99, 182, 195, 196]
TIGHT = ("s3.inputs_embeds", "s3.mpl_", "s3.cmha_", "s3.gate_scores", "s3.forward_")


def assert_within_tolerance(name, actual, expected):
    """The README's tolerances."""
    assert actual.shape == expected.shape
    if not expected.is_floating_point():
        assert torch.equal(actual, expected)
    elif ".loss" in name:
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)
    elif name.startswith(TIGHT):
        torch.testing.assert_close(actual, expected, atol=2e-5, rtol=0)
    else:
        torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """The authors' files beside a checkpoint."""
    params = tmp_path_factory.mktemp("files") / "params.json"
    params.write_text(json.dumps(json.loads((parity.FOLDER / "config.json").read_text())["params_json"]))
    return {
        "params": params,
        "tokenizer": parity.FOLDER / "tokenizer" / "tokenizer.model",
        "lab_means": parity.FOLDER / "preprocessing" / "lab" / "labs_means.json",
    }


@pytest.fixture(scope="session")
def state_dict():
    """The authors' stage 3 state dict, rebuilt from the fill rule."""
    return make_state_dict(3)


@pytest.fixture(scope="session")
def checkpoints(state_dict, tmp_path_factory):
    """Their three kinds of file. A stage 1 tensor is the stage 3 tensor of its name."""
    folder = tmp_path_factory.mktemp("checkpoints")
    stage_1 = {entry["name"]: state_dict[entry["name"]] for entry in parity.read_spec(1)}
    yield {
        "pt": save_pt(stage_1, folder / "checkpoint_19.pth"),
        "sft": save_pt(state_dict, folder / "checkpoint_39.pth"),
        "rft": save_rft(state_dict, folder / "pytorch_model.bin"),
    }
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def converted(checkpoints, files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("converted")
    for kind, checkpoint in checkpoints.items():
        convert_checkpoint(checkpoint, **files, output_dir=folder / kind)
    convert_checkpoint(checkpoints["sft"], **files, output_dir=folder / "lora", keep_lora=True)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def sft_model(converted):
    return AutoModelForCausalLM.from_pretrained(converted / "sft")


@pytest.fixture(scope="session")
def processor(converted):
    return AutoProcessor.from_pretrained(converted / "sft")


@pytest.fixture(scope="session")
def inputs():
    return load_file(parity.FOLDER / "inputs.safetensors")


@pytest.fixture(scope="session")
def expected():
    return load_file(parity.FOLDER / "expected.safetensors")


def modalities(inputs):
    return {"ecg_values": inputs["ecg"], "pixel_values": inputs["cxr"], "lab_values": inputs["lab"]}


def capture(model, stage_3_inputs):
    """Runs the model and keeps what its parts take and give."""
    base, seen = model.model, {}

    def keep_output(name):
        return lambda module, args, output: seen.__setitem__(name, output)

    def keep_input(name):
        return lambda module, args: seen.__setitem__(name, args[0])

    hooks = [
        base.language_model.register_forward_pre_hook(
            lambda module, args, kwargs: seen.__setitem__("inputs_embeds", kwargs["inputs_embeds"]), with_kwargs=True
        ),
        base.ecg_projector.linear.register_forward_pre_hook(keep_input("ecg_pooled")),
        base.cxr_projector.linear.register_forward_pre_hook(keep_input("cxr_pooled_normalized")),
        base.ecg_projector.register_forward_hook(keep_output("forward_ecg")),
        base.cxr_projector.register_forward_hook(keep_output("forward_image")),
        base.lab_projector.register_forward_hook(keep_output("forward_lab")),
        base.perception.layer_norm.register_forward_hook(keep_output("cmha")),
        *(base.language_model.layers[i].register_forward_hook(keep_output(f"hidden_{i + 1}")) for i in range(2)),
    ]
    with torch.no_grad():
        outputs = model(**stage_3_inputs, output_hidden_states=True)
    for hook in hooks:
        hook.remove()
    return seen, outputs


@pytest.fixture(scope="session")
def stage_3(sft_model, inputs):
    """Every `s3.*` tensor as our model gives it, under the fixture's names."""
    seen, outputs = capture(
        sft_model, {"input_ids": inputs["input_ids"], **modalities(inputs), "labels": inputs["labels_hf"]}
    )
    with torch.no_grad():
        features = {
            "ecg_features": sft_model.get_ecg_features(inputs["ecg"]),
            "cxr_features": sft_model.get_cxr_features(inputs["cxr"]),
            "lab_features": sft_model.get_lab_features(inputs["lab"]),
        }
        vit_tokens = features["cxr_features"]
        embeds = sft_model.get_modality_embeds(inputs["input_ids"], **features).embeds
        clean = sft_model(inputs["input_ids"], labels=inputs["labels_hf_clean"], modality_embeds=embeds)
        actual = {
            **{name: value for name, value in seen.items() if name != "cmha"},
            "ecg_encoder_out": features["ecg_features"].transpose(1, 2),
            "vit_tokens_sample": vit_tokens[:, VIT_POSITIONS],
            "vit_token_l2": vit_tokens.norm(dim=-1),
            "vit_token_mean": vit_tokens.mean(dim=-1),
            "lab_encoder_out": features["lab_features"][:, 0],
            # the authors' order is CXR, ECG, LAB
            "gate_scores": outputs.gates[..., [1, 0, 2]],
            **{f"cmha_{modality}": seen["cmha"][:, i] for i, modality in enumerate(("ecg", "cxr", "lab"))},
            **{f"mpl_{modality}": embeds[:, i] for i, modality in enumerate(("ecg", "cxr", "lab"))},
            "final_norm": outputs.hidden_states[-1],
            "logits": outputs.logits[:, :-1],
            "loss": outputs.loss.reshape(1),
            "loss_clean": clean.loss.reshape(1),
            **generate_greedily(sft_model, inputs),
        }
    return {f"s3.{name}": value for name, value in actual.items()}


def generate_greedily(model, inputs):
    """The fixture pads prompts on the right and results with -1; transformers wants the padding on the left."""
    prompts, lengths = inputs["gen.prompt_ids"], inputs["gen.prompt_lengths"]
    width = prompts.shape[1]
    ids = torch.stack([row.roll(width - length.item()) for row, length in zip(prompts, lengths)])
    mask = torch.arange(width) >= width - lengths[:, None]
    generated = model.generate(
        input_ids=ids, attention_mask=mask.long(), **modalities(inputs), do_sample=False, max_new_tokens=32
    )[:, width:]
    is_stop = torch.isin(generated, torch.tensor(model.generation_config.eos_token_id)).cumsum(1) > 0
    return {
        "generated_ids": generated.masked_fill(is_stop, -1),
        "generated_lengths": (~is_stop).sum(1),
    }


@pytest.fixture(scope="session")
def stage_1(converted, inputs):
    """Every `s1.*` tensor: three rows with one modality each, whose absent modalities are zero."""
    model = AutoModelForCausalLM.from_pretrained(converted / "pt")
    values = {name: torch.zeros(3, *value.shape[1:]) for name, value in modalities(inputs).items()}
    for row, (name, value) in enumerate(modalities(inputs).items()):
        values[name][row] = value[0]
    batch = {"input_ids": inputs["s1.input_ids"], **values}
    with torch.no_grad():
        outputs = model(**batch, labels=inputs["s1.labels_hf"])
        loss_clean = model(**batch, labels=inputs["s1.labels_hf_clean"]).loss
        single = [
            model(
                input_ids=batch["input_ids"][row, None],
                **{name: value[row, None]},
                labels=inputs["s1.labels_hf"][row, None],
            ).loss
            for row, (name, value) in enumerate(values.items())
        ]
    return {
        "s1.logits": outputs.logits[:, :-1],
        "s1.loss": outputs.loss.reshape(1),
        "s1.loss_clean": loss_clean.reshape(1),
        "s1.loss_single": torch.stack(single),
    }


# Numbers


def test_every_expected_tensor_is_compared(expected):
    assert sorted(EXPECTED_NAMES) == sorted(expected)


@pytest.mark.parametrize("name", EXPECTED_NAMES)
def test_model_gives_the_authors_numbers(name, stage_1, stage_3, expected):
    actual = {**stage_1, **stage_3}[name]
    assert_within_tolerance(name, actual, expected[name])


def test_rft_and_sft_files_give_the_same_weights(converted):
    sft, rft = (load_file(converted / kind / "model.safetensors") for kind in ("sft", "rft"))
    assert sft.keys() == rft.keys()
    assert all(torch.equal(sft[name], rft[name]) for name in sft)


def test_stage_is_read_off_the_file(converted):
    configs = {kind: json.loads((converted / kind / "config.json").read_text()) for kind in ("pt", "sft", "rft")}
    for kind in configs:
        provenance = Provenance.from_pretrained(converted / kind)
        assert provenance.stage == kind and provenance.training_data[0]["access"] == "credentialed"
    assert [configs[kind]["use_perception"] for kind in ("pt", "sft", "rft")] == [False, True, True]


def test_base_model_opens_the_folder(converted, sft_model):
    base = AutoModel.from_pretrained(converted / "sft").state_dict()
    assert all(torch.equal(tensor, base[name]) for name, tensor in sft_model.model.state_dict().items())


def test_config_follows_the_tensors_and_not_params(sft_model):
    text_config = sft_model.config.text_config
    assert text_config.num_key_value_heads == 4  # params.json: 2
    assert text_config.rope_parameters == {"rope_type": "default", "rope_theta": 500000.0}  # params.json: scaled
    assert not sft_model.config.tie_word_embeddings and sft_model.config.fusion_scale == 0.01
    assert (text_config.bos_token_id, text_config.eos_token_id, text_config.pad_token_id) == (640, 641, 641)
    generation = sft_model.generation_config
    assert generation.eos_token_id == [641, 651] and (generation.bos_token_id, generation.pad_token_id) == (640, 641)
    assert (generation.do_sample, generation.temperature, generation.top_p) == (True, 0.6, 0.9)
    assert generation.max_new_tokens == 600


def test_grouped_query_attention_is_read_off_wk(state_dict, files, tmp_path):
    """No file of the authors has it, but the shapes decide."""
    grouped = re.compile(r".*\.(wk|wv|lora_wk_l2|lora_wv_l2)\.weight")
    changed = {name: tensor[:32].clone() if grouped.match(name) else tensor for name, tensor in state_dict.items()}
    convert_checkpoint(save_rft(changed, tmp_path / "gqa.bin"), **files, output_dir=tmp_path / "out")
    config = AutoConfig.from_pretrained(tmp_path / "out")
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert config.text_config.num_key_value_heads == 2
    assert weights["model.language_model.layers.0.self_attn.k_proj.weight"].shape == (32, 64)


# LoRA kept


def test_kept_lora_gives_the_same_logits(converted, inputs, expected):
    batch = {"input_ids": inputs["input_ids"], **modalities(inputs)}
    base = AutoModelForCausalLM.from_pretrained(converted / "lora" / "base")
    with torch.no_grad():
        unadapted = base(**batch).logits[:, :-1]
        adapted = PeftModel.from_pretrained(base, converted / "lora")
        logits = adapted(**batch).logits[:, :-1]
    assert (unadapted - expected["s3.logits"]).abs().max() > 1
    assert_within_tolerance("s3.logits", logits, expected["s3.logits"])
    assert adapted.peft_config["default"].r == adapted.peft_config["default"].lora_alpha == 16
    assert {name.split(".lora_")[0].split(".")[-1] for name, _ in adapted.named_parameters() if ".lora_" in name} == {
        *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    }
    assert not any("cxr_encoder" in name for name, _ in adapted.named_parameters() if ".lora_" in name)


def test_kept_lora_opens_by_its_own_folder_and_merges(converted, sft_model):
    adapted = AutoPeftModelForCausalLM.from_pretrained(converted / "lora")
    merged = adapted.merge_and_unload().state_dict()
    for name, tensor in sft_model.state_dict().items():
        torch.testing.assert_close(merged[name], tensor, atol=1e-6, rtol=1e-6)


def test_a_folder_with_kept_lora_is_never_opened_without_it(converted, inputs, expected, tmp_path):
    batch = {"input_ids": inputs["input_ids"], **modalities(inputs)}
    for model in (
        AutoModelForCausalLM.from_pretrained(converted / "lora"),
        pipeline("medical-diagnosis", model=str(converted / "lora")).model,
        load_pipeline(converted / "lora").model,
    ):
        with torch.no_grad():
            assert_within_tolerance("s3.logits", model(**batch).logits[:, :-1], expected["s3.logits"])
    with pytest.raises(ValueError, match="holds an adapter. Merge it first"):
        export_for_hub(converted / "lora", tmp_path / "out")


# Processor


@pytest.fixture(scope="session")
def preprocessing():
    return load_file(parity.FOLDER / "preprocessing" / "expected.safetensors")


@pytest.mark.parametrize("name", ["rec_clean", "rec_nan"])
def test_ecg_is_preprocessed_as_by_the_authors(processor, preprocessing, name):
    values = processor(ecg=parity.FOLDER / "preprocessing" / "ecg" / name, return_tensors="pt")["ecg_values"][0]
    torch.testing.assert_close(values, preprocessing[f"ecg.{name}"], atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["cxr_gray", "cxr_rgb", "cxr_odd"])
@pytest.mark.parametrize("opened", [False, True])
def test_cxr_is_preprocessed_as_by_the_authors(processor, preprocessing, name, opened):
    path = parity.FOLDER / "preprocessing" / "cxr" / f"{name}.png"
    cxr = Image.open(path) if opened else path
    values = processor(cxr=cxr, return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(values, preprocessing[f"cxr.{name}"], atol=1e-6, rtol=0)


def test_labs_are_preprocessed_as_by_the_authors(processor, preprocessing):
    table = pd.read_csv(parity.FOLDER / "preprocessing" / "lab" / "labs.csv")
    values = processor(lab=table, return_tensors="pt")["lab_values"]
    for row in range(3):
        single = processor(lab=table.iloc[row], return_tensors="pt")["lab_values"][0]
        for found in (values[row], single):
            torch.testing.assert_close(found, preprocessing[f"lab.row{row}"], atol=1e-7, rtol=0)


def test_files_and_text_become_the_authors_inputs(processor, inputs):
    """The whole way: a conversation with files to the tensors the authors' dataset class makes."""
    folder = parity.FOLDER / "preprocessing"
    texts = json.loads((parity.FOLDER / "config.json").read_text())["texts"]["stage3"]
    table = pd.read_csv(folder / "lab" / "labs.csv")
    for row, (ecg, cxr) in enumerate((("rec_clean", "cxr_gray.png"), ("rec_nan", "cxr_rgb.png"))):
        files = {"ecg": folder / "ecg" / ecg, "cxr": folder / "cxr" / cxr, "lab": table.iloc[row]}
        prompt = [{"role": "user", "content": texts[row]["question"]}]
        answer = [{"role": "assistant", "content": texts[row]["answer"]}]
        text = processor.apply_chat_template(prompt + answer)
        features = processor(text=text, **files, add_special_tokens=False, return_tensors="pt")
        length = inputs["lengths"][row].item()
        ids = features["input_ids"][0]
        # the fixture cuts at its max_words
        assert torch.equal(ids[:length], inputs["input_ids"][row, :length])
        assert ids[-1] == processor.tokenizer.eos_token_id and (length < 112) == (len(ids) == length)
        prompt_ids = processor(text=processor.apply_chat_template(prompt), **files, add_special_tokens=False)[
            "input_ids"
        ]
        prompt_length = inputs["gen.prompt_lengths"][row].item()
        assert prompt_ids[0] == inputs["gen.prompt_ids"][row, :prompt_length].tolist()
        for name, value in modalities(inputs).items():
            torch.testing.assert_close(features[name][0], value[row], atol=1e-6, rtol=0)


# Tokenizer


@pytest.fixture(scope="session")
def cases():
    return json.loads((parity.FOLDER / "tokenizer" / "cases.json").read_text())


def test_tokenizer_gives_the_authors_ids(converted, cases):
    tokenizer = AutoTokenizer.from_pretrained(converted / "sft")
    for case in cases["cases"]:
        ids = tokenizer(case["text"], add_special_tokens=False, split_special_tokens=True)["input_ids"]
        assert ids == case["ids_allowed_ecg_cxr_lab"]
        assert tokenizer(case["text"], split_special_tokens=True)["input_ids"] == [640, *ids]
        assert tokenizer.decode(ids) == case["text"]
        if "<|" not in case["text"]:
            assert tokenizer(case["text"], add_special_tokens=False)["input_ids"] == ids


def test_special_tokens_sit_at_the_authors_ids(converted, cases):
    tokenizer = AutoTokenizer.from_pretrained(converted / "sft")
    for token, token_id in cases["special_tokens"].items():
        assert tokenizer.convert_tokens_to_ids(token) == token_id
        assert tokenizer.convert_ids_to_tokens(token_id) == token
    assert len(tokenizer) == 894
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (640, 641, 641)
    assert tokenizer.padding_side == "left"
    # what a template writes is read back, and what ends an answer is not shown
    assert tokenizer("<|begin_of_text|>!<|end_of_text|>", add_special_tokens=False)["input_ids"] == [640, 0, 641]
    assert tokenizer.decode([640, 0, 651, 641], skip_special_tokens=True) == "!"


# Command line and output folder


def arguments(checkpoint, files, output_dir):
    paths = {"checkpoint": checkpoint, **files, "out": output_dir}
    return [text for name, path in paths.items() for text in (f"--{name.replace('_', '-')}", str(path))]


def test_command_line_lists_what_it_leaves_out(checkpoints, files, converted, tmp_path, capsys):
    assert cli.main(["convert", *arguments(checkpoints["pt"], files, tmp_path / "deep" / "out")]) == 0
    printed = capsys.readouterr().out
    assert "594 tensors" in printed
    for name in ("llama.layers.1.attention.gate", "vit_model.pooler.dense.bias", "ecg_encoder.7.2.convs.2.1.bias"):
        assert f"  {name}\n" in printed
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]
    for path in (tmp_path / "deep" / "out").iterdir():
        assert path.read_bytes() == (converted / "pt" / path.name).read_bytes()


def test_command_line_ends_with_one_line_on_bad_input(files, tmp_path, capsys):
    assert cli.main(["convert", *arguments(tmp_path / "none.pth", files, tmp_path / "out")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_large_checkpoints_are_sharded(checkpoints, files, converted, tmp_path, monkeypatch):
    monkeypatch.setattr("modeling_medtvt.convert_medtvt_weights_to_hf.MAX_SHARD_SIZE", "40MB")
    convert_checkpoint(checkpoints["sft"], **files, output_dir=tmp_path / "out")
    shards = sorted(tmp_path.glob("out/model-*.safetensors"))
    assert len(shards) > 1 and (tmp_path / "out" / "model.safetensors.index.json").is_file()
    state_dict = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    reference = load_file(converted / "sft" / "model.safetensors")
    assert state_dict.keys() == reference.keys()
    assert all(torch.equal(tensor, reference[name]) for name, tensor in state_dict.items())


def test_half_precision_is_merged_in_float32(state_dict, files, tmp_path):
    """On a GPU the authors' frozen matrices are float16 beside float32 LoRA."""
    frozen = re.compile(r"llama\.(output|layers\..*\.w\w)\.weight")
    mixed = {name: tensor.half() if frozen.match(name) else tensor for name, tensor in state_dict.items()}
    convert_checkpoint(save_rft(mixed, tmp_path / "mixed.bin"), **files, output_dir=tmp_path / "out")
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32, torch.int64}
    w, a, b = (mixed[f"llama.layers.1.attention.{name}.weight"].float() for name in ("wo", "lora_wo_l1", "lora_wo_l2"))
    merged = weights["model.language_model.layers.1.self_attn.o_proj.weight"]
    torch.testing.assert_close(merged, w + b @ a, atol=1e-6, rtol=0)


# Bad input


@pytest.fixture(scope="module")
def hollow():
    return make_hollow_state_dict(3)


class Foreign:
    """Stands for whatever a pickle may bring along."""


def refuse(checkpoint, files, tmp_path, match, error=ValueError, **kwargs):
    before = sorted(tmp_path.iterdir())
    with pytest.raises(error, match=match):
        convert_checkpoint(checkpoint, **files, output_dir=tmp_path / "out", **kwargs)
    assert sorted(tmp_path.iterdir()) == before


def test_hollow_checkpoint_is_refused_for_nothing_but_its_faults(hollow, files, tmp_path):
    convert_checkpoint(save_pt(hollow, tmp_path / "file.pth"), **files, output_dir=tmp_path / "out")


def test_missing_files(hollow, files, tmp_path):
    checkpoint = save_pt(hollow, tmp_path / "file.pth")
    refuse(tmp_path / "none.pth", files, tmp_path, "Checkpoint .*none.pth: no such file", FileNotFoundError)
    for name in files:
        missing = {**files, name: tmp_path / "none"}
        refuse(checkpoint, missing, tmp_path, f"{tmp_path / 'none'}: no such file", FileNotFoundError)


def test_files_of_another_kind(checkpoints, tmp_path, files):
    (tmp_path / "text.pth").write_text("not a checkpoint")
    with open(checkpoints["sft"], "rb") as file:
        (tmp_path / "truncated.pth").write_bytes(file.read(3_000_000))
    shutil.make_archive(tmp_path / "archive", "zip", files["params"].parent)
    torch.save([torch.zeros(2)], tmp_path / "list.pth")
    torch.save({"model": {"weight": 1.0}}, tmp_path / "numbers.pth")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pth")
    refuse(tmp_path / "text.pth", files, tmp_path, "text.pth: not a complete file")
    refuse(tmp_path / "truncated.pth", files, tmp_path, "truncated.pth: not a complete file.*truncated")
    refuse(tmp_path / "archive.zip", files, tmp_path, "archive.zip: an archive, but not a readable one")
    refuse(tmp_path / "list.pth", files, tmp_path, "list.pth: holds no state dict")
    refuse(tmp_path / "numbers.pth", files, tmp_path, "numbers.pth: holds no state dict")
    refuse(tmp_path / "other.pth", files, tmp_path, "holds no tensor 'llama.tok_embeddings.weight'")


def test_foreign_classes_are_refused(hollow, files, tmp_path):
    torch.save({"model": hollow, "args": Foreign()}, tmp_path / "file.pth")
    refuse(tmp_path / "file.pth", files, tmp_path, "refused, it pickles .*Foreign.*runs code")


def test_names_that_do_not_fit(hollow, files, tmp_path):
    def refuse_changed(match, removed=None, added=None):
        changed = {name: tensor for name, tensor in hollow.items() if name != removed}
        changed.update({added: torch.zeros(2)} if added else {})
        refuse(save_rft(changed, tmp_path / "file.bin"), files, tmp_path, match)

    refuse_changed(r"lacks the tensor\(s\) lab_encoder.fc3.bias\.", removed="lab_encoder.fc3.bias")
    refuse_changed("lacks .*lora_w2_l1", removed="llama.layers.1.feed_forward.lora_w2_l1.weight")
    refuse_changed("lacks .*DynamicWeighting.gate.bias", removed="DynamicWeighting.gate.bias")
    refuse_changed(
        "beside all that is known, .* llama.layers.1.attention.wk.bias", added="llama.layers.1.attention.wk.bias"
    )
    # a second registration without the first is no duplicate
    refuse_changed("ecg_encoder.4.9.convs.0.0.weight", added="ecg_encoder.4.9.convs.0.0.weight")


@pytest.mark.parametrize(
    "name, shape, named",
    [
        ("llama.layers.0.attention.wq.weight", (64, 32), "llama.layers.0.attention.wq"),
        ("llama.layers.1.attention.wk.weight", (32, 64), "llama.layers.1.attention.wk"),
        ("llama.layers.0.attention.lora_wv_l2.weight", (64, 8), "llama.layers.0.attention.lora_wv_l2"),
        ("llama.output.weight", (895, 64), "llama.output"),
        # some sizes are read off these very tensors, so that it is their neighbours which do not fit
        ("lab_encoder.fc2.weight", (512, 256), "lab_encoder.fc2.bias"),
        ("vit_model.embeddings.position_embeddings", (1, 145, 768), "cxr_vit_agg.weight"),
        ("ecg_encoder.5.0.idpath.1.0.weight", (512, 128, 1), "ecg_encoder.5.0.idpath.1.0.weight"),
        ("cxr_vit_agg.weight", (1, 197), "cxr_vit_agg.weight"),
        ("DynamicWeighting.gate.weight", (3, 191), "DynamicWeighting.gate.weight"),
        ("DynamicWeighting.gate.weight", (6, 192), "DynamicWeighting.gate.weight"),
        ("DynamicWeighting.gate.bias", (2,), "DynamicWeighting.gate.bias"),
        ("CyclicCrossModalAttention.multihead_attention.in_proj_weight", (128, 64), "in_proj_weight"),
    ],
)
def test_shapes_that_contradict_each_other(hollow, files, tmp_path, name, shape, named):
    checkpoint = save_rft({**hollow, name: torch.zeros(()).expand(shape)}, tmp_path / "file.bin")
    refuse(checkpoint, files, tmp_path, f"contradict.*{named}")


def test_numbers_of_dimensions(hollow, files, tmp_path):
    changed = {**hollow, "lab_encoder.fc1.weight": torch.zeros(()).expand(256)}
    refuse(save_rft(changed, tmp_path / "file.bin"), files, tmp_path, r"fc1.weight' has the shape \(256,\); 2 dim")


def test_lora_of_several_ranks_is_no_adapter(hollow, files, tmp_path):
    layer = "llama.layers.1.feed_forward."
    shapes = {f"{layer}lora_w1_l1.weight": (8, 64), f"{layer}lora_w1_l2.weight": (256, 8)}
    hollow = {**hollow, **{name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}}
    checkpoint = save_rft(hollow, tmp_path / "file.bin")
    refuse(checkpoint, files, tmp_path, "contradict.*lora_w1_l1", keep_lora=True)


def test_params_that_do_not_fit(hollow, files, tmp_path):
    checkpoint = save_rft(hollow, tmp_path / "file.bin")
    params = json.loads(files["params"].read_text())

    def refuse_params(text, match):
        (tmp_path / "params.json").write_text(text)
        refuse(checkpoint, {**files, "params": tmp_path / "params.json"}, tmp_path, match)

    refuse_params("{", "params.json: not a JSON file")
    refuse_params("[]", "params.json: holds a list")
    refuse_params(json.dumps({**params, "n_heads": None}), "params.json: n_heads is None")
    refuse_params(json.dumps({**params, "n_layers": -1}), "params.json: n_layers is -1")
    refuse_params(json.dumps({**params, "vocab_size": 128256}), "vocab_size 128256.*896 rows")
    refuse_params(json.dumps({**params, "dim": 128}), "contradict")
    refuse_params(json.dumps({**params, "n_heads": 5}), "dim 64 is no multiple of n_heads 5")
    refuse_params(json.dumps({**params, "n_layers": 1}), "beside all that is known, .*llama.layers.1")
    refuse_params(json.dumps({**params, "n_layers": 3}), "lacks .*llama.layers.2")


def test_tokenizers_that_do_not_fit(hollow, files, tmp_path):
    checkpoint = save_rft(hollow, tmp_path / "file.bin")
    lines = files["tokenizer"].read_bytes().splitlines(keepends=True)

    def refuse_tokenizer(content, match):
        (tmp_path / "tokenizer.model").write_bytes(content)
        refuse(checkpoint, {**files, "tokenizer": tmp_path / "tokenizer.model"}, tmp_path, match)

    refuse_tokenizer(b"".join(lines[:-1]), "639 ranks, .* 896 rows, which needs 640")
    refuse_tokenizer(b"".join(lines) + base64.b64encode(b" another") + b" 640\n", "641 ranks, .* 896 rows")
    refuse_tokenizer(b"", "the ranks of its lines are not 0, 1, 2")
    refuse_tokenizer(b"".join(lines[1:]), "the ranks of its lines are not 0, 1, 2")
    refuse_tokenizer(b"\x00\x01 sentencepiece \xff\n", "line 1 is not a base64 token")
    refuse_tokenizer(b"".join(lines[:9]) + b"IQ== 0 0\n", "line 10 is not a base64 token")


def test_lab_means_that_do_not_fit(hollow, files, tmp_path):
    checkpoint = save_rft(hollow, tmp_path / "file.bin")
    means = json.loads(files["lab_means"].read_text())
    means.popitem()
    for text, match in (
        (json.dumps(means), "has 49 labs, .* takes 50"),
        ("{", "not a JSON file"),
        ("[]", "JSON object"),
    ):
        (tmp_path / "labs.json").write_text(text)
        refuse(checkpoint, {**files, "lab_means": tmp_path / "labs.json"}, tmp_path, match)


def test_pt_file_where_the_perception_layer_is_asked_for(files, tmp_path):
    checkpoint = save_pt(make_hollow_state_dict(1), tmp_path / "file.pth")
    refuse(checkpoint, files, tmp_path, "has no perception layer.*PT file", require_perception=True)


def test_output_folder_is_never_overwritten_and_never_half_written(hollow, files, tmp_path, monkeypatch):
    checkpoint = save_rft(hollow, tmp_path / "file.bin")
    with monkeypatch.context() as patch:
        patch.setattr("modeling_medtvt.convert_medtvt_weights_to_hf.save_file", lambda *args, **kwargs: 1 / 0)
        refuse(checkpoint, files, tmp_path, "division", ZeroDivisionError)
    (tmp_path / "out").mkdir()
    convert_checkpoint(checkpoint, **files, output_dir=tmp_path / "out")
    refuse(checkpoint, files, tmp_path, "out exists and is not an empty folder", FileExistsError)
