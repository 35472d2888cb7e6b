"""Tables of the page: error rates of the runs and of strategies, clusters, purities, decisions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np

from chns.report.curve_figures import RunScores
from chns.report.drawing import Group, printable
from chns.report.first_screen import metric_name, rate_text
from chns.report.run_findings import ComparedRuns, ComparedValue, RunFindings, ScoredTrials

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


class VerdictBox(NamedTuple):
    """Verdicts that follow each other with the same findings in the logs and the same advice."""

    headlines: Sequence[str]
    findings: Sequence[str]
    next_steps: Sequence[str]


def verdict_boxes(comparison: ComparedRuns) -> list[VerdictBox]:
    """What the page says of the verdicts, each finding and advice once."""
    remarks = groupby(comparison.verdicts, key=lambda verdict: (verdict.findings, verdict.next_steps))
    return [VerdictBox([one.headline for one in same], *said) for said, same in remarks]


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


class PurityRow(NamedTuple):
    """A column of the manifest under the models of a strategy: shares in per cent, beside those by chance."""

    column: str
    num_values: int
    strategy: str
    neighbours: str
    clusters: str


def purity_rows(groups: Sequence[Group]) -> list[PurityRow]:
    """How columns of the manifest go with neighbours and clusters, means over the runs of each strategy."""
    rows = []
    for group in groups:
        maps = [run.speaker_map for run in group.runs if run.speaker_map is not None]
        for column in dict.fromkeys(one.column for found in maps for one in found.purities):
            of_runs = [one for found in maps for one in found.purities if one.column == column]
            shares = 100 * np.mean([one[2:] for one in of_runs], axis=0)
            neighbours, clusters = (
                "\N{EN DASH}" if np.isnan(own) else f"{own:.0f}\N{NO-BREAK SPACE}% ({by_chance:.0f})"
                for own, by_chance in shares.reshape(2, 2).tolist()
            )
            rows.append(PurityRow(column, of_runs[0].num_values, group.label, neighbours, clusters))
    return sorted(rows, key=lambda row: row.column)


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
