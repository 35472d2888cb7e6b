"""What a training left in its folder, for those that come after: comparison, verdict and report.

Nothing here trains or builds a network.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
from array import array
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jsonargparse import ArgumentError

from chns.core import (
    ConfigError,
    Float64Array,
    RunFolderError,
    bounded_text,
    in_short,
    moved_along,
    number,
    quoted,
    read_yaml,
)
from chns.sampling import SpeakerClusters
from chns.training.log import COLUMNS
from chns.training.parsing import SettingsParser
from chns.training.settings import BatchSettings, ClusterSettings, ObjectSettings, TrainSettings

__all__ = [
    "BatchSettings",
    "ClusterSettings",
    "RunFolder",
    "TrainSettings",
    "config_text",
    "first_hard_epoch",
    "longer",
    "read_settings",
    "strategy_name",
]


_MOST_DECISION_BYTES = 1_000_000
_MOST_LOG_LINES = 1_000_000
_FIRST_LINE = "# "

# Settings that may differ when a run goes on, because they do not change what it computes.
FREE_SETTINGS = frozenset(
    {
        "data.num_workers",
        "train.device",
        "train.devices",
        "train.num_nodes",
        "train.strategy",
        "train.timeout_minutes",
        "train.log_every_steps",
        "train.checkpoint_every_steps",
    }
)
_LOGGER = "train.logger"  # and all below it are free too

# Settings that name a file or folder, which may be written in more than one way.
_PATHS = (
    "data.train",
    "data.root",
    "data.validation",
    "clusters.model",
    "train.start_from",
    "train.teacher",
    *(f"augmentation.{kind}.folder" for kind in ("reverberation", "noise", "music", "babble")),
)

_LOSS_NAMES = {
    "chns.losses.SupConLoss": "SupCon",
    "chns.losses.HSCLLoss": "H-SCL",
    "chns.losses.AAMSoftmaxLoss": "AAM-softmax",
}


@dataclass(frozen=True, eq=False)
class RunFolder:
    """A training run's folder.

    Attributes:
        path: The folder that `chns train` was given as ``--out``.
        settings: Content of its ``config.yaml``. Paths that are gone lead to what was moved along with the folder.
        data: SHA-256 of the training manifest's file; None if it is not known.
    """

    path: Path
    settings: Mapping[str, Any]
    data: str | None = None

    @classmethod
    def open(cls, path: Path | str) -> RunFolder:
        """Look at a run, finished or not.

        Raises:
            FileNotFoundError: If there is no ``config.yaml``.
            RunFolderError: If it is damaged.
        """
        path = Path(path)
        config = path / "config.yaml"
        if not config.is_file():
            raise FileNotFoundError(f"run must be the folder of a training, with config.yaml, got {path}.")
        try:
            settings = read_yaml(config)
        except ConfigError as error:
            raise RunFolderError(f"config.yaml must be YAML, got something else in {config} ({error}).") from error
        if not isinstance(settings, dict):
            raise RunFolderError(f"config.yaml must hold settings, got {type(settings).__name__} in {config}.")
        noted = _first_line(config)
        before, now = noted.get("folder"), path.resolve()
        if before is not None and before != str(now):
            settings = _with_paths(settings, lambda one: moved_along(one, Path(before), now))
        return cls(path, settings, noted.get("data"))

    def differences(self, wanted: TrainSettings) -> dict[str, tuple[Any, Any]]:
        """Settings in which a run with other settings would compute something else, as begun and as wanted, by name.

        A setting that did not exist yet when the run was begun counts as having had its default. One that was left
        open then, and is again, is no difference. Neither is a path that is gone and named anew, if it is not the
        training manifest, or that is the same file.
        """
        begun = _compared({**dict(flat_settings(asdict(TrainSettings()))), **dict(flat_settings(self.settings))})
        now = _compared(dict(flat_settings(asdict(wanted))))
        names = sorted({*begun, *now} - FREE_SETTINGS)
        still_open = {name for name in self._derived() if now.get(name) is None}
        return {
            name: (begun.get(name), now.get(name))
            for name in names
            if begun.get(name) != now.get(name)
            and name not in still_open
            and not self._is_named_anew(name, begun.get(name), now.get(name))
        }

    def _is_named_anew(self, name: str, before: Any, now: Any) -> bool:
        """Whether something was moved since."""
        if not (_is_path(name, now) and name in _PATHS and isinstance(before, str) and os.path.isabs(before)):  # noqa: PTH117
            return False
        if Path(before).exists():
            return False
        return name != "data.train" or _digest(Path(now)) == self.data

    def _derived(self) -> list[str]:
        """Settings that were left open when the run was begun, and that ``config.yaml`` has as they were derived."""
        path = self.path / "derived.json"
        try:
            return list(json.loads(bounded_text(path))) if path.is_file() else []
        except (ValueError, TypeError, RecursionError) as error:
            raise RunFolderError(f"derived.json must be JSON, got something else in {path} ({error}).") from error

    @property
    def is_begun(self) -> bool:
        """Whether there is anything to go on with. Until then settings may change."""
        return (self.path / "training.pt").is_file() or self.is_finished

    @property
    def is_finished(self) -> bool:
        """Whether the training came to its end."""
        return (self.path / "summary.json").is_file()

    @property
    def model(self) -> Path:
        """The bundle of the last epoch."""
        return self.path / "model"

    def log(self) -> dict[str, Float64Array]:
        """The columns of ``log.csv``, each of shape (rows,); NaN where a value was not measured at that step.

        Raises:
            FileNotFoundError: If there is no log.
            RunFolderError: If a value is not a number, a line has no step and epoch, or the file is huge.
        """
        path = self.path / "log.csv"
        if not path.is_file():
            raise FileNotFoundError(f"run must have a log.csv, got none in {self.path}. Has it begun to train?")
        columns = {name: array("d") for name in COLUMNS}
        try:
            with path.open(newline="", encoding="utf-8") as file:
                for line, row in enumerate(csv.DictReader(file)):
                    if line == _MOST_LOG_LINES:
                        raise ValueError(f"at most {_MOST_LOG_LINES:,} lines")
                    for name, values in columns.items():
                        values.append(number(row.get(name) or "nan"))
        except (ValueError, csv.Error) as error:
            raise RunFolderError(
                f"log.csv must hold numbers, got another value in {path} ({in_short(error)})."
            ) from error
        log = {name: np.array(values) for name, values in columns.items()}
        whole = len(log["step"])
        if whole and np.isnan(log["epoch"][-1]):  # the last line of a killed run may end anywhere
            whole -= 1
            for name in set(log) - {"step"}:
                log[name][whole] = np.nan
        for what, told in (("a step", log["step"]), ("an epoch", log["epoch"][:whole])):
            bad = told[~((told >= 0) & (told < 2**53))]
            if len(bad):
                raise RunFolderError(f"log.csv must tell step and epoch of each line, got {bad[0]}, {what}, in {path}.")
        return log

    def clusters(self) -> SpeakerClusters | None:
        """The clusters it used last; None if it never clustered."""
        paths = sorted((self.path / "clusters").glob("epoch-*.safetensors"))
        return SpeakerClusters.load(paths[-1]) if paths else None

    def num_same_person(self) -> int | None:
        """Pairs of training speakers who may be one person, found when groups were first made; None if nobody looked.

        Raises:
            RunFolderError: If the file is damaged.
        """
        path = self.path / "same_person.json"
        if not path.is_file():
            return None
        try:
            pairs = json.loads(bounded_text(path))["pairs"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise RunFolderError(
                f"same_person.json must hold a number of pairs, got something else in {path}."
            ) from error
        if type(pairs) is not int or pairs < 0:
            raise RunFolderError(f"same_person.json must hold a number of pairs, got {quoted(pairs)} in {path}.")
        return pairs

    def decisions(self) -> list[str]:
        """What it decided about its batches while it trained, in words; of a very long list the beginning."""
        path = self.path / "decisions.txt"
        if not path.is_file():
            return []
        with path.open("rb") as file:
            text = file.read(_MOST_DECISION_BYTES).decode("utf-8", errors="replace")
        return [line for line in text.splitlines() if line.strip()]

    def hard_batches(self) -> str | None:
        """What hard batches did, in a sentence; None for a run with random batches throughout, or without a log."""
        kind = self.settings.get("batches", {}).get("kind", "random")
        if kind == "random" or not (self.path / "log.csv").is_file():
            return None
        log = self.log()
        ratio = log["hard_ratio"]
        is_hard = ratio > 0
        if not is_hard.any():
            return "hard batches: none" + "".join(f"; {line}" for line in self.decisions()[-1:])
        first = int(log["epoch"][is_hard][0])
        words = [f"hard batches: from epoch {first} on, hard ratio {ratio[is_hard][-1]:g} at the end"]
        for name, title in (("easy_anchor_share", "share of easy anchors"), ("negative_similarity_mean", "negatives")):
            before = log[name][ratio == 0]
            if len(before):
                words.append(f"{title} {before[-1]:.2f} before, {np.nanmean(log[name][is_hard]):.2f} in them")
        return "; ".join(words)

    def summary(self) -> dict[str, Any]:
        """Content of ``summary.json``; empty while the training is not finished.

        Raises:
            RunFolderError: If it is damaged.
        """
        if not self.is_finished:
            return {}
        path = self.path / "summary.json"
        try:
            content = json.loads(bounded_text(path))
        except (ValueError, RecursionError) as error:
            raise RunFolderError(f"summary.json must be JSON, got something else in {path} ({error}).") from error
        if not isinstance(content, dict):
            raise RunFolderError(f"summary.json must hold an object, got {type(content).__name__} in {path}.")
        models = {name: str(self.path / name) for name in ("model", "best_model") if name in content}
        return {**content, **models}  # wherever the folder was moved to

    def steps_done(self) -> int:
        """The last step in the log, 0 before its first line. A run goes on from its checkpoint, which may be older."""
        path = self.path / "log.csv"
        if not path.is_file():
            return 0
        steps = self.log()["step"]
        return int(np.nanmax(steps, initial=0))

    def scores(self) -> dict[str, Path]:
        """Score files of this run's model by the name of the trial list, from the folder ``scores``."""
        return {path.stem: path for path in sorted((self.path / "scores").glob("*.txt"))}


def longer(changed: Mapping[str, tuple[Any, Any]]) -> bool:
    """Whether settings differ in nothing but a larger ``train.epochs``, with which a run goes on."""
    before, now = changed.get("train.epochs", (0, 0))
    return set(changed) == {"train.epochs"} and isinstance(before, int) and now > before


def config_text(settings: TrainSettings, folder: Path) -> str:
    """Content of ``config.yaml``: paths are whole, so that they mean the same wherever the next command is given.

    Its first line tells where the run lay and what it trained on, for when the folder or its data are moved.

    Args:
        settings: Complete.
        folder: Of the run.
    """
    first = json.dumps({"folder": str(folder.resolve()), "data": _digest(Path(settings.data.train))})
    return f"{_FIRST_LINE}{first}\n{yaml.safe_dump(_with_paths(asdict(settings), _whole), sort_keys=False)}"


def _first_line(config: Path) -> dict[str, str]:
    """What `config_text` noted in the first line; nothing if somebody has changed it."""
    line = bounded_text(config).partition("\n")[0]
    with suppress(ValueError, RecursionError):
        noted = json.loads(line.removeprefix(_FIRST_LINE)) if line.startswith(_FIRST_LINE) else {}
        if isinstance(noted, dict):
            return {name: value for name, value in noted.items() if isinstance(value, str)}
    return {}


def _with_paths(settings: Mapping[str, Any], changed: Callable[[str], str], prefix: str = "") -> dict[str, Any]:
    """Settings with their paths changed."""
    result: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            result[name] = _with_paths(value, changed, f"{prefix}{name}.")
        else:
            is_path = f"{prefix}{name}" in _PATHS and isinstance(value, str) and value != ""
            result[name] = changed(value) if is_path else value
    return result


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _whole(path: str) -> str:
    return os.path.abspath(path) if Path(path).exists() else path  # noqa: PTH100 - keeps links


def _is_path(name: str, value: Any) -> bool:
    """Whether it names something on this machine; a model to start from may be one on the Hub."""
    return name in _PATHS and isinstance(value, str) and value != "" and Path(value).exists()


def _compared(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Settings in a form in which equal ones are equal: links followed, the logger left out."""
    return {
        name: os.path.realpath(value) if _is_path(name, value) else value
        for name, value in flat.items()
        if name != _LOGGER and not name.startswith(f"{_LOGGER}.")
    }


def flat_settings(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Settings by their whole names, such as ``clusters.hard_ratio``."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from flat_settings(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def read_settings(run: RunFolder) -> TrainSettings:
    """The settings of a run; one that its ``config.yaml`` lacks has its default.

    Raises:
        RunFolderError: If a setting is unknown or of the wrong type.
    """
    defaults = TrainSettings()
    for name, value in run.settings.items():  # jsonargparse would read a section that is text as the name of a file
        if is_dataclass(getattr(defaults, name, None)) and not isinstance(value, Mapping):
            raise RunFolderError(
                f"config.yaml must hold the settings of a training, got {quoted(value)} for the section {name} in "
                f"{run.path / 'config.yaml'} (sections are mappings)."
            )
    parser = SettingsParser(exit_on_error=False)
    parser.add_class_arguments(TrainSettings)
    try:
        settings = parser.instantiate(parser.parse_object(dict(run.settings)))
        return TrainSettings(**{name: settings[name] for name in TrainSettings.__dataclass_fields__})
    except (ArgumentError, TypeError) as error:
        raise RunFolderError(
            f"config.yaml must hold the settings of a training, got others in {run.path / 'config.yaml'} "
            f"({in_short(error)})."
        ) from error


def first_hard_epoch(clusters: ClusterSettings) -> int:
    """``clusters.start_epoch``, or what it is by default: the groups of another model need no warm-up."""
    if clusters.start_epoch is not None:
        return clusters.start_epoch
    return 2 if clusters.model is None else 0


def strategy_name(settings: TrainSettings) -> str:
    """Loss and batches in words, e.g. ``SupCon, clustered batches, hard ratio 1.0``."""
    loss, clusters = _loss_name(settings.loss), settings.clusters
    match settings.batches.kind:
        case "random":
            own = settings.batches.factory
            words = ["random batches"] if own is None else [f"batches of {own.rpartition('.')[2]}"]
        case "clustered":
            words = ["clustered batches", f"hard ratio {clusters.hard_ratio}", *_of_clusters(clusters)]
            words += _of_hard_phase(clusters, anew="clustered anew")
        case "neighbours":
            words = ["batches of neighbours", f"hard ratio {clusters.hard_ratio}", *_of_groups(clusters)]
            words += _of_hard_phase(clusters, anew="neighbours anew")
        case "auto":
            words = ["auto batches", *_of_groups(clusters), *_of_model(clusters)]
    return ", ".join([loss, *words])


def _loss_name(loss: ObjectSettings) -> str:
    name = _LOSS_NAMES.get(loss.factory, loss.factory.rpartition(".")[2])
    start = loss.settings.get("beta_start")
    return name if start is None else f"{name} with beta from {start}"


def _of_clusters(clusters: ClusterSettings) -> list[str]:
    return [] if clusters.pooling == "random" else [f"{clusters.pooling} pooling"]


def _of_groups(clusters: ClusterSettings) -> list[str]:
    """Size of the groups and their band, if they are not the usual ones."""
    size, first, last = clusters.group_size, clusters.first_neighbour, clusters.last_neighbour
    usual = ClusterSettings()
    if (size, first, last) == (usual.group_size, usual.first_neighbour, usual.last_neighbour):
        return []
    return [f"groups of {size} from the nearest {first + 1} to {last}"]


def _of_model(clusters: ClusterSettings) -> list[str]:
    return [] if clusters.model is None else ["groups of another model"]


def _of_hard_phase(clusters: ClusterSettings, *, anew: str) -> list[str]:
    words = _of_model(clusters)
    words += ["from when batches are easy"] if clusters.start == "easy" else []
    if clusters.refresh_every:
        words.append(f"{anew} every {clusters.refresh_every} epochs")
    if clusters.separate_same_person:
        words.append("suspected doubles kept apart")
    return words
