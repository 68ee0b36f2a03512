# SPDX-License-Identifier: Apache-2.0
"""What README and docs show, as written, and the commands that they name."""

import json
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

from .docs_blocks import BLOCK, CHECKPOINT, README, between, excerpt_demo, results_table, run_blocks


TRAINING = Path(__file__).parents[1] / "docs" / "training.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Where a reader stands after `make demo`, `cp -r hub_cards/medtvt-r1-tiny medtvt-r1` and a small cohort."""
    folder = tmp_path_factory.mktemp("reader")
    assert "cp -r hub_cards/medtvt-r1-tiny medtvt-r1" in README.read_text()
    shutil.copytree(CHECKPOINT, folder / "medtvt-r1")
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


def test_the_readme_is_short():
    text = README.read_text()
    assert len(text.split()) <= 1200
    first = BLOCK.search(text)[1]
    assert len(re.findall(r"^\S", first, flags=re.MULTILINE)) <= 11
    for link in re.findall(r"\]\(([^)]+)\)", text):
        assert link.startswith("https://") or (README.parent / link).exists(), link


def test_python_blocks_run_and_print_as_written(folder):
    for page, outputs in run_blocks(folder).items():
        for match, output in zip(BLOCK.finditer(page.read_text()), outputs, strict=True):
            assert match[2] in (None, output), page.name


def test_the_demo_prints_as_written(medtvt):
    code, printed, _ = medtvt("demo")
    shown = between(README.read_text(), "demo")[0]
    assert code == 0 and "The truth" in shown
    assert shown == f"```text\n{excerpt_demo(printed)}```"


def test_results_are_those_of_the_card():
    assert between(README.read_text(), "results")[0] == results_table().strip()


def test_demo_and_diagnose(folder, medtvt):
    files = ["--ecg", "demo/ecg.hea", "--cxr", "demo/cxr.png", "--lab", "demo/lab.csv"]
    code, printed, _ = medtvt("diagnose", "--model", "medtvt-r1", *files, "--max-new-tokens", 4)
    assert code == 0
    for words in (*DISEASES, "resampled from 500 Hz", "trained on imaginary patients", "Research use only"):
        assert words in printed
    assert "gate scores" in printed and "less probable without" not in printed
    code, printed, _ = medtvt("diagnose", *files[4:], "--influence", "--max-new-tokens", 4)
    assert code == 0 and re.search(r"^  Sepsis +lab [+-]0\.\d\d$", printed, flags=re.MULTILINE)
    code, printed, _ = medtvt("diagnose", *files[4:], "--abstain", "0.1")
    assert code == 0 and "probability" in printed
    shutil.copytree(folder / "medtvt-r1", folder / "raw", ignore=shutil.ignore_patterns("calibration.json"))
    code, _, error = medtvt("diagnose", "--model", "raw", *files[4:], "--abstain", "0.1")
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
        (["diagnose", "--lab", "demo/lab.csv", "--report", "demo"], "demo is a folder"),
        (["init", "--tiny", "demo"], "demo exists"),
        (["export", "--model", "demo", "--out", "out"], "demo"),
    ],
)
def test_commands_end_in_one_line_on_bad_input(medtvt, arguments, message):
    code, _, errors = medtvt(*arguments)
    last = errors.strip().splitlines()[-1]
    assert code == 2 and last.startswith(f"medtvt {arguments[0]}: error:") and message in last


def test_training_commands_run_as_written(folder, medtvt):
    block = next(b for b in TRAINING.read_text().split("```")[1::2] if "medtvt pretrain" in b)
    few = {"train-encoders": ["--max_steps", "1", "--min-positives", "1"], "evaluate": ["--max-new-tokens", "8"]}
    few |= {stage: ["--max_steps", "1"] for stage in ("pretrain", "finetune", "reinforce")}
    few["reinforce"] += ["--max_completion_length", "8"]
    for line in block.strip().splitlines():
        _, command, *arguments = line.split()
        code, _, errors = medtvt(command, *arguments, *few.get(command, []))
        assert code == 0, f"{line}\n{errors}"
    assert (folder / "results" / "metrics.json").is_file()
    assert (folder / "results" / "swap-lab" / "comparison.md").is_file()


def test_the_site_builds_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(tmp_path)]
    result = subprocess.run(command, cwd=README.parent, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    pages = {path.relative_to(tmp_path).as_posix(): path.read_text() for path in tmp_path.rglob("*.html")}
    assert "medtvt diagnose [-h]" in pages["commands.html"] and "Creatinine" in pages["labs.html"]
    for name, page in pages.items():  # nothing is loaded from elsewhere
        assert not re.search(r"<(script|img|link rel=.stylesheet)[^>]+(src|href)=.?https?://", page), name


def test_help_is_worth_reading(medtvt, capsys):
    with pytest.raises(SystemExit):
        medtvt("--help")
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("demo", "diagnose", "init", "export", "with an example", "research"))
