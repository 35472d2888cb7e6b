"""How well scores serve as log-likelihood ratios: Cllr, minCllr and the actual detection cost.

EER and minDCF look only at the order of scores. The metrics here look at their values, taken as natural logarithms of
p(score | one speaker) / p(score | two speakers), as a calibration gives them. Raw cosines are no such ratios.

580,000 trials take 12 ms for Cllr and 70 ms for minCllr on one core. Importing this takes what scipy takes, half a
second.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import entr

from chns.evaluation.detection_cost import bayes_threshold, detection_cost
from chns.evaluation.metrics import REPORTED_P_TARGETS, checked_trials, error_rates, metric_line


def cllr(llrs: npt.ArrayLike, is_target: npt.ArrayLike) -> float:
    """The cost of log-likelihood ratios, averaged over all operating points, in bits.

    Args:
        llrs: Natural logarithms of likelihood ratios, shape (trials,). Infinity claims certainty: it costs nothing
            where it is right and makes the result infinite where it is wrong.
        is_target: Whether each trial is one speaker, shape (trials,), bool.

    Returns:
        Half the mean of log2(1 + exp(-llr)) over targets plus half that of log2(1 + exp(llr)) over non-targets. 0 is
        perfect, 1 what always answering 0 gets; there is no upper bound.

    Raises:
        ValueError: If the shapes differ, is_target is not bool, a ratio is NaN, or one kind of trial is missing.

    Source:
        Brummer and du Preez, "Application-independent evaluation of speaker detection", 2006.
    """
    llrs, is_target = checked_trials(llrs, is_target, name="llrs", infinite=True)
    targets = np.logaddexp(0, -llrs[is_target]).mean()
    nontargets = np.logaddexp(0, llrs[~is_target]).mean()
    return float((targets + nontargets) / (2 * np.log(2)))


def min_cllr(scores: npt.ArrayLike, is_target: npt.ArrayLike) -> float:
    """The lowest Cllr that any rising function of the scores can have on these trials, in bits.

    Args:
        scores: Any scores, of which only the order matters, shape (trials,), finite.
        is_target: Whether each trial is one speaker, shape (trials,), bool.

    Returns:
        Between 0 and 1. What Cllr has above it is the loss due to calibration.

    Raises:
        ValueError: As `chns.evaluation.metrics.error_rates`.

    Source:
        Brummer and du Preez, 2006: the ratios that isotonic regression (pool adjacent violators) finds, without
        smoothing, as in BOSARIS. They are the slopes of the edges of the ROC curve's convex hull. Where those are zero
        or infinite the ratio is certain and right, so that it costs nothing.
    """
    hull = error_rates(scores, is_target).convex_hull()
    targets, nontargets = np.diff(hull.miss), -np.diff(hull.false_alarm)
    share = targets / (targets + nontargets)
    bits = (entr(share) + entr(1 - share)) / np.log(2)
    return float((targets + nontargets) @ bits / 2)


def actual_dcf(
    llrs: npt.ArrayLike, is_target: npt.ArrayLike, *, p_target: float, c_miss: float = 1.0, c_fa: float = 1.0
) -> float:
    """Normalised detection cost of accepting where the log-likelihood ratio reaches the Bayes threshold.

    Args:
        llrs: Natural logarithms of likelihood ratios, shape (trials,); may be infinite.
        is_target: Whether each trial is one speaker, shape (trials,), bool.
        p_target: Prior probability of a target trial, between 0 and 1.
        c_miss: Cost of rejecting a target.
        c_fa: Cost of accepting a non-target.

    Returns:
        At least minDCF at the same operating point; 1 is what a system that ignores the speech gets, and bad
        calibration can cost more.

    Raises:
        ValueError: If the shapes differ, is_target is not bool, a ratio is NaN, one kind of trial is missing, p_target
            is not between 0 and 1, or a cost is not a positive number.

    Source:
        The actual cost of the NIST speaker recognition evaluations, normalised as in `detection_cost`.
    """
    llrs, is_target = checked_trials(llrs, is_target, name="llrs", infinite=True)
    threshold = bayes_threshold(p_target=p_target, c_miss=c_miss, c_fa=c_fa)
    miss, false_alarm = (llrs[is_target] < threshold).mean(), (llrs[~is_target] >= threshold).mean()
    return float(detection_cost(miss, false_alarm, p_target=p_target, c_miss=c_miss, c_fa=c_fa))


@dataclass(frozen=True, kw_only=True)
class CalibrationMetrics:
    """What is reported of a trial list whose scores are log-likelihood ratios.

    Attributes:
        cllr: In bits.
        min_cllr: What it would be after the best calibration on these very trials, in bits.
        actual_dcf: Normalised cost at the Bayes threshold by p_target, both costs 1.
    """

    cllr: float
    min_cllr: float
    actual_dcf: Mapping[float, float]

    def to_json(self) -> dict[str, object]:
        """The metrics as JSON values; p_target becomes a string key."""
        costs = {str(p_target): cost for p_target, cost in self.actual_dcf.items()}
        return {"cllr": self.cllr, "min_cllr": self.min_cllr, "actual_dcf": costs}

    def __str__(self) -> str:
        costs = [metric_line(f"actDCF (p_target {p})", f"{cost:.4f}") for p, cost in self.actual_dcf.items()]
        return "\n".join((*costs, metric_line("Cllr", f"{self.cllr:.4f}, at best {self.min_cllr:.4f} (minCllr)")))


def calibration_metrics(
    llrs: npt.ArrayLike, is_target: npt.ArrayLike, *, p_targets: Sequence[float] = REPORTED_P_TARGETS
) -> CalibrationMetrics:
    """Cllr, minCllr, and the actual cost at some priors; see `cllr` and `actual_dcf` for arguments and errors."""
    return CalibrationMetrics(
        cllr=cllr(llrs, is_target),
        min_cllr=min_cllr(llrs, is_target),
        actual_dcf={p_target: actual_dcf(llrs, is_target, p_target=p_target) for p_target in p_targets},
    )
