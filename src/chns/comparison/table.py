"""A comparison for people: Markdown that also reads well in a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from chns.comparison.outcome import Outcome
from chns.comparison.results import METRICS, ListResults


def describe(outcome: Outcome) -> str:
    """A table for each trial list, like the paper's, then a verdict on each strategy with hard batches."""
    comparison = outcome.comparison
    parts = [
        "# Comparison",
        f"{len(comparison.strategies)} strategies, each trained for {outcome.length}, with "
        f"{_seeds(comparison.seeds)}, bold where it leaves out zero.",
    ]
    for results in outcome.results:
        parts += [_heading(results), _table(results, list(comparison.strategies), comparison.baseline)]
    if outcome.verdicts:
        parts += ["## Did hard sampling help?", *map(str, outcome.verdicts)]
    return "\n\n".join(parts) + "\n"


def _seeds(seeds: Sequence[int]) -> str:
    brackets = "in brackets the 95 % interval of the difference to the baseline"
    if len(seeds) == 1:
        return f"one seed ({seeds[0]}); {brackets}, from resampled speakers only"
    listed = ", ".join(map(str, seeds))
    return f"{len(seeds)} seeds ({listed}). Means over the seeds; {brackets}, from resampled speakers and the seeds"


def _heading(results: ListResults) -> str:
    trial_list = results.trial_list
    num_trials, num_targets = len(trial_list.trials), int(trial_list.is_target.sum())
    return (
        f"## {trial_list.name}\n\n{num_targets:,} target and {num_trials - num_targets:,} non-target trials of "
        f"{trial_list.num_speakers:,} speakers."
    )


def _table(results: ListResults, strategies: Sequence[str], baseline: str) -> str:
    head = ["strategy", *METRICS.values()]
    rows = [[name, *(_cell(results, name, baseline, metric) for metric in METRICS)] for name in strategies]
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def _cell(results: ListResults, strategy: str, baseline: str, metric: str) -> str:
    scale, form, unit = (100, ".2f", " %") if metric == "eer" else (1, ".3f", "")
    value = f"{scale * results.mean(strategy, metric).estimate:{form}}{unit}"
    if strategy == baseline:
        return value
    difference = results.difference(strategy, baseline, metric)
    ends = f"[{scale * difference.low:+{form}}, {scale * difference.high:+{form}}]"
    return f"{value} **{ends}**" if difference.excludes_zero else f"{value} {ends}"
