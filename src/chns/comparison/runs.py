"""The runs of a comparison: what its YAML file states, whether comparing is fair, and training them.

A run's own process is a `chns train` of the same settings on its share of the cores, so a run is the same however it
was started, up to the order of additions, which the number of threads changes. Worker processes of `multiprocessing`
would do as well, but what they say could not be told apart, and a run that fails could not be repeated by hand.
"""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentError

from chns.core import ConfigError, RunFolderError, available_cores, bounded_text, config_path, in_short, quoted
from chns.data import Manifest
from chns.training.build import fitted, make_loss, make_plan, read_data, starting_model
from chns.training.folder import RunFolder
from chns.training.parsing import SettingsParser, add_settings, settings_of
from chns.training.run import train
from chns.training.settings import TrainSettings

_log = logging.getLogger(__name__)

_FOLDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


@dataclass(frozen=True, kw_only=True)
class ComparisonSettings:
    """Strategies x seeds, evaluated on trial lists.

    Args:
        base: Settings of `chns train` that all strategies share.
        strategies: Name of each strategy and the settings in which it differs from ``base``. By default the five of
            the paper, see `paper_strategies`.
        seeds: Each strategy is trained once with each.
        trial_lists: What the models are evaluated on, by name.
        baseline: The strategy that the others are compared with; by default the first.
    """

    trial_lists: dict[str, TrialListSettings]
    base: TrainSettings = field(default_factory=TrainSettings)
    strategies: dict[str, dict[str, Any]] = field(default_factory=dict)
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    baseline: str | None = None


def read_comparison(path: Path | str, *, baseline: str | None = None, base_options: Sequence[str] = ()) -> Comparison:
    """Read and check a YAML file whose keys are the fields of `ComparisonSettings`.

    Args:
        path: The file.
        baseline: Takes the place of the one in the file.
        base_options: Options of `chns train`, such as ``--data.train``, that go before what ``base`` says in the file.

    Raises:
        FileNotFoundError: If there is no such file.
        ConfigError: If a key is unknown, or a value is wrong or contradicts another.
    """
    path = config_path(path)
    parser = SettingsParser(exit_on_error=False)
    parser.add_class_arguments(ComparisonSettings)
    try:
        settings = parser.instantiate(parser.parse_string(bounded_text(path)))
    except (ArgumentError, TypeError) as error:
        raise ConfigError(
            f"comparison must hold the settings of a comparison, got others in {path} ({in_short(error)})"
        ) from error
    fields = {name: settings[name] for name in ComparisonSettings.__dataclass_fields__}
    if baseline is not None:
        fields["baseline"] = baseline
    if base_options:
        fields["base"] = _with_options(fields["base"], base_options)
    return checked(ComparisonSettings(**fields))


def _with_options(base: TrainSettings, options: Sequence[str]) -> TrainSettings:
    parser = SettingsParser(prog="chns compare")
    add_settings(parser)
    return settings_of(parser, parser.parse_args(["--config", json.dumps(asdict(base)), *options]))


def checked(settings: ComparisonSettings) -> Comparison:
    """Build every strategy's settings.

    Raises:
        ConfigError: If a strategy has an unknown key or a wrong value, a name cannot be a folder's, the baseline is
            none of the strategies, there is no trial list, seeds are missing, repeated or also set elsewhere, or a
            run is to have several devices.
    """
    differences = settings.strategies or paper_strategies(settings.base)
    for kind, names in (("strategy", differences), ("trial list", settings.trial_lists)):
        for name in names:
            if not _FOLDER_NAME.fullmatch(name):
                raise ConfigError(
                    f"name of a {kind} must be letters, digits and . _ + - only, got {quoted(name)}. It "
                    "becomes a file's."
                )
    if not settings.trial_lists:
        raise ConfigError("trial_lists must name at least one trial list, got none. Make one with `chns trials`.")
    if not settings.seeds or len(set(settings.seeds)) < len(settings.seeds) or min(settings.seeds) < 0:
        raise ConfigError(f"seeds must be different numbers from 0 on, at least one, got {settings.seeds}.")
    baseline = next(iter(differences)) if settings.baseline is None else settings.baseline
    if baseline not in differences:
        raise ConfigError(f"baseline must be one of the strategies {', '.join(differences)}, got {baseline!r}.")
    parser = SettingsParser(exit_on_error=False)
    parser.add_class_arguments(TrainSettings)
    return Comparison(
        strategies={name: _strategy(parser, name, settings.base, changes) for name, changes in differences.items()},
        seeds=tuple(settings.seeds),
        trial_lists=settings.trial_lists,
        baseline=baseline,
    )


def paper_strategies(base: TrainSettings) -> dict[str, dict[str, Any]]:
    """The five strategies of the CHNS paper, by the names of the shipped configurations.

    AAM-softmax takes one utterance of each speaker, and as many more speakers, so that all see equally many segments.
    """
    speakers, utterances = base.batches.speakers_per_batch, base.batches.utterances_per_speaker
    num_segments = None if speakers is None else speakers * utterances
    supcon = {"factory": "chns.losses.SupConLoss"}
    hscl = {"factory": "chns.losses.HSCLLoss"}
    return {
        "aam_softmax": {
            "batches": {"kind": "random", "speakers_per_batch": num_segments, "utterances_per_speaker": 1},
            "loss": {"factory": "chns.losses.AAMSoftmaxLoss", "settings": {"margin": 0.2, "scale": 30.0}},
        },
        "supcon": {"batches": {"kind": "random"}, "loss": supcon},
        "hscl": {"batches": {"kind": "random"}, "loss": hscl},
        "chns": {"batches": {"kind": "clustered"}, "loss": supcon},
        "chns_hscl": {"batches": {"kind": "clustered"}, "loss": hscl},
    }


def _strategy(parser: SettingsParser, name: str, base: TrainSettings, changes: Mapping[str, Any]) -> TrainSettings:
    own = {key: _as_a_whole(value) for key, value in changes.items()}
    try:
        settings = settings_of(parser, parser.parse_object(own, parser.parse_object(asdict(base))))
    except (ArgumentError, TypeError) as error:
        raise ConfigError(
            f"strategy {name} must hold settings of `chns train`, got others ({in_short(error)})"
        ) from error
    if settings.seed != TrainSettings().seed:
        raise ConfigError(
            f"seed of {name} must be left to `seeds`, got {settings.seed}. Every strategy gets each seed."
        )
    if {settings.train.devices, settings.train.num_nodes} - {None, 1}:
        raise ConfigError(
            f"train.devices and train.num_nodes of {name} must be 1 in a comparison, got {settings.train.devices} and "
            f"{settings.train.num_nodes}. Run several trainings beside each other with --jobs instead."
        )
    return settings


def _as_a_whole(section: Any) -> Any:
    """Another encoder or loss does not inherit the settings of the one that it replaces."""
    return {"settings": {}, **section} if isinstance(section, Mapping) and "factory" in section else section


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
        plan = make_plan(settings, manifest, model.encoder)
    except ValueError as error:
        raise ConfigError(f"strategy {run.strategy} must be trainable, got an error: {error}") from error
    batches = fitted(settings, manifest)[0].batches
    return Length(
        segments_per_step=batches.wanted_speakers * batches.utterances_per_speaker,
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


# `chns train`, which is asked to stop when the process that started it ends, however it ends: by its parent-death
# signal, which this program sets before anything else. A parent that has ended by then is seen by its number.
_PR_SET_PDEATHSIG = 1
_TRAIN = f"""
import ctypes, os, signal, sys
parent = int(os.environ.pop("CHNS_COMPARE_PID"))
if ctypes.CDLL(None).prctl({_PR_SET_PDEATHSIG}, signal.SIGTERM) or os.getppid() != parent:
    raise SystemExit("chns: error: the comparison that started this training must go on, got none.")
from chns.cli import main
raise SystemExit(main(["train", *sys.argv[1:]]))
"""
_COMMAND = (sys.executable, "-P", "-c", _TRAIN)  # without the current folder, where a stranger's `numpy.py` may lie
_POLL_SECONDS = 0.2


def train_runs(runs: Sequence[PlannedRun], *, jobs: int = 1) -> Generator[PlannedRun]:
    """Train what is not trained yet, going on with what was begun; yield each run when it is finished.

    Closing the iterator, or an error, asks the processes that are training to stop after their step and waits for them.

    Args:
        runs: What to train, in this order.
        jobs: How many train at the same time. With more than one, what each says is also in ``train.log`` in its
            folder.

    Raises:
        ConfigError: If jobs is below 1.
        KeyboardInterrupt: After Ctrl-C or SIGTERM, once all checkpoints are written.
        RunFolderError: If a run in its own process failed. In this process, whatever `chns.training.run.train` raises.
    """
    if jobs < 1:
        raise ConfigError(f"jobs must be at least 1, got {jobs}.")
    numbered = {run: f"run {number} of {len(runs)}: {run}" for number, run in enumerate(runs, start=1)}
    if jobs > 1:
        yield from _beside_each_other(numbered, jobs)
        return
    for run, title in numbered.items():
        _log.info("%s: %s", title, "already trained" if run.is_finished else "training")
        if not run.is_finished:
            train(run.settings, run.folder)
        yield run


def _beside_each_other(numbered: dict[PlannedRun, str], jobs: int) -> Generator[PlannedRun]:
    waiting = []
    for run, title in numbered.items():
        if run.is_finished:
            _log.info("%s: already trained", title)
            yield run
        else:
            waiting.append(run)
    with _processes() as training, ExitStack() as logs:
        news: dict[PlannedRun, Generator[None]] = {}
        while waiting or training:
            trained = [process for process in training if process.poll() is not None]
            for run in training.values():
                next(news[run])
            done = [_finished(training.pop(process), process.returncode) for process in trained]
            while waiting and len(training) < jobs:
                run = waiting.pop(0)
                run.folder.mkdir(parents=True, exist_ok=True)
                news[run] = logs.enter_context(closing(_news(run)))
                next(news[run])
                training[_start(run, jobs)] = run
                _log.info("%s: training, see %s", numbered[run], _log_path(run))
            for run in done:
                _log.info("%s: trained", numbered[run])
                yield run  # the others go on meanwhile
            time.sleep(_POLL_SECONDS)


def _finished(run: PlannedRun, code: int) -> PlannedRun:
    if code:
        raise RunFolderError(
            f"training of {run} must come to its end, got exit code {code} ({_last_line(_log_path(run))}) in "
            f"{_log_path(run)}. The same command goes on."
        )
    return run


@contextmanager
def _processes() -> Iterator[dict[subprocess.Popen[bytes], PlannedRun]]:
    """Running trainings. Those that are left when the block ends stop after their step; all are waited for.

    They have sessions of their own, so that Ctrl-C reaches them once, through here: a second signal would stop them in
    mid-step.
    """
    training: dict[subprocess.Popen[bytes], PlannedRun] = {}
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield training
    finally:
        for process in training:
            process.terminate()
        for process in training:
            process.wait()
        signal.signal(signal.SIGTERM, before)


def _start(run: PlannedRun, jobs: int) -> subprocess.Popen[bytes]:
    threads = str(max(1, available_cores() // jobs))
    words = ("--config", json.dumps(asdict(run.settings)), "--out", str(run.folder))
    with _log_path(run).open("ab") as output:
        return subprocess.Popen(  # noqa: S603 - our own command, without a shell
            (*_COMMAND, *words),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": threads, "CHNS_COMPARE_PID": str(os.getpid())},
            start_new_session=True,
        )


def _news(run: PlannedRun) -> Generator[None]:
    """Pass on, each time that it is asked, what a training in its own process has said since."""
    with _log_path(run).open("a+", encoding="utf-8", errors="replace") as log:  # from its end on
        begun = ""
        while True:
            *lines, begun = (begun + log.read()).split("\n")
            for line in filter(None, lines):
                _log.info("%s: %s", run, line)
            yield


def _log_path(run: PlannedRun) -> Path:
    return run.folder / "train.log"


def _last_line(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"
