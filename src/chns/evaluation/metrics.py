"""Error rates of a verification system: EER, minDCF, detection costs and DET curves.

An operating point is how often trials are targets (p_target) and what the two kinds of error cost. A system that
ignores the speech pays the cheaper of accepting everything and rejecting everything; costs are divided by that.

Source:
    The normalised detection cost function of the NIST speaker recognition evaluations.

A trial is accepted if its score is at or above the threshold. Of each threshold two things matter: the share of
target trials that it rejects (miss) and of non-target trials that it accepts (false alarm). Both follow from one sort
of the scores, and every metric here is read off the same arrays: 580,000 trials with the EER and minDCF at two priors
take 0.1 s on one core. Comparing every score with every threshold, as is also done, needs memory quadratic in the
number of trials.

scipy is imported only for the convex hull: it takes half a second, and every command that verifies imports this module.

A list of 580,000 trials has nearly as many thresholds; a figure needs some hundred. They are taken evenly along the
curve as it is drawn, so that every point left out is near one that is kept: within 0.02 probits with 1,000 points.
Every n-th threshold instead would crowd the middle and lose the ends. 580,000 trials take 0.08 s on one core.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from chns.core import BoolArray, Float64Array, counted, percent, write_text


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


REPORTED_P_TARGETS = (0.01, 0.05)

_ROUNDING = 1e-12  # rates are counts over at most some billion trials: what differs by less is equal


class ErrorRates(NamedTuple):
    """Both error rates at every threshold that tells trials apart, from the laxest to the strictest.

    Attributes:
        thresholds: The distinct scores in ascending order, then infinity, shape (thresholds,).
        miss: Share of target trials that score below each threshold; rises from 0 to 1.
        false_alarm: Share of non-target trials that score at or above it; falls from 1 to 0.
    """

    thresholds: Float64Array
    miss: Float64Array
    false_alarm: Float64Array

    def equal_error_rate(self) -> float:
        """The rate at which misses and false alarms are equally frequent, as a fraction.

        Source:
            Linear interpolation of both rates between the two neighbouring thresholds where they cross, as in the NIST
            speaker recognition evaluations and WeSpeaker. The script of the VoxSRC challenges looks for the same
            crossing on scikit-learn's ROC curve with a root finder, and finds it to 1e-11. Others are
            `nearest_equal_error_rate`, never smaller, and `rocch_equal_error_rate`, never larger.
        """
        gap = self.miss - self.false_alarm
        after = int(np.argmax(gap >= 0))
        before = after - 1
        share = gap[before] / (gap[before] - gap[after])
        return float(self.miss[before] + share * (self.miss[after] - self.miss[before]))

    def nearest_equal_error_rate(self) -> float:
        """The larger of both rates at the threshold where they differ least; of several such thresholds, the strictest.

        Source:
            What Clova AI's `voxceleb_trainer` prints. It looks only at the points that scikit-learn's ``roc_curve``
            returns, which by default leaves out those half-way between their two neighbours, and so does this.
        """
        kept = np.ones(len(self.thresholds), np.bool_)
        turns = (np.abs(np.diff(rate[:-1], 2)) > _ROUNDING for rate in (self.miss, self.false_alarm))
        kept[1:-2] = np.logical_or(*turns)
        strictest_first = np.stack((self.miss, self.false_alarm))[:, kept][:, ::-1]
        difference = np.abs(strictest_first[0] - strictest_first[1])
        nearest = int(np.argmax(difference <= difference.min() + _ROUNDING))
        return float(strictest_first[:, nearest].max())

    def rocch_equal_error_rate(self) -> float:
        """The EER on the convex hull of the ROC curve, as a fraction.

        Source:
            ROCCH-EER of the BOSARIS toolkit (Brummer and de Villiers 2013): the hull's points are what one gets by
            choosing at random between two thresholds. The largest, over all priors, of the lowest total error rate.
        """
        return self.convex_hull().equal_error_rate()

    def convex_hull(self) -> ErrorRates:
        """The thresholds that are best at some prior: the vertices of the ROC curve's convex hull.

        They are found by isotonic regression of the share of targets on the scores (pool adjacent violators), whose
        blocks are the edges of the hull. minDCF is the same on the hull at every prior.
        """
        from scipy.optimize import isotonic_regression

        targets, nontargets = np.diff(self.miss), -np.diff(self.false_alarm)
        moving = targets + nontargets > 0  # where trials have weights, those of some thresholds may all be zero
        points = ErrorRates(*(column[np.append(True, moving)] for column in self))
        targets, nontargets = targets[moving], nontargets[moving]
        vertices = isotonic_regression(targets / (targets + nontargets), weights=targets + nontargets).blocks
        return ErrorRates(*(column[vertices] for column in points))

    def min_cllr(self) -> float:
        """The lowest Cllr of any rising function of the scores, in bits; see `calibration_metrics.min_cllr`."""
        from scipy.special import entr

        hull = self.convex_hull()
        targets, nontargets = np.diff(hull.miss), -np.diff(hull.false_alarm)
        share = targets / (targets + nontargets)
        bits = (entr(share) + entr(1 - share)) / np.log(2)
        return float((targets + nontargets) @ bits / 2)

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
        costs = detection_cost(self.miss, self.false_alarm, p_target=p_target, c_miss=c_miss, c_fa=c_fa)
        return float(costs.min())


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
        return "\n".join(
            (
                f"{self.target_trials:,} target and {counted(self.nontarget_trials, 'non-target trial')}",
                metric_line("EER", f"{percent(self.eer, 3)}, at the threshold {self.threshold:.4f}"),
                *(metric_line(f"minDCF (p_target {p})", f"{cost:.4f}") for p, cost in self.min_dcf.items()),
            )
        )


def metric_line(name: str, value: str) -> str:
    """A line of the summaries that commands print, one below the other."""
    return f"{name:<23} {value}"


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
    scores, is_target = checked_trials(scores, is_target)
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


def verification_metrics(
    scores: npt.ArrayLike, is_target: npt.ArrayLike, *, p_targets: Sequence[float] = REPORTED_P_TARGETS
) -> VerificationMetrics:
    """EER, and minDCF at some priors, from one sort.

    Args:
        scores: As in `error_rates`.
        is_target: As in `error_rates`.
        p_targets: Prior probabilities of a target trial, each between 0 and 1.

    Raises:
        ValueError: As `error_rates`, or if a prior is not between 0 and 1.

    Examples:
        >>> from chns import verification_metrics
        >>> metrics = verification_metrics([0.9, 0.7, 0.4, 0.5, 0.2, 0.1], [1, 1, 1, 0, 0, 0])
        >>> round(metrics.eer, 3), round(metrics.min_dcf[0.05], 3)
        (0.333, 0.333)
    """
    rates = error_rates(scores, is_target)
    num_targets = int(np.count_nonzero(is_target))
    return VerificationMetrics(
        eer=rates.equal_error_rate(),
        min_dcf={p_target: rates.min_dcf(p_target=p_target) for p_target in p_targets},
        target_trials=num_targets,
        nontarget_trials=np.size(is_target) - num_targets,
        threshold=rates.equal_error_threshold(),
    )


def as_labels(is_target: npt.ArrayLike) -> BoolArray:
    """Labels as bool, from bool or from integers of any type that are 0 and 1.

    Raises:
        ValueError: If they are something else.
    """
    labels = np.asarray(is_target)
    if np.issubdtype(labels.dtype, np.integer) and ((labels == 0) | (labels == 1)).all():
        labels = labels == 1
    if labels.dtype != np.bool_:
        raise ValueError(f"is_target must be of type bool, or integers 0 and 1, got {labels.dtype}.")
    return labels


def checked_trials(
    scores: npt.ArrayLike, is_target: npt.ArrayLike, *, name: str = "scores", infinite: bool = False
) -> tuple[Float64Array, BoolArray]:
    """Scores and labels as arrays of float64 and bool, fit for computing error rates.

    Args:
        scores: Shape (trials,).
        is_target: Shape (trials,), bool.
        name: What error messages call the scores.
        infinite: Whether scores may be infinite.

    Raises:
        ValueError: If the shapes differ, is_target is not bool, a score is not such a number, or one kind of trial is
            missing.
    """
    scores = np.asarray(scores, dtype=np.float64)
    is_target = as_labels(is_target)
    if scores.ndim != 1 or scores.shape != is_target.shape:
        raise ValueError(f"{name} and is_target must have one shape (trials,), got {scores.shape}, {is_target.shape}.")
    fit = ~np.isnan(scores) if infinite else np.isfinite(scores)
    if not fit.all():
        trial = int(np.argmin(fit))
        rule = "not be NaN" if infinite else "be finite"
        raise ValueError(f"{name} must {rule}, got {scores[trial]} for trial {trial}.")
    num_targets = int(np.count_nonzero(is_target))
    if not 0 < num_targets < len(scores):
        raise ValueError(
            f"is_target must hold both targets and non-targets, got {num_targets} targets and "
            f"{len(scores) - num_targets} non-targets. Error rates need both kinds of trial."
        )
    return scores, is_target


class DetCurve(NamedTuple):
    """Points of a DET curve, from the laxest threshold to the strictest.

    Attributes:
        thresholds: Ascending; the last is infinity, which rejects everything, shape (points,).
        miss: Share of target trials below the threshold.
        false_alarm: Share of non-target trials at or above it.
        probit_miss: Where `miss` is drawn: the quantile of the standard normal distribution, always finite.
        probit_false_alarm: Where `false_alarm` is drawn.
    """

    thresholds: Float64Array
    miss: Float64Array
    false_alarm: Float64Array
    probit_miss: Float64Array
    probit_false_alarm: Float64Array


def det_curve(scores: npt.ArrayLike, is_target: npt.ArrayLike, *, max_points: int = 1000) -> DetCurve:
    """Points of the DET curve, ready for drawing.

    Args:
        scores: As in `chns.evaluation.metrics.error_rates`.
        is_target: As there.
        max_points: How many points are kept at most, 2 or more; the first and the last are always among them.

    Returns:
        The points. Rates of 0 and 1, whose probits are infinite, are drawn where half a trial would put them: of n
        trials without an error one knows that errors are rarer than about 1 in n, not that there are none.

    Raises:
        ValueError: As `error_rates`, or if max_points is below 2.

    Source:
        Martin et al., "The DET curve in assessment of detection task performance", Eurospeech 1997.
    """
    if max_points < 2:
        raise ValueError(f"max_points must be at least 2, got {max_points}.")
    rates = error_rates(scores, is_target)
    num_targets = int(np.count_nonzero(is_target))
    probit_miss = _probit(rates.miss, num_trials=num_targets)
    probit_false_alarm = _probit(rates.false_alarm, num_trials=np.size(is_target) - num_targets)
    curve = DetCurve(*rates, probit_miss, probit_false_alarm)
    kept = _evenly_along(probit_miss - probit_false_alarm, max_points)
    return DetCurve(*(column[kept] for column in curve))


def write_det_curve(path: Path | str, curve: DetCurve) -> None:
    """Write a CSV file, one point a line, atomically; the columns are those of `DetCurve`, read back unchanged."""
    lines = [DetCurve._fields, *np.column_stack(curve).tolist()]
    write_text(Path(path), "".join(",".join(map(str, line)) + "\n" for line in lines))


def _probit(rates: Float64Array, *, num_trials: int) -> Float64Array:
    half_a_trial = 0.5 / num_trials
    from scipy.special import ndtri

    return np.asarray(ndtri(np.clip(rates, half_a_trial, 1 - half_a_trial)))


def _evenly_along(way: Float64Array, max_points: int) -> npt.NDArray[np.intp]:
    """First and last place, and the first places from evenly spaced values of `way` on, which never falls.

    The way along the curve is the sum of what both axes change by, as both change in one direction only.
    """
    marks = np.linspace(way[0], way[-1], max_points)
    return np.unique(np.append(np.searchsorted(way, marks[:-1]), len(way) - 1))
