"""When the hard phase starts and how hard it is, by a plan made beforehand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol


class EpochSignals(NamedTuple):
    """What was observed in an epoch.

    Attributes:
        easy_anchor_share: Share of the utterances in a batch whose own speaker's other utterances were all more similar
            than any other speaker's; the mean over the epoch's batches.
        validation_eer: EER on held-out speakers after the epoch, a fraction; None if it was not measured.
    """

    easy_anchor_share: float
    validation_eer: float | None


class HardPhase(Protocol):
    """Decides the hard ratio of every epoch."""

    def hard_ratio_at(self, epoch: int) -> float:
        """The hard ratio in an epoch that begins now; 0 for random batches."""

    def end_epoch(self, epoch: int, signals: EpochSignals) -> list[str]:
        """Take note of an epoch.

        Returns:
            What was decided because of it, in words.
        """

    def state_dict(self) -> dict[str, Any]:
        """What decisions so far depend on."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""


@dataclass(frozen=True, kw_only=True)
class HardPhaseSchedule:
    """Epochs before ``start_epoch`` use random batches, the others hard ones.

    Args:
        start_epoch: First epoch of the hard phase. Epochs count from 0; the encoder needs some training before its
            centroids mean anything.
        hard_ratio: Share of hard speakers once the ramp is over.
        ramp_epochs: The share grows linearly over this many epochs; 0 starts at the full share.

    Raises:
        ValueError: If a number is negative or the ratio is not between 0 and 1.
    """

    start_epoch: int = 2
    hard_ratio: float = 1.0
    ramp_epochs: int = 0

    def __post_init__(self) -> None:
        for name in ("start_epoch", "ramp_epochs"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more epochs, got {getattr(self, name)}.")
        if not 0.0 <= self.hard_ratio <= 1.0:
            raise ValueError(f"hard_ratio must be between 0 and 1, got {self.hard_ratio}.")

    def hard_ratio_at(self, epoch: int) -> float:
        """The hard ratio in this epoch: 0 before the hard phase, the full one after the ramp."""
        if epoch < self.start_epoch:
            return 0.0
        return self.hard_ratio * min(1.0, (epoch - self.start_epoch + 1) / (self.ramp_epochs + 1))

    def end_epoch(self, epoch: int, signals: EpochSignals) -> list[str]:  # noqa: ARG002
        """Nothing that is observed changes the plan."""
        return []

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the plan is in the settings."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to load."""
