# SPDX-License-Identifier: Apache-2.0
import os
import shutil
import threading

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from medtvt_training import MedTVTDataCollator, cli, load_medtvt_qa
from medtvt_training.data import collator as measuring
from medtvt_training.data import stored_rows
from medtvt_training.data.collator import drop_long_rows
from medtvt_training.data.stored_rows import load_stored_rows
from medtvt_training.stages.initialize import default_processor
from processing_medtvt import MedTVTProcessor

from tests.toy import write_toy_dataset


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return write_toy_dataset(tmp_path_factory.mktemp("toy"), 12)


@pytest.fixture(scope="module")
def processor(tokenizer):
    return default_processor(tokenizer)


@pytest.fixture(autouse=True)
def small_files(monkeypatch):
    monkeypatch.setattr(stored_rows, "ROWS_A_FILE", 5)


@pytest.fixture
def measured(monkeypatch):
    """How many rows were measured."""
    counts = []
    measure = stored_rows.measure_rows
    monkeypatch.setattr(
        stored_rows, "measure_rows", lambda table, *args: counts.append(len(table)) or measure(table, *args)
    )
    return counts


def load(toy, folder, processor, split="train", **kwargs):
    return load_stored_rows(toy, "diagnosis", split, folder, processor, **kwargs)


def test_rows_are_those_that_were_in_memory_and_are_measured_once(toy, tmp_path, processor, measured):
    stored = load(toy, tmp_path, processor)
    assert measured == [5, 5, 2]
    expected, _ = drop_long_rows(load_medtvt_qa(toy, "diagnosis", "train"), processor, 10_000)
    assert stored.remove_columns("split").to_list() == expected.to_list()
    assert set(stored["split"]) == {"train"} and stored.cache_files  # mapped, not in memory
    again, left_out = drop_long_rows(load(toy, tmp_path, processor), processor, sorted(stored["length"])[-2])
    assert measured == [5, 5, 2] and len(again) == 12 - len(left_out) and left_out


def test_another_file_or_tokenizer_is_measured_anew(toy, tmp_path, processor, measured):
    load(toy, tmp_path, processor)
    os.utime(toy / "diagnosis" / "train.parquet", (1, 1))
    load(toy, tmp_path, processor)
    parts = (processor.ecg_feature_extractor, processor.image_processor, processor.lab_feature_extractor)
    template = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
    template += "{% if add_generation_prompt %}[assistant]{% endif %}"
    load(toy, tmp_path, MedTVTProcessor(*parts, processor.tokenizer, chat_template=template))
    load(toy, tmp_path, processor, ecg_root=tmp_path)
    assert measured == [5, 5, 2] * 4 and len(list(tmp_path.glob("rows-*"))) == 4


def test_processes_share_the_work(toy, tmp_path, processor, measured):
    barrier, found = threading.Barrier(3), {}

    def run(number):
        found[number] = load(toy, tmp_path, processor, part=(number, 3), wait=barrier.wait)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(3)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert sorted(measured) == [2, 5, 5]
    assert [found[number].to_list() for number in range(3)] == [load(toy, tmp_path, processor).to_list()] * 3


def test_a_killed_run_goes_on(toy, tmp_path, processor, measured, monkeypatch):
    class Killed(BaseException):
        pass

    def kill(*args):
        raise Killed

    write = pa.RecordBatchStreamWriter.write_table
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(stored_rows._Tables, "complete", kill)
        load(toy, tmp_path, processor, part=(0, 2))
    assert measured == [5, 2] and write is pa.RecordBatchStreamWriter.write_table
    assert len(load(toy, tmp_path, processor)) == 12 and measured == [5, 2, 5]


def test_rows_that_contradict_the_schema(toy, tmp_path, processor):
    table = pq.read_table(toy / "diagnosis" / "train.parquet")
    (tmp_path / "data" / "diagnosis").mkdir(parents=True)
    file = tmp_path / "data" / "diagnosis" / "train.parquet"
    pq.write_table(pa.concat_tables([table, table.slice(0, 1)]), file)  # in another stored file
    with pytest.raises(ValueError, match="1 ids of diagnosis/train occur more than once, such as diagnosis-1000"):
        load(tmp_path / "data", tmp_path / "rows", processor)
    pq.write_table(table.drop(["lab"]), file)
    with pytest.raises(ValueError, match="has no column lab"):
        load(tmp_path / "data", tmp_path / "rows", processor)
    file.write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="not a readable Parquet file"):
        load(tmp_path / "data", tmp_path / "rows", processor)
    assert not list((tmp_path / "rows").glob("*/rows.json"))
    with pytest.raises(FileNotFoundError, match="has no diagnosis/train.parquet"):
        load(tmp_path, tmp_path / "rows", processor)


@pytest.mark.parametrize("order", [1, -1])
def test_lengths_under_dropout_are_those_of_what_is_left(toy, processor, order):
    rows = load_medtvt_qa(toy, "diagnosis", "train").map(lambda row: {"modalities": row["modalities"][::order]})
    dataset, _ = drop_long_rows(rows, processor, 10_000)
    collator = MedTVTDataCollator(processor, modality_dropout=0.5, seed=1)
    for collator.epoch in range(3):
        left = [collator._withhold(row) for row in rows]
        shares = [measuring._num_characters(a) / measuring._num_characters(b) for a, b in zip(left, rows)]
        assert min(shares) < 1
        lengths = [length * share for length, share in zip(dataset["length"], shares)]
        assert collator.estimate_lengths(dataset) == pytest.approx(lengths)


def test_rows_that_do_not_say_what_belongs_to_a_modality(toy, processor):
    def forget(row):
        parts = row["completion"][0]["content"]
        return {"completion": [{"role": "assistant", "content": [{**part, "modalities": None} for part in parts]}]}

    rows = load_medtvt_qa(toy, "diagnosis", "train")
    dataset, _ = drop_long_rows(rows.map(forget, features=rows.features), processor, 10_000)
    assert MedTVTDataCollator(processor).estimate_lengths(dataset) == dataset["length"]
    with pytest.raises(ValueError, match="does not say which evidence cites which modality"):
        MedTVTDataCollator(processor, modality_dropout=0.9).estimate_lengths(dataset)


def test_the_command_stores_rows_and_features_for_training(toy, checkpoint, tmp_path, capsys):
    words = [
        "cache",
        "--model",
        str(checkpoint),
        "--data",
        str(toy),
        "--out",
        str(tmp_path),
        "--feature-dtype",
        "float16",
    ]
    assert cli.main([*words, "--levels", "diagnosis"]) == 0
    assert capsys.readouterr().out.splitlines() == ["diagnosis/train: 12 rows", "diagnosis/validation: 12 rows"]
    sizes = {file.parent.name[:3]: file.stat().st_size for file in tmp_path.glob("*-*/features.bin")}
    assert sizes["lab"] == 20 * 128 * 2  # ten patients of twelve have labs, in two splits; two bytes a number
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*") if file.is_file()}
    words = ["finetune", "--recipe=tiny", f"--model={checkpoint}", f"--data={toy}", f"--feature-cache={tmp_path}"]
    words += ["--feature-dtype=float16", f"--out={tmp_path.parent / 'run'}", "--max_steps=1", "--eval_strategy=no"]
    words.append("--replay=0")  # the physiology rows were not asked for
    assert cli.main([*words, "--eval_on_start=false", "--save_strategy=no", "--report_to=none"]) == 0
    assert {file: file.stat().st_mtime_ns for file in before} == before  # nothing was computed again
    assert cli.main(["cache", "--model", str(checkpoint), "--data", str(tmp_path), "--out", str(tmp_path / "x")]) == 2
    assert "is no MedTVT-QA folder" in capsys.readouterr().err


def test_a_split_that_the_rows_name_themselves_counts_once(toy, tmp_path, processor):
    data = tmp_path / "data"
    shutil.copytree(toy, data)
    file = data / "diagnosis" / "train.parquet"
    table = pq.read_table(file)
    pq.write_table(table.append_column("split", pa.array(["train"] * len(table))), file)
    assert load(data, tmp_path / "cache", processor)["split"] == ["train"] * 12
