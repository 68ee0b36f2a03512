# SPDX-License-Identifier: Apache-2.0
import importlib.util
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import metadata_load

from medtvt_training.inference.load import load_pipeline
from medtvt_training.synthetic.example_patient import write_example_patient


SPACE = Path(__file__).resolve().parents[2] / "hub_cards" / "space"


@pytest.fixture(scope="module")
def space() -> Any:
    spec: Any = importlib.util.spec_from_file_location("space_app", SPACE / "app.py")
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.MAX_NEW_TOKENS = 16
    return module


@pytest.fixture(scope="module")
def diagnose(checkpoint: Path) -> Any:
    return load_pipeline(str(checkpoint))


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    files = write_example_patient(tmp_path_factory.mktemp("patient"))
    lab = Path(files["lab"]).read_text()
    return {"ecg": [files["ecg"], files["ecg"].replace(".hea", ".dat")], "cxr": files["cxr"], "lab": lab}


def answer(space: Any, diagnose: Any, ecg: Any = None, cxr: Any = None, lab: Any = "", **settings: Any) -> Any:
    return list(space.run_patient(diagnose, {"Model": "tiny"}, ecg, cxr, lab, **settings))


def test_metadata_of_the_space():
    metadata = metadata_load(SPACE / "README.md")
    assert (metadata["sdk"], metadata["app_file"]) == ("gradio", "app.py")
    assert (SPACE / metadata["app_file"]).is_file() and len(metadata["short_description"]) <= 60


def test_answer_is_streamed_and_reported(space, diagnose, patient):
    steps = answer(space, diagnose, patient["ecg"], patient["cxr"], patient["lab"])
    message, text, report = steps[-1]
    assert message.startswith("Done. Research use only")
    assert text and 'sandbox=""' in report and "MedTVT-R1 report" in report
    assert [len(step[1]) for step in steps] == sorted(len(step[1]) for step in steps)
    assert len(steps) > 3 and not any(step[2] for step in steps[:-1])


@pytest.mark.parametrize("given", [("ecg",), ("cxr",), ("lab",)])
def test_any_subset(space, diagnose, patient, given):
    assert answer(space, diagnose, **{name: patient[name] for name in given})[-1][0].startswith("Done")


def test_own_question_and_several_answers(space, diagnose, patient):
    steps = answer(space, diagnose, lab=patient["lab"], question=" What about <the> kidneys? ", samples=3)
    message, _, report = steps[-1]
    assert steps[0][0] == "Drawing 3 answers ..." and message.startswith("Done")
    assert "Share of drawn answers" in report and "What about &amp;lt;the&amp;gt; kidneys?" in report


def test_links_of_the_report_stay_in_its_frame(space):
    framed = space.frame('<a href="#lab-1">x</a><use href="#trace-I"/>"></iframe><script>')
    assert framed.count("<") == 2 and framed.count('"') == 8  # the frame's own tags and attributes
    assert "about:srcdoc#lab-1" in framed and "about:srcdoc#trace" not in framed


def test_pictures_of_what_is_there(space, diagnose, patient, tmp_path):
    ecg, film = space.draw_pictures(diagnose, patient["ecg"], patient["cxr"])
    assert ecg.startswith('<img src="data:image/png') and film.startswith('<img src="data:image/jpeg')
    assert 'alt="The ECG' in ecg and 'alt="The chest X-ray"' in film
    broken = tmp_path / "broken.png"
    broken.write_text("no picture")
    assert space.draw_pictures(diagnose, patient["ecg"][:1], str(broken)) == ("", "")
    assert space.draw_pictures(diagnose, None, None) == ("", "")


def bad_inputs(folder: Path, patient: Any) -> dict[str, Any]:
    large, text = folder / "large.png", folder / "text.png"
    with open(large, "wb") as file:
        file.truncate(200_000_000)
    text.write_text("no picture")
    return {
        "nothing": ({}, "Pick an example"),
        "200 MB": ({"cxr": str(large)}, "larger than 20 MB"),
        "text called .png": ({"cxr": str(text)}, "not an image that can be read"),
        "header without data": ({"ecg": patient["ecg"][:1]}, "signal file ecg.dat is missing"),
        "data without header": ({"ecg": patient["ecg"][1:]}, "upload its .hea together with"),
        "many files": ({"ecg": patient["ecg"] * 3}, "at most 3 files"),
        "letters": ({"lab": "name,value\nCreatinine,high\n"}, "the value (text) is not a number"),
        "unknown lab": ({"lab": "name,value\nCreatinin,2\n"}, "Did you mean 'Creatinine'"),
        "endless labs": ({"lab": "x" * 30_000}, "at most 20000 are read"),
    }


def test_bad_input_is_answered_and_the_app_lives_on(space, diagnose, patient, tmp_path):
    for name, (inputs, said) in bad_inputs(tmp_path, patient).items():
        message, text, report = answer(space, diagnose, **inputs)[-1]
        assert message.startswith("Not possible") and said in message, name
        first, *notes = space.check_inputs(diagnose, *map(inputs.get, ("ecg", "cxr", "lab")))
        assert first == message, name
        # beside its own input, and no other
        assert notes == [message if modality in inputs else "" for modality in ("ecg", "cxr", "lab")], name
        assert (text, report) == ("", "") and "/tmp" not in message.replace(str(tmp_path), ""), name
    labs = "name,value\nSodium,140\n"
    assert space.check_inputs(diagnose, None, None, labs) == ("", "", "", "")
    assert "at most 500" in space.check_inputs(diagnose, None, None, labs, "x" * 501)[0]
    assert answer(space, diagnose, lab=labs)[-1][0].startswith("Done")


def test_examples_have_known_causes(space, tmp_path):
    examples = space.draw_examples(tmp_path)
    assert len(examples) == len(space.EXAMPLES)
    for wanted, title in zip(space.EXAMPLES, examples):
        assert (wanted or "none of the seven") in title
    example = next(iter(examples.values()))
    inputs = space.collect_inputs(example["ecg"], example["cxr"], example["lab"], tmp_path)
    assert set(inputs) == {"ecg", "cxr", "lab"} and "Creatinine" in Path(inputs["lab"]).read_text()


def test_error_in_the_model_ends_the_stream(space, diagnose, monkeypatch):
    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(diagnose.model, "generate", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        list(space.stream_answer(diagnose, {"lab": {"Sodium": 140}}, 4))
