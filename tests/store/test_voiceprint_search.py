"""Exact search, by either way."""

import numpy as np
import pytest

from chns.store import content as voiceprint_search
from chns.store.content import ExemplarSearch, VoiceprintSearch


def units(seed, count, dim=24):
    vectors = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("most_by_numpy", [100_000, 0])
@pytest.mark.parametrize(("count", "top"), [(1, 1), (50, 1), (50, 7), (50, 50), (50, 80)])
def test_the_best_are_those_of_a_full_sort(monkeypatch, most_by_numpy, count, top):
    monkeypatch.setattr(voiceprint_search, "MOST_BY_NUMPY", most_by_numpy)
    vectors = units(0, count)
    search = VoiceprintSearch(vectors)
    for query in units(1, 10):
        rows, scores = search.best(query, top)
        expected = np.argsort(-(vectors @ query))[:top]
        np.testing.assert_array_equal(rows, expected)
        np.testing.assert_allclose(scores, (vectors @ query)[expected], atol=1e-6)


def test_scores_are_cosines_whatever_rounding_does():
    vectors = np.nextafter(units(0, 200), np.float32(np.inf) * np.sign(units(0, 200)))  # a little too long
    assert (np.einsum("ij,ij->i", vectors, vectors) > 1).any()
    for search in (VoiceprintSearch(vectors), ExemplarSearch(vectors, np.arange(200), num_best=1)):
        assert all(search.best(query, 1)[1][0] <= 1 for query in vectors)
        assert all(search.best(-query, 200)[1][-1] >= -1 for query in vectors)


def test_up_to_the_limit_numpy_searches_and_beyond_faiss(monkeypatch):
    monkeypatch.setattr(voiceprint_search, "MOST_BY_NUMPY", 5)
    monkeypatch.setattr(voiceprint_search, "_by_faiss", lambda _: "faiss")
    assert [VoiceprintSearch(units(0, count))._search == "faiss" for count in (4, 5, 6)] == [False, False, True]


def test_of_equal_voiceprints_the_first_are_the_best():
    vectors = np.concatenate([np.tile(units(0, 1), (40, 1)), -units(0, 1)])
    assert VoiceprintSearch(vectors).best(vectors[0], 40)[0].tolist() == list(range(40))
    assert VoiceprintSearch(vectors).best(vectors[0], 41)[0].tolist() == list(range(41))
    vectors = np.tile(np.array([[1, 0], [0.6, 0.8]], np.float32), (20, 1))  # alternating; their cosines are exact
    assert VoiceprintSearch(vectors).best(vectors[0], 40)[0].tolist() == [*range(0, 40, 2), *range(1, 40, 2)]


@pytest.mark.parametrize(("num_best", "rule"), [(None, np.mean), (1, np.max), (2, None), (3, None), (50, np.mean)])
def test_scores_of_exemplars_are_those_of_a_loop(num_best, rule):
    counts = np.random.default_rng(2).integers(1, 9, size=30)
    firsts = np.cumsum(counts) - counts
    embeddings = units(0, counts.sum())
    search = ExemplarSearch(embeddings, firsts, num_best=num_best)
    for query in units(1, 5):
        expected = []
        for first, count in zip(firsts, counts, strict=True):
            cosines = sorted((embeddings[first : first + count] @ query).tolist(), reverse=True)
            expected.append(np.mean(cosines[:num_best]) if rule is None else rule(cosines))
        np.testing.assert_allclose(search.scores(query), expected, atol=1e-6)
        assert search.scores(query).dtype == np.float32
        rows, scores = search.best(query, 4)
        np.testing.assert_array_equal(rows, np.argsort(-np.array(expected))[:4])
        np.testing.assert_allclose(scores, np.sort(expected)[::-1][:4], atol=1e-6)


def test_nobody_is_found_among_no_exemplars():
    for num_best in (None, 1, 2):
        rows, scores = ExemplarSearch(units(0, 0), np.empty(0, np.int64), num_best=num_best).best(units(1, 1)[0], 3)
        assert len(rows) == len(scores) == 0
        assert scores.dtype == np.float32
