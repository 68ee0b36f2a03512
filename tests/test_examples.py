# SPDX-License-Identifier: Apache-2.0
"""The examples run as they are, on tiny data."""

import ast
import csv
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medtvt_training import load_medtvt_qa
from modeling_medtvt import DiagnosisResult


EXAMPLES = Path(__file__).parents[1] / "examples"


def load_example(name: str) -> Callable[[list[str]], None]:
    spec: Any = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def test_finetune_on_your_data(toy, checkpoint, tmp_path):
    folder = tmp_path / "patients"
    folder.mkdir()
    (folder / "labs.csv").write_text("name,value,unit\nCreatinine,2.3,mg/dL\nPotassium,5.9,mmol/L\n")
    for row in load_medtvt_qa(toy, "diagnosis", "train"):
        for file in Path(row["ecg"] or "x").parent.glob(f"{Path(row['ecg'] or 'x').stem}.*"):
            (folder / file.name).write_bytes(file.read_bytes())
    ecg = sorted(folder.glob("*.hea"))[0].name
    with open(folder / "patients.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["id", "ecg", "cxr", "lab", "reasoning", "diseases"])
        table.writerow(["a", ecg, "", "labs.csv", "Labs: raised creatinine.", "Acute Renal Failure; Sepsis"])
        table.writerow(["b", "", "", "labs.csv", "Labs: high potassium.", ""])
    load_example("finetune_on_your_data")(
        [
            "--table",
            str(folder / "patients.csv"),
            "--model",
            str(checkpoint),
            "--out",
            str(tmp_path / "sft"),
            "--epochs",
            "1",
        ]
    )
    assert (tmp_path / "sft" / "final" / "config.json").is_file()
    (first,), (second,) = (
        load_medtvt_qa(tmp_path / "sft-data", "diagnosis", split, ecg_root=folder, cxr_root=folder)
        for split in ("train", "validation")
    )
    assert first["diseases"] == ["Acute Renal Failure", "Sepsis"] and first["modalities"] == ["ecg", "lab"]
    assert second["diseases"] == [] and second["lab"]["Potassium"] == pytest.approx(5.9)


def test_rft_with_your_reward(toy, checkpoint, tmp_path):
    words = ["--data", str(toy), "--model", str(checkpoint), "--out", str(tmp_path / "rft")]
    load_example("rft_with_your_reward")([*words, "--max-steps", "1", "--max-completion-length", "8"])
    assert (tmp_path / "rft" / "adapter_config.json").is_file()


def test_evaluate_your_model(toy, tmp_path, capsys):
    load_example("evaluate_your_model")(["--data", str(toy), "--out", str(tmp_path / "out"), "--resamples", "5"])
    assert "on 6 records" in capsys.readouterr().out
    assert 0 <= json.loads((tmp_path / "out" / "metrics.json").read_text())["strict"]["f1_samples"] <= 1


def test_the_notebook_runs(tmp_path, monkeypatch):
    """Its code cells, one after the other, as Jupyter runs them; what a cell shows can be shown."""
    cells = json.loads((EXAMPLES / "quickstart.ipynb").read_text(encoding="utf-8"))["cells"]
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    shown = []
    for source in ("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"):
        tree = ast.parse(source)
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, "cell", "exec"), names)
        if isinstance(last, ast.Expr):
            shown.append(eval(compile(ast.Expression(last.value), "cell", "eval"), names))
    assert any(isinstance(value, DiagnosisResult) and "<table>" in value._repr_html_() for value in shown)
    assert (tmp_path / "report.html").stat().st_size > 100_000
