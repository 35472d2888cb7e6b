"""The page: whole, self-contained, and unmoved by names that are pieces of HTML."""

import base64
import csv
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from fabricated_findings import STRATEGIES, fabricated_run, fabricated_runs

from chns.core import RunFolderError
from chns.report.page import map_data, write_report
from chns.report.run_findings import read_comparison
from chns.report.tables import run_rows, verdict_boxes

HOSTILE_SPEAKER = "<script>alert({})</script>"
SECTIONS = ["runs", "det", "scores", "hardness", "map", "clusters", "training", "errors", "duplicates"]


class Elements(HTMLParser):
    """Every start tag with its attributes."""

    def __init__(self, html):
        super().__init__()
        self.tags = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def ids(self):
        return [attributes["id"] for _, attributes in self.tags if "id" in attributes]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    runs = fabricated_runs(speaker=HOSTILE_SPEAKER, num_trials=200, trial_lists=("vox<b>",))
    written = write_report(folder, runs)
    return folder, runs, written, (folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture
def comparison_folder(tmp_path):
    value = {"estimate": 0.0812, "low": 0.07, "high": 0.09, "level": 0.95}
    seeds = {"per_seed": [0.08, 0.0824]}
    better = {**seeds, "mean": value, "difference": {"estimate": -0.01, "low": -0.0153, "high": -0.002, "level": 0.95}}
    same = {**seeds, "mean": value, "difference": {"estimate": 0.0, "low": -0.01, "high": 0.01, "level": 0.95}}
    base = {**seeds, "mean": value, "difference": None}
    content = {
        "baseline": "supcon",
        "seeds": [0, 1],
        "steps": 1200,
        "segments_per_step": 64,
        "strategies": {"supcon": {}, "chns": {}, "../..": {}},
        "trial_lists": {
            "hard": {
                "speakers": 100,
                "target_trials": 500,
                "nontarget_trials": 700,
                "results": {
                    "supcon": dict.fromkeys(("eer", "min_dcf_0.05", "min_dcf_0.01"), base),
                    "chns": {"eer": better, "min_dcf_0.05": same, "min_dcf_0.01": same},
                },
            }
        },
        "verdicts": [
            {
                "strategy": "chns",
                "twin": {"name": "supcon", "other_differences": []},
                "effect": "helped",
                "changes": [
                    {"trial_list": "hard", "metric": "eer", "before": 0.0812, "difference": better["difference"]}
                ],
                "headline": "Hard sampling (chns against supcon) helped.",
                "caveats": ["Two seeds."],
                "findings": [{"rule": "easy", "text": "Random batches had become <easy>.", "try_next": []}],
                "next_steps": ["more seeds"],
            }
        ],
    }
    (tmp_path / "comparison.json").write_text(json.dumps(content))
    for training in ("supcon/seed-0", "chns/seed-0", "chns/seed-1"):
        (tmp_path / training).mkdir(parents=True)
        (tmp_path / training / "config.yaml").write_text("{}")
    return tmp_path


def test_a_report_has_a_page_figures_of_both_kinds_and_the_duplicates(report):
    folder, _, written, _ = report
    assert written.page == folder / "report.html"
    stems = {path.stem for path in (folder / "figures").iterdir()}
    assert {f"{stem}.{kind}" for stem in stems for kind in ("png", "svg")} == {
        path.name for path in (folder / "figures").iterdir()
    }
    assert len(stems) == written.num_figures == 15
    with (folder / "suspected_duplicates.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == written.num_duplicates == 25


def test_the_page_reaches_for_nothing_outside_itself(report):
    elements = Elements(report[3])
    for tag, attributes in elements.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form", "img", "image")
        assert "src" not in attributes
        assert attributes.get("href", "#").startswith("#")
        assert not any(name.startswith("on") for name in attributes)
    outside = re.findall(r"https?://[^\s\"'<>)]+", report[3])
    assert set(outside) <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert "@import" not in report[3]


def test_the_policy_allows_the_page_s_own_script_and_no_connection(report):
    elements = Elements(report[3])
    policy = next(a["content"] for tag, a in elements.tags if a.get("http-equiv") == "Content-Security-Policy")
    scripts = re.findall(r"<script>(.*?)</script>", report[3], re.S)
    assert len(scripts) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")


def test_speakers_and_trial_lists_whose_names_are_html_stay_names(report):
    folder, runs, _, html = report
    tags = [tag for tag, _ in Elements(html).tags]
    assert tags.count("script") == 2
    assert "b" not in tags
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert(" in html
    assert "\\u003cscript\\u003ealert(" in html
    assert [one["names"] for one in map_of(html)["speakers"]] == [list(runs[0].speaker_map.speakers)]
    for path in (folder / "figures").glob("*.svg"):
        assert "<b>" not in path.read_text()


def map_of(html):
    return json.loads(re.search(r'id="map-data">(.*?)</script>', html, re.S)[1])


def test_ids_are_unique_and_every_anchor_leads_somewhere(report):
    elements = Elements(report[3])
    ids = elements.ids()
    assert len(ids) == len(set(ids))
    anchors = [attributes["href"] for tag, attributes in elements.tags if tag == "a"]
    assert anchors == [f"#{section}" for section in SECTIONS]
    assert set(SECTIONS) <= set(ids)


def test_every_figure_has_alternative_text_and_a_caption_and_every_header_a_scope(report):
    elements = Elements(report[3])
    figures = sum(tag == "figure" for tag, _ in elements.tags)
    assert figures == 12  # the three maps are files only
    assert sum(tag == "figcaption" for tag, _ in elements.tags) == figures - 2  # text around dots and DET is theirs
    drawings = [attributes for tag, attributes in elements.tags if tag in ("svg", "canvas")]
    assert len(drawings) == figures + 1
    assert all(attributes["role"] == "img" and attributes["aria-label"] for attributes in drawings)
    assert all("scope" in attributes for tag, attributes in elements.tags if tag == "th")


def test_the_page_shows_rates_thresholds_and_ten_duplicates(report):
    _, runs, _, html = report
    for run in runs:
        metrics = run.scored["vox<b>"].metrics
        assert f"{100 * metrics.eer:.2f}" in html
        assert f"{metrics.min_dcf[0.05]:.3f}" in html
    threshold = runs[0].scored["vox<b>"].metrics.threshold
    assert f"threshold {threshold:.3f}" in html
    assert "chns, chns_hscl: other trials than supcon" in html
    assert "10 of 25 pairs" in html


def test_a_report_of_findings_without_data_says_why_in_every_section(tmp_path):
    empty = replace(
        fabricated_run("supcon"),
        log={"step": fabricated_run().log["step"]},
        scored={},
        speaker_map=None,
        cluster_shapes=None,
        batch_hardness=None,
        duplicates=None,
        num_training_speakers=None,
    )
    written = write_report(tmp_path, [empty])
    html = written.page.read_text()
    sections = re.findall(r'<section id="(\w+)">(.*?)</section>', html, re.S)
    assert [name for name, _ in sections] == SECTIONS
    for name, section in sections:
        said_before = name in ("det", "scores", "errors")  # no score file: said once, in the section of the runs
        assert ('class="missing"' in section) != said_before
    assert "--manifest" in html
    assert "chns evaluate" in html
    assert written.num_figures == 0
    assert "nothing can be said about its errors" in " ".join(written.summary)


def test_the_best_value_of_a_column_is_marked_and_a_list_that_was_not_scored_left_open():
    runs = fabricated_runs(trial_lists=("a",))
    runs[1] = replace(runs[1], scored={})
    rows = run_rows(runs, ["a"])
    eers = [run.scored["a"].metrics.eer if run.scored else 1.0 for run in runs]
    assert [row.cells[0].is_best for row in rows] == [eer == min(eers) for eer in eers]
    assert [cell.text for cell in rows[1].cells] == ["\N{EN DASH}"] * 3
    assert not any(cell.is_best for cell in rows[1].cells)
    assert not any(cell.is_best for cell in run_rows(runs[:1], ["a"])[0].cells)


def test_map_coordinates_keep_their_proportions_and_names_are_shared():
    runs = fabricated_runs()
    content = map_data([*runs, replace(runs[0], speaker_map=None)])
    assert len(content["speakers"]) == 1
    assert [run["name"] for run in content["runs"]] == list(STRATEGIES)
    for run, drawn in zip(runs, content["runs"], strict=True):
        points = run.speaker_map.points
        extent = points.max(axis=0) - points.min(axis=0)
        assert max(drawn["size"]) == 2_000
        assert drawn["size"][0] / drawn["size"][1] == pytest.approx(extent[0] / extent[1], rel=0.01)
        assert drawn["clusters"] is None or len(drawn["clusters"]) == 60


def test_decisions_of_a_run_are_listed_under_its_name_escaped_and_bounded(tmp_path, undrawn):
    lines = ["epoch 1: <b>hard</b> ratio 0 -> 0.5", "x" * 5_000, "bell \x07", *(f"epoch {n}: more" for n in range(70))]
    runs = [replace(fabricated_run("chns", trial_lists=()), decisions=lines), fabricated_run(trial_lists=())]
    html = write_report(tmp_path, runs).page.read_text()
    listed = re.search(r'<ul class="decisions">(.*?)</ul>', html, re.S)[1]
    assert "epoch 1: &lt;b&gt;hard&lt;/b&gt; ratio 0 -&gt; 0.5" in listed
    assert "x" * 200 in listed
    assert "x" * 201 not in listed
    assert "bell \N{REPLACEMENT CHARACTER}" in listed
    assert listed.count("<li>") == 50
    assert "23 more are in" in html
    assert html.count('class="decisions"') == 1
    before = html[: html.index('<ul class="decisions">')]
    assert before.rindex("</span>chns") > before.rindex("What the runs decided")


def test_without_decisions_nothing_is_said_of_them(report):
    assert "decided" not in report[3]


def test_runs_of_a_report_are_at_least_one_and_differ_in_name(tmp_path):
    with pytest.raises(ValueError, match="runs must be at least one, with different names, got none"):
        write_report(tmp_path, [])
    with pytest.raises(ValueError, match="got supcon, supcon"):
        write_report(tmp_path, [fabricated_run(), fabricated_run()])


def test_a_comparison_leads_the_page_and_marks_what_is_measurable(comparison_folder, undrawn):
    comparison = read_comparison(comparison_folder)
    run = replace(fabricated_run(trial_lists=()), speaker_map=None, batch_hardness=None, log={})
    written = write_report(comparison_folder / "report", [run], comparison=comparison)
    html = written.page.read_text()
    assert written.summary[0] == "Hard batches made 12 % fewer errors on hard trials."
    assert html.index("<h1>Hard batches made 12") < html.index("Hard sampling (chns against supcon) helped.")
    assert "<strong>\N{MINUS SIGN}1.53 to \N{MINUS SIGN}0.20</strong>" in html
    assert "\N{MINUS SIGN}0.010 to +0.010" in html
    assert "Random batches had become &lt;easy&gt;." in html
    assert 'href="#comparison"' in html


def test_findings_and_advice_that_verdicts_share_are_on_the_page_once(comparison_folder, undrawn):
    comparison = read_comparison(comparison_folder)
    first = comparison.verdicts[0]
    auto = replace(first, headline="Hard sampling (auto against supcon) helped.")
    other = replace(first, headline="Hard sampling (own against supcon) helped.", next_steps=["fewer clusters"])
    boxes = verdict_boxes(replace(comparison, verdicts=[first, auto, other]))
    assert [box.headlines for box in boxes] == [[first.headline, auto.headline], [other.headline]]
    assert [box.next_steps for box in boxes] == [["more seeds"], ["fewer clusters"]]
    run = replace(fabricated_run(trial_lists=()), speaker_map=None, batch_hardness=None, log={})
    both = replace(comparison, verdicts=[first, auto])
    html = write_report(comparison_folder / "report", [run], comparison=both).page.read_text()
    assert f"<h3>{first.headline}</h3>" in html
    assert f"<h3>{auto.headline}</h3>" in html
    assert html.count("more seeds") == html.count("Random batches had become &lt;easy&gt;.") == 1


def test_a_comparison_brings_its_own_trainings_and_none_from_elsewhere(comparison_folder):
    runs = read_comparison(comparison_folder).runs
    assert [run.relative_to(comparison_folder).as_posix() for run in runs] == [
        "supcon/seed-0",
        "chns/seed-0",
        "chns/seed-1",
    ]


def test_a_comparison_that_was_moved_with_its_trial_lists_finds_them(comparison_folder, tmp_path_factory):
    content = json.loads((comparison_folder / "comparison.json").read_text())
    there = tmp_path_factory.mktemp("before") / "comparison"
    named = {"manifest": str(there / "test.parquet"), "root": str(there / "recordings")}
    content |= {"folder": str(there), "trial_lists": {"hard": {**content["trial_lists"]["hard"], **named}}}
    (comparison_folder / "comparison.json").write_text(json.dumps(content))
    (told,) = read_comparison(comparison_folder).lists
    assert (told.manifest, told.root) == (named["manifest"], named["root"])  # nothing lies beside it
    here = comparison_folder
    (here / "test.parquet").touch()
    (here / "recordings").mkdir()
    (told,) = read_comparison(here).lists
    assert (told.manifest, told.root) == (str(here / "test.parquet"), str(here / "recordings"))


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"strategies": 1, "seeds": []}', "\x00"])
def test_a_damaged_comparison_is_refused(tmp_path, content):
    (tmp_path / "comparison.json").write_text(content)
    with pytest.raises(RunFolderError, match=r"comparison\.json must be what `chns compare` writes, got"):
        read_comparison(tmp_path)


def test_a_folder_without_a_comparison_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"comparison must be a folder with comparison\.json"):
        read_comparison(tmp_path)
