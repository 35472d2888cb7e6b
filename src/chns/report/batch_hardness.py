"""How alike the different speakers of a batch sound: random batches against hard ones, under one model.

Both kinds are composed by the samplers that train, from the embedded utterances. Pairs and anchors are drawn, not
listed, so memory hardly depends on the size of a batch: 200,000 pairs x 192 dimensions take half a second.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from chns.core.arrays import Float64Array, IntArray
from chns.evaluation.scoring import cosine_scores
from chns.report.findings import BatchHardness
from chns.report.training_speakers import TrainingSpeakers
from chns.sampling.batches import ClusterSpeakerBatches, NeighbourSpeakerBatches, RandomSpeakerBatches
from chns.sampling.clusters import SpeakerClusters, cluster_speakers, derived_num_clusters, unit_length
from chns.sampling.neighbours import find_neighbours
from chns.sampling.speaker_batches import BatchShape, HardSpeakerBatches
from chns.training.folder import BatchSettings, ClusterSettings

_FEWEST_SPEAKERS_PER_CLUSTER = 10
_FEWEST_BATCHES, _MOST_BATCHES = 20, 500
_ANCHORS_PER_BATCH = 64


def batch_hardness(
    speakers: TrainingSpeakers,
    clusters: SpeakerClusters | None,
    *,
    batches: BatchSettings,
    hard_phase: ClusterSettings,
    max_pairs: int = 200_000,
    seed: int = 0,
) -> BatchHardness | None:
    """Cosines of utterances of different speakers who meet in a batch.

    A batch has the run's P and K. If only some training speakers were embedded, P shrinks with their number, as their
    clusters did, so a batch is drawn from as large a part of all voices as in training; so do groups of neighbours and
    the band that they are drawn from. If fewer than K utterances of a speaker were embedded, K is their number.

    Hard batches are those of the run's kind, clustered ones for a run of random batches. Neighbours are found among the
    embedded speakers, by their centroids under the model as it is now. Speakers whom a run kept apart because they may
    be one person can meet here.

    Args:
        speakers: Whose utterances batches are drawn from.
        clusters: Of all training speakers, as the run had them. None if it never clustered: where clusters are needed,
            the speakers are then clustered by their centroids as the run's settings say, with fewer clusters where
            these would hold fewer than ten speakers on average.
        batches: Kind, P and K.
        hard_phase: Hard ratio, pooling, size of a group and band of neighbours; for a run that never clustered also
            the number of clusters.
        max_pairs: Most pairs of each kind. Fewer are drawn where so many batches do not hold as many.
        seed: Decides batches and pairs.

    Returns:
        None if fewer than two speakers have enough utterances for a batch.
    """
    per_speaker = np.bincount(speakers.labels)
    utterances_per_speaker = min(batches.utterances_per_speaker, int(per_speaker.max()))
    num_usable = int(np.count_nonzero(per_speaker >= utterances_per_speaker))
    embedded_share = len(speakers.names) / speakers.num_training_speakers
    speakers_per_batch = min(num_usable, max(2, round(batches.speakers_per_batch * embedded_share)))
    if speakers_per_batch < 2:
        return None
    shape = BatchShape(speakers_per_batch, utterances_per_speaker, seed=seed)
    random = RandomSpeakerBatches(speakers.labels, shape)
    kind: Literal["clustered", "neighbours"] = "neighbours" if batches.kind in ("neighbours", "auto") else "clustered"
    if kind == "neighbours":
        hard = _of_neighbours(speakers, hard_phase, embedded_share, shape)
    else:
        hard = _clustered(speakers, clusters, hard_phase, shape)
    random_pairs, random_closest = _similarities(random, speakers, max_pairs, seed)
    hard_pairs, hard_closest = _similarities(hard, speakers, max_pairs, seed)
    return BatchHardness(
        kind=kind,
        random=random_pairs,
        hard=hard_pairs,
        random_closest=random_closest,
        hard_closest=hard_closest,
    )


def _clustered(
    speakers: TrainingSpeakers,
    clusters: SpeakerClusters | None,
    hard_phase: ClusterSettings,
    shape: BatchShape,
) -> HardSpeakerBatches:
    """Batches of the run's clusters, or of new ones."""
    if clusters is not None:
        own = SpeakerClusters(labels=clusters.labels[speakers.places], centres=clusters.centres, seed=clusters.seed)
    else:
        wanted = hard_phase.num_clusters or derived_num_clusters(len(speakers.names), shape.speakers_per_batch)
        most = max(1, len(speakers.names) // _FEWEST_SPEAKERS_PER_CLUSTER)
        own = cluster_speakers(speakers.centroids, num_clusters=min(wanted, most), seed=shape.seed)
    return ClusterSpeakerBatches(
        speakers.labels, own, shape, hard_ratio=hard_phase.hard_ratio, pooling=hard_phase.pooling
    )


def _of_neighbours(
    speakers: TrainingSpeakers, hard_phase: ClusterSettings, embedded_share: float, shape: BatchShape
) -> HardSpeakerBatches:
    """Batches of groups of neighbours; band and groups are no larger than the speakers allow."""
    num_speakers = len(speakers.names)
    first = min(round(embedded_share * hard_phase.first_neighbour), num_speakers - 2)
    end = min(max(round(embedded_share * hard_phase.last_neighbour), first + 1), num_speakers - 1)
    group_size = min(max(round(embedded_share * hard_phase.group_size), 2), end - first + 1)
    neighbours = find_neighbours(speakers.centroids, num_neighbours=end, seed=shape.seed)
    return NeighbourSpeakerBatches(
        speakers.labels,
        neighbours,
        shape,
        hard_ratio=hard_phase.hard_ratio,
        group_size=group_size,
        band=(first, end),
    )


def _similarities(
    sampler: RandomSpeakerBatches | HardSpeakerBatches, speakers: TrainingSpeakers, max_pairs: int, seed: int
) -> tuple[Float64Array, float]:
    """Cosines of pairs of different speakers of a batch, and the mean of an utterance's highest."""
    num_of_speaker = sampler.shape.utterances_per_speaker
    size = sampler.shape.speakers_per_batch * num_of_speaker
    num_pairs = size * (size - num_of_speaker) // 2
    num_batches = min(_MOST_BATCHES, max(_FEWEST_BATCHES, math.ceil(max_pairs / num_pairs)))
    batches = [np.array(sampler.batch(0, step)) for step in range(num_batches)]
    pairs = _pairs(batches, num_of_speaker, min(num_pairs, math.ceil(max_pairs / num_batches)), seed)
    first, second = (utterances[:max_pairs] for utterances in pairs)
    closest = _closest(batches, num_of_speaker, speakers, seed)
    return cosine_scores(speakers.embeddings, first, second).astype(np.float64), closest


def _pairs(batches: list[IntArray], num_of_speaker: int, per_batch: int, seed: int) -> tuple[IntArray, IntArray]:
    """Pairs of utterances of different speakers of a batch, equally many of each."""
    rng = np.random.default_rng(seed)
    size = len(batches[0])
    firsts, seconds = [], []
    for utterances in batches:
        first = rng.integers(size, size=per_batch)
        # A speaker's utterances are adjacent: skip them, and any of the others comes next.
        own_start = first - first % num_of_speaker
        second = (own_start + num_of_speaker + rng.integers(size - num_of_speaker, size=per_batch)) % size
        firsts.append(utterances[first])
        seconds.append(utterances[second])
    return np.concatenate(firsts), np.concatenate(seconds)


def _closest(batches: list[IntArray], num_of_speaker: int, speakers: TrainingSpeakers, seed: int) -> float:
    """Mean cosine of an utterance with the most similar one of another speaker in its batch."""
    rng = np.random.default_rng(seed)
    highest = []
    for utterances in batches:
        embeddings = unit_length(speakers.embeddings[utterances])
        anchors = rng.permutation(len(utterances))[:_ANCHORS_PER_BATCH]
        cosines = embeddings[anchors] @ embeddings.T
        same = anchors[:, None] // num_of_speaker == np.arange(len(utterances)) // num_of_speaker
        highest.append(np.where(same, -np.inf, cosines).max(axis=1))
    return float(np.concatenate(highest).mean())
