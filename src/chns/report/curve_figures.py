"""Figures of errors on trials and of how training went: each run light, the mean of a strategy dark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from chns.core import BoolArray, Float64Array, percent
from chns.evaluation import REPORTED_P_TARGETS, det_curve, detection_cost, error_rates
from chns.report.drawing import (
    INK,
    MUTED,
    PAPER,
    WIDTH_INCHES,
    Figure,
    Group,
    LegendEntry,
    coinciding,
    draw,
    label_of,
    mean_curve,
)
from chns.report.run_findings import RunFindings, ScoredTrials

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TICKS = (0.0001, 0.0005, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.95)
_LOWEST_RATE = 5e-5
_MOST_POINTS = 400
_NUM_BINS = 80
_COST_MARKERS = dict(zip(REPORTED_P_TARGETS, ("^", "s"), strict=True))
_LIGHT = 0.4
"""Opacity of a single run beside the mean of its strategy."""


class RunScores(NamedTuple):
    """A run and its scores of one trial list."""

    run: RunFindings
    scored: ScoredTrials


def by_trial_list(runs: Sequence[RunFindings]) -> dict[str, list[RunScores]]:
    """The runs that scored each trial list, in the order of their first mention."""
    found: dict[str, list[RunScores]] = {}
    for run in runs:
        for name, scored in run.scored.items():
            found.setdefault(name, []).append(RunScores(run, scored))
    return found


class _Det(NamedTuple):
    """What a DET figure shows of a group on a list.

    Attributes:
        curves: Of each run, probits of false-alarm and miss rate, shape (points, 2), by rising false-alarm rate.
        points: Of each run, probits of the rates at the EER and at each minDCF, shape (runs, markers, 2).
    """

    group: Group
    curves: Sequence[Float64Array]
    points: Float64Array

    @property
    def curve(self) -> Float64Array:
        """That of the group: the mean of the probits of the miss rates at each false-alarm rate."""
        return mean_curve(self.curves)


def det_figures(folder: Path, trial_lists: Mapping[str, Sequence[RunScores]], groups: Sequence[Group]) -> list[Figure]:
    """DET curves on each trial list, all on the same axes, with the points of the EER and of each minDCF."""
    content = {name: _det_of(groups, scored) for name, scored in trial_lists.items()}
    if not content:
        return []
    points = np.concatenate([one.points.reshape(-1, 2) for lists in content.values() for one in lists])
    limits = _det_limits(points)
    return [
        _det_figure(folder, f"det-{place + 1}", name, lists, limits)
        for place, (name, lists) in enumerate(content.items())
    ]


def _det_of(groups: Sequence[Group], scored: Sequence[RunScores]) -> list[_Det]:
    by_run = {one.run.name: one.scored for one in scored}
    found = []
    for group in groups:
        of_group = [by_run[run.name] for run in group.runs if run.name in by_run]
        if of_group:
            found.append(_Det(group, [_curve(one) for one in of_group], np.array([_points(one) for one in of_group])))
    return found


def _curve(scored: ScoredTrials) -> Float64Array:
    curve = det_curve(scored.scores, _labels(scored), max_points=_MOST_POINTS)
    points = np.stack((curve.probit_false_alarm, curve.probit_miss), axis=1)
    return points[np.lexsort((-points[:, 1], points[:, 0]))]


def _points(scored: ScoredTrials) -> list[tuple[float, float]]:
    """Probits of the rates of the EER and of each minDCF; half a trial where there was no error."""
    from scipy.special import ndtri

    rates = error_rates(scored.scores, _labels(scored))
    least = np.array((0.5 / scored.metrics.nontarget_trials, 0.5 / scored.metrics.target_trials))
    points = [np.maximum(scored.metrics.eer, least)]
    for p_target in _COST_MARKERS:
        cheapest = int(np.argmin(detection_cost(rates.miss, rates.false_alarm, p_target=p_target)))
        points.append(np.maximum((rates.false_alarm[cheapest], rates.miss[cheapest]), least))
    return [tuple(ndtri(np.clip(point, _LOWEST_RATE, 1 - _LOWEST_RATE)).tolist()) for point in points]


def _det_limits(points: Float64Array) -> Float64Array:
    """Lowest and highest of both axes: every marker is inside, with some room; shape (2, 2)."""
    from scipy.special import ndtri

    low, high = points.min(axis=0) - 0.25, points.max(axis=0) + 0.25
    return np.stack((np.minimum(low, ndtri(0.01)), np.maximum(high, ndtri((0.2, 0.4)))), axis=1)


def _det_figure(folder: Path, name: str, trial_list: str, lists: Sequence[_Det], limits: Float64Array) -> Figure:
    said = "; ".join(f"{label_of(one.group.label)} EER {percent(_mean_eer(one, trial_list))}" for one in lists)
    return draw(
        folder,
        name,
        lambda axes: _plot_det(axes, trial_list, lists, limits),
        alt=f"DET curves on {trial_list}: {said}",
        caption=coinciding({one.group.label: one.curve for one in lists}, within=_LINE_PROBITS),
        inches=(WIDTH_INCHES, 4.6 * float(np.clip(np.ptp(limits[1]) / np.ptp(limits[0]), 0.7, 1.3))),
    )


def _mean_eer(one: _Det, trial_list: str) -> float:
    eers = [run.scored[trial_list].metrics.eer for run in one.group.runs if trial_list in run.scored]
    return float(np.mean(eers))


_LINE_PROBITS = 0.02
"""About as far apart as a line is wide."""


def _plot_det(axes: Axes, trial_list: str, lists: Sequence[_Det], limits: Float64Array) -> list[LegendEntry]:
    from scipy.special import ndtri

    axes.axline((0, 0), slope=1, color=MUTED.light, linewidth=0.7, zorder=1)
    entries = []
    for one in lists:
        style = one.group.style
        if len(one.curves) > 1:
            for curve in one.curves:
                axes.plot(*curve.T, color=style.colour.light, alpha=_LIGHT, linewidth=0.9, zorder=2)
        (line,) = axes.plot(*one.curve.T, color=style.colour.light, linestyle=style.dashes, zorder=3)
        for marker, place in zip(("o", *_COST_MARKERS.values()), one.points.mean(axis=0), strict=True):
            axes.plot(*place, marker, color=style.colour.light, markeredgecolor=PAPER.light, markersize=7, zorder=4)
        entries.append((line, label_of(one.group.label)))
    for marker, label in (("o", "EER"), *((marker, f"minDCF {p}") for p, marker in _COST_MARKERS.items())):
        entries.append((axes.plot([], [], marker, color=MUTED.light, markersize=6)[0], label))
    for axis, label, (lowest, highest) in zip(
        (axes.xaxis, axes.yaxis), ("False-alarm rate (%)", "Miss rate (%)"), limits, strict=True
    ):
        ticks = [tick for tick in _TICKS if lowest <= ndtri(tick) <= highest]
        axis.set_ticks(ndtri(ticks), [f"{100 * tick:g}" for tick in ticks])
        axis.set_label_text(label)
    axes.set(xlim=limits[0], ylim=limits[1], aspect="equal")
    axes.set_title(label_of(trial_list))
    return entries


def score_figures(
    folder: Path, trial_lists: Mapping[str, Sequence[RunScores]], groups: Sequence[Group]
) -> list[Figure]:
    """Histograms of target and of non-target scores: a figure a list, a row a strategy, all on one scale."""
    limits = _score_limits([one for scored in trial_lists.values() for one in scored])
    figures = []
    for place, (name, scored) in enumerate(trial_lists.items()):
        by_run = {one.run.name: one.scored for one in scored}
        rows = {g.label: (g, of) for g in groups if (of := [by_run[r.name] for r in g.runs if r.name in by_run])}
        figures.append(_score_figure(folder, f"scores-{place + 1}", name, rows, limits))
    return figures


def _score_limits(runs: Sequence[RunScores]) -> tuple[float, float]:
    """From the lowest to the highest score of any run."""
    low = min((float(one.scored.scores.min()) for one in runs), default=0.0)
    high = max((float(one.scored.scores.max()) for one in runs), default=1.0)
    margin = 0.02 * (high - low) or 0.01
    return low - margin, high + margin


_Rows = Mapping[str, tuple[Group, Sequence[ScoredTrials]]]
ROW_INCHES = 0.95
_HEAD_INCHES = 0.75


def _score_figure(folder: Path, name: str, trial_list: str, rows: _Rows, limits: tuple[float, float]) -> Figure:
    said = []
    for label, (_, scored) in rows.items():
        means = np.mean([[part.mean() for part in _split(one)] for one in scored], axis=0)
        threshold = np.mean([one.metrics.threshold for one in scored])
        said.append(f"{label}: targets {means[0]:.2f}, non-targets {means[1]:.2f}, threshold {threshold:.2f}")
    return draw(
        folder,
        name,
        lambda axes: _plot_scores(axes, trial_list, rows, limits),
        alt=f"Score histograms on {trial_list}, means of each kind. {'; '.join(said)}",
        caption=f"Mean scores: {'; '.join(said)}.",
        inches=(WIDTH_INCHES, _HEAD_INCHES + ROW_INCHES * len(rows)),
        rows=len(rows),
    )


def _split(scored: ScoredTrials) -> tuple[Float64Array, Float64Array]:
    is_target = _labels(scored)
    return scored.scores[is_target], scored.scores[~is_target]


def _labels(scored: ScoredTrials) -> BoolArray:
    assert scored.trials.is_target is not None
    return scored.trials.is_target


def _plot_scores(
    all_axes: Sequence[Axes], trial_list: str, rows: _Rows, limits: tuple[float, float]
) -> list[LegendEntry]:
    edges = np.linspace(*limits, _NUM_BINS + 1)
    entries: list[LegendEntry] = []
    for axes, (label, (group, scored)) in zip(all_axes, rows.items(), strict=True):
        parts = [_split(one) for one in scored]
        kinds = ((0, group.style.colour.light, "targets"), (1, MUTED.light, "non-targets"))
        drawn = [plot_hill(axes, [part[kind] for part in parts], edges, colour) for kind, colour, _ in kinds]
        threshold = float(np.mean([one.metrics.threshold for one in scored]))
        line = axes.axvline(threshold, color=INK.light, linewidth=1.2, linestyle=(0, (4, 2)))
        name_row(axes, label)
        entries = [*zip(drawn, (name for *_, name in kinds), strict=True), (line, "threshold of the EER")]
    all_axes[0].set(xlim=limits, ylim=(0, None))
    all_axes[-1].set_xlabel("Score (cosine)")
    all_axes[0].set_title(label_of(trial_list))
    return entries


def plot_hill(axes: Axes, values: Sequence[Float64Array], edges: Float64Array, colour: str) -> Any:
    """A histogram in per cent of its values: the mean of several filled, each of them as a light line."""
    shares = [100 * np.histogram(one, edges)[0] / len(one) for one in values]
    if len(shares) > 1:
        for share in shares:
            axes.stairs(share, edges, color=colour, alpha=_LIGHT, linewidth=0.7)
    mean = np.mean(shares, axis=0)
    axes.stairs(mean, edges, color=colour, linewidth=1.3)
    return axes.stairs(mean, edges, fill=True, color=colour, alpha=0.3)


def name_row(axes: Axes, label: str) -> None:
    """Write whose row it is into its upper left corner, and leave the numbers of the vertical axis out."""
    axes.text(0.01, 0.93, label_of(label), transform=axes.transAxes, va="top", fontsize=9.5, color=INK.light)
    axes.tick_params(axis="y", length=0, labelleft=False)
    axes.spines["left"].set_visible(False)
    axes.grid(visible=False, axis="y")


_MOST_CURVE_POINTS = 200
_FEW_POINTS = 25


class LoggedQuantity(NamedTuple):
    """A column of the log.

    Attributes:
        column: Its name there.
        title: Above the figure.
        axis: Label of the vertical axis, with the unit.
        caption: How to read it.
        scale: What values are multiplied by to be of that unit.
        is_recent: Whether it is missing from the logs of older runs.
        is_share: Whether its axis goes from 0 to 100 %.
    """

    column: str
    title: str
    axis: str
    caption: str
    scale: float = 1.0
    is_recent: bool = False
    is_share: bool = False


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
        "How hard the batches are for the encoder as it is at that step, in evaluation mode. Clustered batches should "
        "lie above random ones from the step on at which the hard ratio rises; those of neighbours need not, since "
        "their groups are strangers to each other.",
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
        is_share=True,
    ),
    LoggedQuantity(
        "hard_ratio",
        "Hard ratio",
        "Hard ratio (%)",
        "The share of a batch's speakers that is drawn to be alike: when the hard phase began, and how it went on. "
        "Random batches stay at zero.",
        scale=100.0,
        is_share=True,
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


def training_figures(
    folder: Path, quantity: LoggedQuantity, groups: Sequence[Group]
) -> tuple[Figure | None, Figure | None]:
    """One quantity over the steps and over the time of all runs; None where no run measured it."""
    name = quantity.column.replace("_", "-")
    return (
        _training_figure(folder, name, quantity, {g.label: (g, _curves(g, quantity, "step")) for g in groups}, "Step"),
        _training_figure(
            folder,
            f"{name}-over-time",
            quantity,
            {group.label: (group, _curves(group, quantity, "elapsed_seconds")) for group in groups},
            "Minutes",
        ),
    )


def _curves(group: Group, quantity: LoggedQuantity, over: str) -> list[Float64Array]:
    found = [measured(run.log, quantity, over=over) for run in group.runs]
    return [curve for curve in found if len(curve)]


def _training_figure(
    folder: Path,
    name: str,
    quantity: LoggedQuantity,
    curves: Mapping[str, tuple[Group, Sequence[Float64Array]]],
    axis: str,
) -> Figure | None:
    means = {label: mean_curve(of_group) for label, (_, of_group) in curves.items() if of_group}
    if not means:
        return None

    def plot(axes: Axes) -> list[LegendEntry]:
        entries = []
        for label, mean in means.items():
            group, of_group = curves[label]
            colour = group.style.colour.light
            if len(of_group) > 1:
                for curve in of_group:
                    axes.plot(*curve.T, color=colour, alpha=_LIGHT, linewidth=0.9, zorder=2)
            marker = "o" if len(mean) <= _FEW_POINTS else ""
            (line,) = axes.plot(*mean.T, marker=marker, color=colour, ls=group.style.dashes, markersize=3, zorder=3)
            entries.append((line, label_of(label)))
        _set_range(axes, quantity, [curve for _, of_group in curves.values() for curve in of_group])
        axes.set(xlabel=axis, ylabel=quantity.axis, xlim=(0, None))
        axes.set_title(quantity.title)
        return entries

    ends = "; ".join(f"{label} {mean[-1, 1]:.3g}" for label, mean in means.items())
    span = max(float(np.ptp(mean[:, 1])) for mean in means.values()) or 1.0
    together = coinciding(means, within=0.005 * span)
    return draw(
        folder,
        name,
        plot,
        alt=f"{quantity.title} over {'time' if axis == 'Minutes' else 'steps'}. At the end: {ends}",
        caption=f"{quantity.caption} {together}".rstrip(),
        inches=(WIDTH_INCHES, 3.1),
    )


def _set_range(axes: Axes, quantity: LoggedQuantity, curves: Sequence[Float64Array]) -> None:
    """Begin where a value means something: at 0, below it only if values are; shares end at 100 %."""
    if quantity.is_share:
        axes.set_ylim(-3, 103)
        return
    values = np.concatenate([curve[:, 1] for curve in curves])
    most = 1.0 if max(map(len, curves)) <= _FEW_POINTS else 0.99  # a jump in one of a thousand points sets no scale
    highest = max(float(np.quantile(values, most)), 1e-3)
    lowest = min(0.0, float(values.min()))
    margin = 0.06 * (highest - lowest)
    axes.set_ylim(lowest - margin if lowest < 0 else 0.0, highest + margin)


def measured(log: Mapping[str, Float64Array], quantity: LoggedQuantity, *, over: str = "step") -> Float64Array:
    """Where a quantity was measured, and its values, shape (points, 2); if many, means of neighbours.

    Args:
        log: Columns by name.
        quantity: What was measured.
        over: ``step``, or ``elapsed_seconds``, which is given in minutes.
    """
    if quantity.column not in log or over not in log:
        return np.empty((0, 2))
    places = log[over] / (60.0 if over == "elapsed_seconds" else 1.0)
    values = log[quantity.column]
    there = np.isfinite(values) & np.isfinite(places)
    points = np.stack((places[there], quantity.scale * values[there]), axis=1)
    if len(points) <= _MOST_CURVE_POINTS:
        return points
    return np.stack([part.mean(axis=0) for part in np.array_split(points, _MOST_CURVE_POINTS)])
