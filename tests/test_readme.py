# SPDX-License-Identifier: Apache-2.0
"""The README's Python lines, as written, after its commands."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medtvt_training.cli import main
from modeling_medtvt import DISEASES


README = Path(__file__).parents[1] / "README.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Where a reader stands after `make demo`, `cp -r hub_cards/medtvt-r1-tiny medtvt-r1` and a small cohort."""
    folder = tmp_path_factory.mktemp("reader")
    assert "cp -r hub_cards/medtvt-r1-tiny medtvt-r1" in README.read_text()
    shutil.copytree(README.parent / "hub_cards" / "medtvt-r1-tiny", folder / "medtvt-r1")
    for command in (["demo"], ["synthesize", "--patients", "40", "--out", "cohort"]):
        medtvt = Path(sys.executable).with_name("medtvt")
        result = subprocess.run([medtvt, *command], cwd=folder, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture
def medtvt(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """The command in that folder: exit code, what it printed, and its errors."""

    def run(*arguments: Any) -> Any:
        monkeypatch.chdir(folder)
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


def run_python(code: Any, folder: Path) -> Any:
    environment = {**os.environ, "HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1"}
    result = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_python_blocks_run_and_print_as_written(folder):
    text = README.read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(blocks) >= 4 and len(re.findall(r"^\S", blocks[0], flags=re.MULTILINE)) <= 11
    shown = re.findall(r"```python\n.*?```\n\n```text\n(.*?)```", text, flags=re.DOTALL)
    assert len(shown) == 2
    printed = run_python("\n".join(blocks), folder)
    for output in shown:
        assert output in printed


def test_the_demo_prints_as_written(folder, medtvt):
    code, printed, _ = medtvt("demo")
    shown = re.search(r"```text\n(model: .*?)```", README.read_text(), re.DOTALL)[1]
    assert code == 0 and "The truth" in shown
    place = 0
    for part in shown.split("...\n"):
        place = printed.index(part, place)


def test_demo_and_diagnose(folder, medtvt):
    files = ["--ecg", "demo/ecg.hea", "--cxr", "demo/cxr.png", "--lab", "demo/lab.csv"]
    code, printed, _ = medtvt("diagnose", "--model", "medtvt-r1", *files, "--max-new-tokens", 4)
    assert code == 0
    for words in (*DISEASES, "resampled from 500 Hz", "imaginary patients only", "Research use only"):
        assert words in printed
    assert "gate scores" in printed and "less probable without" not in printed
    code, printed, _ = medtvt("diagnose", *files[4:], "--influence", "--max-new-tokens", 4)
    assert code == 0 and re.search(r"^  Sepsis +lab [+-]0\.\d\d$", printed, flags=re.MULTILINE)
    code, _, error = medtvt("diagnose", *files[4:], "--abstain", "0.1")
    assert code == 2 and "medtvt calibrate" in error
    code, printed, _ = medtvt("diagnose", *files[4:], "--num-samples", 2, "--seed", 1, "--json")
    result = json.loads(printed)
    assert (
        code == 0 and result["notice"].startswith("Research use only") and result["diseases"][0]["score"] is not None
    )
    code, printed, _ = medtvt("demo", *files[:2])
    assert code == 0 and "demo/ecg.hea" in printed and "Research use only" in printed and "drawn with" not in printed


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["diagnose", "--ecg", "nowhere.hea"], "nowhere"),
        (["diagnose", "--model", "demo", "--lab", "demo/lab.csv"], "demo"),
        (["diagnose", "--lab", "demo/cxr.png"], "cxr.png"),
        (["diagnose"], "Nothing to answer"),
        (["init", "--tiny", "demo"], "demo exists"),
        (["export", "--model", "demo", "--out", "out"], "demo"),
    ],
)
def test_commands_end_in_one_line_on_bad_input(medtvt, arguments, message):
    code, _, errors = medtvt(*arguments)
    last = errors.strip().splitlines()[-1]
    assert code == 2 and last.startswith(f"medtvt {arguments[0]}: error:") and message in last


def test_training_commands_run_as_written(folder, medtvt):
    block = next(b for b in README.read_text().split("```")[1::2] if "medtvt pretrain" in b)
    few = {"train-encoders": ["--max_steps", "1", "--min-positives", "1"], "evaluate": ["--max-new-tokens", "8"]}
    few |= {stage: ["--max_steps", "1"] for stage in ("pretrain", "finetune", "reinforce")}
    few["reinforce"] += ["--max_completion_length", "8"]
    for line in block.strip().splitlines():
        _, command, *arguments = line.split()
        code, _, errors = medtvt(command, *arguments, *few.get(command, []))
        assert code == 0, f"{line}\n{errors}"
    assert (folder / "results" / "metrics.json").is_file()
    assert (folder / "results" / "swap-lab" / "comparison.md").is_file()


def test_help_is_worth_reading(medtvt, capsys):
    with pytest.raises(SystemExit):
        medtvt("--help")
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("demo", "diagnose", "init", "export", "examples", "research"))
