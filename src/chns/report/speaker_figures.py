"""Figures of the training speakers: how alike those of a batch are, their clusters, and the map as a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from chns.report.drawing import MUTED, Figure, LegendEntry, RunStyle, cluster_colour, draw, label_of
from chns.report.run_findings import BatchHardness, ClusterShapes, RunFindings, SpeakerMap

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NUM_BINS = 80
_MOST_DRAWN = 0.9995
"""Quantile of the similarities at which the axis ends; a few pairs beyond would squeeze the rest."""


def hardness_figure(
    folder: Path, name: str, run: str, hardness: BatchHardness, style: RunStyle, limits: tuple[float, float]
) -> Figure:
    """How similar different speakers of a batch are, in random and in hard batches, under one model."""
    random, hard = float(np.mean(hardness.random)), float(np.mean(hardness.hard))
    direction = "higher" if hard >= random else "lower"
    return draw(
        folder,
        name,
        lambda axes: _plot_hardness(axes, run, hardness, style, limits),
        alt=f"Within-batch negative similarity of {run}: mean {random:.3f} in random batches, "
        f"{hard:.3f} in {hardness.hard_batches}",
        caption=(
            f"{run}: on average {random:.3f} in random batches and {hard:.3f} in {hardness.hard_batches}, "
            f"{abs(hard - random):.3f} {direction}. {_share_hard(hardness)}"
        ),
        height_inches=2.6,
    )


def hardness_limits(runs: Sequence[RunFindings]) -> tuple[float, float]:
    """Nearly all similarities of any run lie between these, so that histograms side by side compare."""
    measured = [run.batch_hardness for run in runs if run.batch_hardness is not None]
    ends = [
        np.quantile(values, (1 - _MOST_DRAWN, _MOST_DRAWN)) for one in measured for values in (one.random, one.hard)
    ]
    low, high = float(np.min(ends)), float(np.max(ends))
    return low, max(high, low + 0.01)


def _share_hard(hardness: BatchHardness) -> str:
    limit = float(np.quantile(hardness.random, 0.95))
    share = float(np.mean(hardness.hard > limit))
    return (
        f"The hardest 5% of random pairs are above {limit:.2f}; of pairs in {hardness.hard_batches} {share:.0%} are. "
        f"With the closest other speaker of its batch an utterance has {hardness.random_closest:.3f} and "
        f"{hardness.hard_closest:.3f}."
    )


def _plot_hardness(
    axes: Axes, run: str, hardness: BatchHardness, style: RunStyle, limits: tuple[float, float]
) -> list[LegendEntry]:
    edges = np.linspace(*limits, _NUM_BINS + 1)
    entries = []
    for values, colour, label in (
        (hardness.random, MUTED, "random batches"),
        (hardness.hard, style.colour, hardness.hard_batches),
    ):
        share = 100 * np.histogram(values, edges)[0] / len(values)
        filled = axes.stairs(share, edges, fill=True, color=colour.light, alpha=0.35)
        axes.stairs(share, edges, color=colour.light, linewidth=1.3)
        axes.axvline(float(np.mean(values)), color=colour.light, linewidth=1.4, linestyle=(0, (4, 2)))
        entries.append((filled, label))
    axes.set(xlim=limits, ylim=(0, None))
    axes.set(xlabel="Cosine of different speakers", ylabel="Share of pairs (%)")
    axes.set_title(label_of(run))
    return entries


def sizes_figure(
    folder: Path, name: str, shapes: Mapping[str, ClusterShapes], styles: Mapping[str, RunStyle]
) -> Figure:
    """Speakers of each cluster, from the largest to the smallest, a line a run."""

    def plot(axes: Axes) -> list[LegendEntry]:
        entries = []
        for run, shape in shapes.items():
            ordered = np.sort(shape.sizes)[::-1]
            (line,) = axes.plot(
                np.arange(1, len(ordered) + 1),
                ordered,
                color=styles[run].colour.light,
                linestyle=styles[run].dashes,
                drawstyle="steps-mid",
            )
            entries.append((line, label_of(run)))
        axes.set(xlabel="Cluster, by size", ylabel="Speakers", xlim=(0.5, None), ylim=(0, None))
        axes.set_title("Sizes")
        return entries

    return draw(
        folder,
        name,
        plot,
        alt="Cluster sizes, largest first: " + "; ".join(f"{run} {_range(s)} speakers" for run, s in shapes.items()),
        caption=(
            "A flat line means clusters of equal size. Clusters are drawn with equal chance, but for even pooling, so "
            "the speakers of small ones, at the right end, are trained on more often."
        ),
    )


def _range(shape: ClusterShapes) -> str:
    return f"{shape.sizes.min()} to {shape.sizes.max()}"


def tightness_figure(
    folder: Path, name: str, shapes: Mapping[str, ClusterShapes], styles: Mapping[str, RunStyle]
) -> Figure:
    """Size against tightness, a point a cluster."""

    def plot(axes: Axes) -> list[LegendEntry]:
        entries = []
        for run, shape in shapes.items():
            points = axes.scatter(
                shape.sizes, shape.tightness, s=22, color=styles[run].colour.light, alpha=0.65, linewidths=0
            )
            entries.append((points, label_of(run)))
        axes.set(xlabel="Speakers of the cluster", ylabel="Mean cosine to the centre", xlim=(0, None))
        axes.set_title("Tightness")
        return entries

    return draw(
        folder,
        name,
        plot,
        alt="Tightness of clusters against their size: "
        + "; ".join(f"{run} mean {np.nanmean(shape.tightness):.2f}" for run, shape in shapes.items()),
        caption=(
            "Each point is a cluster. High points hold voices that sound alike and give hard negatives; a very small "
            "and very tight one may be one person under several names."
        ),
    )


def map_figure(folder: Path, name: str, run: str, speakers: SpeakerMap) -> Figure:
    """The map as a file; the page draws its own, which answers to the pointer."""

    def plot(axes: Axes) -> Sequence[LegendEntry]:
        clusters = speakers.clusters if speakers.clusters is not None else np.zeros(len(speakers.points), np.int64)
        axes.scatter(
            speakers.points[:, 0],
            speakers.points[:, 1],
            s=float(np.clip(9_000 / len(speakers.points), 3, 22)),
            c=[cluster_colour(cluster).light for cluster in clusters.tolist()],
            alpha=0.75,
            linewidths=0,
            rasterized=True,
        )
        axes.set(xlabel="First principal axis", ylabel="Second principal axis", aspect="equal")
        axes.set_title(label_of(run))
        return ()

    alt = f"Map of {len(speakers.speakers):,} training speakers under {run}, coloured by cluster"
    return draw(folder, name, plot, alt=alt, caption=alt, height_inches=4.6)


def runs_with_clusters(runs: Sequence[RunFindings]) -> dict[str, ClusterShapes]:
    """Cluster shapes by the name of the run, of those that have any."""
    return {run.name: run.cluster_shapes for run in runs if run.cluster_shapes is not None}
