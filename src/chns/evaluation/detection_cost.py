"""The detection cost function: what errors cost at an operating point, and which threshold is best there.

An operating point is how often trials are targets (p_target) and what the two kinds of error cost. A system that
ignores the speech pays the cheaper of accepting everything and rejecting everything; costs are divided by that.

Source:
    The normalised detection cost function of the NIST speaker recognition evaluations.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from chns.core.arrays import Float64Array


def detection_cost(
    miss: npt.ArrayLike, false_alarm: npt.ArrayLike, *, p_target: float, c_miss: float = 1.0, c_fa: float = 1.0
) -> Float64Array:
    """Normalised cost of pairs of error rates.

    Args:
        miss: Share of target trials that are rejected, any shape.
        false_alarm: Share of non-target trials that are accepted, the same shape.
        p_target: Prior probability of a target trial, between 0 and 1.
        c_miss: Cost of rejecting a target.
        c_fa: Cost of accepting a non-target.

    Returns:
        c_miss * p_target * miss + c_fa * (1 - p_target) * false_alarm, divided by
        min(c_miss * p_target, c_fa * (1 - p_target)), the same shape.

    Raises:
        ValueError: If p_target is not between 0 and 1, or a cost is not a positive number.
    """
    miss_weight, false_alarm_weight = _weights(p_target, c_miss, c_fa)
    cost = miss_weight * np.asarray(miss) + false_alarm_weight * np.asarray(false_alarm)
    return np.asarray(cost / min(miss_weight, false_alarm_weight))


def bayes_threshold(*, p_target: float, c_miss: float = 1.0, c_fa: float = 1.0) -> float:
    """The log-likelihood ratio from which on accepting costs less than rejecting, on average.

    Args:
        p_target: Prior probability of a target trial, between 0 and 1.
        c_miss: Cost of rejecting a target.
        c_fa: Cost of accepting a non-target.

    Returns:
        log(c_fa * (1 - p_target) / (c_miss * p_target)), natural logarithm.

    Raises:
        ValueError: If p_target is not between 0 and 1, or a cost is not a positive number.
    """
    miss_weight, false_alarm_weight = _weights(p_target, c_miss, c_fa)
    return math.log(false_alarm_weight / miss_weight)


def _weights(p_target: float, c_miss: float, c_fa: float) -> tuple[float, float]:
    if not 0 < p_target < 1:
        raise ValueError(f"p_target must be between 0 and 1, both excluded, got {p_target}.")
    for name, cost in (("c_miss", c_miss), ("c_fa", c_fa)):
        if not 0 < cost < math.inf:
            raise ValueError(f"{name} must be a positive number, got {cost}.")
    return c_miss * p_target, c_fa * (1 - p_target)
