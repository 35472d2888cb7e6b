"""DET curves: miss against false-alarm rate on probit axes, where normally distributed scores make straight lines.

A list of 580,000 trials has nearly as many thresholds; a figure needs some hundred. They are taken evenly along the
curve as it is drawn, so that every point left out is near one that is kept: within 0.02 probits with 1,000 points.
Every n-th threshold instead would crowd the middle and lose the ends. 580,000 trials take 0.08 s on one core.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from chns.core.arrays import Float64Array
from chns.evaluation.metrics import error_rates
from chns.files import atomic_path


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
    columns = [column.tolist() for column in curve]
    with atomic_path(Path(path)) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.write(",".join(DetCurve._fields) + "\n")
        file.writelines(",".join(map(repr, point)) + "\n" for point in zip(*columns, strict=True))


def _probit(rates: Float64Array, *, num_trials: int) -> Float64Array:
    half_a_trial = 0.5 / num_trials
    return np.asarray(ndtri(np.clip(rates, half_a_trial, 1 - half_a_trial)))


def _evenly_along(way: Float64Array, max_points: int) -> npt.NDArray[np.intp]:
    """First and last place, and the first places from evenly spaced values of `way` on, which never falls.

    The way along the curve is the sum of what both axes change by, as both change in one direction only.
    """
    marks = np.linspace(way[0], way[-1], max_points)
    return np.unique(np.append(np.searchsorted(way, marks[:-1]), len(way) - 1))
