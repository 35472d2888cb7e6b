"""When the hard phase starts, how hard it is and when groups are renewed: by a plan, or by what is observed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, NamedTuple, Protocol

_PATIENCE = 3  # validations in a row that must be worse: a hard phase that begins may well cost one or two


class EpochSignals(NamedTuple):
    """What was observed in an epoch.

    Attributes:
        easy_anchor_share: Share of the utterances in a batch whose own speaker's other utterances were all more similar
            than any other speaker's; the mean over the epoch's batches.
        validation_eer: EER on held-out speakers after the epoch, a fraction; None if it was not measured.
    """

    easy_anchor_share: float
    validation_eer: float | None


class Schedule(Protocol):
    """Decides the hard ratio of every epoch, and when groups are renewed."""

    @property
    def regroup_every(self) -> int:
        """Epochs after which groups are made anew; 0 for never."""

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


@dataclass(frozen=True)
class StartAt:
    """Epochs before ``epoch`` use random batches, the others hard ones.

    Args:
        epoch: First epoch of the hard phase. Epochs count from 0; an encoder needs some training before its centroids
            mean anything. 0 if they are those of another encoder, which is trained.
        hard_ratio: Share of hard speakers once the ramp is over.
        ramp_epochs: The share grows linearly over this many epochs; 0 starts at the full share.
        regroup_every: Groups are made anew after this many epochs; 0 keeps the first ones.

    Raises:
        ValueError: If a number is negative or the ratio is not between 0 and 1.

    Examples:
        >>> from chns import StartAt
        >>> schedule = StartAt(epoch=2, ramp_epochs=1)
        >>> [schedule.hard_ratio_at(epoch) for epoch in range(5)]
        [0.0, 0.0, 0.5, 1.0, 1.0]
    """

    epoch: int = 2
    _: KW_ONLY
    hard_ratio: float = 1.0
    ramp_epochs: int = 0
    regroup_every: int = 0

    def __post_init__(self) -> None:
        for name in ("epoch", "ramp_epochs", "regroup_every"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}.")
        if not 0.0 <= self.hard_ratio <= 1.0:
            raise ValueError(f"hard_ratio must be between 0 and 1, got {self.hard_ratio}.")

    def hard_ratio_at(self, epoch: int) -> float:
        """The hard ratio in this epoch: 0 before the hard phase, the full one after the ramp."""
        if epoch < self.epoch:
            return 0.0
        return self.hard_ratio * min(1.0, (epoch - self.epoch + 1) / (self.ramp_epochs + 1))

    def end_epoch(self, epoch: int, signals: EpochSignals) -> list[str]:  # noqa: ARG002
        """Nothing that is observed changes the plan."""
        return []

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the plan is in the settings."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to load."""


@dataclass(kw_only=True)
class StartWhenEasy:
    """Starts when random batches have become easy, and keeps batches neither too easy nor too hard.

    An *easy* anchor is an utterance whose own speaker's other utterances in the batch are all more similar than any
    other speaker's: the loss learns little from it. What share of the anchors was easy is looked at after each epoch:

    - Above ``start_easy_share`` with random batches, the hard phase starts with the hard ratio ``step``.
    - In the hard phase, above ``easy_share_high`` the ratio rises by ``step``, below ``easy_share_low`` it falls by
      ``step``, to 0 if need be: then batches are random.

    If validation is measured, the ratio is also halved, and stays below that, whenever the EER has been worse than the
    best so far by more than ``tolerance`` in three validations running; batches are random for good once that would
    take it below ``step``.

    Args:
        earliest_epoch: The hard phase starts in no earlier epoch: an encoder that has hardly been trained says little
            about who sounds alike.
        start_easy_share: Share of easy anchors above which random batches have become easy.
        easy_share_low: Lower end of the band in which hard batches are kept.
        easy_share_high: Its upper end.
        hard_ratio: Largest hard ratio. Take 0.5 for a network without batch normalisation, such as a head on frozen
            embeddings, if a batch holds more than one speaker in a hundred: at 1 such heads could make more errors
            between unlike voices (docs/results/sound.md).
        step: How much the ratio changes at a time.
        tolerance: Rise of the validation EER over its best, as a share of it, that counts as worse.
        regroup_every: Groups are made anew after this many epochs; 0 keeps the first ones.

    Raises:
        ValueError: If a number is out of range.
    """

    earliest_epoch: int = 1
    start_easy_share: float = 0.8
    easy_share_low: float = 0.5
    easy_share_high: float = 0.8
    hard_ratio: float = 1.0
    step: float = 0.5
    tolerance: float = 0.1
    regroup_every: int = 0
    _ratio: float = field(default=0.0, init=False)
    _best_eer: float | None = field(default=None, init=False)
    _worse: int = field(default=0, init=False)
    _most: float = field(default=1.0, init=False)
    _begun: bool = field(default=False, init=False)
    _waiting: str | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        for name in ("earliest_epoch", "regroup_every", "tolerance"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}.")
        if not 0.0 <= self.start_easy_share <= 1.0:
            raise ValueError(f"start_easy_share must be between 0 and 1, got {self.start_easy_share}.")
        if not 0.0 <= self.easy_share_low < self.easy_share_high <= 1.0:
            raise ValueError(
                "easy_share_low must be below easy_share_high, both between 0 and 1, got "
                f"{self.easy_share_low} and {self.easy_share_high}."
            )
        for name in ("hard_ratio", "step"):
            if not 0.0 < getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must be above 0 and at most 1, got {getattr(self, name)}.")
        self._most = self.hard_ratio

    def hard_ratio_at(self, epoch: int) -> float:  # noqa: ARG002
        """The hard ratio that the last epoch's observations led to."""
        return self._ratio

    @property
    def waiting(self) -> str | None:
        """Why the hard phase has not begun, in words; None once it has, and before the first epoch's end."""
        return self._waiting

    def end_epoch(self, epoch: int, signals: EpochSignals) -> list[str]:
        """Move the ratio; see `Schedule.end_epoch`."""
        if self._most == 0:
            return []
        return self._judge_validation(signals.validation_eer) or self._judge_batches(epoch, signals.easy_anchor_share)

    def _judge_validation(self, eer: float | None) -> list[str]:
        if eer is None:
            return []
        if self._best_eer is None or eer < self._best_eer:
            self._best_eer = eer
        hard_and_worse = self._ratio > 0 and eer > (1 + self.tolerance) * self._best_eer
        self._worse = self._worse + 1 if hard_and_worse else 0
        if self._worse < _PATIENCE:
            return []
        self._worse = 0
        before = self._ratio
        self._ratio = self._most = before / 2 if before / 2 >= self.step else 0.0
        outcome = (
            f"hard ratio {before:g} -> {self._ratio:g} at most" if self._most else "batches are random from now on"
        )
        return [
            f"validation EER {100 * eer:.2f} % has been more than {100 * self.tolerance:.0f} % above the best, "
            f"{100 * self._best_eer:.2f} %, {_PATIENCE} times: {outcome}"
        ]

    def _judge_batches(self, epoch: int, easy_share: float) -> list[str]:
        before = self._ratio
        enough = self.easy_share_high if before > 0 else self.start_easy_share
        if easy_share > enough and epoch + 1 >= self.earliest_epoch:
            self._ratio = min(self._most, before + self.step)
            why = f"{_apart(easy_share, enough)} of the anchors were easy, above {100 * enough:.0f} %"
        elif easy_share < self.easy_share_low:
            self._ratio = max(0.0, before - self.step)
            seen = _apart(easy_share, self.easy_share_low)
            why = f"only {seen} of the anchors were easy, below {100 * self.easy_share_low:.0f} %"
        if self._ratio == before:
            if not self._begun:
                how = "below" if easy_share <= enough else "but it is too early, above"
                seen = f"{_apart(easy_share, enough)} of the anchors were easy, {how} {100 * enough:.0f} %"
                self._waiting = f"epoch {epoch}: {seen}: stayed random, as supcon"
            return []
        self._begun, self._waiting = True, None
        return [f"{why}: hard ratio {before:g} -> {self._ratio:g}"]

    def state_dict(self) -> dict[str, Any]:
        """What decisions so far depend on."""
        return {
            "ratio": self._ratio,
            "best_eer": self._best_eer,
            "worse": self._worse,
            "most": self._most,
            "begun": self._begun,
            "waiting": self._waiting,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        self._ratio, self._best_eer = state["ratio"], state["best_eer"]
        self._worse, self._most = state["worse"], state["most"]
        self._begun, self._waiting = state["begun"], state["waiting"]


def _apart(share: float, limit: float) -> str:
    """A share in percent with as many digits, up to three, as tell it from a limit: ``90.2 %, above 90 %``."""
    digits = next((digits for digits in range(3) if round(100 * share, digits) != round(100 * limit, digits)), 3)
    return f"{100 * share:.{0 if share == limit else digits}f} %"
