"""Score files and their error rates."""

import logging

import numpy as np
import pytest

from chns.core import TrialError
from chns.evaluation.metrics import verification_metrics
from chns.evaluation.scoring import write_scores
from chns.evaluation.trials import Trials
from chns.report.collect import judged_trials, scored_trials
from chns.training.folder import RunFolder


def trials_of(is_target):
    names = [f"u{row}" for row in range(len(is_target))]
    return Trials(names, names[::-1], np.array(is_target))


def test_a_list_is_judged_by_its_error_rates():
    rng = np.random.default_rng(0)
    is_target = rng.random(2_000) < 0.3
    scores = rng.normal(size=2_000) + 2 * is_target
    assert judged_trials("list", trials_of(is_target), scores).metrics == verification_metrics(scores, is_target)


@pytest.fixture
def run(tmp_path):
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    return RunFolder.open(tmp_path)


def test_every_score_file_with_error_rates_is_found_by_its_name(run, caplog):
    scores = np.array([0.9, 0.3, 0.4, 0.1])
    write_scores(run.path / "scores" / "hard.txt", trials_of([True, True, False, False]), scores)
    write_scores(run.path / "scores" / "one-class.txt", trials_of([True] * 4), scores)
    names = ["a", "b", "c", "d"]
    write_scores(run.path / "scores" / "unlabelled.txt", Trials(names, names, None), scores)
    with caplog.at_level(logging.WARNING):
        found = scored_trials(run)
    assert list(found) == ["hard"]
    assert found["hard"].scores.tolist() == scores.tolist()
    assert [record.args[0].name for record in caplog.records] == ["one-class.txt", "unlabelled.txt"]


def test_a_damaged_score_file_is_an_error(run):
    (run.path / "scores").mkdir()
    (run.path / "scores" / "bad.txt").write_text("a b c target\n")
    with pytest.raises(TrialError, match=r"score must be a finite number, got .*bad\.txt:1"):
        scored_trials(run)


def test_a_run_without_scores_has_none(run):
    assert scored_trials(run) == {}
