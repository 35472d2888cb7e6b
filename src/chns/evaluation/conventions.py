"""The same trials by the conventions of other toolkits, for comparing with numbers published elsewhere.

580,000 trials take 0.12 s on one core, after half a second for importing scipy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy.typing as npt

from chns.evaluation.calibration_metrics import min_cllr
from chns.evaluation.metrics import error_rates, metric_line


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
                metric_line("EER, convex hull", f"{self.rocch_eer:.3%}"),
                metric_line("EER, nearest threshold", f"{self.nearest_eer:.3%}"),
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
