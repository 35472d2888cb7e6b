"""Group speakers by voice.

Spherical k-means (cosine similarity, unit-length centres) on the speakers' centroids, by faiss: 0.2 s for
5,994 speakers x 192 dimensions and 50 clusters on two cores. The same call takes millions of speakers: beyond 100,000 a
few begin, and then each is compared with the few centres only that were nearest to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from chns.core import Float32Array, Float64Array, IntArray, ModelFileError, atomic_path

_FORMAT = "chns-clusters-1"
_ITERATIONS = 25
# Of very many points a few begin (points a cluster, iterations), as many as make no difference where clusters are few.
_MANY_POINTS = 100_000
_FEW, _FEWEST = ((8, 8), (16, 1)), 20_000
# Then all go on, each among the centres that are nearest to it in the first so many principal directions.
_NEAREST_CENTRES, _DIRECTIONS, _FURTHER_ITERATIONS = 8, 64, 5
_AT_ONCE = 10_000
# The paper's 50 clusters of 5,894 speakers for batches of 650 are this many a batch.
CLUSTERS_PER_BATCH = 5.5


@dataclass(frozen=True, kw_only=True)
class SpeakerClusters:
    """A grouping of speakers and what made it.

    Attributes:
        labels: Cluster of each speaker, shape (speakers,), int64.
        centres: Unit-length centre of each cluster, shape (clusters, dim), float32.
        seed: Seed of the k-means.
        encoder: Identity of the encoder whose centroids were grouped (the digest of its weights), or "" if unknown.

    Raises:
        ValueError: If a label has no centre.
    """

    labels: IntArray
    centres: Float32Array
    seed: int
    encoder: str = ""

    def __post_init__(self) -> None:
        high = int(self.labels.max(initial=0))
        low = int(self.labels.min(initial=high))
        if low < 0 or high >= len(self.centres):
            raise ValueError(
                f"labels must be between 0 and {len(self.centres) - 1}, the last of the centres, got {low} to {high}."
            )

    @property
    def num_clusters(self) -> int:
        """Number of centres; some may have no speaker."""
        return len(self.centres)

    @property
    def sizes(self) -> IntArray:
        """Speakers in each cluster, shape (clusters,)."""
        return np.bincount(self.labels, minlength=self.num_clusters)

    def save(self, path: Path) -> None:
        """Write one safetensors file, atomically."""
        from safetensors.numpy import save_file

        metadata = {"format": _FORMAT, "seed": str(self.seed), "encoder": self.encoder}
        with atomic_path(path) as temporary:
            save_file({"labels": self.labels, "centres": self.centres}, temporary, metadata=metadata)

    @classmethod
    def load(cls, path: Path) -> SpeakerClusters:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: If there is no such file.
            ModelFileError: If it is not a cluster file, or a damaged one.
        """
        from safetensors import SafetensorError, safe_open

        if not path.is_file():
            raise FileNotFoundError(f"clusters must be a file, got {path}. Make one with `chns cluster`.")
        try:
            with safe_open(path, framework="np") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != _FORMAT:
                    raise ModelFileError(f"clusters must be of format {_FORMAT}, got {path}.")
                return cls(
                    labels=file.get_tensor("labels").astype(np.int64),
                    centres=file.get_tensor("centres").astype(np.float32),
                    seed=int(metadata["seed"]),
                    encoder=metadata["encoder"],
                )
        except (SafetensorError, KeyError, ValueError) as error:
            if isinstance(error, ModelFileError):
                raise
            raise ModelFileError(f"clusters must be a complete cluster file, got {path} ({error}).") from error


def cluster_speakers(
    centroids: Float32Array, *, num_clusters: int, seed: int = 0, num_initialisations: int = 5, encoder: str = ""
) -> SpeakerClusters:
    """Group speakers whose centroids point the same way.

    Args:
        centroids: Mean embedding of each speaker, shape (speakers, dim); need not be normalised.
        num_clusters: Between 1 and the number of speakers.
        seed: Makes the grouping reproducible on one machine.
        num_initialisations: k-means starts this often; the tightest result is kept. Beyond 100,000 speakers, the start
            that is the tightest after its first iterations, which see some of them, is gone on with.
        encoder: Identity of the encoder, remembered in the result.

    Returns:
        Labels of shape (speakers,), int64, and the cluster centres, shape (num_clusters, dim).

    Raises:
        ValueError: If num_clusters exceeds the number of speakers, or a centroid is zero or not finite.

    Source:
        Masztalski et al., Interspeech 2025, which uses k-means on normalised means; spherical k-means keeps the
        centres on the sphere too.

    Examples:
        >>> import numpy as np
        >>> from chns import cluster_speakers
        >>> low, high = np.array([[1, 0, 0.1], [1, 0.1, 0]]), np.array([[0, 1, 0.1], [0.1, 1, 0]])
        >>> clusters = cluster_speakers(np.concatenate([low, high]).astype(np.float32), num_clusters=2)
        >>> bool(clusters.labels[0] == clusters.labels[1] != clusters.labels[2] == clusters.labels[3])
        True
    """
    normalised = unit_length(centroids)
    if not 1 <= num_clusters <= len(normalised):
        raise ValueError(f"num_clusters must be between 1 and the {len(normalised)} speakers, got {num_clusters}.")
    centres, labels, _ = _tightest(normalised, num_clusters, seed, num_initialisations)
    return SpeakerClusters(labels=labels, centres=centres, seed=seed, encoder=encoder)


def derived_num_clusters(num_speakers: int, speakers_per_batch: int) -> int:
    """As many clusters as let a batch hold the paper's 5.5 of them, whatever the sizes of batch and corpus."""
    return max(1, min(num_speakers, round(CLUSTERS_PER_BATCH * num_speakers / speakers_per_batch)))


def unit_length(centroids: Float32Array) -> Float32Array:
    """Scale each centroid to length 1.

    Raises:
        ValueError: If they are not a table, or one is zero or not finite.
    """
    centroids = np.asarray(centroids, dtype=np.float32)
    if centroids.ndim != 2:
        raise ValueError(f"centroids must have shape (speakers, dim), got {centroids.shape}.")
    norms = np.linalg.norm(centroids, axis=1, keepdims=True)
    bad = np.flatnonzero(~np.isfinite(norms[:, 0]) | (norms[:, 0] == 0))
    if len(bad):
        raise ValueError(f"centroids must be finite and not zero, got speaker {bad[0]} ({len(bad)} such speakers).")
    return np.ascontiguousarray(centroids / norms)


class ClosePair(NamedTuple):
    """Two speakers of one cluster and the cosine of their centroids."""

    first: int
    second: int
    similarity: float


def similarity_to_centre(centroids: Float32Array, clusters: SpeakerClusters) -> Float64Array:
    """Cosine between each speaker's centroid and the centre of the speaker's cluster, shape (speakers,).

    Args:
        centroids: Unit-length centroids, shape (speakers, dim).
        clusters: Their grouping.
    """
    cosines: Float64Array = np.einsum("sd,sd->s", centroids, clusters.centres[clusters.labels])
    return cosines.astype(np.float64)


def cluster_tightness(centroids: Float32Array, clusters: SpeakerClusters) -> Float64Array:
    """Mean cosine between the speakers of each cluster and its centre, shape (clusters,); NaN where there are none."""
    sums = np.bincount(clusters.labels, similarity_to_centre(centroids, clusters), minlength=clusters.num_clusters)
    with np.errstate(invalid="ignore"):
        tightness: Float64Array = sums / clusters.sizes
    return tightness


def closest_pairs(centroids: Float32Array, clusters: SpeakerClusters, *, count: int) -> list[ClosePair]:
    """The most similar pairs of speakers within a cluster, most similar first.

    Pairs across clusters are not compared, so the cost is that of the clusters, not of all pairs; k-means puts the
    closest together.

    Args:
        centroids: Unit-length centroids, shape (speakers, dim).
        clusters: Their grouping.
        count: Most pairs returned.
    """
    found: list[ClosePair] = []
    for cluster in range(clusters.num_clusters):
        members = np.flatnonzero(clusters.labels == cluster)
        first, second = np.triu_indices(len(members), k=1)
        cosines = (centroids[members] @ centroids[members].T)[first, second]
        best = np.argsort(-cosines, kind="stable")[:count]
        found += [ClosePair(int(members[first[i]]), int(members[second[i]]), float(cosines[i])) for i in best]
    return sorted(found, key=lambda pair: -pair.similarity)[:count]


class _Grouping(NamedTuple):
    """Centres, the centre of each point, and the cosine of the two."""

    centres: Float32Array
    labels: IntArray
    similarities: Float32Array


def _tightest(points: Float32Array, num_clusters: int, seed: int, num_initialisations: int) -> _Grouping:
    """The tightest of several runs of k-means; of very many points, the run whose beginning is the tightest."""
    rng = np.random.default_rng(seed)
    runs = tqdm(range(num_initialisations), desc="clustering", unit="run", leave=False, disable=None)
    starts = (points[rng.choice(len(points), num_clusters, replace=False)] for _ in runs)
    if faiss_has_gpu() or len(points) <= max(_MANY_POINTS, _FEW[-1][0] * num_clusters):
        groupings = (_assigned(points, trained_centres(points, centres, _ITERATIONS)) for centres in starts)
        return max(groupings, key=_tightness)
    some = points[:: len(points) // _FEWEST]
    beginnings = (_begun(points, centres, rng) for centres in starts)
    return _grouped_further(points, max(beginnings, key=lambda centres: _tightness(_assigned(some, centres))))


def _tightness(grouping: _Grouping) -> float:
    return float(grouping.similarities.sum())


def _begun(points: Float32Array, centres: Float32Array, rng: np.random.Generator) -> Float32Array:
    """Centres after iterations of some of the points."""
    for points_per_cluster, iterations in _FEW:
        num_points = max(points_per_cluster * len(centres), _FEWEST)
        some = np.sort(rng.choice(len(points), num_points, replace=False))
        centres = trained_centres(points[some], centres, iterations)
    return centres


def _grouped_further(points: Float32Array, centres: Float32Array) -> _Grouping:
    """Iterations of all points, each of which knows only the centres that were nearest to it when they began."""
    directions = principal_directions(centres, _DIRECTIONS)
    nearest = nearest_centres(points, centres @ directions, directions, count=min(_NEAREST_CENTRES, len(centres)))
    labels, similarities = np.empty(len(points), np.int64), np.empty(len(points), np.float32)
    for iteration in range(_FURTHER_ITERATIONS + 1):
        if iteration:
            centres = _means(points, labels, centres)
        for first in range(0, len(points), _AT_ONCE):
            among = nearest[first : first + _AT_ONCE]
            cosines = products_with(points[first : first + _AT_ONCE], centres, among)
            best = np.arange(len(among)), cosines.argmax(axis=1)
            labels[first : first + _AT_ONCE], similarities[first : first + _AT_ONCE] = among[best], cosines[best]
    return _Grouping(centres, labels, similarities)


def principal_directions(vectors: Float32Array, count: int) -> Float32Array:
    """The directions in which vectors reach furthest from zero, shape (dim, count); all where dim is less."""
    return np.ascontiguousarray(np.linalg.eigh(vectors.T @ vectors)[1][:, -count:])


def nearest_centres(points: Float32Array, centres: Float32Array, directions: Float32Array, *, count: int) -> IntArray:
    """The centres with the largest products with each point, largest first, shape (points, count).

    Args:
        points: Shape (points, dim).
        centres: In the directions already, shape (centres, directions).
        directions: Those of `principal_directions`, in which points and centres are compared.
        count: At most the number of centres.
    """
    import faiss

    nearest = np.empty((len(points), count), np.int64)
    for first in range(0, len(points), _AT_ONCE):
        some = points[first : first + _AT_ONCE] @ directions
        nearest[first : first + _AT_ONCE] = faiss.knn(some, centres, count, metric=faiss.METRIC_INNER_PRODUCT)[1]
    return nearest


def products_with(points: Float32Array, others: Float32Array, among: IntArray) -> Float32Array:
    """Inner product of each point with those of the others that its row of `among` names, of the shape of `among`."""
    import faiss

    products = np.empty(among.shape, np.float32)
    pointers = (faiss.swig_ptr(array) for array in (products, points, others, among))
    faiss.fvec_inner_products_by_idx(*pointers, points.shape[1], *among.shape)  # type: ignore[attr-defined]
    return products


def _means(points: Float32Array, labels: IntArray, centres: Float32Array) -> Float32Array:
    """The direction of the mean of each cluster; one without points stays where it is."""
    order = np.argsort(labels, kind="stable")
    ends = np.cumsum(np.bincount(labels, minlength=len(centres)))
    sums = np.stack([points[members].sum(axis=0) for members in np.split(order, ends[:-1])])
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    return np.where(lengths > 0, sums / np.where(lengths > 0, lengths, 1), centres)


def trained_centres(points: Float32Array, centres: Float32Array, iterations: int) -> Float32Array:
    """Spherical k-means from given centres; faiss splits a large cluster where one has become empty."""
    import faiss

    kmeans = faiss.Kmeans(
        points.shape[1],
        len(centres),
        niter=iterations,
        spherical=True,
        min_points_per_centroid=1,
        max_points_per_centroid=len(points),
        gpu=faiss_has_gpu(),
    )
    kmeans.train(points, init_centroids=centres)
    return np.array(kmeans.centroids)


def _assigned(points: Float32Array, centres: Float32Array) -> _Grouping:
    """The most similar centre of each point."""
    similarities, labels = index_of(centres).search(points, 1)
    return _Grouping(centres, labels[:, 0].astype(np.int64), similarities[:, 0])


def faiss_has_gpu() -> bool:
    """Whether faiss is a build for GPUs (``faiss-gpu-cu12``, in the place of ``faiss-cpu``) and sees one."""
    import faiss

    return faiss.get_num_gpus() > 0


def index_of(vectors: Float32Array) -> Any:
    """All of the vectors, to be searched exactly by inner product; on GPUs where faiss has some."""
    import faiss

    index: Any = faiss.IndexFlatIP(vectors.shape[1])
    if faiss_has_gpu():
        index = faiss.index_cpu_to_all_gpus(index)
    index.add(vectors)
    return index
