"""Score files: error rates and the worst errors."""

import logging

import numpy as np
import pytest

from chns.core.errors import TrialError
from chns.evaluation.metrics import verification_metrics
from chns.evaluation.scoring import write_scores
from chns.evaluation.trials import Trials
from chns.report.collect import judged_trials, scored_trials
from chns.training.folder import RunFolder


def trials_of(is_target):
    names = [f"u{row}" for row in range(len(is_target))]
    return Trials(names, names[::-1], np.array(is_target))


def test_the_worst_errors_come_first_and_lie_on_the_wrong_side_of_the_threshold():
    rng = np.random.default_rng(0)
    is_target = rng.random(2_000) < 0.3
    scores = rng.normal(size=2_000) + 2 * is_target
    found = judged_trials("list", trials_of(is_target), scores, most_errors=30)
    assert found.metrics == verification_metrics(scores, is_target)
    assert len(found.false_accepts) == len(found.false_rejects) == 30
    assert not is_target[found.false_accepts].any()
    assert is_target[found.false_rejects].all()
    assert scores[found.false_accepts].min() >= found.metrics.threshold > scores[found.false_rejects].max()
    assert scores[found.false_accepts].tolist() == sorted(scores[~is_target], reverse=True)[:30]
    assert scores[found.false_rejects].tolist() == sorted(scores[is_target])[:30]


def test_a_perfect_system_has_no_errors():
    found = judged_trials("list", trials_of([True, True, False, False]), np.array([0.9, 0.8, 0.2, 0.1]))
    assert found.metrics.eer == 0
    assert len(found.false_accepts) == len(found.false_rejects) == 0


def test_equal_scores_keep_the_order_of_the_list():
    is_target = [False, True, False, False, True, True]
    found = judged_trials("list", trials_of(is_target), np.array([0.5, 0.1, 0.9, 0.5, 0.1, 0.8]))
    assert found.false_accepts.tolist()[:1] == [2]
    assert sorted(found.false_accepts.tolist()[1:]) == found.false_accepts.tolist()[1:]
    assert found.false_rejects.tolist() == [1, 4]


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
    assert found["hard"].trials.enrolment[found["hard"].false_accepts[0]] == "u2"
    assert [record.args[0].name for record in caplog.records] == ["one-class.txt", "unlabelled.txt"]


def test_a_damaged_score_file_is_an_error(run):
    (run.path / "scores").mkdir()
    (run.path / "scores" / "bad.txt").write_text("a b c target\n")
    with pytest.raises(TrialError, match=r"score must be a finite number, got .*bad\.txt:1"):
        scored_trials(run)


def test_a_run_without_scores_has_none(run):
    assert scored_trials(run) == {}
