"""From centroids to the sampler that goes with a way of grouping."""

import numpy as np
import pytest

from chns.sampling import ClusterSpeakerBatches, NeighbourSpeakerBatches
from chns.sampling.grouping import ClusterGrouping, NeighbourGrouping, derived_num_clusters

LABELS = np.arange(40).repeat(3)
SHAPE = {"speakers_per_batch": 8, "utterances_per_speaker": 2, "steps_per_epoch": 2}


def test_clusters_lead_to_batches_of_clusters(rng):
    grouping = ClusterGrouping(num_clusters=5, pooling="even", speakers_per_batch=8, seed=0)
    clusters = grouping.group(rng.standard_normal((40, 4)), encoder="e")
    assert (clusters.num_clusters, clusters.encoder) == (5, "e")
    batches = grouping.batches(LABELS, clusters, **SHAPE)
    assert isinstance(batches, ClusterSpeakerBatches)
    assert batches.pooling == "even"


def test_neighbours_lead_to_batches_of_groups_even_of_few_speakers(rng):
    grouping = NeighbourGrouping(group_size=4, band=(1, 90), seed=0)
    neighbours = grouping.group(rng.standard_normal((40, 4)), encoder="e")
    assert neighbours.indices.shape == (40, 39)
    batches = grouping.batches(LABELS, neighbours, **SHAPE)
    assert isinstance(batches, NeighbourSpeakerBatches)
    assert batches.group_size == 4


def test_the_derived_number_of_clusters_is_the_papers_for_the_papers_corpus():
    assert derived_num_clusters(5_894, 650) == 50


@pytest.mark.parametrize(
    ("num_speakers", "speakers_per_batch", "expected"), [(1_000_000, 650, 8462), (20, 30, 4), (3, 650, 1)]
)
def test_the_derived_number_follows_corpus_and_batch(num_speakers, speakers_per_batch, expected):
    assert derived_num_clusters(num_speakers, speakers_per_batch) == expected


def test_the_derived_number_is_used_where_none_is_given(rng):
    grouping = ClusterGrouping(num_clusters=None, pooling="random", speakers_per_batch=11, seed=0)
    assert grouping.group(rng.standard_normal((40, 4)), encoder="").num_clusters == 20
