# SPDX-License-Identifier: Apache-2.0
import importlib
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from medtvt_training import cli, extras
from medtvt_training.commands import export


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """`medtvt export` with another body."""

    def replace(run: Any) -> Any:
        monkeypatch.setattr(export, "run", run)
        return cli.main(["export", "--model", "m", "--out", "o"])

    return replace


def test_what_is_refused_ends_in_one_line(command, capsys):
    from modeling_medtvt.checkpoint_folder import open_checkpoint

    def no_such_file(args: Any) -> None:
        open("/nowhere/at/all")

    for run, words in ((lambda args: open_checkpoint("nope"), "no folder 'nope'"), (no_such_file, "/nowhere/at/all")):
        assert command(run) == 2
        errors = capsys.readouterr().err
        assert errors.startswith("medtvt export: error: ") and errors.count("\n") == 1 and words in errors


def test_a_bug_keeps_its_traceback(command):
    def from_a_library(args: Any) -> None:
        int("x")

    def from_numpy(args: Any) -> None:
        import numpy as np

        np.zeros(3) + np.zeros(4)

    def import_of_ours(args: Any) -> None:
        from medtvt_training.files import nonesuch  # type: ignore[attr-defined]  # noqa: F401

    for run, kind in (
        (from_a_library, ValueError),
        (from_numpy, ValueError),
        (import_of_ours, ImportError),
        (lambda args: {}["key"], KeyError),
    ):
        with pytest.raises(kind):
            command(run)


@pytest.mark.parametrize("name", [name for name, found in cli.COMMANDS.items() if found.extra])
def test_a_missing_extra_is_named_before_the_command_runs(name, monkeypatch, capsys):
    monkeypatch.setattr(extras, "missing_packages", lambda extra: ["pyarrow"])
    module = importlib.import_module(f"medtvt_training.commands.{cli.COMMANDS[name].module}")
    monkeypatch.setattr(module, "run", lambda args: pytest.fail("it runs"))
    assert cli.main(cli.COMMANDS[name].example.split()[1:]) == 2
    errors = capsys.readouterr().err
    assert (
        f"needs the extra `{cli.COMMANDS[name].extra}` (pyarrow not installed)" in errors and errors.count("\n") == 1
    )
    with pytest.raises(SystemExit, match="0"):  # its help can be read all the same
        cli.main([name, "--help"])
    assert f"pip install 'medtvt-r1[{cli.COMMANDS[name].extra}]'" in capsys.readouterr().out


def test_the_packages_of_an_extra_are_looked_up(monkeypatch):
    assert extras.missing_packages("train") == [] and extras.missing_packages("qa") == []

    def version(name: str) -> str:
        if name in ("pyarrow", "duckdb"):
            raise extras.metadata.PackageNotFoundError(name)
        return "1"

    monkeypatch.setattr(extras.metadata, "version", version)
    assert extras.missing_packages("train") == ["pyarrow"]
    assert sorted(extras.missing_packages("qa")) == ["duckdb", "pyarrow"]  # it brings [train] too
    with pytest.raises(ImportError, match=r"pip install 'medtvt-r1\[train\]'"):
        extras.require_extra("train", "this")


# our own code cannot import what only extras bring; transformers takes what it finds
WITHOUT_EXTRAS = """
import builtins
needed = {"accelerate", "datasets", "duckdb", "evaluate", "matplotlib", "nltk", "pandas", "peft", "pyarrow", "pydicom", "rouge_score",
          "sacrebleu", "sklearn", "trl"}
ours = {"medtvt_training", "modeling_medtvt", "processing_medtvt"}
real_import = builtins.__import__
def guarded_import(name, globals=None, *args, **kwargs):
    if name.split(".")[0] in needed and (globals or {}).get("__name__", "").split(".")[0] in ours:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return real_import(name, globals, *args, **kwargs)
builtins.__import__ = guarded_import
from medtvt_training import cli
for command in (["demo"], ["init", "--tiny", "model"], ["diagnose", "--lab", "demo/lab.csv", "--max-new-tokens", "4"],
                ["export", "--model", "model", "--out", "export"]):
    assert cli.main(command) == 0, command
"""


def test_the_core_needs_no_extra(tmp_path):
    result = subprocess.run([sys.executable, "-c", WITHOUT_EXTRAS], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]


HELP_OF_ALL = """
import contextlib, io, sys
from medtvt_training import cli
pages = [[name] for name in cli.COMMANDS if name != "build-qa"] + [["build-qa", "all"]]
for words in pages:
    page = io.StringIO()
    with contextlib.redirect_stdout(page), contextlib.suppress(SystemExit):
        cli.main([*words, "--help"])
    assert "usage: medtvt " + " ".join(words) in page.getvalue(), words
    slow = {"torch", "transformers", "numpy", "datasets", "huggingface_hub", "modeling_medtvt"} & set(sys.modules)
    assert not slow, (words, slow)
"""


def test_help_imports_nothing_slow():
    result = subprocess.run([sys.executable, "-c", HELP_OF_ALL], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]


def test_help_names_what_the_packages_know(capsys):
    from medtvt_training.evaluation.ablation import VARIANTS
    from medtvt_training.evaluation.bootstrap import RESAMPLES
    from medtvt_training.evaluation.paper_tables import TABLES
    from medtvt_training.mimic.codes import CODE_SETS
    from medtvt_training.synthetic.causes import SETTINGS

    def read(*words):
        with pytest.raises(SystemExit):
            cli.main([*words, "--help"])
        return " ".join(capsys.readouterr().out.split())

    assert "{" + ",".join(CODE_SETS) + "}" in read("build-qa", "cohort")
    assert "{" + ",".join(sorted(SETTINGS)) + "}" in read("synthesize")
    assert all(name in read("ablate").replace("- ", "-") for name in VARIANTS)
    evaluate = read("evaluate")
    assert f"(default: {RESAMPLES})" in evaluate and "{" + ",".join(map(str, TABLES)) + "}" in evaluate


def test_bare_and_version(capsys):
    assert cli.main([]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in cli.COMMANDS)
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--version"])
    assert capsys.readouterr().out.startswith("medtvt-r1 ")


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_the_example_of_a_command_is_one_that_its_parser_takes(name):
    words = cli.COMMANDS[name].example.split()
    assert words[:2] == ["medtvt", name]
    if "--help" not in words:
        args, rest = cli.build_parser(name).parse_known_args(words[1:])
        assert not rest or hasattr(args, "overrides")


def test_completion_knows_the_commands_and_their_options(capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--print-completion", "bash"])
    script = capsys.readouterr().out
    assert "train-encoders" in script and "--influence" in script


def test_the_next_step_is_said(command, caplog):
    with caplog.at_level("INFO"):
        assert command(lambda args: None) == 0
    assert "next: medtvt push" in caplog.text
