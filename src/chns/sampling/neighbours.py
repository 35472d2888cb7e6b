"""The speakers nearest to each speaker: the graph that batches of neighbours are grown on.

Built by faiss. Up to 100,000 speakers all are compared with all, exactly: 45 s on one core for 100,000 x 192 and 30
neighbours. Beyond, each is compared with the members of the 24 cells of k-means that lie nearest to the speaker's own,
whose cost grows with S ** 1.5 instead of S ** 2; all of a cell at once, which is a product of matrices. How many of the
true neighbours it finds depends on how the centroids lie: 99 % where they form groups, about 60 % where they are noise
in some twenty dimensions; but what it finds instead is nearly as near, which is what batches need.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from chns.core import Float32Array, IntArray, ModelFileError, atomic_path
from chns.sampling.clusters import unit_length

_FORMAT = "chns-neighbours-1"
_MOST_COMPARED_EXACTLY = 100_000
_POINTS_PER_CELL, _ITERATIONS, _SEARCHED_CELLS = 32, 10, 24
_SEARCHED_AT_ONCE = 10_000


@dataclass(frozen=True, kw_only=True)
class SpeakerNeighbours:
    """The nearest speakers of every speaker.

    Attributes:
        indices: Labels of the nearest speakers of each, nearest first, never the speaker itself; -1 where fewer were
            found. Shape (speakers, neighbours), int32.
        encoder: Identity of the encoder whose centroids were compared (the digest of its weights), or "" if unknown.

    Raises:
        ValueError: If indices are not a table of int32, or one is no speaker.
    """

    indices: npt.NDArray[np.int32]
    encoder: str = ""

    def __post_init__(self) -> None:
        if self.indices.ndim != 2 or self.indices.dtype != np.int32:
            raise ValueError(
                f"indices must be a table of int32, got shape {self.indices.shape} of {self.indices.dtype}."
            )
        low, high = int(self.indices.min(initial=-1)), int(self.indices.max(initial=-1))
        if low < -1 or high >= len(self.indices):
            raise ValueError(f"indices must be between -1 and {len(self.indices) - 1}, got {low} to {high}.")

    def save(self, path: Path) -> None:
        """Write one safetensors file, atomically."""
        from safetensors.numpy import save_file

        with atomic_path(path) as temporary:
            save_file({"indices": self.indices}, temporary, metadata={"format": _FORMAT, "encoder": self.encoder})

    @classmethod
    def load(cls, path: Path) -> SpeakerNeighbours:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: If there is no such file.
            ModelFileError: If it is not a file of neighbours, or a damaged one.
        """
        from safetensors import SafetensorError, safe_open

        if not path.is_file():
            raise FileNotFoundError(f"neighbours must be a file, got {path}.")
        try:
            with safe_open(path, framework="np") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != _FORMAT:
                    raise ModelFileError(f"neighbours must be of format {_FORMAT}, got {path}.")
                return cls(indices=file.get_tensor("indices"), encoder=metadata["encoder"])
        except (SafetensorError, KeyError, ValueError) as error:
            if isinstance(error, ModelFileError):
                raise
            raise ModelFileError(f"neighbours must be a complete file, got {path} ({error}).") from error


def find_neighbours(
    centroids: Float32Array, *, num_neighbours: int, seed: int = 0, encoder: str = ""
) -> SpeakerNeighbours:
    """The speakers whose centroids are most similar to each speaker's, by cosine.

    Args:
        centroids: Mean embedding of each speaker, shape (speakers, dim); need not be normalised.
        num_neighbours: Between 1 and the number of speakers less one.
        seed: Of the cells of an approximate search.
        encoder: Identity of the encoder, remembered in the result.

    Raises:
        ValueError: If num_neighbours is out of range, or a centroid is zero or not finite.

    Examples:
        >>> import numpy as np
        >>> from chns import find_neighbours
        >>> centroids = np.array([[1, 0, 0], [0.9, 0.1, 0], [0, 1, 0.1]], np.float32)
        >>> find_neighbours(centroids, num_neighbours=1).indices.ravel().tolist()
        [1, 0, 1]
    """
    normalised = unit_length(centroids)
    num_speakers = len(normalised)
    if not 1 <= num_neighbours < num_speakers:
        raise ValueError(
            f"num_neighbours must be between 1 and {num_speakers - 1}, one less than the speakers, "
            f"got {num_neighbours}."
        )
    indices = np.empty((num_speakers, num_neighbours), np.int32)
    with tqdm(total=num_speakers, desc="neighbours", unit="speaker", leave=False, disable=None, delay=1) as progress:
        for rows, others in _searches(normalised, seed):
            indices[rows] = _nearest(normalised, rows, others, num_neighbours)
            progress.update(len(rows))
    return SpeakerNeighbours(indices=indices, encoder=encoder)


def _searches(normalised: Float32Array, seed: int) -> Iterator[tuple[IntArray, IntArray]]:
    """Speakers, and those whom they are compared with: all, or the members of the cells nearest to their own cell."""
    import faiss

    num_speakers = len(normalised)
    everybody = np.arange(num_speakers)
    if num_speakers <= _MOST_COMPARED_EXACTLY:
        for first in range(0, num_speakers, _SEARCHED_AT_ONCE):
            yield everybody[first : first + _SEARCHED_AT_ONCE], everybody
        return
    num_cells = round(4 * num_speakers**0.5)
    cells = faiss.Kmeans(
        normalised.shape[1],
        num_cells,
        niter=_ITERATIONS,
        spherical=True,
        seed=seed,
        min_points_per_centroid=1,
        max_points_per_centroid=_POINTS_PER_CELL,
    )
    cells.train(normalised)
    centres = np.array(cells.centroids)
    cell_of = faiss.knn(normalised, centres, 1, metric=faiss.METRIC_INNER_PRODUCT)[1][:, 0]
    members = np.split(np.argsort(cell_of, kind="stable"), np.cumsum(np.bincount(cell_of, minlength=num_cells))[:-1])
    searched = min(_SEARCHED_CELLS, num_cells)
    around = faiss.knn(centres, centres, searched, metric=faiss.METRIC_INNER_PRODUCT)[1]
    for rows, near in zip(members, around, strict=True):
        if len(rows):
            yield rows, np.concatenate([members[cell] for cell in near])


def _nearest(normalised: Float32Array, rows: IntArray, others: IntArray, num_neighbours: int) -> IntArray:
    """The nearest of the others, without the speaker who asks; -1 where there are too few.

    Where many equal centroids have crowded that speaker out, the last is dropped.
    """
    import faiss

    count = min(num_neighbours + 1, len(others))
    points = normalised if len(others) == len(normalised) else normalised[others]
    places = faiss.knn(normalised[rows], points, count, metric=faiss.METRIC_INNER_PRODUCT)[1]
    found = np.full((len(rows), num_neighbours + 1), -1)
    found[:, :count] = others[places]
    own = found == rows[:, None]
    own[~own.any(axis=1), -1] = True
    nearest: IntArray = found[~own].reshape(len(rows), num_neighbours)
    return nearest
