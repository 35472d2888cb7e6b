"""``chns calibrate`` as a user does it: from a model and two trial lists to decisions of ``chns verify``."""

import json

import numpy as np
import pytest
from small_models import saved_model

from chns.bundle.bundle import add_metrics, load_bundle
from chns.cli import main
from chns.core import ModelFileError
from chns.data.manifest import Manifest
from chns.evaluation.calibration import Calibration
from chns.evaluation.scoring import read_scores
from chns.inference.verifier import Verifier


@pytest.fixture
def model(tmp_path):
    metrics = {"validation": {"eer": 0.1, "threshold": 0.25}}
    return saved_model(tmp_path / "model", training={"speakers": 3}, metrics=metrics)


@pytest.fixture(scope="module")
def halves(hum_manifest, tmp_path_factory):
    """Manifests of ten speakers each, with a trial list of each: to fit, and to apply to."""
    folder = tmp_path_factory.mktemp("halves")
    parts = Manifest.read(hum_manifest).split_speakers(10, seed=0)
    for name, part in zip(("dev", "test"), parts, strict=True):
        part.write(folder / f"{name}.parquet")
        words = ["trials", folder / f"{name}.parquet", "--out", folder / f"{name}.txt", "--targets", 10]
        assert main([*map(str, words), "--nontargets", "200"]) == 0
    return folder


def calibrate(capsys, model, halves, *more):
    words = ["calibrate", model, halves / "dev.parquet", "--trials", halves / "dev.txt", "--workers", 0, *more]
    capsys.readouterr()
    assert main([*map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_calibration_is_put_into_the_bundle_and_nothing_else_changes(capsys, model, halves):
    before, weights = load_bundle(model), (model / "model.safetensors").read_bytes()
    report = calibrate(capsys, model, halves)
    after = load_bundle(model)
    assert after.digest == before.digest
    assert (model / "model.safetensors").read_bytes() == weights
    assert after.training == before.training
    assert after.architecture == before.architecture
    stated = after.metrics.pop("calibration")
    assert after.metrics == before.metrics
    assert stated == report["calibration"]
    assert stated["threshold"] == pytest.approx(np.log(0.95 / 0.05))
    assert stated["score_threshold"] == pytest.approx((stated["threshold"] - stated["offset"]) / stated["scale"])
    places = ("p_target", "c_miss", "c_fa", "trials", "target_trials", "nontarget_trials")
    assert [stated[name] for name in places] == [0.05, 1.0, 1.0, "dev.txt", 100, 200]
    assert sorted(path.name for path in model.iterdir()) == [".config.json.lock", "config.json", "model.safetensors"]


@pytest.mark.slow
def test_calibrating_again_replaces_the_calibration(capsys, model, halves):
    first = calibrate(capsys, model, halves, "--quality", "duration", "--false-alarm", 0.1)["calibration"]
    second = calibrate(capsys, model, halves)["calibration"]
    assert set(first) - set(second) == {"false_alarm"}
    assert load_bundle(model).metrics["calibration"] == second
    assert calibrate(capsys, model, halves)["calibration"] == second


def test_a_wished_false_alarm_rate_is_met_on_the_list_by_the_ratio_and_by_the_score(capsys, model, halves, tmp_path):
    report = calibrate(capsys, model, halves, "--false-alarm", 0.1, "--quality", "magnitude,duration")
    assert 0.08 < report["fitted_on"]["false_alarm"] <= 0.1
    words = ["evaluate", model, halves / "dev.parquet", "--trials", halves / "dev.txt", "--workers", 0]
    assert main([*map(str, words), "--scores", str(tmp_path / "scores.txt")]) == 0
    trials, scores = read_scores(tmp_path / "scores.txt")
    accepted = scores[~trials.is_target] >= report["calibration"]["score_threshold"] - 1e-6
    assert 0.08 < accepted.mean() <= 0.1


def test_costs_move_the_threshold(capsys, model, halves):
    record = calibrate(capsys, model, halves, "--p-target", 0.5, "--cost-miss", 2, "--cost-false-alarm", 10)[
        "calibration"
    ]
    assert record["threshold"] == pytest.approx(np.log(5))


@pytest.mark.slow
def test_calibration_makes_the_costs_of_another_list_lower(capsys, model, halves):
    more = ("--apply-to", halves / "test.txt", "--apply-manifest", halves / "test.parquet", "--p-target", 0.5)
    report = calibrate(capsys, model, halves, *more)
    applied = report["applied_to"]
    assert applied["calibrated"]["cllr"] < applied["scores"]["cllr"]
    assert applied["calibrated"]["actual_dcf"]["0.5"] < applied["scores"]["actual_dcf"]["0.5"]
    for name in ("eer", "min_cllr", "min_dcf", "target_trials"):
        assert applied["calibrated"][name] == pytest.approx(applied["scores"][name])
    assert report["fitted_on"]["calibrated"]["cllr"] != applied["calibrated"]["cllr"]
    within = calibrate(capsys, model, halves, "--apply-to", halves / "dev.txt", "--p-target", 0.5)
    assert within["applied_to"] == within["fitted_on"]


@pytest.mark.parametrize("quality", ["", "duration", "duration,magnitude"])
def test_verifying_gives_the_ratios_that_were_fitted_and_decides_by_them(capsys, model, halves, tmp_path, quality):
    more = ("--quality", quality) if quality else ()
    record = calibrate(capsys, model, halves, "--false-alarm", 0.2, *more)["calibration"]
    assert list(record["quality"]) == [name for name in quality.split(",") if name]
    manifest, verifier = Manifest.read(halves / "dev.parquet"), Verifier.load(model)
    calibration = Calibration.from_json(record)
    decisions = []
    for first, second in ((0, 1), (2, 30), (7, 8), (12, 41), (40, 20)):
        utterances = manifest[first], manifest[second]
        decision = verifier.verify(*(utterance.path for utterance in utterances))
        embeddings = [verifier.embed(utterance.path) for utterance in utterances]
        values = {
            "duration": [[utterance.duration_seconds for utterance in utterances]],
            "magnitude": [[embedding.magnitude for embedding in embeddings]],
        }
        assert decision.log_likelihood_ratio == pytest.approx(calibration.apply([decision.score], values)[0], abs=1e-6)
        assert decision.accepted == (decision.log_likelihood_ratio >= record["threshold"])
        decisions.append(decision)
    assert len({decision.threshold for decision in decisions}) == (5 if quality else 1)
    assert verifier.threshold == record["score_threshold"]

    capsys.readouterr()
    words = ["verify", model, manifest[0].path, manifest[1].path]
    assert main([*map(str, words)]) == (0 if decisions[0].accepted else 1)
    assert f"log-likelihood ratio {decisions[0].log_likelihood_ratio:.2f}\n" in capsys.readouterr().out


def test_the_summary_names_the_formula_the_threshold_and_both_lists(capsys, model, halves):
    words = ["calibrate", model, halves / "dev.parquet", "--trials", halves / "dev.txt", "--workers", 0,
             "--quality", "duration,magnitude", "--false-alarm", 0.1, "--apply-to", halves / "test.txt",
             "--apply-manifest", halves / "test.parquet"]  # fmt: skip
    assert main([*map(str, words)]) == 0
    printed = capsys.readouterr().out
    for text in (
        "log-likelihood ratio = ",
        " * log(smaller duration)",
        " * (larger magnitude)",
        f"fitted on {halves / 'dev.txt'}: 100 target and 200 non-target trials",
        f"applied to {halves / 'test.txt'}: 100 target and 200 non-target trials",
        "warning: the threshold rests on 20 false alarms; with fewer than 30",
    ):
        assert text in printed
    assert printed.count("actDCF (p_target 0.05)") == 2


def test_a_threshold_that_rejects_everything_is_pointed_out(capsys, model, halves):
    words = ["calibrate", model, halves / "dev.parquet", "--trials", halves / "dev.txt", "--workers", 0]
    assert main([*map(str, words), "--cost-false-alarm", "1e9"]) == 0
    assert "warning: the threshold rejects every trial" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--false-alarm", "0.1", "--cost-miss", "1"], "--false-alarm must be given without costs, got both"),
        (["--apply-manifest", "m.parquet"], "--apply-manifest must come with --apply-to, got m.parquet alone"),
        (["--p-target", "1"], "p_target must be between 0 and 1, both excluded, got 1.0"),
        (["--false-alarm", "0.001"], "false_alarm must be at least one of the 200 non-target trials, 0.005, got 0.001"),
        (["--cost-miss", "0"], "c_miss must be a positive number, got 0.0"),
        (["--trials", "{halves}/unlabelled.txt"], "trial list must have a label on each line, got none in"),
        (["--trials", "{halves}/inverted.txt"], "scores must separate targets from non-targets"),
        (["--apply-to", "none.txt"], "trial list must be a file, got none.txt"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_and_the_bundle_stays_as_it_is(capsys, model, halves, words, message):
    lines = (halves / "dev.txt").read_text().splitlines()
    pairs = [line.split() for line in lines]
    (halves / "unlabelled.txt").write_text("".join(f"{one} {other}\n" for one, other, _ in pairs))
    inverted = {"target": "nontarget", "nontarget": "target"}
    (halves / "inverted.txt").write_text("".join(f"{one} {other} {inverted[label]}\n" for one, other, label in pairs))
    description = (model / "config.json").read_bytes()
    trials = [] if "--trials" in words else ["--trials", str(halves / "dev.txt")]
    words = [word.format(halves=halves) for word in words]
    assert main(["calibrate", str(model), str(halves / "dev.parquet"), *trials, "--workers", "0", *words]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("chns: error: ")
    assert message in error
    assert (model / "config.json").read_bytes() == description


@pytest.mark.parametrize("quality", ["loudness", "duration,duration", ""])
def test_a_quality_measure_that_there_is_not_is_refused(capsys, model, halves, quality):
    with pytest.raises(SystemExit, match="2"):
        main(["calibrate", str(model), "m.parquet", "--trials", "t.txt", "--quality", quality])
    assert "argument --quality: must be some of duration,magnitude, got" in capsys.readouterr().err


def test_metrics_are_not_added_to_a_model_that_was_replaced_meanwhile(model):
    with pytest.raises(ModelFileError, match="weights must be those that were measured, got others in"):
        add_metrics(model, {"calibration": {}}, digest="0" * 64)
    with pytest.raises(FileNotFoundError, match=r"model must be a folder with config\.json"):
        add_metrics(model / "nowhere", {}, digest="0" * 64)
    assert not (model / "nowhere").exists()


def test_metrics_that_cannot_be_written_leave_the_bundle_whole(model):
    bundle = load_bundle(model)
    with pytest.raises(TypeError, match="not JSON serializable"):
        add_metrics(model, {"calibration": {1, 2}}, digest=bundle.digest)
    assert load_bundle(model).metrics == bundle.metrics
    assert sorted(path.name for path in model.iterdir()) == [".config.json.lock", "config.json", "model.safetensors"]


def test_trials_that_are_there_twice_are_said(capsys, model, halves, tmp_path):
    lines = (halves / "dev.txt").read_text().splitlines()
    trials = tmp_path / "twice.txt"
    trials.write_text("\n".join([*lines, lines[0]]))
    words = ["calibrate", model, halves / "dev.parquet", "--trials", trials, "--workers", 0]
    assert main([*map(str, words)]) == 0
    pair = " ".join(lines[0].split()[:2])
    said = f"warning: 1 trials were there before, the first in {trials}:{len(lines) + 1}: {pair!r}"
    assert said in capsys.readouterr().err.splitlines()
