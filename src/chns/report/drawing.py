"""A figure is drawn once and read in three places: as PNG, as SVG, and inside the page, in the page's own colours.

matplotlib draws with the colours of a white page. Inside the page they are replaced by the CSS variables of the same
colours, so a figure follows the reader from light to dark. Names of runs and trial lists come from strangers: they are
shortened, never read as formulas, and never part of a file's name.
"""

from __future__ import annotations

import importlib.util
import io
import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chns.errors import ChnsError
from chns.files import atomic_path
from chns.report.inline_svg import inline_svg
from chns.report.palette import GRID, INK, MUTED, PAPER

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDTH_INCHES = 4.8
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
    plot: Callable[[Axes], Sequence[LegendEntry]],
    *,
    alt: str,
    caption: str,
    height_inches: float = 3.5,
) -> Figure:
    """Draw one pair of axes into ``NAME.png`` and ``NAME.svg``.

    Args:
        folder: Where the files go.
        name: Their stem: our own words and numbers only.
        plot: Draws into the axes, and returns what the legend below them explains.
        alt: Text instead of the figure.
        caption: Text below it.
        height_inches: Without the legend.
    """
    with warnings.catch_warnings():
        # A name may be in a script that matplotlib's own font lacks; browsers show it all the same.
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        svg = _draw_files(folder / name, plot, height_inches)
    alt, caption = printable(alt), printable(caption)
    return Figure(name=name, svg=inline_svg(svg, name=name, label=alt), alt=alt, caption=caption)


def _draw_files(stem: Path, plot: Callable[[Axes], Sequence[LegendEntry]], height_inches: float) -> str:
    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    from matplotlib import rc_context
    from matplotlib.figure import Figure as Canvas

    with rc_context(STYLE):
        canvas = Canvas(figsize=(_WIDTH_INCHES, height_inches), layout="constrained")
        entries = plot(canvas.subplots())
        if entries:
            longest = sorted(len(label) for _, label in entries)[-3:]
            num_columns = 3 if sum(longest) <= _LEGEND_ROW_CHARACTERS else 2
            num_rows = -(-len(entries) // num_columns)
            canvas.set_size_inches(_WIDTH_INCHES, height_inches + num_rows * _LEGEND_ROW_INCHES)
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


def label_of(name: str) -> str:
    """A name of any origin, fit for a figure: printable, of bounded length, and not taken for a hint to matplotlib."""
    shown = printable(name)
    if len(shown) > _LONGEST_LABEL:
        half = _LONGEST_LABEL // 2
        shown = f"{shown[:half]}\N{HORIZONTAL ELLIPSIS}{shown[-half + 1 :]}"
    return f"\N{ZERO WIDTH SPACE}{shown}" if shown.startswith("_") else shown  # a leading _ hides a legend's entry


def printable(text: str) -> str:
    """A text without control characters and halves of characters, which XML cannot hold."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
