"""What all batch samplers share: epochs that follow each other, labels of any size, and who makes way for whom."""

import time
import tracemalloc

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
from chns.sampling.speaker_batches import Groups, Persons, Rounds, centroids_of, draw_per_speaker


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


CLUSTERS = SpeakerClusters(labels=np.arange(30) // 6, centres=np.eye(5, dtype=np.float32), seed=0)
LABELS = np.repeat(np.arange(30), 4)


def sampler(labels=LABELS, **options):
    return ClusterSpeakerBatches(labels, CLUSTERS, BatchShape(8, steps_per_epoch=6), **options)


def pinned(epoch):
    batches = sampler()
    batches.set_epoch(epoch)
    return list(batches)


def test_an_iteration_after_a_finished_one_is_of_the_next_epoch():
    batches = sampler()
    assert [list(batches) for _ in range(3)] == [pinned(0), pinned(1), pinned(2)]
    assert batches.epoch == 2
    for named in (2, 1):
        batches.set_epoch(named)
        assert list(batches) == pinned(named)
    assert list(batches) == pinned(2)


def test_a_loop_that_counts_batches_and_never_asks_for_what_follows_the_last_one_gets_the_next_epoch_too():
    batches = sampler()
    for epoch in range(3):
        iterator = iter(batches)
        assert [next(iterator) for _ in range(len(batches))] == pinned(epoch)


def test_an_iteration_that_was_given_up_begins_its_epoch_again():
    batches = sampler()
    iterator = iter(batches)
    next(iterator), next(iterator)
    assert list(batches) == pinned(0)
    batches.load_state_dict({**batches.state_dict(), "epoch": 1, "step": 4})
    next(iter(batches))
    batches.set_epoch(1)
    assert list(batches) == pinned(1)


def test_a_loop_that_keeps_the_position_by_itself_can_still_name_an_epoch():
    batches = sampler()
    batches.go_to(1, 4)
    assert list(batches) == pinned(1)[4:]
    batches.go_to(1, 4)
    batches.set_epoch(1)
    assert list(batches) == pinned(1)


@pytest.mark.parametrize("step", [1, 4])
@pytest.mark.parametrize("named", [True, False])
def test_a_loop_resumes_exactly_whether_it_names_its_epochs_or_not(named, step):
    batches = sampler()
    batches.load_state_dict({**sampler().state_dict(), "epoch": 3, "step": step})
    for epoch, expected in ((3, pinned(3)[step:]), (4, pinned(4))):
        if named:
            batches.set_epoch(epoch)
        assert len(batches) == len(expected)
        assert list(batches) == expected


def test_a_loader_with_workers_that_has_asked_for_everything_is_still_in_its_epoch():
    batches = sampler()
    list(batches)  # what a loader does ahead of the loop, which has used four batches when it saves
    resumed = sampler()
    resumed.load_state_dict(batches.state_dict(step=4))
    assert list(resumed) == pinned(0)[4:]


def test_memory_goes_with_the_number_of_labels_and_not_with_their_values():
    ids = 10**10 + 977 * np.arange(30)
    tracemalloc.start()
    batches = list(sampler(ids[LABELS], persons=np.arange(30)))
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()
    assert batches == pinned(0)


def test_rows_of_labels_without_an_utterance_are_skipped():
    """Clusters of 30 speakers, of whom the even ones are sampled: row i is that of label i."""
    labels = np.repeat(np.arange(0, 30, 2), 4)
    for batch in ClusterSpeakerBatches(labels, CLUSTERS, BatchShape(3, steps_per_epoch=20)):
        assert len(set(CLUSTERS.labels[labels[batch]].tolist())) == 1


def test_a_group_holds_its_members_in_their_order_on_every_machine():
    labels = np.random.default_rng(0).integers(0, 7, 1_000)
    groups = Groups.by_label(labels)
    for label, (start, size) in enumerate(zip(groups.starts, groups.sizes, strict=True)):
        assert groups.members[start : start + size].tolist() == np.flatnonzero(labels == label).tolist()


def test_utterances_are_drawn_evenly_from_every_speaker_and_come_in_their_order():
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(3), [2, 5, 9]))
    rng, times_drawn = np.random.default_rng(1), np.zeros(16)
    for _ in range(900):
        drawn = draw_per_speaker(labels, 3, rng)
        assert np.bincount(labels[drawn]).tolist() == [2, 3, 3]
        assert (np.diff(drawn) > 0).all()
        times_drawn[drawn] += 1
    assert times_drawn == pytest.approx(900 * np.array([1, 3 / 5, 1 / 3])[labels], rel=0.15)


def test_a_centroid_is_the_mean_embedding_at_unit_length():
    labels = np.array([1, 0, 1, 1])
    embeddings = np.array([[3, 0], [0, 2], [0, 1e-3], [0, 4]], np.float32)
    centroids = centroids_of(embeddings, labels, 2)
    assert centroids.dtype == np.float32
    np.testing.assert_allclose(centroids, [[0, 1], np.array([3, 4.001]) / np.hypot(3, 4.001)], rtol=1e-6)


def test_an_order_is_drawn_once_a_round_and_the_same_in_every_version():
    drawn = []

    def draw_order(rng):
        drawn.append(rng.permutation(10))
        return drawn[-1]

    rounds = Rounds(3, 10, draw_order)
    taken = [rounds.take(4, epoch=2, step=step).tolist() for step in range(3)]
    assert taken == [[8, 1, 5, 7], [9, 4, 6, 3], [4, 9, 1, 5]]
    assert len(drawn) == 2


def test_of_each_speaker_those_are_drawn_that_a_shuffle_puts_first():
    labels = np.random.default_rng(1).integers(0, 30, 3_000)
    shuffled = np.random.default_rng(2).permutation(3_000)
    first = np.concatenate([shuffled[labels[shuffled] == speaker][:4] for speaker in range(30)])
    assert sorted(draw_per_speaker(labels, 4, np.random.default_rng(2)).tolist()) == sorted(first.tolist())
