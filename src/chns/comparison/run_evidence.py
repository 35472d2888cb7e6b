"""What the logs of two strategies say about how hard their batches were, as the numbers that the rules look at.

What to try next, as settings that the kind of batches listens to, and that differ from those tried.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from chns.core import Float64Array, IntArray
from chns.sampling import derived_num_clusters
from chns.training.folder import TrainSettings, first_hard_epoch

Log = Mapping[str, Float64Array]

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
    ids, cluster = np.unique(clusters, return_inverse=True)
    together = np.zeros((len(ids), int(condition.max()) + 1))
    np.add.at(together, (cluster, condition), 1)
    pairs_within = _pairs(together.sum(axis=1)).sum()
    chance = float(_pairs(together.sum(axis=0)).sum() / _pairs(together.sum()))
    if chance == 1 or not pairs_within:
        return None
    return ConditionMixing(within=float(_pairs(together).sum() / pairs_within), chance=chance)


def _pairs(counts: Float64Array) -> Float64Array:
    return counts * (counts - 1) / 2


@dataclass(frozen=True, eq=False, kw_only=True)
class TwinEvidence:
    """What is known of a strategy with hard batches and of its twin with random ones.

    The hard phase is the steps whose hard ratio was above 0; an adaptive one can end, and begin again.

    Attributes:
        settings: Of the hard strategy; those of any seed.
        random_logs: Log of each run of the twin, as `chns.training.folder.RunFolder.log` gives it.
        hard_logs: Those of the hard strategy, of the same seeds in the same order.
        num_training_speakers: How many there are.
        utterances_per_speaker: Median over the training speakers.
        conditions: How clusters go with recording conditions; None if these are not known.
        suspected_duplicates: Pairs of training speakers who may be one person; None if nobody looked.
    """

    settings: TrainSettings
    random_logs: Sequence[Log]
    hard_logs: Sequence[Log]
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
        return math.log(batches.wanted_speakers * batches.utterances_per_speaker - 1)

    @property
    def hard_batches(self) -> str:
        """The strategy's batches in words."""
        return "clustered batches" if self.settings.batches.kind == "clustered" else "hard batches"

    @property
    def is_adaptive(self) -> bool:
        """Whether the hard ratio follows what is observed."""
        return self.settings.batches.kind == "auto" or self.settings.clusters.start == "easy"

    @property
    def keeps_doubles_apart(self) -> bool:
        """Whether speakers who may be one person never meet in a batch."""
        return self.settings.batches.kind == "auto" or self.settings.clusters.separate_same_person

    def final(self, column: str, *, hard: bool) -> float:
        """Mean of a column over the last tenth of the log, and over the seeds."""
        logs = self.hard_logs if hard else self.random_logs
        return _mean([_last_tenth(_measured(log, column)) for log in logs])

    def hard_phase(self, column: str, *, hard: bool) -> float:
        """Mean of a column over the hard phase, and over the seeds; the twin's over the same steps."""
        logs = self.hard_logs if hard else self.random_logs
        return _mean(
            [
                _measured(log, column)[_ratios_at(_measured(log, "step"), hard_log) > 0]
                for log, hard_log in zip(logs, self.hard_logs, strict=True)
            ]
        )

    def hardest(self, column: str) -> tuple[float, float]:
        """Means of a column over the first and the last tenth of the steps of the largest hard ratio, and the seeds."""
        phases = []
        for log in self.hard_logs:
            ratios = _measured(log, "hard_ratio")
            phases.append(_measured(log, column)[ratios == ratios.max(initial=0)])
        return _mean([_first_tenth(values) for values in phases]), _mean([_last_tenth(values) for values in phases])

    @property
    def hard_steps(self) -> float:
        """Steps of the hard phase, mean over the seeds."""
        return float(np.mean([_steps(log)[_measured(log, "hard_ratio") > 0].sum() for log in self.hard_logs]))

    @property
    def hardest_steps(self) -> float:
        """Steps of the largest hard ratio that was reached, mean over the seeds; 0 without a hard phase."""
        counts = []
        for log in self.hard_logs:
            ratios = _measured(log, "hard_ratio")
            counts.append(_steps(log)[(ratios > 0) & (ratios == ratios.max(initial=0))].sum())
        return float(np.mean(counts))

    @property
    def all_steps(self) -> float:
        """Steps of a run, mean over the seeds."""
        return float(np.mean([log["step"].max(initial=0) for log in self.hard_logs]))


def _measured(log: Log, column: str) -> Float64Array:
    """A column where the loss was measured, which leaves out the rows of a validation; NaN where a log lacks it."""
    values: Float64Array = log.get(column, np.full(len(log["step"]), np.nan))[np.isfinite(log["loss"])]
    return values


def _steps(log: Log) -> Float64Array:
    """How many steps each row of the log is about."""
    return np.diff(_measured(log, "step"), prepend=0)


def _ratios_at(steps: Float64Array, hard_log: Log) -> Float64Array:
    """The hard ratio with which steps were made, by the first row of the log that is not before each."""
    ratios = np.append(_measured(hard_log, "hard_ratio"), 0.0)
    found: Float64Array = ratios[np.searchsorted(_measured(hard_log, "step"), steps)]
    return found


def _first_tenth(values: Float64Array) -> Float64Array:
    return values[: max(1, len(values) // 10)]


def _last_tenth(values: Float64Array) -> Float64Array:
    return values[-max(1, len(values) // 10) :]


def _mean(of_seeds: Sequence[Float64Array]) -> float:
    """Mean over the seeds of their means; NaN if one has no values."""
    return float(np.mean([values.mean() if len(values) else math.nan for values in of_seeds]))


_AUTO = "batches: {kind: auto} (begins, grows and ends the hard phase by what it observes)"


def size_of_groups(evidence: TwinEvidence) -> str:
    """How many speakers who sound alike are drawn together, in a sentence."""
    clusters = evidence.settings.clusters
    if evidence.settings.batches.kind == "clustered":
        per_cluster = evidence.num_training_speakers / _num_clusters(evidence)
        return f"A cluster holds {per_cluster:.0f} speakers on average."
    return (
        f"A group holds {clusters.group_size} speakers, one and some of the nearest {clusters.first_neighbour + 1} to "
        f"{clusters.last_neighbour}."
    )


def harder(evidence: TwinEvidence) -> tuple[str, ...]:
    """Make batches harder."""
    clusters, kind = evidence.settings.clusters, evidence.settings.batches.kind
    steps = []
    if kind == "clustered":
        more = min(2 * _num_clusters(evidence), evidence.num_training_speakers // 2)
        steps += ["batches: {kind: neighbours}", f"clusters: {{num_clusters: {more}}}"]
    else:
        steps += [*closer_speakers(evidence), *_larger_groups(evidence)]
    if kind != "auto" and clusters.hard_ratio < 1:
        steps.append("clusters: {hard_ratio: 1.0}")
    return tuple(steps)


def closer_speakers(evidence: TwinEvidence) -> tuple[str, ...]:
    """Let those meet who are closer still."""
    clusters = evidence.settings.clusters
    if evidence.settings.batches.kind == "clustered":
        return ("batches: {kind: neighbours}",)
    first, last = clusters.first_neighbour, clusters.last_neighbour
    nearer = max(first + clusters.group_size - 1, (first + last) // 2)
    return (f"clusters: {{last_neighbour: {nearer}}}",) if nearer < last else ()


def less_hard(evidence: TwinEvidence) -> tuple[str, ...]:
    """Make batches easier."""
    clusters = evidence.settings.clusters
    if evidence.is_adaptive:
        sooner = (clusters.easy_share_low + clusters.easy_share_high) / 2
        return (f"clusters: {{easy_share_low: {sooner:g}}} (the hard ratio falls sooner)",)
    return (f"clusters: {{hard_ratio: {clusters.hard_ratio / 2:g}}}", _AUTO)


def doubles_apart(evidence: TwinEvidence) -> tuple[str, ...]:
    """Keep those who may be one person from being each other's negatives."""
    clusters = evidence.settings.clusters
    if not evidence.keeps_doubles_apart:
        return ("clusters: {separate_same_person: true}",)
    if evidence.settings.batches.kind == "clustered":
        return ()
    first, last = clusters.first_neighbour + 1, clusters.last_neighbour + 1
    return (f"clusters: {{first_neighbour: {first}, last_neighbour: {last}}} (leaves out the very nearest)",)


def later_start(evidence: TwinEvidence) -> tuple[str, ...]:
    """Begin the hard phase later: half-way between the present start and the end, or when more anchors are easy."""
    clusters, epochs = evidence.settings.clusters, evidence.settings.train.epochs
    if evidence.is_adaptive:
        return (f"clusters: {{start_easy_share: {(1 + clusters.start_easy_share) / 2:g}}}",)
    return (
        f"clusters: {{start_epoch: {(first_hard_epoch(clusters) + epochs) // 2}}}",
        "clusters: {start: easy} (begins when random batches have become easy)",
    )


def earlier_start(evidence: TwinEvidence) -> tuple[str, ...]:
    """Begin the hard phase earlier."""
    clusters = evidence.settings.clusters
    if evidence.is_adaptive:
        share = (clusters.easy_share_low + clusters.start_easy_share) / 2
        return (f"clusters: {{start_easy_share: {share:g}}}",)
    first = first_hard_epoch(clusters)
    return (f"clusters: {{start_epoch: {first // 2}}}",) if first >= 2 else ()


def gentler_start(evidence: TwinEvidence) -> tuple[str, ...]:
    """Let the hard ratio grow slowly; an adaptive one grows by itself."""
    if evidence.is_adaptive:
        return ()
    return (f"clusters: {{ramp_epochs: {max(2, evidence.settings.train.epochs // 4)}}}",)


def more_of_it(evidence: TwinEvidence) -> tuple[str, ...]:
    """Go further where hard batches have helped: ``auto`` does so by itself."""
    settings, clusters = evidence.settings, evidence.settings.clusters
    if settings.batches.kind == "auto":
        return ()
    steps = []
    if clusters.hard_ratio < 1:
        steps.append(f"clusters: {{hard_ratio: {min(1.0, 2 * clusters.hard_ratio):g}}}")
    return tuple(steps)


def _larger_groups(evidence: TwinEvidence) -> tuple[str, ...]:
    """Twice as many speakers who sound alike, if a batch holds as many."""
    clusters = evidence.settings.clusters
    size = min(2 * clusters.group_size, evidence.settings.batches.wanted_speakers)
    if size <= clusters.group_size:
        return ()
    last = max(clusters.last_neighbour, clusters.first_neighbour + size - 1)
    return (f"clusters: {{group_size: {size}, last_neighbour: {last}}}",)


def _num_clusters(evidence: TwinEvidence) -> int:
    return evidence.settings.clusters.num_clusters or derived_num_clusters(
        evidence.num_training_speakers, evidence.settings.batches.wanted_speakers
    )
