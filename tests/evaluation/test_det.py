"""DET curves: right places on the axes, finite ends, and few points that show the same curve."""

import csv
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import det_curve as det_curve_of_scikit_learn

from chns.evaluation.metrics import DetCurve, det_curve, error_rates, write_det_curve


def normal_trials(num_trials, seed=0):
    rng = np.random.default_rng(seed)
    is_target = np.arange(num_trials) % 2 == 0
    return rng.normal(size=num_trials) + 2 * is_target, is_target


def test_points_of_a_hand_worked_list():
    # Targets 1, 3, 4; non-targets 0, 2. Half a trial: 1/6 of the targets, 1/4 of the non-targets.
    curve = det_curve([1, 3, 4, 0, 2], [True, True, True, False, False])
    assert curve.thresholds.tolist() == [0, 1, 2, 3, 4, np.inf]
    assert curve.miss == pytest.approx([0, 0, 1 / 3, 1 / 3, 2 / 3, 1])
    assert curve.false_alarm == pytest.approx([1, 1 / 2, 1 / 2, 0, 0, 0])
    quantile = NormalDist().inv_cdf
    assert curve.probit_miss == pytest.approx([quantile(p / 6) for p in (1, 1, 2, 2, 4, 5)])
    assert curve.probit_false_alarm == pytest.approx([quantile(p / 4) for p in (3, 2, 2, 1, 1, 1)], abs=1e-12)


def test_points_are_taken_evenly_along_the_drawn_curve():
    # The list above: from one point to the next, the probits go 0.67, 0.54, 0.67, 0.86 and 0.54 on, 3.28 in all.
    curve = det_curve([1, 3, 4, 0, 2], [True, True, True, False, False], max_points=4)
    assert curve.thresholds.tolist() == [0, 2, 4, np.inf]


def test_perfect_scores_are_drawn_at_half_a_trial():
    curve = det_curve([0, 0, 1, 1], [False, False, True, True])
    quarter = NormalDist().inv_cdf(0.25)
    assert (quarter, quarter) in list(zip(curve.probit_miss, curve.probit_false_alarm, strict=True))
    assert np.isfinite(curve.probit_miss).all()
    assert np.isfinite(curve.probit_false_alarm).all()


def test_normally_distributed_scores_make_a_straight_line():
    curve = det_curve(*normal_trials(200_000))
    inner = (np.abs(curve.probit_miss) < 2.5) & (np.abs(curve.probit_false_alarm) < 2.5)
    assert np.sum(inner) > 200
    # Means 2 apart and deviations of 1: the two probits add up to -2.
    assert curve.probit_miss[inner] + curve.probit_false_alarm[inner] == pytest.approx(-2, abs=0.1)


def test_unthinned_points_are_those_of_scikit_learn():
    scores, is_target = normal_trials(500)
    curve = det_curve(scores, is_target, max_points=10**6)
    false_alarm, miss, thresholds = det_curve_of_scikit_learn(is_target, scores, drop_intermediate=False)
    places = np.searchsorted(curve.thresholds, thresholds[np.isfinite(thresholds)])
    assert len(places) > 300
    assert curve.miss[places] == pytest.approx(miss[np.isfinite(thresholds)])
    assert curve.false_alarm[places] == pytest.approx(false_alarm[np.isfinite(thresholds)])


@given(st.integers(2, 300), st.integers(2, 60), st.integers(0, 5))
@settings(max_examples=30, deadline=None)
def test_thinning_keeps_the_ends_and_a_point_near_every_other(num_trials, max_points, seed):
    scores, is_target = normal_trials(num_trials, seed)
    every = det_curve(scores, is_target, max_points=10**6)
    thinned = det_curve(scores, is_target, max_points=max_points)
    assert len(thinned.miss) <= max_points
    assert set(zip(*thinned, strict=True)) <= set(zip(*every, strict=True))
    assert thinned.thresholds[[0, -1]].tolist() == [np.min(scores), np.inf]
    ways = [curve.probit_miss - curve.probit_false_alarm for curve in (every, thinned)]
    step = (ways[0][-1] - ways[0][0]) / (max_points - 1)
    assert np.abs(ways[0][:, None] - ways[1]).min(axis=1).max() <= step + 1e-9


def test_a_long_list_is_thinned_to_at_most_a_thousand_points():
    scores, is_target = normal_trials(50_000)
    curve = det_curve(scores, is_target)
    assert 500 < len(curve.miss) <= 1000
    assert curve.thresholds.tolist() == det_curve(scores, is_target, max_points=1000).thresholds.tolist()
    assert len(error_rates(scores, is_target).miss) > 49_000


def test_a_written_curve_reads_back_unchanged(tmp_path):
    curve = det_curve(*normal_trials(200))
    write_det_curve(tmp_path / "det.csv", curve)
    assert (tmp_path / "det.csv").read_bytes().count(b"\n") == 1 + len(curve.miss)
    with (tmp_path / "det.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert tuple(header) == DetCurve._fields
    assert np.array(rows, dtype=float).T.tolist() == [column.tolist() for column in curve]


def test_a_curve_has_two_points_at_least():
    with pytest.raises(ValueError, match="max_points must be at least 2, got 1"):
        det_curve([1, 0], [True, False], max_points=1)


def test_a_curve_needs_both_kinds_of_trial():
    with pytest.raises(ValueError, match="is_target must hold both targets and non-targets"):
        det_curve([1, 0], [True, True])
