"""Training speakers who may be one person under two names.

Such a pair is each other's hardest negative, and clustering finds exactly these, so they are worth a listen.

Two speakers are suspected if their utterances are nearly as close to the other's centroid as to their own, where each
utterance is left out of its own centroid. Both sides of the comparison are an utterance against a centroid, so a poor
model lowers both alike. The obvious rule, centroids closer to each other than utterances are to their centroid,
compares unlike things: means are closer than what they are means of, so with a poor model it suspects everybody.

Pairs suspected, and the true ones among them, of 1,100 synthetic speakers (families of ten similar voices, 10
utterances each), 55 of whom were split in two, under a small ECAPA-TDNN as it is and with noise on its embeddings:

====================================== ======= ======= =========
median similarity of own utterances    0.95    0.84    0.63
====================================== ======= ======= =========
this rule                              116, 55 131, 55 173, 55
centroids against utterances           102, 55 858, 55 5,641, 55
====================================== ======= ======= =========

The true ones come first: 53, 52 and 45 of the first 55. Those that follow are the most similar voices of a family.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from chns.embedding import FloatArray as EmbeddingArray
from chns.files import atomic_path
from chns.report.findings import FloatArray, IntArray, SuspectedDuplicate
from chns.report.training_speakers import TrainingSpeakers

_SUSPICIOUS_SHARE = 0.95
_ROWS_AT_ONCE = 8192
_BEGINNINGS_OF_FORMULAS = ("=", "+", "-", "@")


def suspected_duplicates(
    speakers: TrainingSpeakers, *, num_neighbours: int = 10, most: int = 1_000
) -> list[SuspectedDuplicate]:
    """Pairs of speakers whose similarity is at least 95 % of their own.

    Args:
        speakers: Whom to compare.
        num_neighbours: Each is compared with so many, those of the most similar centroids.
        most: Most pairs returned.

    Returns:
        Most suspicious first: by the ratio of similarity to own similarity. Two speakers of one utterance each are
        never suspected, for want of an own similarity.
    """
    pairs = nearest_pairs(speakers.centroids, num_neighbours=num_neighbours)
    directions = _mean_directions(speakers.embeddings, speakers.labels)
    first, second = pairs.T
    similarity = (
        _dot_products(directions, first, speakers.centroids, second)
        + _dot_products(directions, second, speakers.centroids, first)
    ) / 2
    own = own_similarities(speakers.embeddings, speakers.labels)[pairs]
    own_of_pair = np.where(np.isnan(own), own[:, ::-1], own).mean(axis=1)
    suspicious = np.flatnonzero(similarity >= _SUSPICIOUS_SHARE * own_of_pair)
    worst = suspicious[np.argsort(-similarity[suspicious] / own_of_pair[suspicious], kind="stable")][:most]
    return [
        SuspectedDuplicate(
            speakers=(speakers.names[first[pair]], speakers.names[second[pair]]),
            similarity=float(similarity[pair]),
            own_similarity=float(own_of_pair[pair]),
        )
        for pair in worst
    ]


def own_similarities(embeddings: EmbeddingArray, labels: IntArray) -> FloatArray:
    """Mean cosine of each speaker's utterances with the mean of the speaker's other utterances.

    Args:
        embeddings: Shape (utterances, dim), not normalised.
        labels: Speaker of each, shape (utterances,).

    Returns:
        Shape (speakers,); NaN for a speaker of one utterance.
    """
    counts = np.bincount(labels)
    sums = np.zeros((len(counts), embeddings.shape[1]))
    np.add.at(sums, labels, embeddings)
    cosines = np.empty(len(labels))
    for start in range(0, len(labels), _ROWS_AT_ONCE):
        some = slice(start, start + _ROWS_AT_ONCE)
        one = embeddings[some].astype(np.float64)
        others = sums[labels[some]] - one
        lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(others, axis=1)
        alone = counts[labels[some]] == 1
        cosines[some] = np.where(alone, np.nan, np.einsum("ud,ud->u", one, others) / np.where(alone, 1, lengths))
    means: FloatArray = np.bincount(labels, cosines) / counts
    return means


def nearest_pairs(centroids: EmbeddingArray, *, num_neighbours: int) -> IntArray:
    """Each speaker with those whose centroids are most similar; no pair is there twice.

    Exact: faiss compares all, in blocks, and keeps the best of each. 10,000 speakers x 192 dimensions take 0.6 s and
    100,000 45 s on one thread, which is little beside embedding them, so no approximate index is built.

    Args:
        centroids: Unit-length, shape (speakers, dim).
        num_neighbours: Neighbours of each.

    Returns:
        Shape (pairs, 2), both ascending.
    """
    import faiss

    num_found = min(num_neighbours + 1, len(centroids))  # everybody is their own neighbour
    _, neighbours = faiss.knn(centroids, centroids, num_found, metric=faiss.METRIC_INNER_PRODUCT)
    pairs = np.stack((np.repeat(np.arange(len(centroids)), num_found), neighbours.ravel()), axis=1)
    pairs = np.unique(np.sort(pairs, axis=1), axis=0)
    return pairs[pairs[:, 0] < pairs[:, 1]]


def write_duplicates(path: Path, duplicates: Sequence[SuspectedDuplicate]) -> None:
    """Write speaker_a, speaker_b, similarity and own_similarity as CSV, atomically.

    Names come from whoever made the manifest, and a spreadsheet would run one that begins like a formula. Such a name
    gets an apostrophe in front, and all names are in quotes, so that no separator in one starts a new cell.

    Args:
        path: The file.
        duplicates: In the order of the lines.
    """
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
        writer.writerow(("speaker_a", "speaker_b", "similarity", "own_similarity"))
        for duplicate in duplicates:
            names = map(_harmless, duplicate.speakers)
            writer.writerow((*names, round(duplicate.similarity, 4), round(duplicate.own_similarity, 4)))


def _mean_directions(embeddings: EmbeddingArray, labels: IntArray) -> EmbeddingArray:
    """Mean of each speaker's normalised embeddings: its product with a unit vector is a mean cosine."""
    sums = np.zeros((int(labels.max()) + 1, embeddings.shape[1]))
    np.add.at(sums, labels, embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True))
    directions: EmbeddingArray = (sums / np.bincount(labels)[:, None]).astype(np.float32)
    return directions


def _dot_products(
    left: EmbeddingArray, left_rows: npt.NDArray[np.intp], right: EmbeddingArray, right_rows: npt.NDArray[np.intp]
) -> FloatArray:
    """Products of pairs of rows, some at a time, because there are many more pairs than rows."""
    products = np.empty(len(left_rows))
    for start in range(0, len(products), _ROWS_AT_ONCE):
        some = slice(start, start + _ROWS_AT_ONCE)
        products[some] = np.einsum("pd,pd->p", left[left_rows[some]], right[right_rows[some]])
    return products


def _harmless(name: str) -> str:
    return f"'{name}" if name.startswith(_BEGINNINGS_OF_FORMULAS) else name
