"""From a score to a decision: what the metrics of a bundle say of calibration and threshold.

The first of these that there is decides: a threshold that the caller gives, that of the calibration, that of the
validation, the score at which the calibration finds both answers equally likely.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from chns.errors import ModelFileError
from chns.evaluation.calibration import Calibration, is_number

Measures = Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class DecisionRule:
    """How scores are turned into log-likelihood ratios, and which of them are accepted.

    Attributes:
        calibration: None if the model has none.
        score_threshold: The lowest score that is accepted where the quality of the recordings is not known; None if
            nothing states one.
        llr_threshold: The lowest log-likelihood ratio that is accepted; None if it is the score that decides.
    """

    calibration: Calibration | None
    score_threshold: float | None
    llr_threshold: float | None

    @classmethod
    def of_bundle(cls, metrics: Mapping[str, Any], *, threshold: float | None) -> DecisionRule:
        """What a bundle's metrics state.

        Args:
            metrics: Of the bundle.
            threshold: The lowest score that is accepted, if the caller knows better.

        Raises:
            ModelFileError: If the calibration or a threshold is not one.
        """
        stated = metrics.get("calibration")
        calibration = None if stated is None else Calibration.from_json(stated)
        validated = _validation_threshold(metrics.get("validation"))
        if threshold is not None:
            return cls(calibration, float(threshold), None)
        if stated is not None and "threshold" in stated:
            return cls(calibration, *_calibrated_thresholds(stated))
        if validated is None and calibration is not None:
            return cls(calibration, -calibration.offset / calibration.scale, 0.0)
        return cls(calibration, validated, None)

    def log_likelihood_ratio(self, score: float, measures: Measures) -> float | None:
        """That of two recordings, with values of both for each measure of quality; None without a calibration."""
        if self.calibration is None:
            return None
        return float(self.calibration.apply([score], {name: [values] for name, values in measures.items()})[0])

    def lowest_accepted(self, measures: Measures, *, default: float) -> float:
        """The lowest score that is accepted for two recordings; the default if their quality does not matter."""
        if self.calibration is None or self.llr_threshold is None or not self.calibration.quality:
            return default
        quality = {name: [values] for name, values in measures.items()}
        return float(self.calibration.scores_at(self.llr_threshold, quality, 1)[0])


def _validation_threshold(validation: Any) -> float | None:
    if not isinstance(validation, dict) or "threshold" not in validation:
        return None
    stated = validation["threshold"]
    if not is_number(stated) or not -1 <= stated <= 1:
        raise ModelFileError(f"threshold must be a cosine, between -1 and 1, got {stated!r:.200} in the metrics.")
    return float(stated)


def _calibrated_thresholds(calibration: Mapping[str, Any]) -> tuple[float, float]:
    """That of the score, which may lie beyond all cosines if errors of one kind are costly, and that of the ratio."""
    score, llr = calibration.get("score_threshold"), calibration["threshold"]
    if not is_number(score) or not is_number(llr):
        raise ModelFileError(
            f"threshold and score_threshold must be finite numbers, got {llr!r:.200} and {score!r:.200} in the "
            f"calibration. Make it anew with `chns calibrate`."
        )
    return float(score), float(llr)
