"""What lies as JSON beside the scores of runs, as figures."""

import json
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from fabricated_findings import fabricated_run

from chns.core import RunFolderError
from chns.evaluation.conditions import sweep_conditions, sweep_rates
from chns.evaluation.groups import group_rates
from chns.evaluation.identification import identification_rates
from chns.evaluation.spoofing import spoof_metrics
from chns.report.drawing import run_groups
from chns.report.page import write_report
from chns.report.review import read_looks, review_figures


@pytest.fixture
def run(tmp_path):
    """A run of a name, with a folder of its own for scores."""

    def run(name):
        (tmp_path / name / "scores").mkdir(parents=True)
        return replace(fabricated_run("supcon"), name=name, path=tmp_path / name)

    return run


@pytest.fixture(scope="module")
def contents():
    """What the four measurements really write, by file name."""
    rng = np.random.default_rng(0)
    one, other = rng.integers(12, size=(2, 900))
    other[:300] = one[:300]
    is_target = one == other
    scores = rng.normal(size=900) + 2.5 * is_target
    conditions = sweep_conditions(["duration=1,3", "snr=0,10", "codec=opus,gsm"], sample_rate_hz=16_000)
    several = np.stack([scores - 0.1 * row * is_target for row in range(7)])
    swept = sweep_rates(
        several, is_target, (one, other), conditions, noise="made up", test_seconds=[2.0], num_resamples=20
    )
    gender = np.array(["f", "m"])
    values = gender[one % 2], gender[other % 2]
    groups = group_rates(scores, is_target, (one, other), values, column="gender", num_resamples=20)
    labels = np.repeat(np.arange(60), 6)
    embeddings = (rng.normal(size=(60, 8))[labels] + rng.normal(size=(360, 8))).astype(np.float32)
    galleries = identification_rates(embeddings, labels, [5, 20], fpir=0.05, draws=2, num_resamples=5)
    kinds = rng.integers(3, size=900)
    spoofed = spoof_metrics(rng.normal(size=900) + kinds, kinds, countermeasure=rng.normal(size=900))
    return {
        "hard.sweep": swept.to_json(),
        "hard.metrics": {"eer": 0.1, "by": {"gender": groups.to_json()}},
        "gallery": galleries.to_json(),
        "sasv.metrics": spoofed.to_json(),
    }


def written(run, contents):
    for name, content in contents.items():
        (run.path / "scores" / f"{name}.json").write_text(json.dumps(content))
    return run


def texts(svg):
    return [element.text for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("text")]


@pytest.mark.slow
def test_each_measurement_is_a_figure_that_its_runs_share(run, contents, tmp_path):
    one, two = written(run("one"), contents), written(run("two"), {"gallery": contents["gallery"]})
    figures = review_figures(tmp_path / "figures", run_groups([one, two]))
    titles = ["gallery: identification", "hard: by gender", "hard: duration", "hard: snr", "hard: codec"]
    assert [figure.alt.split(": ")[0].split(", ")[1] for figure in figures] == [
        t.split(":")[0] for t in [*titles, "sasv: x"]
    ]
    drawn = {figure.name: texts(figure.svg) for figure in figures}
    for title, shown in zip([*titles, "sasv: with spoofs"], drawn.values(), strict=True):
        assert title in shown
    assert {"one", "two", "Speakers in the gallery", "FNIR (%)", "5", "20"} <= set(drawn["review-1"])
    assert "two" not in drawn["review-2"]
    assert {"f", "m", "EER (%)"} <= set(drawn["review-2"])
    assert {"Seconds of the test utterance", "one, as recorded"} <= set(drawn["review-3"])
    assert "Noise: made up." in figures[3].caption
    assert {"opus", "gsm", "as recorded"} <= set(drawn["review-5"])
    assert {"SASV-EER", "SPF-EER", "countermeasure"} <= set(drawn["review-6"])
    assert "Lowest a-DCF: " in figures[5].caption
    assert len(list((tmp_path / "figures").glob("review-*.svg"))) == 6


def test_points_are_the_numbers_that_were_written(run, contents):
    looks = {look.title: look for look in read_looks(written(run("one"), contents).path)}
    duration = looks["hard: duration"].points
    conditions = contents["hard.sweep"]["sweep"]["conditions"]
    assert [(p.label, p.place, p.rate) for p in duration] == [
        ("as recorded", None, conditions[0]["rates"]["eer"]["estimate"]),
        ("1", 1.0, conditions[1]["rates"]["eer"]["estimate"]),
        ("3", 3.0, conditions[2]["rates"]["eer"]["estimate"]),
    ]
    assert duration[1].low == conditions[1]["rates"]["eer"]["low"]
    sasv = looks["sasv: with spoofs"].points[0]
    assert sasv.low == sasv.rate == sasv.high  # no speakers, no interval


def test_what_is_not_there_is_not_drawn_and_other_json_is_left_alone(run, tmp_path):
    other = written(run("one"), {"notes": {"hello": 1}})
    assert review_figures(tmp_path / "figures", run_groups([other, run("two")])) == []


@pytest.mark.parametrize("text", ["{", '{"sweep": 1}', '{"by": {"gender": {}}}', '{"identification": {}}', "[1]" * 2])
def test_a_damaged_file_is_named(run, text):
    one = run("one")
    (one.path / "scores" / "x.json").write_text(text)
    with pytest.raises(RunFolderError, match=r"x\.json must be what `chns evaluate` or `chns metrics` writes"):
        read_looks(one.path)


def test_names_of_strangers_stay_names(run, tmp_path):
    hostile = '<script>alert("&")</script> $\\frac{1}{$'
    point = {"estimate": 0.1, "low": None, "high": None}
    groups = [{"name": hostile, "rates": {"eer": point}}]
    one = written(run("one"), {"x": {"by": {hostile: {"groups": groups}}}})
    (figure,) = review_figures(tmp_path / "figures", run_groups([one]))
    assert "<script" not in figure.svg


def test_the_page_has_a_section_for_them_where_there_are_any(run, contents, tmp_path, undrawn):
    report = write_report(tmp_path / "with", [written(run("one"), {"gallery": contents["gallery"]})])
    without = write_report(tmp_path / "without", [run("two")])
    pages = [one.page.read_text() for one in (report, without)]
    assert '<section id="review">' in pages[0]
    assert 'href="#review"' in pages[0]
    assert 'id="figure-review-1"' in pages[0]
    assert 'id="review"' not in pages[1]
    assert 'href="#review"' not in pages[1]
    assert report.num_figures == without.num_figures + 1
