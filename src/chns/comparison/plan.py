"""Which runs a comparison consists of, and whether comparing them is fair: checked before any of them trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from chns.data.manifest import Manifest
from chns.errors import ConfigError, in_short
from chns.training.build import make_loss, make_plan, read_data, starting_model
from chns.training.folder import RunFolder, TrainSettings


@dataclass(frozen=True, kw_only=True)
class TrialListSettings:
    """A trial list, and where its utterances are.

    Args:
        manifest: Manifest of the utterances.
        trials: The list, with labels.
        root: Folder of the audio, or URL of packed shards, if not the folder that the manifest names.
        form: How the list reads, see `chns.evaluation.trials.read_trials`.
    """

    manifest: str
    trials: str
    root: str | None = None
    form: Literal["auto", "voxceleb", "kaldi", "cnceleb"] = "auto"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A comparison whose settings have been checked against each other.

    Attributes:
        strategies: Settings of each strategy, complete but for the seed.
        seeds: At least one, all different.
        trial_lists: At least one.
        baseline: The strategy that the others are compared with.
    """

    strategies: Mapping[str, TrainSettings]
    seeds: tuple[int, ...]
    trial_lists: Mapping[str, TrialListSettings]
    baseline: str


@dataclass(frozen=True, eq=False, kw_only=True)
class PlannedRun:
    """One training of a comparison.

    Attributes:
        strategy: Its name.
        settings: Complete, with the seed.
        folder: ``OUT/STRATEGY/seed-N``.
    """

    strategy: str
    settings: TrainSettings
    folder: Path

    def __str__(self) -> str:
        return f"{self.strategy}, seed {self.settings.seed}"

    @property
    def opened(self) -> RunFolder | None:
        """What is already there; None if the run was never begun."""
        return RunFolder.open(self.folder) if (self.folder / "config.yaml").is_file() else None

    @property
    def is_finished(self) -> bool:
        """Whether it has been trained to its end."""
        return self.opened is not None and self.opened.is_finished


@dataclass(frozen=True)
class Length:
    """What a run costs, and what all runs of a comparison have in common.

    Attributes:
        segments_per_step: Speakers times utterances of a batch.
        num_steps: Of the whole run.
    """

    segments_per_step: int
    num_steps: int

    def __str__(self) -> str:
        return f"{self.num_steps} steps of {self.segments_per_step} segments"


def plan_runs(comparison: Comparison, out: Path) -> list[PlannedRun]:
    """All runs, seed by seed, so that every strategy has been trained once before one is trained twice."""
    return [
        PlannedRun(strategy=name, settings=replace(settings, seed=seed), folder=out / name / f"seed-{seed}")
        for seed in comparison.seeds
        for name, settings in comparison.strategies.items()
    ]


def check_runs(runs: Sequence[PlannedRun]) -> Length:
    """Build what each run would train with, and make sure that all see equally many segments.

    Returns:
        How long every run is.

    Raises:
        ConfigError: If settings do not suit a factory or each other, a folder holds a run with other settings, or runs
            differ in their number of steps or of segments a step.
        ManifestError, FileNotFoundError: If a manifest is missing or not valid.
        RunFolderError: If a folder holds a damaged run.
    """
    data: dict[tuple[str, int], Manifest] = {}
    lengths = {}
    for run in runs:
        key = (repr(run.settings.data), run.settings.seed)
        if key not in data:
            data[key] = read_data(run.settings)[0]
        lengths[run] = _length(run, data[key])
        _refuse_other_settings(run)
    reference = runs[0]
    for run, length in lengths.items():
        if length != lengths[reference]:
            raise ConfigError(
                f"strategies must train on equally many segments, got {lengths[reference]} for {reference} and "
                f"{length} for {run}. Set batches.steps_per_epoch and train.epochs, and keep speakers_per_batch x "
                "utterances_per_speaker the same."
            )
    return lengths[reference]


def _length(run: PlannedRun, manifest: Manifest) -> Length:
    settings = run.settings
    try:
        _, model = starting_model(settings)
        make_loss(settings, model, manifest)
        plan = make_plan(settings, manifest)
    except ValueError as error:
        raise ConfigError(f"strategy {run.strategy} must be trainable, got an error: {error}") from error
    batches = settings.batches
    return Length(
        segments_per_step=batches.speakers_per_batch * batches.utterances_per_speaker,
        num_steps=settings.train.epochs * plan.steps_per_epoch,
    )


def _refuse_other_settings(run: PlannedRun) -> None:
    begun = run.opened
    changed = {} if begun is None or not begun.is_begun else begun.differences(run.settings)
    if changed:
        name, (before, now) = next(iter(changed.items()))
        raise ConfigError(
            f"{name} of {run} must be {in_short(before)} as when the run was begun, got {in_short(now)} "
            f"(settings that differ: {in_short(', '.join(changed))}) in {run.folder}. "
            f"Use another folder for another comparison."
        )
