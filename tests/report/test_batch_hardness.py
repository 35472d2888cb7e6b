"""Similarity of different speakers within random batches and within hard ones."""

import numpy as np
import pytest

from chns.report.speakers import TrainingSpeakers, batch_hardness
from chns.sampling import SpeakerClusters, cluster_speakers
from chns.training.settings import BatchSettings, ClusterSettings


def families(num_families, *, of=12, utterances=4, dim=24, places=None, num_training_speakers=None, seed=0):
    """Speakers in groups of similar voices."""
    rng = np.random.default_rng(seed)
    count = num_families * of
    voices = np.repeat(rng.normal(size=(num_families, dim)), of, axis=0) + 0.8 * rng.normal(size=(count, dim))
    labels = rng.permutation(np.repeat(np.arange(count), utterances))
    embeddings = voices[labels] + 0.3 * rng.normal(size=(len(labels), dim))
    return TrainingSpeakers(
        names=[f"s{number:04d}" for number in range(count)],
        places=np.arange(count) if places is None else places,
        num_training_speakers=num_training_speakers or count,
        labels=labels,
        embeddings=embeddings.astype(np.float32),
    )


def hardness(
    speakers,
    clusters=None,
    *,
    kind="clustered",
    speakers_per_batch=10,
    utterances_per_speaker=2,
    max_pairs=5_000,
    **phase,
):
    return batch_hardness(
        speakers,
        clusters,
        batches=BatchSettings(
            kind=kind, speakers_per_batch=speakers_per_batch, utterances_per_speaker=utterances_per_speaker
        ),
        hard_phase=ClusterSettings(**{"num_clusters": 10, **phase}),
        max_pairs=max_pairs,
        seed=3,
    )


def test_clustered_batches_are_harder_and_random_ones_are_like_all_pairs():
    speakers = families(10)
    found = hardness(speakers)
    assert found.hard.mean() > found.random.mean() + 0.3
    unit = speakers.embeddings / np.linalg.norm(speakers.embeddings, axis=1, keepdims=True)
    different = speakers.labels[:, None] != speakers.labels[None]
    assert found.random.mean() == pytest.approx((unit @ unit.T)[different].mean(), abs=0.02)
    assert len(found.random) == len(found.hard) == 5_000


@pytest.mark.parametrize("kind", ["clustered", "neighbours"])
def test_hard_ratio_zero_is_as_easy_as_random(kind):
    found = hardness(families(10), kind=kind, hard_ratio=0.0)
    assert found.hard.mean() == pytest.approx(found.random.mean(), abs=0.03)
    assert found.hard_closest == pytest.approx(found.random_closest, abs=0.05)


@pytest.mark.parametrize("pooling", ["random", "nearest", "even"])
def test_clusters_are_pooled_as_the_run_pooled_them(pooling):
    found = hardness(families(10), pooling=pooling)
    assert (found.kind, found.hard_batches) == ("clustered", "clustered batches")
    assert found.hard.mean() > found.random.mean() + 0.3


@pytest.mark.parametrize("kind", ["neighbours", "auto"])
def test_a_run_of_neighbours_is_shown_its_groups_of_neighbours(kind):
    speakers = families(10)
    found = hardness(speakers, kind=kind, group_size=4, last_neighbour=8)
    assert (found.kind, found.hard_batches) == ("neighbours", "batches of neighbours")
    assert found.hard_closest > found.random_closest + 0.1
    own = cluster_speakers(speakers.centroids, num_clusters=10, seed=0)
    assert np.array_equal(hardness(speakers, own, kind=kind, group_size=4, last_neighbour=8).hard, found.hard)


def test_the_closest_speaker_tells_of_small_groups_in_large_batches_where_the_mean_does_not():
    found = hardness(families(40), kind="neighbours", speakers_per_batch=60, group_size=2, last_neighbour=2)
    assert found.hard.mean() == pytest.approx(found.random.mean(), abs=0.03)
    assert found.hard_closest > found.random_closest + 0.05


def test_a_band_farther_away_is_less_hard():
    near, far = (
        hardness(families(10), kind="neighbours", group_size=4, first_neighbour=first, last_neighbour=first + 8)
        for first in (0, 60)
    )
    assert near.hard.mean() > far.hard.mean() + 0.1


def test_the_closest_is_never_of_the_same_speaker():
    embeddings = np.repeat([[1.0, 0.0], [0.6, 0.8]], 2, axis=0).astype(np.float32)
    speakers = TrainingSpeakers(
        names=["a", "b"],
        places=np.arange(2),
        num_training_speakers=2,
        labels=np.repeat([0, 1], 2),
        embeddings=embeddings,
    )
    for kind in ("clustered", "neighbours"):
        found = hardness(speakers, kind=kind)
        assert found.random_closest == pytest.approx(0.6)
        assert found.hard_closest == pytest.approx(0.6)


def test_pairs_are_of_different_speakers_only():
    speakers = TrainingSpeakers(
        names=list("abcdef"),
        places=np.arange(6),
        num_training_speakers=6,
        labels=np.repeat(np.arange(6), 3),
        embeddings=np.repeat(np.eye(6, dtype=np.float32), 3, axis=0),
    )
    found = hardness(speakers, speakers_per_batch=4, utterances_per_speaker=3)
    assert not found.random.any()
    assert not found.hard.any()


def test_the_clusters_of_the_run_decide_if_there_are_any():
    speakers = families(10)
    own = cluster_speakers(speakers.centroids, num_clusters=10, seed=0)
    shuffled = SpeakerClusters(labels=np.random.default_rng(0).permutation(own.labels), centres=own.centres, seed=0)
    assert hardness(speakers, own).hard.mean() > hardness(speakers, shuffled).hard.mean() + 0.3


def test_the_same_seed_gives_the_same_pairs():
    first, again = hardness(families(4)), hardness(families(4))
    assert np.array_equal(first.random, again.random)
    assert np.array_equal(first.hard, again.hard)


@pytest.mark.parametrize(("kind", "num_drawn"), [("clustered", 100), ("neighbours", 200)])
def test_a_part_of_the_speakers_tells_about_batches_of_all(kind, num_drawn):
    everybody = families(10, of=40)
    clusters = cluster_speakers(everybody.centroids, num_clusters=10, seed=0)
    places = np.sort(np.random.default_rng(1).choice(400, num_drawn, replace=False))
    rows = np.flatnonzero(np.isin(everybody.labels, places))
    some = TrainingSpeakers(
        names=[everybody.names[place] for place in places],
        places=places,
        num_training_speakers=400,
        labels=np.searchsorted(places, everybody.labels[rows]),
        embeddings=everybody.embeddings[rows],
    )
    whole, part = (hardness(s, clusters, kind=kind, speakers_per_batch=24, max_pairs=20_000) for s in (everybody, some))
    assert part.hard.mean() == pytest.approx(whole.hard.mean(), abs=0.05)


def test_small_batches_give_fewer_pairs_rather_than_the_same_ones_again():
    found = hardness(families(4), speakers_per_batch=2, utterances_per_speaker=1, max_pairs=5_000)
    assert len(found.random) == 500


@pytest.mark.parametrize(("utterances", "asked"), [(4, 9), (1, 2)])
def test_more_utterances_a_speaker_than_embedded_ones_are_not_asked_for(utterances, asked):
    found = hardness(families(4, utterances=utterances), utterances_per_speaker=asked)
    assert len(found.random) > 0


@pytest.mark.parametrize(("num_families", "of"), [(1, 2), (1, 3), (2, 4)])
@pytest.mark.parametrize("first_neighbour", [0, 30])
def test_groups_are_no_larger_than_there_are_neighbours(num_families, of, first_neighbour):
    found = hardness(families(num_families, of=of), kind="neighbours", first_neighbour=first_neighbour)
    assert len(found.hard) > 0
    assert np.isfinite(found.hard_closest)


@pytest.mark.parametrize("labels", [[0, 0], [0, 0, 1]])
def test_without_two_speakers_for_a_batch_there_is_nothing_to_show(labels):
    speakers = TrainingSpeakers(
        names=["a", "b"][: max(labels) + 1],
        places=np.arange(max(labels) + 1),
        num_training_speakers=max(labels) + 1,
        labels=np.array(labels),
        embeddings=np.ones((len(labels), 3), np.float32),
    )
    assert hardness(speakers) is None
