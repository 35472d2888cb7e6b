"""Cllr, minCllr and actual DCF against hand-worked cases, naive loops and scikit-learn."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression

from chns.evaluation.calibration_metrics import actual_dcf, calibration_metrics, cllr, min_cllr, other_conventions
from chns.evaluation.metrics import error_rates, min_dcf


@st.composite
def trials_with_llrs(draw):
    """Few distinct ratios, so that ties are common, and both kinds of trial."""
    labels = [*draw(st.lists(st.booleans(), max_size=40)), True, False]
    llrs = draw(st.lists(st.integers(-8, 8), min_size=len(labels), max_size=len(labels)))
    return np.array(llrs, dtype=float), np.array(labels)


def cllr_by_definition(llrs, is_target):
    targets = [math.log2(1 + math.exp(-llr)) for llr in llrs[is_target]]
    nontargets = [math.log2(1 + math.exp(llr)) for llr in llrs[~is_target]]
    return (sum(targets) / len(targets) + sum(nontargets) / len(nontargets)) / 2


def min_cllr_by_pooling(scores, is_target):
    """Pool adjacent violators, one at a time; tied scores start as one pool."""
    pools = [[is_target[scores == score].sum(), (~is_target)[scores == score].sum()] for score in np.unique(scores)]
    at = 0
    while at < len(pools) - 1:
        (targets, nontargets), (next_targets, next_nontargets) = pools[at : at + 2]
        if targets * next_nontargets >= next_targets * nontargets:
            pools[at : at + 2] = [[targets + next_targets, nontargets + next_nontargets]]
            at = max(at - 1, 0)
        else:
            at += 1
    num_targets, num_nontargets = is_target.sum(), (~is_target).sum()
    cost = 0.0
    for targets, nontargets in pools:
        if targets and nontargets:
            ratio = (targets / num_targets) / (nontargets / num_nontargets)
            cost += targets / num_targets * math.log2(1 + 1 / ratio) + nontargets / num_nontargets * math.log2(
                1 + ratio
            )
    return cost / 2


def test_cllr_of_hand_worked_lists():
    assert cllr([0, 0, 0], [True, False, False]) == pytest.approx(1)
    # A target at odds 3 to 1: log2(4 / 3); a non-target at odds 1 to 7: log2(8 / 7).
    llrs = [math.log(3), -math.log(7)]
    assert cllr(llrs, [True, False]) == pytest.approx((math.log2(4 / 3) + math.log2(8 / 7)) / 2)
    # Each kind of trial has the weight of one, however many there are.
    assert cllr([*llrs, *llrs[1:] * 5], [True] + [False] * 6) == pytest.approx(cllr(llrs, [True, False]))


def test_ratios_in_single_precision_are_averaged_in_double():
    llrs, is_target = np.random.default_rng(0).normal(size=99).astype(np.float32), np.arange(99) < 50
    assert cllr(llrs, is_target) == cllr(llrs.astype(np.float64), is_target)


def test_min_cllr_of_a_hand_worked_list():
    # Targets 1, 3, 4; non-targets 0, 2. Only 1 and 2 are in the wrong order and become one pool: a third of the targets
    # and half of the non-targets, whose likelihood ratio is 2 / 3.
    expected = (1 / 3 * math.log2(1 + 3 / 2) + 1 / 2 * math.log2(1 + 2 / 3)) / 2
    assert min_cllr([1, 3, 4, 0, 2], [True, True, True, False, False]) == pytest.approx(expected)


def test_certainty_costs_nothing_where_it_is_right_and_everything_where_it_is_wrong():
    assert cllr([np.inf, -np.inf], [True, False]) == 0
    assert cllr([-np.inf, -np.inf], [True, False]) == np.inf
    assert cllr([np.inf, 0], [True, False]) == pytest.approx(1 / 2)
    assert actual_dcf([np.inf, -np.inf], [True, False], p_target=0.01) == 0
    assert actual_dcf([-np.inf, np.inf], [True, False], p_target=0.01) == pytest.approx(100)


def test_huge_ratios_do_not_overflow():
    assert cllr([-1000.0, 1000.0], [True, False]) == pytest.approx(1000 / math.log(2))
    assert cllr([1000.0, -1000.0], [True, False]) == 0


def test_min_cllr_of_perfect_inverted_and_equal_scores():
    assert min_cllr([1, 2, 3, 4], [False, False, True, True]) == 0
    assert min_cllr([4, 3, 2, 1], [False, False, True, True]) == pytest.approx(1)
    assert min_cllr([1, 1, 1, 1], [False, False, True, True]) == pytest.approx(1)


def test_actual_dcf_of_a_hand_worked_list():
    llrs, is_target = [3.1, 2.8, 5, -1, 3.0], [True, True, True, False, False]
    # The threshold at p 0.05 is log 19 = 2.944: one target of three is missed, one non-target of two accepted.
    assert actual_dcf(llrs, is_target, p_target=0.05) == pytest.approx((0.05 / 3 + 0.95 / 2) / 0.05)
    # At p 0.01 it is log 99 = 4.595: two targets missed, nothing accepted falsely.
    assert actual_dcf(llrs, is_target, p_target=0.01) == pytest.approx(2 / 3)
    # False alarms at 1 / 19 of the cost make p 0.05 one at even odds: only an error on the non-target 3.0.
    assert actual_dcf(llrs, is_target, p_target=0.05, c_miss=19) == pytest.approx(1 / 2)
    # A ratio at the threshold is accepted.
    assert actual_dcf([0, -1], [True, False], p_target=0.5) == 0


@given(trials_with_llrs())
@settings(max_examples=200)
def test_cllr_and_min_cllr_agree_with_naive_loops(trials):
    assert cllr(*trials) == pytest.approx(cllr_by_definition(*trials))
    assert min_cllr(*trials) == pytest.approx(min_cllr_by_pooling(*trials), abs=1e-12)


@given(trials_with_llrs(), st.floats(0.1, 10), st.floats(-5, 5))
def test_no_rising_map_of_the_ratios_beats_min_cllr(trials, scale, shift):
    llrs, is_target = trials
    lowest = min_cllr(llrs, is_target)
    assert 0 <= lowest <= 1 + 1e-12
    assert lowest <= cllr(llrs, is_target) + 1e-12
    assert lowest <= cllr(scale * llrs + shift, is_target) + 1e-12


@given(trials_with_llrs())
def test_only_the_order_matters_to_min_cllr(trials):
    llrs, is_target = trials
    for mapped in (llrs**3, np.exp(llrs), 0.001 * llrs - 7):
        assert min_cllr(mapped, is_target) == min_cllr(llrs, is_target)


@given(trials_with_llrs(), st.floats(0.001, 0.999), st.floats(0.1, 20), st.floats(0.1, 20))
def test_actual_dcf_is_never_below_min_dcf(trials, p_target, c_miss, c_fa):
    operating_point = {"p_target": p_target, "c_miss": c_miss, "c_fa": c_fa}
    assert actual_dcf(*trials, **operating_point) >= min_dcf(*trials, **operating_point) - 1e-12


@given(trials_with_llrs())
def test_swapping_labels_and_negating_ratios_keeps_both(trials):
    llrs, is_target = trials
    assert cllr(-llrs, ~is_target) == pytest.approx(cllr(llrs, is_target))
    assert min_cllr(-llrs, ~is_target) == pytest.approx(min_cllr(llrs, is_target), abs=1e-12)


def test_min_cllr_is_the_cllr_of_scikit_learns_isotonic_regression():
    rng = np.random.default_rng(0)
    is_target = rng.random(5000) < 0.3
    scores = np.round(rng.normal(size=5000) + 1.5 * is_target, 2)
    share = IsotonicRegression().fit_transform(scores, is_target)
    with np.errstate(divide="ignore"):
        llrs = np.log(share / (1 - share)) - np.log(is_target.mean() / (1 - is_target.mean()))
    assert np.isinf(llrs).any()
    assert min_cllr(scores, is_target) == pytest.approx(cllr(llrs, is_target))


def test_ratios_that_are_right_lose_next_to_nothing_to_calibration():
    # Two normal distributions one unit apart on each side: the log-likelihood ratio of x is 2 x.
    rng = np.random.default_rng(0)
    is_target = np.arange(100_000) < 20_000
    llrs = 2 * (rng.normal(size=100_000) + np.where(is_target, 1, -1))
    metrics = calibration_metrics(llrs, is_target)
    assert 0 <= metrics.cllr - metrics.min_cllr < 0.002
    for p_target in (0.01, 0.05):
        assert metrics.actual_dcf[p_target] == pytest.approx(min_dcf(llrs, is_target, p_target=p_target), abs=0.02)
    assert cllr(llrs + 3, is_target) > metrics.cllr + 0.1


def test_reported_metrics_name_their_p_target():
    llrs, is_target = [math.log(3), -math.log(7)], [True, False]
    metrics = calibration_metrics(llrs, is_target, p_targets=[0.5, 0.001])
    assert metrics.to_json() == {"cllr": cllr(llrs, is_target), "min_cllr": 0, "actual_dcf": {"0.5": 0, "0.001": 1}}
    assert str(metrics).splitlines() == [
        "actDCF (p_target 0.5)   0.0000",
        "actDCF (p_target 0.001) 1.0000",
        "Cllr                    0.3038, at best 0.0000 (minCllr)",
    ]


def test_other_conventions_are_those_of_the_same_rates():
    scores, is_target = [1, 3, 4, 0, 2], [True, True, True, False, False]
    rates = error_rates(scores, is_target)
    conventions = other_conventions(scores, is_target)
    assert conventions.to_json() == {
        "rocch_eer": rates.rocch_equal_error_rate(),
        "nearest_eer": rates.nearest_equal_error_rate(),
        "min_cllr": min_cllr(scores, is_target),
    }
    assert str(conventions).splitlines() == [
        "EER, convex hull        20.000 %",
        "EER, nearest threshold  50.000 %",
        f"minCllr                 {conventions.min_cllr:.4f}",
    ]


@pytest.mark.parametrize(
    ("llrs", "is_target", "message"),
    [
        ([1.0, 2.0], [True, True], "both targets and non-targets, got 2 targets and 0"),
        ([1.0, np.nan], [True, False], "llrs must not be NaN, got nan for trial 1"),
        ([1.0, 2.0, 3.0], [True, False], r"llrs and is_target must have one shape \(trials,\), got \(3,\), \(2,\)"),
        ([1.0, 2.0], [2, 0], "type bool, or integers 0 and 1, got int64"),
    ],
)
def test_unusable_ratios_are_refused(llrs, is_target, message):
    with pytest.raises(ValueError, match=message):
        cllr(llrs, is_target)
    with pytest.raises(ValueError, match=message):
        actual_dcf(llrs, is_target, p_target=0.05)


def test_min_cllr_needs_finite_scores_of_both_kinds():
    with pytest.raises(ValueError, match="scores must be finite, got inf for trial 0"):
        min_cllr([np.inf, 0], [True, False])
    with pytest.raises(ValueError, match="got 0 targets and 2 non-targets"):
        min_cllr([1, 0], [False, False])
