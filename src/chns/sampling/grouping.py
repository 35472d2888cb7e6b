"""Two ways to find speakers who sound alike, and the batches that go with each: clusters, or nearest neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy.typing as npt

from chns.sampling.batches import ClusterSpeakerBatches, Pooling
from chns.sampling.clusters import FloatArray, SpeakerClusters, cluster_speakers
from chns.sampling.hard_speaker_batches import HardSpeakerBatches
from chns.sampling.neighbour_batches import NeighbourSpeakerBatches
from chns.sampling.neighbours import SpeakerNeighbours, find_neighbours

# The paper's 50 clusters of 5,894 speakers for batches of 650 are this many a batch.
CLUSTERS_PER_BATCH = 5.5

Groups = TypeVar("Groups", SpeakerClusters, SpeakerNeighbours)


class Grouping(Protocol[Groups]):
    """Makes groups of speakers from their centroids, and batches of the groups."""

    @property
    def kind(self) -> type[Groups]:
        """What the groups are."""

    def group(self, centroids: FloatArray, *, encoder: str) -> Groups:
        """Find who sounds alike.

        Args:
            centroids: One a speaker, shape (speakers, dim).
            encoder: Identity of the encoder, remembered in the result.
        """

    def batches(self, speaker_labels: npt.ArrayLike, groups: Groups, **shape: Any) -> HardSpeakerBatches:
        """The batch sampler; ``shape`` are its other arguments."""


@dataclass(frozen=True, kw_only=True)
class ClusterGrouping:
    """k-means clusters, as in the paper.

    Args:
        num_clusters: How many; None for as many as give a batch the paper's number of clusters, see
            `derived_num_clusters`.
        pooling: See `ClusterSpeakerBatches`.
        speakers_per_batch: P, from which the number is derived.
        seed: Of the k-means.
    """

    num_clusters: int | None
    pooling: Pooling
    speakers_per_batch: int
    seed: int
    kind: type[SpeakerClusters] = SpeakerClusters

    def group(self, centroids: FloatArray, *, encoder: str) -> SpeakerClusters:
        """See `Grouping.group`."""
        derived = derived_num_clusters(len(centroids), self.speakers_per_batch)
        return cluster_speakers(centroids, num_clusters=self.num_clusters or derived, seed=self.seed, encoder=encoder)

    def batches(self, speaker_labels: npt.ArrayLike, groups: SpeakerClusters, **shape: Any) -> ClusterSpeakerBatches:
        """See `Grouping.batches`."""
        return ClusterSpeakerBatches(speaker_labels, groups, pooling=self.pooling, **shape)


@dataclass(frozen=True, kw_only=True)
class NeighbourGrouping:
    """The nearest neighbours of every speaker.

    Args:
        group_size: See `NeighbourSpeakerBatches`.
        band: See there; it is cut where there are fewer speakers.
        seed: Of an approximate search.
    """

    group_size: int
    band: tuple[int, int]
    seed: int
    kind: type[SpeakerNeighbours] = SpeakerNeighbours

    def group(self, centroids: FloatArray, *, encoder: str) -> SpeakerNeighbours:
        """See `Grouping.group`."""
        num_neighbours = min(self.band[1], len(centroids) - 1)
        return find_neighbours(centroids, num_neighbours=num_neighbours, seed=self.seed, encoder=encoder)

    def batches(
        self, speaker_labels: npt.ArrayLike, groups: SpeakerNeighbours, **shape: Any
    ) -> NeighbourSpeakerBatches:
        """See `Grouping.batches`."""
        band = (self.band[0], min(self.band[1], groups.indices.shape[1]))
        return NeighbourSpeakerBatches(speaker_labels, groups, group_size=self.group_size, band=band, **shape)


def derived_num_clusters(num_speakers: int, speakers_per_batch: int) -> int:
    """As many clusters as let a batch hold the paper's 5.5 of them, whatever the sizes of batch and corpus."""
    return max(1, min(num_speakers, round(CLUSTERS_PER_BATCH * num_speakers / speakers_per_batch)))
