"""Error rates of a verification system: EER and minDCF.

A trial is accepted if its score is at or above the threshold. Of each threshold two things matter: the share of
target trials that it rejects (miss) and of non-target trials that it accepts (false alarm). Both follow from one sort
of the scores, and every metric here is read off the same arrays: 580,000 trials with the EER and minDCF at two priors
take 0.1 s on one core. Comparing every score with every threshold, as is also done, needs memory quadratic in the
number of trials.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

REPORTED_P_TARGETS = (0.01, 0.05)


class ErrorRates(NamedTuple):
    """Both error rates at every threshold that tells trials apart, from the laxest to the strictest.

    Attributes:
        thresholds: The distinct scores in ascending order, then infinity, shape (thresholds,).
        miss: Share of target trials that score below each threshold; rises from 0 to 1.
        false_alarm: Share of non-target trials that score at or above it; falls from 1 to 0.
    """

    thresholds: FloatArray
    miss: FloatArray
    false_alarm: FloatArray

    def equal_error_rate(self) -> float:
        """The rate at which misses and false alarms are equally frequent, as a fraction.

        Source:
            Linear interpolation of both rates between the two neighbouring thresholds where they cross, as in the NIST
            speaker recognition evaluations and WeSpeaker; the same as interpolating an ROC curve. The EER on the ROC's
            convex hull (BOSARIS) is another number, never larger.
        """
        gap = self.miss - self.false_alarm
        after = int(np.argmax(gap >= 0))
        before = after - 1
        share = gap[before] / (gap[before] - gap[after])
        return float(self.miss[before] + share * (self.miss[after] - self.miss[before]))

    def equal_error_threshold(self) -> float:
        """The lowest score that, as a threshold, misses at least as often as it accepts falsely."""
        balanced = int(np.argmax(self.miss >= self.false_alarm))
        return float(self.thresholds[min(balanced, len(self.thresholds) - 2)])

    def min_dcf(self, *, p_target: float, c_miss: float = 1.0, c_fa: float = 1.0) -> float:
        """The lowest detection cost over all thresholds, normalised; 1 is what a system that ignores the speech gets.

        Args:
            p_target: Prior probability of a target trial, between 0 and 1.
            c_miss: Cost of rejecting a target.
            c_fa: Cost of accepting a non-target.

        Returns:
            min over t of (c_miss * p_target * miss(t) + c_fa * (1 - p_target) * false_alarm(t)), divided by
            min(c_miss * p_target, c_fa * (1 - p_target)); between 0 and 1.

        Raises:
            ValueError: If p_target is not between 0 and 1, or a cost is not a positive number.

        Source:
            The normalised detection cost function of the NIST speaker recognition evaluations.
        """
        if not 0 < p_target < 1:
            raise ValueError(f"p_target must be between 0 and 1, both excluded, got {p_target}.")
        for name, cost in (("c_miss", c_miss), ("c_fa", c_fa)):
            if not 0 < cost < math.inf:
                raise ValueError(f"{name} must be a positive number, got {cost}.")
        miss_weight, false_alarm_weight = c_miss * p_target, c_fa * (1 - p_target)
        lowest = np.min(miss_weight * self.miss + false_alarm_weight * self.false_alarm)
        return float(lowest / min(miss_weight, false_alarm_weight))


@dataclass(frozen=True, kw_only=True)
class VerificationMetrics:
    """What is reported of a scored trial list.

    Attributes:
        eer: Equal error rate, a fraction.
        min_dcf: Normalised minDCF by p_target, both costs 1.
        target_trials: Number of target trials.
        nontarget_trials: Number of non-target trials.
        threshold: Score at which misses and false alarms are equally frequent: where to accept if both cost the same.
    """

    eer: float
    min_dcf: Mapping[float, float]
    target_trials: int
    nontarget_trials: int
    threshold: float

    def to_json(self) -> dict[str, object]:
        """The error rates as JSON values; p_target becomes a string key."""
        return {
            "eer": self.eer,
            "min_dcf": {str(p_target): cost for p_target, cost in self.min_dcf.items()},
            "target_trials": self.target_trials,
            "nontarget_trials": self.nontarget_trials,
        }

    def __str__(self) -> str:
        costs = "".join(f"\nminDCF (p_target {p_target})  {cost:.4f}" for p_target, cost in self.min_dcf.items())
        return (
            f"{self.target_trials:,} target and {self.nontarget_trials:,} non-target trials\n"
            f"EER                     {self.eer:.3%}, at the threshold {self.threshold:.4f}{costs}"
        )


def error_rates(scores: npt.ArrayLike, is_target: npt.ArrayLike) -> ErrorRates:
    """Miss and false-alarm rate at every threshold that matters.

    Trials with equal scores are accepted or rejected together, so the order of the trials never matters.

    Args:
        scores: Higher means more likely the same speaker, shape (trials,), finite.
        is_target: Whether each trial is one speaker, shape (trials,), bool.

    Returns:
        Thresholds and the two rates, one entry for each distinct score and one for rejecting everything.

    Raises:
        ValueError: If the shapes differ, is_target is not bool, a score is not finite, or one kind of trial is missing.
    """
    scores, is_target = _checked(scores, is_target)
    order = np.argsort(scores)
    ascending = scores[order]
    rejected = np.concatenate(([0], np.flatnonzero(ascending[1:] != ascending[:-1]) + 1, [len(ascending)]))
    targets_before = np.concatenate(([0], np.cumsum(is_target[order])))
    rejected_targets = targets_before[rejected]
    num_targets = targets_before[-1]
    num_nontargets = len(ascending) - num_targets
    return ErrorRates(
        thresholds=np.append(ascending[rejected[:-1]], np.inf),
        miss=rejected_targets / num_targets,
        false_alarm=(num_nontargets - (rejected - rejected_targets)) / num_nontargets,
    )


def equal_error_rate(scores: npt.ArrayLike, is_target: npt.ArrayLike) -> float:
    """EER as a fraction; see `ErrorRates.equal_error_rate` for the convention and `error_rates` for the arguments."""
    return error_rates(scores, is_target).equal_error_rate()


def min_dcf(
    scores: npt.ArrayLike, is_target: npt.ArrayLike, *, p_target: float, c_miss: float = 1.0, c_fa: float = 1.0
) -> float:
    """Normalised minDCF; see `ErrorRates.min_dcf` for the formula and `error_rates` for the arguments."""
    return error_rates(scores, is_target).min_dcf(p_target=p_target, c_miss=c_miss, c_fa=c_fa)


def verification_metrics(scores: npt.ArrayLike, is_target: npt.ArrayLike) -> VerificationMetrics:
    """EER, and minDCF at p_target 0.01 and 0.05, from one sort; see `error_rates` for the arguments."""
    rates = error_rates(scores, is_target)
    num_targets = int(np.count_nonzero(is_target))
    return VerificationMetrics(
        eer=rates.equal_error_rate(),
        min_dcf={p_target: rates.min_dcf(p_target=p_target) for p_target in REPORTED_P_TARGETS},
        target_trials=num_targets,
        nontarget_trials=np.size(is_target) - num_targets,
        threshold=rates.equal_error_threshold(),
    )


def _checked(scores: npt.ArrayLike, is_target: npt.ArrayLike) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    scores = np.asarray(scores, dtype=np.float64)
    is_target = np.asarray(is_target)
    if scores.ndim != 1 or scores.shape != is_target.shape:
        raise ValueError(f"scores and is_target must have one shape (trials,), got {scores.shape}, {is_target.shape}.")
    if is_target.dtype != np.bool_:
        raise ValueError(f"is_target must be of type bool, got {is_target.dtype}.")
    if not np.isfinite(scores).all():
        trial = int(np.argmin(np.isfinite(scores)))
        raise ValueError(f"scores must be finite, got {scores[trial]} for trial {trial}.")
    num_targets = int(np.count_nonzero(is_target))
    if not 0 < num_targets < len(scores):
        raise ValueError(
            f"is_target must hold both targets and non-targets, got {num_targets} targets and "
            f"{len(scores) - num_targets} non-targets. Error rates need both kinds of trial."
        )
    return scores, is_target
