"""Costs of error rates, and the threshold that log-likelihood ratios should be compared with."""

import math

import numpy as np
import pytest

from chns.evaluation.metrics import bayes_threshold, detection_cost


def test_accepting_or_rejecting_everything_costs_1_at_best():
    for operating_point in ({"p_target": 0.01}, {"p_target": 0.8}, {"p_target": 0.3, "c_miss": 10, "c_fa": 2}):
        accepting, rejecting = detection_cost([0, 1], [1, 0], **operating_point)
        assert min(accepting, rejecting) == pytest.approx(1)


def test_costs_of_hand_worked_rates_keep_their_shape():
    costs = detection_cost(np.array([[0.1, 0.2]]), np.array([[0.01, 0.0]]), p_target=0.05)
    assert costs.shape == (1, 2)
    # 0.05 * 0.1 + 0.95 * 0.01 = 0.0145, and 0.05 * 0.2 = 0.01, both divided by 0.05.
    assert costs[0] == pytest.approx([0.29, 0.2])
    # The cheaper way out is accepting: 0.9 * 0.1 + 0.1 * 0.2 = 0.11, divided by 0.1.
    assert detection_cost(0.1, 0.2, p_target=0.9) == pytest.approx(1.1)


def test_the_bayes_threshold_is_the_logarithm_of_the_odds_against_a_target():
    assert bayes_threshold(p_target=0.5) == 0
    assert bayes_threshold(p_target=0.05) == pytest.approx(math.log(19))
    assert bayes_threshold(p_target=0.01) == pytest.approx(math.log(99))
    assert bayes_threshold(p_target=0.5, c_miss=10) == pytest.approx(-math.log(10))
    assert bayes_threshold(p_target=0.5, c_fa=10) == pytest.approx(math.log(10))


@pytest.mark.parametrize("p_target", [0, 1, -0.1, float("nan")])
def test_p_target_is_a_probability_between_0_and_1(p_target):
    with pytest.raises(ValueError, match="p_target must be between 0 and 1, both excluded, got"):
        bayes_threshold(p_target=p_target)
    with pytest.raises(ValueError, match="p_target must be between 0 and 1, both excluded, got"):
        detection_cost(0.1, 0.2, p_target=p_target)


@pytest.mark.parametrize("costs", [{"c_miss": 0}, {"c_fa": -1}, {"c_miss": float("inf")}, {"c_fa": float("nan")}])
def test_costs_are_positive_numbers(costs):
    with pytest.raises(ValueError, match=f"{next(iter(costs))} must be a positive number, got"):
        bayes_threshold(p_target=0.5, **costs)
