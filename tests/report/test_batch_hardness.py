"""Similarity of different speakers within random and within clustered batches."""

import numpy as np
import pytest

from chns.config import BatchSettings, ClusterSettings
from chns.report.batch_hardness import batch_hardness
from chns.report.training_speakers import TrainingSpeakers
from chns.sampling import SpeakerClusters, cluster_speakers


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


def hardness(speakers, clusters=None, *, speakers_per_batch=10, utterances_per_speaker=2, max_pairs=5_000, **phase):
    return batch_hardness(
        speakers,
        clusters,
        batches=BatchSettings(speakers_per_batch=speakers_per_batch, utterances_per_speaker=utterances_per_speaker),
        hard_phase=ClusterSettings(**{"num_clusters": 10, **phase}),
        max_pairs=max_pairs,
        seed=3,
    )


def test_clustered_batches_are_harder_and_random_ones_are_like_all_pairs():
    speakers = families(10)
    found = hardness(speakers)
    assert found.clustered.mean() > found.random.mean() + 0.3
    unit = speakers.embeddings / np.linalg.norm(speakers.embeddings, axis=1, keepdims=True)
    different = speakers.labels[:, None] != speakers.labels[None]
    assert found.random.mean() == pytest.approx((unit @ unit.T)[different].mean(), abs=0.02)
    assert len(found.random) == len(found.clustered) == 5_000


def test_hard_ratio_zero_is_as_easy_as_random():
    found = hardness(families(10), hard_ratio=0.0)
    assert found.clustered.mean() == pytest.approx(found.random.mean(), abs=0.03)


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
    assert not found.clustered.any()


def test_the_clusters_of_the_run_decide_if_there_are_any():
    speakers = families(10)
    own = cluster_speakers(speakers.centroids, num_clusters=10, seed=0)
    shuffled = SpeakerClusters(labels=np.random.default_rng(0).permutation(own.labels), centres=own.centres, seed=0)
    assert hardness(speakers, own).clustered.mean() > hardness(speakers, shuffled).clustered.mean() + 0.3


def test_the_same_seed_gives_the_same_pairs():
    first, again = hardness(families(4)), hardness(families(4))
    assert np.array_equal(first.random, again.random)
    assert np.array_equal(first.clustered, again.clustered)


def test_a_part_of_the_speakers_tells_about_batches_of_all():
    everybody = families(10, of=40)
    clusters = cluster_speakers(everybody.centroids, num_clusters=10, seed=0)
    places = np.sort(np.random.default_rng(1).choice(400, 100, replace=False))
    rows = np.flatnonzero(np.isin(everybody.labels, places))
    some = TrainingSpeakers(
        names=[everybody.names[place] for place in places],
        places=places,
        num_training_speakers=400,
        labels=np.searchsorted(places, everybody.labels[rows]),
        embeddings=everybody.embeddings[rows],
    )
    whole, part = (hardness(s, clusters, speakers_per_batch=24, max_pairs=20_000) for s in (everybody, some))
    assert part.clustered.mean() == pytest.approx(whole.clustered.mean(), abs=0.05)


def test_small_batches_give_fewer_pairs_rather_than_the_same_ones_again():
    found = hardness(families(4), speakers_per_batch=2, utterances_per_speaker=1, max_pairs=5_000)
    assert len(found.random) == 500


@pytest.mark.parametrize(("utterances", "asked"), [(4, 9), (1, 2)])
def test_more_utterances_a_speaker_than_embedded_ones_are_not_asked_for(utterances, asked):
    found = hardness(families(4, utterances=utterances), utterances_per_speaker=asked)
    assert len(found.random) > 0


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
