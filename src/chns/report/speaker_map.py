"""Training speakers as points of a plane, and their clusters under the model as it is now.

The plane is that of the two principal components: a linear view, the same whenever it is made, whose loss is one number
(``explained``). t-SNE and UMAP separate groups more nicely, but the gaps and sizes that they show are partly made by
them, they differ from run to run, and they would be another dependency. 10,000 speakers x 192 dimensions take 0.1 s.
"""

from __future__ import annotations

import numpy as np

from chns.core.arrays import Float64Array
from chns.report.findings import ClusterShapes, SpeakerMap
from chns.report.training_speakers import TrainingSpeakers
from chns.sampling.clusters import SpeakerClusters, cluster_tightness
from chns.sampling.flat_groups import centroids_of


def speaker_map(speakers: TrainingSpeakers, clusters: SpeakerClusters | None) -> SpeakerMap:
    """Speakers by the first two principal components of their unit-length centroids.

    Args:
        speakers: Whom to show.
        clusters: Of all training speakers; None if there are none.
    """
    points, explained = principal_plane(speakers.centroids.astype(np.float64))
    return SpeakerMap(
        speakers=speakers.names,
        points=points,
        clusters=None if clusters is None else clusters.labels[speakers.places],
        explained=explained,
    )


def principal_plane(vectors: Float64Array) -> tuple[Float64Array, float]:
    """Project vectors onto the plane that keeps most of their variance.

    Args:
        vectors: Shape (points, dim).

    Returns:
        Shape (points, 2), and the share of the variance that is kept; 1 where there is none. Of the two possible
        directions of an axis, the one along which its largest component grows.
    """
    centred = vectors - vectors.mean(axis=0)
    variances, axes = np.linalg.eigh(centred.T @ centred)  # ascending
    axes = axes[:, ::-1][:, :2]
    largest = axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])]
    points = np.zeros((len(vectors), 2))
    points[:, : axes.shape[1]] = centred @ (axes * np.sign(largest))
    total = float(variances.sum())
    return points, float(variances[-2:].sum()) / total if total > 0 else 1.0


def cluster_shapes(speakers: TrainingSpeakers, clusters: SpeakerClusters) -> ClusterShapes:
    """How large clusters are and how tight they are by now.

    The centres that clusters were made with belong to the encoder of that epoch, whose space is not today's; so centres
    are taken anew, from the speakers.

    Args:
        speakers: Of whom the tightness is measured.
        clusters: Of all training speakers.
    """
    filled, members = np.unique(clusters.labels[speakers.places], return_inverse=True)
    now = SpeakerClusters(labels=members, centres=centroids_of(speakers.centroids, members, len(filled)), seed=0)
    tightness = np.full(clusters.num_clusters, np.nan)
    tightness[filled] = cluster_tightness(speakers.centroids, now)
    return ClusterShapes(sizes=clusters.sizes, tightness=tightness)
