"""Tables of the page: error rates of the runs, clusters, worst errors, suspected duplicates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from chns.core import IntArray
from chns.report.curve_figures import RunScores
from chns.report.drawing import printable
from chns.report.first_screen import metric_name, rate_text
from chns.report.run_findings import ComparedRuns, ComparedValue, RunFindings, ScoredTrials, SuspectedDuplicate

_COLUMNS_OF_A_LIST = 3
_LONGEST_DECISION = 200


class Cell(NamedTuple):
    """A value of the table of runs, and whether it is the best of its column."""

    text: str
    is_best: bool


class RunRow(NamedTuple):
    """A run in the table of runs: EER, minDCF 0.05 and minDCF 0.01 for each trial list."""

    name: str
    strategy: str
    cells: Sequence[Cell]


class TrialListSize(NamedTuple):
    """A trial list in the head of that table."""

    name: str
    targets: int
    nontargets: int


class ClusterRow(NamedTuple):
    """Clusters of a run: how many there are, speakers in the smallest, median and largest, and mean tightness."""

    name: str
    clusters: int
    smallest: int
    median: str
    largest: int
    tightness: str


class RunDecisions(NamedTuple):
    """What a run decided about its batches, and how many decisions are left out."""

    run: str
    shown: Sequence[str]
    left_out: int


class ErrorTrial(NamedTuple):
    """A trial that a run got wrong."""

    score: float
    enrolment: str
    test: str


class RunErrors(NamedTuple):
    """The worst errors of a run on one trial list."""

    run: str
    threshold: float
    false_accepts: Sequence[ErrorTrial]
    false_rejects: Sequence[ErrorTrial]


class ListErrors(NamedTuple):
    """The worst errors of all runs on one trial list."""

    trial_list: str
    runs: Sequence[RunErrors]


class SuspectedPair(NamedTuple):
    """A pair of speakers as the run suspects it that is most sure of it, and how many runs do."""

    speakers: tuple[str, str]
    similarity: float
    own_similarity: float
    suspected_by: int
    asked: int


def run_rows(runs: Sequence[RunFindings], trial_lists: Sequence[str]) -> list[RunRow]:
    """One row a run; a list that it did not score leaves dashes."""
    values = np.array([[v for name in trial_lists for v in _values(run.scored.get(name))] for run in runs])
    best = [np.nanmin(column) if np.isfinite(column).any() else np.nan for column in values.T]
    rows = []
    for run, of_run in zip(runs, values, strict=True):
        cells = [
            Cell(_value_text(column, value), bool(value == best[column]) and len(runs) > 1)
            for column, value in enumerate(of_run.tolist())
        ]
        rows.append(RunRow(run.name, run.strategy, cells))
    return rows


def _values(scored: ScoredTrials | None) -> tuple[float, ...]:
    if scored is None:
        return (np.nan,) * _COLUMNS_OF_A_LIST
    return scored.metrics.eer, scored.metrics.min_dcf[0.05], scored.metrics.min_dcf[0.01]


def _value_text(column: int, value: float) -> str:
    if np.isnan(value):
        return "\N{EN DASH}"
    return f"{value:.3f}" if column % _COLUMNS_OF_A_LIST else f"{100 * value:.2f}"


class ComparedCell(NamedTuple):
    """A mean over the seeds, its difference to the baseline in words, and whether that leaves out zero."""

    value: str
    difference: str
    is_measurable: bool


class ComparedTable(NamedTuple):
    """What strategies came to on a trial list: names of the metrics, and rows of a name and its cells."""

    name: str
    size: str
    metrics: Sequence[str]
    rows: Sequence[tuple[str, Sequence[ComparedCell]]]


def compared_rows(comparison: ComparedRuns) -> list[ComparedTable]:
    """One table a trial list, one row a strategy."""
    return [
        ComparedTable(
            table.name,
            f"{table.targets:,} targets, {table.nontargets:,} non-targets of {table.speakers:,} speakers",
            [metric_name(metric) for metric in table.strategies[0].values],
            [
                (strategy.name, [_compared_cell(metric, value) for metric, value in strategy.values.items()])
                for strategy in table.strategies
            ],
        )
        for table in comparison.lists
        if table.strategies
    ]


def _compared_cell(metric: str, value: ComparedValue) -> ComparedCell:
    mean, difference = rate_text(metric, value.mean), value.difference
    if difference is None:
        return ComparedCell(mean, "", False)
    ends = (rate_text(metric, end, signed=True) for end in (difference.low, difference.high))
    return ComparedCell(mean, " to ".join(ends), difference.is_measurable)


def list_sizes(trial_lists: dict[str, list[RunScores]]) -> list[TrialListSize]:
    """How many trials each list has."""
    first = ((name, scored[0].scored.metrics) for name, scored in trial_lists.items())
    return [TrialListSize(name, metrics.target_trials, metrics.nontarget_trials) for name, metrics in first]


def cluster_rows(runs: Sequence[RunFindings]) -> list[ClusterRow]:
    """One row a run that has clusters."""
    return [
        ClusterRow(
            run.name,
            len(shapes.sizes),
            int(shapes.sizes.min()),
            f"{np.median(shapes.sizes):g}",
            int(shapes.sizes.max()),
            f"{np.nanmean(shapes.tightness):.3f}",
        )
        for run in runs
        if (shapes := run.cluster_shapes) is not None
    ]


def run_decisions(runs: Sequence[RunFindings], *, most: int) -> list[RunDecisions]:
    """The decisions of each run that made any, in their order.

    They are read from a file of whoever made the run, so each is printable and of bounded length.

    Args:
        runs: In the order of the result.
        most: Most decisions of each that are shown.
    """
    return [
        RunDecisions(
            run.name,
            [printable(decision[:_LONGEST_DECISION]) for decision in run.decisions[:most]],
            max(0, len(run.decisions) - most),
        )
        for run in runs
        if run.decisions
    ]


def list_errors(trial_lists: dict[str, list[RunScores]], *, most: int) -> list[ListErrors]:
    """The worst errors by trial list and run.

    Args:
        trial_lists: Scores of the runs by trial list.
        most: Most false accepts, and most false rejects, of each run and list.
    """
    return [
        ListErrors(
            name,
            [
                RunErrors(
                    run.name,
                    scored.metrics.threshold,
                    _errors(scored, scored.false_accepts[:most]),
                    _errors(scored, scored.false_rejects[:most]),
                )
                for run, scored in runs
            ],
        )
        for name, runs in trial_lists.items()
    ]


def _errors(scored: ScoredTrials, rows: IntArray) -> list[ErrorTrial]:
    trials = scored.trials
    return [ErrorTrial(float(scored.scores[row]), trials.enrolment[row], trials.test[row]) for row in rows.tolist()]


def suspected_pairs(runs: Sequence[RunFindings]) -> list[SuspectedPair]:
    """The pairs that any run suspects: those of most runs first, among these the most suspicious first."""
    asked = [run.duplicates for run in runs if run.duplicates is not None]
    found: dict[tuple[str, ...], list[SuspectedDuplicate]] = {}
    for duplicates in asked:
        for duplicate in duplicates:
            found.setdefault(tuple(sorted(duplicate.speakers)), []).append(duplicate)
    surest = [(max(same, key=_suspicion), len(same)) for same in found.values()]
    surest.sort(key=lambda pair: (-pair[1], -_suspicion(pair[0])))
    return [
        SuspectedPair(one.speakers, one.similarity, one.own_similarity, number, len(asked)) for one, number in surest
    ]


def _suspicion(duplicate: SuspectedDuplicate) -> float:
    return duplicate.similarity / duplicate.own_similarity
