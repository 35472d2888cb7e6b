"""Figures: what is drawn, how it looks inside a page, and that names of strangers do no harm."""

from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from fabricated_findings import STRATEGIES, fabricated_run, fabricated_runs
from matplotlib.figure import Figure

from chns.core import ChnsError, percent
from chns.report import curve_figures, drawing
from chns.report.curve_figures import QUANTITIES, by_trial_list, det_figures, measured, score_figures, training_figures
from chns.report.drawing import (
    COLOURS,
    PAPER,
    coinciding,
    draw,
    inline_svg,
    label_of,
    mean_curve,
    require_libraries,
    run_groups,
)
from chns.report.speaker_figures import cluster_figures, hardness_figures, map_figure

HOSTILE = '<script>alert("&")</script> $\\frac{1}{$ \x1b[31m \udc80 id="x"'


@pytest.fixture(scope="module")
def runs():
    return fabricated_runs(trial_lists=("hard",))


@pytest.fixture(scope="module")
def det(runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("det")
    return folder, det_figures(folder, by_trial_list(runs), run_groups(runs))[0]


def texts(svg):
    return [element.text for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("text")]


def test_a_figure_is_a_png_an_svg_and_an_element_of_the_page(det):
    folder, figure = det
    assert sorted(path.name for path in folder.iterdir()) == ["det-1.png", "det-1.svg"]
    assert (folder / "det-1.png").read_bytes().startswith(b"\x89PNG")
    assert ElementTree.parse(folder / "det-1.svg").getroot().tag == "{http://www.w3.org/2000/svg}svg"
    element = ElementTree.fromstring(figure.svg)
    assert element.tag == "svg"
    assert element.get("role") == "img"
    assert element.get("aria-label") == figure.alt
    assert "width" not in element.attrib


def test_a_det_figure_has_labelled_axes_every_run_and_the_operating_points(det, runs):
    drawn = texts(det[1].svg)
    for text in ("False-alarm rate (%)", "Miss rate (%)", "EER", "minDCF 0.01", "minDCF 0.05", *STRATEGIES):
        assert text in drawn
    for run in runs:
        assert f"{run.name} EER {percent(run.scored['hard'].metrics.eer)}" in det[1].alt


def test_det_figures_of_all_lists_have_the_same_axes_with_every_marker_inside(tmp_path, monkeypatch):
    runs = fabricated_runs(trial_lists=("easy", "hard"))
    drawn = []
    plot = curve_figures._plot_det

    def kept(axes, trial_list, lists, limits):
        drawn.append((axes.get_figure(), axes, lists))
        return plot(axes, trial_list, lists, limits)

    monkeypatch.setattr(curve_figures, "_plot_det", kept)
    det_figures(tmp_path, by_trial_list(runs), run_groups(runs))
    (_, first, _), (_, second, _) = drawn
    assert (first.get_xlim(), first.get_ylim()) == (second.get_xlim(), second.get_ylim())
    for _, axes, lists in drawn:
        for x, y in np.concatenate([one.points.reshape(-1, 2) for one in lists]):
            assert axes.get_xlim()[0] < x < axes.get_xlim()[1]
            assert axes.get_ylim()[0] < y < axes.get_ylim()[1]


def test_the_mean_of_curves_is_taken_where_all_of_them_are():
    one, other = np.array([[0.0, 0.0], [4.0, 4.0]]), np.array([[1.0, 3.0], [3.0, 5.0]])
    np.testing.assert_allclose(mean_curve([one, other]), [[1, 2], [3, 4]])
    assert mean_curve([one]) is one
    np.testing.assert_allclose(mean_curve([one[:1], other[:1]]), [[0.5, 1.5]])


def test_curves_that_coincide_are_named():
    line = np.array([[0.0, 0.0], [1.0, 1.0]])
    near, far, beside = (np.add(line, shift) for shift in ((0, 0.01), (0, 1), (5, 0)))
    assert coinciding({"a": line, "b": near, "c": far}, within=0.02) == "On one another: a and b."
    assert coinciding({"a": line, "c": beside}, within=0.02) == ""
    runs = [replace(run, scored=fabricated_run().scored) for run in fabricated_runs()[:2]]
    det, _ = curve_figures._det_of(run_groups(runs), by_trial_list(runs)["hard"])
    assert coinciding({"x": det.curve, "y": det.curve}, within=0.0)


def test_a_det_figure_shows_a_system_without_errors(tmp_path):
    run = fabricated_run(separation=40.0, trial_lists=("easy",), num_trials=60)
    assert run.scored["easy"].metrics.eer == 0
    (figure,) = det_figures(tmp_path, by_trial_list([run]), run_groups([run]))
    assert "NaN" not in figure.svg
    assert "EER 0.00 %" in figure.alt


def test_inside_the_page_a_figure_has_the_page_s_colours_and_fonts_and_none_of_its_own(det, runs):
    folder, figure = det
    for style in (group.style for group in run_groups(runs)):
        assert f"var({style.colour.variable})" in figure.svg
        assert style.colour.light not in figure.svg
        assert style.colour.light in (folder / "det-1.svg").read_text()
    assert "var(--font)" in figure.svg
    assert "DejaVu" not in figure.svg
    assert "#" not in figure.svg.replace("url(#det-1-", "").replace('href="#det-1-', "")


def test_ids_of_a_figure_begin_with_its_name_and_every_reference_is_found(det):
    _, figure = det
    ids = {element.get("id") for element in ElementTree.fromstring(figure.svg).iter() if "id" in element.attrib}
    assert ids
    assert all(identifier.startswith("det-1-") for identifier in ids)
    for element in ElementTree.fromstring(figure.svg).iter():
        if "href" in element.attrib:
            assert element.get("href").removeprefix("#") in ids
        if "clip-path" in element.attrib:
            assert element.get("clip-path")[len("url(#") : -1] in ids


def test_the_same_findings_give_the_same_figure(det, runs, tmp_path):
    folder, figure = det
    assert det_figures(tmp_path, by_trial_list(runs), run_groups(runs)) == [figure]
    assert (tmp_path / "det-1.svg").read_bytes() == (folder / "det-1.svg").read_bytes()


@pytest.mark.slow
def test_hostile_names_are_text_and_nothing_else(tmp_path):
    run = fabricated_run(HOSTILE, strategy="SupCon, random batches", trial_lists=(HOSTILE,))
    lists, groups = by_trial_list([run]), run_groups([run])
    for figure in (*det_figures(tmp_path, lists, groups), *score_figures(tmp_path, lists, groups)):
        assert "<script" not in figure.svg
        assert "&lt;script" in figure.svg
        assert {element.tag for element in ElementTree.fromstring(figure.svg).iter()} <= {
            "svg", "defs", "style", "g", "path", "text", "use", "clipPath", "rect",
        }  # fmt: skip
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["det-1", "det-1", "scores-1", "scores-1"]


def test_labels_are_printable_short_and_kept_in_legends():
    assert label_of("a\x00b\udc80") == "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}"
    assert label_of("plain name") == "plain name"
    assert len(label_of("x" * 500)) <= 35
    assert not label_of("_hidden").startswith("_")
    assert label_of("_hidden").endswith("_hidden")


def test_a_name_in_another_script_is_drawn_without_a_warning(tmp_path):
    figure = draw(
        tmp_path, "one", lambda axes: [(axes.plot([0, 1], [0, 1])[0], "_話者 1")], alt="two points", caption="a line"
    )
    assert "話者 1" in figure.svg


def test_runs_of_one_strategy_are_a_group_of_one_colour():
    runs = [fabricated_run(f"{name}/{seed}", seed=seed) for name in STRATEGIES for seed in range(3)]
    groups = run_groups(runs)
    assert [group.label for group in groups] == list(STRATEGIES)
    assert [[run.name for run in group.runs] for group in groups] == [
        [f"{n}/{s}" for s in range(3)] for n in STRATEGIES
    ]
    assert len({group.style.colour for group in groups}) == 3


def test_where_settings_are_known_only_runs_that_differ_in_nothing_but_the_seed_are_a_group():
    def run(name, rate, seed):
        return replace(fabricated_run(name, strategy="s"), settings={"optimizer.learning_rate": rate, "seed": seed})

    runs = [run("a/seed-0", 1, 0), run("b/seed-0", 2, 0), run("a/seed-1", 1, 1)]
    assert [[one.name for one in group.runs] for group in run_groups(runs)] == [["a/seed-0", "a/seed-1"], ["b/seed-0"]]
    assert [group.label for group in run_groups(runs)] == ["a", "b/seed-0"]


def test_more_strategies_than_colours_differ_in_dashes():
    groups = run_groups([fabricated_run(f"r{number}", strategy=f"s{number}") for number in range(20)])
    assert len({group.style for group in groups}) == 20


def luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def contrast(one, other):
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_colour_but_the_grid_s_stands_out_from_the_page(theme):
    for colour in COLOURS:
        if colour.variable not in ("--paper", "--grid"):
            least = 4.5 if colour.variable in ("--ink", "--muted") else 3.0
            assert contrast(getattr(colour, theme), getattr(PAPER, theme)) >= least, colour


def test_no_two_variables_have_one_light_colour():
    assert len({colour.light for colour in COLOURS}) == len(COLOURS)


def test_a_score_figure_has_a_row_a_strategy_and_says_means_and_threshold(runs, tmp_path):
    (figure,) = score_figures(tmp_path, by_trial_list(runs), run_groups(runs))
    for run in runs:
        scored = run.scored["hard"]
        targets = scored.scores[scored.trials.is_target]
        said = f"{run.name}: targets {targets.mean():.2f}, non-targets "
        assert said in figure.caption
        assert f"threshold {scored.metrics.threshold:.2f}" in figure.caption
        assert run.name in texts(figure.svg)
    assert {"targets", "non-targets", "threshold of the EER", "Score (cosine)"} <= set(texts(figure.svg))


def test_equal_scores_of_one_value_have_a_histogram(tmp_path):
    run = fabricated_run(trial_lists=("flat",))
    scored = run.scored["flat"]
    flat = replace(run, scored={"flat": replace(scored, scores=np.full(len(scored.scores), 0.5))})
    assert score_figures(tmp_path, by_trial_list([flat]), run_groups([flat]))[0].svg


@pytest.mark.parametrize(
    ("kind", "called"), [("clustered", "clustered batches"), ("neighbours", "batches of neighbours")]
)
def test_a_hardness_figure_says_how_hard_batches_of_either_kind_are(runs, tmp_path, kind, called):
    hardness = replace(runs[1].batch_hardness, kind=kind)
    (figure,) = hardness_figures(tmp_path, run_groups([replace(runs[1], batch_hardness=hardness)]))
    said = f"mean {hardness.random.mean():.3f} in random batches, {hardness.hard.mean():.3f} in {called}"
    assert said in figure.caption
    assert "with the closest other speaker 0.610 and 0.740" in figure.caption
    assert {"random batches", "hard batches", "chns"} <= set(texts(figure.svg))


@pytest.mark.slow
def test_runs_of_random_batches_are_in_a_figure_of_their_own(runs, tmp_path):
    trained, apart = hardness_figures(tmp_path, run_groups(runs))
    assert {"chns", "chns_hscl"} <= set(texts(trained.svg))
    assert "supcon" not in texts(trained.svg)
    assert "supcon" in texts(apart.svg)
    assert hardness_figures(tmp_path, run_groups([replace(runs[0], batch_hardness=None)])) == []


@pytest.mark.slow
def test_cluster_figures_show_the_runs_that_have_clusters(runs, tmp_path):
    for figure in cluster_figures(tmp_path, run_groups(runs)):
        drawn = texts(figure.svg)
        assert {"chns", "chns_hscl"} <= set(drawn)
        assert "supcon" not in drawn


def test_a_map_of_many_speakers_is_a_small_file(tmp_path):
    run = fabricated_run("chns", num_speakers=6_000, num_clusters=50, trial_lists=())
    figure = map_figure(tmp_path, "map-1", run.name, run.speaker_map)
    assert "6,000 training speakers" in figure.alt
    assert (tmp_path / "map-1.svg").stat().st_size < 500_000


def test_a_training_figure_has_the_runs_that_measured_the_quantity(runs, tmp_path):
    loss = QUANTITIES[0]
    silent = replace(runs[0], log={**runs[0].log, "loss": np.full(40, np.nan)})
    figure, over_time = training_figures(tmp_path, loss, run_groups([silent, *runs[1:]]))
    assert {"Training loss", "Step", "Loss", "chns"} <= set(texts(figure.svg))
    assert "supcon" not in texts(figure.svg)
    assert over_time is None  # logs of older runs have no clock
    assert training_figures(tmp_path, QUANTITIES[1], run_groups([replace(silent, log={})])) == (None, None)


@pytest.mark.slow
def test_curves_are_drawn_over_time_too_where_the_log_has_a_clock(runs, tmp_path):
    timed = [replace(run, log={**run.log, "elapsed_seconds": 60 * run.log["step"]}) for run in runs]
    _, over_time = training_figures(tmp_path, QUANTITIES[0], run_groups(timed))
    assert {"Minutes", "chns"} <= set(texts(over_time.svg))
    curve = measured(timed[0].log, QUANTITIES[0], over="elapsed_seconds")
    np.testing.assert_allclose(curve, measured(timed[0].log, QUANTITIES[0]))


def test_easy_anchors_are_drawn_in_percent_if_some_run_has_logged_them(runs, tmp_path):
    easy = next(quantity for quantity in QUANTITIES if quantity.column == "easy_anchor_share")
    assert training_figures(tmp_path, easy, run_groups(runs))[0] is None
    newer = replace(runs[2], log={**runs[2].log, "easy_anchor_share": np.full(40, 0.93)})
    figure, _ = training_figures(tmp_path, easy, run_groups([runs[1], newer]))
    assert figure.alt == f"Easy anchors over steps. At the end: {newer.name} 93"


def test_hard_ratios_of_one_schedule_are_said_to_lie_on_one_another(runs, tmp_path):
    hard_ratio = next(quantity for quantity in QUANTITIES if quantity.column == "hard_ratio")
    figure, _ = training_figures(tmp_path, hard_ratio, run_groups(runs))
    assert figure.caption.endswith("On one another: chns and chns_hscl.")


def test_a_short_curve_is_whole_within_its_axes_and_one_jump_of_many_sets_no_scale():
    negatives = next(quantity for quantity in QUANTITIES if quantity.column == "negative_similarity_mean")
    axes = Figure().subplots()
    few = np.stack((np.arange(6.0), [0.01, 0.0, 0.03, 0.02, 0.19, -0.02]), axis=1)
    curve_figures._set_range(axes, negatives, [few])
    assert axes.get_ylim() == pytest.approx((-0.0326, 0.2026))
    many = np.stack((np.arange(200.0), np.where(np.arange(200) == 7, 100.0, 1.0)), axis=1)
    curve_figures._set_range(axes, negatives, [many])
    assert axes.get_ylim() == pytest.approx((0, 1.06))


def test_many_logged_values_are_averaged_and_gaps_left_out():
    steps = np.arange(10_000.0)
    points = measured({"step": steps, "loss": np.where(steps % 2, np.nan, 2 * steps)}, QUANTITIES[0])
    assert len(points) == 200
    np.testing.assert_allclose(points[:, 1], 2 * points[:, 0])
    assert len(measured({"step": steps}, QUANTITIES[0])) == 0


@pytest.mark.parametrize("library", ["matplotlib", "jinja2"])
def test_a_missing_library_is_named_with_what_installs_it(monkeypatch, library):
    find_spec = drawing.importlib.util.find_spec
    monkeypatch.setattr(drawing.importlib.util, "find_spec", lambda name: None if name == library else find_spec(name))
    with pytest.raises(ChnsError, match=rf"{library} must be installed .* Run `pip install 'chns\[report\]'`"):
        require_libraries()


def test_coordinates_are_short_and_turned_text_stays_turned():
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" width="9pt"><metadata>m</metadata>'
        '<path d="M 1.234567 -0.0001 L 2 3.5"/><text transform="rotate(-90 1.5 2.5)" style="fill: #1b1f24">y</text>'
        '<text transform="rotate(-0 1.5 2.5)">x</text></svg>'
    )
    element = ElementTree.fromstring(inline_svg(svg, name="n", label="l"))
    path, turned, level = element
    assert path.get("d") == "M 1.23 -0 L 2 3.5"
    assert turned.get("transform") == "rotate(-90 1.5 2.5)"
    assert turned.get("style") == "fill: var(--ink)"
    assert "transform" not in level.attrib
