"""Scores and error rates of a comparison: means over seeds, and intervals of them and of their differences."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from chns.bundle import load_bundle
from chns.comparison.runs import PlannedRun, TrialListSettings
from chns.comparison.verdict import Change
from chns.core import BoolArray, Float64Array, IntArray, TrialError
from chns.data import Manifest
from chns.evaluation import (
    BootstrapMetrics,
    Embedder,
    Interval,
    Trials,
    bootstrap_metrics,
    mean_over_seeds,
    read_scores,
    read_trials,
    resolve,
    score_trials,
    write_scores,
)
from chns.training.build import named_by_user

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False, kw_only=True)
class TrialList:
    """A labelled trial list whose utterances have been found.

    Attributes:
        name: Its name in the comparison.
        trials: As read.
        is_target: Their labels, shape (trials,).
        manifest: Where the utterances are.
        enrolment: Row of each trial's enrolment utterance in the manifest, shape (trials,).
        test: Row of its test utterance, shape (trials,).
    """

    name: str
    trials: Trials
    is_target: BoolArray
    manifest: Manifest
    enrolment: IntArray
    test: IntArray

    @property
    def speakers(self) -> tuple[IntArray, IntArray]:
        """Speaker of the enrolment and of the test utterance of each trial, as labels of the manifest."""
        labels = self.manifest.speaker_labels
        return labels[self.enrolment], labels[self.test]

    @property
    def num_speakers(self) -> int:
        """Speakers that occur in the trials."""
        return len(np.unique(np.concatenate(self.speakers)))


def read_trial_lists(lists: Mapping[str, TrialListSettings]) -> list[TrialList]:
    """Read and check all of them; a manifest that several need is read once.

    Raises:
        FileNotFoundError: If a file is missing.
        ManifestError: If a manifest is not valid.
        TrialError: If a list breaks its format, has no labels or wrong ones, names unknown utterances, or has not both
            kinds of trial of at least two speakers.
    """
    manifests: dict[tuple[str, str | None], Manifest] = {}
    return [_read_trial_list(name, settings, manifests) for name, settings in lists.items()]


def _read_trial_list(
    name: str, settings: TrialListSettings, manifests: dict[tuple[str, str | None], Manifest]
) -> TrialList:
    key = (settings.manifest, settings.root)
    if key not in manifests:
        manifests[key] = Manifest.read(settings.manifest, root=settings.root)
    trials = read_trials(settings.trials, form=settings.form)
    if trials.is_target is None:
        raise TrialError(f"trial list must have labels to be compared on, got none in {settings.trials}.")
    enrolment, test = resolve(trials, manifests[key])
    found = TrialList(
        name=name, trials=trials, is_target=trials.is_target, manifest=manifests[key], enrolment=enrolment, test=test
    )
    try:  # whatever the intervals would refuse after the training
        bootstrap_metrics(found.is_target[np.newaxis], found.is_target, *found.speakers, num_resamples=1)
    except ValueError as error:
        raise TrialError(f"trial list must suit its manifest, got {settings.trials}: {error}") from error
    return found


def scored(run: PlannedRun, lists: Sequence[TrialList]) -> dict[str, Float64Array]:
    """Scores of a finished run's model by trial list, each of shape (trials,).

    They are in the run's folder ``scores``, and are computed if they are missing, older than the model, or of other
    trials.

    Raises:
        ModelFileError, AudioError, FileNotFoundError: If the model or a recording cannot be read.
    """
    stored = {trial_list.name: stored_scores(run.folder, trial_list) for trial_list in lists}
    missing = [trial_list for trial_list in lists if stored[trial_list.name] is None]
    if missing:
        _log.info("scoring %s: %s", run, ", ".join(trial_list.name for trial_list in missing))
    for group in _by_manifest(missing):
        _score(run, group)
    return {
        trial_list.name: read_scores(score_path(run.folder, trial_list.name))[1] if known is None else known
        for trial_list, known in zip(lists, stored.values(), strict=True)
    }


def score_path(folder: Path, trial_list: str) -> Path:
    """Where a run keeps its scores on a trial list."""
    return folder / "scores" / f"{trial_list}.txt"


def stored_scores(folder: Path, trial_list: TrialList) -> Float64Array | None:
    """Scores in a run's folder, shape (trials,); None if they are missing, of other trials, or older than the model."""
    path, model = score_path(folder, trial_list.name), folder / "model" / "config.json"
    if not path.is_file() or path.stat().st_mtime_ns < model.stat().st_mtime_ns:
        return None
    try:
        trials, scores = read_scores(path)
    except TrialError as error:
        _log.warning("%s cannot be read (%s); the trials are scored anew.", path, error)
        return None
    wanted = trial_list.trials
    if trials.is_target is None or not np.array_equal(trials.is_target, trial_list.is_target):
        return None
    return scores if trials.enrolment == wanted.enrolment and trials.test == wanted.test else None


def _by_manifest(lists: Sequence[TrialList]) -> list[list[TrialList]]:
    groups: dict[int, list[TrialList]] = {}
    for trial_list in lists:
        groups.setdefault(id(trial_list.manifest), []).append(trial_list)
    return list(groups.values())


def _score(run: PlannedRun, lists: Sequence[TrialList]) -> None:
    """Score trial lists of one manifest; an utterance of several lists is embedded once."""
    settings = run.settings
    bundle = load_bundle(run.folder / "model", trusted_packages=named_by_user(settings))
    device = settings.train.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    bundle.model.to(device)
    scores = score_trials(
        Embedder(model=bundle.model, device=device, num_workers=settings.data.num_workers or 0),
        lists[0].manifest,
        np.concatenate([trial_list.enrolment for trial_list in lists]),
        np.concatenate([trial_list.test for trial_list in lists]),
    )
    ends = np.cumsum([len(trial_list.trials) for trial_list in lists])[:-1]
    for trial_list, part in zip(lists, np.split(scores, ends), strict=True):
        write_scores(score_path(run.folder, trial_list.name), trial_list.trials, part)


METRICS = {"eer": "EER", "min_dcf_0.05": "minDCF (0.05)", "min_dcf_0.01": "minDCF (0.01)"}
_P_TARGETS = (0.05, 0.01)
_NUM_RESAMPLES = 1000


@dataclass(frozen=True, eq=False, kw_only=True)
class ListResults:
    """What all strategies came to on one trial list.

    Attributes:
        trial_list: The trials.
        metrics: One system a run: those of the first strategy by seed, then those of the second, ...
        rows: Which systems are of each strategy.
    """

    trial_list: TrialList
    metrics: BootstrapMetrics
    rows: Mapping[str, slice]

    def per_seed(self, strategy: str, metric: str) -> Float64Array:
        """Value of each run of a strategy, shape (seeds,)."""
        values: Float64Array = self.metrics.estimate[metric][self.rows[strategy]]
        return values

    def mean(self, strategy: str, metric: str) -> Interval:
        """Mean over the seeds."""
        rows = self.rows[strategy]
        return mean_over_seeds(self.metrics.estimate[metric][rows], self.metrics.resampled[metric][rows])

    def difference(self, strategy: str, baseline: str, metric: str) -> Interval:
        """Mean over the seeds of a strategy's value minus the baseline's; negative: the strategy makes fewer errors."""
        own, other = self.rows[strategy], self.rows[baseline]
        estimate, resampled = self.metrics.estimate[metric], self.metrics.resampled[metric]
        return mean_over_seeds(estimate[own] - estimate[other], resampled[own] - resampled[other])

    def changes(self, strategy: str, baseline: str) -> list[Change]:
        """What the strategy changes against another, by metric."""
        return [
            Change(
                trial_list=self.trial_list.name,
                metric=metric,
                before=self.mean(baseline, metric).estimate,
                difference=self.difference(strategy, baseline, metric),
            )
            for metric in METRICS
        ]


def evaluate(trial_list: TrialList, scores: Mapping[str, Sequence[Float64Array]], *, seed: int = 0) -> ListResults:
    """Error rates of all runs on one trial list, and on resamples of its speakers.

    Args:
        trial_list: The trials.
        scores: Of each strategy, one array of shape (trials,) a seed, in the same order of seeds.
        seed: Of the resamples.
    """
    metrics = bootstrap_metrics(
        np.stack([one for of_strategy in scores.values() for one in of_strategy]),
        trial_list.is_target,
        *trial_list.speakers,
        num_resamples=_NUM_RESAMPLES,
        seed=seed,
        p_targets=_P_TARGETS,
    )
    ends = np.cumsum([len(of_strategy) for of_strategy in scores.values()])
    rows = {name: slice(end - len(scores[name]), end) for name, end in zip(scores, ends.tolist(), strict=True)}
    return ListResults(trial_list=trial_list, metrics=metrics, rows=rows)
