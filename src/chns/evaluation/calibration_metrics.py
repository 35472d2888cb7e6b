"""How well scores serve as log-likelihood ratios, and error rates by the conventions of other toolkits.

EER and minDCF look only at the order of scores. The metrics here look at their values, taken as natural logarithms of
p(score | one speaker) / p(score | two speakers), as a calibration gives them. Raw cosines are no such ratios.

580,000 trials take 12 ms for Cllr and 70 ms for minCllr on one core.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from chns.core import counted, percent
from chns.evaluation.metrics import (
    REPORTED_P_TARGETS,
    VerificationMetrics,
    as_labels,
    bayes_threshold,
    checked_trials,
    detection_cost,
    error_rates,
    metric_line,
    verification_metrics,
)


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
    return error_rates(scores, is_target).min_cllr()


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


@dataclass(frozen=True, kw_only=True)
class OtherConventions:
    """What other toolkits report of a scored trial list.

    Attributes:
        rocch_eer: EER on the ROC curve's convex hull (BOSARIS), a fraction.
        nearest_eer: The larger error rate where both are closest (voxceleb_trainer), a fraction.
        min_cllr: In bits.
    """

    rocch_eer: float
    nearest_eer: float
    min_cllr: float

    def to_json(self) -> dict[str, object]:
        """The metrics as JSON values."""
        return {"rocch_eer": self.rocch_eer, "nearest_eer": self.nearest_eer, "min_cllr": self.min_cllr}

    def __str__(self) -> str:
        return "\n".join(
            (
                metric_line("EER, convex hull", percent(self.rocch_eer, 3)),
                metric_line("EER, nearest threshold", percent(self.nearest_eer, 3)),
                metric_line("minCllr", f"{self.min_cllr:.4f}"),
            )
        )


def other_conventions(scores: npt.ArrayLike, is_target: npt.ArrayLike) -> OtherConventions:
    """ROCCH-EER, EER at the nearest threshold, and minCllr; see `error_rates` for arguments and errors."""
    rates = error_rates(scores, is_target)
    return OtherConventions(
        rocch_eer=rates.rocch_equal_error_rate(),
        nearest_eer=rates.nearest_equal_error_rate(),
        min_cllr=min_cllr(scores, is_target),
    )


@dataclass(frozen=True, kw_only=True)
class CalibrationEffect:
    """Error rates and costs of a trial list, with the scores as they are and calibrated.

    Attributes:
        error_rates: Of the scores, then of the log-likelihood ratios. They differ only if there are quality terms.
        costs: The same; scores are taken for log-likelihood ratios as they are.
        miss: Share of target trials below the threshold.
        false_alarm: Share of non-target trials at or above it.
    """

    error_rates: tuple[VerificationMetrics, VerificationMetrics]
    costs: tuple[CalibrationMetrics, CalibrationMetrics]
    miss: float
    false_alarm: float

    @property
    def rows(self) -> dict[str, tuple[float, float]]:
        """Every metric before and after; costs by p_target, both kinds of error costing 1."""
        rates, costs = self.error_rates, self.costs
        table = {
            "EER": (rates[0].eer, rates[1].eer),
            "Cllr": (costs[0].cllr, costs[1].cllr),
            "minCllr": (costs[0].min_cllr, costs[1].min_cllr),
        }
        for p in rates[0].min_dcf:
            table[f"actDCF (p_target {p})"] = costs[0].actual_dcf[p], costs[1].actual_dcf[p]
            table[f"minDCF (p_target {p})"] = rates[0].min_dcf[p], rates[1].min_dcf[p]
        return table

    def to_json(self) -> dict[str, object]:
        """All of it as JSON values."""
        scores, calibrated = (
            {**rates.to_json(), **costs.to_json()} for rates, costs in zip(self.error_rates, self.costs, strict=True)
        )
        return {"scores": scores, "calibrated": calibrated, "miss": self.miss, "false_alarm": self.false_alarm}

    def __str__(self) -> str:
        trials = self.error_rates[0]
        pairs = {
            name: " ".join(f"{percent(value, 3):>10}" if name == "EER" else f"{value:10.4f}" for value in pair)
            for name, pair in self.rows.items()
        }
        return "\n".join(
            (
                f"{trials.target_trials:,} target and {counted(trials.nontarget_trials, 'non-target trial')}",
                metric_line("", f"{'scores':>10} {'calibrated':>10}"),
                *(metric_line(name, pair) for name, pair in pairs.items()),
                f"at the threshold {percent(self.miss)} misses and {percent(self.false_alarm)} false alarms",
            )
        )


def calibration_effect(
    scores: npt.ArrayLike, llrs: npt.ArrayLike, is_target: npt.ArrayLike, *, p_target: float, threshold: float
) -> CalibrationEffect:
    """Measure a trial list before and after calibration.

    Args:
        scores: Shape (trials,).
        llrs: Log-likelihood ratios that the calibration makes of them, shape (trials,).
        is_target: Whether each trial is one speaker, shape (trials,), bool.
        p_target: Prior for which costs are given, beside 0.01 and 0.05.
        threshold: The lowest log-likelihood ratio that is accepted.

    Raises:
        ValueError: As `verification_metrics` and `calibration_metrics`.
    """
    p_targets = sorted({*REPORTED_P_TARGETS, p_target})
    error_rates = [verification_metrics(values, is_target, p_targets=p_targets) for values in (scores, llrs)]
    costs = [calibration_metrics(values, is_target, p_targets=p_targets) for values in (scores, llrs)]
    accepted, is_target = np.asarray(llrs) >= threshold, as_labels(is_target)
    return CalibrationEffect(
        error_rates=(error_rates[0], error_rates[1]),
        costs=(costs[0], costs[1]),
        miss=1 - float(accepted[is_target].mean()),
        false_alarm=float(accepted[~is_target].mean()),
    )
