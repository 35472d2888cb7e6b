"""Options of ``chns metrics`` that say how sure its numbers are, and whether two systems differ."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from chns.core.arrays import BoolArray, Float64Array

if TYPE_CHECKING:
    from chns.evaluation.intervals import Interval
    from chns.evaluation.trials import Trials

INTERVALS_HELP = """--intervals draws the speakers of the trials 1,000 times with replacement (bootstrap, 95 %).
--against OTHER: SCORES minus OTHER on the same draws; negative means that SCORES makes fewer errors,
and a range without 0 that this is more than chance."""


def add_interval_options(parser: argparse.ArgumentParser) -> None:
    """Where the speakers are found, and what to compare with."""
    parser.add_argument(
        "--intervals",
        type=Path,
        metavar="M.parquet",
        help="add 95 %% intervals; the manifest tells who speaks in the utterances of the trials",
    )
    parser.add_argument(
        "--against",
        type=Path,
        metavar="OTHER",
        help="with --intervals: score file of another system on the same trials, to tell whether both differ",
    )


@dataclass(frozen=True)
class IntervalSection:
    """A title and the interval of each metric: lines of text, or one key of JSON."""

    key: str
    title: str
    intervals: Mapping[str, Interval]

    def to_json(self) -> dict[str, object]:
        """The intervals by metric, under one key."""
        return {self.key: {name: interval.to_json() for name, interval in self.intervals.items()}}

    def __str__(self) -> str:
        from chns.evaluation.metrics import metric_line

        lines = [
            metric_line("EER", f"{interval:.3%}")
            if name == "eer"
            else metric_line(f"minDCF (p_target {name.removeprefix('min_dcf_')})", f"{interval:.4f}")
            for name, interval in self.intervals.items()
        ]
        return "\n".join((self.title, *lines))


def interval_sections(
    arguments: argparse.Namespace,
    trials: Trials,
    scores: Float64Array,
    is_target: BoolArray,
) -> Iterator[IntervalSection]:
    """Intervals of the system, and of its difference to the other; nothing without ``--intervals``.

    Raises:
        ValueError: If ``--against`` is there without ``--intervals``; else as `speaker_intervals`.
        TrialError: If the manifest lacks an utterance, or the other score file has other trials.
    """
    if arguments.intervals is None:
        if arguments.against is not None:
            raise ValueError(f"--against must come with --intervals, got {arguments.against} alone. Add the manifest.")
        return
    from chns.data.manifest import Manifest
    from chns.evaluation.intervals import paired_difference, speaker_intervals
    from chns.evaluation.metrics import REPORTED_P_TARGETS
    from chns.evaluation.trials import resolve

    p_targets = arguments.p_target or REPORTED_P_TARGETS
    manifest = Manifest.read(arguments.intervals)
    enrolment, test = (manifest.speaker_labels[rows] for rows in resolve(trials, manifest))
    num_speakers = len({*enrolment.tolist(), *test.tolist()})
    yield IntervalSection(
        "intervals",
        f"95 % intervals, {num_speakers:,} speakers",
        speaker_intervals(scores, is_target, enrolment, test, p_targets=p_targets),
    )
    if arguments.against is not None:
        other = _scores_of_same_trials(arguments.against, trials)
        yield IntervalSection(
            "difference",
            f"{arguments.scores} minus {arguments.against}",
            paired_difference((other, scores), is_target, enrolment, test, p_targets=p_targets),
        )


def _scores_of_same_trials(path: Path, trials: Trials) -> Float64Array:
    from chns.errors import TrialError
    from chns.evaluation.scoring import read_scores

    others, scores = read_scores(path)
    if len(others) != len(trials):
        raise TrialError(
            f"other score file must have the same trials, got {len(others)} in {path} "
            f"and {len(trials)} in {trials.source}. Score one trial list with both systems."
        )
    for number, (line, other_line) in enumerate(zip(_lines(trials), _lines(others), strict=True)):
        if line != other_line:
            raise TrialError(
                f"other score file must have the same trials in the same order, got {' '.join(other_line)!r} in "
                f"{others.place(number)} and {' '.join(line)!r} in {trials.place(number)}. "
                "Score one trial list with both systems."
            )
    return scores


def _lines(trials: Trials) -> Iterator[tuple[str, ...]]:
    if trials.is_target is None:
        return zip(trials.enrolment, trials.test, strict=True)
    labels = ("target" if one else "nontarget" for one in trials.is_target.tolist())
    return zip(trials.enrolment, trials.test, labels, strict=True)
