"""A comparison from its settings to its table: check, train, score, evaluate, judge, write."""

from __future__ import annotations

import json
import logging
from contextlib import closing
from pathlib import Path

import numpy as np

from chns.comparison.evidence import twin_evidence
from chns.comparison.outcome import Outcome
from chns.comparison.plan import Comparison, Length, PlannedRun, check_runs, plan_runs
from chns.comparison.results import ListResults, evaluate
from chns.comparison.table import describe
from chns.comparison.training import train_runs
from chns.comparison.trial_lists import TrialList, read_trial_lists, scored
from chns.core.arrays import Float64Array
from chns.files import atomic_path
from chns.training.build import read_data
from chns.verdict import Verdict, find_twins, judge

_log = logging.getLogger(__name__)


def prepare(comparison: Comparison, out: Path) -> tuple[list[PlannedRun], Length, list[TrialList]]:
    """Everything that can be wrong without training, checked.

    Raises:
        ChnsError, FileNotFoundError: See `chns.comparison.plan.check_runs` and
            `chns.comparison.trial_lists.read_trial_lists`.
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
        comparison=comparison, length=length, results=results, verdicts=_verdicts(runs, comparison, results)
    )
    _write(out / "comparison.md", describe(outcome))
    _write(out / "comparison.json", json.dumps(outcome.to_json(), indent=2) + "\n")
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


def _write(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
