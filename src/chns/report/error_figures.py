"""Figures of errors on trials: DET curves, and histograms of the scores that they come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from chns.core.arrays import BoolArray, Float64Array
from chns.evaluation.metrics import REPORTED_P_TARGETS, det_curve, detection_cost, error_rates
from chns.report.drawing import INK, MUTED, PAPER, Figure, LegendEntry, RunStyle, draw, label_of
from chns.report.run_findings import RunFindings, ScoredTrials

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TICKS = (0.0001, 0.0005, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.95)
_LOWEST_RATE = 5e-5
_MOST_POINTS = 700
_NUM_BINS = 80
_COST_MARKERS = dict(zip(REPORTED_P_TARGETS, ("^", "s"), strict=True))


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


def det_figure(
    folder: Path, name: str, trial_list: str, runs: Sequence[RunScores], styles: Mapping[str, RunStyle]
) -> Figure:
    """DET curves of all runs on one trial list, with the points of the EER and of each minDCF."""
    best = min(runs, key=lambda one: one.scored.metrics.eer)
    return draw(
        folder,
        name,
        lambda axes: _plot_det(axes, trial_list, runs, styles),
        alt=f"DET curves on {trial_list}: " + "; ".join(f"{r.run.name} EER {r.scored.metrics.eer:.2%}" for r in runs),
        caption=(
            f"Every threshold trades misses against false alarms; a curve nearer the lower left corner is better at "
            f"all of them. Axes are probit scaled, so normally distributed scores give straight lines. Circles: EER, "
            f"on the diagonal; triangles and squares: where the cost is lowest at p_target 0.01 and 0.05. A "
            f"rate without any error is drawn as half a trial. Lowest EER: {best.run.name}, "
            f"{best.scored.metrics.eer:.2%}."
        ),
        height_inches=4.6,
    )


def _plot_det(
    axes: Axes, trial_list: str, runs: Sequence[RunScores], styles: Mapping[str, RunStyle]
) -> list[LegendEntry]:
    from scipy.special import ndtri

    points = [_operating_points(one.scored) for one in runs]
    rates = np.array([point[1:] for of_run in points for point in of_run])
    low = ndtri(np.clip(rates.min(axis=0) / (2, 5), _LOWEST_RATE, 0.01))
    high = ndtri(np.clip(1.1 * rates.max(axis=0), (0.3, 0.45), 0.9))
    axes.axline((0, 0), slope=1, color=MUTED.light, linewidth=0.7, zorder=1)
    entries = []
    for (run, scored), of_run in zip(runs, points, strict=True):
        style = styles[run.name]
        curve = det_curve(scored.scores, _labels(scored), max_points=_MOST_POINTS)
        (line,) = axes.plot(
            curve.probit_false_alarm, curve.probit_miss, color=style.colour.light, linestyle=style.dashes, zorder=2
        )
        for marker, false_alarm, miss in of_run:
            place = np.clip(ndtri([false_alarm, miss]), low, high)
            axes.plot(
                *place,
                marker,
                color=style.colour.light,
                markeredgecolor=PAPER.light,
                markersize=7,
                clip_on=False,
                zorder=3,
            )
        entries.append((line, label_of(run.name)))
    for marker, label in (("o", "EER"), *((marker, f"minDCF {p}") for p, marker in _COST_MARKERS.items())):
        entries.append((axes.plot([], [], marker, color=MUTED.light, markersize=6)[0], label))
    for axis, label, lowest, highest in zip(
        (axes.xaxis, axes.yaxis), ("False-alarm rate (%)", "Miss rate (%)"), low, high, strict=True
    ):
        ticks = [tick for tick in _TICKS if lowest <= ndtri(tick) <= highest]
        axis.set_ticks(ndtri(ticks), [f"{100 * tick:g}" for tick in ticks])
        axis.set_label_text(label)
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal")
    axes.set_title(label_of(trial_list))
    return entries


def _operating_points(scored: ScoredTrials) -> list[tuple[str, float, float]]:
    """Marker, false-alarm rate and miss rate of the EER and of each minDCF; half a trial where there was no error."""
    rates = error_rates(scored.scores, _labels(scored))
    half_a_trial = 0.5 / scored.metrics.nontarget_trials, 0.5 / scored.metrics.target_trials
    points = [("o", scored.metrics.eer, scored.metrics.eer)]
    for p_target, marker in _COST_MARKERS.items():
        cheapest = int(np.argmin(detection_cost(rates.miss, rates.false_alarm, p_target=p_target)))
        seen = float(rates.false_alarm[cheapest]), float(rates.miss[cheapest])
        points.append((marker, max(seen[0], half_a_trial[0]), max(seen[1], half_a_trial[1])))
    return points


def score_figure(folder: Path, name: str, one: RunScores, style: RunStyle, limits: tuple[float, float]) -> Figure:
    """Histograms of a run's scores of target and of non-target trials, with the threshold of the EER."""
    run, scored = one
    targets, nontargets = _split(scored)
    return draw(
        folder,
        name,
        lambda axes: _plot_scores(axes, one, style, limits),
        alt=(
            f"Score histograms of {run.name} on {scored.name}: targets around {np.mean(targets):.2f}, non-targets "
            f"around {np.mean(nontargets):.2f}, threshold {scored.metrics.threshold:.2f}"
        ),
        caption=(
            f"{run.name} on {scored.name}: mean score {np.mean(targets):.3f} of targets, {np.mean(nontargets):.3f} of "
            f"non-targets. At the threshold {scored.metrics.threshold:.3f}, {scored.metrics.eer:.2%} of either kind "
            f"are on the wrong side."
        ),
        height_inches=2.6,
    )


def score_limits(runs: Sequence[RunScores]) -> tuple[float, float]:
    """From the lowest to the highest score of any run, so that histograms side by side compare."""
    low = min(float(one.scored.scores.min()) for one in runs)
    high = max(float(one.scored.scores.max()) for one in runs)
    margin = 0.02 * (high - low) or 0.01
    return low - margin, high + margin


def _split(scored: ScoredTrials) -> tuple[Float64Array, Float64Array]:
    is_target = _labels(scored)
    return scored.scores[is_target], scored.scores[~is_target]


def _labels(scored: ScoredTrials) -> BoolArray:
    assert scored.trials.is_target is not None
    return scored.trials.is_target


def _plot_scores(axes: Axes, one: RunScores, style: RunStyle, limits: tuple[float, float]) -> list[LegendEntry]:
    edges = np.linspace(*limits, _NUM_BINS + 1)
    entries = []
    for scores, colour, label in zip(
        _split(one.scored), (style.colour, MUTED), ("targets", "non-targets"), strict=True
    ):
        share = 100 * np.histogram(scores, edges)[0] / len(scores)
        filled = axes.stairs(share, edges, fill=True, color=colour.light, alpha=0.35)
        axes.stairs(share, edges, color=colour.light, linewidth=1.3)
        entries.append((filled, label))
    line = axes.axvline(one.scored.metrics.threshold, color=INK.light, linewidth=1.2, linestyle=(0, (4, 2)))
    axes.set(xlim=limits, xlabel="Score (cosine)", ylabel="Share of its kind (%)")
    axes.set_title(f"{label_of(one.run.name)} on {label_of(one.scored.name)}")
    return [*entries, (line, "threshold of the EER")]
