"""Figures of how training went: one quantity of the log each, all runs in one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from chns.core.arrays import Float64Array
from chns.report.drawing import Figure, LegendEntry, RunStyle, draw, label_of
from chns.report.run_findings import RunFindings

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_POINTS = 300
_FEW_POINTS = 25
_WIDTH, _EDGE = 1.7, 2.4
_FEW_CURVES = 4


class LoggedQuantity(NamedTuple):
    """A column of the log.

    Attributes:
        column: Its name there.
        title: Above the figure.
        axis: Label of the vertical axis, with the unit.
        caption: How to read it.
        scale: What values are multiplied by to be of that unit.
        is_recent: Whether it is missing from the logs of older runs.
    """

    column: str
    title: str
    axis: str
    caption: str
    scale: float = 1.0
    is_recent: bool = False


QUANTITIES = (
    LoggedQuantity(
        "loss",
        "Training loss",
        "Loss",
        "Compare runs of the same loss and the same kind of batches only: harder batches cost more by design. A curve "
        "that has long been flat has little left to learn from its batches.",
    ),
    LoggedQuantity(
        "negative_similarity_mean",
        "Within-batch negative similarity",
        "Mean cosine",
        "How hard the batches are for the encoder as it is at that step. Clustered batches should lie above random "
        "ones from the step on at which the hard ratio rises; those of neighbours need not, since their groups are "
        "strangers to each other.",
    ),
    LoggedQuantity(
        "negative_similarity_p95",
        "Hardest twentieth of the negatives",
        "95th percentile of the cosine",
        "The same for the most similar pairs of a batch, which a contrastive loss looks at most. Near 1 are voices "
        "that the encoder cannot tell apart.",
    ),
    LoggedQuantity(
        "easy_anchor_share",
        "Easy anchors",
        "Share of anchors (%)",
        "Utterances that are more similar to all others of their speaker than to any other speaker of the batch: they "
        "have little left to learn from it. Hard batches should have fewer. Runs of older versions did not log it.",
        scale=100.0,
        is_recent=True,
    ),
    LoggedQuantity(
        "hard_ratio",
        "Hard ratio",
        "Hard ratio (%)",
        "The share of a batch's speakers that is drawn to be alike: when the hard phase began, and how it went on. "
        "Random batches stay at zero. Runs of one schedule lie on one another.",
        scale=100.0,
    ),
    LoggedQuantity(
        "validation_eer",
        "Validation EER",
        "EER (%)",
        "On speakers held out of the training corpus. It should fall; where it rises while the loss falls, the encoder "
        "learns the training speakers by heart.",
        scale=100.0,
    ),
)


def training_figure(
    folder: Path, name: str, quantity: LoggedQuantity, runs: Sequence[RunFindings], styles: Mapping[str, RunStyle]
) -> Figure | None:
    """One quantity over the steps of all runs; None if no run measured it."""
    curves = {run.name: curve for run in runs if len(curve := measured(run.log, quantity))}
    if not curves:
        return None

    def plot(axes: Axes) -> list[LegendEntry]:
        entries = []
        for run, curve in curves.items():
            steps, values = curve.T
            (line,) = axes.plot(
                steps,
                values,
                color=styles[run].colour.light,
                linestyle=styles[run].dashes,
                linewidth=_width(run, curves),
                marker="o" if len(steps) <= _FEW_POINTS else "",
                markersize=3,
            )
            entries.append((line, label_of(run)))
        axes.set(xlabel="Step", ylabel=quantity.axis)
        axes.set_title(quantity.title)
        return entries

    last = "; ".join(f"{run} ends at {curve[-1, 1]:.3g}" for run, curve in curves.items())
    return draw(
        folder, name, plot, alt=f"{quantity.title} over steps: {last}", caption=quantity.caption, height_inches=3.1
    )


def _width(run: str, curves: Mapping[str, Float64Array]) -> float:
    """Wider for each later curve that covers this one, so it shows as an edge; not where there are many."""
    if len(curves) > _FEW_CURVES:
        return _WIDTH
    later = list(curves)[list(curves).index(run) + 1 :]
    return _WIDTH + _EDGE * sum(np.array_equal(curves[run], curves[other]) for other in later)


def measured(log: Mapping[str, Float64Array], quantity: LoggedQuantity) -> Float64Array:
    """Steps at which a quantity was measured, and its values, shape (points, 2); if many, means of neighbours."""
    if quantity.column not in log:
        return np.empty((0, 2))
    values = log[quantity.column]
    there = np.isfinite(values)
    points = np.stack((log["step"][there], quantity.scale * values[there]), axis=1)
    if len(points) <= _MOST_POINTS:
        return points
    return np.stack([part.mean(axis=0) for part in np.array_split(points, _MOST_POINTS)])
