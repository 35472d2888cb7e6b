"""How alike the different speakers of a batch sound: random batches against clustered ones, under one model.

Both kinds are composed by the samplers that train, from the embedded utterances. Pairs are drawn, not listed, so
memory depends on their number only: 200,000 pairs x 192 dimensions take half a second, whatever the size of a batch.
"""

from __future__ import annotations

import math

import numpy as np

from chns.config import BatchSettings, ClusterSettings
from chns.evaluation.scoring import cosine_scores
from chns.report.findings import BatchHardness, IntArray
from chns.report.training_speakers import TrainingSpeakers
from chns.sampling import ClusterSpeakerBatches, RandomSpeakerBatches, SpeakerClusters, cluster_speakers

_FEWEST_SPEAKERS_PER_CLUSTER = 10
_FEWEST_BATCHES, _MOST_BATCHES = 20, 500


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
    clusters did, so a batch is drawn from as large a part of all voices as in training. If fewer than K utterances of a
    speaker were embedded, K is their number.

    Args:
        speakers: Whose utterances batches are drawn from.
        clusters: Of all training speakers, as the run had them. None if it never clustered: the speakers are then
            clustered by their centroids as the run's settings say, with fewer clusters where these would hold fewer
            than ten speakers on average.
        batches: P and K.
        hard_phase: Hard ratio and pooling; for a run that never clustered also the number of clusters.
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
    random = RandomSpeakerBatches(
        speakers.labels,
        speakers_per_batch=speakers_per_batch,
        utterances_per_speaker=utterances_per_speaker,
        seed=seed,
    )
    clustered = ClusterSpeakerBatches(
        speakers.labels,
        _of_embedded(speakers, clusters, num_clusters=hard_phase.num_clusters, seed=seed),
        speakers_per_batch=speakers_per_batch,
        utterances_per_speaker=utterances_per_speaker,
        hard_ratio=hard_phase.hard_ratio,
        pooling=hard_phase.pooling,
        seed=seed,
    )
    return BatchHardness(
        **{
            kind: cosine_scores(speakers.embeddings, *_negatives(sampler, max_pairs, seed)).astype(np.float64)
            for kind, sampler in (("random", random), ("clustered", clustered))
        }
    )


def _of_embedded(
    speakers: TrainingSpeakers, clusters: SpeakerClusters | None, *, num_clusters: int, seed: int
) -> SpeakerClusters:
    """Clusters of the embedded speakers."""
    if clusters is not None:
        return SpeakerClusters(labels=clusters.labels[speakers.places], centres=clusters.centres, seed=clusters.seed)
    most_clusters = max(1, len(speakers.names) // _FEWEST_SPEAKERS_PER_CLUSTER)
    return cluster_speakers(speakers.centroids, num_clusters=min(num_clusters, most_clusters), seed=seed)


def _negatives(
    batches: RandomSpeakerBatches | ClusterSpeakerBatches, max_pairs: int, seed: int
) -> tuple[IntArray, IntArray]:
    """Pairs of utterances of different speakers of a batch, equally many of each of the first batches."""
    num_speakers, num_of_speaker = batches.speakers_per_batch, batches.utterances_per_speaker
    size = num_speakers * num_of_speaker
    num_in_batch = size * (size - num_of_speaker) // 2
    num_batches = min(_MOST_BATCHES, max(_FEWEST_BATCHES, math.ceil(max_pairs / num_in_batch)))
    pairs_per_batch = min(num_in_batch, math.ceil(max_pairs / num_batches))
    rng = np.random.default_rng(seed)
    firsts, seconds = [], []
    for step in range(num_batches):
        utterances = np.array(batches.batch(0, step))
        first = rng.integers(size, size=pairs_per_batch)
        # A speaker's utterances are adjacent: skip them, and any of the others comes next.
        own_start = first - first % num_of_speaker
        second = (own_start + num_of_speaker + rng.integers(size - num_of_speaker, size=pairs_per_batch)) % size
        firsts.append(utterances[first])
        seconds.append(utterances[second])
    return np.concatenate(firsts)[:max_pairs], np.concatenate(seconds)[:max_pairs]
