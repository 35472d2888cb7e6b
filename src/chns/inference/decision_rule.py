"""From a score to a decision: what the metrics of a bundle say of calibration and threshold.

The first of these that there is decides: a threshold that the caller gives, that of the calibration, that of the
validation, the score at which the calibration finds both answers equally likely.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, NamedTuple

from chns.core import ModelFileError
from chns.evaluation import Calibration, is_number

if TYPE_CHECKING:
    from chns.inference.verifier import Decision

_OF_STRANGERS = 0.0  # mean cosine of directions that have nothing in common

_LIKELIHOOD_WORDS = (
    (2.0, "no"),
    (10.0, "weak"),
    (100.0, "moderate"),
    (1e3, "moderately strong"),
    (1e4, "strong"),
    (1e6, "very strong"),
)

Measures = Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class DecisionRule:
    """How scores are turned into log-likelihood ratios, and which of them are accepted.

    Attributes:
        calibration: None if the model has none.
        score_threshold: The lowest score that is accepted where the quality of the recordings is not known; None if
            nothing states one.
        llr_threshold: The lowest log-likelihood ratio that is accepted; None if it is the score that decides.
        is_the_models: Whether the model states all this, and not the caller.
    """

    calibration: Calibration | None
    score_threshold: float | None
    llr_threshold: float | None
    is_the_models: bool = True

    def warnings(self, threshold: float, measures: Measures | None = None) -> tuple[str, ...]:
        """What makes the model's own rule suspect, in words: a bundle may come from somebody who wants to be let in.

        Voices that have nothing in common score about 0, so that a rule which accepts 0 accepts about every second
        stranger. A threshold that the caller gave is the caller's business.

        Args:
            threshold: The lowest score that is accepted.
            measures: Quality of the two recordings, if it is known.
        """
        found = []
        if self.is_the_models and threshold <= _OF_STRANGERS:
            found.append(
                f"the model accepts scores from {threshold:.3g} on, but strangers score about {_OF_STRANGERS:g}: it "
                f"lets nearly everybody pass. Find a threshold with `chns calibrate`, or give one (--threshold)"
            )
        if self.calibration is not None and (measures is not None or not self.calibration.quality):
            ratio = self.log_likelihood_ratio(_OF_STRANGERS, measures or {})
            if ratio is not None and ratio >= 0:
                found.append(
                    f"the model's calibration takes a score of {_OF_STRANGERS:g}, which strangers have, for evidence "
                    f"of one speaker (log-likelihood ratio {ratio:.3g}): its ratios cannot be believed"
                )
        return tuple(found)

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
            return cls(calibration, float(threshold), None, is_the_models=False)
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


class ErrorRates(NamedTuple):
    """How often a decision like this one is wrong.

    Attributes:
        false_acceptance: Share of pairs of two speakers that are accepted.
        false_rejection: Share of pairs of one speaker that are not.
    """

    false_acceptance: float
    false_rejection: float


def likelihood_in_words(log_likelihood_ratio: float) -> str:
    """What a log-likelihood ratio says, on the verbal scale of forensic reports.

    Source:
        ENFSI, Guideline for evaluative reporting in forensic science (2015), verbal equivalents of likelihood ratios.
    """
    ratio = math.exp(min(abs(log_likelihood_ratio), 700.0))
    if ratio < _LIKELIHOOD_WORDS[0][0]:
        return "no support for either: about as likely from one speaker as from two"
    word = next((word for limit, word in _LIKELIHOOD_WORDS[1:] if ratio < limit), "extremely strong")
    side = "one speaker" if log_likelihood_ratio > 0 else "two speakers"
    times = "over a million" if ratio >= 1e6 else f"about {float(f'{ratio:.2g}'):,.0f}"
    return f"{word} support for {side}: {times} times likelier"


def expected_error_rates(metrics: Mapping[str, Any], decision: Decision, *, seconds: float) -> ErrorRates | None:
    """The error rates at a decision's threshold that its model's calibration lets expect for recordings of a length.

    Calibrated log-likelihood ratios with Gaussian densities have the mean m for one speaker and -m for two, and the
    variance 2 m for both; their equal error rate, which the calibration measured, gives m.

    Args:
        metrics: Of the bundle; its ``calibration`` states the equal error rates by length, as ``"1.5 to 3 s"``.
        decision: Its score, log-likelihood ratio and threshold.
        seconds: Length of the shorter recording.

    Returns:
        None if the calibration states no equal error rate for this length.

    Source:
        van Leeuwen and Brümmer, "The distribution of calibrated likelihood-ratios in speaker recognition",
        Interspeech 2013.
    """
    calibration = metrics.get("calibration")
    if not isinstance(calibration, dict) or decision.log_likelihood_ratio is None:
        return None
    eer = _eer_of_length(calibration.get("bands"), seconds)
    if eer is None or not 0 < eer < 0.5:
        return None
    mean = 2 * NormalDist().inv_cdf(eer) ** 2
    threshold = decision.log_likelihood_ratio + calibration["scale"] * (decision.threshold - decision.score)
    spread = math.sqrt(2 * mean)
    return ErrorRates(1 - NormalDist(-mean, spread).cdf(threshold), NormalDist(mean, spread).cdf(threshold))


def _eer_of_length(bands: Any, seconds: float) -> float | None:
    """That of the band that holds a length; the last one's beyond all."""
    found = None
    for band, measured in bands.items() if isinstance(bands, dict) else ():
        limits = re.fullmatch(r"([\d.]{1,9}) to ([\d.]{1,9}) s", str(band))
        eer = measured.get("eer") if isinstance(measured, dict) else None
        if limits and is_number(eer) and seconds >= float(limits[1]):
            found = float(eer)
    return found
