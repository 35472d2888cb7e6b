"""Which strategies differ in nothing but their batches, so that a difference between them is the batches' doing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from chns.training.folder import TrainSettings

_BATCHES_THEMSELVES = ("batches.kind", "clusters.", "seed")


@dataclass(frozen=True)
class Twin:
    """The strategy with random batches that one with hard batches is judged against.

    Attributes:
        name: Its name.
        other_differences: Settings in which both differ besides how batches are composed; best none.
    """

    name: str
    other_differences: tuple[str, ...] = ()


def find_twins(strategies: Mapping[str, TrainSettings]) -> dict[str, Twin]:
    """The twin of each strategy with hard batches, if it has one.

    A twin has random batches and the same loss with the same settings. Of several, the one with the fewest other
    differences, of these the first.
    """
    twins = {}
    for name, settings in strategies.items():
        if settings.batches.kind == "random":
            continue
        candidates = [
            Twin(other, _differences(settings, candidate))
            for other, candidate in strategies.items()
            if candidate.batches.kind == "random" and candidate.loss == settings.loss
        ]
        if candidates:
            twins[name] = min(candidates, key=lambda twin: len(twin.other_differences))
    return twins


def _differences(first: TrainSettings, second: TrainSettings) -> tuple[str, ...]:
    one, other = dict(_flat(asdict(first))), dict(_flat(asdict(second)))
    names = sorted(name for name in {*one, *other} if one.get(name) != other.get(name))
    return tuple(name for name in names if not name.startswith(_BATCHES_THEMSELVES))


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
