# SPDX-License-Identifier: Apache-2.0
import importlib.util
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import metadata_load

from medtvt_training.inference.load import load_pipeline
from medtvt_training.synthetic.example_patient import write_example_patient


OWN_FILES_LAST = 4  # after the examples
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


# In a browser


@pytest.fixture(scope="module")
def app(space: Any, diagnose: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    pytest.importorskip("gradio", reason="needs gradio")
    examples = space.draw_examples(tmp_path_factory.mktemp("examples"))
    app = space.build_app(diagnose, examples, {"Model": "tiny"})
    _, url, _ = app.launch(
        prevent_thread_lock=True, quiet=True, max_file_size=f"{space.MAX_FILE_MB}mb", show_error=True
    )
    yield url
    app.close()


@pytest.fixture(scope="module")
def browser(app: Any) -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    driver, chromium = shutil.which("chromedriver"), shutil.which("chromium") or shutil.which("google-chrome")
    if not (driver and chromium):
        pytest.skip("needs Chromium and its driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1200,1400"):
        options.add_argument(argument)
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield browser
    browser.quit()


class Screen:
    def __init__(self, browser: Any, url: Any) -> None:
        self.browser = browser
        browser.get(url)
        self.wait(lambda: self.find("#run"))

    def find(self, selector: Any) -> Any:
        found = self.browser.find_elements("css selector", selector)
        return found[0] if found else None

    def wait(self, condition: Any, seconds: Any = 60) -> Any:
        end = time.monotonic() + seconds
        while not (value := condition()):
            assert time.monotonic() < end, f"waited {seconds} s; message: {self.message}"
            time.sleep(0.05)
        return value

    @property
    def message(self) -> Any:
        box = self.find("#message textarea")
        return box.get_attribute("value") if box else ""

    def diagnose(self, until: Any) -> None:
        self.browser.execute_script("arguments[0].click()", self.find("#run"))
        self.wait(lambda: self.message.startswith(until))

    def pick(self, number: int) -> None:
        self.wait(lambda: self.find("#patient input")).click()
        options = self.wait(lambda: self.browser.find_elements("css selector", "ul[role=listbox] li"))
        options[number].click()

    @property
    def labs(self) -> str:
        return self.find("#lab textarea").get_attribute("value")

    @property
    def answer(self) -> str:
        return self.find("#answer textarea").get_attribute("value")


def test_example_in_the_browser(app, browser):
    screen = Screen(browser, app)
    assert "Research use only" in browser.page_source
    # it opens on an example
    screen.wait(lambda: "Creatinine" in screen.labs)
    assert screen.find("#ecg-picture img") and screen.find("#cxr-picture img")
    screen.diagnose(until="Done")
    assert screen.answer
    browser.switch_to.frame(screen.wait(lambda: screen.find("#report iframe")))
    assert "MedTVT-R1 report" in browser.page_source and browser.find_elements("css selector", ".paper svg")
    browser.switch_to.default_content()


def test_no_answer_stays_beside_another_patient(app, browser):
    screen = Screen(browser, app)
    screen.wait(lambda: "Creatinine" in screen.labs)
    before = screen.labs
    screen.diagnose(until="Done")
    screen.pick(1)
    screen.wait(lambda: screen.labs != before)
    screen.wait(lambda: not screen.message and not screen.answer and not screen.find("#report iframe"))
    # and while it is being written
    screen.browser.execute_script("arguments[0].click()", screen.find("#run"))
    screen.pick(2)
    screen.wait(lambda: not screen.message and not screen.answer)
    time.sleep(3)
    assert not screen.message and not screen.answer and not screen.find("#report iframe")


def test_broken_upload_in_the_browser(app, browser, tmp_path):
    screen = Screen(browser, app)
    screen.pick(OWN_FILES_LAST)
    screen.wait(lambda: screen.find("#cxr input[type=file]"))
    broken = tmp_path / "broken.png"
    broken.write_text("no picture")
    screen.find("#cxr input[type=file]").send_keys(str(broken))
    screen.wait(lambda: "broken" in screen.find("#cxr").text)
    screen.diagnose(until="Not possible")
    assert "not an image that can be read" in screen.message
    screen.wait(lambda: "not an image that can be read" in screen.find("#cxr-note").text)
    large = tmp_path / "large.png"
    with open(large, "wb") as file:
        file.truncate(200_000_000)
    screen = Screen(browser, app)
    screen.pick(OWN_FILES_LAST)
    screen.wait(lambda: screen.find("#cxr input[type=file]")).send_keys(str(large))
    screen.wait(lambda: "maximum" in browser.page_source.lower())
    screen = Screen(browser, app)
    screen.diagnose(until="Done")


def test_fifty_at_once_are_all_answered(app):
    client = pytest.importorskip("gradio_client", reason="needs gradio")
    calls, answers = client.Client(app, verbose=False, httpx_kwargs={"timeout": 120}), []
    other, messages = client.Client(app, verbose=False, httpx_kwargs={"timeout": 120}), []  # another user

    def call(number: int) -> None:
        if number == 25:  # what is wrong is said while others wait
            started = time.monotonic()
            problem = other.predict([], None, "name,value\nSodium,high\n", "", api_name="/check")[0]
            messages.append(problem)
            print(f"checked in {time.monotonic() - started:.2f} s, beside 49 others")
        answers.append(calls.predict([], None, f"name,value\nSodium,{100 + number}\n", "", 1, api_name="/diagnose"))

    threads = [threading.Thread(target=call, args=(number,)) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert "Sodium: the value (text) is not a number" in messages[0]
    assert len(answers) == 50 and all(message.startswith("Done") for message, _, _ in answers)
