"""Colours and line styles of the report, for a white page and for a dark one.

A run looks the same in all figures. Runs of one strategy, such as seeds, share a colour and differ in their dashes, so
that fifteen runs of five strategies read as five groups. The hues are near those of Okabe and Ito 2008, "Color
universal design", which people with colour deficiencies can tell apart; light ones are darkened to a contrast of 3:1
with white.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from chns.report.findings import RunFindings


class Colour(NamedTuple):
    """One colour of the report.

    Attributes:
        variable: Name of its CSS variable.
        light: On white, in figures that are files too.
        dark: On a dark page.
    """

    variable: str
    light: str
    dark: str


PAPER = Colour("--paper", "#ffffff", "#14171c")
INK = Colour("--ink", "#1b1f24", "#e6e9ee")
MUTED = Colour("--muted", "#5a636e", "#a0a9b5")
GRID = Colour("--grid", "#dde1e6", "#343a43")

RUN_COLOURS = (
    Colour("--run-0", "#0072b2", "#4ea8e6"),
    Colour("--run-1", "#d55e00", "#ff8f45"),
    Colour("--run-2", "#00876a", "#2cc79c"),
    Colour("--run-3", "#a8408c", "#e58fc9"),
    Colour("--run-4", "#a67c00", "#e6c14d"),
    Colour("--run-5", "#5b5fc7", "#a3a6ff"),
    Colour("--run-6", "#7a6a5c", "#c9b8a6"),
)
_CLUSTERS = (
    Colour("--cluster-0", "#2f77b5", "#5aa9e8"),
    Colour("--cluster-1", "#dd7a1c", "#f7a04b"),
    Colour("--cluster-2", "#2f9158", "#55c283"),
    Colour("--cluster-3", "#cc4456", "#f27d8b"),
    Colour("--cluster-4", "#7e5ab8", "#b595ee"),
    Colour("--cluster-5", "#8a6d3b", "#cdae76"),
    Colour("--cluster-6", "#c75b9b", "#ee94c8"),
    Colour("--cluster-7", "#2b9aa0", "#5fd0d6"),
    Colour("--cluster-8", "#8b9a1f", "#c3d250"),
    Colour("--cluster-9", "#697684", "#a9b6c4"),
)
COLOURS = (PAPER, INK, MUTED, GRID, *RUN_COLOURS, *_CLUSTERS)

_DASHES: tuple[tuple[float, tuple[float, ...]], ...] = (
    (0, ()),
    (0, (4, 1.6)),
    (0, (1, 1.3)),
    (0, (6, 1.5, 1, 1.5)),
    (0, (2.5, 1, 2.5, 3)),
)


class RunStyle(NamedTuple):
    """How a run is drawn.

    Attributes:
        colour: Of its lines and points.
        dashes: Offset and lengths of on and off in line widths, as matplotlib takes them.
    """

    colour: Colour
    dashes: tuple[float, tuple[float, ...]]


def run_styles(runs: Sequence[RunFindings]) -> dict[str, RunStyle]:
    """The style of each run by its name.

    Runs of one strategy share a colour, unless all are of one strategy: then each has its own.
    """
    strategies = list(dict.fromkeys(run.strategy for run in runs))
    drawn: Counter[int] = Counter()
    styles = {}
    for place, run in enumerate(runs):
        group = strategies.index(run.strategy) if len(strategies) > 1 else place
        colour = group % len(RUN_COLOURS)
        styles[run.name] = RunStyle(RUN_COLOURS[colour], _DASHES[drawn[colour] % len(_DASHES)])
        drawn[colour] += 1
    return styles


def cluster_colour(cluster: int) -> Colour:
    """Colour of a cluster; they come round again after ten."""
    return _CLUSTERS[cluster % len(_CLUSTERS)]


NUM_CLUSTER_COLOURS = len(_CLUSTERS)
