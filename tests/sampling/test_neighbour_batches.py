"""Batches grown on the graph of nearest speakers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chns.sampling import BatchShape, NeighbourSpeakerBatches, SpeakerNeighbours


def circle(num_speakers, num_neighbours):
    """Speakers on a circle: the neighbour of rank r is r + 1 steps further on."""
    steps = np.arange(1, num_neighbours + 1)
    return SpeakerNeighbours(indices=((np.arange(num_speakers)[:, None] + steps) % num_speakers).astype(np.int32))


def speakers_of(batch, utterances_per_speaker=2):
    return [index // utterances_per_speaker for index in batch[::utterances_per_speaker]]


@settings(max_examples=60, deadline=None)
@given(st.integers(20, 60), st.integers(2, 6), st.integers(0, 4), st.integers(0, 6), st.floats(0, 1), st.integers(0, 9))
def test_hard_speakers_are_the_seeds_and_members_of_their_bands_up_to_the_hard_share(
    num_speakers, group_size, first, extra, hard_ratio, seed
):
    band = (first, first + group_size - 1 + extra)
    batches = NeighbourSpeakerBatches(
        np.repeat(np.arange(num_speakers), 2),
        circle(num_speakers, 15),
        BatchShape(12, steps_per_epoch=3, seed=seed),
        hard_ratio=hard_ratio,
        group_size=group_size,
        band=band,
    )
    num_hard = int(hard_ratio * 12)
    num_seeds = -(-num_hard // group_size)
    for step, batch in enumerate(batches):
        seeds = batches._rounds.take(num_seeds, epoch=0, step=step).tolist()
        reachable = {*seeds, *((s + 1 + rank) % num_speakers for s in seeds for rank in range(*band))}
        hard = speakers_of(batch)[: min(num_hard, len(reachable))]
        assert set(seeds) <= set(hard) <= reachable


def test_only_the_band_and_the_seed_are_drawn_while_groups_do_not_overlap():
    """One group a batch: a seed and three of the neighbours of rank 2 to 5, all of them in time, no other ever."""
    batches = NeighbourSpeakerBatches(
        np.repeat(np.arange(50), 2), circle(50, 10), BatchShape(4, steps_per_epoch=50), group_size=4, band=(2, 6)
    )
    ranks = []
    for batch in batches:
        seed, *others = speakers_of(batch)
        ranks += [(other - seed) % 50 - 1 for other in others]
    assert set(ranks) == {2, 3, 4, 5}
    assert np.bincount(ranks)[2:] == pytest.approx(np.full(4, 50 * 3 / 4), rel=0.35)


def test_each_group_is_of_its_own_band():
    """Cliques of nine, in which two groups do not fit: the seeds of a batch are of two cliques, or it is left out."""
    clique = np.arange(54) // 9
    indices = np.array([np.flatnonzero((clique == clique[s]) & (np.arange(54) != s)) for s in range(54)], np.int32)
    batches = NeighbourSpeakerBatches(
        np.repeat(np.arange(54), 2),
        SpeakerNeighbours(indices=indices),
        BatchShape(10, steps_per_epoch=60),
        group_size=5,
        band=(0, 8),
    )
    apart = [drawn for drawn in map(speakers_of, batches) if clique[drawn[0]] != clique[drawn[5]]]
    assert len(apart) > 30
    for drawn in apart:
        assert (clique[drawn] == np.repeat(clique[[drawn[0], drawn[5]]], 5)).all()


def test_a_group_has_eight_speakers_from_sixteen_neighbours_by_default():
    labels, shape = np.repeat(np.arange(60), 2), BatchShape(32, steps_per_epoch=4)
    named = NeighbourSpeakerBatches(labels, circle(60, 20), shape, group_size=8, band=(0, 16))
    assert list(NeighbourSpeakerBatches(labels, circle(60, 20), shape)) == list(named)


def test_a_neighbour_takes_four_bytes():
    """A million speakers with fifty neighbours each: 200 MB."""
    batches = NeighbourSpeakerBatches(np.repeat(np.arange(60), 2), circle(60, 20), BatchShape(8), band=(0, 20))
    assert batches._neighbours.nbytes == 60 * 20 * 4


def test_everybody_is_a_seed_once_a_round():
    """Bands of the next speaker only: of each pair, the first is the seed."""
    batches = NeighbourSpeakerBatches(
        np.repeat(np.arange(30), 2), circle(30, 1), BatchShape(2, steps_per_epoch=90), group_size=2, band=(0, 1)
    )
    seeds = [speakers_of(batch)[0] for batch in batches]
    for first in range(0, 90, 30):
        assert sorted(seeds[first : first + 30]) == list(range(30))
    assert seeds[:30] != seeds[30:60]


def test_where_groups_overlap_more_of_their_bands_come():
    """Two halves in which everybody is everybody's neighbour: a batch of 20 from two seeds of one half is all of it."""
    half = np.arange(40) // 20
    indices = np.array([np.flatnonzero((half == half[s]) & (np.arange(40) != s)) for s in range(40)], np.int32)
    batches = NeighbourSpeakerBatches(
        np.repeat(np.arange(40), 2),
        SpeakerNeighbours(indices=indices),
        BatchShape(20, steps_per_epoch=60),
        group_size=10,
        band=(0, 19),
    )
    halves = [[speaker // 20 for speaker in speakers_of(batch)] for batch in batches]
    from_one_half = [half for half in halves if half[0] == half[10]]  # the seeds come first in their groups
    assert from_one_half
    assert all(len(set(half)) == 1 for half in from_one_half)


def test_used_up_bands_are_filled_up_with_others():
    """All name the same two neighbours, so that a batch holds its seeds, those two, and others."""
    indices = np.tile(np.array([0, 1], np.int32), (30, 1))
    indices[0], indices[1] = [1, 2], [0, 2]
    batches = NeighbourSpeakerBatches(
        np.repeat(np.arange(30), 2),
        SpeakerNeighbours(indices=indices),
        BatchShape(9, steps_per_epoch=30),
        group_size=3,
        band=(0, 2),
    )
    for batch in batches:
        drawn = speakers_of(batch)
        assert len(set(drawn)) == 9
        assert {0, 1} <= set(drawn[:6])


def test_neighbours_that_are_missing_or_not_sampled_are_passed_over():
    """Speaker 2 has one utterance, and the table ends in -1: what is left are pairs of 0, 1, 3 and others."""
    labels = np.array([0, 0, 1, 1, 2, 3, 3, 4, 4])
    indices = np.array([[2, 1, -1], [2, 0, -1], [0, 1, 3], [2, 4, -1], [3, 2, -1]], np.int32)
    batches = NeighbourSpeakerBatches(
        labels, SpeakerNeighbours(indices=indices), BatchShape(2, steps_per_epoch=40), group_size=2, band=(0, 3)
    )
    assert {frozenset(labels[batch].tolist()) for batch in batches} == {frozenset({0, 1}), frozenset({3, 4})}


def test_a_neighbour_table_may_know_more_speakers_than_are_sampled():
    labels = np.repeat(np.arange(6), 2)
    batches = NeighbourSpeakerBatches(
        labels, circle(20, 5), BatchShape(4, steps_per_epoch=20), group_size=2, band=(0, 5)
    )
    assert all(set(labels[batch].tolist()) <= set(range(6)) for batch in batches)


def test_without_hard_speakers_everybody_comes_equally_often():
    batches = NeighbourSpeakerBatches(
        np.repeat(np.arange(12), 2),
        circle(12, 3),
        BatchShape(4, steps_per_epoch=3000),
        hard_ratio=0.0,
        group_size=2,
        band=(0, 3),
    )
    counts = np.bincount([speaker for batch in batches for speaker in speakers_of(batch)])
    assert counts == pytest.approx(np.full(12, 1000), rel=0.12)


def test_the_ratio_of_hard_speakers_can_change_between_epochs():
    batches = NeighbourSpeakerBatches(
        np.repeat(np.arange(60), 2), circle(60, 5), BatchShape(6), hard_ratio=0.5, group_size=6, band=(0, 5)
    )
    spread = {}
    for epoch, ratio in enumerate((0.5, 1.0)):
        batches.hard_ratio = ratio
        batches.set_epoch(epoch)
        spread[ratio] = [max((s - speakers_of(batch)[0]) % 60 for s in speakers_of(batch)) for batch in batches]
    assert max(spread[1.0]) <= 5 < max(spread[0.5])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"group_size": 1}, "group_size must be at least 2, got 1"),
        ({"band": (0, 6)}, r"band must hold at least group_size - 1 = 2 of the 5 neighbours, got 0 to 6\. Widen it"),
        ({"band": (-1, 4)}, "band must hold at least group_size - 1 = 2 of the 5 neighbours, got -1 to 4"),
        ({"band": (4, 5)}, "band must hold at least group_size - 1 = 2 of the 5 neighbours, got 4 to 5"),
        ({"hard_ratio": -0.1}, r"hard_ratio must be between 0 and 1, got -0\.1"),
    ],
)
def test_wrong_neighbour_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        NeighbourSpeakerBatches(
            np.repeat(np.arange(9), 2), circle(9, 5), BatchShape(4), **{"group_size": 3, "band": (0, 5), **options}
        )


def test_neighbours_of_too_few_speakers_are_an_error():
    with pytest.raises(ValueError, match="neighbours must cover speaker label 3, got 3 speakers"):
        NeighbourSpeakerBatches(np.repeat(np.arange(4), 2), circle(3, 2), BatchShape(2), group_size=2, band=(0, 2))
