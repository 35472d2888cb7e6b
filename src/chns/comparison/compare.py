"""A comparison from its settings to its table: check, train, score, evaluate, judge, write."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from chns.comparison.results import METRICS, ListResults, TrialList, evaluate, read_trial_lists, scored
from chns.comparison.run_evidence import ConditionMixing, TwinEvidence, condition_mixing
from chns.comparison.runs import Comparison, Length, PlannedRun, check_runs, plan_runs, train_runs
from chns.comparison.verdict import Verdict, find_twins, in_words, judge
from chns.core import Float64Array, write_text
from chns.data import Manifest, corpora_of
from chns.training.build import read_data
from chns.training.folder import RunFolder

_log = logging.getLogger(__name__)


def twin_evidence(random: Sequence[PlannedRun], hard: Sequence[PlannedRun]) -> TwinEvidence:
    """What is known of finished runs.

    Clusters, if there are any, are those of the first hard run; training data are the same for all seeds.

    Args:
        random: Runs of the twin.
        hard: Those of the strategy with hard batches, of the same seeds in the same order.
    """
    first = RunFolder.open(hard[0].folder)
    manifest = read_data(hard[0].settings)[0]
    return TwinEvidence(
        settings=hard[0].settings,
        random_logs=[RunFolder.open(run.folder).log() for run in random],
        hard_logs=[RunFolder.open(run.folder).log() for run in hard],
        num_training_speakers=len(manifest.speakers),
        utterances_per_speaker=float(np.median(np.bincount(manifest.speaker_labels))),
        conditions=_conditions(manifest, first),
        suspected_duplicates=first.num_same_person(),
    )


def _conditions(manifest: Manifest, run: RunFolder) -> ConditionMixing | None:
    corpora, clusters = corpora_of(manifest.speakers), run.clusters()
    if corpora is None or clusters is None:
        return None
    return condition_mixing(corpora, clusters.labels)


@dataclass(frozen=True, eq=False, kw_only=True)
class Outcome:
    """What a comparison came to.

    Attributes:
        comparison: Its settings.
        length: Of every run.
        results: By trial list, in the order of the settings.
        verdicts: On each strategy with hard batches that has a twin with random ones.
        folder: Of the comparison.
    """

    comparison: Comparison
    length: Length
    results: list[ListResults]
    verdicts: list[Verdict]
    folder: Path

    def to_json(self) -> dict[str, Any]:
        """All numbers, of each seed too."""
        comparison = self.comparison
        return {
            "folder": str(self.folder.resolve()),  # what was named lay beside it: for when all is moved
            "baseline": comparison.baseline,
            "seeds": list(comparison.seeds),
            "steps": self.length.num_steps,
            "segments_per_step": self.length.segments_per_step,
            "strategies": {
                name: {key: value for key, value in asdict(settings).items() if key != "seed"}
                for name, settings in comparison.strategies.items()
            },
            "trial_lists": {
                results.trial_list.name: {
                    **asdict(comparison.trial_lists[results.trial_list.name]),
                    "speakers": results.trial_list.num_speakers,
                    "target_trials": int(results.trial_list.is_target.sum()),
                    "nontarget_trials": int((~results.trial_list.is_target).sum()),
                    "results": {name: _numbers(results, name, comparison.baseline) for name in comparison.strategies},
                }
                for results in self.results
            },
            "verdicts": [verdict.to_json() for verdict in self.verdicts],
        }


def _numbers(results: ListResults, strategy: str, baseline: str) -> dict[str, Any]:
    return {
        metric: {
            "per_seed": results.per_seed(strategy, metric).tolist(),
            "mean": results.mean(strategy, metric).to_json(),
            "difference": None if strategy == baseline else results.difference(strategy, baseline, metric).to_json(),
        }
        for metric in METRICS
    }


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
        parts += ["## Did hard sampling help?", in_words(outcome.verdicts)]
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


def prepare(comparison: Comparison, out: Path) -> tuple[list[PlannedRun], Length, list[TrialList]]:
    """Everything that can be wrong without training, checked.

    Raises:
        ChnsError, FileNotFoundError: See `chns.comparison.runs.check_runs` and
            `chns.comparison.results.read_trial_lists`.
    """
    runs = plan_runs(comparison, out)
    length = check_runs(runs)
    lists = read_trial_lists(comparison.trial_lists)
    _warn_of_training_speakers(runs[0], lists)
    return runs, length, lists


def compare(comparison: Comparison, out: Path, *, jobs: int = 1) -> Outcome:
    """Train all strategies with all seeds, evaluate them, and write ``comparison.md`` and ``comparison.json``.

    Runs are in ``OUT/STRATEGY/seed-N``, their scores in its folder ``scores``. What is there is not made again; calling
    again goes on with what was stopped.

    Args:
        comparison: What to compare.
        out: Folder of the comparison.
        jobs: Trainings at the same time.

    Raises:
        ChnsError, FileNotFoundError: Before anything trains, if settings or files are wrong.
        KeyboardInterrupt: After Ctrl-C, once checkpoints are written.
    """
    runs, length, lists = prepare(comparison, out)
    _log.info("%d runs of %s: %d are finished", len(runs), length, sum(run.is_finished for run in runs))
    scores: dict[str, dict[str, dict[int, Float64Array]]] = {
        trial_list.name: {name: {} for name in comparison.strategies} for trial_list in lists
    }
    try:
        with closing(train_runs(runs, jobs=jobs)) as trained:
            for run in trained:
                for name, values in scored(run, lists).items():
                    scores[name][run.strategy][run.settings.seed] = values
    except KeyboardInterrupt:
        finished = sum(run.is_finished for run in runs)
        _log.info("%d of %d runs are finished; the same command goes on from here", finished, len(runs))
        raise
    _log.info("evaluating %d runs on %d trial lists", len(runs), len(lists))
    results = [
        evaluate(
            trial_list,
            {
                strategy: [by_seed[seed] for seed in comparison.seeds]
                for strategy, by_seed in scores[trial_list.name].items()
            },
        )
        for trial_list in lists
    ]
    outcome = Outcome(
        comparison=comparison, length=length, results=results, verdicts=_verdicts(runs, comparison, results), folder=out
    )
    write_text(out / "comparison.md", describe(outcome))
    write_text(out / "comparison.json", json.dumps(outcome.to_json(), indent=2) + "\n")
    return outcome


def _warn_of_training_speakers(run: PlannedRun, lists: list[TrialList]) -> None:
    """Equal names of different corpora may be different people, so this is no error."""
    trained = set(read_data(run.settings)[0].speakers)
    for trial_list in lists:
        names = trial_list.manifest.speakers
        shared = {names[label] for side in trial_list.speakers for label in np.unique(side)} & trained
        if shared:
            _log.warning(
                "%d speakers of the trial list %s have the name of a training speaker, such as %r. If these are the "
                "same people, error rates on them say nothing of others.",
                len(shared),
                trial_list.name,
                min(shared),
            )


def _verdicts(runs: list[PlannedRun], comparison: Comparison, results: list[ListResults]) -> list[Verdict]:
    by_strategy = {name: [run for run in runs if run.strategy == name] for name in comparison.strategies}
    return [
        judge(
            clustered,
            twin,
            changes=[change for one in results for change in one.changes(clustered, twin.name)],
            num_seeds=len(comparison.seeds),
            evidence=twin_evidence(by_strategy[twin.name], by_strategy[clustered]),
        )
        for clustered, twin in find_twins(comparison.strategies).items()
    ]
