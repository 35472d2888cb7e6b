"""Groups of integers in flat arrays, draws from them, and the array types of this room."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from chns.core.arrays import Float32Array, IntArray


class Groups(NamedTuple):
    """Members of groups in one flat array: group g holds ``members[starts[g] : starts[g] + sizes[g]]``."""

    members: IntArray
    starts: IntArray
    sizes: IntArray

    @classmethod
    def by_label(cls, labels: IntArray, num_groups: int) -> Groups:
        """Group positions by their label."""
        sizes = np.bincount(labels, minlength=num_groups)
        return cls(np.argsort(labels, kind="stable"), np.cumsum(sizes) - sizes, sizes)


def draw_excluding(rng: np.random.Generator, total: int, count: int, excluded: IntArray) -> IntArray:
    """Draw ``count`` different numbers below ``total`` that are not in ``excluded``, without listing the rest.

    Draws ranks among the numbers that remain; the number of rank r is r plus how many excluded ones lie before it.
    """
    ranks = rng.choice(total - len(excluded), count, replace=False)
    remaining_before = np.sort(excluded) - np.arange(len(excluded))
    return ranks + np.searchsorted(remaining_before, ranks, side="right")


def first_of_each(keys: IntArray) -> IntArray:
    """Positions at which a key comes for the first time, in their order."""
    _, first = np.unique(keys, return_index=True)
    return np.sort(first)


def draw_per_speaker(speaker_labels: IntArray, count: int, rng: np.random.Generator) -> IntArray:
    """Up to ``count`` utterances of each speaker, drawn at random; their indices, ascending."""
    shuffled = rng.permutation(len(speaker_labels))
    by_speaker = shuffled[np.argsort(speaker_labels[shuffled], kind="stable")]
    sizes = np.unique(speaker_labels, return_counts=True)[1]
    place = np.arange(len(by_speaker)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.sort(by_speaker[place < count])


def centroids_of(embeddings: Float32Array, speaker_labels: IntArray, num_speakers: int) -> Float32Array:
    """The mean embedding of each speaker, normalised.

    Args:
        embeddings: Not normalised, shape (utterances, dim).
        speaker_labels: Speaker of each, shape (utterances,); every speaker has one at least.
        num_speakers: Number of speakers.

    Returns:
        Shape (num_speakers, dim).
    """
    sums = np.zeros((num_speakers, embeddings.shape[1]), np.float64)
    np.add.at(sums, speaker_labels, embeddings)
    centroids: Float32Array = (sums / np.linalg.norm(sums, axis=1, keepdims=True)).astype(np.float32)
    return centroids
