"""``chns report`` on a run that was trained here for a few steps."""

import json
import shutil

import numpy as np
import pytest
from small_models import LEAST

from chns.cli import main
from chns.evaluation.scoring import write_scores
from chns.evaluation.trials import Trials


@pytest.fixture(scope="module", autouse=True)
def _in_the_folder_of_the_manifest(hum_manifest):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(hum_manifest.parent)
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory, configs, hum_manifest):
    run = tmp_path_factory.mktemp("report") / "run"
    words = ["--config", configs / "chns.yaml", "--config", configs / "tiny.yaml", "--config", LEAST]
    words += ["--data.train", hum_manifest]
    words += ["--train.epochs", 2, "--train.device", "cpu", "--out", run]
    assert main(["train", *map(str, words)]) == 0
    trials = Trials(list("abcde"), list("fghij"), np.array([True, False, True, False, False]))
    write_scores(run / "scores" / "hard.txt", trials, np.array([0.9, 0.5, 0.3, 0.1, 0.0]))
    return run


@pytest.fixture(scope="module")
def without_manifest(trained):
    run = shutil.copytree(trained, trained.parent / "moved")
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("manifest.parquet", "gone.parquet"))
    return run


def report(*words):
    return main(["report", *map(str, words), "--device", "cpu", "--workers", "0"])


@pytest.mark.slow
def test_a_report_is_written_and_its_first_sentences_and_place_are_printed(trained, tmp_path, capsys):
    assert report(trained, "--out", tmp_path) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("EER ")
    assert printed[0].endswith("% on hard trials.")
    assert printed[-1].startswith(f"{tmp_path / 'report.html'}: 1 run, ")
    html = (tmp_path / "report.html").read_text()
    assert "SupCon, clustered batches, hard ratio 1.0" in html
    assert 'class="missing"' not in html
    assert (tmp_path / "suspected_duplicates.csv").is_file()
    assert (tmp_path / "figures" / "batch-hardness.svg").is_file()


def test_without_out_the_report_of_one_run_is_beside_it(without_manifest, trained, capsys, undrawn):
    assert report(without_manifest) == 0
    assert f"{without_manifest / 'report' / 'report.html'}: 1 run, " in capsys.readouterr().out
    assert report(without_manifest, trained) == 2
    assert "--out must name the report's folder for 2 runs, got none" in capsys.readouterr().err


def test_json_has_the_names_and_the_error_rates(without_manifest, tmp_path, capsys, undrawn):
    assert report(without_manifest, "--name", "<i>mine</i>", "--out", tmp_path, "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["report"] == str(tmp_path / "report.html")
    (run,) = summary["runs"]
    assert run["name"] == "<i>mine</i>"
    assert run["trial_lists"]["hard"]["target_trials"] == 2
    assert summary["figures"] == len(list((tmp_path / "figures").glob("*.png")))
    html = (tmp_path / "report.html").read_text()
    assert "&lt;i&gt;mine" in html
    assert "<i>" not in html


def test_a_run_whose_manifest_is_gone_is_reported_as_far_as_it_goes(without_manifest, tmp_path, undrawn):
    assert report(without_manifest, "--out", tmp_path / "report") == 0
    html = (tmp_path / "report" / "report.html").read_text()
    assert "the training speakers were not embedded" in html
    assert (tmp_path / "report" / "figures" / "det-1.svg").is_file()
    assert not (tmp_path / "report" / "figures" / "map-1.svg").exists()


@pytest.fixture
def comparison(tmp_path):
    content = {"baseline": "chns", "seeds": [0], "steps": 12, "segments_per_step": 12, "strategies": {"chns": {}}}
    value = {"per_seed": [0.5], "mean": {"estimate": 0.5}, "difference": None}
    rates = dict.fromkeys(("eer", "min_dcf_0.05", "min_dcf_0.01"), value)
    hard = {"speakers": 10, "target_trials": 2, "nontarget_trials": 3, "results": {"chns": rates}}
    difference = {"estimate": 0.0, "low": -0.1, "high": 0.1}
    folder = tmp_path / "comparison"
    folder.mkdir()
    verdict = {"headline": "It made no difference.", "caveats": [], "findings": [], "next_steps": [], "effect": "none"}
    verdict |= {"strategy": "chns", "twin": {"name": "chns"}}
    verdict["changes"] = [{"trial_list": "hard", "metric": "eer", "before": 0.5, "difference": difference}]
    content |= {"trial_lists": {"hard": hard}, "verdicts": [verdict]}
    (folder / "comparison.json").write_text(json.dumps(content))
    return folder


def test_a_comparison_brings_its_runs_and_its_verdict(without_manifest, comparison, tmp_path, capsys, undrawn):
    shutil.copytree(without_manifest, comparison / "chns" / "seed-0")
    assert report(comparison, "--out", tmp_path / "report") == 0
    assert capsys.readouterr().out.startswith("Hard batches made no measurable difference.\n")
    assert "Nothing in the logs stands out" in (tmp_path / "report" / "report.html").read_text()


def test_a_comparison_stands_alone_and_needs_its_runs(trained, comparison, tmp_path, capsys):
    assert report(comparison, "--out", tmp_path / "report") == 2
    assert "comparison must have runs beside comparison.json, got none" in capsys.readouterr().err
    assert report(trained, comparison, "--out", tmp_path / "report") == 2
    assert "RUN must be one comparison or any number of runs" in capsys.readouterr().err
    assert not (tmp_path / "report").exists()


def test_a_folder_that_is_no_run_and_a_device_that_is_not_there_are_named(trained, tmp_path, capsys):
    assert report(tmp_path, "--out", tmp_path / "report") == 2
    assert "run must be the folder of a training" in capsys.readouterr().err
    assert main(["report", str(trained), "--out", str(tmp_path), "--device", "abacus"]) == 2
    assert "--device must be one that this machine has, got 'abacus'" in capsys.readouterr().err
