"""How tight clusters are, and which speakers are closest: the pairs that clustered batches make compete."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from chns.sampling.clusters import FloatArray, SpeakerClusters


class ClosePair(NamedTuple):
    """Two speakers of one cluster and the cosine of their centroids."""

    first: int
    second: int
    similarity: float


def similarity_to_centre(centroids: FloatArray, clusters: SpeakerClusters) -> npt.NDArray[np.float64]:
    """Cosine between each speaker's centroid and the centre of the speaker's cluster, shape (speakers,).

    Args:
        centroids: Unit-length centroids, shape (speakers, dim).
        clusters: Their grouping.
    """
    cosines: npt.NDArray[np.float64] = np.einsum("sd,sd->s", centroids, clusters.centres[clusters.labels])
    return cosines.astype(np.float64)


def cluster_tightness(centroids: FloatArray, clusters: SpeakerClusters) -> npt.NDArray[np.float64]:
    """Mean cosine between the speakers of each cluster and its centre, shape (clusters,); NaN where there are none."""
    sums = np.bincount(clusters.labels, similarity_to_centre(centroids, clusters), minlength=clusters.num_clusters)
    with np.errstate(invalid="ignore"):
        tightness: npt.NDArray[np.float64] = sums / clusters.sizes
    return tightness


def closest_pairs(centroids: FloatArray, clusters: SpeakerClusters, *, count: int) -> list[ClosePair]:
    """The most similar pairs of speakers within a cluster, most similar first.

    Pairs across clusters are not compared, so the cost is that of the clusters, not of all pairs; k-means puts the
    closest together.

    Args:
        centroids: Unit-length centroids, shape (speakers, dim).
        clusters: Their grouping.
        count: Most pairs returned.
    """
    found: list[ClosePair] = []
    for cluster in range(clusters.num_clusters):
        members = np.flatnonzero(clusters.labels == cluster)
        first, second = np.triu_indices(len(members), k=1)
        cosines = (centroids[members] @ centroids[members].T)[first, second]
        best = np.argsort(-cosines, kind="stable")[:count]
        found += [ClosePair(int(members[first[i]]), int(members[second[i]]), float(cosines[i])) for i in best]
    return sorted(found, key=lambda pair: -pair.similarity)[:count]
