"""What calibration does to the scores of a trial list, as a table: before and after, and errors at the threshold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from chns.evaluation.calibration_metrics import CalibrationMetrics, calibration_metrics
from chns.evaluation.metrics import REPORTED_P_TARGETS, VerificationMetrics, metric_line, verification_metrics


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
            name: " ".join(f"{value:10.3%}" if name == "EER" else f"{value:10.4f}" for value in pair)
            for name, pair in self.rows.items()
        }
        return "\n".join(
            (
                f"{trials.target_trials:,} target and {trials.nontarget_trials:,} non-target trials",
                metric_line("", f"{'scores':>10} {'calibrated':>10}"),
                *(metric_line(name, pair) for name, pair in pairs.items()),
                f"at the threshold {self.miss:.2%} misses and {self.false_alarm:.2%} false alarms",
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
    accepted, is_target = np.asarray(llrs) >= threshold, np.asarray(is_target)
    return CalibrationEffect(
        error_rates=(error_rates[0], error_rates[1]),
        costs=(costs[0], costs[1]),
        miss=1 - float(accepted[is_target].mean()),
        false_alarm=float(accepted[~is_target].mean()),
    )
