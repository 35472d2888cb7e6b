"""The speakers nearest to each speaker: the graph that batches of neighbours are grown on.

Built by faiss. Up to 100,000 speakers all are compared with all, exactly: 45 s on one core for 100,000 x 192 and 30
neighbours. Beyond, each is compared with the speakers of the cells nearest to it only (an inverted file), whose cost
grows with S ** 1.5 instead of S ** 2: about a minute for 250,000. How many of the true neighbours it finds depends on
how the centroids lie: 98 % where they form groups, 69 % where they are noise in some twenty dimensions; but what it
finds instead is nearly as near (a mean cosine lower by 0.008), which is what batches need.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from chns.core import Float32Array, IntArray, ModelFileError, atomic_path
from chns.sampling.clusters import unit_length

_FORMAT = "chns-neighbours-1"
_MOST_COMPARED_EXACTLY = 100_000
_POINTS_PER_CELL, _CELL_ITERATIONS, _PROBED_CELLS = 32, 5, 16
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
    index = _index(normalised, seed)
    indices = np.empty((num_speakers, num_neighbours), np.int32)
    with tqdm(total=num_speakers, desc="neighbours", unit="speaker", leave=False, disable=None, delay=1) as progress:
        for first in range(0, num_speakers, _SEARCHED_AT_ONCE):
            queries = normalised[first : first + _SEARCHED_AT_ONCE]
            found = index.search(queries, num_neighbours + 1)[1]
            indices[first : first + len(queries)] = _without_oneself(found, first)
            progress.update(len(queries))
    return SpeakerNeighbours(indices=indices, encoder=encoder)


def _index(normalised: Float32Array, seed: int) -> Any:
    """What is searched: all speakers, or the cells around the one who asks."""
    import faiss

    num_speakers, dim = normalised.shape
    index: Any = faiss.IndexFlatIP(dim)
    if num_speakers > _MOST_COMPARED_EXACTLY:
        cells, eight_bits = round(4 * num_speakers**0.5), faiss.ScalarQuantizer.QT_8bit
        index = faiss.IndexIVFScalarQuantizer(index, dim, cells, eight_bits, faiss.METRIC_INNER_PRODUCT)
        index.cp.seed, index.cp.spherical, index.cp.niter = seed, True, _CELL_ITERATIONS
        index.cp.min_points_per_centroid, index.cp.max_points_per_centroid = 1, _POINTS_PER_CELL
        index.nprobe = _PROBED_CELLS
        index.train(normalised)
    index.add(normalised)
    return index


def _without_oneself(found: IntArray, first: int) -> IntArray:
    """Drop from each row the speaker who asks, or the last where many equal centroids have crowded that speaker out."""
    own = found == np.arange(first, first + len(found))[:, None]
    own[~own.any(axis=1), -1] = True
    others: IntArray = found[~own].reshape(len(found), -1)
    return others
