"""What the report shows, as plain data: computed by the modules of this package, drawn by `figures` and `page`.

Arrays and names only, so that drawing is tested without training, and computing without drawing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from chns.core.arrays import Float64Array, IntArray
from chns.evaluation.metrics import VerificationMetrics
from chns.evaluation.trials import Trials


@dataclass(frozen=True, eq=False, kw_only=True)
class ScoredTrials:
    """One trial list under one run's model.

    Attributes:
        name: Of the trial list.
        trials: With labels.
        scores: Cosine of each trial, shape (trials,).
        metrics: Error rates of these scores.
        false_accepts: Rows of the non-targets that score highest, worst first.
        false_rejects: Rows of the targets that score lowest, worst first.
    """

    name: str
    trials: Trials
    scores: Float64Array
    metrics: VerificationMetrics
    false_accepts: IntArray
    false_rejects: IntArray


@dataclass(frozen=True, eq=False, kw_only=True)
class SpeakerMap:
    """Training speakers in two dimensions.

    Attributes:
        speakers: Names, one a point.
        points: Shape (speakers, 2).
        clusters: Cluster of each speaker, shape (speakers,), or None if the run never clustered.
        explained: Share of the variance of the centroids that the two axes keep.
    """

    speakers: Sequence[str]
    points: Float64Array
    clusters: IntArray | None
    explained: float


@dataclass(frozen=True, eq=False, kw_only=True)
class ClusterShapes:
    """How large and how tight clusters are.

    Attributes:
        sizes: Speakers of each cluster, shape (clusters,).
        tightness: Mean cosine of a cluster's speakers with its centre, shape (clusters,); NaN for an empty one.
    """

    sizes: IntArray
    tightness: Float64Array


@dataclass(frozen=True, eq=False, kw_only=True)
class BatchHardness:
    """Cosine of utterances of different speakers within batches, under one model: random batches and hard ones.

    Attributes:
        kind: How the hard batches are composed.
        random: Of pairs in random batches, shape (pairs,).
        hard: Of pairs in hard batches of the same size, shape (pairs,).
        random_closest: Of an utterance and the most similar one of another speaker in its random batch, the mean.
        hard_closest: The same in hard batches. In large batches made of small groups it rises where the mean of all
            pairs does not, since the groups are strangers to each other.
    """

    kind: Literal["clustered", "neighbours"]
    random: Float64Array
    hard: Float64Array
    random_closest: float
    hard_closest: float

    @property
    def hard_batches(self) -> str:
        """The hard batches in words."""
        return "clustered batches" if self.kind == "clustered" else "batches of neighbours"


@dataclass(frozen=True, kw_only=True)
class SuspectedDuplicate:
    """Two training speakers who may be one person; see `chns.report.collect` for when they are suspected.

    Attributes:
        speakers: Their names.
        similarity: Mean cosine of the utterances of each with the centroid of the other.
        own_similarity: Mean cosine of the utterances of each with the centroid of their own speaker, each utterance
            left out of the centroid that it is compared with. About the same as ``similarity`` if they are one person.
    """

    speakers: tuple[str, str]
    similarity: float
    own_similarity: float


@dataclass(frozen=True, eq=False, kw_only=True)
class RunFindings:
    """Everything about one run.

    Attributes:
        name: What the report calls it; unique in a report.
        path: Its folder.
        strategy: In words, e.g. "SupCon, clustered batches, hard ratio 1.0".
        log: Columns of its log, as `chns.training.folder.RunFolder.log` gives them.
        scored: By trial list.
        speaker_map: None if the training speakers were not embedded.
        cluster_shapes: None if it never clustered, or the speakers were not embedded.
        batch_hardness: None if the training speakers were not embedded.
        duplicates: Most suspicious first; None if the training speakers were not embedded.
        batches: What kind of batches the run was to train on.
        decisions: What it decided about them while it trained, in words.
        num_training_speakers: How many there are; if ``speaker_map`` has fewer, then it, ``batch_hardness``,
            ``duplicates`` and the tightness are of a random part of them. None if they were not embedded.
        why_not_embedded: The error that kept them from being embedded.
    """

    name: str
    path: Path
    strategy: str
    log: Mapping[str, Float64Array]
    scored: Mapping[str, ScoredTrials]
    speaker_map: SpeakerMap | None
    cluster_shapes: ClusterShapes | None
    batch_hardness: BatchHardness | None
    duplicates: Sequence[SuspectedDuplicate] | None
    batches: str = "random"
    decisions: Sequence[str] = ()
    num_training_speakers: int | None = None
    why_not_embedded: str | None = None

    @property
    def has_hard_phase(self) -> bool:
        """Whether it has trained on hard batches."""
        return bool(np.any(self.log.get("hard_ratio", np.zeros(0)) > 0))
