# SPDX-License-Identifier: Apache-2.0
import io
import re
from contextlib import redirect_stdout

from medtvt_training.inference.result import format_result, print_result
from modeling_medtvt import DISEASES


STATEMENT = {"text": "raised creatinine [red]", "modality": "lab", "finding": None, "negated": False}


def make_result(**changes):
    return {
        "warnings": ["model: imaginary patients only", "lab: converted"],
        "patient": {"age": None, "sex": None},
        "diseases": [
            {"label": label, "named": label == "Sepsis", "probability": 0.25, "score": None, "evidence": 1}
            for label in DISEASES
        ],
        "reasoning": "Labs: raised creatinine.",
        "evidence": [{**STATEMENT, "status": "supported", "measured": "Creatinine 2.3 mg/dL", "conclusion": "Sepsis"}],
        "unmentioned": [],
        "influence": {"Sepsis": {"lab": 0.25}},
        "influence_noise": None,
        "contributions": {"ecg": None, "cxr": None, "lab": 0.5},
        **changes,
    }


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_gets_bars_and_colors(monkeypatch):
    for name, value in (("TERM", "xterm-256color"), ("COLUMNS", "120")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)
    terminal = Terminal()
    with redirect_stdout(terminal):
        print_result(make_result())
    shown = terminal.getvalue()
    assert "\x1b[" in shown
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert "█████░░░░░░░░░░░░░░░ 25%" in plain and "raised creatinine [red]" in plain
    for words in ("imaginary patients only", "Research use only", "Sepsis", "lab: converted", "+0.25"):
        assert words in plain
    assert plain.index("imaginary patients only") < plain.index("Sepsis")


def test_no_gate_is_said_in_place_of_its_scores():
    shown = format_result(make_result(contributions=dict.fromkeys(("ecg", "cxr", "lab"))))
    assert "the model has no gate" in shown and "ecg -" not in shown


def test_what_is_within_noise_is_said():
    lines = format_result(
        make_result(influence={"Sepsis": {"lab": 0.25, "ecg": -0.01}}, influence_noise={"Sepsis": 0.02})
    ).splitlines()
    shown = next(line for line in lines if "lab +0.25" in line)
    assert shown.endswith("ecg -0.01 (noise)") and "+0.25 (noise)" not in shown
    assert any("another order of the modalities" in line for line in lines)


def test_a_pipe_gets_plain_text(capsys):
    print_result(make_result())
    printed = capsys.readouterr().out
    assert printed == format_result(make_result()) + "\n" and "\x1b" not in printed
