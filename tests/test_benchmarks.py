# SPDX-License-Identifier: Apache-2.0
import json
from dataclasses import fields
from typing import Any

import pytest
import torch

from medtvt_training.stages.arguments import ModelArguments
from medtvt_training.stages.model import lora_config

from tests.benchmarks import decode, padding, sft
from tests.benchmarks.__main__ import main, run_measurements
from tests.benchmarks.baseline import DOCS, list_moved, processor_kind, read_baseline, store
from tests.benchmarks.harness import Row, Settings, interleave, write_results
from tests.benchmarks.shapes import SIZES, bare, build, make_config, make_prompt


def test_sides_are_measured_in_turn_and_the_first_round_does_not_count():
    calls = []
    sides = {name: lambda name=name: calls.append(name) or len(calls) for name in "ab"}
    assert interleave(sides, 2) == {"a": [3, 5], "b": [4, 6]}
    assert calls == list("ababab")
    assert interleave(sides, 1, warm_up={"a": lambda: calls.append("short")}) == {"a": [8], "b": [9]}
    assert calls[6:] == ["short", "a", "b"]


@pytest.mark.parametrize(
    "ratios, target, median, met",
    [
        ([0.9, 1.2, 1.0], {"at_least": 1.0}, 1.0, True),
        ([0.9, 0.8], {"at_least": 0.9}, 0.85, False),
        ([1.2, 1.0], {"at_most": 1.05}, 1.1, False),
        ([1.0], {"at_most": 1.05}, 1.0, True),
        ([2.0], {}, 2.0, None),
        ([], {"at_least": 2}, None, None),
    ],
)
def test_row_compares_its_median_with_the_target(ratios, target, median, met):
    row = Row("name", "what", ratios, **target)
    assert row.median == pytest.approx(median) if ratios else row.median is None
    assert row.met is met


def test_results_are_a_table_and_json(tmp_path):
    rows = [Row("sft", "speed", [0.91, 0.95, 0.93], at_least=0.9, note="fast"), Row("loader", "no ratio")]
    write_results(tmp_path / "out", rows, ["grpo (trl is not installed)"], {"cpu": "a kind", "cores": 2})
    text = (tmp_path / "out" / "bench.md").read_text()
    assert "| sft: speed | 0.93 | 0.91 - 0.95 (3) | >= 0.9 | yes | fast |" in text
    assert "| loader: no ratio | - | - |  |  |  |" in text
    assert "Skipped: grpo (trl is not installed)" in text and "cpu a kind, cores 2" in text
    results = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert set(results) == {"machine", "rows", "skipped"}
    assert results["rows"][0]["ratios"] == [0.91, 0.95, 0.93] and results["rows"][0]["met"] is True


# The stored baseline


@pytest.mark.parametrize(
    "before, now, moved",
    [
        ([0.9, 1.0, 1.1], [1.15, 1.2, 1.25], False),  # by no more than the spread before
        ([0.99, 1.0, 1.01], [1.0, 1.2, 1.4], False),  # nor than that of now
        ([0.99, 1.0, 1.01], [1.19, 1.2, 1.21], True),
        ([1.0], [1.09], False),  # of one pair, by a tenth
        ([1.0], [0.89], True),
    ],
)
def test_a_ratio_moves_by_more_than_its_spread(before, now, moved, tmp_path):
    stored, docs = tmp_path / "baseline.json", tmp_path / "speed.md"
    docs.write_text("before\n<!-- measured -->\nold\n<!-- /measured -->\nafter\n")
    store([Row("sft", "speed", before), Row("sft", "other", [1.0])], {"cores": 2}, "a kind", stored, docs)
    lines = list_moved([Row("sft", "speed", now), Row("sft", "new", [9.0])], read_baseline(stored)["a kind"]["rows"])
    assert len(lines) == moved and all(line.startswith("moved: sft: speed, from 1 to ") for line in lines)


def test_stored_ratios_are_a_table_of_the_docs(tmp_path):
    stored, docs = tmp_path / "baseline.json", tmp_path / "speed.md"
    docs.write_text("before\n<!-- measured -->\nold\n<!-- /measured -->\nafter\n")
    store([Row("sft", "speed", [0.7, 0.8, 0.9], at_least=0.9)], {"cores": 2}, "one", stored, docs)
    store([Row("sft", "speed", [0.95], at_least=0.9), Row("sft", "memory", [1.0])], {"cores": 4}, "two", stored, docs)
    store([Row("sft", "speed", [0.6, 0.8, 0.9], at_least=0.9)], {"cores": 2}, "one", stored, docs)
    text = docs.read_text()
    assert text.startswith("before\n") and text.endswith("<!-- /measured -->\nafter\n") and "old" not in text
    assert "| measured | target | one | two |" in text
    assert "| sft: speed | ≥ 0.9 | **0.80** (0.60-0.90) | 0.95 |" in text
    assert "| sft: memory |  |  | 1.00 |" in text and "two: cores 4." in text


@pytest.mark.parametrize(
    "cpuinfo, maker",
    [("vendor_id\t: GenuineIntel\nmodel name\t: A kind\n", "GenuineIntel"), ("CPU implementer\t: 0x41\n", "0x41")],
)
def test_kind_of_processor_names_no_machine(cpuinfo, maker):
    assert processor_kind(cpuinfo).split()[1] == maker and "A kind" not in processor_kind(cpuinfo)


def test_the_docs_have_a_place_for_the_table():
    assert list(map(DOCS.read_text(encoding="utf-8").count, ("<!-- measured -->\n", "<!-- /measured -->"))) == [1, 1]


def test_bare_model_is_the_language_model():
    model = build("tiny", "cpu")
    prompt = make_prompt(model.config, 2, 12, "cpu")
    plain = bare(model)
    assert type(plain).__name__ == "LlamaForCausalLM"
    hidden = model.model.language_model(**prompt).last_hidden_state
    torch.testing.assert_close(plain(**prompt).logits, model.lm_head(hidden))


@pytest.mark.parametrize("size", SIZES)
def test_shapes_are_those_that_they_are_named_after(size):
    config = make_config(size).text_config
    expected = {"tiny": (128, 4, 2048), "width-512": (512, 4, 2048), "smollm2-135m": (576, 30, 8192)}
    expected["llama-3.2-1b"] = (2048, 16, 131072)
    assert (config.hidden_size, config.num_hidden_layers, config.max_position_embeddings) == expected[size]


def test_adapter_is_that_of_the_stages():
    expected, found = lora_config("sft", ModelArguments(model="")), sft.lora_config(modules_to_save=["perception"])
    for field in fields(expected):
        assert getattr(found, field.name) == getattr(expected, field.name), field.name


def test_measurements_run(tmp_path, monkeypatch):
    monkeypatch.setattr(decode, "RUNS", {"tiny": [(2, (2, 4))]})
    monkeypatch.setattr(sft, "LENGTHS", (30, 32))
    monkeypatch.setattr(padding, "STAGES", {"SFT": ("diagnosis", 0.1, 150)})
    rows, skipped = run_measurements(["decode", "sft", "padding"], Settings(repeats=1), tmp_path)
    assert not skipped and [row.measurement for row in rows] == ["decode"] * 2 + ["sft"] * 3 + ["padding"] * 5
    assert [len(row.ratios) for row in rows] == [1] * 5 + [3, 3, 3, 3, 1]
    assert all(ratio > 0 for row in rows for ratio in row.ratios)
    grouped, at_random = rows[5].median, rows[6].median
    assert 0 < at_random <= grouped <= 1
    assert (tmp_path / "bench.md").read_text().count("\n| ") == len(rows)
    assert len(json.loads((tmp_path / "bench.json").read_text())["rows"]) == len(rows)


def test_a_missing_package_skips_its_measurement(monkeypatch):
    def missing(settings: Any) -> None:
        raise ModuleNotFoundError("No module named 'trl'", name="trl")

    monkeypatch.setattr(decode, "measure", missing)
    assert run_measurements(["decode"], Settings()) == ([], ["decode (trl is not installed)"])


@pytest.mark.parametrize(
    "arguments", [["--sizes", "llama-3.2-1b"], ["--only", "cuda"], ["--repeats", "0"], ["--only", "speed"]]
)
def test_arguments_that_cannot_be(arguments, capsys):
    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert error.value.code == 2 and "error:" in capsys.readouterr().err
