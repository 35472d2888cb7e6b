"""Thresholds for costs and for false-alarm rates, on hand-worked cases and on any scores."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chns.evaluation.calibration import (
    false_alarm_threshold,
    fit_calibration,
    thresholds_for_costs,
    thresholds_for_false_alarm,
)


def test_costs_give_the_bayes_threshold_and_its_score():
    scores, is_target = [1, 1, 1, 0, 1, 0, 0, 0], [True] * 4 + [False] * 4  # ratios 3 and 1/3, see test_calibration
    thresholds = thresholds_for_costs(scores, is_target, p_target=0.5)
    assert thresholds.llr == 0
    assert thresholds.score == pytest.approx(0.5)
    costly = thresholds_for_costs(scores, is_target, p_target=0.1, c_miss=2, c_fa=10)
    assert costly.llr == pytest.approx(np.log(10 * 0.9 / (2 * 0.1)))
    calibration = fit_calibration(scores, is_target, p_target=0.1)
    assert calibration.apply([costly.score])[0] == pytest.approx(costly.llr)


def test_a_false_alarm_rate_gives_a_score_of_the_list():
    nontargets, targets = np.arange(10.0), [7.5, 20.0]
    scores, is_target = np.r_[nontargets, targets], np.arange(12) >= 10
    assert false_alarm_threshold(scores, is_target, false_alarm=0.2) == 7.5  # 8 and 9 lie above
    assert false_alarm_threshold(scores, is_target, false_alarm=0.29) == 7.5
    assert false_alarm_threshold(scores, is_target, false_alarm=0.3) == 7.0
    both = thresholds_for_false_alarm(scores, 2 * scores - 1, is_target, false_alarm=0.2)
    assert (both.score, both.llr) == (7.5, 14.0)


TRIALS = st.lists(st.tuples(st.integers(-3, 20), st.booleans()), min_size=30, max_size=80)


@pytest.mark.slow
@settings(deadline=None)
@given(TRIALS, st.sampled_from([0.1, 0.25, 0.3, 0.5, 0.9]))
def test_at_most_the_wished_share_is_accepted_and_the_next_lower_score_would_exceed_it(trials, false_alarm):
    scores = np.array([100.0, -100.0] + [score for score, _ in trials])
    is_target = np.array([True, False] + [target for _, target in trials])
    if (~is_target).sum() * false_alarm < 1:
        return
    threshold = false_alarm_threshold(scores, is_target, false_alarm=false_alarm)
    assert (scores[~is_target] >= threshold).mean() <= false_alarm
    assert all((scores[~is_target] >= lower).mean() > false_alarm for lower in scores[scores < threshold])


def test_a_rate_that_the_list_cannot_show_is_refused():
    scores, is_target = np.arange(20.0), np.arange(20) >= 10
    with pytest.raises(ValueError, match=r"false_alarm must be at least one of the 10 non-target trials, 0.1, got"):
        false_alarm_threshold(scores, is_target, false_alarm=0.09)
    with pytest.raises(ValueError, match=r"false_alarm must be met by some score, got 0.5, which only rejecting every"):
        false_alarm_threshold([1, 1, 1], [True, False, False], false_alarm=0.5)
    for rate in (0, 1, float("nan")):
        with pytest.raises(ValueError, match="false_alarm must be between 0 and 1, both excluded"):
            false_alarm_threshold(scores, is_target, false_alarm=rate)
