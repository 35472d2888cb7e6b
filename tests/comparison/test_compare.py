"""A whole comparison: trained, scored, evaluated, written; stopped, gone on with, and never repeated."""

import copy
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from chns.bundle.bundle import load_model
from chns.comparison.compare import compare, prepare, twin_evidence
from chns.comparison.results import read_trial_lists, scored, stored_scores
from chns.comparison.rules import near_duplicates
from chns.comparison.runs import plan_runs, read_comparison
from chns.core import ConfigError, TrialError
from chns.data.manifest import Manifest
from chns.evaluation.embedder import Embedder
from chns.evaluation.metrics import verification_metrics
from chns.evaluation.pairs import make_trials
from chns.evaluation.scoring import read_scores
from chns.evaluation.trials import write_trials
from chns.evaluation.verification import score_trials
from chns.training.folder import RunFolder
from chns.training.log import Meter


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny):
    """A finished comparison: its folder, settings and outcome."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "compare.yaml").write_text(json.dumps(tiny))  # JSON is YAML
    comparison = read_comparison(folder / "compare.yaml")
    return folder / "out", comparison, compare(comparison, folder / "out")


def files_of(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.glob("*/**/*") if path.is_file()}


def test_every_run_is_where_it_belongs_with_its_scores(finished):
    out, _, _ = finished
    for strategy in ("supcon", "chns"):
        for seed in (0, 1):
            run = out / strategy / f"seed-{seed}"
            assert json.loads((run / "summary.json").read_text())["steps"] == 8
            assert sorted(path.name for path in (run / "scores").iterdir()) == ["easy.txt", "few.txt"]
    assert not list((out / "supcon").rglob("clusters/*"))
    assert list((out / "chns").rglob("clusters/*"))


def test_scores_are_those_of_the_runs_own_model(finished):
    out, comparison, _ = finished
    (easy, _) = read_trial_lists(comparison.trial_lists)
    for run in ("supcon/seed-1", "chns/seed-0"):
        scores = score_trials(Embedder(model=load_model(out / run / "model")), easy.manifest, easy.enrolment, easy.test)
        np.testing.assert_array_equal(read_scores(out / run / "scores" / "easy.txt")[1].astype(np.float32), scores)


def test_numbers_are_those_of_the_score_files(finished):
    out, _, outcome = finished
    content = json.loads((out / "comparison.json").read_text())
    assert content == json.loads(json.dumps(outcome.to_json()))
    assert (content["steps"], content["segments_per_step"], content["seeds"]) == (8, 8, [0, 1])
    for list_name, of_list in content["trial_lists"].items():
        eers = {}
        for strategy, metrics in of_list["results"].items():
            measured = []
            for seed in (0, 1):
                trials, scores = read_scores(out / strategy / f"seed-{seed}" / "scores" / f"{list_name}.txt")
                measured.append(verification_metrics(scores, trials.is_target))
            eers[strategy] = np.array([one.eer for one in measured])
            assert metrics["eer"]["per_seed"] == eers[strategy].tolist()
            assert metrics["eer"]["mean"]["estimate"] == pytest.approx(eers[strategy].mean())
            assert metrics["min_dcf_0.05"]["per_seed"] == [one.min_dcf[0.05] for one in measured]
            assert metrics["min_dcf_0.01"]["per_seed"] == [one.min_dcf[0.01] for one in measured]
        difference = of_list["results"]["chns"]["eer"]["difference"]
        assert difference["estimate"] == pytest.approx((eers["chns"] - eers["supcon"]).mean())
        assert difference["low"] <= difference["estimate"] <= difference["high"]
        assert of_list["results"]["supcon"]["eer"]["difference"] is None
    assert content["strategies"]["chns"]["batches"]["kind"] == "clustered"


def test_the_table_has_a_row_a_strategy_for_each_list_and_a_verdict(finished):
    out, _, outcome = finished
    text = (out / "comparison.md").read_text()
    lines = text.splitlines()
    heads = [line for line in lines if line.startswith("| strategy")]
    assert [cell.strip() for cell in heads[0].strip("|").split("|")] == [
        "strategy", "EER", "minDCF (0.05)", "minDCF (0.01)",
    ]  # fmt: skip
    rows = [line for line in lines if line.startswith(("| supcon", "| chns"))]
    assert len(heads) == 2
    assert len(rows) == 4
    assert all(line.count("[") == (3 if line.startswith("| chns") else 0) for line in rows)
    mean = outcome.results[0].mean("chns", "eer").estimate
    assert f"| {100 * mean:.2f} %" in rows[1]
    assert "8 steps of 8 segments" in text
    assert "2 seeds (0, 1)" in text
    assert outcome.verdicts[0].headline in text
    assert (outcome.verdicts[0].strategy, outcome.verdicts[0].twin.name) == ("chns", "supcon")


@pytest.mark.slow
def test_what_is_finished_is_not_repeated(finished, monkeypatch):
    out, comparison, outcome = finished
    before = files_of(out)
    monkeypatch.setattr("chns.comparison.runs.train", lambda *_: pytest.fail("trained again"))
    again = compare(comparison, out)
    assert files_of(out) == before
    assert again.to_json() == outcome.to_json()


def test_scores_older_than_the_model_or_of_other_trials_are_made_anew(finished, tmp_path, corpus, caplog):
    out, comparison, _ = finished
    runs, _, lists = prepare(comparison, out)
    run, (easy, few) = runs[0], lists
    first, second = (run.folder / "scores" / f"{name}.txt" for name in ("easy", "few"))
    right = [path.read_text() for path in (first, second)]
    long_ago = first.stat().st_mtime - 10_000
    os.utime(first, (long_ago, long_ago))
    second.write_text("\n".join(reversed(right[1].splitlines())))
    assert stored_scores(run.folder, easy) is None
    assert stored_scores(run.folder, few) is None
    assert {name: len(values) for name, values in scored(run, lists).items()} == {
        "easy": len(easy.trials), "few": len(few.trials),
    }  # fmt: skip
    assert [path.read_text() for path in (first, second)] == right
    first.write_text("not scores\n")
    scored(run, lists)
    assert first.read_text() == right[0]
    assert "easy.txt cannot be read" in caplog.text


@pytest.mark.slow
def test_a_stopped_comparison_goes_on_and_ends_with_the_same_numbers(
    finished, tiny, write_yaml, tmp_path, monkeypatch, caplog
):
    caplog.set_level("INFO")
    comparison = read_comparison(write_yaml({**tiny, "seeds": [1]}))
    with monkeypatch.context() as patched:
        patched.setattr(Meter, "step_done", lambda _: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(KeyboardInterrupt):
            compare(comparison, tmp_path / "out")
    assert "run 1 of 2: supcon, seed 1: training" in caplog.text
    assert "0 of 2 runs are finished; the same command goes on from here" in caplog.text
    assert (tmp_path / "out" / "supcon" / "seed-1" / "training.pt").is_file()
    assert not (tmp_path / "out" / "comparison.md").exists()
    resumed = compare(comparison, tmp_path / "out")
    assert "run 2 of 2: chns, seed 1: training" in caplog.text
    for there, here in zip(finished[2].results, resumed.results, strict=True):
        for strategy in comparison.strategies:
            assert here.per_seed(strategy, "eer").tolist() == there.per_seed(strategy, "eer")[1:].tolist()


@pytest.mark.slow
def test_a_run_in_a_process_of_its_own_is_the_same(tmp_path, tiny, write_yaml, finished, caplog):
    caplog.set_level("INFO")
    strategies = {"chns": tiny["strategies"]["chns"]}
    outcome = compare(
        read_comparison(write_yaml({**tiny, "seeds": [0], "strategies": strategies})), tmp_path / "out", jobs=2
    )
    assert "run 1 of 1: chns, seed 0: trained" in caplog.text
    there, here = (folder / "chns" / "seed-0" for folder in (finished[0], tmp_path / "out"))
    settings = [
        (folder / "config.yaml").read_text().partition("\n")[2] for folder in (here, there)
    ]  # not where it lies
    assert settings[0] == settings[1]
    assert "training on 14 speakers" in (here / "train.log").read_text()
    scores = [read_scores(folder / "scores" / "easy.txt")[1] for folder in (there, here)]
    np.testing.assert_allclose(*scores, atol=1e-3)  # another number of threads adds up in another order
    assert outcome.verdicts == []


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"base": {"data": {"train": "none.parquet"}}}, FileNotFoundError, "manifest must be a file, got none.parquet"),
        (
            {"strategies": {"supcon": {}, "more": {"batches": {"utterances_per_speaker": 3}}}},
            ConfigError,
            "equally many segments, got 8 steps of 8 segments for supcon, seed 0 and 8 steps of 12 segments for more",
        ),
        (
            {"strategies": {"supcon": {}, "long": {"train": {"epochs": 4}}}},
            ConfigError,
            "got 8 steps of 8 segments for supcon, seed 0 and 16 steps of 8 segments for long, seed 0",
        ),
        (
            {"strategies": {"a": {"loss": {"factory": "chns.losses.SupConLoss", "settings": {"bogus": 1}}}}},
            ConfigError,
            "strategy a must be trainable, got an error: settings of chns.losses.SupConLoss .* got bogus",
        ),
        (
            {"strategies": {"a": {"batches": {"speakers_per_batch": 15}}}},
            ConfigError,
            "strategy a must be trainable, got an error: batches.speakers_per_batch must be between 2 and the 14",
        ),
        (
            {"strategies": {"a": {"encoder": {"factory": "nowhere.Encoder"}}}},
            ConfigError,
            "strategy a must be trainable, got an error: factory must be the import path .* 'nowhere.Encoder'",
        ),
    ],
)
def test_nothing_trains_before_all_is_checked(tmp_path, tiny, write_yaml, monkeypatch, changes, error, message):
    monkeypatch.setattr("chns.comparison.runs.train", lambda *_: pytest.fail("trained"))
    base = tiny["base"]
    if "base" in changes:
        base = {**base, "data": {**base["data"], **changes["base"]["data"]}}
    comparison = read_comparison(write_yaml({**tiny, **changes, "base": base}))
    with pytest.raises(error, match=message):
        compare(comparison, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("s00/0 s00/1", "trial list must have labels to be compared on, got none in"),
        ("s00/0 nobody target", "trials must name one utterance of the manifest each time"),
        ("{a}/0 {a}/1 target", "trial list must suit its manifest, got .*: is_target must hold both|speakers"),
        ("{a}/0 {a}/1 target\n{b}/0 {b}/1 target\n{b}/0 {b}/2 nontarget", "trial list must suit .* for trial 2"),
    ],
)
def test_a_trial_list_that_cannot_be_evaluated_is_refused(tmp_path, tiny, corpus, write_yaml, lines, message):
    a, b = Manifest.read(corpus / "test.parquet").speakers[:2]
    (tmp_path / "trials.txt").write_text(lines.format(a=a, b=b))
    lists = {"odd": {"manifest": str(corpus / "test.parquet"), "trials": str(tmp_path / "trials.txt")}}
    with pytest.raises(TrialError, match=message):
        read_trial_lists(read_comparison(write_yaml({**tiny, "trial_lists": lists})).trial_lists)


def test_trials_of_training_speakers_are_warned_of(finished, tiny, corpus, write_yaml, caplog):
    out, _, _ = finished
    training = Manifest.read(corpus / "train.parquet")
    write_trials(corpus / "known.txt", make_trials(training, targets_per_speaker=2, num_nontargets=20, seed=0))
    known = {"known": {"manifest": str(corpus / "train.parquet"), "trials": str(corpus / "known.txt")}}
    prepare(read_comparison(write_yaml({**tiny, "trial_lists": {**tiny["trial_lists"], **known}})), out)
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "14 speakers of the trial list known have the name of a training speaker, such as 's" in warning


def test_a_folder_of_other_settings_is_refused_before_anything_trains(finished, tiny, write_yaml):
    out, _, _ = finished
    strategies = {**tiny["strategies"], "chns": {"batches": {"kind": "clustered"}, "clusters": {"hard_ratio": 0.5}}}
    with pytest.raises(
        ConfigError,
        match=r"clusters\.hard_ratio of chns, seed 0 must be 1\.0 as when the run was begun, got 0\.5 .*chns",
    ):
        prepare(read_comparison(write_yaml({**tiny, "strategies": strategies})), out)


@pytest.mark.slow
def test_speakers_who_may_be_one_person_reach_the_verdict_from_the_folder_of_a_real_run(
    tmp_path, tiny, write_yaml, corpus
):
    """Each of 14 speakers under two names: a hard run looks when it groups, writes it down, and the verdict says so."""
    manifest = Manifest.read(corpus / "train.parquet")
    rows = [manifest[number]._asdict() for number in range(len(manifest))]
    doubled = [
        {**row, "utterance": f"{name}/{row['name']}", "speaker": f"{name}-{row['speaker']}",
         "path": str(row["path"].relative_to(manifest.root))}
        for name in ("one", "two")
        for row in rows
    ]  # fmt: skip
    Manifest.from_rows(doubled, root=manifest.root).write(tmp_path / "doubled.parquet")
    settings = copy.deepcopy(tiny)
    settings["base"]["data"]["train"] = str(tmp_path / "doubled.parquet")
    settings["seeds"] = [0]
    comparison = read_comparison(write_yaml(settings))
    compare(comparison, tmp_path / "out")
    random, hard = plan_runs(comparison, tmp_path / "out")
    found = RunFolder.open(hard.folder).num_same_person()
    assert found is not None
    assert found >= 1
    assert RunFolder.open(random.folder).num_same_person() is None
    finding = near_duplicates(twin_evidence([random], [hard]))
    assert f"{found:,} pairs of the 28 training speakers may each be one person" in finding.text
    assert "clusters: {separate_same_person: true}" in finding.try_next
