# SPDX-License-Identifier: Apache-2.0
import base64
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import wfdb
from PIL import Image
from transformers import AutoFeatureExtractor, AutoProcessor, ViTImageProcessor
from transformers.models.auto.image_processing_auto import AutoImageProcessor  # a dummy elsewhere without torchvision

import modeling_medtvt  # noqa: F401  (registers the processor)
from medtvt_training.stages.initialize import default_processor
from processing_medtvt import (
    MedTVTEcgFeatureExtractor,
    MedTVTImageProcessor,
    MedTVTLabFeatureExtractor,
    MedTVTProcessor,
)

from tests.toy import FIXTURES, SUBSETS


LEADS = ["I", "II", "III", "aVR", "aVF", "aVL", "V1", "V2", "V3", "V4", "V5", "V6"]
LAB = {"Creatinine": 2.3, "Potassium": 5.9}
META = {"sampling_rate": 500, "leads": LEADS, "unit": "mV"}
PROMPT = "ECG <ecg>, CXR <cxr>, labs <lab>?"


@pytest.fixture(scope="module")
def processor(checkpoint):
    return AutoProcessor.from_pretrained(checkpoint)


@pytest.fixture(scope="module", params=[1, 3], ids=["k=1", "k=3"])
def either_processor(request, tokenizer):
    return default_processor(tokenizer, num_modality_tokens=request.param)


@pytest.fixture
def files(ecg_array, tmp_path):
    wfdb.wrsamp(
        "rec", 500, ["mV"] * 12, LEADS, p_signal=ecg_array.T, fmt=["16"] * 12, adc_gain=[1000] * 12,
        baseline=[0] * 12, write_dir=str(tmp_path),
    )  # fmt: skip
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (300, 240), dtype=np.uint8)).save(tmp_path / "chest.png")
    (tmp_path / "labs.csv").write_text("name,value,unit\nCreatinine,2.3,mg/dL\nPotassium,5.9,mEq/L\n")
    return {"ecg": str(tmp_path / "rec"), "cxr": str(tmp_path / "chest.png"), "lab": str(tmp_path / "labs.csv")}


def test_one_sample_from_files(either_processor, files):
    features = either_processor(text=PROMPT, **files, return_tensors="pt")
    k, ids = either_processor.num_modality_tokens, features["input_ids"][0].tolist()
    assert [ids.count(token_id) for token_id in either_processor.modality_token_ids] == [k, k, k]
    assert ids[0] == either_processor.tokenizer.bos_token_id
    shapes = {name: tuple(tensor.shape) for name, tensor in features.items()}
    assert shapes == {
        "input_ids": (1, len(ids)),
        "attention_mask": (1, len(ids)),
        "ecg_values": (1, 12, 1000),
        "pixel_values": (1, 3, 224, 224),
        "lab_values": (1, 100),
    }
    assert all(features[name].dtype == torch.float32 for name in ("ecg_values", "pixel_values", "lab_values"))


def test_kinds_of_the_same_input_agree(processor, files, ecg_array):
    from_files = processor(text=PROMPT, **files, return_tensors="np")
    image = Image.open(files["cxr"])
    table = pd.DataFrame([LAB])
    for ecg, cxr, lab in [
        (wfdb.rdrecord(files["ecg"]), image, LAB),
        ({"signal": ecg_array, **META}, np.asarray(image), table.iloc[0]),
        (
            {"signal": torch.tensor(ecg_array.T), **META},
            torch.tensor(np.asarray(image)),
            {"2160-0": 2.3, 50971: "5.9"},
        ),
    ]:
        other = processor(text=PROMPT, ecg=ecg, cxr=cxr, lab=lab, return_tensors="np")
        np.testing.assert_allclose(other["ecg_values"], from_files["ecg_values"], atol=1e-3)  # 1 uV steps in the file
        np.testing.assert_allclose(other["pixel_values"], from_files["pixel_values"], atol=1e-6)
        np.testing.assert_allclose(other["lab_values"], from_files["lab_values"], atol=1e-6)
    array = processor(ecg=ecg_array, **META, return_tensors="np")
    nested = processor(ecg=ecg_array.tolist(), **META, return_tensors="np")
    frame = processor(text="ECG <ecg>?", ecg=pd.DataFrame(ecg_array.T, columns=LEADS), **META, return_tensors="np")
    assert np.array_equal(nested["ecg_values"], array["ecg_values"])
    assert np.array_equal(frame["ecg_values"], array["ecg_values"])
    np.testing.assert_allclose(array["ecg_values"], from_files["ecg_values"], atol=1e-3)


def test_mixed_batch_equals_singles(either_processor, files):
    texts = [" ".join(["Question", *(f"<{m}>" for m in subset), "?" * (i + 1)]) for i, subset in enumerate(SUBSETS)]
    rows = {m: [files[m] if m in subset else None for subset in SUBSETS] for m in files}
    batch = either_processor(text=texts, **rows, return_tensors="pt", return_alterations=True)
    names = {"ecg": "ecg_values", "cxr": "pixel_values", "lab": "lab_values"}
    assert all(len(batch[name]) == len(SUBSETS) for name in names.values())
    for i, subset in enumerate(SUBSETS):
        given = {m: files[m] for m in subset}
        single = either_processor(text=texts[i], **given, return_tensors="pt", return_alterations=True)
        real = batch["attention_mask"][i].bool()
        assert torch.equal(batch["input_ids"][i][real], single["input_ids"][0])
        assert real[-1], "padding is on the left"
        for modality, name in names.items():
            expected = single[name][0] if modality in subset else torch.zeros_like(batch[name][i])
            assert torch.equal(batch[name][i], expected)
        assert batch["alterations"][i] == single["alterations"][0]
        assert {note.split(":")[0] for note in batch["alterations"][i]} <= set(subset)


def test_what_resizing_takes_away_is_reported(processor, tokenizer, files):
    notes = processor(cxr=files["cxr"], return_alterations=True)["alterations"][0]
    assert "cxr: 240 x 300 resized to 224 x 224, proportions changed" in notes
    cropping = default_processor(tokenizer)
    cropping.image_processor = MedTVTImageProcessor(size={"shortest_edge": 400}, do_center_crop=True)
    notes = cropping(cxr=files["cxr"], return_alterations=True)["alterations"][0]
    assert "cxr: the central crop keeps 25% of the picture" in notes


def test_the_image_processors_config_says_how_a_film_is_decoded(tokenizer, files, tmp_path):
    Image.open(files["cxr"]).resize((2000, 2000)).save(tmp_path / "large.jpg")
    reducing = default_processor(tokenizer)
    reducing.image_processor = MedTVTImageProcessor(min_decode_size=448)
    notes = reducing(cxr=tmp_path / "large.jpg", return_alterations=True)["alterations"][0]
    assert notes[0] == "cxr: 2000 x 2000 pixels decoded as 500 x 500"


@pytest.mark.parametrize("image_processor", [ViTImageProcessor(), MedTVTImageProcessor(do_convert_rgb=False)])
def test_grey_films_reach_a_processor_that_converts_nothing_as_rgb(image_processor, tokenizer, files):
    other = default_processor(tokenizer)
    other.image_processor = image_processor
    values, expected = other(cxr=files["cxr"])["pixel_values"], default_processor(tokenizer)(cxr=files["cxr"])
    np.testing.assert_allclose(values, expected["pixel_values"], atol=0.02)  # ViT's resize may be torchvision's


def test_typed_parts_equal_plain_text(processor, files):
    parts = [{"type": "text", "text": "ECG "}, {"type": "ecg", "ecg": files["ecg"], "cxr": None, "text": None}]
    parts += [
        {"type": "text", "text": ", CXR "},
        {"type": "cxr", "cxr": files["cxr"]},
        {"type": "text", "text": ", labs "},
    ]
    parts += [{"type": "lab", "lab": LAB}, {"type": "text", "text": "?"}]
    conversation = [{"role": "user", "content": parts}]
    assert processor.apply_chat_template(conversation, add_generation_prompt=True) == "<|begin_of_text|>" + PROMPT
    typed = processor.apply_chat_template(
        conversation, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    plain = processor(text=PROMPT, **files, return_tensors="pt")
    assert typed.keys() == plain.keys()
    assert all(torch.equal(typed[name], plain[name]) for name in plain)
    batch = processor.apply_chat_template(
        [conversation, [{"role": "user", "content": "No modality."}]],
        tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True,
    )  # fmt: skip
    assert torch.equal(batch["ecg_values"][0], plain["ecg_values"][0]) and not batch["ecg_values"][1].any()


@pytest.mark.parametrize("name", ["image", "path", "base64", "url"])
def test_pictures_are_the_x_ray_as_transformers_names_them(processor, files, name):
    expected = processor(text="CXR <cxr>?", cxr=files["cxr"], return_tensors="pt")
    content = Path(files["cxr"]).read_bytes()
    values = {"image": Image.open(files["cxr"]), "path": files["cxr"], "base64": base64.b64encode(content).decode()}
    values["url"] = f"data:image/png;base64,{values['base64']}"
    parts = [
        {"type": "text", "text": "CXR "},
        {"type": "image", name: values[name], "text": None},
        {"type": "text", "text": "?"},
    ]
    kwargs = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
    features = processor.apply_chat_template([{"role": "user", "content": parts}], **kwargs)
    assert torch.equal(features["pixel_values"], expected["pixel_values"])
    assert torch.equal(features["input_ids"], expected["input_ids"])


def test_images_stand_for_cxr(processor, files):
    image = Image.open(files["cxr"])
    expected = processor(text=["<cxr>", "none"], cxr=[files["cxr"], None], return_tensors="pt")
    for images in ([[image], []], [image, None]):
        features = processor(text=["<cxr>", "none"], images=images, return_tensors="pt")
        assert all(torch.equal(features[name], tensor) for name, tensor in expected.items())
    assert torch.equal(
        processor(text="<cxr>", images=image, return_tensors="pt")["pixel_values"], expected["pixel_values"][:1]
    )


def test_transformers_pipeline_for_pictures(processor, files):
    from transformers import pipeline

    pipe = pipeline("image-text-to-text", model=modeling_medtvt.DEFAULT_CHECKPOINT)
    chat = [{"role": "user", "content": [{"type": "image", "image": files["cxr"]}, {"type": "text", "text": "?"}]}]
    kwargs = {"generate_kwargs": {"max_new_tokens": 4, "do_sample": False}, "return_full_text": False}
    by_chat = pipe(text=chat, **kwargs)[0]["generated_text"]
    by_text = pipe(images=files["cxr"], text="<cxr>?", **kwargs)
    assert by_chat and by_text[0]["generated_text"] == by_chat


def test_a_table_of_patients_is_a_batch(processor):
    table = pd.DataFrame({"Creatinine": [2.3, 0.9], "Potassium": [5.9, None]})
    expected = processor(lab=[LAB, {"Creatinine": 0.9}], return_tensors="np")["lab_values"]
    np.testing.assert_array_equal(processor(lab=table, return_tensors="np")["lab_values"], expected)


def test_parts_of_a_saved_folder_open_alone(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    assert AutoFeatureExtractor.from_pretrained(tmp_path).to_dict() == processor.ecg_feature_extractor.to_dict()
    assert type(AutoImageProcessor.from_pretrained(tmp_path)) is type(processor.image_processor)
    assert AutoProcessor.from_pretrained(tmp_path).to_dict() == processor.to_dict()


def test_its_repr_fits_on_a_screen(processor):
    assert len(repr(processor)) < 400 and "MedTVTEcgFeatureExtractor" in repr(processor)


def test_plain_template_is_question_space_answer_end(processor):
    conversation = [
        {"role": "user", "content": [{"type": "text", "text": "What is <lab>?"}]},
        {"role": "assistant", "content": "<think>a</think><answer>Sepsis</answer>"},
    ]
    text = processor.apply_chat_template(conversation)
    assert text == "<|begin_of_text|>What is <lab>? <think>a</think><answer>Sepsis</answer><|end_of_text|>"


def test_assistant_mask_covers_the_answer_behind_expanded_placeholders(either_processor):
    answer = "<think>raised</think><answer>Sepsis</answer>"
    conversation = [
        {"role": "user", "content": [{"type": "lab", "lab": LAB}, {"type": "text", "text": " and?"}]},
        {"role": "assistant", "content": answer},
    ]
    features = either_processor.apply_chat_template(
        conversation, tokenize=True, return_dict=True, return_assistant_tokens_mask=True, return_tensors="pt"
    )
    ids, mask = features["input_ids"][0], torch.as_tensor(features["assistant_masks"])[0].bool()
    assert either_processor.tokenizer.decode(ids[mask]) == f" {answer}<|end_of_text|>"


def test_a_backbones_own_chat_format(tokenizer, files):
    template = (
        "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    processor = default_processor(tokenizer)
    processor.chat_template = {"default": template, "plain": processor.default_chat_template}
    conversation = [{"role": "user", "content": [{"type": "ecg", "ecg": files["ecg"]}, {"type": "text", "text": "?"}]}]
    assert processor.apply_chat_template(conversation, add_generation_prompt=True) == "[user]<ecg>?[assistant]"
    assert processor.apply_chat_template(conversation, chat_template="plain").endswith("<ecg>?")


def test_tags_are_text_and_placeholders_are_tokens(tokenizer):
    for tag in ("<think>", "</think>", "<answer>", "</answer>"):
        ids = tokenizer.encode(f"{tag}x", add_special_tokens=False)
        assert len(ids) > 1 and tokenizer.decode(ids, skip_special_tokens=True) == f"{tag}x"
    for placeholder in ("<ecg>", "<cxr>", "<lab>"):
        assert len(tokenizer.encode(placeholder, add_special_tokens=False)) == 1
        assert tokenizer.decode(tokenizer.encode(placeholder), skip_special_tokens=True) == ""


def test_round_trip_in_a_fresh_process(tokenizer, files, tmp_path):
    processor = MedTVTProcessor(
        MedTVTEcgFeatureExtractor(nan_policy="zero"),
        MedTVTImageProcessor(size={"shortest_edge": 400}, do_center_crop=True),
        MedTVTLabFeatureExtractor().fit(pd.DataFrame({"Creatinine": [1, 2, 3], "K": [4, 5, 6]}), allow_missing=True),
        tokenizer,
        num_modality_tokens=2,
        chat_template={"default": "{{ messages[0]['content'] }}", "plain": "x"},
    )
    processor.save_pretrained(tmp_path / "saved")
    expected = processor(text=PROMPT, **files, return_tensors="pt")
    torch.save(dict(expected), tmp_path / "expected.pt")
    code = f"""
import torch, modeling_medtvt
from transformers import AutoProcessor
processor = AutoProcessor.from_pretrained({str(tmp_path / "saved")!r})
features = processor(text={PROMPT!r}, **{files!r}, return_tensors="pt")
expected = torch.load({str(tmp_path / "expected.pt")!r}, weights_only=True)
assert expected.keys() == features.keys()
assert all(torch.equal(expected[name], features[name]) for name in expected)
assert processor.chat_template == {processor.chat_template!r}
assert type(processor).__module__.startswith("processing_medtvt")
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_keywords(processor, files):
    padded = processor(text=PROMPT, **files, padding="max_length", max_length=64, return_tensors="pt")
    assert padded["input_ids"].shape == (1, 64)
    nested = processor(
        text=PROMPT, **files, text_kwargs={"padding": "max_length", "max_length": 64}, return_tensors="pt"
    )
    assert torch.equal(nested["input_ids"], padded["input_ids"])
    cropped = processor(cxr=files["cxr"], images_kwargs={"size": {"height": 64, "width": 64}}, return_tensors="pt")
    assert cropped["pixel_values"].shape == (1, 3, 64, 64)
    assert processor(text="Text alone.", return_tensors="pt").keys() == {"input_ids", "attention_mask"}
    assert {"input_ids", "ecg_values", "pixel_values", "lab_values"} <= set(processor.model_input_names)


@pytest.mark.parametrize(
    "kwargs, error, match",
    [
        ({"text": "<ecg>"}, ValueError, "no `ecg` input but a <ecg> placeholder"),
        ({"text": "no placeholder", "lab": LAB}, ValueError, "an `lab` input but no <lab> placeholder"),
        ({"text": "<lab> <lab>", "lab": LAB}, ValueError, "has 2 <lab> placeholders"),
        ({"text": ["<lab>", "b"], "lab": LAB}, ValueError, "`lab` must be a list with one entry each"),
        ({"text": ["<lab>", "b"], "lab": [LAB]}, ValueError, "1 entries for 2 prompts"),
        ({"text": ["<lab>", "b"], "lab": [LAB, LAB]}, ValueError, "Prompt 1 has an `lab` input but no <lab>"),
        ({"text": ["<lab>", 3], "lab": [LAB, None]}, TypeError, "entry 1 is int"),
        ({"text": "a <lab>", "lab": LAB, "truncation": True, "max_length": 2}, ValueError, "cuts off the <lab>"),
        ({"text": "a", "padd": True}, TypeError, "padd"),
        ({"text": "a", "text_kwargs": {"padd": True}}, TypeError, r"text_kwargs\['padd'\]"),
        ({"text": "a", "images_kwargs": {"sise": 3}}, TypeError, r"images_kwargs\['sise'\]"),
        ({"text": "<cxr>", "images": 1, "cxr": 1}, ValueError, "as `cxr` or as `images`, not both"),
        ({"text": ["<cxr>", "<cxr>"], "images": [[1], [1, 2]]}, ValueError, "Prompt 1 has 2 `images`"),
        ({"text": "a", "audio": 1}, TypeError, r"Unknown keyword\(s\) audio"),
        ({"ecg": []}, ValueError, "Nothing to process"),
        ({"cxr": [None, None]}, ValueError, "Nothing to process"),
        ({}, ValueError, "Nothing to process"),
        ({"text": []}, ValueError, "Nothing to process"),
        ({"text": "<ecg>", "ecg": np.zeros((12, 5000))}, ValueError, "sampling_rate"),
        ({"text": "<lab>", "lab": {"Creatinin": 1}}, ValueError, "Creatinine"),
        ({"text": "<cxr>", "cxr": "missing.png"}, FileNotFoundError, "missing.png"),
    ],
)  # fmt: skip
def test_bad_input_gets_one_clear_error(processor, kwargs, error, match):
    with pytest.raises(error, match=match):
        processor(**kwargs)


@pytest.mark.parametrize(
    "content, match",
    [
        ([{"type": "video", "video": 1}], "Unknown content part 'video'"),
        ([{"type": "image", "image": 1}, {"type": "cxr", "cxr": 1}], "several `cxr` parts"),
        ([{"type": "lab", "lab": LAB}, {"type": "lab", "lab": LAB}], "several `lab` parts"),
        ([{"type": "lab", "lab": None}], "no `lab` input but a <lab>"),
    ],
)
def test_bad_conversations(processor, content, match):
    with pytest.raises(ValueError, match=match):
        processor.apply_chat_template([{"role": "user", "content": content}], tokenize=True, return_dict=True)


@pytest.mark.parametrize("conversation", [[], "hello"])
def test_what_is_no_conversation(processor, conversation):
    with pytest.raises(ValueError, match="list of messages"):
        processor.apply_chat_template(conversation)


def test_truncation_never_takes_the_answer_in_silence(processor):
    text = "<lab>? <think>potassium is raised</think><answer>Sepsis</answer>"
    full = processor(text=text, lab=LAB)
    with pytest.raises(ValueError, match="cuts off the answer block"):
        processor(text=text, lab=LAB, truncation=True, max_length=len(full["input_ids"][0]) - 3)


def test_tokenizer_without_placeholders_is_refused(tokenizer):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()))
    with pytest.raises(ValueError, match="no single token for <ecg>, <cxr>, <lab>"):
        default_processor(bare)


def test_from_real_files_to_text(checkpoint, processor):
    """A real ECG, X-ray and laboratory panel through processor and model."""
    model = modeling_medtvt.MedTVTForCausalLM.from_pretrained(checkpoint)
    rows = pd.read_csv(FIXTURES / "labs/mimic-iv-demo-tidy/10004733_27411876.csv")
    known = {itemid for lab in processor.lab_feature_extractor.labs for itemid in lab["itemids"]}
    rows = rows[rows["itemid"].isin(known)].sort_values("charttime").drop_duplicates("itemid")
    values = pd.to_numeric(rows["value"], errors="coerce")
    features = processor(
        text=PROMPT,
        ecg=FIXTURES / "ecg/ptbxl/records500/00000/00152_hr",
        cxr=FIXTURES / "cxr/nih/00000001_000.png",
        lab=dict(zip(rows["itemid"].tolist(), values.tolist())),
        return_tensors="pt",
        return_alterations=True,
    )
    alterations = features.pop("alterations")[0]
    assert "ecg: resampled from 500 Hz to 100 Hz" in alterations
    generated = model.generate(**features, max_new_tokens=8)
    assert generated.shape[1] > features["input_ids"].shape[1]
    assert isinstance(processor.batch_decode(generated)[0], str)
