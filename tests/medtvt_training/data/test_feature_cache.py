# SPDX-License-Identifier: Apache-2.0
import errno
import json
import os
import pickle
import shutil
from collections import Counter, namedtuple
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader
from transformers import AutoProcessor

from medtvt_training import FeatureCache, MedTVTDataCollator, load_medtvt_qa
from medtvt_training.data import feature_cache as features
from medtvt_training.stages.initialize import default_processor
from modeling_medtvt import MedTVTForCausalLM

from tests.toy import assert_close, build_model


INPUTS = {"ecg": "ecg_values", "cxr": "pixel_values", "lab": "lab_values"}


@pytest.fixture
def folder(toy, tmp_path):
    """A dataset folder that a test may change."""
    return Path(shutil.copytree(toy, tmp_path / "data"))


@pytest.fixture(scope="module")
def processor(tokenizer):
    return default_processor(tokenizer)


@pytest.fixture
def encoded(monkeypatch):
    """How many inputs each encoder has seen."""
    counts = Counter()
    for modality in INPUTS:
        name = f"get_{modality}_features"
        original = getattr(MedTVTForCausalLM, name)

        def count(self, values, original=original, modality=modality):
            counts[modality] += len(values)
            return original(self, values)

        monkeypatch.setattr(MedTVTForCausalLM, name, count)
    return counts


def build(cache, dataset, encoded=None, **kwargs):
    if encoded is not None:
        encoded.clear()
    return cache.build(dataset, progress=False, **kwargs)


def training_rows(folder, level="diagnosis"):
    return load_medtvt_qa(folder, level, "train")


def test_features_are_those_of_the_model(toy, tmp_path, model, processor):
    dataset = training_rows(toy)
    cache = FeatureCache(tmp_path / "cache", model, processor)
    assert build(cache, dataset)["id"][:] == dataset["id"][:]
    rows = dataset.to_list()
    raw = MedTVTDataCollator(processor)(rows)
    cached = MedTVTDataCollator(processor, cache)(rows)
    for modality, name in INPUTS.items():
        present = [i for i, row in enumerate(rows) if modality in row["modalities"]]
        with torch.no_grad():
            expected = getattr(model, f"get_{modality}_features")(raw[name][present])
        assert_close(cached[f"{modality}_features"][present], expected)
        absent = [i for i in range(len(rows)) if i not in present]
        assert absent and not cached[f"{modality}_features"][absent].any()
    assert set(cached) == {"input_ids", "attention_mask", "labels", "ecg_features", "cxr_features", "lab_features"}
    with torch.no_grad():
        torch.testing.assert_close(model(**cached).loss, model(**raw).loss)


def test_another_batch_size_gives_the_same_features(toy, tmp_path, model, processor):
    dataset = training_rows(toy)
    caches = [FeatureCache(tmp_path / name, model, processor) for name in ("one", "all")]
    build(caches[0], dataset, batch_size=1, num_workers=1)
    build(caches[1], dataset, batch_size=8)
    for row in dataset:
        for modality in row["modalities"]:
            torch.testing.assert_close(*(cache.get(row, modality) for cache in caches), atol=1e-5, rtol=1e-5)


def test_each_input_is_encoded_once(toy, tmp_path, model, processor, encoded):
    cache = FeatureCache(tmp_path / "cache", model, processor)
    build(cache, training_rows(toy, "physiology"), encoded)
    assert encoded == {"ecg": 5, "cxr": 5, "lab": 5}
    build(cache, training_rows(toy), encoded)  # other rows, the same inputs
    again = FeatureCache(tmp_path / "cache", model, processor)
    build(again, training_rows(toy), encoded)
    assert not encoded
    build(again, load_medtvt_qa(toy, "diagnosis", "test"), encoded)
    assert encoded == {"ecg": 5, "cxr": 5, "lab": 5}


def test_a_changed_file_is_noticed(folder, tmp_path, model, processor, encoded):
    cache = FeatureCache(tmp_path / "cache", model, processor)
    dataset = training_rows(folder)
    build(cache, dataset)
    before = {m: cache.get(dataset[0], m) for m in INPUTS}
    shutil.copy(folder / "cxr" / "2000.png", folder / "cxr" / "1000.png")
    signal = (folder / "ecg" / "1000.dat").read_bytes()
    (folder / "ecg" / "1000.dat").write_bytes(signal[::-1])  # of the same size
    os.utime(folder / "ecg" / "1000.dat", (1, 1))
    reader = pickle.loads(pickle.dumps(cache))
    with pytest.raises(ValueError, match="cxr of row diagnosis-1000 is not in the feature cache"):
        reader.get(dataset[0], "cxr")
    build(cache, dataset, encoded)
    assert encoded == {"ecg": 1, "cxr": 1}
    for modality in ("ecg", "cxr"):
        assert not reader.get(dataset[0], modality).equal(before[modality])  # a reader sees what another added
    changed = {**dataset[0], "lab": {**dataset[0]["lab"], "Creatinine": 9.0}}
    with pytest.raises(ValueError, match="lab of row"):
        cache.get(changed, "lab")


@pytest.mark.parametrize("change", ["encoder", "processor", "dtype"])
def test_a_changed_encoder_or_processor_is_noticed(toy, tmp_path, tokenizer, processor, encoded, change):
    model, dataset = build_model(tokenizer), training_rows(toy)
    build(FeatureCache(tmp_path / "cache", model, processor), dataset)
    arguments = {}
    if change == "encoder":
        with torch.no_grad():
            next(model.model.cxr_encoder.parameters()).view(-1)[0] += 1e-3
    elif change == "processor":
        processor = default_processor(tokenizer)
        processor.image_processor.image_mean = [0.4, 0.5, 0.5]
    else:
        arguments = {"dtype": "float16"}
    cache = FeatureCache(tmp_path / "cache", model, processor, **arguments)
    build(cache, dataset, encoded)
    assert encoded == ({"ecg": 5, "cxr": 5, "lab": 5} if change == "dtype" else {"cxr": 5})
    rows = [row for row in dataset.to_list() if "cxr" in row["modalities"]]
    with torch.no_grad():
        expected = model.get_cxr_features(MedTVTDataCollator(processor)(rows)["pixel_values"])
    tolerance = {"atol": 1e-2, "rtol": 1e-3} if change == "dtype" else {"atol": 0, "rtol": 0}
    torch.testing.assert_close(MedTVTDataCollator(processor, cache)(rows)["cxr_features"], expected, **tolerance)


def test_a_saved_and_loaded_model_finds_its_cache(toy, tmp_path, checkpoint, encoded):
    for _ in range(2):
        model = MedTVTForCausalLM.from_pretrained(checkpoint)
        processor = AutoProcessor.from_pretrained(checkpoint)
        build(FeatureCache(tmp_path / "cache", model, processor), training_rows(toy), encoded)
        model.save_pretrained(tmp_path / "saved")
        processor.save_pretrained(tmp_path / "saved")
        checkpoint = tmp_path / "saved"
    assert not encoded


class Killed(BaseException):
    pass


@pytest.mark.parametrize("after", ["data", "part of the data", "part of the index"])
def test_a_killed_build_goes_on(toy, tmp_path, model, processor, encoded, monkeypatch, after):
    dataset, write = training_rows(toy), features._append
    calls = []

    def kill(file, content):
        calls.append(file.name)
        if calls.count("features.bin") == 2 and (after != "part of the index" or file.name == "index.txt"):
            write(file, content[: len(content) // 2 + 3] if "part" in after else content)
            raise Killed
        write(file, content)

    monkeypatch.setattr(features, "_append", kill)
    with pytest.raises(Killed):
        build(FeatureCache(tmp_path / "cache", model, processor), dataset, batch_size=2)
    monkeypatch.setattr(features, "_append", write)
    cache = FeatureCache(tmp_path / "cache", model, processor)
    build(cache, dataset, encoded, batch_size=2)
    assert encoded["ecg"] == (2 if after == "part of the index" else 3)  # of five, two or three were complete
    whole = FeatureCache(tmp_path / "whole", model, processor)
    build(whole, dataset, batch_size=2)
    for row in dataset:
        for modality in row["modalities"]:
            torch.testing.assert_close(cache.get(row, modality), whole.get(row, modality), atol=1e-5, rtol=1e-5)


def test_unreadable_rows_are_listed_and_left_out(folder, tmp_path, model, processor, caplog):
    (folder / "ecg" / "1001.dat").unlink()
    (folder / "cxr" / "1000.png").write_bytes(b"no picture")
    dataset = training_rows(folder)
    cache = FeatureCache(tmp_path / "cache", model, processor)
    rejects_file = tmp_path / "rejects.jsonl"
    kept = build(cache, dataset, max_rejected=0.5, rejects_file=rejects_file)
    assert kept["id"][:] == [f"diagnosis-{i}" for i in range(1002, 1006)]
    rejects = {row["id"]: row for row in map(json.loads, rejects_file.read_text().splitlines())}
    assert rejects["diagnosis-1001"]["path"] == str(folder / "ecg" / "1001")
    assert "1001.dat is missing" in rejects["diagnosis-1001"]["reason"]
    assert "not an image" in rejects["diagnosis-1000"]["reason"]
    assert caplog.text.count("2 of 6 rows") == 1
    MedTVTDataCollator(processor, cache)(kept.to_list())
    with pytest.raises(ValueError, match="1 of 6 rows cannot be used"):  # a missing file ends it at once
        build(cache, dataset)
    with pytest.raises(ValueError, match="2 of 6 rows cannot be used"):
        build(cache, dataset, max_rejected=0.2)


def test_features_that_overflow_are_rejected(toy, tmp_path, tokenizer, processor):
    model, dataset = build_model(tokenizer), training_rows(toy)
    with torch.no_grad():
        model.model.lab_encoder.layer_norm.weight.fill_(1e6)
    cache = FeatureCache(tmp_path / "cache", model, processor, dtype="float16")
    kept = build(cache, dataset, max_rejected=0.9, rejects_file=tmp_path / "rejects.jsonl")
    assert kept["modalities"][:] == [["ecg", "cxr"]]
    assert "not finite in float16" in (tmp_path / "rejects.jsonl").read_text()


def test_a_full_disk(toy, tmp_path, model, processor, encoded, monkeypatch):
    dataset, cache = training_rows(toy), FeatureCache(tmp_path / "cache", model, processor)
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda path: namedtuple("usage", "free")(1000))
        with pytest.raises(OSError, match=r"needs 0\.00 GB for 15 new entries, the disk has 0\.00 GB left"):
            build(cache, dataset, encoded)
    assert not encoded

    def fail(file, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(features, "_append", fail)
        with pytest.raises(OSError, match="No space left on device while writing features.*goes on from there"):
            build(cache, dataset)
    build(cache, dataset, encoded)
    assert encoded == {"ecg": 5, "cxr": 5, "lab": 5}


def damage_index(store):
    lines = (store / "index.txt").read_bytes()
    (store / "index.txt").write_bytes(b"?" + lines[1:])


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda store: os.truncate(store / "features.bin", 100), "features.bin has 100 bytes"),
        (lambda store: (store / "features.bin").unlink(), "features.bin has 0 bytes"),
        (lambda store: (store / "cache.json").unlink(), "cache.json is missing"),
        (lambda store: (store / "cache.json").write_text("{"), "cache.json is no JSON"),
        (lambda store: (store / "cache.json").write_text("{}"), "cache.json does not belong"),
        (damage_index, "index.txt holds something else"),
    ],
)  # fmt: skip
def test_a_damaged_cache(toy, tmp_path, model, processor, damage, message):
    build(FeatureCache(tmp_path / "cache", model, processor), training_rows(toy))
    damage(next((tmp_path / "cache").glob("cxr-*")))
    with pytest.raises(ValueError, match=f"cxr-.* is damaged: {message}.*Delete the folder"):
        FeatureCache(tmp_path / "cache", model, processor)


def test_a_foreign_folder(toy, tmp_path, model, processor):
    with pytest.raises(ValueError, match="is no feature cache: it holds cxr, diagnosis, ecg"):
        FeatureCache(toy, model, processor)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file"):
        FeatureCache(tmp_path / "file", model, processor)
    with pytest.raises(ValueError, match="`dtype` must be"):
        FeatureCache(tmp_path / "cache", model, processor, dtype="int8")


def test_only_frozen_encoders(tmp_path, tokenizer, processor):
    model = build_model(tokenizer)
    model.model.lab_encoder.requires_grad_(True)
    with pytest.raises(ValueError, match="frozen"):
        FeatureCache(tmp_path / "cache", model, processor)


def test_data_loader_workers_read(toy, tmp_path, model, processor):
    dataset = training_rows(toy)
    cache = FeatureCache(tmp_path / "cache", model, processor)
    build(cache, dataset)
    collator = MedTVTDataCollator(processor, cache)
    expected = collator(dataset.to_list())
    (batch,) = DataLoader(dataset, 6, collate_fn=collator, num_workers=1)
    assert all(batch[name].equal(expected[name]) for name in expected)
    reader = pickle.loads(pickle.dumps(cache))  # as a spawned worker gets it
    assert len(pickle.dumps(cache)) < 20_000  # neither model nor data
    assert reader.get(dataset[0], "ecg").equal(expected["ecg_features"][0])
    with pytest.raises(ValueError, match="can only be read"):
        reader.build(dataset)


def test_two_may_build_at_once(toy, tmp_path, model, processor):
    dataset = training_rows(toy)
    caches = [FeatureCache(tmp_path / "cache", model, processor) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda cache: build(cache, dataset, batch_size=1), caches))
    for store in (tmp_path / "cache").glob("*-*/"):
        assert len((store / "index.txt").read_text().splitlines()) == 5
