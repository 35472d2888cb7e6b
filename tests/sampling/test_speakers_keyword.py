import numpy as np
import pytest

from chns.sampling import (
    BatchShape,
    ClusterSpeakerBatches,
    NeighbourSpeakerBatches,
    RandomSpeakerBatches,
    SpeakerClusters,
    find_neighbours,
)

CENTROIDS = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
CLUSTERS = SpeakerClusters(labels=np.arange(20) // 5, centres=CENTROIDS[::5], seed=0)
NEIGHBOURS = find_neighbours(CENTROIDS, num_neighbours=16)


@pytest.mark.parametrize(
    ("kind", "groups"),
    [(RandomSpeakerBatches, []), (ClusterSpeakerBatches, [CLUSTERS]), (NeighbourSpeakerBatches, [NEIGHBOURS])],
)
def test_the_number_of_speakers_can_be_given_alone(kind, groups):
    labels = np.repeat(np.arange(20), 3)
    assert list(kind(labels, *groups, speakers_per_batch=4)) == list(kind(labels, *groups, BatchShape(4)))
    same = kind(labels, *groups, BatchShape(9, 3, seed=5), speakers_per_batch=4)
    assert list(same) == list(kind(labels, *groups, BatchShape(4, 3, seed=5)))
