"""When the hard phase starts, how hard it is, and when clusters are made anew."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class HardPhaseSchedule:
    """Epochs before ``start_epoch`` use random batches, the others clustered ones.

    Args:
        start_epoch: First epoch of the hard phase. Epochs count from 0; the encoder needs some training before its
            centroids mean anything.
        hard_ratio: Share of hard speakers once the ramp is over.
        ramp_epochs: The share grows linearly over this many epochs; 0 starts at the full share.
        refresh_every: Cluster again after this many epochs; 0 keeps the first clusters.

    Raises:
        ValueError: If a number is negative or the ratio is not between 0 and 1.
    """

    start_epoch: int = 2
    hard_ratio: float = 1.0
    ramp_epochs: int = 0
    refresh_every: int = 0

    def __post_init__(self) -> None:
        for name in ("start_epoch", "ramp_epochs", "refresh_every"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more epochs, got {getattr(self, name)}.")
        if not 0.0 <= self.hard_ratio <= 1.0:
            raise ValueError(f"hard_ratio must be between 0 and 1, got {self.hard_ratio}.")

    def is_hard(self, epoch: int) -> bool:
        """Whether batches of this epoch are clustered."""
        return epoch >= self.start_epoch

    def clusters_due(self, epoch: int) -> bool:
        """Whether speakers are clustered, for the first time or again, before this epoch."""
        since = epoch - self.start_epoch
        return since == 0 or (self.refresh_every > 0 and since > 0 and since % self.refresh_every == 0)

    def hard_ratio_at(self, epoch: int) -> float:
        """The hard ratio in this epoch: 0 before the hard phase, the full one after the ramp."""
        if not self.is_hard(epoch):
            return 0.0
        return self.hard_ratio * min(1.0, (epoch - self.start_epoch + 1) / (self.ramp_epochs + 1))
