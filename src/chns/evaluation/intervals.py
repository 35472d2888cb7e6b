"""How sure an error rate is: intervals from resampled speakers, for a system, a difference, a mean over trainings.

`bootstrap_metrics` resamples the speakers of the trials; here its values become intervals. They say how much a number
would move with other speakers of the same kind. Below 20 speakers or so they are too narrow, and they know nothing of
other rooms, microphones or languages.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from chns.evaluation.metrics import REPORTED_P_TARGETS
from chns.evaluation.speaker_bootstrap import bootstrap_metrics


@dataclass(frozen=True)
class Interval:
    """An estimate and where the truth is with a confidence of `level`.

    Formats like a number: ``f"{eer:.2%}"`` gives ``2.03 % [1.95 %, 2.11 %]``.
    """

    estimate: float
    low: float
    high: float
    level: float = 0.95

    @property
    def excludes_zero(self) -> bool:
        """Whether a difference is significant at this level."""
        return self.low > 0 or self.high < 0

    def to_json(self) -> dict[str, float]:
        """The numbers by name."""
        return {"estimate": self.estimate, "low": self.low, "high": self.high, "level": self.level}

    def __format__(self, number_format: str) -> str:
        numbers = (self.estimate, self.low, self.high)
        estimate, low, high = (format(number, number_format).replace("%", " %") for number in numbers)
        return f"{estimate} [{low}, {high}]"

    def in_points(self) -> str:
        """A difference of shares in percentage points: ``-0.35 [-0.60, -0.10] points``."""
        scaled = Interval(100 * self.estimate, 100 * self.low, 100 * self.high, self.level)
        return f"{scaled:+.2f} points"

    def __str__(self) -> str:
        return format(self, ".4f")


def interval(estimate: float, resampled: npt.ArrayLike, *, level: float = 0.95) -> Interval:
    """The bias-corrected percentile interval of one number.

    The plain percentile interval takes the resampled values between two percentiles, as if they lay around the estimate
    as the estimate lies around the truth. minDCF does not comply: it is a minimum over thresholds, so it comes out too
    low on a sample, and lower again on a resample. The correction moves both percentiles by the share of resampled
    values below the estimate. The interval stays within the range of the metric, which the basic interval (the
    percentiles mirrored at the estimate) does not.

    Simulated coverage of 95 % intervals (400 lists of 60 speakers, each with 50 target and 300 non-target trials, EER
    6 %), drawing speakers but for the last column, which draws trials and takes plain percentiles:

    ===============  ==============  ==========  =====  ======
    metric           bias-corrected  percentile  basic  trials
    EER              92 %            92 %        92 %   43 %
    minDCF at 0.05   91 %            88 %        90 %   43 %
    minDCF at 0.01   92 %            81 %        90 %   52 %
    ===============  ==============  ==========  =====  ======

    With 100 speakers the interval of the EER covers 95 %. Where minDCF hangs on a handful of false alarms no interval
    helps: at 0.01 and 1,200 non-target trials 53 %.

    Args:
        estimate: The value on the trials as they are.
        resampled: Its values on the resamples, shape (resamples,).
        level: Confidence, between 0 and 1.

    Raises:
        ValueError: If level is not between 0 and 1, or resampled is empty, not of one dimension or not finite.

    Source:
        Efron and Tibshirani 1993, "An introduction to the bootstrap", chapter 14 (BCa without the acceleration, which
        would take a jackknife over the speakers).
    """
    _require_level(level)
    values = np.asarray(resampled, dtype=np.float64)
    if values.ndim != 1 or not values.size or not np.isfinite(values).all():
        raise ValueError(f"resampled must be finite numbers of shape (resamples,), got the shape {values.shape}.")
    normal = NormalDist()
    share_below = (np.mean(values < estimate) + np.mean(values <= estimate)) / 2
    shift = 2 * normal.inv_cdf(float(np.clip(share_below, 0.5 / values.size, 1 - 0.5 / values.size)))
    reach = normal.inv_cdf((1 + level) / 2)
    low, high = np.quantile(values, [normal.cdf(shift - reach), normal.cdf(shift + reach)])
    return Interval(float(estimate), float(low), float(high), level)


def speaker_intervals(
    scores: npt.ArrayLike,
    is_target: npt.ArrayLike,
    enrolment_speakers: npt.ArrayLike,
    test_speakers: npt.ArrayLike,
    *,
    num_resamples: int = 1000,
    seed: int = 0,
    p_targets: Sequence[float] = REPORTED_P_TARGETS,
    level: float = 0.95,
) -> dict[str, Interval]:
    """Interval of each metric of one system, by the metric's name; scores of shape (trials,).

    The other arguments and the errors are those of `bootstrap_metrics` and `interval`.
    """
    _require_level(level)
    metrics = bootstrap_metrics(
        np.asarray(scores)[np.newaxis],
        is_target,
        enrolment_speakers,
        test_speakers,
        num_resamples=num_resamples,
        seed=seed,
        p_targets=p_targets,
    )
    return {
        name: interval(estimate.item(), metrics.resampled[name][0], level=level)
        for name, estimate in metrics.estimate.items()
    }


def paired_difference(
    scores: tuple[npt.ArrayLike, npt.ArrayLike],
    is_target: npt.ArrayLike,
    enrolment_speakers: npt.ArrayLike,
    test_speakers: npt.ArrayLike,
    *,
    num_resamples: int = 1000,
    seed: int = 0,
    p_targets: Sequence[float] = REPORTED_P_TARGETS,
    level: float = 0.95,
) -> dict[str, Interval]:
    """Interval of each metric of system b minus that of system a, both on the same trials.

    Negative: b makes fewer errors. Both are evaluated on the same resampled speakers, so what makes speakers difficult
    for both cancels: far narrower than what two separate intervals suggest, which may well overlap.

    Args:
        scores: Of system a and of system b, both of shape (trials,), in the same order.
        is_target: This and the rest as for `bootstrap_metrics` and `interval`.
        enrolment_speakers: Speaker of each trial's enrolment, shape (trials,).
        test_speakers: Speaker of its test utterance, shape (trials,).
        num_resamples: Resamples of the speakers.
        seed: Of the draw.
        p_targets: Priors of the minDCF.
        level: Confidence.

    Raises:
        ValueError: If the systems differ in their number of scores; else as `bootstrap_metrics` and `interval`.
    """
    _require_level(level)
    first, second = map(np.asarray, scores)
    if first.shape != second.shape:
        raise ValueError(f"scores must be of the same trials, got shapes {first.shape} and {second.shape}.")
    metrics = bootstrap_metrics(
        np.stack((first, second)),
        is_target,
        enrolment_speakers,
        test_speakers,
        num_resamples=num_resamples,
        seed=seed,
        p_targets=p_targets,
    )
    return {
        name: interval((b - a).item(), metrics.resampled[name][1] - metrics.resampled[name][0], level=level)
        for name, (a, b) in metrics.estimate.items()
    }


def mean_over_seeds(estimate: npt.ArrayLike, resampled: npt.ArrayLike, *, level: float = 0.95) -> Interval:
    """Interval of the mean over trainings that differ in their seed only, for other speakers *and* other seeds.

    Give it one strategy's metric, or the difference of two strategies: ``b - a``, paired by seed and by resample of
    the speakers, all from one call of `bootstrap_metrics`:

        mean_over_seeds(m.estimate["eer"][b] - m.estimate["eer"][a], m.resampled["eer"][b] - m.resampled["eer"][a])

    Two variances add up: that of the mean over these seeds between resamples of the speakers, and that between the
    seeds, divided by their number. The interval is symmetrical, with Student's t for the degrees of freedom that the
    sum has (Satterthwaite).

    Resampling the seeds as well is the obvious alternative, and wrong for so few: among three, a resample's variance is
    two thirds of what it should be, and there are only ten different resamples. Simulated coverage of 95 % intervals:

    =============================================  ====  ===============  ============
    standard deviation between three seeds         this  seeds resampled  seeds given
    as large as the standard error from speakers   95 %  94 %             91 %
    three times as large                           94 %  87 %             68 %
    =============================================  ====  ===============  ============

    What three seeds can tell: that a difference is larger than both sources explain. What they cannot: that there is
    none. Where seeds vary far more than speakers, the interval reaches 4.3 standard errors to each side (2.8 with five
    seeds), and only more seeds make it narrower. With a single seed this is the interval of that one model, and nothing
    follows for another seed.

    Args:
        estimate: The value of each training on the trials as they are, shape (seeds,).
        resampled: The values on the resamples, shape (seeds, resamples).
        level: Confidence, between 0 and 1.

    Raises:
        ValueError: If level is not between 0 and 1, the shapes are not these, there are fewer than two resamples, or
            a value is not finite.

    Source:
        Satterthwaite 1946, "An approximate distribution of estimates of variance components".
    """
    from scipy.special import stdtrit

    _require_level(level)
    estimates, values = np.asarray(estimate, dtype=np.float64), np.asarray(resampled, dtype=np.float64)
    if not (estimates.ndim == 1 and values.ndim == 2 and 0 < len(estimates) == len(values) and values.shape[1] > 1):
        raise ValueError(
            "estimate and resampled must have the shapes (seeds,) and (seeds, resamples), with two resamples or more, "
            f"got {estimates.shape} and {values.shape}."
        )
    if not (np.isfinite(estimates).all() and np.isfinite(values).all()):
        wrong = values.size + estimates.size - np.isfinite(values).sum() - np.isfinite(estimates).sum()
        raise ValueError(f"estimate and resampled must be finite, got {wrong} values that are not.")
    if len(estimates) == 1:
        return interval(estimates.item(), values[0], level=level)
    of_speakers = values.mean(axis=0).var(ddof=1)
    of_seeds = estimates.var(ddof=1) / len(estimates)
    total = of_speakers + of_seeds
    degrees_of_freedom = (len(estimates) - 1) * (total / of_seeds) ** 2 if of_seeds > 0 else math.inf
    mean = float(estimates.mean())
    reach = float(stdtrit(degrees_of_freedom, (1 + level) / 2) * math.sqrt(total))
    return Interval(mean, mean - reach, mean + reach, level)


def _require_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, both excluded, got {level}.")
