# SPDX-License-Identifier: Apache-2.0
"""
The Space as its visitors meet it: `make space-test` runs it with Playwright and the system's Chromium, which `make test` lacks.
"""

import html
import re
import shutil
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from gradio_client import Client
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from .test_space import diagnose, space  # noqa: F401 - fixtures


OWN_FILES = "Your own files"
SETTLED_MS = 3000  # what a canceled answer would need to come back


@pytest.fixture(scope="module")
def app(space: Any, diagnose: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:  # noqa: F811
    examples = space.draw_examples(tmp_path_factory.mktemp("examples"))
    app = space.build_app(diagnose, examples, {"Model": "tiny"})
    _, url, _ = space.launch(app, prevent_thread_lock=True, quiet=True)
    yield url
    app.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    # without one of the system, Playwright's own: `python -m playwright install chromium`
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(params=[(1200, 1400), (390, 844)], ids=["desktop", "phone"])
def page(request: pytest.FixtureRequest, app: str, browser: Browser) -> Iterator[Page]:
    width, height = request.param
    page = browser.new_page(viewport={"width": width, "height": height})
    page.set_default_timeout(60_000)
    expect.set_options(timeout=60_000)
    page.goto(app)
    expect(labs(page)).to_have_value(re.compile("Creatinine"))
    yield page
    page.close()


def labs(page: Page) -> Locator:
    return page.locator("#lab textarea")


def message(page: Page) -> Locator:
    return page.locator("#message textarea")


def answer(page: Page) -> Locator:
    return page.locator("#answer textarea")


def report(page: Page) -> Locator:
    return page.locator("#report iframe")


def pick(page: Page, title: str | re.Pattern[str]) -> None:
    page.locator("#patient input").click()
    page.get_by_role("option", name=title).first.click()


def diagnose_and_wait(page: Page, until: str = "Done") -> None:
    page.locator("#run").click()
    expect(message(page)).to_have_value(re.compile(f"^{until}"))


def expect_no_answer(page: Page) -> None:
    expect(message(page)).to_have_value("")
    expect(answer(page)).to_have_value("")
    expect(report(page)).to_have_count(0)


def test_from_the_example_to_the_place_of_its_evidence(page):
    expect(page.get_by_text("Research use only").first).to_be_visible()
    for picture in ("#ecg-picture img", "#cxr-picture img"):
        expect(page.locator(picture)).to_be_visible()
    page.locator("#question textarea").fill("What is wrong with this patient?")
    diagnose_and_wait(page)
    expect(answer(page)).not_to_have_value("")
    inside = page.frame_locator("#report iframe")
    expect(inside.get_by_role("heading", name="MedTVT-R1 report")).to_be_visible()
    expect(inside.get_by_text("What is wrong with this patient?")).to_be_visible()
    inside.locator('nav a[href$="#ecg"]').click()
    expect(inside.locator(".paper svg").first).to_be_in_viewport()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page scrolls sideways"


def test_several_answers_have_shares(page):
    page.locator("#samples input[type=number]").fill("2")
    diagnose_and_wait(page)
    expect(page.frame_locator("#report iframe").get_by_text("Share of drawn answers")).to_be_visible()


def test_no_answer_stays_beside_another_patient(page):
    before = labs(page).input_value()
    diagnose_and_wait(page)
    pick(page, re.compile("Pneumonia"))
    expect(labs(page)).not_to_have_value(before)
    expect_no_answer(page)
    # nor comes while another one is shown
    page.locator("#run").click()
    pick(page, re.compile("none of the seven"))
    expect_no_answer(page)
    page.wait_for_timeout(SETTLED_MS)
    expect_no_answer(page)
    # a changed value or question is another patient too
    for box, text in ((labs(page), "name,value\nSodium,140\n"), (page.locator("#question textarea"), "Why?")):
        diagnose_and_wait(page)
        box.fill(text)
        expect_no_answer(page)


def test_what_is_wrong_stands_beside_its_input(page, tmp_path):
    pick(page, OWN_FILES)
    expect(labs(page)).to_have_value("")
    broken = tmp_path / "broken.png"
    broken.write_text("no picture")
    page.locator("#cxr input[type=file]").set_input_files(broken)
    expect(page.locator("#cxr-note")).to_contain_text("not an image that can be read")
    diagnose_and_wait(page, "Not possible")
    large = tmp_path / "large.png"
    with open(large, "wb") as file:
        file.truncate(40_000_000)
    page.reload()
    pick(page, OWN_FILES)
    page.locator("#cxr input[type=file]").set_input_files(large)
    expect(page.get_by_text(re.compile("maximum", re.IGNORECASE)).first).to_be_visible()
    page.reload()
    expect(labs(page)).to_have_value(re.compile("Creatinine"))
    diagnose_and_wait(page)


def test_a_screen_reader_can_read_it(page, space, diagnose, tmp_path):  # noqa: F811
    """No violation that axe-core finds, but for the buttons that Gradio nests in its box for files."""
    diagnose_and_wait(page)
    found = Axe().run(page, options={"iframes": False})
    assert {rule["id"] for rule in found.response["violations"]} <= {"nested-interactive"}, found.generate_report()
    (tmp_path / "report.html").write_text(html.unescape(report(page).get_attribute("srcdoc")))
    page.goto((tmp_path / "report.html").as_uri())
    assert not (found := Axe().run(page)).violations_count, found.generate_report()


def test_fifty_at_once_are_all_answered(app):
    calls, answers = Client(app, verbose=False, httpx_kwargs={"timeout": 120}), []
    other, messages = Client(app, verbose=False, httpx_kwargs={"timeout": 120}), []  # another user

    def call(number: int) -> None:
        if number == 25:  # what is wrong is said while others wait
            messages.append(other.predict([], None, "name,value\nSodium,high\n", "", api_name="/check")[0])
        answers.append(calls.predict([], None, f"name,value\nSodium,{100 + number}\n", "", 1, api_name="/diagnose"))

    threads = [threading.Thread(target=call, args=(number,)) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert "Sodium: the value (text) is not a number" in messages[0]
    assert len(answers) == 50 and all(message.startswith("Done") for message, _, _ in answers)
