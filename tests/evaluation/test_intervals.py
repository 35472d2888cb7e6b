"""Bootstrap over speakers: against repeated trials, against known truths, and that bad input is named."""

import math
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import norm

from chns.evaluation.intervals import (
    Interval,
    bootstrap_metrics,
    interval,
    mean_over_seeds,
    paired_difference,
    speaker_intervals,
)
from chns.evaluation.metrics import equal_error_rate, error_rates, min_dcf
from chns.evaluation.speaker_bootstrap import _Curve, _Weights

METRICS = ("eer", "min_dcf_0.01", "min_dcf_0.05")
TARGET_MEAN, SPEAKER_DEVIATION = 3.5, 0.5


def simulated_trials(rng, *, num_speakers, targets_each=20, nontargets_each=40):
    """Scores with an effect of each speaker on all their trials, labels, and both speakers."""
    target = np.repeat(np.arange(num_speakers), targets_each)
    first = np.repeat(np.arange(num_speakers), nontargets_each)
    second = (first + rng.integers(1, num_speakers, size=len(first))) % num_speakers
    consistency, similarity = SPEAKER_DEVIATION * rng.normal(size=(2, num_speakers))
    means = np.concatenate((TARGET_MEAN + consistency[target], similarity[first] + similarity[second]))
    is_target = np.arange(len(means)) < len(target)
    order = rng.permutation(len(means))
    columns = (is_target, np.concatenate((target, first)), np.concatenate((target, second)))
    return means[order] + rng.normal(size=len(means)), *(column[order] for column in columns)


def true_eer():
    """EER of all speakers there could be, from the two normal distributions of their scores."""
    target = norm(TARGET_MEAN, math.hypot(SPEAKER_DEVIATION, 1))
    nontarget = norm(0, math.sqrt(2 * SPEAKER_DEVIATION**2 + 1))
    return target.cdf(brentq(lambda score: target.cdf(score) - nontarget.sf(score), 0, TARGET_MEAN))


@pytest.fixture
def trials():
    return simulated_trials(np.random.default_rng(0), num_speakers=40)


@st.composite
def weighted_trials(draw):
    """Few distinct scores, so that ties are common, both kinds of trial, and weights from 0 to 3."""
    labels = [*draw(st.lists(st.booleans(), max_size=40)), True, False]
    scores = draw(st.lists(st.integers(-8, 8), min_size=len(labels), max_size=len(labels)))
    weights = draw(st.lists(st.integers(0, 3), min_size=len(labels) - 2, max_size=len(labels) - 2))
    return np.array(scores, dtype=float), np.array(labels), np.array([*weights, 1, 2])


@pytest.mark.slow
@given(weighted_trials())
@settings(max_examples=300)
def test_a_weight_is_the_same_as_having_the_trial_that_often(trials):
    scores, is_target, weights = trials
    rates = _Curve.of(scores, is_target).reweighted(_Weights(weights[is_target], weights[~is_target]))
    expected = error_rates(scores.repeat(weights), is_target.repeat(weights))
    assert rates.equal_error_rate() == pytest.approx(expected.equal_error_rate(), abs=1e-12)
    for p_target in (0.01, 0.5, 0.9):
        assert rates.min_dcf(p_target=p_target) == pytest.approx(expected.min_dcf(p_target=p_target), abs=1e-12)


@given(weighted_trials())
def test_corners_are_points_of_the_curve_and_no_two_pieces_go_the_same_way(trials):
    scores, is_target, _ = trials
    ones = _Weights(np.ones(is_target.sum(), np.int64), np.ones((~is_target).sum(), np.int64))
    corners, whole = _Curve.of(scores, is_target).reweighted(ones), error_rates(scores, is_target)
    assert set(zip(*corners, strict=True)) <= set(zip(*whole, strict=True))
    steps = [(miss > 0, false_alarm < 0) for miss, false_alarm in zip(*map(np.diff, corners[1:]), strict=True)]
    assert all(a != b or a == (True, True) for a, b in pairwise(steps))


def test_estimates_are_exactly_the_metrics_of_the_trials(trials):
    scores, *rest = trials
    metrics = bootstrap_metrics([scores, scores.round(1)], *rest, num_resamples=2)
    assert tuple(metrics.estimate) == tuple(metrics.resampled) == METRICS
    for system, some in enumerate((scores, scores.round(1))):
        assert metrics.estimate["eer"][system] == equal_error_rate(some, rest[0])
        assert metrics.estimate["min_dcf_0.05"][system] == min_dcf(some, rest[0], p_target=0.05)
    assert all(values.shape == (2, 2) for values in metrics.resampled.values())


def test_resampled_metrics_are_those_of_drawn_speakers_with_their_trials(trials):
    """Speakers drawn as documented; a trial is repeated by its speaker's, or the product of its speakers', count."""
    scores, is_target, enrolment, test = trials
    resampled = bootstrap_metrics([scores], is_target, enrolment, test, num_resamples=20, seed=3).resampled
    rng = np.random.default_rng(3)
    for column in range(20):
        drawn = rng.integers(40, size=40).tolist()
        times = [
            drawn.count(one) if same else drawn.count(one) * drawn.count(other)
            for one, other, same in zip(enrolment, test, is_target, strict=True)
        ]
        some, labels = scores.repeat(times), is_target.repeat(times)
        assert resampled["eer"][0, column] == pytest.approx(equal_error_rate(some, labels), abs=1e-12)
        assert resampled["min_dcf_0.01"][0, column] == pytest.approx(min_dcf(some, labels, p_target=0.01), abs=1e-12)


def test_a_seed_fixes_the_draw_whatever_the_systems_and_the_names_of_speakers(trials):
    scores, is_target, enrolment, test = trials
    both = bootstrap_metrics([scores, -scores], is_target, enrolment, test, num_resamples=30, seed=1).resampled
    names = np.array([f"id{speaker:05d}" for speaker in range(40)])
    alone = bootstrap_metrics(
        [-scores], is_target, names[enrolment].tolist(), names[test], num_resamples=30, seed=1
    ).resampled
    other = bootstrap_metrics([scores], is_target, enrolment, test, num_resamples=30, seed=2).resampled
    for name in METRICS:
        assert np.array_equal(both[name][1:], alone[name])
    assert not np.array_equal(both["eer"][0], other["eer"][0])


def test_more_resamples_begin_with_the_same_ones(trials):
    scores, *rest = trials
    few, many = (bootstrap_metrics([scores], *rest, num_resamples=number).resampled["eer"] for number in (5, 20))
    assert np.array_equal(few, many[:, :5])


def test_resamples_without_one_kind_of_trial_are_drawn_again():
    # Of two speakers, every other draw has one of them only, and so no non-target trial.
    metrics = bootstrap_metrics(
        [[0.9, 0.8, 0.1]], [True, True, False], ["a", "b", "a"], ["a", "b", "b"], num_resamples=50
    )
    assert metrics.resampled["eer"].tolist() == [[0.0] * 50]


@pytest.mark.slow
def test_the_interval_of_resampled_speakers_covers_the_truth_and_that_of_resampled_trials_does_not():
    rng = np.random.default_rng(0)
    truth, lists, covered_by_speakers, covered_by_trials = true_eer(), 100, 0, 0
    for number in range(lists):
        scores, is_target, *speakers = simulated_trials(rng, num_speakers=50)
        found = speaker_intervals(scores, is_target, *speakers, num_resamples=150, seed=number, p_targets=())["eer"]
        covered_by_speakers += found.low <= truth <= found.high
        drawn = (rng.integers(len(scores), size=len(scores)) for _ in range(60))
        low, high = np.quantile([equal_error_rate(scores[some], is_target[some]) for some in drawn], (0.025, 0.975))
        covered_by_trials += low <= truth <= high
    assert covered_by_speakers >= 0.89 * lists
    assert covered_by_trials <= 0.75 * lists


@pytest.mark.slow
def test_ninety_five_percent_intervals_cover_ninety_five_percent():
    rng = np.random.default_rng(1)
    truth, lists = true_eer(), 500
    covered = 0
    for number in range(lists):
        trials = simulated_trials(rng, num_speakers=100)
        found = speaker_intervals(*trials, num_resamples=400, seed=number, p_targets=())["eer"]
        covered += found.low <= truth <= found.high
    assert 0.92 * lists <= covered <= 0.98 * lists, covered


def test_a_paired_difference_is_narrower_than_that_of_separate_draws(trials):
    scores, *rest = trials
    better = scores + 0.2 * rest[0] + 0.3 * np.random.default_rng(5).normal(size=len(scores))
    paired = paired_difference((scores, better), *rest, num_resamples=300)
    assert tuple(paired) == METRICS
    separate = [
        bootstrap_metrics([some], *rest, num_resamples=300, seed=seed) for seed, some in enumerate((scores, better))
    ]
    for name, found in paired.items():
        estimate = (separate[1].estimate[name] - separate[0].estimate[name]).item()
        unpaired = interval(estimate, (separate[1].resampled[name] - separate[0].resampled[name])[0])
        assert found.estimate == unpaired.estimate
        assert found.high - found.low < 0.8 * (unpaired.high - unpaired.low)
    assert paired["eer"].high - paired["eer"].low < 0.5 * (unpaired.high - unpaired.low)


def test_a_difference_is_b_minus_a_and_a_better_system_excludes_zero(trials):
    scores, *rest = trials
    better = scores + 0.5 * rest[0]
    improvement = paired_difference((scores, better), *rest, num_resamples=200)["eer"]
    worsening = paired_difference((better, scores), *rest, num_resamples=200)["eer"]
    assert improvement.high < 0 < worsening.low
    assert improvement.excludes_zero
    assert worsening.excludes_zero
    nothing = paired_difference((scores, 2 * scores + 1), *rest, num_resamples=200)["eer"]
    assert (nothing.estimate, nothing.low, nothing.high) == (0, 0, 0)
    assert not nothing.excludes_zero


def test_an_interval_of_unbiased_values_is_between_their_percentiles():
    values = np.linspace(-1, 1, 2001)
    found = interval(0.0, values)
    assert (found.low, found.high) == pytest.approx((-0.95, 0.95), abs=1e-3)
    assert interval(0.0, values, level=0.5).high == pytest.approx(0.5, abs=1e-3)


def test_the_bias_correction_moves_an_interval_towards_the_side_where_the_estimate_lies():
    values = np.random.default_rng(0).normal(size=100_000)
    # 84 % lie below an estimate of 1: both percentiles move by two standard deviations (1 each way).
    found = interval(1.0, values)
    assert (found.low, found.high) == pytest.approx((2 - 1.96, 2 + 1.96), abs=0.25)
    assert interval(9.0, values).high == values.max()


@given(st.lists(st.floats(0, 1), min_size=1, max_size=50), st.floats(0, 1), st.floats(0.01, 0.99))
def test_an_interval_stays_within_the_resampled_values(values, estimate, level):
    found = interval(estimate, values, level=level)
    assert min(values) <= found.low <= found.high <= max(values)


def test_an_interval_formats_like_a_number():
    found = Interval(0.0203, 0.0195, 0.02114)
    assert str(found) == "0.0203 [0.0195, 0.0211]"
    assert f"{found:.2%}" == "2.03 % [1.95 %, 2.11 %]"
    assert Interval(-0.0035, -0.006, -0.001).in_points() == "-0.35 [-0.60, -0.10] points"
    assert found.to_json() == {"estimate": 0.0203, "low": 0.0195, "high": 0.02114, "level": 0.95}
    assert found.excludes_zero
    assert not Interval(0.1, 0.0, 0.2).excludes_zero


def test_a_mean_over_equal_seeds_has_the_variation_of_speakers_alone():
    values = np.tile(np.random.default_rng(0).normal(size=4000), (3, 1))
    found = mean_over_seeds([0.5, 0.5, 0.5], values)
    assert found.estimate == 0.5
    assert (found.high - 0.5, 0.5 - found.low) == pytest.approx((1.96, 1.96), rel=0.03)


def test_a_mean_over_seeds_has_students_t_where_seeds_are_all_that_varies():
    # Mean 2, standard error 1 / sqrt(3), two degrees of freedom.
    found = mean_over_seeds([1.0, 2.0, 3.0], [[1.0] * 9, [2.0] * 9, [3.0] * 9])
    assert (found.estimate, found.high) == pytest.approx((2, 2 + 4.302653 / math.sqrt(3)))
    assert found.low < 0
    assert not found.excludes_zero


def test_the_mean_over_one_seed_is_that_models_interval():
    values = np.random.default_rng(0).normal(size=100)
    assert mean_over_seeds([0.1], values[np.newaxis], level=0.9) == interval(0.1, values, level=0.9)


@pytest.mark.parametrize("seed_deviation", [0.0, 1.0, 3.0])
def test_an_interval_over_three_seeds_covers_what_other_speakers_and_other_seeds_would_give(seed_deviation):
    rng = np.random.default_rng(0)
    covered, repeats = 0, 400
    for _ in range(repeats):
        estimates = rng.normal() + seed_deviation * rng.normal(size=3)
        found = mean_over_seeds(estimates, estimates[:, np.newaxis] + rng.normal(size=200))
        covered += found.low <= 0 <= found.high
    assert 0.91 * repeats <= covered <= 0.985 * repeats


def test_the_draw_of_speakers_imports_neither_torch_nor_scipy():
    check = "import sys, chns.evaluation.intervals; assert not {'torch', 'scipy'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", check], check=True)


LABELS = np.array([True, True, False, False])
FIRST, SECOND = np.array([0, 1, 0, 1]), np.array([0, 1, 1, 2])
SCORES = np.array([[0.9, 0.8, 0.2, 0.1]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": SCORES[0]}, r"shape \(systems, trials\) for 4 trials, got \(4,\)"),
        ({"scores": SCORES[:, :3]}, r"shape \(systems, trials\) for 4 trials, got \(1, 3\)"),
        ({"scores": SCORES[:0]}, r"got \(0, 4\)"),
        ({"scores": np.where(SCORES > 0.8, np.nan, SCORES)}, "scores must be finite, got nan for trial 0"),
        ({"is_target": LABELS[:3]}, r"one shape \(trials,\), got \(3,\), \(4,\), \(4,\)"),
        ({"enrolment_speakers": FIRST[:3]}, r"one shape \(trials,\), got \(4,\), \(3,\), \(4,\)"),
        ({"is_target": LABELS.astype(int) + 1}, "is_target must be of type bool, or integers 0 and 1, got int64"),
        ({"test_speakers": SECOND.astype(str)}, "both be integers or both strings, got int64 and <U"),
        ({"enrolment_speakers": FIRST / 1, "test_speakers": SECOND / 1}, "got float64 and float64"),
        ({"is_target": ~LABELS}, "true where both speakers are the same, got False for trial 0 of speakers 0 and 0"),
        ({"is_target": LABELS | True}, "got True for trial 2 of speakers 0 and 1"),
        ({"num_resamples": 0}, "num_resamples must be positive, got 0"),
        ({"p_targets": (0.01, 1)}, "p_target must be between 0 and 1"),
    ],
)
def test_unusable_trials_are_refused(change, message):
    usable = {"scores": SCORES, "is_target": LABELS, "enrolment_speakers": FIRST, "test_speakers": SECOND}
    with pytest.raises(ValueError, match=message):
        bootstrap_metrics(**(usable | change))


def test_a_single_speaker_and_a_single_kind_of_trial_are_refused():
    with pytest.raises(ValueError, match="target trials must be of two speakers or more, got 1"):
        bootstrap_metrics([[0.9, 0.8]], [True, True], ["a", "a"], ["a", "a"])
    with pytest.raises(ValueError, match="target trials must be of two speakers or more, got 0"):
        bootstrap_metrics([[0.9]], [False], ["a"], ["b"])
    with pytest.raises(ValueError, match="both targets and non-targets, got 2 targets and 0"):
        bootstrap_metrics([[0.9, 0.8]], [True, True], ["a", "b"], ["a", "b"])


def test_systems_with_other_trials_have_no_paired_difference():
    with pytest.raises(ValueError, match=r"scores must be of the same trials, got shapes \(4,\) and \(3,\)"):
        paired_difference((SCORES[0], SCORES[0, :3]), LABELS, FIRST, SECOND)


@pytest.mark.parametrize("level", [0, 1, 95, math.nan])
def test_a_level_is_between_0_and_1(level):
    calls = [
        lambda: interval(0.0, [0.0], level=level),
        lambda: speaker_intervals(SCORES[0], LABELS, FIRST, SECOND, level=level),
        lambda: paired_difference((SCORES[0], SCORES[0]), LABELS, FIRST, SECOND, level=level),
        lambda: mean_over_seeds([0.0, 1.0], [[0.0, 1.0], [1.0, 0.0]], level=level),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="level must be between 0 and 1"):
            call()


@pytest.mark.parametrize("resampled", [[], [[0.1, 0.2]], [0.1, math.nan]])
def test_an_interval_needs_finite_numbers_in_a_row(resampled):
    with pytest.raises(ValueError, match=r"resampled must be finite numbers of shape \(resamples,\)"):
        interval(0.1, resampled)


@pytest.mark.parametrize(
    ("estimate", "resampled", "message"),
    [
        ([0.1, 0.2], [[0.1, 0.2]], r"shapes \(seeds,\) and \(seeds, resamples\).*got \(2,\) and \(1, 2\)"),
        ([0.1], [0.1, 0.2], r"got \(1,\) and \(2,\)"),
        ([0.1, 0.2], [[0.1], [0.2]], r"two resamples or more, got \(2,\) and \(2, 1\)"),
        ([0.1, math.nan], [[0.1, 0.2], [0.3, math.inf]], "must be finite, got 2 values that are not"),
    ],
)
def test_a_mean_over_seeds_needs_one_row_of_resamples_a_seed(estimate, resampled, message):
    with pytest.raises(ValueError, match=message):
        mean_over_seeds(estimate, resampled)
