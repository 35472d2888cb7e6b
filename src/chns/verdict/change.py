"""One error rate of two strategies, and how sure their difference is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from chns.evaluation.intervals import Interval

Direction = Literal["lower", "higher", "no measurable difference"]


@dataclass(frozen=True, kw_only=True)
class Change:
    """What a strategy changes in an error rate, means over seeds.

    Attributes:
        trial_list: Name of the trial list.
        metric: ``eer`` (a fraction) or ``min_dcf_P`` with P the p_target, as `chns.evaluation.intervals` names them.
        before: Value of the strategy that it is compared with.
        difference: Its own value minus that, paired.
    """

    trial_list: str
    metric: str
    before: float
    difference: Interval

    @property
    def direction(self) -> Direction:
        """What can be said of it: only an interval without zero says something."""
        if not self.difference.excludes_zero:
            return "no measurable difference"
        return "lower" if self.difference.estimate < 0 else "higher"

    def __str__(self) -> str:
        if self.metric == "eer":
            name, scale, form, unit = "EER", 100, ".2f", " %"
        else:
            name, scale, form, unit = f"minDCF ({self.metric.removeprefix('min_dcf_')})", 1, ".3f", ""
        before, after = scale * self.before, scale * (self.before + self.difference.estimate)
        estimate, low, high = (
            scale * value for value in (self.difference.estimate, self.difference.low, self.difference.high)
        )
        said: str = self.direction
        if self.difference.excludes_zero and self.before > 0:
            said = f"{100 * abs(self.difference.estimate) / self.before:.0f} % {self.direction}"
        return (
            f"{self.trial_list}, {name}: {before:{form}}{unit} to {after:{form}}{unit}, "
            f"{estimate:+{form}} [{low:+{form}}, {high:+{form}}]: {said}"
        )

    def to_json(self) -> dict[str, Any]:
        """The numbers by name."""
        return {
            "trial_list": self.trial_list,
            "metric": self.metric,
            "before": self.before,
            "difference": self.difference.to_json(),
            "direction": self.direction,
        }
