"""The speakers nearest to each speaker: the graph that batches of neighbours are grown on.

Built by faiss. Up to 100,000 speakers all are compared with all, exactly: 45 s on one core for 100,000 x 192 and 30
neighbours. Beyond, each is compared with the speakers of the cells nearest to it only (an inverted file), in bytes, and
with half as many again as are wanted, the nearest of those, exactly; the cost grows with S ** 1.5 instead of S ** 2.
How many of the true neighbours it finds depends on how the centroids lie: 99 % where they form groups, 56 % where they
are noise in some twenty dimensions; but what it finds instead is nearly as near (a mean cosine lower by 0.012): what
batches need.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from chns.core import Float32Array, IntArray, ModelFileError, atomic_path
from chns.sampling.clusters import (
    faiss_has_gpu,
    index_of,
    nearest_centres,
    principal_directions,
    products_with,
    trained_centres,
    unit_length,
)

_FORMAT = "chns-neighbours-1"
_MOST_COMPARED_EXACTLY = 100_000
_CELLS_PER_ROOT, _POINTS_PER_CELL, _CELL_ITERATIONS, _PROBED_CELLS = 4, 32, 5, 12
_DIRECTIONS, _COMPARED_AGAIN = 128, 1.5
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
    is_exact = faiss_has_gpu() or num_speakers <= _MOST_COMPARED_EXACTLY
    order, search = (_exactly if is_exact else _in_cells)(normalised, seed)
    indices = np.empty((num_speakers, num_neighbours), np.int32)
    with tqdm(total=num_speakers, desc="neighbours", unit="speaker", leave=False, disable=None, delay=1) as progress:
        for first in range(0, num_speakers, _SEARCHED_AT_ONCE):
            speakers = order[first : first + _SEARCHED_AT_ONCE]
            indices[speakers] = _without_oneself(search(speakers, num_neighbours + 1), speakers)
            progress.update(len(speakers))
    return SpeakerNeighbours(indices=indices, encoder=encoder)


_Search = Callable[[IntArray, int], IntArray]
"""Of speakers and a number to the so many speakers that are nearest to each of them, the speaker included."""


def _exactly(normalised: Float32Array, _: int) -> tuple[IntArray, _Search]:
    """Compare with all, in the speakers' order."""
    index = index_of(normalised)

    def search(speakers: IntArray, count: int) -> IntArray:
        found: IntArray = index.search(normalised[speakers], count)[1]
        return found

    return np.arange(len(normalised)), search


def _in_cells(normalised: Float32Array, seed: int) -> tuple[IntArray, _Search]:
    """Compare with the cells around the one who asks in bytes, then with the best of them exactly.

    Those of a cell ask one after the other: what they look into is still in the processor's cache.
    """
    import faiss

    num_speakers, dim = normalised.shape
    num_cells, rng = round(_CELLS_PER_ROOT * num_speakers**0.5), np.random.default_rng(seed)
    directions = principal_directions(normalised, _DIRECTIONS)
    some = np.sort(rng.choice(num_speakers, min(_POINTS_PER_CELL * num_cells, num_speakers), replace=False))
    points = normalised[some] @ directions
    centres = trained_centres(points, points[rng.choice(len(points), num_cells, replace=False)], _CELL_ITERATIONS)
    cells = nearest_centres(normalised, centres, directions, count=min(_PROBED_CELLS, num_cells))
    scale = np.float32(127.5) / max(normalised.max(), -normalised.min())

    def in_bytes(points: Float32Array) -> Float32Array:
        scaled: Float32Array = np.rint(points * scale + np.float32(127.5))
        return scaled

    # Between vectors of one length those of the least Euclidean distance have the largest cosine, and bytes a distance.
    kind, no_residuals = faiss.ScalarQuantizer.QT_8bit_direct, False
    index: Any = faiss.IndexIVFScalarQuantizer(
        faiss.IndexFlatL2(dim), dim, num_cells, kind, faiss.METRIC_L2, no_residuals
    )
    index.is_trained, index.nprobe = True, cells.shape[1]
    for first in range(0, num_speakers, _SEARCHED_AT_ONCE):
        part = in_bytes(normalised[first : first + _SEARCHED_AT_ONCE])
        own, names = cells[first : first + len(part), 0].copy(), np.arange(first, first + len(part))
        index.add_core(len(part), *(faiss.swig_ptr(array) for array in (part, names, own)))

    def search(speakers: IntArray, count: int) -> IntArray:
        asking, probed = normalised[speakers], cells[speakers]
        unused = np.zeros(probed.shape, np.float32)
        found = index.search_preassigned(in_bytes(asking), round(_COMPARED_AGAIN * count), probed, unused)[1]
        cosines = products_with(asking, normalised, np.maximum(found, 0))
        cosines[found < 0] = -np.inf
        best = np.argsort(-cosines, axis=1, kind="stable")[:, :count]
        nearest: IntArray = np.take_along_axis(found, best, axis=1)
        return nearest

    return np.argsort(cells[:, 0], kind="stable"), search


def _without_oneself(found: IntArray, speakers: IntArray) -> IntArray:
    """Drop from each row the speaker who asks, or the last where many equal centroids have crowded that speaker out."""
    own = found == speakers[:, None]
    own[~own.any(axis=1), -1] = True
    others: IntArray = found[~own].reshape(len(found), -1)
    return others
