# SPDX-License-Identifier: Apache-2.0
import argparse
from collections import OrderedDict

import gguf
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    AutoProcessor,
    AutoTokenizer,
    Dinov2Config,
    Dinov2Model,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
)

from medtvt_training.cli import main
from medtvt_training.stages.initialize import init_from_parts, init_tiny
from modeling_medtvt import MedTVTEcgConfig, MedTVTEcgEncoder, MedTVTForCausalLM, MedTVTLabConfig, MedTVTLabEncoder

from tests.toy import assert_close


CHAT = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% endfor %}"


def fastai_names(encoder):
    """Our ECG encoder's tensors under the names of the fastai-style xresnet1d that ECGFM-KED saves."""
    names = {}
    for name, tensor in encoder.state_dict().items():
        part, rest = name.split(".", 1)
        if part == "stages":
            stage, block, kind, rest = rest.split(".", 3)
            path = f"{int(stage) + 4}.{block}"
            if kind == "shortcut":
                names[f"{path}.idpath.{int(stage != '0')}.{rest}"] = tensor
            else:
                names[f"{path}.convs.{rest}"] = names[f"{path}.convpath.0.{rest}"] = tensor
        else:
            names[rest] = tensor
    return names


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A decoder with its own chat format, a ViT classifier, an ECGFM-KED file and a Symile checkpoint, all small."""
    folder = tmp_path_factory.mktemp("parts")
    torch.manual_seed(0)
    alphabet = {symbol: i for i, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", chat_template=CHAT
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        tie_word_embeddings=True, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    LlamaForCausalLM(text).save_pretrained(folder / "text")
    tokenizer.save_pretrained(folder / "text")
    vit = ViTConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=96)
    ViTForImageClassification(vit).save_pretrained(folder / "cxr")
    ViTImageProcessorPil(size={"height": 96, "width": 96}, image_mean=[0.4] * 3, image_std=[0.3] * 3).save_pretrained(
        folder / "cxr"
    )
    ecg = MedTVTEcgEncoder(MedTVTEcgConfig(stem_sizes=(4, 4, 8), stage_sizes=(4, 8, 8, 12), depths=(1, 2, 2, 1)))
    for module in ecg.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.normal_()
    names = {f"module.{name}": tensor for name, tensor in fastai_names(ecg).items()}
    names["module.8.1.weight"] = torch.zeros(5, 768)  # a head
    torch.save({"ecg_model": names, "epoch": 3, "config": {"lr": 1e-4}}, folder / "ked.pt")
    lab = MedTVTLabEncoder(MedTVTLabConfig(intermediate_size=16, hidden_size=24))
    state = OrderedDict({f"labs_encoder.{name}": tensor for name, tensor in lab.state_dict().items()})
    state["cxr_encoder.weight"] = torch.zeros(3)
    torch.save({"state_dict": state, "hyper_parameters": argparse.Namespace(d=24)}, folder / "symile.ckpt")
    return folder, ecg, lab


@torch.no_grad()
def test_every_part_arrives(parts, tmp_path):
    folder, ecg, lab = parts
    out = init_from_parts(
        tmp_path / "out", folder / "text", folder / "cxr", folder / "ked.pt", folder / "symile.ckpt", 2
    )
    model, processor = MedTVTForCausalLM.from_pretrained(out), AutoProcessor.from_pretrained(out)
    inputs = build_inputs_for(model)
    ids = inputs["input_ids"][:, :5]
    llama = AutoModelForCausalLM.from_pretrained(folder / "text")
    assert_close(model(ids).logits[..., : llama.vocab_size], llama(ids).logits)
    assert model.lm_head.weight is model.get_input_embeddings().weight, "ties are kept"
    assert_close(model.get_ecg_features(inputs["ecg_values"]), ecg.eval()(inputs["ecg_values"])[0])
    assert_close(model.get_lab_features(inputs["lab_values"]), lab(inputs["lab_values"])[0])
    vit = ViTForImageClassification.from_pretrained(folder / "cxr").vit
    pixels = torch.randn(2, 3, 96, 96)
    assert_close(model.get_cxr_features(pixels), vit(pixels).last_hidden_state)
    assert list(processor.image_processor.image_mean) == [0.4] * 3 and processor.num_modality_tokens == 2
    assert processor.image_processor.size["height"] == 96
    conversation = [{"role": "user", "content": [{"type": "lab", "lab": {"Sodium": 140}}]}]
    assert processor.apply_chat_template(conversation) == "<|user|><lab>"
    features = processor(text="<lab> and <ecg>?", lab={"Sodium": 140}, ecg=torch.randn(12, 5000), sampling_rate=500,
                         leads=processor.ecg_feature_extractor.leads, unit="mV", return_tensors="pt")  # fmt: skip
    assert model.generate(**features, max_new_tokens=3).shape[1] == features["input_ids"].shape[1] + 3


def build_inputs_for(model):
    ids = torch.randint(3, 200, (2, 8), generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    return {
        "input_ids": ids,
        "ecg_values": torch.randn(2, 12, 1000, generator=generator),
        "lab_values": torch.rand(2, 2 * model.config.lab_config.num_labs, generator=generator),
    }


def test_command_says_what_is_random(parts, tmp_path, capsys):
    folder, *_ = parts
    assert main(["init", "--out", str(tmp_path / "out"), "--text", str(folder / "text"), "--ecg", str(folder / "ked.pt"),
                 "--cxr", str(folder / "cxr")]) == 0  # fmt: skip
    printed = capsys.readouterr().out
    assert "lab  random weights" in printed and str(folder / "ked.pt") in printed and "untrained" not in printed


def test_tiny_is_deterministic_and_its_seed_is_its_own(tmp_path):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    again = MedTVTForCausalLM.from_pretrained(init_tiny(tmp_path / "again"))
    assert torch.equal(torch.rand(3), expected)
    expected = MedTVTForCausalLM.from_pretrained(init_tiny(tmp_path / "first")).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in again.state_dict().items())


def write(path, content):
    torch.save(content, path)
    return path


@pytest.mark.parametrize(
    "part, content, match",
    [
        ("ecg", {"model": {}}, "has no 'ecg_model'"),
        ("ecg", {"ecg_model": {"conv.weight": torch.zeros(3)}}, "xresnet1d"),
        ("ecg", {"ecg_model": MedTVTLabConfig()}, "refused, it pickles"),
        ("lab", {"state_dict": {"ecg_encoder.w": torch.zeros(2)}}, r"no tensors labs_encoder\.\*"),
        ("lab", {"state_dict": {"labs_encoder.fc1.weight": torch.zeros(2)}}, "fc1.weight and fc2.weight"),
        ("lab", {"state_dict": {"labs_encoder.fc1.weight": torch.zeros(4, 100), "labs_encoder.fc2.weight": torch.zeros(6, 5)}},
         "does not fit MedTVTLabEncoder"),
        ("lab", None, "no such file"),
        ("text", None, "nowhere"),
        ("cxr", None, "nowhere"),
    ],
)  # fmt: skip
def test_bad_parts_get_one_line_and_leave_nothing(tmp_path, capsys, part, content, match):
    path = tmp_path / "part.pt"
    path = tmp_path / "nowhere" if content is None else write(path, content)
    before = sorted(tmp_path.iterdir())
    assert main(["init", "--out", str(tmp_path / "out"), f"--{part}", str(path)]) == 2
    import re

    assert re.search(match, capsys.readouterr().err)
    assert sorted(tmp_path.iterdir()) == before


def backbone(model_type, **kwargs):
    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
    if model_type == "gpt2":
        size = {"n_embd": 32, "n_layer": 1, "n_head": 4}
    config = CONFIG_MAPPING[model_type](vocab_size=256, bos_token_id=1, eos_token_id=2, **size, **kwargs)
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize(
    "model_type, kwargs, refused",
    [
        ("qwen3", {"head_dim": 8, "num_key_value_heads": 2}, None),
        ("mistral", {"num_key_value_heads": 2}, None),
        ("gpt2", {}, None),
        ("granite", {"logits_scaling": 8.0}, "more between its last hidden state"),
        ("phi", {}, "does not fit as a backbone"),
    ],
)
def test_a_backbone_says_what_it_said_or_is_refused(parts, tmp_path, model_type, kwargs, refused):
    folder, *_ = parts
    source = backbone(model_type, **kwargs)
    source.save_pretrained(tmp_path / "text")
    AutoTokenizer.from_pretrained(folder / "text").save_pretrained(tmp_path / "text")
    if refused:
        with pytest.raises(ValueError, match=refused):
            init_from_parts(tmp_path / "out", tmp_path / "text", ecg=folder / "ked.pt", lab=folder / "symile.ckpt")
        assert not (tmp_path / "out").exists()
        return
    init_from_parts(tmp_path / "out", tmp_path / "text", folder / "cxr", folder / "ked.pt", folder / "symile.ckpt")
    model = MedTVTForCausalLM.from_pretrained(tmp_path / "out")
    ids = torch.randint(3, 200, (2, 8))
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits[..., :256], source.eval()(ids).logits)
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == source.config.tie_word_embeddings
    assert model.generation_config.max_new_tokens == 600


def test_other_vits_are_measured_and_no_image_backbone_is_refused(parts, tmp_path):
    folder, *_ = parts
    torch.manual_seed(0)
    config = Dinov2Config(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=56, patch_size=14)
    Dinov2Model(config).save_pretrained(tmp_path / "dino")
    ViTImageProcessorPil().save_pretrained(tmp_path / "dino")
    out = init_from_parts(
        tmp_path / "out", folder / "text", tmp_path / "dino", folder / "ked.pt", folder / "symile.ckpt"
    )
    model = MedTVTForCausalLM.from_pretrained(out)
    assert (model.config.cxr_sequence_length, model.config.cxr_hidden_size) == (17, 32)
    with pytest.raises(ValueError, match="'llama' is no image backbone"):
        init_from_parts(tmp_path / "bad", cxr=folder / "text")


def test_tiny_takes_no_parts(tmp_path, capsys):
    assert main(["init", "--tiny", str(tmp_path / "out"), "--text", "x"]) == 2
    assert "--text" in capsys.readouterr().err


def write_gguf(path, model, vocabulary):
    """A Llama as llama.cpp's converter writes it: rotary halves interleaved, tokens of a byte-level BPE."""
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(len(vocabulary))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(vocabulary)
    writer.add_token_types(
        [gguf.TokenType.CONTROL if "|" in token[1:] else gguf.TokenType.NORMAL for token in vocabulary]
    )
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(vocabulary.index("<|s|>"))
    writer.add_eos_token_id(vocabulary.index("<|e|>"))
    names = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v"}
    names |= {"self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up"}
    names |= {"mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
    names |= {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    names |= {"model.layers.": "blk."}
    for name, tensor in model.state_dict().items():
        values = tensor.numpy()
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        for kind, heads in (("attn_q.", config.num_attention_heads), ("attn_k.", config.num_key_value_heads)):
            if kind in name:
                halves = values.reshape(heads, 2, -1, values.shape[1])
                values = halves.swapaxes(1, 2).reshape(values.shape)
        writer.add_tensor(name, values.copy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def gguf_folder(tmp_path_factory):
    """A folder with one small GGUF file, and the model that it was made from."""
    torch.manual_seed(0)
    vocabulary = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "ab", "<|s|>", "<|e|>"]
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=len(vocabulary), num_key_value_heads=2, max_position_embeddings=256, **sizes)
    folder, model = tmp_path_factory.mktemp("gguf"), LlamaForCausalLM(config)
    write_gguf(folder / "small.F32.gguf", model, vocabulary)
    return folder, model


@torch.no_grad()
def test_a_gguf_folder_becomes_the_language_model(gguf_folder, parts, tmp_path):
    folder, model = gguf_folder
    others = parts[0]
    init_from_parts(tmp_path / "model", str(folder), others / "cxr", others / "ked.pt", others / "symile.ckpt")
    ours = MedTVTForCausalLM.from_pretrained(tmp_path / "model")
    ids = torch.arange(20, 40)[None]
    assert_close(ours(input_ids=ids).logits[..., : model.config.vocab_size], model(ids).logits)
    tokenizer = AutoProcessor.from_pretrained(tmp_path / "model").tokenizer
    assert tokenizer.decode(tokenizer("xab <ecg>", add_special_tokens=False)["input_ids"]) == "xab <ecg>"


def test_a_gguf_folder_needs_its_extra_and_one_file(gguf_folder, tmp_path, monkeypatch, capsys):
    folder, _ = gguf_folder
    monkeypatch.setattr("medtvt_training.extras.missing_packages", lambda extra: ["gguf"])
    assert main(["init", "--text", str(folder), "--out", str(tmp_path / "model")]) == 2
    error = capsys.readouterr().err
    assert "needs the extra `gguf` (gguf not installed)" in error and error.count("\n") == 1
    (tmp_path / "two").mkdir()
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / "two" / name).write_bytes(b"")
    assert main(["init", "--text", str(tmp_path / "two"), "--out", str(tmp_path / "model")]) == 2
    assert "several .gguf files (a.gguf, b.gguf)" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


def test_the_gate_has_the_form_that_was_asked_for(tmp_path):
    main(["init", "--tiny", str(tmp_path / "model"), "--gate-form", "absent", "--num-modality-tokens", "2"])
    gate = MedTVTForCausalLM.from_pretrained(tmp_path / "model").model.perception
    assert gate.gate_form == "absent" and gate.absent_embeds.shape[:2] == (3, 2)


def test_a_model_without_perception_passes_on_what_was_projected(tmp_path, capsys):
    words = ["init", "--tiny", str(tmp_path / "model"), "--without-perception"]
    assert main([*words, "--gate-form", "absent"]) == 2 and "leave out --gate-form" in capsys.readouterr().err
    assert main(words) == 0
    model = MedTVTForCausalLM.from_pretrained(tmp_path / "model")
    assert not list(model.model.perception.parameters())
    features = torch.rand(2, 1, model.config.lab_config.hidden_size)
    modalities = model.get_modality_embeds(lab_features=features)
    assert modalities.gates is None
    assert_close(modalities.embeds[:, 2], model.model.lab_projector(features))
