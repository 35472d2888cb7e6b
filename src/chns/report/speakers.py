"""Training speakers under a run's model: embedded, as points of a map, and as they meet in batches.

Embedding is the slow step, so its result is kept in the run's folder and used again while weights and utterances
are the same. Its size is bounded: some utterances a speaker, and of a very large corpus some speakers, drawn at random.

The plane is that of the two principal components: a linear view, the same whenever it is made, whose loss is one number
(``explained``). t-SNE and UMAP separate groups more nicely, but the gaps and sizes that they show are partly made by
them, they differ from run to run, and they would be another dependency. 10,000 speakers x 192 dimensions take 0.1 s.

Both kinds are composed by the samplers that train, from the embedded utterances. Pairs and anchors are drawn, not
listed, so memory hardly depends on the size of a batch: 200,000 pairs x 192 dimensions take half a second.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from chns.bundle import Bundle
from chns.core import Float32Array, Float64Array, IntArray, ManifestError, atomic_path
from chns.data import REQUIRED_COLUMNS, Manifest, corpora_of
from chns.evaluation import Embedder, cosine_scores
from chns.report.run_findings import BatchHardness, ClusterShapes, ColumnPurity, SpeakerMap
from chns.sampling import (
    BatchShape,
    ClusterSpeakerBatches,
    HardSpeakerBatches,
    NeighbourSpeakerBatches,
    RandomSpeakerBatches,
    SpeakerClusters,
    centroids_of,
    cluster_speakers,
    cluster_tightness,
    derived_num_clusters,
    draw_per_speaker,
    find_neighbours,
    unit_length,
)
from chns.training.folder import BatchSettings, ClusterSettings

_log = logging.getLogger(__name__)

_FORMAT = "chns-training-embeddings-1"
CACHE_NAME = "training-embeddings.safetensors"


@dataclass(frozen=True, eq=False, kw_only=True)
class TrainingSpeakers:
    """Training speakers and embeddings of some of their utterances.

    Attributes:
        names: Of the speakers, sorted.
        places: Place of each among all training speakers, which is how clusters number them, shape (speakers,).
        num_training_speakers: How many training speakers there are; more than ``names`` if some were drawn.
        labels: Speaker of each embedding, as an index into ``names``, shape (utterances,).
        embeddings: Shape (utterances, dim), not normalised.
        utterances: Where these are, and what is known of them; None if only the embeddings are known.
    """

    names: list[str]
    places: IntArray
    num_training_speakers: int
    labels: IntArray
    embeddings: Float32Array
    utterances: Manifest | None = None

    @cached_property
    def centroids(self) -> Float32Array:
        """Unit-length mean embedding of each speaker, shape (speakers, dim)."""
        return centroids_of(self.embeddings, self.labels, len(self.names))


def embed_training_speakers(
    bundle: Bundle,
    manifest: Manifest,
    *,
    embedder: Embedder,
    cache: Path,
    utterances_per_speaker: int = 10,
    max_speakers: int = 10_000,
    crop_seconds: float = 3.0,
    seed: int = 0,
) -> TrainingSpeakers:
    """Embed a crop of some utterances of each training speaker, or read what was embedded before.

    Args:
        bundle: What is known of the run's model.
        manifest: What it was trained on.
        embedder: That model, where it is, and who decodes for it.
        cache: File to read from and to write to. One of other weights or utterances, or a damaged one, is replaced.
        utterances_per_speaker: How many are drawn; all, if a speaker has fewer.
        max_speakers: Most speakers; of more, so many are drawn.
        crop_seconds: Length of the crop of each utterance.
        seed: Decides the draws and the crops.

    Raises:
        ValueError: If a number is below 1.
        ManifestError: If the manifest has another number of speakers than the model was trained on.
        FileNotFoundError: If a recording is gone.
        AudioError: If a recording cannot be decoded.
    """
    for name, number in (("utterances_per_speaker", utterances_per_speaker), ("max_speakers", max_speakers)):
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}.")
    num_trained = bundle.training.get("speakers")
    if num_trained != len(manifest.speakers):
        raise ManifestError(
            f"training manifest must hold the {num_trained} speakers that the model was trained on, got "
            f"{len(manifest.speakers)}. Give the manifest as it was then."
        )
    rng = np.random.default_rng(seed)
    places = np.arange(len(manifest.speakers))
    if len(places) > max_speakers:
        places = np.sort(rng.choice(places, max_speakers, replace=False))
    chosen = _utterances_of(places, manifest, utterances_per_speaker, rng)
    key = _cache_key(bundle.digest, chosen, crop_seconds, seed)
    embeddings = _read_cache(cache, key, len(chosen))
    if embeddings is None:
        embeddings = embedder.crops(
            chosen, np.arange(len(chosen)), crop_seconds=crop_seconds, seed=seed, purpose="training speakers"
        )
        _write_cache(cache, key, embeddings)
    return TrainingSpeakers(
        names=chosen.speakers,
        places=places,
        num_training_speakers=len(manifest.speakers),
        labels=chosen.speaker_labels,
        embeddings=embeddings,
        utterances=chosen,
    )


def _utterances_of(places: IntArray, manifest: Manifest, most: int, rng: np.random.Generator) -> Manifest:
    """Up to so many utterances of each of some speakers."""
    candidates = np.flatnonzero(np.isin(manifest.speaker_labels, places))
    return manifest.take(candidates[draw_per_speaker(manifest.speaker_labels[candidates], most, rng)])


def _cache_key(encoder: str, chosen: Manifest, crop_seconds: float, seed: int) -> str:
    """Identity of everything that decides the embeddings."""
    digest = hashlib.sha256()
    root = chosen.location
    root = root.resolve() if isinstance(root, Path) else root
    texts: Iterable[str] = (_FORMAT, encoder, repr(crop_seconds), str(seed), str(root))
    for text in (*texts, *chosen.column("utterance"), *chosen.column("speaker"), *chosen.column("path")):
        digest.update(text.encode() + b"\n")  # no text of a manifest holds a line break
    return digest.hexdigest()


def _read_cache(path: Path, key: str, num_utterances: int) -> Float32Array | None:
    """The embeddings in a file; None if it is missing, damaged, or holds others than wanted."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="np") as file:
            if (file.metadata() or {}).get("key") != key:
                return None
            embeddings: Float32Array = file.get_tensor("embeddings")
    except (SafetensorError, OSError) as error:
        _log.warning("%s cannot be read (%s); the training speakers are embedded anew.", path, error)
        return None
    usable = embeddings.dtype == np.float32 and embeddings.ndim == 2 and len(embeddings) == num_utterances
    return embeddings if usable and np.isfinite(embeddings).all() else None


def _write_cache(path: Path, key: str, embeddings: Float32Array) -> None:
    """Keep embeddings for the next report; a folder that cannot be written to costs the time only."""
    try:
        with atomic_path(path) as temporary:
            save_file({"embeddings": embeddings}, temporary, metadata={"key": key})
    except OSError as error:
        _log.warning("the embeddings of the training speakers could not be kept in %s (%s).", path, error)


def speaker_map(speakers: TrainingSpeakers, clusters: SpeakerClusters | None) -> SpeakerMap:
    """Speakers by the first two principal components of their unit-length centroids.

    Args:
        speakers: Whom to show.
        clusters: Of all training speakers; None if there are none.
    """
    points, explained = principal_plane(speakers.centroids.astype(np.float64))
    labels = None if clusters is None else clusters.labels[speakers.places]
    columns = {} if speakers.utterances is None else speaker_columns(speakers.utterances)
    return SpeakerMap(
        speakers=speakers.names,
        points=points,
        clusters=labels,
        explained=explained,
        columns=columns,
        purities=_purities(columns, speakers.centroids, labels),
    )


_OF_SPEAKERS = 0.9
_MOST_VALUES_SHARE = 0.5


def speaker_columns(utterances: Manifest) -> dict[str, list[str]]:
    """What a manifest's further columns, or prefixes of names, say of its speakers.

    Args:
        utterances: Some of each speaker.

    Returns:
        By column the most common value of each speaker. Only columns that tell speakers apart into groups: nine in ten
        utterances have their speaker's value, and there are two values at least and half as many as speakers at most.
        ``corpus`` is the prefix that ``chns merge --prefix`` gives to names, if no column has that name.
    """
    labels, num_speakers = utterances.speaker_labels, len(utterances.speakers)
    found: dict[str, list[str]] = {}
    further = [one.name for one in utterances.table.schema if str(one.type) == "string"]
    for column in (name for name in further if name not in REQUIRED_COLUMNS):
        values, codes = np.unique(np.array(utterances.column(column), object).astype(str), return_inverse=True)
        if not 2 <= len(values) <= max(2, _MOST_VALUES_SHARE * num_speakers):
            continue
        order = np.lexsort((codes, labels))
        pairs, counts = np.unique(np.stack((labels[order], codes[order])), axis=1, return_counts=True)
        most = np.lexsort((counts, pairs[0]))
        last = most[np.append(np.diff(pairs[0][most]) > 0, [True])]
        if counts[last].sum() >= _OF_SPEAKERS * len(labels) and len(np.unique(pairs[1][last])) > 1:
            found[column] = values[pairs[1][last]].tolist()
    corpora = corpora_of(utterances.speakers)
    if corpora is not None and "corpus" not in found:
        found["corpus"] = corpora
    return found


_NUM_NEAREST = 10
_NUM_SHUFFLES = 20


def _purities(
    columns: Mapping[str, Sequence[str]], centroids: Float32Array, clusters: IntArray | None
) -> list[ColumnPurity]:
    if not columns or len(centroids) <= 2:
        return []
    nearest = find_neighbours(centroids, num_neighbours=min(_NUM_NEAREST, len(centroids) - 1), seed=0).indices
    rng = np.random.default_rng(0)
    found = []
    for column, values in columns.items():
        codes = np.unique(np.asarray(values), return_inverse=True)[1]
        counts = np.bincount(codes)
        by_chance = float((counts * (counts - 1)).sum() / (len(codes) * (len(codes) - 1)))
        own = shuffled = math.nan
        if clusters is not None:
            own = _cluster_purity(codes, clusters)
            shuffled = float(np.mean([_cluster_purity(rng.permutation(codes), clusters) for _ in range(_NUM_SHUFFLES)]))
        agreeing = float(np.mean((codes[nearest] == codes[:, np.newaxis])[nearest >= 0]))
        found.append(ColumnPurity(column, len(counts), agreeing, by_chance, own, shuffled))
    return found


def _cluster_purity(codes: IntArray, clusters: IntArray) -> float:
    """Share of the members whose code is the most common one of their cluster."""
    together = np.zeros((int(clusters.max()) + 1, int(codes.max()) + 1), np.int64)
    np.add.at(together, (clusters, codes), 1)
    return float(together.max(axis=1).sum() / len(codes))


def principal_plane(vectors: Float64Array) -> tuple[Float64Array, float]:
    """Project vectors onto the plane that keeps most of their variance.

    Args:
        vectors: Shape (points, dim).

    Returns:
        Shape (points, 2), and the share of the variance that is kept; 1 where there is none. Of the two possible
        directions of an axis, the one along which its largest component grows.
    """
    centred = vectors - vectors.mean(axis=0)
    variances, axes = np.linalg.eigh(centred.T @ centred)  # ascending
    axes = axes[:, ::-1][:, :2]
    largest = axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])]
    points = np.zeros((len(vectors), 2))
    points[:, : axes.shape[1]] = centred @ (axes * np.sign(largest))
    total = float(variances.sum())
    return points, float(variances[-2:].sum()) / total if total > 0 else 1.0


def cluster_shapes(speakers: TrainingSpeakers, clusters: SpeakerClusters) -> ClusterShapes:
    """How large clusters are and how tight they are by now.

    The centres that clusters were made with belong to the encoder of that epoch, whose space is not today's; so centres
    are taken anew, from the speakers.

    Args:
        speakers: Of whom the tightness is measured.
        clusters: Of all training speakers.
    """
    filled, members = np.unique(clusters.labels[speakers.places], return_inverse=True)
    now = SpeakerClusters(labels=members, centres=centroids_of(speakers.centroids, members, len(filled)), seed=0)
    tightness = np.full(clusters.num_clusters, np.nan)
    tightness[filled] = cluster_tightness(speakers.centroids, now)
    return ClusterShapes(sizes=clusters.sizes, tightness=tightness)


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
    per_speaker = np.unique(speakers.labels, return_counts=True)[1]
    utterances_per_speaker = min(batches.utterances_per_speaker, int(per_speaker.max()))
    num_usable = int(np.count_nonzero(per_speaker >= utterances_per_speaker))
    embedded_share = len(speakers.names) / speakers.num_training_speakers
    speakers_per_batch = min(num_usable, max(2, round(batches.wanted_speakers * embedded_share)))
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
        kind=kind, random=random_pairs, hard=hard_pairs, random_closest=random_closest, hard_closest=hard_closest
    )


def _clustered(
    speakers: TrainingSpeakers, clusters: SpeakerClusters | None, hard_phase: ClusterSettings, shape: BatchShape
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
        speakers.labels, neighbours, shape, hard_ratio=hard_phase.hard_ratio, group_size=group_size, band=(first, end)
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
