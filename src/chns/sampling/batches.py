"""Batch samplers that decide which speakers meet in a batch.

A batch is P speakers x K utterances. `RandomSpeakerBatches` draws the speakers at random; `ClusterSpeakerBatches` draws
a share of them from clusters of speakers who sound alike, so that they are each other's hard negatives;
`NeighbourSpeakerBatches` grows groups on the graph of nearest speakers. Each serves as the ``batch_sampler`` of a
``torch.utils.data.DataLoader``, or as a plain iterable for anything else; nothing here needs torch.

Every batch is a pure function of (seed, epoch, step). Therefore all ranks agree on the global batch without talking,
and a run continues in the middle of an epoch without replaying it.

Speakers and utterances live in flat arrays (compressed rows, one row a group), and a draw never touches a whole group:
positions are drawn first and mapped to members afterwards. A batch thus costs the same for a thousand speakers and
for a million, where pouring lists of speakers together grows with their number.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from chns.core import IntArray
from chns.sampling.clusters import SpeakerClusters
from chns.sampling.neighbours import SpeakerNeighbours
from chns.sampling.speaker_batches import BatchShape, Groups, HardSpeakerBatches, Rounds, SpeakerBatches, first_of_each

Pooling = Literal["random", "nearest", "even"]

_PAPERS_SHAPE = BatchShape()


def _with_speakers(shape: BatchShape, speakers_per_batch: int | None) -> BatchShape:
    return shape if speakers_per_batch is None else replace(shape, speakers_per_batch=speakers_per_batch)


class RandomSpeakerBatches(SpeakerBatches):
    """Batches of speakers drawn at random.

    Keeps, for every batch: exactly P speakers, none twice, K different utterances of each, those of one speaker
    adjacent. Speakers come in the order of a random permutation, a new one each time it is used up, so that within
    ``number of speakers // P`` consecutive batches nobody appears twice; the fewer than P speakers at a permutation's
    end sit that round out. An epoch stops after ``steps_per_epoch`` batches.

    Args:
        speaker_labels: Speaker of each utterance, shape (utterances,), non-negative integers of any size.
        shape: Speakers, utterances and batches, the seed, and which slice of a batch is this process's.
        speakers_per_batch: P, where the rest of the shape is as it is.
        persons: An integer a speaker label; speakers with the same one, who may be one person under two names, never
            meet in a batch: all but the first of them make way for others drawn at random, beyond the order above. See
            `chns.sampling.same_person`.

    Raises:
        ValueError: If labels are not a non-empty vector of non-negative integers, or a setting is out of range.

    Examples:
        >>> import numpy as np
        >>> from chns import BatchShape, RandomSpeakerBatches
        >>> labels = np.arange(100).repeat(5)
        >>> batches = RandomSpeakerBatches(labels, BatchShape(8, 2, steps_per_epoch=3))
        >>> for rows in batches:
        ...     print(len(rows), len(set(labels[rows])))
        16 8
        16 8
        16 8
    """

    def __init__(
        self,
        speaker_labels: npt.ArrayLike,
        shape: BatchShape = _PAPERS_SHAPE,
        *,
        speakers_per_batch: int | None = None,
        persons: npt.ArrayLike | None = None,
    ) -> None:
        shape = _with_speakers(shape, speakers_per_batch)
        super().__init__(speaker_labels, shape, persons=persons)
        self._rounds = Rounds(shape.seed, len(self.speakers), self._shuffled)

    def _draw_speakers(self, rng: np.random.Generator, epoch: int, step: int) -> IntArray:  # noqa: ARG002
        return self._rounds.take(self.shape.speakers_per_batch, epoch=epoch, step=step)

    def _shuffled(self, rng: np.random.Generator) -> IntArray:
        return rng.permutation(len(self.speakers))


class ClusterSpeakerBatches(HardSpeakerBatches):
    """Batches with a chosen share of speakers who sound alike: clustering-based hard negative sampling.

    Each batch (P speakers, hard ratio h) is composed as in Masztalski et al., Interspeech 2025:

    1. Take clusters, the first at random, until their pool holds at least ``floor(h * P)`` speakers.
    2. Draw ``floor(h * P)`` speakers from the pool, none twice.
    3. Fill up with speakers drawn from all others.

    Drawn so, a small cluster comes as often as a large one, and its speakers more often than others. With
    ``pooling="even"`` the hard speakers are instead the next ones of an order in which each speaker comes once, those
    of a cluster one after another, clusters at random; a new order when fewer than ``floor(h * P)`` are left. Clusters
    then come in proportion to their size, no speaker is hard twice in a round, and all sit it out equally likely.

    Keeps, for every batch: exactly P speakers, none twice, at least ``floor(h * P)`` of them from the pool of that
    batch (fewer only if ``persons`` keeps some apart), K different utterances of each speaker, those of one speaker
    adjacent. An epoch stops after ``steps_per_epoch`` batches.

    Args:
        speaker_labels: Speaker of each utterance, shape (utterances,), non-negative integers of any size.
        clusters: Cluster of every speaker, from `cluster_speakers`: row i is that of the i-th lowest label, or of label
            i where there are rows for labels without an utterance.
        shape: Speakers, utterances and batches, the seed, and which slice of a batch is this process's.
        speakers_per_batch: P, where the rest of the shape is as it is.
        hard_ratio: h, between 0 (random) and 1 (all speakers from the pool). May be set between epochs.
        pooling: How clusters after the first are chosen: "random" as in the paper, "nearest" to the first by their
            centres, or "even", see above.
        persons: An integer a speaker label; speakers with the same one, who may be one person under two names, never
            meet in a batch: all but the first of them make way for others drawn at random. See
            `chns.sampling.same_person`.

    Raises:
        ValueError: If labels are not a non-empty vector of non-negative integers, a label has no cluster, or a setting
            is out of range.

    Examples:
        >>> import numpy as np
        >>> from chns import BatchShape, ClusterSpeakerBatches, cluster_speakers
        >>> labels = np.arange(100).repeat(5)
        >>> centroids = np.random.default_rng(0).normal(size=(100, 16)).astype(np.float32)  # means of embeddings
        >>> clusters = cluster_speakers(centroids, num_clusters=10, seed=0)
        >>> batches = ClusterSpeakerBatches(labels, clusters, BatchShape(8, 2), pooling="nearest")
        >>> rows = next(iter(batches))
        >>> len(set(clusters.labels[labels[rows]])) < 8  # from few clusters
        True
    """

    def __init__(
        self,
        speaker_labels: npt.ArrayLike,
        clusters: SpeakerClusters,
        shape: BatchShape = _PAPERS_SHAPE,
        *,
        speakers_per_batch: int | None = None,
        hard_ratio: float = 1.0,
        pooling: Pooling = "random",
        persons: npt.ArrayLike | None = None,
    ) -> None:
        shape = _with_speakers(shape, speakers_per_batch)
        super().__init__(speaker_labels, shape, hard_ratio=hard_ratio, persons=persons)
        if pooling not in ("random", "nearest", "even"):
            raise ValueError(f"pooling must be 'random', 'nearest' or 'even', got {pooling!r}.")
        rows = self._rows_in(len(clusters.labels), "clusters")
        grouped = Groups.by_label(clusters.labels[rows])
        filled = np.flatnonzero(grouped.sizes)
        # Members are places in self.speakers, so that "everybody but these" is arithmetic on places.
        self._clusters = Groups(grouped.members, grouped.starts[filled], grouped.sizes[filled])
        self._centres = clusters.centres[filled]
        self.pooling = pooling
        self._rounds = Rounds(shape.seed, len(self.speakers), self._cluster_by_cluster)

    def _draw_hard(self, rng: np.random.Generator, epoch: int, step: int) -> IntArray:
        if self.pooling == "even":
            return self._rounds.take(self._num_hard, epoch=epoch, step=step)
        return self._draw_pooled(rng)

    def _cluster_by_cluster(self, rng: np.random.Generator) -> IntArray:
        """Places of all speakers: clusters in random order, the speakers of each in random order.

        The start is drawn too, which parts one cluster into an end and a beginning of the order. Otherwise a small
        cluster would be as likely as a large one to be what is left over at the end of a round.
        """
        turns = np.repeat(rng.permutation(len(self._clusters.sizes)), self._clusters.sizes)
        order = self._clusters.members[np.lexsort((rng.random(len(turns)), turns))]
        return np.roll(order, rng.integers(len(order)))

    def _draw_pooled(self, rng: np.random.Generator) -> IntArray:
        """Places of the hard speakers: positions in the pool are drawn first, then looked up cluster by cluster."""
        pool = self._draw_pool(rng)
        ends = np.cumsum(self._clusters.sizes[pool])
        positions = rng.choice(ends[-1], self._num_hard, replace=False)
        holder = np.searchsorted(ends, positions, side="right")
        within = positions - (ends[holder] - self._clusters.sizes[pool[holder]])
        places: IntArray = self._clusters.members[self._clusters.starts[pool[holder]] + within]
        return places

    def _draw_pool(self, rng: np.random.Generator) -> IntArray:
        """Clusters that together hold enough speakers."""
        num_clusters = len(self._clusters.sizes)
        if self.pooling == "random":
            return self._until_enough(rng.permutation(num_clusters))
        first = rng.integers(num_clusters)
        # einsum, unlike a matrix product, starts no threads: loaders run beside a busy training.
        distance = -np.einsum("cd,d->c", self._centres, self._centres[first])
        distance[first] = -np.inf
        likely_enough = min(num_clusters, 8 + 2 * self._num_hard * num_clusters // len(self.speakers))
        nearest = np.argpartition(distance, likely_enough - 1)[:likely_enough]
        if self._clusters.sizes[nearest].sum() < self._num_hard:
            nearest = np.arange(num_clusters)
        return self._until_enough(nearest[np.argsort(distance[nearest], kind="stable")])

    def _until_enough(self, order: IntArray) -> IntArray:
        """The shortest beginning of the order that holds enough speakers."""
        enough = int(np.searchsorted(np.cumsum(self._clusters.sizes[order]), self._num_hard)) + 1
        return order[:enough]


class NeighbourSpeakerBatches(HardSpeakerBatches):
    """Batches made of several small groups of speakers who sound alike, each a speaker and some of its neighbours.

    Each batch (P speakers, hard ratio h) is composed so:

    1. Take the next speakers of a random order as seeds, one for each ``group_size`` of ``floor(h * P)`` speakers.
    2. Add to each seed ``group_size - 1`` speakers drawn from a band of its neighbours.
    3. Where groups overlap, or speakers who may be one person meet, take more of the bands of the same seeds, until
       there are ``floor(h * P)`` speakers or the bands are used up.
    4. Fill up with speakers drawn from all others.

    A cluster has a border, beyond which the nearest speaker of many of its members lies; a group does not. Seeds come
    in the order of a random permutation, a new one each time it is used up, so everybody is a seed equally often; in
    all, speakers who are near many others come more often. A band that starts above 0 leaves out the nearest, who may
    be the same person.

    Keeps, for every batch: exactly P speakers, none twice, K different utterances of each speaker, those of one speaker
    adjacent, at most ``floor(h * P)`` speakers from groups. An epoch stops after ``steps_per_epoch`` batches.

    Args:
        speaker_labels: Speaker of each utterance, shape (utterances,), non-negative integers of any size.
        neighbours: The nearest speakers of every speaker, from `find_neighbours`; rows as in `ClusterSpeakerBatches`.
        shape: Speakers, utterances and batches, the seed, and which slice of a batch is this process's.
        speakers_per_batch: P, where the rest of the shape is as it is.
        hard_ratio: h, between 0 (random) and 1 (all speakers from groups). May be set between epochs.
        group_size: Speakers of a group, its seed included.
        band: First rank of the neighbours that a group is drawn from, and the rank after the last; the nearest speaker
            has rank 0.
        persons: An integer a speaker label; speakers with the same one, who may be one person under two names, never
            meet in a batch: all but the first of them make way for others. See `chns.sampling.same_person`.

    Raises:
        ValueError: If labels are not a non-empty vector of non-negative integers, a label has no neighbours, or a
            setting is out of range.

    Source:
        The idea of batches of hard groups: Masztalski et al., Interspeech 2025, with clusters. Growing them from
        nearest neighbours: Harwood et al., "Smart mining for deep metric learning", ICCV 2017.

    Examples:
        >>> import numpy as np
        >>> from chns import BatchShape, NeighbourSpeakerBatches, find_neighbours
        >>> labels = np.arange(100).repeat(5)
        >>> centroids = np.random.default_rng(0).normal(size=(100, 16)).astype(np.float32)  # means of embeddings
        >>> neighbours = find_neighbours(centroids, num_neighbours=16)
        >>> batches = NeighbourSpeakerBatches(labels, neighbours, BatchShape(8, 2), group_size=4)
        >>> rows = next(iter(batches))  # two speakers, and three of the 16 nearest of each
        >>> len(rows)
        16
    """

    def __init__(
        self,
        speaker_labels: npt.ArrayLike,
        neighbours: SpeakerNeighbours,
        shape: BatchShape = _PAPERS_SHAPE,
        *,
        speakers_per_batch: int | None = None,
        hard_ratio: float = 1.0,
        group_size: int = 8,
        band: tuple[int, int] = (0, 16),
        persons: npt.ArrayLike | None = None,
    ) -> None:
        shape = _with_speakers(shape, speakers_per_batch)
        super().__init__(speaker_labels, shape, hard_ratio=hard_ratio, persons=persons)
        num_known, num_neighbours = neighbours.indices.shape
        rows = self._rows_in(num_known, "neighbours")
        if group_size < 2:
            raise ValueError(f"group_size must be at least 2, got {group_size}.")
        first, end = band
        if not 0 <= first <= end - (group_size - 1) or end > num_neighbours:
            raise ValueError(
                f"band must hold at least group_size - 1 = {group_size - 1} of the {num_neighbours} neighbours, got "
                f"{first} to {end}. Widen it, make groups smaller, or find more neighbours."
            )
        place = np.full(num_known + 1, -1, np.int32)  # the last one answers for the index -1
        place[rows] = np.arange(len(rows))
        self._neighbours = place[neighbours.indices[rows, first:end]]
        self.group_size = group_size
        self._rounds = Rounds(shape.seed, len(self.speakers), self._shuffled)

    def _draw_hard(self, rng: np.random.Generator, epoch: int, step: int) -> IntArray:
        num_seeds = -(-self._num_hard // self.group_size)
        seeds = self._rounds.take(num_seeds, epoch=epoch, step=step)
        band = rng.permuted(self._neighbours[seeds], axis=1)
        groups = np.concatenate([seeds[:, None], band[:, : self.group_size - 1]], axis=1)
        spare = band[:, self.group_size - 1 :].T  # one more of each group, then the next one of each
        candidates = np.concatenate([groups.ravel(), spare.ravel()])
        candidates = candidates[candidates >= 0]
        keys = candidates if self._persons is None else self._persons.of(candidates)
        hard: IntArray = candidates[first_of_each(keys)[: self._num_hard]]
        return hard

    def _shuffled(self, rng: np.random.Generator) -> IntArray:
        return rng.permutation(len(self.speakers))
