"""Find the voiceprints that are most like an embedding, exactly.

Up to 100,000 voiceprints by a NumPy product, above by faiss's ``IndexFlatIP``, which is exact too and keeps only the
best scores: 12 ms instead of 20 ms at 300,000 x 192 on one core. An HNSW graph would answer in under a millisecond,
but misses neighbours, takes 12 s to build for 50,000, and would have to be kept in a file of its own to be of use to a
command, from which a deleted person must vanish too.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from chns.core.arrays import Float32Array, IntArray

MOST_BY_NUMPY = 100_000

_Search = Callable[[Float32Array, int], tuple[IntArray, Float32Array]]


class VoiceprintSearch:
    """Voiceprints in memory.

    Args:
        vectors: Unit-length voiceprints, shape (speakers, dim).
    """

    def __init__(self, vectors: Float32Array) -> None:
        self._count = len(vectors)
        self._vectors = vectors
        self._search = _by_numpy(vectors) if len(vectors) <= MOST_BY_NUMPY else _by_faiss(vectors)

    def scores(self, embedding: Float32Array) -> Float32Array:
        """Cosine with every voiceprint, shape (speakers,), for an embedding of unit length, shape (dim,)."""
        scores: Float32Array = self._vectors @ embedding
        return scores

    def best(self, embedding: Float32Array, top: int) -> tuple[IntArray, Float32Array]:
        """The nearest voiceprints, the best first.

        Args:
            embedding: Unit length, shape (dim,).
            top: How many at most.

        Returns:
            Their rows and their cosines in [-1, 1], both of shape (min(top, speakers),).
        """
        rows, scores = self._search(embedding, min(top, self._count))
        return rows, np.clip(scores, -1.0, 1.0)


class ExemplarSearch:
    """Every stored utterance in memory; a person scores by several cosines instead of that of one voiceprint.

    Args:
        embeddings: Unit length, those of a person beside one another, shape (utterances, dim).
        firsts: Row of each person's first utterance, rising from 0, shape (speakers,).
        num_best: How many of a person's highest cosines are averaged; fewer if there are no more. All by default.
    """

    def __init__(self, embeddings: Float32Array, firsts: IntArray, *, num_best: int | None = None) -> None:
        self._embeddings = embeddings
        self._firsts = firsts
        self._num_best = num_best
        self._counts = np.diff(firsts, append=len(embeddings))
        self._people = np.repeat(np.arange(len(firsts)), self._counts)
        self._ranks = np.arange(len(embeddings)) - np.repeat(firsts, self._counts)

    def scores(self, embedding: Float32Array) -> Float32Array:
        """Of each person, shape (speakers,), for an embedding of unit length, shape (dim,)."""
        if not len(self._firsts):
            return np.empty(0, np.float32)
        cosines = self._embeddings @ embedding
        if self._num_best is None:
            return (np.add.reduceat(cosines, self._firsts) / self._counts).astype(np.float32)
        if self._num_best == 1:
            return np.maximum.reduceat(cosines, self._firsts)
        best_first = cosines[np.lexsort((-cosines, self._people))]
        sums = np.add.reduceat(np.where(self._ranks < self._num_best, best_first, np.float32(0)), self._firsts)
        return (sums / np.minimum(self._counts, self._num_best)).astype(np.float32)

    def best(self, embedding: Float32Array, top: int) -> tuple[IntArray, Float32Array]:
        """As `VoiceprintSearch.best`."""
        rows, scores = _highest(self.scores(embedding), min(top, len(self._firsts)))
        return rows, np.clip(scores, -1.0, 1.0)


def _by_numpy(vectors: Float32Array) -> _Search:
    def search(embedding: Float32Array, top: int) -> tuple[IntArray, Float32Array]:
        return _highest(vectors @ embedding, top)

    return search


def _highest(scores: Float32Array, top: int) -> tuple[IntArray, Float32Array]:
    """Places of the highest scores, the best first, and the scores there."""
    first = len(scores) - top
    candidates = np.sort(np.argpartition(scores, first)[first:]) if first else np.arange(len(scores))
    best_first = candidates[np.argsort(-scores[candidates], kind="stable")]
    return best_first, scores[best_first]


def _by_faiss(vectors: Float32Array) -> _Search:
    import faiss

    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)

    def search(embedding: Float32Array, top: int) -> tuple[IntArray, Float32Array]:
        scores, rows = index.search(embedding[None], top)
        return rows[0], scores[0]

    return search
