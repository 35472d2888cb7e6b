"""The page in a real browser, with a microphone that plays a file: what a person does and sees."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

pytest.importorskip("fastapi", reason="needs chns[serve]")
playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright")
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="needs a Chromium, such as Debian's package chromium"),
]


@pytest.fixture(scope="module")
def voices(hum_manifest, tmp_path_factory):
    """Three recordings of 6 s, the first two of one speaker."""
    folder = tmp_path_factory.mktemp("voices")
    for name, speaker in (("anna-1", "s00"), ("anna-2", "s00"), ("bela-1", "s05")):
        files = sorted((hum_manifest.parent / speaker).iterdir())
        samples = np.concatenate([soundfile.read(path)[0] for path in files])
        soundfile.write(folder / f"{name}.wav", np.resize(samples, 6 * 16_000), 16_000)
    return folder


@pytest.fixture
def service(start_service, tmp_path):
    return start_service("--store", tmp_path / "people.store").address + "/"


@pytest.fixture
def browser(voices):
    with playwright.sync_playwright() as tool:
        browser = tool.chromium.launch(
            executable_path=BROWSER,
            args=[
                "--no-sandbox",
                "--use-fake-ui-for-media-stream",
                "--use-fake-device-for-media-stream",
                f"--use-file-for-fake-audio-capture={voices / 'anna-1.wav'}",
            ],
        )
        yield browser
        browser.close()


@pytest.fixture
def page(browser, service):
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.problems = []
    page.foreign = []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("console", lambda line: page.problems.append(line.text) if line.type == "error" else None)
    page.on(
        "request", lambda one: None if one.url.startswith((service, "blob:", "data:")) else page.foreign.append(one.url)
    )
    page.goto(service)
    page.set_default_timeout(15_000)
    yield page
    assert page.foreign == []


def picture(page, name):
    """Keep what is seen, if somebody wants to look at it."""
    if folder := os.environ.get("CHNS_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def compare(page, voices, first, second):
    page.set_input_files("#first input", voices / first)
    page.set_input_files("#second input", voices / second)
    page.click("text=Compare the voices")
    page.wait_for_selector("#result .verdict")


def test_two_recordings_are_compared(page, voices):
    picture(page, "desktop-empty")
    assert page.is_disabled("#compare")
    compare(page, voices, "anna-1.wav", "anna-2.wav")
    assert page.inner_text("#result .verdict") == "Yes, the same person"
    assert "support for one speaker" in page.inner_text("#result")
    assert page.locator("#result svg").get_attribute("aria-label").startswith("score ")
    assert "Two people taken for one" in page.inner_text("#result")
    assert "6.0 s of it used" in page.inner_text("#first")
    assert page.locator("#first canvas").get_attribute("aria-label") == "waveform of 6.0 s, used 0.0 to 6.0 s"
    picture(page, "desktop-result")
    assert page.problems == []


def test_what_is_wrong_with_a_recording_is_said_beside_it(page, voices, tmp_path):
    samples, rate_hz = soundfile.read(voices / "anna-1.wav")
    soundfile.write(tmp_path / "loud.wav", np.clip(samples[:rate_hz] * 20, -1, 1), rate_hz)
    page.set_input_files("#first input", tmp_path / "loud.wav")
    page.set_input_files("#second input", voices / "anna-2.wav")
    page.click("#compare")
    page.wait_for_selector("#first .warn")
    assert "clipped" in page.inner_text("#first")
    assert page.locator("#second .warn").count() == 0
    picture(page, "desktop-warnings")
    (tmp_path / "text.wav").write_text("no audio")
    page.set_input_files("#second input", tmp_path / "text.wav")
    page.click("#compare")
    page.wait_for_selector("#verify-state.problem")
    assert "recording must be WAV" in page.inner_text("#verify-state")
    assert page.is_hidden("#result")


def test_the_microphone_is_recorded_and_compared(page, voices):
    page.click("#first >> text=Record")
    page.locator("#first [role=status]", has_text="Recording: 5").wait_for()
    page.click("#first >> text=Stop")
    page.set_input_files("#second input", voices / "anna-2.wav")
    page.click("#compare")
    page.wait_for_selector("#result .verdict")
    assert "recorded.wav" in page.inner_text("#first")
    assert page.problems == []


def test_a_person_is_enrolled_identified_heard_live_and_deleted(page, voices):
    page.click("#tab-people")
    page.set_input_files("#person input", voices / "anna-1.wav")
    page.fill("#name", "anna")
    page.click("#enrol")
    page.wait_for_selector("#names >> text=anna")
    page.set_input_files("#person input", voices / "anna-2.wav")
    page.click("#identify")
    page.wait_for_selector("text=This is anna")
    picture(page, "desktop-people")
    page.click("#tab-live")
    page.fill("#claimed", "anna")
    page.click("#listen")
    page.wait_for_selector("#live-state .verdict")
    assert page.inner_text("#live-state .verdict") in ("Yes, this is anna", "Not anna")
    picture(page, "desktop-live")
    page.click("#listen")
    assert page.inner_text("#listen") == "Start listening"
    page.click("#tab-people")
    page.once("dialog", lambda dialog: dialog.accept())
    page.click("[aria-label='Delete anna']")
    page.wait_for_selector("text=Nobody yet.")
    assert page.problems == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(browser, service, voices, scheme):
    page = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme=scheme, device_scale_factor=2)
    page.goto(service)
    compare(page, voices, "anna-1.wav", "bela-1.wav")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 24, 27)"
    assert dark is (scheme == "dark")
    heights = page.evaluate(
        "[...document.querySelectorAll('button, .file')].map(one => one.offsetHeight).filter(Boolean)"
    )
    assert min(heights) >= 44
    picture(page, f"phone-{scheme}")


def test_the_keyboard_reaches_everything(page, voices):
    reached = []
    for _ in range(12):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate(
                "document.activeElement.id || document.activeElement.textContent || document.activeElement.ariaLabel"
            )
        )
    assert {"API", "tab-verify", "First voice: choose a file", "Record", "Second voice: choose a file"} <= set(reached)
    page.focus("#tab-verify")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.id") == "tab-people"
    assert page.is_visible("#people")
    assert page.is_hidden("#verify")


def test_the_api_page_is_drawn_without_a_network(page, service):
    page.goto(service + "docs")
    page.wait_for_selector("text=/verify")
    assert page.problems == []
    picture(page, "docs")
