"""The figure of how training went: from logs to one small SVG, the same each time."""

import runpy
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from chns.training.log import RunLog

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "training_curves.py"
TITLES = ("Training loss", "Hard ratio", "Most similar negatives of a batch", "Validation EER")


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(SCRIPT))


@pytest.fixture
def run_script(monkeypatch, script):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["training_curves", *map(str, arguments)])
        script["main"]()

    return run


@pytest.fixture
def make_run(tmp_path):
    """Writes the folder of a run, validated or not."""

    def make(name, *, loss=1.0, validated=True, epochs=40):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text("{}")
        with RunLog(folder, first_step=0) as log:
            for epoch in range(epochs):
                step = 10 * (epoch + 1)
                hard = float(epoch > epochs // 2)
                log.write(
                    step, epoch, {"loss": loss / step, "hard_ratio": hard, "negative_similarity_p95": 0.4 + hard / 9}
                )
                if validated:
                    log.write(step, epoch, {"validation_eer": 0.3 / (epoch + 1)})
        return folder

    return make


def texts(path):
    return [element.text for element in ElementTree.parse(path).iter() if element.tag.endswith("text")]


@pytest.mark.slow
def test_one_figure_has_four_panels_a_legend_and_is_the_same_each_time(make_run, run_script, tmp_path, capsys):
    runs = [f"--run=random={make_run('a')}", f"--run=auto={make_run('b', loss=2.0)}"]
    for out in ("one.svg", "two.svg"):
        run_script(*runs, "--out", tmp_path / out)
    assert {*TITLES, "random", "auto", "Step"} <= set(texts(tmp_path / "one.svg"))
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    assert "2 strategies" in capsys.readouterr().out


@pytest.mark.slow
def test_a_long_training_makes_a_small_file(make_run, run_script, tmp_path):
    runs = [f"--run=s{n % 3}={make_run(f'{n}', epochs=2_000)}" for n in range(6)]
    run_script(*runs, "--out", tmp_path / "long.svg")
    assert (tmp_path / "long.svg").stat().st_size < 200_000


def test_a_panel_without_data_says_so(make_run, run_script, tmp_path):
    run_script(f"--run=random={make_run('a', validated=False)}", "--out", tmp_path / "one.svg")
    assert texts(tmp_path / "one.svg").count("not measured in these runs") == 1


def test_seeds_are_averaged_where_all_of_them_measured(script):
    logs = [
        {"step": np.array([1.0, 2.0, 3.0]), "loss": np.array([1.0, np.nan, 3.0])},
        {"step": np.array([1.0, 3.0, 4.0]), "loss": np.array([2.0, 5.0, 9.0])},
    ]
    curve = script["curve_of"](logs, script["PANELS"][0])
    np.testing.assert_array_equal(curve, [[1, 3], [1.5, 4], [1, 3], [2, 5]])


@pytest.mark.slow
def test_a_strategy_of_several_seeds_explains_its_band(make_run, run_script, tmp_path):
    run_script(f"--run=x={make_run('a')}", f"--run=x={make_run('b', loss=3.0)}", "--out", tmp_path / "band.svg")
    assert "Means over seeds; bands from the lowest to the highest" in texts(tmp_path / "band.svg")
    assert texts(tmp_path / "band.svg").count("x") == 1


def test_a_run_is_given_by_name_and_folder(run_script, make_run, capsys):
    with pytest.raises(SystemExit):
        run_script("--run", "nameless")
    assert "--run must be NAME=FOLDER, got nameless" in capsys.readouterr().err
    folder = make_run("a")
    with pytest.raises(SystemExit):
        run_script(*(f"--run={n}={folder}" for n in range(8)))
    assert "--run must give at most 7 different names, got 8" in capsys.readouterr().err
