"""Who makes way for whom where speakers may be one person."""

import time

import numpy as np
import pytest

from chns.sampling import (
    BatchShape,
    ClusterSpeakerBatches,
    NeighbourSpeakerBatches,
    RandomSpeakerBatches,
    SpeakerClusters,
    SpeakerNeighbours,
)
from chns.sampling.speaker_batches import Persons


def test_the_first_of_each_person_stays_in_place_and_others_come_at_the_end():
    persons = Persons(np.array([0, 0, 1, 1, 2, 3, 4, 5, 5, 5]))
    for seed in range(20):
        drawn = persons.apart(np.random.default_rng(seed), np.array([3, 9, 2, 4, 8]))
        assert drawn[:3].tolist() == [3, 9, 4]
        assert {*drawn[3:].tolist()} <= {0, 1, 5, 6}
        assert len({*persons.of(drawn).tolist()}) == 5


def test_each_absent_person_and_each_speaker_of_theirs_is_equally_likely_to_come():
    persons = Persons(np.array([0, 0, 1, 2, 2]))
    rng = np.random.default_rng(0)
    came = np.bincount([persons.apart(rng, np.array([0, 1]))[1] for _ in range(4000)], minlength=5)
    assert came == pytest.approx([0, 0, 2000, 1000, 1000], rel=0.1)


def test_speakers_that_are_not_sampled_never_come():
    """The third speaker has one utterance; the second is the person of the first."""
    labels = np.array([0, 0, 1, 1, 2, 3, 3])
    batches = RandomSpeakerBatches(labels, BatchShape(2, steps_per_epoch=30), persons=[0, 0, 1, 2])
    met = {frozenset(labels[batch].tolist()) for batch in batches}
    assert met == {frozenset({0, 3}), frozenset({1, 3})}


def test_a_batch_is_drawn_at_once_where_nearly_all_speakers_are_one_person():
    """The 99 other persons are a ten-thousandth of the speakers, and all of them must be found."""
    numbers = np.zeros(1_000_000, np.int64)
    numbers[-99:] = np.arange(1, 100)
    persons = Persons(numbers)
    started = time.perf_counter()
    drawn = persons.apart(np.random.default_rng(0), np.arange(100))
    assert time.perf_counter() - started < 1
    assert drawn[0] == 0
    assert sorted(drawn[1:].tolist()) == list(range(999_901, 1_000_000))


def test_every_second_name_of_a_person_is_sampled_too():
    labels = np.repeat(np.arange(20), 2)
    clusters = SpeakerClusters(labels=np.arange(20) // 10, centres=np.eye(2, dtype=np.float32), seed=0)
    batches = ClusterSpeakerBatches(
        labels, clusters, BatchShape(6, steps_per_epoch=900), pooling="even", persons=np.arange(20) // 2
    )
    counts = np.bincount([index // 2 for batch in batches for index in batch[::2]])
    assert counts == pytest.approx(np.full(20, 900 * 6 / 20), rel=0.15)


def test_neighbours_make_way_for_other_neighbours():
    """Three cliques of eight, in which each person has two names: four persons are left of each, all hard."""
    clique = np.arange(24) // 8
    indices = np.array([np.flatnonzero((clique == clique[s]) & (np.arange(24) != s)) for s in range(24)], np.int32)
    batches = NeighbourSpeakerBatches(
        np.repeat(np.arange(24), 2),
        SpeakerNeighbours(indices=indices),
        BatchShape(4, steps_per_epoch=100),
        group_size=4,
        band=(0, 7),
        persons=np.arange(24) // 2,
    )
    for batch in batches:
        assert len({clique[index // 2] for index in batch}) == 1
        assert len({index // 4 for index in batch}) == 4
