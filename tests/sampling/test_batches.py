"""The guarantees of the batch samplers, as properties."""

import dataclasses
import logging
import math
import pickle
from itertools import chain, combinations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from chns.sampling import (
    BatchShape,
    ClusterSpeakerBatches,
    NeighbourSpeakerBatches,
    RandomSpeakerBatches,
    SpeakerClusters,
    SpeakerNeighbours,
)

POOLINGS = ["random", "nearest", "even"]
KINDS = ["random", "neighbours", *(f"clusters, {pooling} pooling" for pooling in POOLINGS)]


def clusters_of(num_speakers, num_clusters, seed=0):
    rng = np.random.default_rng(seed)
    return SpeakerClusters(
        labels=rng.integers(0, num_clusters, num_speakers),
        centres=rng.normal(size=(num_clusters, 4)).astype(np.float32),
        seed=seed,
    )


def arc(num_clusters):
    """Centres on an arc, of which those next to each other are closest."""
    angles = np.arange(num_clusters) * 0.2
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def neighbours_of(num_speakers, num_neighbours, seed=0):
    rng = np.random.default_rng(seed)
    others = np.array([np.delete(np.arange(num_speakers), speaker) for speaker in range(num_speakers)], np.int32)
    return SpeakerNeighbours(indices=rng.permuted(others, axis=1)[:, :num_neighbours])


SHAPE_FIELDS = [field.name for field in dataclasses.fields(BatchShape)]


def make(kind, labels, **options):
    shape = BatchShape(**{name: options.pop(name) for name in SHAPE_FIELDS if name in options})
    if kind == "random":
        options.pop("hard_ratio", None)
        return RandomSpeakerBatches(labels, shape, **options)
    num_speakers = int(max(labels)) + 1
    if kind == "neighbours":
        known = min(5, num_speakers - 1)
        options |= {"group_size": 1 + (known + 1) // 2, "band": (0, known)}
        return NeighbourSpeakerBatches(labels, neighbours_of(num_speakers, known), shape, **options)
    pooling = next(pooling for pooling in POOLINGS if f" {pooling} " in kind)
    return ClusterSpeakerBatches(labels, clusters_of(num_speakers, 7), shape, pooling=pooling, **options)


@st.composite
def populations(draw):
    """Labels of shuffled utterances, and a batch shape that they allow."""
    utterances_per_speaker = draw(st.integers(1, 4))
    sizes = draw(st.lists(st.integers(0, 9), min_size=3, max_size=40))
    usable = sum(size >= utterances_per_speaker for size in sizes)
    if usable < 2:
        sizes += [9, 9]
        usable += 2
    labels = np.random.default_rng(draw(st.integers(0, 99))).permutation(np.repeat(np.arange(len(sizes)), sizes))
    return labels, draw(st.integers(1, usable)), utterances_per_speaker


@settings(max_examples=60, deadline=None)
@given(populations(), st.sampled_from(KINDS), st.floats(0, 1), st.integers(0, 5))
def test_every_batch_holds_p_speakers_once_with_k_different_adjacent_utterances(population, kind, hard_ratio, seed):
    labels, speakers_per_batch, utterances_per_speaker = population
    batches = make(
        kind,
        labels,
        speakers_per_batch=speakers_per_batch,
        utterances_per_speaker=utterances_per_speaker,
        hard_ratio=hard_ratio,
        steps_per_epoch=5,
        seed=seed,
    )
    for batch in batches:
        assert len(set(batch)) == speakers_per_batch * utterances_per_speaker
        by_speaker = labels[np.reshape(batch, (speakers_per_batch, utterances_per_speaker))]
        assert (by_speaker == by_speaker[:, :1]).all()
        assert len(set(by_speaker[:, 0].tolist())) == speakers_per_batch


@settings(max_examples=60, deadline=None)
@given(populations(), st.sampled_from(KINDS), st.floats(0, 1), st.integers(1, 60), st.integers(0, 5))
def test_speakers_of_one_person_never_meet_and_all_else_holds(population, kind, hard_ratio, num_persons, seed):
    labels, speakers_per_batch, utterances_per_speaker = population
    persons = np.random.default_rng(seed).integers(0, num_persons, labels.max() + 1) - 3
    usable = np.flatnonzero(np.bincount(labels) >= utterances_per_speaker)
    speakers_per_batch = min(speakers_per_batch, len(set(persons[usable].tolist())))
    batches = make(
        kind,
        labels,
        speakers_per_batch=speakers_per_batch,
        utterances_per_speaker=utterances_per_speaker,
        hard_ratio=hard_ratio,
        steps_per_epoch=5,
        persons=persons,
    )
    for batch in batches:
        assert len(set(batch)) == speakers_per_batch * utterances_per_speaker
        by_speaker = labels[np.reshape(batch, (speakers_per_batch, utterances_per_speaker))]
        assert (by_speaker == by_speaker[:, :1]).all()
        assert len(set(persons[by_speaker[:, 0]].tolist())) == speakers_per_batch


@pytest.mark.parametrize("kind", KINDS)
def test_persons_who_are_all_different_change_nothing(kind):
    labels = np.repeat(np.arange(40), 3)
    persons = np.random.default_rng(0).permutation(1000)[:40]
    plain, apart = (make(kind, labels, speakers_per_batch=10, steps_per_epoch=8, persons=p) for p in (None, persons))
    assert list(plain) == list(apart)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_depends_on_nothing_but_its_epoch_and_step(kind):
    labels = np.repeat(np.arange(30), 4)
    batches = make(kind, labels, speakers_per_batch=8, steps_per_epoch=10)
    in_order = {(epoch, step): batches.batch(epoch, step) for epoch in range(3) for step in range(10)}
    asked = list(in_order)
    np.random.default_rng(0).shuffle(asked)
    assert all(batches.batch(epoch, step) == in_order[epoch, step] for epoch, step in map(tuple, asked))


@pytest.mark.parametrize("kind", KINDS)
def test_a_pickled_sampler_goes_on_where_it_stood(kind):
    labels = np.repeat(np.arange(30), 4)
    batches = make(kind, labels, speakers_per_batch=8, steps_per_epoch=10)
    batches.load_state_dict(batches.state_dict(step=4))
    copy = pickle.loads(pickle.dumps(batches))
    assert list(copy) == list(batches)


@settings(max_examples=60, deadline=None)
@given(populations(), st.sampled_from(KINDS), st.integers(1, 5), st.integers(0, 5))
def test_ranks_partition_the_batch(population, kind, world_size, seed):
    labels, speakers_per_batch, utterances_per_speaker = population
    world_size = min(world_size, speakers_per_batch)
    shape = {
        "speakers_per_batch": speakers_per_batch,
        "utterances_per_speaker": utterances_per_speaker,
        "steps_per_epoch": 3,
        "seed": seed,
    }
    whole = list(make(kind, labels, **shape))
    slices = [list(make(kind, labels, rank=rank, world_size=world_size, **shape)) for rank in range(world_size)]
    assert [list(chain(*parts)) for parts in zip(*slices, strict=True)] == whole
    sizes = [len(part[0]) // utterances_per_speaker for part in slices]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("step", [0, 1, 4, 9, 10])
def test_a_resumed_sampler_goes_on_as_if_never_stopped(kind, step):
    labels = np.repeat(np.arange(30), 4)
    batches = make(kind, labels, speakers_per_batch=8, steps_per_epoch=10, seed=3)
    batches.set_epoch(2)
    uninterrupted = list(batches)
    batches.set_epoch(3)
    next_epoch = list(batches)

    batches.set_epoch(2)
    iterator = iter(batches)
    used = [next(iterator) for _ in range(step)]
    resumed = make(kind, labels, speakers_per_batch=8, steps_per_epoch=10, seed=3)
    resumed.load_state_dict(batches.state_dict())
    assert len(resumed) == (10 - step or 10)
    rest = list(resumed)
    if step == 10:
        assert resumed.epoch == 3
        assert rest == next_epoch
    else:
        assert used + rest == uninterrupted
    assert len(resumed) == 10


@pytest.mark.parametrize("kind", KINDS)
def test_the_state_can_name_the_steps_that_were_used_rather_than_handed_out(kind):
    labels = np.repeat(np.arange(30), 4)
    batches = make(kind, labels, speakers_per_batch=8, steps_per_epoch=10)
    everything = list(batches)
    resumed = make(kind, labels, speakers_per_batch=8, steps_per_epoch=10)
    resumed.load_state_dict(batches.state_dict(step=4))
    assert list(resumed) == everything[4:]


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_and_epoch_give_the_same_batches_and_others_do_not(kind):
    labels = np.repeat(np.arange(40), 3)

    def epoch(number, seed):
        batches = make(kind, labels, speakers_per_batch=10, steps_per_epoch=4, seed=seed)
        batches.set_epoch(number)
        return list(batches)

    assert epoch(1, seed=0) == epoch(1, seed=0)
    assert epoch(1, seed=0) != epoch(2, seed=0)
    assert epoch(1, seed=0) != epoch(1, seed=1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps_per_epoch", [None, 1, 7])
def test_length_equals_iteration(kind, steps_per_epoch):
    batches = make(kind, np.repeat(np.arange(20), 5), speakers_per_batch=6, steps_per_epoch=steps_per_epoch)
    assert len(list(batches)) == len(batches) == (steps_per_epoch or 100 // 12)


@pytest.mark.parametrize("kind", KINDS)
def test_works_as_the_batch_sampler_of_a_data_loader(kind):
    labels = np.repeat(np.arange(20), 5)
    batches = make(kind, labels, speakers_per_batch=6, steps_per_epoch=4)
    loader = DataLoader(list(enumerate(labels.tolist())), batch_sampler=batches)
    indices = [batch[0].tolist() for batch in loader]
    batches.set_epoch(0)
    assert indices == list(batches)
    assert len(loader) == 4


@pytest.mark.parametrize("kind", KINDS)
def test_every_speaker_and_utterance_is_reached(kind):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(30), 4))
    batches = make(kind, labels, speakers_per_batch=10, steps_per_epoch=300, hard_ratio=0.7)
    seen = np.bincount(np.concatenate(list(batches)), minlength=len(labels))
    assert (seen > 0).all()


def test_random_batches_show_nobody_twice_before_the_others_were_there():
    batches = RandomSpeakerBatches(np.repeat(np.arange(30), 2), BatchShape(10, steps_per_epoch=9))
    speakers = [index // 2 for batch in batches for index in batch[::2]]
    for first in range(0, 90, 30):
        assert sorted(speakers[first : first + 30]) == list(range(30))


def test_the_hard_share_comes_from_as_few_clusters_as_hold_it():
    """Ten clusters of ten: five hard speakers fit into one cluster, fifteen into two."""
    labels = np.repeat(np.arange(100), 2)
    clusters = SpeakerClusters(labels=np.arange(100) // 10, centres=np.eye(10, dtype=np.float32), seed=0)
    for hard_ratio, speakers_per_batch, num_clusters in [(0.5, 10, 1), (1.0, 10, 1), (0.75, 20, 2), (1.0, 15, 2)]:
        batches = ClusterSpeakerBatches(
            labels, clusters, BatchShape(speakers_per_batch, steps_per_epoch=50), hard_ratio=hard_ratio
        )
        num_hard = math.floor(hard_ratio * speakers_per_batch)
        for batch in batches:
            sizes = np.bincount([index // 20 for index in batch[::2]], minlength=10)
            assert np.sort(sizes)[-num_clusters:].sum() >= num_hard


def test_nearest_pooling_takes_the_clusters_whose_centres_are_closest():
    """Centres on an arc: the neighbours of a cluster are those next to it."""
    clusters = SpeakerClusters(labels=np.arange(100) // 10, centres=arc(10), seed=0)
    labels = np.repeat(np.arange(100), 2)
    batches = ClusterSpeakerBatches(labels, clusters, BatchShape(30, steps_per_epoch=50), pooling="nearest")
    for batch in batches:
        drawn = sorted({index // 20 for index in batch})
        assert drawn[-1] - drawn[0] == 2


def test_random_pooling_takes_any_clusters():
    """As many batches as there are pairs of clusters, five times over: each pair comes, near or far."""
    clusters = SpeakerClusters(labels=np.arange(40) // 8, centres=arc(5), seed=0)
    batches = ClusterSpeakerBatches(np.repeat(np.arange(40), 2), clusters, BatchShape(16, steps_per_epoch=80))
    assert {frozenset(index // 16 for index in batch) for batch in batches} == {
        frozenset(pair) for pair in combinations(range(5), 2)
    }


def test_a_pool_is_drawn_from_evenly():
    """Two clusters, both needed: every speaker of the larger one is as likely as every speaker of the smaller."""
    labels = np.repeat(np.arange(8), 2)
    clusters = SpeakerClusters(labels=np.array([0] * 6 + [1] * 2), centres=np.eye(2, dtype=np.float32), seed=0)
    batches = ClusterSpeakerBatches(labels, clusters, BatchShape(7, steps_per_epoch=2000))
    counts = np.bincount([index // 2 for batch in batches for index in batch[::2]])
    assert counts == pytest.approx(np.full(8, 2000 * 7 / 8), rel=0.05)


def test_without_hard_speakers_everybody_is_equally_likely():
    labels = np.repeat(np.arange(12), 2)
    clusters = SpeakerClusters(labels=np.array([0] * 10 + [1] * 2), centres=np.eye(2, dtype=np.float32), seed=0)
    batches = ClusterSpeakerBatches(labels, clusters, BatchShape(4, steps_per_epoch=3000), hard_ratio=0.0)
    counts = np.bincount([index // 2 for batch in batches for index in batch[::2]])
    assert counts == pytest.approx(np.full(12, 1000), rel=0.12)


def test_the_hard_ratio_can_change_between_epochs():
    labels = np.repeat(np.arange(100), 2)
    clusters = SpeakerClusters(labels=np.arange(100) // 10, centres=np.eye(10, dtype=np.float32), seed=0)
    batches = ClusterSpeakerBatches(
        labels, clusters, BatchShape(10, steps_per_epoch=20), hard_ratio=0.0, pooling="nearest"
    )
    assert any(len({index // 20 for index in batch}) > 1 for batch in batches)
    batches.hard_ratio = 1.0
    assert all(len({index // 20 for index in batch}) == 1 for batch in batches)


@settings(max_examples=60, deadline=None)
@given(populations(), st.floats(0, 1), st.integers(1, 9), st.integers(0, 5))
def test_in_a_round_of_even_pooling_nobody_is_hard_twice_and_all_but_a_remainder_once(
    population, hard_ratio, num_clusters, seed
):
    labels, speakers_per_batch, utterances_per_speaker = population
    num_hard = int(hard_ratio * speakers_per_batch)
    assume(num_hard)
    num_usable = np.count_nonzero(np.bincount(labels) >= utterances_per_speaker)
    clusters = clusters_of(int(max(labels)) + 1, num_clusters, seed)
    steps = num_usable // num_hard
    batches = ClusterSpeakerBatches(
        labels,
        clusters,
        BatchShape(speakers_per_batch, utterances_per_speaker, steps_per_epoch=2 * steps, seed=seed),
        hard_ratio=hard_ratio,
        pooling="even",
    )
    drawn = [labels[batch[::utterances_per_speaker]][:num_hard].tolist() for batch in batches]
    for turn in (drawn[:steps], drawn[steps:]):
        hard = list(chain(*turn))
        assert len(set(hard)) == len(hard) == steps * num_hard > num_usable - num_hard
        # Clusters come one after another; the first may come again at the end, as its order starts in its middle.
        changes = np.count_nonzero(np.diff(clusters.labels[hard]))
        assert changes <= len(set(clusters.labels[hard].tolist()))


def test_even_pooling_leaves_nobody_out_more_often_than_others():
    """One speaker of nine sits each round out: as often the one of the small cluster as each of the large one."""
    labels = np.repeat(np.arange(9), 2)
    clusters = SpeakerClusters(labels=np.array([0] * 8 + [1]), centres=np.eye(2, dtype=np.float32), seed=0)
    batches = ClusterSpeakerBatches(labels, clusters, BatchShape(8, steps_per_epoch=3600), pooling="even")
    left_out = 3600 - np.bincount([index // 2 for batch in batches for index in batch[::2]])
    assert left_out == pytest.approx(np.full(9, 400), rel=0.2)


def test_even_pooling_draws_clusters_in_proportion_to_their_size_and_random_pooling_does_not():
    labels = np.repeat(np.arange(40), 2)
    clusters = SpeakerClusters(labels=np.repeat([0, 1], [32, 8]), centres=np.eye(2, dtype=np.float32), seed=0)
    share = {}
    for pooling in ("random", "even"):
        batches = ClusterSpeakerBatches(labels, clusters, BatchShape(8, steps_per_epoch=1000), pooling=pooling)
        share[pooling] = np.mean([index >= 64 for batch in batches for index in batch[::2]])
    assert share["even"] == pytest.approx(0.2, abs=1e-9)
    assert share["random"] == pytest.approx(0.5, abs=0.05)


def test_clusters_without_a_usable_speaker_are_never_drawn():
    labels = np.concatenate([np.repeat(np.arange(4), 3), [4, 5]])
    clusters = SpeakerClusters(labels=np.array([0, 0, 1, 1, 2, 2]), centres=np.eye(4, dtype=np.float32), seed=0)
    for pooling in ("random", "nearest"):
        batches = ClusterSpeakerBatches(labels, clusters, BatchShape(2, steps_per_epoch=40), pooling=pooling)
        assert {frozenset(labels[batch].tolist()) for batch in batches} == {frozenset({0, 1}), frozenset({2, 3})}


@pytest.mark.parametrize("kind", KINDS)
def test_speakers_with_too_few_utterances_are_left_out_and_counted(kind, caplog):
    labels = np.array([0, 0, 1, 1, 2, 3, 3, 4])
    with caplog.at_level(logging.INFO, logger="chns"):
        batches = make(kind, labels, speakers_per_batch=2, steps_per_epoch=30)
    assert caplog.messages == ["2 speakers with fewer than 2 utterances are left out."]
    assert set(labels[np.concatenate(list(batches))].tolist()) == {0, 1, 3}


NO_LABELS = "^speaker_labels must be a non-empty vector of non-negative integers, got shape "
YOUR_RANK = r"Pass the rank and world size of this process\.$"


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        ([], {}, rf"{NO_LABELS}\(0,\) of float64\.$"),
        ([0.5, 1.0], {}, rf"{NO_LABELS}\(2,\) of float64\.$"),
        ([0, -1], {}, rf"{NO_LABELS}\(2,\) of int64\.$"),
        ([[0, 1]], {}, rf"{NO_LABELS}\(1, 2\) of int64\.$"),
        ([0, 0], {"utterances_per_speaker": 0}, "utterances_per_speaker must be at least 1, got 0"),
        ([0, 0], {"rank": 1}, rf"^rank must be between 0 and world_size - 1 = 0, got 1\. {YOUR_RANK}"),
        ([0, 0], {"rank": -1}, rf"^rank must be between 0 and world_size - 1 = 0, got -1\. {YOUR_RANK}"),
        ([0, 0], {"seed": -1}, "seed must be 0 or more, got -1"),
        ([0, 0], {"steps_per_epoch": 0}, "steps_per_epoch must be at least 1, got 0"),
        (
            [0, 0, 1, 2],
            {"speakers_per_batch": 2},
            "speakers_per_batch must be at most 1, the number of speakers with at least 2 .* got 2",
        ),
        (
            [0, 0],
            {"rank": 0, "world_size": 2},
            "speakers_per_batch must be at least 1 for each of world_size = 2 processes, got 1",
        ),
        ([0, 0], {"persons": [[1]]}, r"persons must be a vector of integers, got shape \(1, 1\) of int64"),
        ([0, 0], {"persons": [0.5]}, r"persons must be a vector of integers, got shape \(1,\) of float64"),
        ([0, 0, 1, 1], {"persons": [7]}, "persons must cover speaker label 1, got 1 speakers"),
        (
            [0, 0, 1, 1],
            {"persons": [7, 7], "speakers_per_batch": 2},
            "speakers_per_batch must be at most 1, the number of persons that the speakers are, got 2",
        ),
    ],
)
def test_wrong_arguments_are_named(labels, options, message):
    with pytest.raises(ValueError, match=message):
        make("random", labels, **{"speakers_per_batch": 1, **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hard_ratio": 1.1}, r"hard_ratio must be between 0 and 1, got 1\.1"),
        ({"pooling": "closest"}, "pooling must be 'random', 'nearest' or 'even', got 'closest'"),
    ],
)
def test_wrong_cluster_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        ClusterSpeakerBatches([0, 0, 1, 1], clusters_of(2, 2), BatchShape(2), **options)


def test_clusters_of_too_few_speakers_are_an_error():
    with pytest.raises(
        ValueError,
        match=r"^clusters must cover speaker label 3, got 3 speakers\. Make them of the data that are sampled",
    ):
        ClusterSpeakerBatches(np.repeat(np.arange(4), 2), clusters_of(3, 2), BatchShape(2))


def test_a_state_of_other_settings_is_refused():
    labels = np.repeat(np.arange(10), 2)
    state = RandomSpeakerBatches(labels, BatchShape(4, seed=1)).state_dict()
    assert state == {
        "seed": 1,
        "speakers_per_batch": 4,
        "utterances_per_speaker": 2,
        "steps_per_epoch": 2,
        "num_utterances": 20,
        "epoch": 0,
        "step": 0,
    }
    with pytest.raises(
        ValueError,
        match="^seed must be 1 as in the saved state, got 2. "
        r"Use the settings and data of the interrupted run, or start anew\.$",
    ):
        RandomSpeakerBatches(labels, BatchShape(4, seed=2)).load_state_dict(state)


def test_a_sampler_that_had_hard_speakers_draws_without_them_as_if_it_never_had():
    labels = np.repeat(np.arange(30), 2)
    for kind in ("neighbours", "clusters, even pooling"):
        had, never = (make(kind, labels, speakers_per_batch=8, hard_ratio=ratio) for ratio in (1.0, 0.0))
        list(had)
        had.hard_ratio = 0.0
        assert [had.batch(1, step) for step in range(3)] == [never.batch(1, step) for step in range(3)]


def test_nearest_pooling_goes_as_far_as_it_must():
    """All clusters but one hold a single speaker, so the likely number of clusters is not enough."""
    rng = np.random.default_rng(0)
    clusters = SpeakerClusters(
        labels=np.concatenate([np.arange(60), np.full(240, 60)]),
        centres=np.concatenate([rng.normal([1, 0], 0.01, (60, 2)), [[-1.0, 0.0]]]).astype(np.float32),
        seed=0,
    )
    labels = np.repeat(np.arange(300), 2)
    batches = ClusterSpeakerBatches(labels, clusters, BatchShape(50, steps_per_epoch=40), pooling="nearest")
    from_singles = [sum(index // 2 < 60 for index in batch[::2]) for batch in batches]
    assert sorted(set(from_singles)) in ([50], [0, 50])


def singles_and_a_crowd(centres):
    """Clusters of one speaker each, whose centres are given, and one of four times as many opposite to them."""
    far = -centres.mean(axis=0, keepdims=True)
    labels = np.concatenate([np.arange(len(centres)), np.full(4 * len(centres), len(centres))])
    return SpeakerClusters(labels=labels, centres=np.concatenate([centres, far]).astype(np.float32), seed=0)


def test_nearest_pooling_takes_clusters_as_near_in_the_order_of_their_numbers():
    clusters = singles_and_a_crowd(np.tile([1.0, 0.0], (60, 1)))
    batches = ClusterSpeakerBatches(
        np.repeat(np.arange(300), 2), clusters, BatchShape(30, steps_per_epoch=90), pooling="nearest"
    )
    drawn = [sorted(index // 2 for index in batch[::2]) for batch in batches]
    assert all(speakers[:29] == list(range(29)) or speakers[0] >= 60 for speakers in drawn)


def test_nearest_pooling_can_be_of_everybody():
    clusters = SpeakerClusters(labels=np.arange(80) // 2, centres=arc(40), seed=0)
    batches = ClusterSpeakerBatches(
        np.repeat(np.arange(80), 2), clusters, BatchShape(80, steps_per_epoch=3), pooling="nearest"
    )
    assert all(sorted(batch) == list(range(160)) for batch in batches)
