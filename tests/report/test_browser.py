"""The report in a real browser: what a person sees, points at, plays and switches, on a desktop and on a phone."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fabricated_findings import fabricated_run

from chns.data.manifest import Manifest
from chns.evaluation.trials import Trials
from chns.report.collect import judged_trials
from chns.report.heard import Recordings
from chns.report.page import write_report

playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright")
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="needs a Chromium, such as Debian's package chromium"),
]

HOSTILE = '<img src=x onerror="document.title=1">'


@pytest.fixture(scope="module")
def address(hum_manifest, tmp_path_factory):
    """A report of two strategies with two seeds each, with clips, a hostile value in a column and a hostile name."""
    manifest = Manifest.read(hum_manifest)
    rng = np.random.default_rng(0)
    names = manifest.column("utterance")
    first, second = rng.integers(len(names), size=(2, 300))
    labels = manifest.speaker_labels
    trials = Trials([names[i] for i in first], [names[i] for i in second], labels[first] == labels[second])
    runs = []
    for strategy in ("supcon", "chns"):
        for seed in range(2):
            run = fabricated_run(f"{strategy}/seed-{seed}", seed=seed, num_speakers=60, num_clusters=20, trial_lists=())
            scores = rng.normal(size=300) + 2 * (labels[first] == labels[second])
            columns = {"gender": ["f", "m", HOSTILE] * 20, "city": [f"c{place % 15}" for place in range(60)]}
            runs.append(
                replace(
                    run,
                    scored={"hard": judged_trials("hard", trials, scores)},
                    speaker_map=replace(run.speaker_map, columns=columns),
                    log={**run.log, "elapsed_seconds": 2 * run.log["step"]},
                )
            )
    folder = tmp_path_factory.mktemp("report")
    written = write_report(folder, runs, recordings=Recordings({"hard": manifest}, with_clips=True))
    return written.page.as_uri()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


def opened(browser, address, *, width=1280, scheme="light"):
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page.problems = []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("console", lambda line: page.problems.append(line.text) if line.type == "error" else None)
    page.on(
        "request",
        lambda one: None if one.url.startswith((address, "data:", "blob:")) else page.problems.append(one.url),
    )
    page.goto(address)
    return page


def picture(page, name):
    """Keep what is seen, if somebody wants to look at it."""
    if folder := os.environ.get("CHNS_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"report-{name}.png", full_page=True)


def test_the_first_screen_has_verdict_figure_and_sentence(browser, address):
    page = opened(browser, address)
    for selector in ("h1", "#figure-dots-1 svg", ".quote", "nav"):
        box = page.locator(selector).bounding_box()
        assert box["y"] + box["height"] <= 800, selector
    picture(page, "desktop")
    assert page.problems == []


def test_the_map_is_coloured_by_any_column_and_a_value_is_seen_alone(browser, address):
    page = opened(browser, address)
    assert page.locator("#map-colour option").all_inner_texts() == ["city", "gender", "cluster"]
    legend = page.locator("#map-legend button")
    page.select_option("#map-colour", "gender")
    assert sorted(legend.all_inner_texts()) == sorted([f"{HOSTILE} (20)", "f (20)", "m (20)"])
    page.select_option("#map-colour", "city")
    assert legend.count() == 12
    assert "and 3 more in grey" in page.inner_text("#map-legend")
    before = page.evaluate("document.getElementById('map-canvas').toDataURL()")
    legend.first.click()
    assert legend.first.get_attribute("aria-pressed") == "true"
    assert page.evaluate("document.getElementById('map-canvas').toDataURL()") != before
    page.fill("#map-search", "speaker-0007")
    assert page.inner_text("#map-status").startswith("speaker-0007, city c7, gender m, cluster ")
    assert page.title() != "1"
    assert page.problems == []


def test_errors_can_be_played(browser, address):
    page = opened(browser, address)
    sound = page.locator("#errors audio").first
    sound.evaluate("one => new Promise(ready => { one.onloadedmetadata = ready; one.load(); })")
    assert 0.5 < sound.evaluate("one => one.duration") < 5
    assert page.problems == []


def test_curves_are_shown_over_steps_or_over_time(browser, address):
    page = opened(browser, address)
    assert page.is_visible("#over-steps")
    assert page.is_hidden("#over-time")
    page.click("text=Over time")
    assert page.is_hidden("#over-steps")
    assert page.is_visible("#figure-loss-over-time")
    assert page.problems == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(browser, address, scheme):
    page = opened(browser, address, width=390, scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 28)"
    assert dark is (scheme == "dark")
    picture(page, f"phone-{scheme}")
    assert page.problems == []


def test_long_lists_are_folded_on_a_phone_and_open_elsewhere(browser, address):
    assert opened(browser, address).is_visible("#errors article >> nth=0")
    phone = opened(browser, address, width=390)
    assert phone.is_hidden("#errors article >> nth=0")
    phone.click("#errors summary >> nth=0")
    assert phone.is_visible("#errors article >> nth=0")


def test_on_paper_there_is_nothing_to_click(browser, address):
    page = opened(browser, address)
    page.emulate_media(media="print")
    for selector in ("nav", ".controls", ".switch", "#errors audio"):
        assert page.locator(selector).first.is_hidden(), selector
    assert page.is_visible("#errors article >> nth=0")
