"""What a training left in its folder, for those that come after: comparison, verdict and report.

Nothing here trains or builds a network.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from chns.errors import RunFolderError
from chns.sampling.clusters import SpeakerClusters
from chns.training.log import COLUMNS
from chns.training.settings import TrainSettings

FloatArray = npt.NDArray[np.float64]

_MOST_DECISION_BYTES = 1_000_000

# Settings that may differ when a run goes on, because they do not change what it computes.
FREE_SETTINGS = frozenset(
    {
        "data.num_workers",
        "train.device",
        "train.devices",
        "train.num_nodes",
        "train.strategy",
        "train.log_every_steps",
        "train.checkpoint_every_steps",
    }
)


@dataclass(frozen=True, eq=False)
class RunFolder:
    """A training run's folder.

    Attributes:
        path: The folder that `chns train` was given as ``--out``.
        settings: Content of its ``config.yaml``.
    """

    path: Path
    settings: Mapping[str, Any]

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
            settings = yaml.safe_load(config.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
            raise RunFolderError(f"config.yaml must be YAML, got something else in {config} ({error}).") from error
        if not isinstance(settings, dict):
            raise RunFolderError(f"config.yaml must hold settings, got {type(settings).__name__} in {config}.")
        return cls(path, settings)

    def differences(self, wanted: TrainSettings) -> dict[str, tuple[Any, Any]]:
        """Settings in which a run with other settings would compute something else, as begun and as wanted, by name.

        A setting that did not exist yet when the run was begun counts as having had its default.
        """
        begun = {**dict(_flat(asdict(TrainSettings()))), **dict(_flat(self.settings))}
        now = dict(_flat(asdict(wanted)))
        names = sorted({*begun, *now} - FREE_SETTINGS)
        return {name: (begun.get(name), now.get(name)) for name in names if begun.get(name) != now.get(name)}

    @property
    def is_finished(self) -> bool:
        """Whether the training came to its end."""
        return (self.path / "summary.json").is_file()

    @property
    def model(self) -> Path:
        """The bundle of the last epoch."""
        return self.path / "model"

    def log(self) -> dict[str, FloatArray]:
        """The columns of ``log.csv``, each of shape (rows,); NaN where a value was not measured at that step.

        Raises:
            FileNotFoundError: If there is no log.
            RunFolderError: If a value is not a number.
        """
        path = self.path / "log.csv"
        if not path.is_file():
            raise FileNotFoundError(f"run must have a log.csv, got none in {self.path}. Has it begun to train?")
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        try:
            return {name: np.array([float(row.get(name) or math.nan) for row in rows]) for name in COLUMNS}
        except ValueError as error:
            raise RunFolderError(f"log.csv must hold numbers, got another value in {path} ({error}).") from error

    def clusters(self) -> SpeakerClusters | None:
        """The clusters it used last; None if it never clustered."""
        paths = sorted((self.path / "clusters").glob("epoch-*.safetensors"))
        return SpeakerClusters.load(paths[-1]) if paths else None

    def decisions(self) -> list[str]:
        """What it decided about its batches while it trained, in words; of a very long list the beginning."""
        path = self.path / "decisions.txt"
        if not path.is_file():
            return []
        with path.open("rb") as file:
            text = file.read(_MOST_DECISION_BYTES).decode("utf-8", errors="replace")
        return [line for line in text.splitlines() if line.strip()]

    def summary(self) -> dict[str, Any]:
        """Content of ``summary.json``; empty while the training is not finished.

        Raises:
            RunFolderError: If it is damaged.
        """
        if not self.is_finished:
            return {}
        path = self.path / "summary.json"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise RunFolderError(f"summary.json must be JSON, got something else in {path} ({error}).") from error
        if not isinstance(content, dict):
            raise RunFolderError(f"summary.json must hold an object, got {type(content).__name__} in {path}.")
        return content

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


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
