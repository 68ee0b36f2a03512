# SPDX-License-Identifier: Apache-2.0
import json
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset
from safetensors import safe_open

from medtvt_training.data.schema import FEATURES
from medtvt_training.stages.findings_dataset import fill_absent, findings_loss, frequent_findings, label_findings
from medtvt_training.stages.mixture import MixedSampler, count_draws

from .test_pt import run
from tests.toy import write_toy_dataset


# Shares and order


def test_shares_are_shares_of_an_epoch():
    assert count_draws([60, 1000, 1000], [0.25, 0.15], ["a", "b"]) == [60, 25, 15]
    assert count_draws([60, 30], [None], ["a"]) == [60, 30]


def test_a_share_above_what_there_is_is_said(caplog):
    assert count_draws([60, 10], [0.25], ["films"]) == [60, 20]
    assert "films: a share of 0.25 takes 20 rows an epoch, and there are 10: each is seen 2.0 times." in caplog.text


@pytest.mark.parametrize(
    ("sizes", "shares", "message"),
    [
        ([9, 9], [1.0], "The share of a must be between 0 and 1, got 1.0"),
        ([9, 9], [-0.1], "The share of a must be"),
        ([9, 9, 9], [0.5, 0.5], "The shares of a, b come to 1"),
        ([9, 0], [0.5], "a has no row to mix in"),
    ],
)
def test_refuses_shares_that_cannot_be(sizes, shares, message):
    with pytest.raises(ValueError, match=message):
        count_draws(sizes, shares, ["a", "b"][: len(shares)])


def epochs_of(sampler, count):
    for sampler.epoch in range(count):
        yield list(sampler)


def test_no_row_is_seen_again_before_all_others():
    orders = list(epochs_of(MixedSampler([8, 10], [8, 3], seed=1), 10))
    assert all(sorted(index for index in order if index < 8) == list(range(8)) for order in orders)
    assert len({tuple(order) for order in orders}) == 10
    mixed = [index for order in orders for index in order if index >= 8]
    assert Counter(mixed) == dict.fromkeys(range(8, 18), 3)
    again = MixedSampler([8, 10], [8, 3], seed=1)
    again.epoch = 7  # a resumed run
    assert list(again) == orders[7]


def test_rows_of_a_batch_are_of_similar_length():
    sampler = MixedSampler([40, 40], [40, 20], seed=0, batch_size=4)
    sampler.lengths = [i % 40 for i in range(80)]
    order = list(sampler)
    assert len(set(order)) == 60
    spread = np.mean([np.ptp([index % 40 for index in order[i : i + 4]]) for i in range(0, 60, 4)])
    shuffled = MixedSampler([40, 40], [40, 20], seed=0)
    of_shuffled = np.mean([np.ptp([index % 40 for index in list(shuffled)[i : i + 4]]) for i in range(0, 60, 4)])
    assert spread < of_shuffled / 2


# Findings that are known, and those that are not


def test_unknown_findings_are_masked():
    row = {"findings": ["a"], "absent_findings": ["b"]}
    labels = torch.from_numpy(label_findings(row, ["a", "b", "c"]))
    assert labels[:2].tolist() == [1, 0] and labels[2].isnan()
    assert label_findings({"findings": ["a"], "absent_findings": None}, ["a", "b"]).tolist() == [1, 0]
    logits = torch.zeros(3, requires_grad=True)
    findings_loss(logits, labels).backward()
    assert logits.grad[2] == 0 and logits.grad[:2].abs().min() > 0
    assert findings_loss(logits, torch.full((3,), torch.nan)) == 0


def test_what_a_folder_has_no_name_for_is_not_known():
    main = [{"findings": ["a", "b"]}, {"findings": ["b"]}, {"findings": []}]
    films = [{"findings": ["c"], "absent_findings": ["b"]}, {"findings": ["a"], "absent_findings": []}]
    fill_absent({"train": main})
    fill_absent({"train": films})
    assert [row["absent_findings"] for row in main] == [[], ["a"], ["a", "b"]]
    assert frequent_findings("cxr", main + films, 2) == ["a", "b"]
    assert np.isnan(label_findings(main[0], ["c"])).all()


# Runs


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """A folder of films alone, one in two of which shows something."""
    folder = write_toy_dataset(tmp_path_factory.mktemp("films") / "films", patients=12, seed=5)
    for split in ("train", "validation"):
        file = folder / "physiology" / f"{split}.parquet"
        rows = [row for row in Dataset.from_parquet(str(file)).to_list() if row["modalities"] == ["cxr"]]
        for i, row in enumerate(rows):
            row["findings"], row["absent_findings"] = (["cxr: x"], []) if i % 2 else ([], ["cxr: x"])
        Dataset.from_list(rows, features=FEATURES).to_parquet(str(file))
    return folder


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    """A toy dataset with findings that begin with their modality."""
    folder = write_toy_dataset(tmp_path_factory.mktemp("named") / "named", patients=12)
    for split in ("train", "validation"):
        file = folder / "physiology" / f"{split}.parquet"
        rows = Dataset.from_parquet(str(file)).to_list()
        for row in rows:
            row["findings"] = [f"{row['modalities'][0]}: x"] * (int(row["subject_id"]) % 2)
        Dataset.from_list(rows, features=FEATURES).to_parquet(str(file))
    return folder


QUICK = {
    "per_device_train_batch_size": 8,
    "save_strategy": "no",
    "eval_strategy": "no",
    "eval_on_start": "false",
    "logging_steps": 1,
}


def read_state(folder):
    return json.loads((folder / "trainer_state.json").read_text())


def read_training_data(folder):
    return json.loads((folder / "final" / "provenance.json").read_text())["training_data"]


def extra(folder, share):
    return {"extra_data": folder, "extra_share": share}


def test_encoders_learn_from_further_folders_too(checkpoint, named, films, tmp_path):
    run(
        "encoders", output_dir=tmp_path, model=checkpoint, data=named, min_positives=2, cxr_epochs=1, modalities="cxr",
        cxr_batch_size=4, **extra(films, 0.5),
    )  # fmt: skip
    state = json.loads(next(tmp_path.glob("cxr/checkpoint-*/trainer_state.json")).read_text())
    inputs = sum(row["modalities"] == ["cxr"] for row in pq.read_table(named / "physiology/train.parquet").to_pylist())
    assert state["max_steps"] == -(-2 * inputs // 4)
    metrics = json.loads((tmp_path / "encoder_metrics.json").read_text())["cxr"]
    assert metrics["extra"]["films"]["rows"] and set(metrics["token_auroc"]) == {"cxr: x"}
    assert [entry["name"] for entry in read_training_data(tmp_path)] == ["named", "films"]


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_pt_with_further_data_and_a_findings_loss(tuning, checkpoint, named, films, tmp_path):
    arguments = QUICK | {"model": checkpoint, "data": named, "tuning": tuning, "num_train_epochs": 1}
    run("pt", output_dir=tmp_path / "plain", **arguments, **extra(films, 0.25))
    run("pt", output_dir=tmp_path / "run", **arguments, findings_weight=2.0, **extra(films, 0.25))
    rows = len(pq.read_table(named / "physiology/train.parquet"))
    assert read_state(tmp_path / "run")["max_steps"] == -(-round(rows / 0.75) // 8)
    losses = [read_state(tmp_path / name)["log_history"][0]["loss"] for name in ("plain", "run")]
    assert losses[1] - losses[0] == pytest.approx(2.0 * 0.69 * 3, rel=0.5)  # of three heads that know nothing yet
    for file in (tmp_path / "run").glob("*/*.safetensors"):
        with safe_open(file, "pt") as tensors:
            assert not any("findings_head" in name for name in tensors.keys())
    assert [entry["name"] for entry in read_training_data(tmp_path / "run")] == ["named", "films"]


def test_a_findings_loss_goes_on_where_it_stopped(checkpoint, named, tmp_path):
    arguments = QUICK | {"model": checkpoint, "data": named, "max_steps": 3, "findings_weight": 1.0}
    arguments |= {"save_strategy": "steps", "save_steps": 2, "save_total_limit": 9}
    run("pt", output_dir=tmp_path / "run", **arguments)
    (tmp_path / "run" / "checkpoint-2").rename(tmp_path / "checkpoint-2")
    (tmp_path / "again").mkdir()
    (tmp_path / "checkpoint-2").rename(tmp_path / "again" / "checkpoint-2")
    run("pt", output_dir=tmp_path / "again", resume="true", **arguments)
    losses = [read_state(tmp_path / name)["log_history"][2]["loss"] for name in ("run", "again")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_sft_replays_physiology_rows(checkpoint, named, tmp_path):
    run(
        "sft",
        output_dir=tmp_path,
        model=checkpoint,
        data=named,
        replay=0.5,
        num_train_epochs=1,
        eval_answers=0,
        **QUICK,
    )
    rows = len(pq.read_table(named / "diagnosis/train.parquet"))
    assert read_state(tmp_path)["max_steps"] == -(-2 * rows // 8)


# Bad input


def test_refuses_a_findings_loss_on_rows_without_findings(checkpoint, named, tmp_path):
    folder = write_toy_dataset(tmp_path / "toy", patients=2)
    file = folder / "physiology" / "train.parquet"
    rows = [{**row, "findings": None} for row in Dataset.from_parquet(str(file)).to_list()]
    Dataset.from_list(rows, features=FEATURES).to_parquet(str(file))
    with pytest.raises(ValueError, match="`findings_weight` is set, but no training row lists its `findings`"):
        run("pt", output_dir=tmp_path / "run", model=checkpoint, data=folder, findings_weight=1.0, **QUICK)


def test_refuses_further_folders_that_give_nothing(checkpoint, named, films, tmp_path):
    arguments = {"output_dir": tmp_path / "run", "model": checkpoint, "data": named, "min_positives": 2}
    with pytest.raises(ValueError, match="films: no row of physiology/train is about one of ecg alone"):
        run("encoders", **arguments, modalities="ecg", extra_data=films)
    with pytest.raises(ValueError, match="`extra_share` has 1 shares for 0 folders"):
        run("encoders", **arguments, extra_share=0.5)
