"""How figures are drawn: once, in the colours of the report, for PNG, SVG and the page.

A strategy looks the same in all figures. Its runs, which differ in the seed, are drawn light and their mean dark, so
that fifteen runs of five strategies read as five. The hues are near those of Okabe and Ito 2008, "Color
universal design", which people with colour deficiencies can tell apart; light ones are darkened to a contrast of 3:1
with white.

Ids are unique in a page, where matplotlib numbers each figure's parts from 1; colours become the page's variables, and
fonts the page's font. Coordinates are cut to a hundredth of a point, which halves the size.

matplotlib draws with the colours of a white page. Inside the page they are replaced by the CSS variables of the same
colours, so a figure follows the reader from light to dark. Names of runs and trial lists come from strangers: they are
shortened, never read as formulas, and never part of a file's name.
"""

from __future__ import annotations

import importlib.util
import io
import logging
import re
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np

from chns.core import ChnsError, Float64Array, atomic_path
from chns.report.run_findings import RunFindings


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
CATEGORY_COLOURS = (
    Colour("--cluster-0", "#2f77b5", "#5aa9e8"),
    Colour("--cluster-1", "#dd7a1c", "#f7a04b"),
    Colour("--cluster-2", "#2f9158", "#55c283"),
    Colour("--cluster-3", "#cc4456", "#f27d8b"),
    Colour("--cluster-4", "#7e5ab8", "#b595ee"),
    Colour("--cluster-5", "#8a6d3b", "#cdae76"),
    Colour("--cluster-6", "#c75b9b", "#ee94c8"),
    Colour("--cluster-7", "#2b9aa0", "#5fd0d6"),
    Colour("--cluster-8", "#8b9a1f", "#c3d250"),
    Colour("--cluster-9", "#39338f", "#a39eff"),
    Colour("--cluster-10", "#8c2f39", "#d9868f"),
    Colour("--cluster-11", "#5f3a14", "#d8a56a"),
)
"""Of the most frequent values of a column, most frequent first; the rest is grey."""
COLOURS = (PAPER, INK, MUTED, GRID, *RUN_COLOURS, *CATEGORY_COLOURS)

_DASHES: tuple[tuple[float, tuple[float, ...]], ...] = (
    (0, ()),
    (0, (4, 1.6)),
    (0, (1, 1.3)),
    (0, (6, 1.5, 1, 1.5)),
    (0, (2.5, 1, 2.5, 3)),
)


class Style(NamedTuple):
    """How the runs of a group are drawn.

    Attributes:
        colour: Of its lines and points.
        dashes: Offset and lengths of on and off in line widths, as matplotlib takes them.
    """

    colour: Colour
    dashes: tuple[float, tuple[float, ...]]


class Group(NamedTuple):
    """Runs that differ in nothing but the seed: one strategy.

    Attributes:
        label: The name of the first, without its seed.
        style: Of all of them.
        runs: In the order of the report.
    """

    label: str
    style: Style
    runs: Sequence[RunFindings]


_FREE = ("seed", "train.device", "train.logger")
_SEED = re.compile(r"[/ _.-]*(?:seed[-_ ]?)?\d*$")


def run_groups(runs: Sequence[RunFindings]) -> list[Group]:
    """The runs by strategy, in the order of their first mention.

    Args:
        runs: Those of equal settings but for the seed are of one group; where settings are not known, those of equal
            strategy.
    """
    found: dict[Any, list[RunFindings]] = {}
    for run in runs:
        known = {name: value for name, value in run.settings.items() if not name.startswith(_FREE)}
        found.setdefault(repr(sorted(known.items())) if known else run.strategy, []).append(run)
    groups = []
    for place, members in enumerate(found.values()):
        style = Style(RUN_COLOURS[place % len(RUN_COLOURS)], _DASHES[place // len(RUN_COLOURS) % len(_DASHES)])
        groups.append(Group(_common_name([run.name for run in members]), style, members))
    labels = Counter(group.label for group in groups)
    return [one if labels[one.label] == 1 else one._replace(label=one.runs[0].name) for one in groups]


def _common_name(names: Sequence[str]) -> str:
    """``chns`` of ``chns/seed-0`` and ``chns/seed-1``; of a single run its whole name."""
    return names[0] if len(names) == 1 else _SEED.sub("", names[0]) or names[0]


_SVG = "http://www.w3.org/2000/svg"
_LINK = "{http://www.w3.org/1999/xlink}href"
_VARIABLES = {colour.light: f"var({colour.variable})" for colour in COLOURS}
_COLOUR = re.compile(r"#[0-9a-f]{6}\b")
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_LONG_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_FONT = re.compile(r"(font-family: |font: [^;']*?px )[^;]+")
_GEOMETRY = ("d", "x", "y", "points", "width", "height")


def inline_svg(svg: str, *, name: str, label: str) -> str:
    """Turn a figure into an element of a page.

    Args:
        svg: A whole SVG document, drawn by matplotlib with text as text.
        name: Unique in the page; every id begins with it.
        label: Text instead of the figure.

    Returns:
        An ``<svg>`` element without a size of its own, whose texts are escaped.
    """
    root = ElementTree.fromstring(svg)  # noqa: S314 - matplotlib has just written it
    root.attrib.pop("width", None)
    root.attrib.pop("height", None)
    _remove(root, f"{{{_SVG}}}metadata")
    used = _references(root)
    for element in root.iter():
        element.tag = element.tag.removeprefix(f"{{{_SVG}}}")
        _rename(element, name, used)
        _restyle(element)
        _strip(element)
    root.attrib |= {"role": "img", "aria-label": label}
    return ElementTree.tostring(root, encoding="unicode", short_empty_elements=False)


def _remove(root: ElementTree.Element, tag: str) -> None:
    for child in root.findall(tag):
        root.remove(child)


def _references(root: ElementTree.Element) -> set[str]:
    """Every id that something in the figure points to."""
    found = set()
    for element in root.iter():
        found.update(_REFERENCE.findall(" ".join(element.attrib.values())))
        found.add(element.get(_LINK, "").removeprefix("#"))
    return found


def _rename(element: ElementTree.Element, name: str, used: set[str]) -> None:
    identifier = element.attrib.pop("id", None)
    if identifier in used:
        element.set("id", f"{name}-{identifier}")
    link = element.attrib.pop(_LINK, None)
    if link is not None:
        element.set("href", link if link.startswith("data:") else f"#{name}-{link.removeprefix('#')}")
    for attribute in ("clip-path", "style"):
        if attribute in element.attrib:
            element.set(attribute, _REFERENCE.sub(rf"url(#{name}-\1)", element.attrib[attribute]))


def _restyle(element: ElementTree.Element) -> None:
    style = element.get("style")
    if style is not None:
        style = _FONT.sub(r"\1var(--font)", style)
        style = style.replace(f"fill: {PAPER.light}", "fill: none") if element.tag == "path" else style
        element.set("style", _COLOUR.sub(lambda found: _VARIABLES.get(found[0], found[0]), style))
    for attribute in _GEOMETRY:
        if attribute in element.attrib:
            element.set(attribute, _LONG_NUMBER.sub(_rounded, " ".join(element.attrib[attribute].split())))


def _strip(element: ElementTree.Element) -> None:
    """Drop line breaks between elements, and rotations by nothing."""
    element.tail = None
    if len(element):
        element.text = None
    if element.get("transform", "").startswith("rotate(-0 "):
        del element.attrib["transform"]


def _rounded(number: re.Match[str]) -> str:
    return f"{float(number[0]):.2f}".rstrip("0").rstrip(".")


WIDTH_INCHES = 4.8
_LEGEND_ROW_INCHES = 0.21
_LEGEND_ROW_CHARACTERS = 40
_PNG_DOTS_PER_INCH = 160
_LONGEST_LABEL = 34
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "chns",
    "text.parse_math": False,
    "font.size": 10.5,
    "text.color": INK.light,
    "figure.facecolor": PAPER.light,
    "axes.facecolor": "none",
    "axes.edgecolor": MUTED.light,
    "axes.labelcolor": INK.light,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID.light,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED.light,
    "ytick.color": MUTED.light,
    "lines.linewidth": 1.7,
    "legend.frameon": False,
    "legend.handlelength": 2.6,
}
"""Settings of matplotlib for every figure; ids in SVG are the same each time."""

LegendEntry = tuple[Any, str]
"""What stands in front of a label (a matplotlib artist), and the label."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure inside the page.

    Attributes:
        name: Stem of its files.
        svg: An ``<svg>`` element.
        alt: What is to be seen, for those who cannot.
        caption: What to see in it, and how to read it.
    """

    name: str
    svg: str
    alt: str
    caption: str


def require_libraries() -> None:
    """Check that the libraries of the report are installed.

    Raises:
        ChnsError: If one is not.
    """
    for library in ("matplotlib", "jinja2"):
        if importlib.util.find_spec(library) is None:
            raise ChnsError(
                f"{library} must be installed to write a report, got no such package. Run `pip install 'chns[report]'`."
            )


def draw(
    folder: Path,
    name: str,
    plot: Callable[[Any], Sequence[LegendEntry]],
    *,
    alt: str,
    caption: str,
    inches: tuple[float, float] = (WIDTH_INCHES, 3.5),
    rows: int = 0,
) -> Figure:
    """Draw one pair of axes, or several below each other, into ``NAME.png`` and ``NAME.svg``.

    Args:
        folder: Where the files go.
        name: Their stem: our own words and numbers only.
        plot: Draws into the axes, and returns what the legend below them explains.
        alt: Text instead of the figure.
        caption: Text below it.
        inches: Width, and height without the legend.
        rows: If not 0, ``plot`` gets a list of so many axes that share both scales.
    """
    with warnings.catch_warnings():
        # A name may be in a script that matplotlib's own font lacks; browsers show it all the same.
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        svg = _draw_files(folder / name, plot, inches, rows)
    alt, caption = printable(alt), printable(caption)
    return Figure(name=name, svg=inline_svg(svg, name=name, label=alt), alt=alt, caption=caption)


def _draw_files(
    stem: Path, plot: Callable[[Any], Sequence[LegendEntry]], inches: tuple[float, float], rows: int
) -> str:
    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    from matplotlib import rc_context
    from matplotlib.figure import Figure as Canvas

    with rc_context(STYLE):
        canvas = Canvas(figsize=inches, layout="constrained")
        axes = canvas.subplots(rows, sharex=True, sharey=True, squeeze=False)[:, 0] if rows else canvas.subplots()
        entries = plot(axes)
        if entries:
            longest = sorted(len(label) for _, label in entries)[-3:]
            num_columns = 3 if sum(longest) <= _LEGEND_ROW_CHARACTERS else 2
            num_rows = -(-len(entries) // num_columns)
            canvas.set_size_inches(inches[0], inches[1] + num_rows * _LEGEND_ROW_INCHES)
            handles, labels = zip(*entries, strict=True)
            canvas.legend(handles, labels, loc="outside lower center", ncols=num_columns, fontsize=9.5)
        canvas.draw_without_rendering()
        canvas.set_layout_engine("none")  # else each file lays it out again, which takes most of the time
        with atomic_path(stem.with_suffix(".png")) as path:
            canvas.savefig(path, dpi=_PNG_DOTS_PER_INCH)
        drawn = io.StringIO()
        canvas.savefig(drawn, format="svg", metadata={"Date": None})
    with atomic_path(stem.with_suffix(".svg")) as path:
        path.write_text(drawn.getvalue(), encoding="utf-8")
    return drawn.getvalue()


def label_of(name: str, *, longest: int = _LONGEST_LABEL) -> str:
    """A name of any origin, fit for a figure: printable, of bounded length, and not taken for a hint to matplotlib."""
    shown = printable(name)
    if len(shown) > longest:
        half = longest // 2
        shown = f"{shown[:half]}\N{HORIZONTAL ELLIPSIS}{shown[-half + 1 :]}"
    return f"\N{ZERO WIDTH SPACE}{shown}" if shown.startswith("_") else shown  # a leading _ hides a legend's entry


def printable(text: str) -> str:
    """A text without control characters and halves of characters, which XML cannot hold."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


_GRID_POINTS = 200


def mean_curve(curves: Sequence[Float64Array]) -> Float64Array:
    """Mean of curves over their first coordinate, where all of them are, shape (points, 2); one stays as it is.

    Args:
        curves: Each of shape (points, 2), its first coordinate rising.
    """
    if len(curves) == 1:
        return curves[0]
    low, high = max(curve[0, 0] for curve in curves), min(curve[-1, 0] for curve in curves)
    if not low < high:
        middles: Float64Array = np.mean([curve.mean(axis=0) for curve in curves], axis=0)
        return middles[np.newaxis]
    steps = np.unique(np.concatenate([curve[:, 0] for curve in curves]))
    steps = steps[(steps >= low) & (steps <= high)]
    if len(steps) > _GRID_POINTS:
        steps = np.linspace(low, high, _GRID_POINTS)
    means = np.mean([np.interp(steps, *curve.T) for curve in curves], axis=0)
    return np.stack((steps, means), axis=1)


def coinciding(curves: Mapping[str, Float64Array], *, within: float) -> str:
    """Which curves lie on one another, in a sentence; empty if none do.

    Args:
        curves: By name, each as `mean_curve` gives it.
        within: Largest difference of the second coordinate that is none.
    """
    pairs = [
        (one, other)
        for one, other in combinations(curves, 2)
        if _largest_difference(curves[one], curves[other]) <= within
    ]
    said = "; ".join(f"{one} and {other}" for one, other in pairs)
    return f"On one another: {said}." if said else ""


def _largest_difference(one: Float64Array, other: Float64Array) -> float:
    low, high = max(one[0, 0], other[0, 0]), min(one[-1, 0], other[-1, 0])
    if not low <= high:
        return float("inf")
    places = np.linspace(low, high, _GRID_POINTS)
    return float(np.abs(np.interp(places, *one.T) - np.interp(places, *other.T)).max())
