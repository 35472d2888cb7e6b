"""Where a calibrated model accepts: for given costs, or for a wished share of false alarms.

Each time two thresholds: one for the log-likelihood ratio of a trial, and one for where only the score is known, such
as in a search among voiceprints, which keep neither durations nor magnitudes.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from chns.evaluation.calibration import fit_calibration
from chns.evaluation.detection_cost import bayes_threshold
from chns.evaluation.metrics import error_rates


class Thresholds(NamedTuple):
    """The lowest values that are accepted.

    Attributes:
        llr: Of the log-likelihood ratio.
        score: Of the score, where the quality of the recordings is not known.
    """

    llr: float
    score: float


def thresholds_for_costs(
    scores: npt.ArrayLike, is_target: npt.ArrayLike, *, p_target: float, c_miss: float = 1.0, c_fa: float = 1.0
) -> Thresholds:
    """The Bayes threshold, and the score that a calibration without quality terms gives this ratio.

    Args:
        scores: Shape (trials,).
        is_target: Whether each trial is one speaker, shape (trials,), bool.
        p_target: Prior probability of a target trial, between 0 and 1.
        c_miss: Cost of rejecting a target.
        c_fa: Cost of accepting a non-target.

    Raises:
        ValueError: As `bayes_threshold` and `fit_calibration`.
    """
    llr = bayes_threshold(p_target=p_target, c_miss=c_miss, c_fa=c_fa)
    plain = fit_calibration(scores, is_target, p_target=p_target)
    return Thresholds(llr, float(plain.scores_at(llr, {}, 1)[0]))


def thresholds_for_false_alarm(
    scores: npt.ArrayLike, llrs: npt.ArrayLike, is_target: npt.ArrayLike, *, false_alarm: float
) -> Thresholds:
    """`false_alarm_threshold` of both the ratios and the scores of the same trials."""
    return Thresholds(
        false_alarm_threshold(llrs, is_target, false_alarm=false_alarm),
        false_alarm_threshold(scores, is_target, false_alarm=false_alarm),
    )


def false_alarm_threshold(scores: npt.ArrayLike, is_target: npt.ArrayLike, *, false_alarm: float) -> float:
    """The lowest of the scores at or above which lies at most a share ``false_alarm`` of the non-targets.

    How well the rate holds on other trials depends on how many non-targets that is: with 30, all independent, it is
    uncertain by about a third (two standard deviations).

    Args:
        scores: Scores or log-likelihood ratios, shape (trials,).
        is_target: Whether each trial is one speaker, shape (trials,), bool.
        false_alarm: Wished share of non-target trials that are accepted, between 0 and 1.

    Raises:
        ValueError: If the arrays break the rules of `error_rates`, or false_alarm is not between 0 and 1, below what so
            many non-targets can show, or met only by rejecting every trial.
    """
    if not 0 < false_alarm < 1:
        raise ValueError(f"false_alarm must be between 0 and 1, both excluded, got {false_alarm}.")
    rates = error_rates(scores, is_target)
    num_nontargets = np.size(is_target) - np.count_nonzero(is_target)
    if false_alarm * num_nontargets < 1:
        raise ValueError(
            f"false_alarm must be at least one of the {num_nontargets} non-target trials, {1 / num_nontargets:.2g}, "
            f"got {false_alarm}. Use a longer trial list."
        )
    threshold = float(rates.thresholds[np.argmax(rates.false_alarm <= false_alarm)])
    if math.isinf(threshold):
        raise ValueError(
            f"false_alarm must be met by some score, got {false_alarm}, which only rejecting every trial meets."
        )
    return threshold
