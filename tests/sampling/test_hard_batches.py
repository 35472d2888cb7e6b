"""The whole method over labels and a callable that embeds rows."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from chns.sampling import (
    BatchShape,
    ClusterGroups,
    ClusterSpeakerBatches,
    HardBatches,
    NeighbourGroups,
    NeighbourSpeakerBatches,
    RandomSpeakerBatches,
    SpeakerClusters,
    StartAt,
    StartWhenEasy,
    cluster_speakers,
    find_neighbours,
    neighbours,
)
from chns.sampling.same_person import SuspectedPairs
from chns.sampling.speaker_batches import centroids_of, draw_per_speaker

LABELS = np.random.default_rng(3).permutation(np.arange(40).repeat(5))
VECTORS = np.random.default_rng(4).standard_normal((200, 6)).astype(np.float32)
VECTORS += 3 * np.random.default_rng(5).standard_normal((40, 6)).astype(np.float32)[LABELS]
SHAPE = BatchShape(8, 2, steps_per_epoch=5, seed=7)
GROUPS = [ClusterGroups(5, pooling="even"), ClusterGroups(), NeighbourGroups(4, band=(1, 90))]


class Embedder:
    """Looks embeddings up, and notes what it was asked for."""

    def __init__(self, vectors=VECTORS):
        self.vectors = vectors
        self.asked = []

    def __call__(self, rows):
        self.asked.append(rows.tolist())
        return self.vectors[rows]


def hard_batches(embed=None, shape=SHAPE, labels=LABELS, **settings):
    settings = {"groups": GROUPS[0], "schedule": StartAt(1), "separate_same_person": False, **settings}
    return HardBatches(labels, embed=embed or Embedder(), shape=shape, utterances_per_centroid=3, **settings)


def epochs_of(batches, numbers):
    found = []
    for epoch in numbers:
        batches.begin(epoch)
        found.append(list(batches))
    return found


def test_batches_are_those_of_the_steps_taken_one_by_one():
    embed = Embedder()
    batches = hard_batches(embed, schedule=StartAt(1, hard_ratio=0.5, regroup_every=2))
    found = epochs_of(batches, range(5))
    random = RandomSpeakerBatches(LABELS, SHAPE)
    assert found[0] == list(random)
    for grouped_at, epochs in ((1, (1, 2)), (3, (3, 4))):
        rows = draw_per_speaker(LABELS, 3, np.random.default_rng(7 + grouped_at))
        clusters = cluster_speakers(centroids_of(VECTORS[rows], LABELS[rows], 40), num_clusters=5, seed=7)
        hard = ClusterSpeakerBatches(LABELS, clusters, SHAPE, hard_ratio=0.5, pooling="even")
        for epoch in epochs:
            hard.set_epoch(epoch)
            assert found[epoch] == list(hard)
        assert rows.tolist() == embed.asked.pop(0)
    assert embed.asked == []
    assert batches.decisions == [
        "epoch 1: the hard phase begins: grouping 40 speakers by their centroids",
        "epoch 3: 2 epochs have passed: grouping 40 speakers by their centroids",
    ]


@pytest.mark.parametrize(
    ("groups", "sampler"), list(zip(GROUPS, [ClusterSpeakerBatches] * 2 + [NeighbourSpeakerBatches], strict=True))
)
def test_a_way_of_grouping_leads_to_its_batches_even_of_few_speakers(groups, sampler):
    batches = hard_batches(groups=groups)
    assert batches.begin(1, encoder=lambda: "e")
    assert batches.groups.encoder == "e"
    hard = batches.sampler_at(1)
    assert type(hard) is sampler
    if groups is GROUPS[0]:
        assert (hard.pooling, batches.groups.num_clusters) == ("even", 5)
    elif groups is GROUPS[1]:
        assert batches.groups.num_clusters == 28  # 5.5 for each of 40 / 8 batches
    else:
        assert batches.groups.indices.shape == (40, 39)
        expected = NeighbourSpeakerBatches(LABELS, batches.groups, SHAPE, group_size=4, band=(1, 39))
        assert hard.batch(1, 0) == expected.batch(1, 0)


def test_random_batches_are_had_whatever_the_schedule_says():
    batches = hard_batches()
    batches.begin(1)
    hard = list(batches.sampler_at(1))
    random = RandomSpeakerBatches(LABELS, SHAPE)
    random.set_epoch(3)
    assert list(batches.random_at(3)) == list(random)
    assert list(batches.sampler_at(1)) == hard


def test_without_settings_ten_utterances_make_a_centroid_doubles_are_apart_and_the_papers_phase_begins():
    embed = Embedder()
    labels, embed.vectors = twins(each=12)
    batches = HardBatches(labels, embed=embed, shape=SHAPE)
    assert [batches.begin(epoch) for epoch in range(4)] == [False, False, True, False]
    assert [labels[rows].tolist() for rows in embed.asked] == [np.repeat(np.arange(40), 10).tolist()]
    assert type(batches.sampler_at(2)) is ClusterSpeakerBatches
    assert batches.groups.encoder == ""
    assert batches.decisions == [
        "epoch 2: the hard phase begins: grouping 40 speakers by their centroids",
        "epoch 2: 20 speakers may be others under a second name: they never meet",
    ]


@pytest.mark.parametrize("exactly", [100_000, 0])
def test_neighbours_are_searched_with_the_seed_of_the_batches(monkeypatch, exactly):
    monkeypatch.setattr(neighbours, "_MOST_COMPARED_EXACTLY", exactly)
    monkeypatch.setattr(neighbours, "_PROBED_CELLS", 1)
    centroids = np.random.default_rng(0).standard_normal((300, 6)).astype(np.float32)
    found = [NeighbourGroups().group(centroids, BatchShape(seed=seed), encoder="e").indices for seed in (0, 7)]
    for indices, seed in zip(found, (0, 7), strict=True):
        assert (indices == find_neighbours(centroids, num_neighbours=16, seed=seed).indices).all()
    assert (found[0] == found[1]).all() == (exactly > 0)


def test_what_is_decided_is_logged(caplog):
    with caplog.at_level("INFO", logger="chns"):
        batches = hard_batches()
        batches.begin(1)
    assert caplog.messages == batches.decisions != []


def test_before_there_are_groups_a_loop_of_its_own_draws_at_random():
    assert isinstance(hard_batches().sampler_at(1), RandomSpeakerBatches)
    assert (hard_batches().hard_ratio_at(1), hard_batches(schedule=None).hard_ratio_at(1)) == (1.0, 0.0)


def test_a_loop_that_never_names_an_epoch_trains_on_the_same_batches():
    named = epochs_of(hard_batches(), range(4))
    silent = hard_batches()
    assert [list(silent) for _ in range(4)] == named
    loader = DataLoader(LABELS.tolist(), batch_sampler=hard_batches())
    assert [[labels.tolist() for labels in loader] for _ in range(4)] == [
        [LABELS[batch].tolist() for batch in epoch] for epoch in named
    ]


def test_an_engine_that_sets_the_epoch_has_it_begun():
    named = epochs_of(hard_batches(), range(4))
    batches = hard_batches()
    for epoch in (0, 1, 3, 1):
        batches.set_epoch(epoch)
        assert batches.epoch == epoch
        assert list(batches) == named[epoch]
    assert list(batches) == named[2]


def test_every_grouping_looks_at_other_utterances_the_same_in_every_run():
    first, again = Embedder(), Embedder()
    for embed in (first, again):
        epochs_of(hard_batches(embed, schedule=StartAt(1, regroup_every=1)), range(4))
    assert len({tuple(rows) for rows in first.asked}) == 3
    assert again.asked == first.asked


@pytest.mark.parametrize("groups", GROUPS)
@settings(max_examples=15, deadline=None)
@given(epoch=st.integers(0, 3), step=st.integers(0, 5), named=st.booleans(), regroup_every=st.integers(0, 2))
def test_a_restored_state_goes_on_as_if_never_stopped(groups, epoch, step, named, regroup_every):
    def fresh():
        return hard_batches(
            groups=groups, schedule=StartAt(1, hard_ratio=0.6, regroup_every=regroup_every), separate_same_person=True
        )

    expected = epochs_of(fresh(), range(6))
    batches = fresh()
    epochs_of(batches, range(epoch))
    batches.begin(epoch)
    iterator = iter(batches)
    handed_out = [next(iterator) for _ in range(min(step + 1, 5))]  # a loader asks ahead
    state = json.loads(json.dumps(batches.state_dict(step=step)))
    assert handed_out[:step] == expected[epoch][:step]

    restored = fresh()
    restored.load_state_dict(state)
    if step == 5:
        epoch, step = epoch + 1, 0
    assert len(restored) == 5 - step
    assert restored.epoch == epoch
    if named:
        restored.begin(epoch)
    assert list(restored) == expected[epoch][step:]
    assert list(restored) == expected[epoch + 1]


def test_the_state_counts_what_was_handed_out_unless_told():
    batches = hard_batches()
    batches.begin(1)
    iterator = iter(batches)
    for _ in range(3):
        next(iterator)
    assert batches.state_dict()["step"] == 3
    assert batches.state_dict(step=2)["step"] == 2


def test_an_observing_schedule_is_fed_and_restored():
    def fresh():
        return hard_batches(schedule=StartWhenEasy(step=0.5))

    batches = fresh()
    list(batches)
    batches.end(0, easy_anchor_share=0.95, validation_eer=0.1)
    assert "hard ratio 0 -> 0.5" in batches.decisions[-1]
    restored = fresh()
    restored.load_state_dict(batches.state_dict())
    assert restored.decisions == batches.decisions
    for one in (batches, restored):
        assert one.hard_ratio_at(1) == 0.5
        assert one.begin(1)
    assert list(restored) == list(batches)
    batches.end(1, easy_anchor_share=0.1)
    assert not batches.begin(2)
    assert isinstance(batches.sampler_at(2), RandomSpeakerBatches)


def test_without_a_schedule_all_is_random_and_nothing_is_embedded():
    embed = Embedder()
    batches = hard_batches(embed, schedule=None)
    batches.end(0, easy_anchor_share=1.0)
    random = RandomSpeakerBatches(LABELS, SHAPE)
    assert epochs_of(batches, range(3)) == [list(random) for _ in range(3)]
    assert embed.asked == []


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 8), st.sampled_from(GROUPS), st.integers(0, 3))
def test_ranks_take_slices_of_one_global_batch(world_size, groups, epoch):
    def of_rank(rank, world):
        shape = BatchShape(8, 2, steps_per_epoch=5, seed=7, rank=rank, world_size=world)
        batches = hard_batches(shape=shape, groups=groups)
        return batches.first_place, epochs_of(batches, range(epoch + 1))[epoch]

    _, whole = of_rank(0, 1)
    parts = [of_rank(rank, world_size) for rank in range(world_size)]
    for step, batch in enumerate(whole):
        assert [index for _, part in parts for index in part[step]] == batch
        for place, part in parts:
            assert batch[place : place + len(part[step])] == part[step]


def test_ranks_whose_embeddings_differ_share_the_groups_of_the_first():
    from_rank_0 = []

    def first(make):
        from_rank_0.append(make())
        return from_rank_0[-1]

    def other(make):
        return from_rank_0.pop(0)

    noise = VECTORS + np.random.default_rng(0).standard_normal(VECTORS.shape).astype(np.float32)
    alone = hard_batches(Embedder(noise), separate_same_person=True)
    leading = hard_batches(share=first, separate_same_person=True)
    following = hard_batches(Embedder(noise), share=other, separate_same_person=True)
    for batches in (alone, leading, following):
        batches.begin(1)
    assert list(following) == list(leading) != list(alone)
    assert following.decisions == leading.decisions


def twins(each=5):
    """Speaker 2 i + 1 is speaker 2 i under another name."""
    rng = np.random.default_rng(0)
    labels = np.arange(40).repeat(each)
    return labels, (rng.standard_normal((20, 16))[labels // 2] + 0.3 * rng.standard_normal((len(labels), 16)))


@pytest.mark.parametrize("groups", GROUPS)
def test_speakers_who_may_be_one_person_never_meet_also_after_a_resume(groups):
    labels, vectors = twins()
    batches = hard_batches(Embedder(vectors), labels=labels, groups=groups, separate_same_person=True)
    batches.begin(1)
    assert "epoch 1: 20 speakers may be others under a second name: they never meet" in batches.decisions
    restored = hard_batches(labels=labels, groups=groups, separate_same_person=True)
    restored.load_state_dict(batches.state_dict(step=1))
    for one in (batches, restored):
        for batch in one:
            assert len(set((labels[batch] // 2).tolist())) == 8


def test_a_search_that_suspects_nearly_everybody_keeps_nobody_apart():
    labels, vectors = twins()
    shape = BatchShape(30, 2, steps_per_epoch=5)
    batches = hard_batches(Embedder(vectors), labels=labels, shape=shape, separate_same_person=True)
    batches.begin(1)
    assert "epoch 1: 20 speakers seem to be others: too many to be true, so none is kept apart" in batches.decisions
    assert len(list(batches)) == 5


def test_labels_are_ids_of_any_size():
    ids = np.sort(np.random.default_rng(0).integers(0, 10**12, 40))
    plain, large = hard_batches(), hard_batches(labels=ids[LABELS])
    assert epochs_of(large, range(3)) == epochs_of(plain, range(3))


def test_groups_made_elsewhere_are_used_from_the_first_epoch():
    embed = Embedder()
    batches = hard_batches(embed, schedule=StartAt(0))
    clusters = SpeakerClusters(labels=np.arange(40) // 8, centres=np.eye(5, dtype=np.float32), seed=0)
    batches.use(clusters)
    assert not batches.begin(0)
    assert embed.asked == []
    assert list(batches) == list(ClusterSpeakerBatches(LABELS, clusters, SHAPE, pooling="even"))


def test_wrong_groups_and_embeddings_are_named():
    clusters = SpeakerClusters(labels=np.arange(40) // 8, centres=np.eye(5, dtype=np.float32), seed=0)
    with pytest.raises(ValueError, match="groups must be SpeakerNeighbours, which NeighbourGroups draws from, got Spe"):
        hard_batches(groups=NeighbourGroups()).use(clusters)
    with pytest.raises(ValueError, match=r"embed must return an embedding for each of 120 utterances, .* got \(120,\)"):
        hard_batches(Embedder(VECTORS[:, 0])).begin(1)
    with pytest.raises(ValueError, match="utterances_per_centroid must be at least 1, got 0"):
        HardBatches(LABELS, embed=Embedder(), shape=SHAPE, utterances_per_centroid=0)


def test_a_state_of_other_data_is_refused():
    state = hard_batches().state_dict()
    assert state == {
        "seed": 7,
        "speakers_per_batch": 8,
        "utterances_per_speaker": 2,
        "steps_per_epoch": 5,
        "num_utterances": 200,
        "epoch": 0,
        "step": 0,
        "decisions": [],
        "grouped_at": None,
        "groups": None,
        "persons": None,
        "schedule": StartAt(1).state_dict(),
    }
    with pytest.raises(ValueError, match="num_utterances must be 200 as in the saved state, got 190"):
        hard_batches(labels=LABELS[:190]).load_state_dict(state)


def test_a_single_utterance_makes_a_centroid_and_none_does_not():
    shape, groups = BatchShape(8, 2, steps_per_epoch=2), ClusterGroups(5)
    settings = {"embed": Embedder(), "shape": shape, "groups": groups, "schedule": StartAt(0)}
    batches = HardBatches(LABELS, **settings, utterances_per_centroid=1)
    assert batches.begin(0)
    assert len(settings["embed"].asked[0]) == 40
    with pytest.raises(ValueError, match=r"^utterances_per_centroid must be at least 1, got 0\.$"):
        HardBatches(LABELS, **settings, utterances_per_centroid=0)


def test_a_ramp_grows_without_new_groups():
    batches = hard_batches(schedule=StartAt(1, ramp_epochs=3))
    (_, second, third) = epochs_of(batches, [0, 1, 2])
    for epoch, drawn in ((1, second), (2, third)):
        sampler = batches.sampler_at(epoch)
        assert (sampler.epoch, sampler.hard_ratio) == (epoch, epoch / 4)
        assert drawn == [sampler.batch(epoch, step) for step in range(5)]
        assert list(sampler) == drawn


def test_the_epoch_that_is_going_on_may_be_named_again():
    batches = hard_batches()
    (first,) = epochs_of(batches, [1])
    batches.set_epoch(1)
    assert list(batches) == first


class Listening:
    """A schedule of random batches that notes what it is told of each epoch."""

    regroup_every = None

    def __init__(self):
        self.told = []

    def hard_ratio_at(self, _epoch):
        return 0.0

    def end_epoch(self, epoch, signals):
        self.told.append((epoch, signals.easy_anchor_share, signals.validation_eer))
        return ["nothing changes"]


def test_a_schedule_is_told_of_every_epoch_and_what_it_decides_is_noted_with_it():
    listening = Listening()
    batches = hard_batches(schedule=listening)
    batches.end(3, easy_anchor_share=0.75, validation_eer=0.125)
    assert listening.told == [(3, 0.75, 0.125)]
    assert batches.decisions == ["epoch 3: nothing changes"]


def test_a_state_without_schedule_groups_and_doubles_says_so():
    state = json.loads(json.dumps(hard_batches(schedule=None).state_dict()))
    assert (state["schedule"], state["groups"], state["persons"], state["grouped_at"]) == ({}, None, None, None)
    batches = hard_batches(schedule=None)
    batches.load_state_dict(state)
    assert batches.state_dict() == state


def test_groups_made_elsewhere_are_of_the_first_epoch_unless_told():
    batches = hard_batches()
    batches.use(cluster_speakers(VECTORS[:40], num_clusters=5))
    assert batches.grouped_at == 0


@pytest.mark.parametrize(("alike", "apart"), [([], True), ([(0, 1)], False)])
def test_doubles_are_counted_among_those_who_can_be_drawn(alike, apart, monkeypatch):
    """Eight speakers of three utterances fill a batch of eight; four of a single one cannot be drawn."""
    labels = np.concatenate([np.arange(8).repeat(3), np.arange(8, 12)])
    searched = []

    def suspected(*_):
        searched.append(1)
        first, second = np.array(alike, np.int64).reshape(-1, 2).T
        cosines = np.full(len(first), 0.9)
        return SuspectedPairs(first, second, cosines, cosines)

    monkeypatch.setattr("chns.sampling.hard_batches.suspected_pairs", suspected)
    batches = hard_batches(
        Embedder(VECTORS[:28]), labels=labels, groups=ClusterGroups(2), schedule=StartAt(0, regroup_every=1),
        separate_same_person=True,
    )  # fmt: skip
    epochs_of(batches, [0, 1])
    assert ("so none is kept apart" not in " ".join(batches.decisions)) == apart
    assert len(searched) == 1
    assert batches.state_dict()["persons"] is not None
