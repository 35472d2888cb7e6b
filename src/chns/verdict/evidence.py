"""What the logs of two strategies say about how hard their batches were, as the numbers that the rules look at."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from chns.config import TrainSettings

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Log = Mapping[str, FloatArray]

_CONTRASTIVE = ("chns.losses.SupConLoss", "chns.losses.HSCLLoss")


class ConditionMixing(NamedTuple):
    """Share of pairs of speakers that are of one recording condition.

    Attributes:
        within: Among pairs of one cluster.
        chance: Among all pairs.
    """

    within: float
    chance: float

    @property
    def separation(self) -> float:
        """0 if clusters know nothing of the conditions, 1 if no cluster mixes them."""
        return (self.within - self.chance) / (1 - self.chance)


def condition_mixing(conditions: Sequence[str], clusters: IntArray) -> ConditionMixing | None:
    """How clusters go with recording conditions.

    Args:
        conditions: Condition of each speaker, the corpus for instance.
        clusters: Cluster of each speaker, shape (speakers,).

    Returns:
        None if all speakers are of one condition, or no cluster holds two.
    """
    _, condition = np.unique(np.asarray(conditions), return_inverse=True)
    together = np.zeros((int(clusters.max()) + 1, int(condition.max()) + 1))
    np.add.at(together, (clusters, condition), 1)
    pairs_within = _pairs(together.sum(axis=1)).sum()
    chance = float(_pairs(together.sum(axis=0)).sum() / _pairs(together.sum()))
    if chance == 1 or not pairs_within:
        return None
    return ConditionMixing(within=float(_pairs(together).sum() / pairs_within), chance=chance)


def _pairs(counts: FloatArray) -> FloatArray:
    return counts * (counts - 1) / 2


@dataclass(frozen=True, eq=False, kw_only=True)
class TwinEvidence:
    """What is known of a strategy with clustered batches and of its twin with random ones.

    Attributes:
        settings: Of the clustered strategy; those of any seed.
        random_logs: Log of each run of the twin, as `chns.run_folder.RunFolder.log` gives it.
        clustered_logs: Those of the clustered strategy, of the same seeds in the same order.
        num_training_speakers: How many there are.
        utterances_per_speaker: Median over the training speakers.
        conditions: How clusters go with recording conditions; None if these are not known.
        suspected_duplicates: Pairs of training speakers who may be one person; None if nobody looked.
    """

    settings: TrainSettings
    random_logs: Sequence[Log]
    clustered_logs: Sequence[Log]
    num_training_speakers: int
    utterances_per_speaker: float
    conditions: ConditionMixing | None = None
    suspected_duplicates: int | None = None

    @property
    def guessing_loss(self) -> float | None:
        """Contrastive loss of an encoder that tells nobody apart: the logarithm of the other segments of a batch.

        None for other losses, whose scale is not known here.
        """
        batches = self.settings.batches
        if self.settings.loss.factory not in _CONTRASTIVE:
            return None
        return math.log(batches.speakers_per_batch * batches.utterances_per_speaker - 1)

    def final(self, column: str, *, clustered: bool) -> float:
        """Mean of a column over the last tenth of the log, and over the seeds."""
        logs = self.clustered_logs if clustered else self.random_logs
        return _mean([values[-max(1, len(values) // 10) :] for values in (_measured(log, column) for log in logs)])

    def hard_phase(self, column: str, *, clustered: bool) -> float:
        """Mean of a column over the hard phase, and over the seeds; the twin's over the same steps."""
        logs = self.clustered_logs if clustered else self.random_logs
        return _mean([_measured(log, column, since=start) for log, start in zip(logs, self._starts(), strict=True)])

    def hard_phase_start(self, column: str) -> float:
        """Mean of a column over the first tenth of the hard phase, and over the seeds."""
        phases = [
            _measured(log, column, since=start) for log, start in zip(self.clustered_logs, self._starts(), strict=True)
        ]
        return _mean([values[: max(1, len(values) // 10)] for values in phases])

    @property
    def hard_steps(self) -> float:
        """Steps of the hard phase, mean over the seeds."""
        return float(
            np.mean([_last(log) - start for log, start in zip(self.clustered_logs, self._starts(), strict=True)])
        )

    @property
    def all_steps(self) -> float:
        """Steps of a run, mean over the seeds."""
        return float(np.mean([_last(log) for log in self.clustered_logs]))

    def _starts(self) -> list[float]:
        """The last logged step before the hard phase of each run; its own last step if there is no hard phase."""
        starts = []
        for log in self.clustered_logs:
            steps, ratios = _measured(log, "step"), _measured(log, "hard_ratio")
            before = steps[np.cumsum(ratios > 0) == 0]
            starts.append(float(before[-1]) if len(before) else 0.0)
        return starts


def _measured(log: Log, column: str, *, since: float = 0) -> FloatArray:
    """A column where the loss was measured, which leaves out the rows of a validation, after a step."""
    values: FloatArray = log[column][np.isfinite(log["loss"]) & (log["step"] > since)]
    return values


def _last(log: Log) -> float:
    return float(log["step"].max(initial=0))


def _mean(of_seeds: Sequence[FloatArray]) -> float:
    """Mean over the seeds of their means; NaN if one has no values."""
    return float(np.mean([values.mean() if len(values) else math.nan for values in of_seeds]))
