"""Trainings while they run, as text for a terminal: curves, hard share, decisions, time left.

Everything is read from the run's folder, so a training is watched from another terminal, on another machine that sees
the folder, or after it has stopped. The time left is the pace of the last third of the log times what is left.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np

from chns.core import Float64Array, shown
from chns.training.folder import RunFolder

_BLOCKS = " ▁▂▃▄▅▆▇█"
_LABEL_WIDTH = 22
_SILENT_SECONDS = 300
_MOST_DECISIONS = 3


class Watched(NamedTuple):
    """What is to be seen of some trainings at a moment.

    Attributes:
        screen: Several lines a training: for a terminal that is drawn again and again.
        line: One line: for a log.
        is_finished: Whether all of them have come to their end.
    """

    screen: str
    line: str
    is_finished: bool


class _Curve(NamedTuple):
    """A column of the log, and how its values are written."""

    column: str
    title: str
    form: str
    scale: float = 1.0


_CURVES = (
    _Curve("loss", "loss", "{:.3f}"),
    _Curve("hard_ratio", "hard ratio", "{:.0f} %", 100.0),
    _Curve("easy_anchor_share", "easy anchors", "{:.0f} %", 100.0),
    _Curve("negative_similarity_mean", "negatives, mean", "{:.2f}"),
    _Curve("negative_similarity_p95", "negatives, p95", "{:.2f}"),
    _Curve("validation_eer", "validation EER", "{:.2f} %", 100.0),
)


def trainings_in(given: Sequence[Path]) -> list[Path]:
    """Folders of trainings among these folders: each is one, or that of a comparison, which has them below it.

    Raises:
        FileNotFoundError: If a folder is neither.
    """
    found: list[Path] = []
    for folder in given:
        inside = sorted(one.parent for one in folder.glob("*/seed-*/config.yaml"))
        if (folder / "config.yaml").is_file():
            found.append(folder)
        elif inside:
            found += inside
        else:
            raise FileNotFoundError(
                f"RUN must be a training that has begun, or a comparison of such, got {folder}. "
                "`chns train` writes config.yaml there when it starts."
            )
    return found


def look_at(folders: Sequence[Path], *, width: int, now: float | None = None) -> Watched:
    """How far trainings are.

    Args:
        folders: Of trainings.
        width: Characters of a line.
        now: Seconds since the epoch; by default the clock's.

    Raises:
        FileNotFoundError, RunFolderError: If a folder is no longer that of a run, or is damaged.
    """
    now = time.time() if now is None else now
    one_by_one = [_look(RunFolder.open(folder), width, now) for folder in folders]
    running = [one for one in one_by_one if not one.is_finished]
    done = len(one_by_one) - len(running)
    heads = [one.line for one in one_by_one if one.is_finished]
    screens = [one.screen for one in running] or [one_by_one[-1].screen]
    count = f"{done} of {len(folders)} trainings finished; " if len(folders) > 1 else ""
    return Watched(
        screen="\n".join([*heads[: len(heads) - (not running)], *screens]),
        line=count + "; ".join(one.line for one in running or one_by_one[-1:]),
        is_finished=not running,
    )


def _look(run: RunFolder, width: int, now: float) -> Watched:
    name = shown("/".join(run.path.resolve().parts[-2:]))
    try:
        log = run.log()
    except FileNotFoundError:
        log = {}
    if not len(log.get("step", ())):
        line = f"{name}: begun, nothing logged yet"
        return Watched(line, line, run.is_finished)
    line = f"{name}: {_how_far(run, log, now)}"
    lines = [line, *_curves(log, width), *_speed(log)]
    decisions = run.decisions()
    lines += [
        f"  {'' if place else 'decided':<{_LABEL_WIDTH}}{shown(one)[: width - _LABEL_WIDTH - 2]}"
        for place, one in enumerate(decisions[-_MOST_DECISIONS:])
    ]
    return Watched("\n".join(lines), line, run.is_finished)


def _num_steps(run: RunFolder) -> int | None:
    try:
        return int(run.settings["train"]["epochs"]) * int(run.settings["batches"]["steps_per_epoch"])
    except (KeyError, TypeError, ValueError):
        return None


def _how_far(run: RunFolder, log: Mapping[str, Float64Array], now: float) -> str:
    step, epoch, total = int(np.nanmax(log["step"])), int(np.nanmax(log["epoch"])), _num_steps(run)
    if run.is_finished:
        return f"finished, {step:,} steps" + _taken(log)
    words = [f"step {step:,}" + (f" of {total:,} ({100 * step / total:.0f} %)" if total else ""), f"epoch {epoch}"]
    left = _seconds_left(log, total)
    silent = now - (run.path / "log.csv").stat().st_mtime
    if silent > _SILENT_SECONDS:
        words.append(f"nothing logged for {timedelta(seconds=round(silent))}: stopped?")
    elif left is not None:
        words.append(f"{timedelta(seconds=round(left))} left{_taken(log)}")
    return ", ".join(words)


def _taken(log: Mapping[str, Float64Array]) -> str:
    elapsed = log["elapsed_seconds"]
    known = elapsed[np.isfinite(elapsed)]
    return f", {timedelta(seconds=round(float(known[-1])))} taken" if len(known) else ""


def _seconds_left(log: Mapping[str, Float64Array], total: int | None) -> float | None:
    there = np.isfinite(log["elapsed_seconds"])
    steps, elapsed = log["step"][there], log["elapsed_seconds"][there]
    if total is None or len(steps) < 2:
        return None
    first = len(steps) - 1 - max(1, len(steps) // 3)
    done = steps[-1] - steps[first]
    return float((total - steps[-1]) * (elapsed[-1] - elapsed[first]) / done) if done > 0 else None


def _curves(log: Mapping[str, Float64Array], width: int) -> list[str]:
    lines = []
    for curve in _CURVES:
        values = curve.scale * log[curve.column][np.isfinite(log[curve.column])]
        if len(values):
            first, last = curve.form.format(values[0]), curve.form.format(values[-1])
            room = max(8, min(60, width - _LABEL_WIDTH - 2 * 10 - 4))
            lines.append(f"  {curve.title:<{_LABEL_WIDTH}}{first:>9} {_spark(values, room)} {last}")
    return lines


def _spark(values: Float64Array, width: int) -> str:
    """The curve in one line, from its lowest to its highest value."""
    parts = np.array([part.mean() for part in np.array_split(values, min(width, len(values)))])
    low, high = float(parts.min()), float(parts.max())
    levels = np.rint((parts - low) / ((high - low) or 1.0) * (len(_BLOCKS) - 2)).astype(int) + 1
    return "".join(_BLOCKS[level] for level in levels)


def _speed(log: Mapping[str, Float64Array]) -> list[str]:
    speed, waiting = (log[name][np.isfinite(log[name])] for name in ("segments_per_second", "data_wait_share"))
    if not len(speed) or not len(waiting):
        return []
    return [
        f"  {'speed':<{_LABEL_WIDTH}}{speed[-1]:.0f} segments/s, waits for data {100 * waiting[-1]:.0f} % of the time"
    ]
