"""Tightness of clusters and the closest pairs."""

import numpy as np
import pytest

from chns.sampling import SpeakerClusters
from chns.sampling.closeness import closest_pairs, cluster_tightness, similarity_to_centre


def unit(angles):
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


CENTROIDS = unit(np.array([0.0, 0.2, 1.0, 1.05, 1.6]))
CLUSTERS = SpeakerClusters(labels=np.array([0, 0, 1, 1, 1]), centres=unit(np.array([0.1, 1.2, 3.0])), seed=0)


def test_similarity_is_the_cosine_to_the_own_centre():
    assert similarity_to_centre(CENTROIDS, CLUSTERS) == pytest.approx(np.cos([0.1, 0.1, 0.2, 0.15, 0.4]), abs=1e-6)


def test_tightness_is_the_mean_over_a_cluster_and_nan_for_an_empty_one():
    tightness = cluster_tightness(CENTROIDS, CLUSTERS)
    assert tightness[:2] == pytest.approx([np.cos(0.1), np.cos([0.2, 0.15, 0.4]).mean()], abs=1e-6)
    assert np.isnan(tightness[2])


def test_pairs_are_within_clusters_most_similar_first():
    pairs = closest_pairs(CENTROIDS, CLUSTERS, count=3)
    assert [(pair.first, pair.second) for pair in pairs] == [(2, 3), (0, 1), (3, 4)]
    assert pairs[0].similarity == pytest.approx(np.cos(0.05), abs=1e-6)
    assert len(closest_pairs(CENTROIDS, CLUSTERS, count=100)) == 4
