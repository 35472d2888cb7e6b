"""Speakers who may be one person: who is suspected, and who is joined."""

import tracemalloc

import numpy as np
import pytest

from chns.sampling import neighbours, same_person
from chns.sampling.same_person import SuspectedPairs, own_similarities, persons_of, suspected_pairs


def corpus_with_split_people(*, noise, num_split=40, num_people=600, family=10, names_each=2, dim=96):
    """People in families of similar voices, ten utterances each; some people go by several names.

    Returns embeddings, speaker labels, and the person behind each label.
    """
    rng = np.random.default_rng(0)
    own, families = rng.normal(size=(num_people, dim)), rng.normal(size=(num_people // family, dim))
    voices = np.sqrt(0.5) * own + np.sqrt(0.5) * np.repeat(families, family, axis=0)
    people = np.repeat(np.arange(num_people), 10)
    embeddings = voices[people] + noise * rng.normal(size=(len(people), dim))
    embeddings *= rng.uniform(0.5, 2, size=(len(people), 1))
    labels, true = people.copy(), list(range(num_people))
    for person in rng.choice(num_people, num_split, replace=False):
        parts = np.array_split(rng.permutation(np.flatnonzero(people == person)), names_each)
        for part in parts[1:]:
            labels[part] = len(true)
            true.append(person)
    return embeddings.astype(np.float32), labels, np.array(true)


def pairs_of(*pairs):
    """Pairs in the order given."""
    first, second = (np.array(column, np.int64) for column in zip(*pairs, strict=True))
    return SuspectedPairs(first, second, np.ones(len(pairs)), np.ones(len(pairs)))


def together(groups):
    """Pairs of labels that are in one group."""
    return {(a, b) for a in range(len(groups)) for b in range(a + 1, len(groups)) if groups[a] == groups[b]}


@pytest.mark.parametrize("noise", [0.3, 1.0])  # utterances agree with their own centroid at 0.95 and at 0.67
def test_people_with_two_names_are_found_among_similar_voices_and_hardly_anybody_else(noise):
    embeddings, labels, true = corpus_with_split_people(noise=noise)
    pairs = suspected_pairs(embeddings, labels)
    found = list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))
    assert len(set(found)) == len(found)
    assert all(first < second for first, second in found)
    right = together(true) & set(found)
    assert len(right) >= 0.95 * 40
    assert len(right) >= 0.9 * len(found)
    assert together(true) >= set(found[:20])


@pytest.mark.parametrize("num_names", [2, 3, 5])
def test_all_names_of_a_person_become_one_and_nobody_elses(num_names):
    embeddings, labels, true = corpus_with_split_people(noise=0.3, names_each=num_names)
    joined = together(persons_of(len(true), suspected_pairs(embeddings, labels)))
    assert len(joined & together(true)) >= 0.9 * len(together(true))
    assert len(joined & together(true)) >= 0.95 * len(joined)


def test_where_nobody_is_split_hardly_anybody_is_joined():
    embeddings, labels, true = corpus_with_split_people(noise=1.0, num_split=0)
    assert len(together(persons_of(len(true), suspected_pairs(embeddings, labels)))) <= 0.01 * len(true)


def test_an_approximate_search_for_neighbours_suspects_the_same_people(monkeypatch):
    embeddings, labels, true = corpus_with_split_people(noise=0.3)
    exactly = suspected_pairs(embeddings, labels)
    monkeypatch.setattr(neighbours, "_MOST_COMPARED_EXACTLY", 0)
    roughly = suspected_pairs(embeddings, labels)
    by_search = [together(persons_of(len(true), pairs)) & together(true) for pairs in (exactly, roughly)]
    assert len(by_search[0] & by_search[1]) >= 0.95 * len(by_search[0])


def test_neighbours_that_an_approximate_search_did_not_find_are_nobodys(monkeypatch):
    embeddings, labels, true = corpus_with_split_people(noise=0.3, num_people=40, num_split=5, family=1)
    complete = neighbours.find_neighbours(
        np.stack([embeddings[labels == label].mean(axis=0) for label in range(len(true))]), num_neighbours=10
    )
    alone, twin = sorted(min(together(true)))
    indices = complete.indices.copy()
    indices[[alone, twin]] = -1  # these found nobody, and nobody found them
    indices[np.isin(indices, (alone, twin))] = -1
    indices[:, 5:] = -1
    found = neighbours.SpeakerNeighbours(indices=-np.sort(-indices, axis=1))
    monkeypatch.setattr(same_person, "find_neighbours", lambda *_, **__: found)
    pairs = suspected_pairs(embeddings, labels)
    assert set(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)) == together(true) - {(alone, twin)}


def test_a_lower_threshold_suspects_more_and_keeps_what_a_higher_one_suspects():
    embeddings, labels, _ = corpus_with_split_people(noise=1.0)
    by_threshold = [suspected_pairs(embeddings, labels, threshold=value) for value in (0.3, 0.6, 0.9)]
    low, middle, high = (set(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)) for pairs in by_threshold)
    assert low > middle > high


def test_pairs_carry_their_similarity_to_each_other_and_to_themselves_most_suspicious_first():
    embeddings, labels, _ = corpus_with_split_people(noise=0.3, num_split=5, num_people=100)
    pairs = suspected_pairs(embeddings, labels)
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    own = own_similarities(embeddings, labels)
    for first, second, similarity, own_similarity in zip(*pairs, strict=True):
        sums = {speaker: embeddings[labels == speaker].sum(axis=0) for speaker in (first, second)}
        cross = [
            (unit[labels == one] @ sums[other]).mean() / np.linalg.norm(sums[other])
            for one, other in ((first, second), (second, first))
        ]
        assert similarity == pytest.approx(np.mean(cross), abs=1e-5)
        assert own_similarity == pytest.approx((own[first] + own[second]) / 2)
    assert len(pairs.first) >= 5
    assert (np.diff(pairs.own_similarity - pairs.similarity) >= 0).all()


def test_neither_the_length_of_an_embedding_nor_the_order_of_utterances_matters():
    embeddings, labels, _ = corpus_with_split_people(noise=0.3, num_people=100, num_split=10)
    order = np.random.default_rng(1).permutation(len(labels))
    straight, shuffled = suspected_pairs(embeddings, labels), suspected_pairs(embeddings[order] * 7, labels[order])
    for one, other in zip(straight, shuffled, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_own_similarity_leaves_the_utterance_out():
    rng = np.random.default_rng(1)
    labels = rng.permutation(np.array([0] * 4 + [1] * 2 + [2]))
    embeddings = rng.normal(size=(7, 5)).astype(np.float32)
    expected = []
    for speaker in range(3):
        own = embeddings[labels == speaker].astype(np.float64)
        cosines = [
            one @ rest / np.linalg.norm(one) / np.linalg.norm(rest)
            for place, one in enumerate(own)
            for rest in [np.delete(own, place, axis=0).sum(axis=0)]
            if len(own) > 1
        ]
        expected.append(np.mean(cosines) if cosines else np.nan)
    np.testing.assert_allclose(own_similarities(embeddings, labels), expected)


def test_a_speaker_of_one_utterance_is_judged_by_the_other_and_two_of_them_never():
    embeddings = np.array([[1, 0.1], [1, -0.1], [1, 0], [0, 1]], np.float32)
    pairs = suspected_pairs(embeddings, np.array([0, 0, 1, 2]))
    assert (pairs.first.tolist(), pairs.second.tolist()) == ([0], [1])
    assert not len(suspected_pairs(embeddings[:2], np.array([0, 1])).first)


def test_a_speaker_of_one_utterance_may_come_first():
    embeddings = np.array([[1, 0], [1, 0.1], [1, -0.1], [0, 1]], np.float32)
    pairs = suspected_pairs(embeddings, np.array([0, 1, 1, 2]))
    assert (pairs.first.tolist(), pairs.second.tolist()) == ([0], [1])
    assert pairs.own_similarity.tolist() == pytest.approx([own_similarities(embeddings, np.array([0, 1, 1, 2]))[1]])


def test_a_single_speaker_is_one_person():
    pairs = suspected_pairs(np.ones((3, 4), np.float32), np.zeros(3, np.int64))
    assert persons_of(1, pairs).tolist() == [0]
    assert [column.shape for column in pairs] == [(0,)] * 4
    assert pairs.first.dtype == pairs.second.dtype == np.int64


def test_ten_neighbours_are_compared_if_there_are_so_many(monkeypatch):
    asked_for = []

    def noting(centroids, *, num_neighbours):
        asked_for.append(num_neighbours)
        return neighbours.find_neighbours(centroids, num_neighbours=num_neighbours)

    monkeypatch.setattr(same_person, "find_neighbours", noting)
    for num_people in (30, 4):
        embeddings, labels, _ = corpus_with_split_people(noise=0.3, num_split=0, num_people=num_people, family=1)
        suspected_pairs(embeddings, labels)
    assert asked_for == [10, 3]


def test_a_pair_is_found_from_either_side_alone(monkeypatch):
    """Speaker 0 stands in the list of 1 only."""
    found = neighbours.SpeakerNeighbours(indices=np.array([[2], [0], [1]], np.int32))
    monkeypatch.setattr(same_person, "find_neighbours", lambda *_, **__: found)
    embeddings, labels = np.ones((6, 4), np.float32), np.repeat(np.arange(3), 2)
    pairs = suspected_pairs(embeddings, labels, num_neighbours=1, threshold=1.0)
    assert list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)) == [(0, 1), (0, 2), (1, 2)]


def test_a_typical_neighbour_is_the_median_of_those_that_are_known():
    rng = np.random.default_rng(0)
    known = np.arange(12) < np.arange(1, 12)[:, None]
    values = np.where(known, rng.permuted(np.arange(132.0).reshape(11, 12) ** 2, axis=1), np.nan)
    medians = same_person._typical_similarities(np.zeros(known.shape, np.int64), known, values[known])
    np.testing.assert_array_equal(medians, np.nanmedian(values, axis=1))


def test_rows_some_at_a_time_give_what_all_at_once_do(monkeypatch):
    embeddings, labels, _ = corpus_with_split_people(noise=0.3, num_people=40, num_split=5)
    at_once = suspected_pairs(embeddings, labels)
    monkeypatch.setattr(same_person, "_ROWS_AT_ONCE", 7)
    for one, other in zip(suspected_pairs(embeddings, labels), at_once, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    assert len(at_once.first) >= 5
    for vectors in (same_person._centroids(embeddings, labels), same_person._mean_directions(embeddings, labels)):
        assert vectors.dtype == np.float32  # a vector a speaker, of which there may be millions


def test_copies_of_one_voice_are_suspected_of_others_than_themselves():
    embeddings, labels = np.ones((60, 4), np.float32), np.repeat(np.arange(30), 2)
    pairs = suspected_pairs(embeddings, labels, num_neighbours=3)
    assert len(pairs.first) >= 30
    assert (pairs.first < pairs.second).all()
    found = list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))
    assert found == sorted(found)  # all are equally suspicious


def test_equally_suspicious_pairs_come_in_the_order_of_their_labels():
    """Every other couple of speakers is one of copies; in the others, the means are more alike than the utterances."""
    couples = np.arange(40)
    embeddings = np.zeros((40, 2, 2, 40, 2), np.float32)  # couples, speakers, utterances, axes: two a couple
    embeddings[couples, :, :, couples] = [1, 0]
    embeddings[couples[1::2], :, :, couples[1::2], 1] = [0.5, -0.5]
    pairs = suspected_pairs(embeddings.reshape(160, 80), np.repeat(np.arange(80), 2))
    assert (pairs.first // 2).tolist() == [*range(1, 40, 2), *range(0, 40, 2)]
    assert (pairs.second == pairs.first + 1).all()


def test_a_chain_of_similar_voices_is_cut_into_pairs():
    chain = pairs_of((1, 2), (0, 1), (2, 3), (3, 4), (4, 5))
    assert together(persons_of(6, chain)) == {(1, 2), (3, 4)}


def test_a_family_of_like_voices_on_a_line_does_not_become_one_person():
    rng = np.random.default_rng(0)
    angles = np.repeat(np.linspace(0, 0.5, 20), 10) + 0.05 * rng.normal(size=200)
    embeddings = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    pairs = suspected_pairs(embeddings, np.repeat(np.arange(20), 10), threshold=0.5)
    assert len(pairs.first) >= 19
    assert np.bincount(persons_of(20, pairs)).max() <= 4


def test_whoever_is_suspected_to_be_each_of_a_group_joins_it():
    triangle_and_guest = pairs_of((0, 2), (4, 5), (2, 3), (0, 3), (3, 4))
    assert together(persons_of(7, triangle_and_guest)) == {(0, 2), (0, 3), (2, 3), (4, 5)}


def test_persons_are_numbered_without_gaps_and_without_suspicion_everybody_is_one():
    persons = persons_of(6, pairs_of((1, 4), (3, 5)))
    assert persons.dtype == np.int64
    assert persons.tolist() == [0, 1, 2, 3, 1, 3]
    nobody = SuspectedPairs(*(np.zeros(0, np.int64),) * 2, *(np.zeros(0),) * 2)
    assert persons_of(4, nobody).tolist() == [0, 1, 2, 3]


def test_memory_beside_the_embeddings_grows_with_speakers_and_not_with_pairs_of_speakers():
    num_speakers, dim = 20_000, 16
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(num_speakers), 3)
    embeddings = (rng.normal(size=(num_speakers, dim))[labels] + 0.3 * rng.normal(size=(len(labels), dim))).astype("f4")
    tracemalloc.start()
    persons = persons_of(num_speakers, suspected_pairs(embeddings, labels))
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(persons) == num_speakers
    assert peak_bytes < 3_000 * num_speakers  # all pairs would take 80,000 a speaker


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_neighbours": 0}, "num_neighbours must be at least 1, got 0"),
        ({"threshold": 0.0}, "threshold must be above 0 and at most 1, got 0.0"),
        ({"threshold": 1.1}, "threshold must be above 0 and at most 1, got 1.1"),
        ({"embeddings": np.ones(4)}, r"embeddings must have shape .* got \(4,\) and \(4,\)"),
        ({"speaker_labels": np.zeros(3, int)}, r"a label each, got \(4, 2\) and \(3,\)"),
        ({"speaker_labels": np.array([0, 0, 1, -1])}, "speaker_labels must be from 0, got -1"),
        ({"speaker_labels": np.array([0, 0, 2, 2])}, "got no utterance of 1"),
        ({"embeddings": np.array([[1, 0], [0, 0], [1, 1], [0, 0.0]])}, r"not zero, got utterance 1 \(2 such\)"),
        ({"embeddings": np.array([[1, 0], [0, 1], [1, np.nan], [1, 1]])}, r"must be finite .* utterance 2 \(1 such"),
    ],
)
def test_unusable_arguments_are_refused(change, message):
    usable = {"embeddings": np.ones((4, 2)), "speaker_labels": np.array([0, 0, 1, 1])}
    with pytest.raises(ValueError, match=message):
        suspected_pairs(**{**usable, **change})


@pytest.mark.parametrize("pair", [(0, 3), (-1, 1)])
def test_a_pair_of_unknown_speakers_is_refused(pair):
    with pytest.raises(ValueError, match="pairs must hold labels from 0 to 2, got"):
        persons_of(3, pairs_of((0, 1), pair))


def test_pairs_have_two_speakers_each():
    with pytest.raises(ValueError, match="shorter"):
        persons_of(3, pairs_of((0, 1), (1, 2))._replace(second=np.array([1])))
