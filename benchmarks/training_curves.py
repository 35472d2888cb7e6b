"""How training went under several strategies, in one figure: loss, hard ratio, similar negatives, validation EER.

Reads the ``log.csv`` of the runs' folders. A name given several times is one strategy with several seeds: their mean is
drawn, and a band from the lowest to the highest. The same logs and versions give the same file, byte for byte.

    python benchmarks/training_curves.py --run random=runs/supcon --run auto=runs/auto --out docs/training_curves.svg
"""

import argparse
import io
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from chns.core.files import atomic_path
from chns.report.drawing import MUTED, RUN_COLOURS, STYLE, label_of
from chns.training.folder import RunFolder

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FloatArray = npt.NDArray[np.float64]
Log = Mapping[str, FloatArray]

_SIZE_INCHES = (10, 6.6)
_MOST_POINTS = 200
_FEW_POINTS = 30


class Panel(NamedTuple):
    """A column of the log and how it is shown."""

    column: str
    title: str
    axis: str
    scale: float = 1.0


PANELS = (
    Panel("loss", "Training loss", "Loss"),
    Panel("hard_ratio", "Hard ratio", "Hard speakers of a batch (%)", 100),
    Panel("negative_similarity_p95", "Most similar negatives of a batch", "95th percentile of the cosine"),
    Panel("validation_eer", "Validation EER", "EER (%)", 100),
)


class Curve(NamedTuple):
    """A quantity over steps: mean, lowest and highest of the seeds, each of shape (points,)."""

    steps: FloatArray
    mean: FloatArray
    low: FloatArray
    high: FloatArray


def curve_of(logs: Sequence[Log], panel: Panel) -> Curve | None:
    """A quantity at the steps at which all seeds measured it, neighbours averaged if there are many; None if none."""
    measured = []
    for log in logs:
        there = np.isfinite(log[panel.column])
        measured.append(dict(zip(log["step"][there].tolist(), log[panel.column][there].tolist(), strict=True)))
    steps = sorted(set.intersection(*map(set, measured)))
    if not steps:
        return None
    values = panel.scale * np.array([[one[step] for step in steps] for one in measured])
    parts = np.array_split(np.arange(len(steps)), min(len(steps), _MOST_POINTS))
    averaged = np.stack([values[:, part].mean(axis=1) for part in parts], axis=1)
    at = np.array([np.mean([steps[place] for place in part]) for part in parts])
    return Curve(at, averaged.mean(axis=0), averaged.min(axis=0), averaged.max(axis=0))


def draw_panel(axes: "Axes", panel: Panel, runs: Mapping[str, Sequence[Log]]) -> None:
    """All strategies that measured the quantity; a sentence if none did."""
    curves = {name: curve for name, logs in runs.items() if (curve := curve_of(logs, panel)) is not None}
    axes.set_title(panel.title)
    if not curves:
        axes.text(0.5, 0.5, "not measured in these runs", transform=axes.transAxes, ha="center", color=MUTED.light)
        axes.set_yticks([])
        return
    for name, curve in curves.items():
        colour = RUN_COLOURS[list(runs).index(name)].light
        marker = "o" if len(curve.steps) <= _FEW_POINTS else ""
        shape = {"marker": marker, "markersize": 3, "clip_on": False}
        axes.plot(curve.steps, curve.mean, color=colour, label=label_of(name), **shape)
        if len(runs[name]) > 1:
            axes.fill_between(curve.steps, curve.low, curve.high, color=colour, alpha=0.15, linewidth=0)
    axes.set_ylabel(panel.axis)
    if panel.column != "negative_similarity_p95":
        axes.set_ylim(bottom=0)


def draw(runs: Mapping[str, Sequence[Log]]) -> str:
    """The figure as SVG, 10 inches wide."""
    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=_SIZE_INCHES)
        figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.1)
        grid = figure.subplots(2, 2, sharex=True)
        for axes, panel in zip(grid.flat, PANELS, strict=True):
            draw_panel(axes, panel, runs)
        for axes in grid[-1]:
            axes.set_xlabel("Step")
        handles, labels = grid.flat[0].get_legend_handles_labels()
        several = any(len(logs) > 1 for logs in runs.values())
        title = "Means over seeds; bands from the lowest to the highest" if several else None
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels) or 1, title=title)
        written = io.StringIO()
        figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None})
    return written.getvalue()


def named_run(text: str) -> tuple[str, Path]:
    """A name and a folder from NAME=FOLDER."""
    name, equals, folder = text.partition("=")
    if not (name and equals and folder):
        raise argparse.ArgumentTypeError(f"--run must be NAME=FOLDER, got {text}.")
    return name, Path(folder)


def main() -> None:
    """Read the logs, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=named_run, action="append", required=True, metavar="NAME=FOLDER")
    parser.add_argument("--out", type=Path, default=Path("training_curves.svg"))
    arguments = parser.parse_args()
    runs: dict[str, list[Log]] = {}
    for name, folder in arguments.run:
        runs.setdefault(name, []).append(RunFolder.open(folder).log())
    if len(runs) > len(RUN_COLOURS):
        parser.error(f"--run must give at most {len(RUN_COLOURS)} different names, got {len(runs)}.")
    with atomic_path(arguments.out) as path:
        path.write_text(draw(runs), encoding="utf-8")
    sys.stdout.write(f"{arguments.out}: {len(runs)} strategies\n")


if __name__ == "__main__":
    main()
