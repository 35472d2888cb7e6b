"""What is compared: strategies, seeds and trial lists, as one YAML file states them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError

from chns.comparison.runs import Comparison, TrialListSettings
from chns.core.errors import ConfigError, in_short
from chns.core.files import bounded_text
from chns.training.settings import SettingsParser, TrainSettings

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


def read_comparison(path: Path | str, *, baseline: str | None = None) -> Comparison:
    """Read and check a YAML file whose keys are the fields of `ComparisonSettings`.

    Args:
        path: The file.
        baseline: Takes the place of the one in the file.

    Raises:
        FileNotFoundError: If there is no such file.
        ConfigError: If a key is unknown, or a value is wrong or contradicts another.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"comparison must be a YAML file, got {path}. configs/compare.yaml is an example.")
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
    return checked(ComparisonSettings(**fields))


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
                    f"name of a {kind} must be letters, digits and . _ + - only, got {name!r}. It becomes a file's."
                )
    if not settings.trial_lists:
        raise ConfigError("trial_lists must name at least one trial list, got none. Make one with `chns trials`.")
    if not settings.seeds or len(set(settings.seeds)) < len(settings.seeds) or min(settings.seeds) < 0:
        raise ConfigError(f"seeds must be different numbers from 0 on, at least one, got {settings.seeds}.")
    baseline = next(iter(differences)) if settings.baseline is None else settings.baseline
    if baseline not in differences:
        raise ConfigError(f"baseline must be one of the strategies {', '.join(differences)}, got {baseline!r}.")
    return Comparison(
        strategies={name: _strategy(name, settings.base, changes) for name, changes in differences.items()},
        seeds=tuple(settings.seeds),
        trial_lists=settings.trial_lists,
        baseline=baseline,
    )


def paper_strategies(base: TrainSettings) -> dict[str, dict[str, Any]]:
    """The five strategies of the CHNS paper, by the names of the shipped configurations.

    AAM-softmax takes one utterance of each speaker, and as many more speakers, so that all see equally many segments.
    """
    num_segments = base.batches.speakers_per_batch * base.batches.utterances_per_speaker
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


def _strategy(name: str, base: TrainSettings, changes: Mapping[str, Any]) -> TrainSettings:
    parser = SettingsParser(exit_on_error=False)
    parser.add_class_arguments(TrainSettings)
    own = {key: _as_a_whole(value) for key, value in changes.items()}
    try:
        merged = parser.instantiate(parser.parse_object(own, parser.parse_object(asdict(base))))
    except (ArgumentError, TypeError) as error:
        raise ConfigError(
            f"strategy {name} must hold settings of `chns train`, got others ({in_short(error)})"
        ) from error
    settings = TrainSettings(**{key: merged[key] for key in TrainSettings.__dataclass_fields__})
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
