"""Speakers who may be one person under two names: each other's hardest negatives, which should not be negatives.

Two speakers are suspected if their utterances are nearly as close to the other's centroid as to their own, where each
utterance is left out of its own centroid. Both sides of the comparison are an utterance against a centroid, so a poor
model lowers both alike. The obvious rule, centroids closer to each other than utterances are to their centroid,
compares unlike things: means are closer than what they are means of, so with a poor model it suspects everybody.

How near is near enough depends on how alike the voices around a speaker are, so the similarity is placed between that
of a typical neighbour (0) and the speaker's own (1). A fixed share of the own similarity needs another value for every
model. Recall and precision over 1,100 synthetic speakers in families of like voices, 330 of them split in two, under an
encoder of so many steps (that of 600 was trained before the split), and over 100 readers, 37 split, under another:

============================ ============ ============ ============ ============
rule                         50 steps     150 steps    600 steps    readers
============================ ============ ============ ============ ============
this one, 0.8                .94, .82     .99, .88     1.00, .90    .89, .73
this one, 0.9, the default   .88, .92     .96, .97     .99, .97
95 % of the own similarity   .99, .38     1.00, .55    1.00, .78    1.00, .15
97 % of the own similarity   .97, .64     .99, .81     1.00, .92    .97, .33
============================ ============ ============ ============ ============

With two or three utterances a speaker both are lower, and where a model hardly tells speakers apart, most pairs are
wrong. Of 1,100 speakers none of whom has a double, with five utterances each under the encoder of 150 steps, 0.8 keeps
57 from another one and 0.9 keeps 23: in vain, and they are each other's hardest negatives.
`benchmarks/split_identities.py` measures this rule; the others were measured once, on the same embeddings, by which the
rule was chosen.

Persons are cliques of suspected pairs, not connected components: a chain of similar voices, each suspected of being
the next, would make one person of a family and empty the batches of what makes them hard. After 150 steps, 91 % of the
pairs in a clique are right, of those in a component 84 %.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from chns.core import BoolArray, Float32Array, Float64Array, IntArray
from chns.sampling.neighbours import find_neighbours

_ROWS_AT_ONCE = 8192


class SuspectedPairs(NamedTuple):
    """Pairs of speakers who may be one person, most suspicious first; every array has shape (pairs,).

    Attributes:
        first: Speaker label; the lower one of the pair.
        second: Speaker label.
        similarity: Mean cosine of the utterances of each with the centroid of the other.
        own_similarity: Mean cosine of the utterances of each with the centroid of their own speaker, each utterance
            left out of the centroid that it is compared with. About the same as ``similarity`` if they are one person.
    """

    first: IntArray
    second: IntArray
    similarity: Float64Array
    own_similarity: Float64Array


def suspected_pairs(
    embeddings: Float32Array, speaker_labels: IntArray, *, num_neighbours: int = 10, threshold: float = 0.9
) -> SuspectedPairs:
    """Pairs of speakers who are about as close to each other as to themselves.

    Memory beside the embeddings: a few numbers an utterance and a neighbour, and about four vectors a speaker.

    Args:
        embeddings: Of some utterances of every speaker, shape (utterances, dim), not normalised. Ten a speaker do;
            with two or three, fewer pairs are found and more of them are wrong.
        speaker_labels: Speaker of each, from 0, shape (utterances,).
        num_neighbours: Each is compared with so many, those of the most similar centroids, as `find_neighbours` finds
            them: exactly up to 100,000 speakers.
        threshold: How far on the way from the similarity to a typical neighbour (0: the median of the neighbours) to
            the own similarity (1) a pair must be. Lower finds more, and more wrong ones. Who is no closer to itself
            than to its neighbours can be told from nobody, and is suspected to be those above the typical one.

    Returns:
        By the difference of similarity and own similarity. Two speakers of one utterance each are never suspected,
        for want of an own similarity; one is judged by that of the other.

    Raises:
        ValueError: If a number is out of range, the shapes disagree, a label between 0 and the highest has no
            utterance, or an embedding is zero or not finite.
    """
    _require_usable(embeddings, speaker_labels)
    if num_neighbours < 1:
        raise ValueError(f"num_neighbours must be at least 1, got {num_neighbours}.")
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must be above 0 and at most 1, got {threshold}.")
    centroids = _centroids(embeddings, speaker_labels)
    if len(centroids) == 1:
        return SuspectedPairs(*(np.zeros(0, np.int64),) * 2, *(np.zeros(0),) * 2)
    num_compared = min(num_neighbours, len(centroids) - 1)
    neighbours = find_neighbours(centroids, num_neighbours=num_compared).indices.astype(np.int64)
    known = neighbours >= 0
    one, other = known.nonzero()[0], neighbours[known]
    first, second = np.minimum(one, other), np.maximum(one, other)
    similarity = _cross_similarities(_mean_directions(embeddings, speaker_labels), centroids, first, second)
    typical = _typical_similarities(neighbours, known, similarity)
    typical_of_pair = (typical[first] + typical[second]) / 2
    own = own_similarities(embeddings, speaker_labels)
    own_of_pair = _mean_of_known(own[first], own[second])
    gap = np.maximum(own_of_pair - typical_of_pair, 0)
    near = np.flatnonzero(similarity >= typical_of_pair + threshold * gap)
    near = near[np.unique(np.stack((first, second), axis=1)[near], axis=0, return_index=True)[1]]
    near = near[np.argsort(own_of_pair[near] - similarity[near], kind="stable")]
    return SuspectedPairs(first[near], second[near], similarity[near], own_of_pair[near])


def persons_of(num_speakers: int, pairs: SuspectedPairs) -> IntArray:
    """Number the persons behind the speakers: everybody is one person, but for those who are suspected to be the same.

    Pairs are taken in their order, most suspicious first, and two groups become one person only if each speaker of
    one is suspected to be each of the other. So a person never has more speakers than are all alike.

    Args:
        num_speakers: Number of speaker labels.
        pairs: What `suspected_pairs` found.

    Returns:
        Person of each speaker, shape (num_speakers,), int64, from 0; speakers of equal numbers should not be
        negatives of each other.

    Raises:
        ValueError: If a pair holds a label that is no speaker.
    """
    edges = list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))
    strangers = [speaker for edge in edges for speaker in edge if not 0 <= speaker < num_speakers]
    if strangers:
        raise ValueError(f"pairs must hold labels from 0 to {num_speakers - 1}, got {strangers[0]}.")
    suspected = {frozenset(edge) for edge in edges}
    group_of = {speaker: [speaker] for edge in edges for speaker in edge}
    for first, second in edges:
        left, right = group_of[first], group_of[second]
        if left is not right and all(frozenset((a, b)) in suspected for a in left for b in right):
            left += right
            group_of.update(dict.fromkeys(right, left))
    lowest = np.arange(num_speakers)
    for speaker, group in group_of.items():
        lowest[speaker] = min(group)
    return np.unique(lowest, return_inverse=True)[1].astype(np.int64)


def own_similarities(embeddings: Float32Array, speaker_labels: IntArray) -> Float64Array:
    """Mean cosine of each speaker's utterances with the mean of the speaker's other utterances.

    Args:
        embeddings: Shape (utterances, dim), not normalised.
        speaker_labels: Speaker of each, shape (utterances,).

    Returns:
        Shape (speakers,); NaN for a speaker of one utterance.

    Raises:
        ValueError: If a label between the lowest, 0, and the highest has no utterance.
    """
    _require_dense(speaker_labels)
    counts = np.bincount(speaker_labels)
    sums = _sums_by_speaker(embeddings, speaker_labels)
    cosines = np.empty(len(speaker_labels))
    for some in _blocks(len(speaker_labels)):
        labels, one = speaker_labels[some], embeddings[some].astype(np.float64)
        cosines[some] = np.einsum("ud,ud->u", unit_or_zero(one), unit_or_zero(sums[labels] - one))
    cosines[counts[speaker_labels] == 1] = np.nan
    means: Float64Array = np.bincount(speaker_labels, cosines) / counts
    return means


def _typical_similarities(neighbours: IntArray, known: BoolArray, similarity: Float64Array) -> Float64Array:
    """Median similarity of each speaker to its known neighbours, shape (speakers,); NaN for one without any."""
    table = np.full(neighbours.shape, np.nan)
    table[known] = similarity
    table.sort(axis=1)  # NaN comes last
    num_known, rows = known.sum(axis=1), np.arange(len(table))
    medians: Float64Array = (table[rows, (num_known - 1) // 2] + table[rows, num_known // 2]) / 2
    return medians


def _cross_similarities(
    directions: Float32Array, centroids: Float32Array, first: IntArray, second: IntArray
) -> Float64Array:
    """Mean cosine of the utterances of each of two speakers with the centroid of the other, shape (pairs,)."""
    similarity = np.empty(len(first))
    for some in _blocks(len(first)):
        a, b = first[some], second[some]
        similarity[some] = np.einsum("pd,pd->p", directions[a], centroids[b])
        similarity[some] += np.einsum("pd,pd->p", directions[b], centroids[a])
    return similarity / 2


def _mean_directions(embeddings: Float32Array, speaker_labels: IntArray) -> Float32Array:
    """Mean of each speaker's normalised embeddings: its product with a unit vector is a mean cosine."""
    sums = np.zeros((int(speaker_labels.max()) + 1, embeddings.shape[1]))
    for some in _blocks(len(embeddings)):
        np.add.at(sums, speaker_labels[some], unit_or_zero(embeddings[some].astype(np.float64)))
    means = np.empty(sums.shape, np.float32)
    counts = np.bincount(speaker_labels)[:, None]
    for some in _blocks(len(sums)):
        means[some] = sums[some] / counts[some]
    return means


def _centroids(embeddings: Float32Array, speaker_labels: IntArray) -> Float32Array:
    """The mean embedding of each speaker, normalised."""
    sums = _sums_by_speaker(embeddings, speaker_labels)
    centroids = np.empty(sums.shape, np.float32)
    for some in _blocks(len(sums)):
        centroids[some] = unit_or_zero(sums[some])
    return centroids


def _sums_by_speaker(embeddings: Float32Array, speaker_labels: IntArray) -> Float64Array:
    sums = np.zeros((int(speaker_labels.max()) + 1, embeddings.shape[1]))
    for some in _blocks(len(embeddings)):
        np.add.at(sums, speaker_labels[some], embeddings[some])
    return sums


def unit_or_zero(vectors: Float64Array) -> Float64Array:
    """Vectors of length one, shape (..., dim); a zero one stays zero."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    normalised: Float64Array = vectors / np.maximum(lengths, np.finfo(np.float64).tiny)
    return normalised


def _mean_of_known(left: Float64Array, right: Float64Array) -> Float64Array:
    """The mean of two numbers, or the one that is not NaN."""
    known_left, known_right = np.where(np.isnan(left), right, left), np.where(np.isnan(right), left, right)
    mean: Float64Array = (known_left + known_right) / 2
    return mean


def _blocks(count: int) -> list[slice]:
    """Rows some at a time, so that what is made of them stays small."""
    return [slice(start, start + _ROWS_AT_ONCE) for start in range(0, count, _ROWS_AT_ONCE)]


def _require_usable(embeddings: Float32Array, speaker_labels: IntArray) -> None:
    if embeddings.ndim != 2 or speaker_labels.shape != embeddings.shape[:1] or not len(embeddings):
        raise ValueError(
            f"embeddings must have shape (utterances, dim) and a label each, got {embeddings.shape} and "
            f"{speaker_labels.shape}."
        )
    _require_dense(speaker_labels)
    squares = np.einsum("ud,ud->u", embeddings, embeddings)
    bad = np.flatnonzero(~np.isfinite(squares) | (squares == 0))
    if len(bad):
        raise ValueError(f"embeddings must be finite and not zero, got utterance {bad[0]} ({len(bad)} such).")


def _require_dense(speaker_labels: IntArray) -> None:
    """Memory is by the highest label; it must be one less than the number of speakers, however large ids can be."""
    if speaker_labels.min() < 0:
        raise ValueError(f"speaker_labels must be from 0, got {speaker_labels.min()}.")
    present = np.unique(speaker_labels)
    absent = np.flatnonzero(present != np.arange(len(present)))
    if len(absent):
        raise ValueError(f"speaker_labels must name every speaker, got no utterance of {absent[0]}.")
