"""EER by several conventions, and minDCF, against hand-worked cases, slow re-implementations and scikit-learn."""

import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import interp1d
from scipy.optimize import brentq
from sklearn.metrics import roc_curve

from chns.evaluation.metrics import (
    ErrorRates,
    VerificationMetrics,
    equal_error_rate,
    error_rates,
    min_dcf,
    verification_metrics,
)


@st.composite
def scored_trials(draw):
    """Few distinct scores, so that ties are common, and both kinds of trial."""
    labels = [*draw(st.lists(st.booleans(), max_size=40)), True, False]
    scores = draw(st.lists(st.integers(-8, 8), min_size=len(labels), max_size=len(labels)))
    return np.array(scores, dtype=float), np.array(labels)


def rates_by_definition(scores, is_target):
    """Both rates at each threshold, counted trial by trial."""
    thresholds = [*sorted(set(scores.tolist())), float("inf")]
    miss, false_alarm = [], []
    for threshold in thresholds:
        miss.append(sum(score < threshold for score in scores[is_target]) / is_target.sum())
        false_alarm.append(sum(score >= threshold for score in scores[~is_target]) / (~is_target).sum())
    return thresholds, miss, false_alarm


def eer_by_walking(miss, false_alarm):
    """Walk along the segments of the curve until one crosses the diagonal."""
    points = list(zip(miss, false_alarm, strict=True))
    for (miss_a, fa_a), (miss_b, fa_b) in pairwise(points):
        if miss_a <= fa_a and miss_b >= fa_b:
            share = (fa_a - miss_a) / ((miss_b - miss_a) + (fa_a - fa_b))
            return miss_a + share * (miss_b - miss_a)
    raise AssertionError("the curve starts on one side of the diagonal and ends on the other")


def eer_of_voxsrc(scores, is_target):
    """The root of 1 - x - hit(x) on the interpolated ROC curve, as the script of the challenges has it."""
    false_alarm, hit, _ = roc_curve(is_target, scores)
    return brentq(lambda x: 1 - x - interp1d(false_alarm, hit)(x), 0, 1)


def eer_of_voxceleb_trainer(scores, is_target):
    """The larger rate at the point of scikit-learn's ROC curve where both are nearest, rounding errors apart."""
    false_alarm, hit, _ = roc_curve(is_target, scores)
    nearest = np.argmin(np.round(np.abs(1 - hit - false_alarm), 12))
    return max(1 - hit[nearest], false_alarm[nearest])


def test_rates_of_a_hand_worked_list():
    thresholds, miss, false_alarm = error_rates([0.9, 0.4, 0.6, 0.1], [True, True, False, False])
    assert thresholds.tolist() == [0.1, 0.4, 0.6, 0.9, np.inf]
    assert miss.tolist() == [0, 0, 0.5, 0.5, 1]
    assert false_alarm.tolist() == [1, 0.5, 0.5, 0, 0]
    assert equal_error_rate([0.9, 0.4, 0.6, 0.1], [True, True, False, False]) == 0.5


def test_eer_is_interpolated_between_the_thresholds_where_the_rates_cross():
    # Targets 1, 3, 4; non-targets 0, 2. From threshold 2 (miss 1/3, false alarm 1/2) to 3 (miss 1/3, false alarm 0).
    assert equal_error_rate([1, 3, 4, 0, 2], [True, True, True, False, False]) == pytest.approx(1 / 3)
    # Target 1; non-targets 1, 0: from (0, 1/2) to (1, 0), crossing the diagonal at 1/3.
    assert equal_error_rate([1, 1, 0], [True, False, False]) == pytest.approx(1 / 3)


def test_conventions_for_the_eer_of_a_hand_worked_list():
    # Targets 1, 3, 4; non-targets 0, 2. Miss and false alarm: (0, 1), (0, 1/2), (1/3, 1/2), (1/3, 0), (2/3, 0), (1, 0).
    rates = error_rates([1, 3, 4, 0, 2], [True, True, True, False, False])
    assert rates.equal_error_rate() == pytest.approx(1 / 3)
    # The least difference is 1/6, at (1/3, 1/2).
    assert rates.nearest_equal_error_rate() == pytest.approx(1 / 2)
    # The hull leaves (1/3, 1/2) out; from (0, 1/2) to (1/3, 0) it crosses the diagonal at 1/5.
    hull = rates.convex_hull()
    assert hull.thresholds.tolist() == [0, 1, 3, np.inf]
    assert hull.miss == pytest.approx([0, 0, 1 / 3, 1])
    assert hull.false_alarm == pytest.approx([1, 1 / 2, 0, 0])
    assert rates.rocch_equal_error_rate() == pytest.approx(1 / 5)


def test_of_equally_near_thresholds_the_strictest_counts():
    # Targets 1, 1, 3; non-targets 0, 0, 2. Miss and false alarm differ by 1/3 at (0, 1/3) and at (2/3, 1/3).
    rates = error_rates([0, 0, 1, 1, 2, 3], [False, False, True, True, False, True])
    assert rates.nearest_equal_error_rate() == pytest.approx(2 / 3)


def test_the_nearest_eer_skips_what_scikit_learn_leaves_out():
    # All targets at or above all non-targets but for one tied at 2: (0, 1), (0, 3/4), (0, 2/4), (0, 1/4), (1, 0).
    rates = error_rates([0, 1, 1.5, 2, 2], [False, False, False, False, True])
    assert rates.nearest_equal_error_rate() == pytest.approx(1 / 4)
    # Three targets in a row, (0, 1/2) to (3/4, 1/2): (2/4, 1/2), where both are equal, is half-way and left out.
    rates = error_rates([0, 1, 2, 3, 5, 4], [False, True, True, True, True, False])
    assert rates.equal_error_rate() == 0.5
    assert rates.nearest_equal_error_rate() == pytest.approx(3 / 4)


def test_min_dcf_of_a_hand_worked_list():
    scores, is_target = [1, 3, 4, 0, 2], [True, True, True, False, False]
    # p 0.5: costs by threshold 0..4, inf: .5, .25, .5 / 3 + .25, .5 / 3, 1 / 3, .5; least 1 / 6, divided by 0.5.
    assert min_dcf(scores, is_target, p_target=0.5) == pytest.approx(1 / 3)
    # p 0.01: rejecting one target without a false alarm costs 0.01 / 3, divided by 0.01.
    assert min_dcf(scores, is_target, p_target=0.01) == pytest.approx(1 / 3)
    # p 0.9: accepting one non-target without a miss costs 0.1 / 2, divided by 0.1; one miss would cost 0.3.
    assert min_dcf(scores, is_target, p_target=0.9) == pytest.approx(1 / 2)
    # A miss ten times as costly as before makes p 0.5 behave like a prior of 10 / 11.
    assert min_dcf(scores, is_target, p_target=0.5, c_miss=10) == pytest.approx(
        min_dcf(scores, is_target, p_target=10 / 11)
    )
    assert min_dcf(scores, is_target, p_target=0.5, c_fa=10) == pytest.approx(
        min_dcf(scores, is_target, p_target=1 / 11)
    )
    # p 0.7, both costs 1: one non-target accepted costs 0.3 / 2, divided by 0.3; one target rejected 0.7 / 3.
    assert error_rates(scores, is_target).min_dcf(p_target=0.7) == pytest.approx(1 / 2)


def test_perfect_scores_have_no_error():
    scores, is_target = [0.1, 0.2, 0.8, 0.9], [False, False, True, True]
    assert equal_error_rate(scores, is_target) == 0
    assert error_rates(scores, is_target).nearest_equal_error_rate() == 0
    assert error_rates(scores, is_target).rocch_equal_error_rate() == 0
    assert min_dcf(scores, is_target, p_target=0.05) == 0


def test_inverted_scores_are_always_wrong_and_cost_as_much_as_no_system():
    scores, is_target = [0.9, 0.8, 0.2, 0.1], [False, False, True, True]
    assert equal_error_rate(scores, is_target) == 1
    assert error_rates(scores, is_target).nearest_equal_error_rate() == 1
    # The hull knows better than to use them: it tosses a coin.
    assert error_rates(scores, is_target).convex_hull().thresholds.tolist() == [0.1, np.inf]
    assert error_rates(scores, is_target).rocch_equal_error_rate() == 0.5
    assert min_dcf(scores, is_target, p_target=0.05) == 1


def test_equal_scores_are_one_threshold():
    scores, is_target = np.zeros(10), np.arange(10) < 3
    assert error_rates(scores, is_target).thresholds.tolist() == [0, np.inf]
    assert equal_error_rate(scores, is_target) == 0.5
    assert error_rates(scores, is_target).nearest_equal_error_rate() == 1
    assert error_rates(scores, is_target).rocch_equal_error_rate() == 0.5
    assert min_dcf(scores, is_target, p_target=0.01) == 1


@given(scored_trials(), st.randoms(use_true_random=False))
def test_order_of_trials_does_not_matter(trials, random):
    scores, is_target = trials
    order = list(range(len(scores)))
    random.shuffle(order)
    assert verification_metrics(scores, is_target) == verification_metrics(scores[order], is_target[order])


@given(scored_trials())
def test_only_the_order_of_the_scores_matters(trials):
    scores, is_target = trials
    expected = verification_metrics(scores, is_target)
    for mapped in (scores**3, np.exp(scores), 0.001 * scores - 7, scores.astype(np.float32)):
        metrics = verification_metrics(mapped, is_target)
        assert metrics.to_json() == expected.to_json()
        assert metrics.threshold == mapped[np.flatnonzero(scores == expected.threshold)[0]]
        rates, expected_rates = error_rates(mapped, is_target), error_rates(scores, is_target)
        assert rates.nearest_equal_error_rate() == expected_rates.nearest_equal_error_rate()
        assert rates.rocch_equal_error_rate() == expected_rates.rocch_equal_error_rate()


@given(scored_trials())
def test_swapping_labels_and_negating_scores_keeps_the_eer(trials):
    scores, is_target = trials
    swapped, rates = error_rates(-scores, ~is_target), error_rates(scores, is_target)
    assert swapped.equal_error_rate() == pytest.approx(rates.equal_error_rate(), abs=1e-12)
    assert swapped.rocch_equal_error_rate() == pytest.approx(rates.rocch_equal_error_rate(), abs=1e-12)


@given(scored_trials())
@settings(max_examples=200, deadline=None)
def test_the_eer_on_the_hull_is_the_worst_prior_at_its_best_threshold(trials):
    rates = error_rates(*trials)
    points = np.stack((rates.miss, rates.false_alarm))
    # The lowest total error rate is concave in the prior; its greatest value is where two thresholds are equally good.
    steps = points[:, :, None] - points[:, None, :]
    with np.errstate(invalid="ignore", divide="ignore"):
        priors = steps[1] / (steps[1] - steps[0])
    priors = np.unique(priors[(priors >= 0) & (priors <= 1)])
    worst = max(np.min(prior * rates.miss + (1 - prior) * rates.false_alarm) for prior in priors)
    assert rates.rocch_equal_error_rate() == pytest.approx(worst, abs=1e-12)


@given(scored_trials())
def test_the_hull_is_convex_and_below_every_point_of_the_curve(trials):
    rates = error_rates(*trials)
    hull = rates.convex_hull()
    assert (hull.miss[0], hull.false_alarm[0], hull.miss[-1], hull.false_alarm[-1]) == (0, 1, 1, 0)
    assert set(zip(*hull, strict=True)) <= set(zip(*rates, strict=True))
    miss_steps, false_alarm_steps = np.diff(hull.miss), np.diff(hull.false_alarm)
    turns = miss_steps[:-1] * false_alarm_steps[1:] - miss_steps[1:] * false_alarm_steps[:-1]
    assert (turns >= -1e-12).all()
    for step in range(len(miss_steps)):
        right = miss_steps[step] * (rates.false_alarm - hull.false_alarm[step])
        assert (right - false_alarm_steps[step] * (rates.miss - hull.miss[step]) >= -1e-12).all()


def test_thresholds_whose_trials_weigh_nothing_are_no_part_of_the_hull():
    """As where people are drawn anew and some are not drawn; two of the points are the same, so no line leads on."""
    rates = ErrorRates(*np.array([[0, 1, 2, 3, np.inf], [0, 0, 0, 0.5, 1], [1, 0.5, 0.5, 0, 0]]))
    hull = rates.convex_hull()
    assert hull.miss.tolist() == [0, 0, 0.5, 1]
    assert hull.false_alarm.tolist() == [1, 0.5, 0, 0]
    assert hull.thresholds[[0, 2, 3]].tolist() == [0, 3, np.inf]


@given(scored_trials(), st.floats(0.001, 0.999))
def test_min_dcf_is_the_same_on_the_hull(trials, p_target):
    rates = error_rates(*trials)
    assert rates.convex_hull().min_dcf(p_target=p_target) == pytest.approx(rates.min_dcf(p_target=p_target), abs=1e-12)


@given(scored_trials())
def test_conventions_for_the_eer_keep_their_order(trials):
    rates = error_rates(*trials)
    assert 0 <= rates.rocch_equal_error_rate() <= 0.5
    assert rates.rocch_equal_error_rate() <= rates.equal_error_rate() + 1e-12
    assert rates.equal_error_rate() <= rates.nearest_equal_error_rate() + 1e-12
    assert rates.nearest_equal_error_rate() <= 1


@given(scored_trials())
@settings(max_examples=200, deadline=None)
def test_the_eer_is_that_of_the_script_of_voxsrc(trials):
    assert equal_error_rate(*trials) == pytest.approx(eer_of_voxsrc(*trials), abs=1e-11)


@given(scored_trials())
@settings(max_examples=200, deadline=None)
def test_the_nearest_eer_is_that_of_voxceleb_trainer(trials):
    assert error_rates(*trials).nearest_equal_error_rate() == pytest.approx(eer_of_voxceleb_trainer(*trials), abs=1e-12)


@given(scored_trials(), st.floats(0.001, 0.999), st.floats(0.1, 20), st.floats(0.1, 20))
def test_min_dcf_is_between_0_and_1(trials, p_target, c_miss, c_fa):
    assert 0 <= min_dcf(*trials, p_target=p_target, c_miss=c_miss, c_fa=c_fa) <= 1


@given(scored_trials())
@settings(max_examples=200)
def test_metrics_agree_with_counting_trial_by_trial(trials):
    scores, is_target = trials
    thresholds, miss, false_alarm = rates_by_definition(scores, is_target)
    rates = error_rates(scores, is_target)
    assert rates.thresholds.tolist() == thresholds
    assert rates.miss == pytest.approx(miss)
    assert rates.false_alarm == pytest.approx(false_alarm)
    assert rates.equal_error_rate() == pytest.approx(eer_by_walking(miss, false_alarm))
    costs = [0.05 * m + 0.95 * fa for m, fa in zip(miss, false_alarm, strict=True)]
    assert rates.min_dcf(p_target=0.05) == pytest.approx(min(costs) / 0.05)


def test_eer_is_that_of_scikit_learns_roc_curve():
    rng = np.random.default_rng(0)
    is_target = rng.random(5000) < 0.3
    scores = np.round(rng.normal(size=5000) + 1.5 * is_target, 2)
    false_alarm, hit, _ = roc_curve(is_target, scores, drop_intermediate=True)
    grid = np.linspace(0, 1, 2_000_001)
    crossing = grid[np.argmin(np.abs(1 - np.interp(grid, false_alarm, hit) - grid))]
    assert equal_error_rate(scores, is_target) == pytest.approx(crossing, abs=1e-6)
    assert equal_error_rate(scores, is_target) == pytest.approx(eer_of_voxsrc(scores, is_target), abs=1e-11)
    nearest = error_rates(scores, is_target).nearest_equal_error_rate()
    assert nearest == pytest.approx(eer_of_voxceleb_trainer(scores, is_target))
    cost = np.min(0.01 * (1 - hit) + 0.99 * false_alarm) / 0.01
    assert min_dcf(scores, is_target, p_target=0.01) == pytest.approx(cost)


def test_reported_metrics_name_their_p_target():
    metrics = verification_metrics([1, 3, 4, 0, 2], [True, True, True, False, False])
    assert metrics == VerificationMetrics(
        eer=pytest.approx(1 / 3),
        min_dcf={0.01: pytest.approx(1 / 3), 0.05: pytest.approx(1 / 3)},
        target_trials=3,
        nontarget_trials=2,
        threshold=3.0,
    )
    assert metrics.to_json() == {
        "eer": metrics.eer,
        "min_dcf": {"0.01": metrics.min_dcf[0.01], "0.05": metrics.min_dcf[0.05]},
        "target_trials": 3,
        "nontarget_trials": 2,
    }
    assert str(metrics).splitlines() == [
        "3 target and 2 non-target trials",
        "EER                     33.333 %, at the threshold 3.0000",
        "minDCF (p_target 0.01)  0.3333",
        "minDCF (p_target 0.05)  0.3333",
    ]


def test_min_dcf_is_reported_at_the_wished_priors():
    scores, is_target = [1, 3, 4, 0, 2], [True, True, True, False, False]
    metrics = verification_metrics(scores, is_target, p_targets=[0.9, 0.5])
    assert metrics.min_dcf == {0.9: pytest.approx(1 / 2), 0.5: pytest.approx(1 / 3)}


def test_importing_the_metrics_imports_no_scipy():
    code = "import sys, chns.evaluation.metrics; print('scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


@pytest.mark.parametrize("kind", [np.int8, np.int64, np.uint8])
def test_labels_may_be_ones_and_zeros_and_scores_of_any_precision(kind):
    scores, is_target = np.array([0.9, 0.4, 0.6, 0.1], np.float32), np.array([1, 1, 0, 0])
    told, expected = error_rates(scores, is_target.astype(kind)), error_rates(scores, is_target == 1)
    assert all(np.array_equal(a, b) for a, b in zip(told, expected, strict=True))
    assert [column.dtype for column in told] == [np.float64] * 3


@pytest.mark.parametrize(
    ("scores", "is_target", "message"),
    [
        ([1.0, 2.0], [True, True], "both targets and non-targets, got 2 targets and 0"),
        ([1.0, 2.0], [False, False], "got 0 targets and 2 non-targets"),
        ([], np.zeros(0, bool), "got 0 targets and 0 non-targets"),
        ([1.0, np.nan], [True, False], "scores must be finite, got nan for trial 1"),
        ([np.inf, 1.0], [True, False], "scores must be finite, got inf for trial 0"),
        ([1.0, 2.0, 3.0], [True, False], r"one shape \(trials,\), got \(3,\), \(2,\)"),
        ([[1.0], [2.0]], [[True], [False]], "one shape"),
        ([1.0, 2.0], [2, 0], "type bool, or integers 0 and 1, got int64"),
        ([1.0, 2.0], [1.0, 0.0], "type bool, or integers 0 and 1, got float64"),
    ],
)
def test_unusable_trials_are_refused(scores, is_target, message):
    with pytest.raises(ValueError, match=message):
        error_rates(scores, is_target)


@pytest.mark.parametrize("p_target", [0, 1, -0.1, float("nan")])
def test_p_target_is_a_probability_between_0_and_1(p_target):
    with pytest.raises(ValueError, match="p_target must be between 0 and 1"):
        min_dcf([1, 0], [True, False], p_target=p_target)


@pytest.mark.parametrize("costs", [{"c_miss": 0}, {"c_fa": -1}, {"c_miss": float("inf")}, {"c_fa": float("nan")}])
def test_costs_are_positive_numbers(costs):
    with pytest.raises(ValueError, match=f"{next(iter(costs))} must be a positive number"):
        min_dcf([1, 0], [True, False], p_target=0.5, **costs)


def test_the_threshold_at_the_eer_balances_the_errors():
    scores = np.array([0.1, 0.2, 0.35, 0.4, 0.5, 0.6, 0.7, 0.8])
    is_target = np.array([False, False, False, True, False, True, True, True])
    metrics = verification_metrics(scores, is_target)
    assert metrics.threshold == 0.5
    assert np.mean(scores[is_target] < 0.5) == np.mean(scores[~is_target] >= 0.5) == metrics.eer == 0.25


@pytest.mark.parametrize("scores", [[1.0, 1.0, 1.0, 1.0], [0.0, 0.1, 0.2, 0.3]])
def test_the_threshold_is_a_score_even_where_the_system_is_useless(scores):
    assert verification_metrics(scores, np.array([True, True, False, False])).threshold in scores
