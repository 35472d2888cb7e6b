"""Calibration: from scores to log-likelihood ratios that mean what they say, and the thresholds for them.

    calibration = fit_calibration(scores, is_target, p_target=0.05)
    llrs = calibration.apply(other_scores)

A cosine of 0.4 is evidence for one speaker with one model and against it with another. The natural logarithm of how
much likelier the score is from one speaker than from two is taken to be an affine function of it, with terms for the
quality of the two recordings on request: of short ones a lower cosine is to be expected. The function keeps the order
of scores of equal quality; only quality terms can change error rates. Isotonic regression (PAV) has no form to be wrong
about, but its ratios are infinite at both ends, and it needs far more trials.

Each time two thresholds: one for the log-likelihood ratio of a trial, and one for where only the score is known, such
as in a search among voiceprints, which keep neither durations nor magnitudes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, TypeGuard

import numpy as np
import numpy.typing as npt

from chns.core import BoolArray, Float64Array, ModelFileError, quoted
from chns.evaluation.metrics import bayes_threshold, checked_trials, error_rates

QUALITY_MEASURES = ("duration", "magnitude")

_SMALLEST_SCALE, _LARGEST_NUMBER = 1e-9, 1e9
_SMALLEST_SPREAD, _LARGEST_SPREAD = 1e-6, 1e6
_RIDGE = 1e-6
_LARGEST_GRADIENT = 1e-6


@dataclass(frozen=True, kw_only=True)
class QualityTerm:
    """What one quality measure of two recordings adds to the log-likelihood ratio.

    Attributes:
        smaller: Weight of the smaller of the two values.
        larger: Weight of the larger one.
        lowest: Smallest value in the trials that were fitted; one below counts as this, for the line ends there.
        highest: Largest value in them.
    """

    smaller: float
    larger: float
    lowest: float
    highest: float


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """An affine map from scores, and the quality of the recordings, to log-likelihood ratios.

    Attributes:
        scale: Of the score; positive.
        offset: Log-likelihood ratio of a score of zero, before the quality terms.
        quality: Terms by measure: ``duration``, whose natural logarithm is weighted, and ``magnitude``.

    Raises:
        ValueError: If a number is not finite or too large, the scale is not positive, or a term is not one.
    """

    scale: float
    offset: float
    quality: Mapping[str, QualityTerm] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not is_number(self.scale) or not is_number(self.offset) or self.scale < _SMALLEST_SCALE:
            raise ValueError(
                f"calibration must have a positive scale and an offset, got {quoted(self.scale)} and "
                f"{quoted(self.offset)}."
            )
        for name, term in self.quality.items():
            if name not in QUALITY_MEASURES:
                raise ValueError(f"quality measure must be one of {', '.join(QUALITY_MEASURES)}, got {quoted(name)}.")
            if not all(map(is_number, asdict(term).values())) or not 0 < term.lowest <= term.highest:
                raise ValueError(f"quality term must be two weights and a positive range, got {term} for {name}.")

    def apply(self, scores: npt.ArrayLike, quality: Mapping[str, npt.ArrayLike] | None = None) -> Float64Array:
        """Log-likelihood ratios of scores.

        Args:
            scores: Shape (trials,).
            quality: Values of the two recordings of each trial, shape (trials, 2), for each measure that this has a
                term for; further measures are ignored. Which of the two comes first does not matter.

        Returns:
            Natural logarithms, shape (trials,); from 0 on, one speaker is the likelier explanation.

        Raises:
            ValueError: If a measure is missing, has another shape or a value that is not a positive number.
        """
        scores = np.asarray(scores, np.float64)
        return self.scale * scores + self._shifts(quality, len(scores))

    def scores_at(self, llr: float, quality: Mapping[str, npt.ArrayLike], num_trials: int) -> Float64Array:
        """The scores at which trials of this quality have the ratio ``llr``: the inverse of `apply`, see there.

        Returns:
            Shape (num_trials,); not limited to [-1, 1].
        """
        return (llr - self._shifts(quality, num_trials)) / self.scale

    def to_json(self) -> dict[str, object]:
        """All of it as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, stated: object) -> Calibration:
        """What `to_json` gave, from a file of unknown origin; further keys are ignored.

        Raises:
            ModelFileError: If it is not a calibration.
        """
        try:
            fields: Any = stated if isinstance(stated, dict) else {}
            quality = {name: QualityTerm(**term) for name, term in fields.get("quality", {}).items()}
            return cls(scale=fields.get("scale"), offset=fields.get("offset"), quality=quality)
        except (AttributeError, TypeError, ValueError) as error:
            raise ModelFileError(
                f"calibration must have a positive scale and an offset, and may have quality terms, "
                f"got {stated!r:.200} in the metrics ({error}). Make it anew with `chns calibrate`."
            ) from error

    def _shifts(self, quality: Mapping[str, npt.ArrayLike] | None, num_trials: int) -> Float64Array:
        shifts = np.full(num_trials, self.offset, np.float64)
        for name, term in self.quality.items():
            if quality is None or name not in quality:
                raise ValueError(f"quality must have the {name} of both recordings, which is calibrated for, got none.")
            held = np.clip(_checked_measure(name, quality[name], num_trials), term.lowest, term.highest)
            shifts += _both_sides(name, held) @ (term.smaller, term.larger)
        return shifts


def fit_calibration(
    scores: npt.ArrayLike,
    is_target: npt.ArrayLike,
    *,
    p_target: float,
    quality: Mapping[str, npt.ArrayLike] | None = None,
) -> Calibration:
    """Fit the map under which the scores of a labelled trial list are best explained.

    Minimises, in float64, the cross-entropy of the labels in which all targets together weigh ``p_target`` and all
    non-targets the rest, divided by the smaller of the two. A ridge of 1e-6 on the weights of standardised features
    gives data without a single error, whose best weights are infinite, a finite answer; elsewhere it changes weights by
    a ten-thousandth.

    Args:
        scores: Higher means more likely the same speaker, shape (trials,), finite.
        is_target: Whether each trial is one speaker, shape (trials,), bool.
        p_target: Prior probability of a target where the map has to be good; between 0 and 1.
        quality: Values of the two recordings of each trial, shape (trials, 2), by measure: ``duration`` in seconds,
            ``magnitude``, the length of the raw embedding. Each adds a weight for the smaller value and one for the
            larger, so that the recordings may be swapped; sum and absolute difference would span the same functions.

    Returns:
        The map.

    Raises:
        ValueError: If p_target or the arrays break their rules, scores or a measure are all the same, or scores are
            no higher for targets than for non-targets.

    Source:
        Brümmer and du Preez 2006, "Application-independent evaluation of speaker detection", as in FoCal and BOSARIS.
        Logarithms of durations: Mandasari et al. 2013, "Quality measure functions for calibration of speaker
        recognition systems in various duration conditions"; magnitudes: Thienpondt, Desplanques and Demuynck 2021,
        "The IDLab VoxSRC-20 submission".
    """
    if not 0 < p_target < 1:
        raise ValueError(f"p_target must be between 0 and 1, both excluded, got {p_target}.")
    scores, is_target = checked_trials(scores, is_target)
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused
        spread = float(scores.std())
    if not _SMALLEST_SPREAD <= spread <= _LARGEST_SPREAD:
        raise ValueError(
            f"scores must differ, by a standard deviation between {_SMALLEST_SPREAD} and {_LARGEST_SPREAD:g}, "
            f"got {spread:g}."
        )
    measures = {name: _checked_measure(name, values, len(scores)) for name, values in (quality or {}).items()}
    for name, values in measures.items():
        if values.min() == values.max():
            raise ValueError(f"{name} must differ between recordings, got {values.min():g} for all. Leave it out.")
    features = np.column_stack([scores, *(_both_sides(name, values) for name, values in measures.items())])
    (scale, *weights), offset = _fit_logistic(features, is_target, p_target)
    if scale < _SMALLEST_SCALE:
        raise ValueError(
            f"scores must separate targets from non-targets, the higher ones being targets, got a scale of {scale:g}. "
            f"Look at the labels, and at the error rates with `chns evaluate`."
        )
    terms = {
        name: QualityTerm(smaller=smaller, larger=larger, lowest=float(values.min()), highest=float(values.max()))
        for (name, values), smaller, larger in zip(measures.items(), weights[::2], weights[1::2], strict=True)
    }
    return Calibration(scale=scale, offset=offset, quality=terms)


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value of JSON is a finite number of sensible size; an integer may be too large for a float."""
    return type(value) in (int, float) and abs(value) < _LARGEST_NUMBER


def _checked_measure(name: str, values: npt.ArrayLike, num_trials: int) -> Float64Array:
    if name not in QUALITY_MEASURES:
        raise ValueError(f"quality measure must be one of {', '.join(QUALITY_MEASURES)}, got {quoted(name)}.")
    values = np.asarray(values, np.float64)
    if values.shape != (num_trials, 2):
        raise ValueError(f"{name} must have shape ({num_trials}, 2), two recordings a trial, got {values.shape}.")
    proper = (values > 0) & (values < _LARGEST_NUMBER)
    if not proper.all():
        raise ValueError(f"{name} must be a positive number, got {values[~proper][0]}.")
    return values


def _both_sides(name: str, values: Float64Array) -> Float64Array:
    """What the weights of a measure are for: of the smaller and of the larger value, shape (trials, 2)."""
    ordered = np.sort(values, axis=1)
    return np.log(ordered) if name == "duration" else ordered


def _fit_logistic(features: Float64Array, is_target: BoolArray, p_target: float) -> tuple[list[float], float]:
    """Weights of the features and the offset that minimise the prior-weighted cross-entropy."""
    from scipy.optimize import minimize
    from scipy.special import expit

    means, spreads = features.mean(axis=0), features.std(axis=0)
    spreads[spreads < _SMALLEST_SPREAD] = 1.0  # a column that is the same throughout then gets the weight zero
    design = np.column_stack(((features - means) / spreads, np.ones(len(features))))
    shares = np.where(is_target, p_target / is_target.sum(), (1 - p_target) / (~is_target).sum())
    shares /= min(p_target, 1 - p_target)
    signs = np.where(is_target, 1.0, -1.0)
    ridge = np.append(np.full(features.shape[1], _RIDGE), 0.0)
    prior_log_odds = -bayes_threshold(p_target=p_target)

    def margins(weights: Float64Array) -> Float64Array:
        margins: Float64Array = signs * (design @ weights + prior_log_odds)
        return margins

    def cost(weights: Float64Array) -> float:
        return float(shares @ np.logaddexp(0, -margins(weights)) + 0.5 * ridge @ weights**2)

    def gradient(weights: Float64Array) -> Float64Array:
        slope: Float64Array = -(shares * signs * expit(-margins(weights))) @ design + ridge * weights
        return slope

    def curvature(weights: Float64Array) -> Float64Array:
        some = margins(weights)
        matrix: Float64Array = (design.T * (shares * expit(some) * expit(-some))) @ design + np.diag(ridge)
        return matrix

    start = np.zeros(design.shape[1])
    options = {"gtol": _LARGEST_GRADIENT}
    weights: Float64Array = minimize(cost, start, method="trust-exact", jac=gradient, hess=curvature, options=options).x
    for _ in range(2):  # where the cost is too flat to compare two of its values, the gradient still points the way
        weights = weights - np.linalg.solve(curvature(weights), gradient(weights))
    assert np.abs(gradient(weights)).max() < _LARGEST_GRADIENT  # smooth and strictly convex: there is a minimum
    plain = weights[:-1] / spreads
    return plain.tolist(), float(weights[-1] - plain @ means)


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
