"""Figures: what is drawn, how it looks inside a page, and that names of strangers do no harm."""

import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from fabricated_findings import STRATEGIES, fabricated_run, fabricated_runs

from chns.core.errors import ChnsError
from chns.report import drawing
from chns.report.drawing import COLOURS, PAPER, draw, inline_svg, label_of, require_libraries, run_styles
from chns.report.error_figures import by_trial_list, det_figure, score_figure, score_limits
from chns.report.speaker_figures import hardness_figure, hardness_limits, map_figure, sizes_figure, tightness_figure
from chns.report.training_figures import QUANTITIES, measured, training_figure

HOSTILE = '<script>alert("&")</script> $\\frac{1}{$ \x1b[31m \udc80 id="x"'


@pytest.fixture(scope="module")
def runs():
    return fabricated_runs(trial_lists=("hard",))


@pytest.fixture(scope="module")
def det(runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("det")
    return folder, det_figure(folder, "det-1", "hard", by_trial_list(runs)["hard"], run_styles(runs))


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
    best = min(runs, key=lambda run: run.scored["hard"].metrics.eer)
    assert f"Lowest EER: {best.name}, {best.scored['hard'].metrics.eer:.2%}" in det[1].caption


def test_a_det_figure_shows_a_system_without_errors(tmp_path):
    run = fabricated_run(separation=40.0, trial_lists=("easy",), num_trials=60)
    assert run.scored["easy"].metrics.eer == 0
    figure = det_figure(tmp_path, "det-1", "easy", by_trial_list([run])["easy"], run_styles([run]))
    assert "NaN" not in figure.svg
    assert "EER 0.00%" in figure.alt


def test_inside_the_page_a_figure_has_the_page_s_colours_and_fonts_and_none_of_its_own(det, runs):
    folder, figure = det
    styles = run_styles(runs)
    for style in styles.values():
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
    again = det_figure(tmp_path, "det-1", "hard", by_trial_list(runs)["hard"], run_styles(runs))
    assert again == figure
    assert (tmp_path / "det-1.svg").read_bytes() == (folder / "det-1.svg").read_bytes()


def test_hostile_names_are_text_and_nothing_else(tmp_path):
    run = fabricated_run(HOSTILE, strategy="SupCon, random batches", trial_lists=(HOSTILE,))
    one = by_trial_list([run])[HOSTILE][0]
    styles = run_styles([run])
    for figure in (
        det_figure(tmp_path, "det-1", HOSTILE, [one], styles),
        score_figure(tmp_path, "scores-1", one, styles[run.name], score_limits([one])),
    ):
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


def test_runs_of_one_strategy_share_a_colour_and_differ_in_dashes():
    runs = [fabricated_run(f"{name}/{seed}", seed=seed) for name in STRATEGIES for seed in range(3)]
    styles = run_styles(runs)
    assert len(set(styles.values())) == len(runs)
    assert len({styles[f"supcon/{seed}"].colour for seed in range(3)}) == 1
    assert len({styles[f"{name}/0"].colour for name in STRATEGIES}) == 3


def test_runs_that_are_all_of_one_strategy_have_a_colour_each():
    styles = run_styles([fabricated_run(f"supcon/{seed}") for seed in range(5)])
    assert len({style.colour for style in styles.values()}) == 5


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


def test_a_score_figure_says_means_threshold_and_error_rate(runs, tmp_path):
    one = by_trial_list(runs)["hard"][1]
    figure = score_figure(tmp_path, "s", one, run_styles(runs)[one.run.name], score_limits([one]))
    metrics = one.scored.metrics
    targets = one.scored.scores[one.scored.trials.is_target]
    assert f"{targets.mean():.3f} of targets" in figure.caption
    assert f"threshold {metrics.threshold:.3f}" in figure.caption
    assert {"targets", "non-targets", "threshold of the EER", "Score (cosine)"} <= set(texts(figure.svg))


def test_equal_scores_of_one_value_have_a_histogram(tmp_path):
    run = fabricated_run(trial_lists=("flat",))
    scored = run.scored["flat"]
    one = by_trial_list([replace(run, scored={"flat": replace(scored, scores=np.full(len(scored.scores), 0.5))})])
    low, high = score_limits(one["flat"])
    assert low < 0.5 < high
    assert score_figure(tmp_path, "s", one["flat"][0], run_styles([run])[run.name], (low, high)).svg


@pytest.mark.parametrize(
    ("kind", "called"), [("clustered", "clustered batches"), ("neighbours", "batches of neighbours")]
)
def test_a_hardness_figure_says_by_how_much_hard_batches_of_either_kind_are_harder(runs, tmp_path, kind, called):
    run = runs[1]
    hardness = replace(run.batch_hardness, kind=kind)
    figure = hardness_figure(tmp_path, "h", run.name, hardness, run_styles(runs)[run.name], hardness_limits(runs))
    shift = hardness.hard.mean() - hardness.random.mean()
    assert f"{shift:.3f} higher" in figure.caption
    assert f"in {called}" in figure.caption
    assert "the closest other speaker of its batch an utterance has 0.610 and 0.740" in figure.caption
    assert {"random batches", called} <= set(texts(figure.svg))
    easier = replace(hardness, random=hardness.hard, hard=hardness.random)
    figure = hardness_figure(tmp_path, "h", run.name, easier, run_styles(runs)[run.name], hardness_limits(runs))
    assert f"{shift:.3f} lower" in figure.caption


def test_cluster_figures_show_the_runs_that_have_clusters(runs, tmp_path):
    shapes = {run.name: run.cluster_shapes for run in runs if run.cluster_shapes is not None}
    for name, figure_of in (("sizes", sizes_figure), ("tightness", tightness_figure)):
        drawn = texts(figure_of(tmp_path, name, shapes, run_styles(runs)).svg)
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
    figure = training_figure(tmp_path, "loss", loss, [silent, *runs[1:]], run_styles(runs))
    assert {"Training loss", "Step", "Loss", "chns"} <= set(texts(figure.svg))
    assert "supcon" not in texts(figure.svg)
    assert training_figure(tmp_path, "none", loss, [silent], run_styles(runs)) is None
    assert not (tmp_path / "none.svg").exists()


def test_easy_anchors_are_drawn_in_percent_if_some_run_has_logged_them(runs, tmp_path):
    easy = next(quantity for quantity in QUANTITIES if quantity.column == "easy_anchor_share")
    older = replace(runs[0], log={**runs[0].log, "easy_anchor_share": np.full(40, np.nan)})
    assert training_figure(tmp_path, "easy", easy, [older, runs[1]], run_styles(runs)) is None
    newer = replace(runs[2], log={**runs[2].log, "easy_anchor_share": np.full(40, 0.93)})
    figure = training_figure(tmp_path, "easy", easy, [older, newer], run_styles(runs))
    assert figure.alt == f"Easy anchors over steps: {newer.name} ends at 93"


def test_a_curve_that_another_covers_shows_as_an_edge(runs, tmp_path):
    hard_ratio = next(quantity for quantity in QUANTITIES if quantity.column == "hard_ratio")
    figure = training_figure(tmp_path, "hard", hard_ratio, runs, run_styles(runs))
    width = r"stroke: var\(%s\); stroke-width: ([\d.]+)"
    covered, covering = (
        float(re.search(width % re.escape(run_styles(runs)[name].colour.variable), figure.svg)[1])
        for name in ("chns", "chns_hscl")
    )
    assert covered > covering


def test_many_logged_values_are_averaged_and_gaps_left_out():
    steps = np.arange(10_000.0)
    points = measured({"step": steps, "loss": np.where(steps % 2, np.nan, 2 * steps)}, QUANTITIES[0])
    assert len(points) == 300
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
