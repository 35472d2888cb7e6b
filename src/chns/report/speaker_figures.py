"""Figures of the training speakers: how alike those of a batch are, their clusters, and the map as a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from chns.core import percent
from chns.report.curve_figures import ROW_INCHES, name_row, plot_hill
from chns.report.drawing import CATEGORY_COLOURS, MUTED, WIDTH_INCHES, Figure, Group, LegendEntry, draw, label_of
from chns.report.run_findings import BatchHardness, ClusterShapes, SpeakerMap

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NUM_BINS = 80
_MOST_DRAWN = 0.9995
"""Quantile of the similarities at which the axis ends; a few pairs beyond would squeeze the rest."""


def hardness_figures(folder: Path, groups: Sequence[Group]) -> list[Figure]:
    """How similar different speakers of a batch are, in random and in hard batches, under one model: a row a strategy.

    Strategies that trained on hard batches are in one figure, those of random batches apart: there hard batches are
    what the run could have had.
    """
    measured = {
        group.label: (group, of_group)
        for group in groups
        if (of_group := [run.batch_hardness for run in group.runs if run.batch_hardness is not None])
    }
    if not measured:
        return []
    limits = _hardness_limits([one for _, of_group in measured.values() for one in of_group])
    trained = {label: one for label, one in measured.items() if any(run.has_hard_phase for run in one[0].runs)}
    apart = {label: one for label, one in measured.items() if label not in trained}
    return [
        _hardness_figure(folder, name, title, rows, limits)
        for name, title, rows in (
            ("batch-hardness", "Trained on hard batches", trained),
            ("batch-hardness-apart", "Trained on random batches only", apart),
        )
        if rows
    ]


_Rows = Mapping[str, tuple[Group, Sequence[BatchHardness]]]


def _hardness_limits(measured: Sequence[BatchHardness]) -> tuple[float, float]:
    """Nearly all similarities of any run lie between these, so that rows compare."""
    ends = [
        np.quantile(values, (1 - _MOST_DRAWN, _MOST_DRAWN)) for one in measured for values in (one.random, one.hard)
    ]
    low, high = float(np.min(ends)), float(np.max(ends))
    return low, max(high, low + 0.01)


def _hardness_figure(folder: Path, name: str, title: str, rows: _Rows, limits: tuple[float, float]) -> Figure:
    said = [f"{label}: {_in_words(of_group)}" for label, (_, of_group) in rows.items()]
    return draw(
        folder,
        name,
        lambda axes: _plot_hardness(axes, title, rows, limits),
        alt=f"Within-batch negative similarity. {title}. {' '.join(said)}",
        caption=" ".join(said),
        inches=(WIDTH_INCHES, 0.75 + ROW_INCHES * len(rows)),
        rows=len(rows),
    )


def _in_words(measured: Sequence[BatchHardness]) -> str:
    random, hard, random_closest, hard_closest, share = np.mean(
        [
            (one.random.mean(), one.hard.mean(), one.random_closest, one.hard_closest, _share_hard(one))
            for one in measured
        ],
        axis=0,
    )
    return (
        f"mean {random:.3f} in random batches, {hard:.3f} in {measured[0].hard_batches}; of these "
        f"{percent(share, 0)} are above the hardest 5 % of random pairs; with the closest other speaker "
        f"{random_closest:.3f} and {hard_closest:.3f}."
    )


def _share_hard(hardness: BatchHardness) -> float:
    return float(np.mean(hardness.hard > np.quantile(hardness.random, 0.95)))


def _plot_hardness(all_axes: Sequence[Axes], title: str, rows: _Rows, limits: tuple[float, float]) -> list[LegendEntry]:
    edges = np.linspace(*limits, _NUM_BINS + 1)
    entries: list[LegendEntry] = []
    for axes, (label, (group, measured)) in zip(all_axes, rows.items(), strict=True):
        entries = []
        for values, colour, name in (
            ([one.random for one in measured], MUTED.light, "random batches"),
            ([one.hard for one in measured], group.style.colour.light, "hard batches"),
        ):
            entries.append((plot_hill(axes, values, edges, colour), name))
            mean = float(np.mean([one.mean() for one in values]))
            axes.axvline(mean, color=colour, linewidth=1.4, linestyle=(0, (4, 2)))
        name_row(axes, label)
    all_axes[0].set(xlim=limits, ylim=(0, None))
    all_axes[-1].set_xlabel("Cosine of different speakers of a batch")
    all_axes[0].set_title(title)
    return entries


def cluster_figures(folder: Path, groups: Sequence[Group]) -> list[Figure]:
    """Sizes of the clusters from the largest to the smallest, and size against tightness."""
    shapes = {
        group.label: (group, of_group)
        for group in groups
        if (of_group := [run.cluster_shapes for run in group.runs if run.cluster_shapes is not None])
    }
    return [_sizes_figure(folder, shapes), _tightness_figure(folder, shapes)] if shapes else []


_Shapes = Mapping[str, tuple[Group, Sequence[ClusterShapes]]]


def _sizes_figure(folder: Path, shapes: _Shapes) -> Figure:
    def plot(axes: Axes) -> list[LegendEntry]:
        entries = []
        for label, (group, of_group) in shapes.items():
            for place, shape in enumerate(of_group):
                (line,) = axes.plot(
                    np.arange(1, len(shape.sizes) + 1),
                    np.sort(shape.sizes)[::-1],
                    color=group.style.colour.light,
                    alpha=1.0 if place == 0 else 0.4,
                    drawstyle="steps-mid",
                )
                entries += [(line, label_of(label))] if place == 0 else []
        axes.set(xlabel="Cluster, by size", ylabel="Speakers", xlim=(0.5, None), ylim=(0, None))
        axes.set_title("Sizes")
        return entries

    said = "; ".join(f"{label} {s.sizes.min()} to {s.sizes.max()} speakers" for label, (_, (s, *_)) in shapes.items())
    return draw(
        folder,
        "cluster-sizes",
        plot,
        alt=f"Cluster sizes, largest first: {said}",
        caption=(
            "A flat line means clusters of equal size. Clusters are drawn with equal chance, but for even pooling, so "
            "the speakers of small ones, at the right end, are trained on more often."
        ),
    )


def _tightness_figure(folder: Path, shapes: _Shapes) -> Figure:
    def plot(axes: Axes) -> list[LegendEntry]:
        entries = []
        for label, (group, of_group) in shapes.items():
            points = axes.scatter(
                np.concatenate([shape.sizes for shape in of_group]),
                np.concatenate([shape.tightness for shape in of_group]),
                s=18,
                color=group.style.colour.light,
                alpha=0.5,
                linewidths=0,
            )
            entries.append((points, label_of(label)))
        axes.set(xlabel="Speakers of the cluster", ylabel="Mean cosine to the centre", xlim=(0, None))
        axes.set_title("Tightness")
        return entries

    said = "; ".join(f"{label} mean {np.nanmean(s.tightness):.2f}" for label, (_, (s, *_)) in shapes.items())
    return draw(
        folder,
        "cluster-tightness",
        plot,
        alt=f"Tightness of clusters against their size: {said}",
        caption=(
            "Each point is a cluster. High points hold voices that sound alike and give hard negatives; a very small "
            "and very tight one may be one person under several names."
        ),
    )


def map_figure(folder: Path, name: str, run: str, speakers: SpeakerMap) -> Figure:
    """The map as a file; the page draws its own, which answers to the pointer."""

    def plot(axes: Axes) -> Sequence[LegendEntry]:
        clusters = speakers.clusters if speakers.clusters is not None else np.zeros(len(speakers.points), np.int64)
        ranks = np.argsort(np.argsort(-np.bincount(clusters), kind="stable"), kind="stable")[clusters]
        colours = [*(colour.light for colour in CATEGORY_COLOURS), MUTED.light]
        axes.scatter(
            speakers.points[:, 0],
            speakers.points[:, 1],
            s=float(np.clip(9_000 / len(speakers.points), 3, 22)),
            c=[colours[rank] for rank in np.minimum(ranks, len(CATEGORY_COLOURS)).tolist()],
            alpha=0.75,
            linewidths=0,
            rasterized=True,
        )
        axes.set(xlabel="First principal axis", ylabel="Second principal axis", aspect="equal")
        axes.set_title(label_of(run))
        return ()

    alt = f"Map of {len(speakers.speakers):,} training speakers under {run}, coloured by cluster"
    return draw(folder, name, plot, alt=alt, caption=alt, inches=(WIDTH_INCHES, 4.6))
