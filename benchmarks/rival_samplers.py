"""Other ways to find hard negatives, as groups for `HardBatches`, each after its source.

- `WalkGroups`: Yang et al., "BatchSampler: sampling mini-batches for contrastive learning in vision, language, and
  graphs", KDD 2023.
- `BandwidthOrder`: Sachidananda et al., "Global selection of contrastive batches via optimization on sample
  permutations", ICML 2023 (GCBS).
- `CommunityGroups`: Thirukovalluru et al., "Breaking the batch barrier (B3) of contrastive learning via smart batch
  mining", NeurIPS 2025.
- `PrototypeGroups`: Villalba et al., hyperion: classes and those whose prototypes, rows of the head, are nearest.

They work on speakers where the sources work on samples. Needs pymetis and scipy.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from chns.sampling import BatchShape, ClusterSpeakerBatches, NeighbourGroups, SpeakerClusters, SpeakerNeighbours
from chns.sampling.clusters import unit_length
from chns.sampling.neighbours import find_neighbours
from chns.sampling.speaker_batches import HardSpeakerBatches, Rounds


@dataclass(frozen=True)
class WalkGroups:
    """A proximity graph, each node's nearest among random candidates; a batch is what a walk with restarts visits.

    Args:
        candidates: Random others among whom the neighbours of each are looked for.
        neighbours: Edges of each node.
        restart: Probability of returning to the start.
    """

    candidates: int = 500
    neighbours: int = 30
    restart: float = 0.2
    kind = SpeakerNeighbours

    def group(self, centroids: np.ndarray, shape: BatchShape, *, encoder: str) -> Any:
        """See `chns.sampling.hard_batches.Grouping`."""
        rng = np.random.default_rng(shape.seed)
        unit = unit_length(centroids)
        rows = []
        for one, vector in enumerate(unit):
            others = rng.choice(len(unit) - 1, min(self.candidates, len(unit) - 1), replace=False)
            others += others >= one
            rows.append(others[np.argsort(-(unit[others] @ vector))[: self.neighbours]])
        return SpeakerNeighbours(indices=np.array(rows, np.int32), encoder=encoder)

    def batches(self, speaker_labels: Any, groups: Any, shape: BatchShape, *, persons: Any) -> HardSpeakerBatches:
        """See there."""
        return _WalkBatches(speaker_labels, groups, shape, self.restart, persons)


class _WalkBatches(HardSpeakerBatches):
    def __init__(
        self, speaker_labels: Any, neighbours: SpeakerNeighbours, shape: BatchShape, restart: float, persons: Any
    ) -> None:
        super().__init__(speaker_labels, shape, hard_ratio=1.0, persons=persons)
        self._neighbours = neighbours.indices[self._rows_in(len(neighbours.indices), "neighbours")]
        self._restart = restart

    def _draw_hard(self, rng: np.random.Generator, epoch: int, step: int) -> np.ndarray:  # noqa: ARG002
        start = at = int(rng.integers(len(self.speakers)))
        visited: dict[int, None] = {start: None}
        for _ in range(100 * self._num_hard):  # where the walk is caught, the rest of the batch is random
            if len(visited) == self._num_hard:
                break
            at = start if rng.random() < self._restart else int(rng.choice(self._neighbours[at]))
            visited[at] = None
        return np.array(list(visited)[: self._num_hard], np.int64)


@dataclass(frozen=True)
class SpeakerOrder:
    """An order of all speakers; ``order`` has shape (speakers,)."""

    order: np.ndarray


@dataclass(frozen=True)
class BandwidthOrder:
    """An order in which like speakers stand together: reverse Cuthill-McKee on the graph of the most similar pairs.

    Args:
        edges: Edges of the graph, a speaker: it sets the quantile of the similarities above which a pair is one.
    """

    edges: float = 8.0
    kind = SpeakerOrder

    def group(self, centroids: np.ndarray, shape: BatchShape, *, encoder: str) -> Any:  # noqa: ARG002
        """See `chns.sampling.hard_batches.Grouping`."""
        from scipy.sparse import csr_matrix
        from scipy.sparse.csgraph import reverse_cuthill_mckee

        unit = unit_length(centroids)
        cosine = unit @ unit.T
        np.fill_diagonal(cosine, -2)
        floor = np.quantile(cosine, 1 - self.edges / len(unit))
        return SpeakerOrder(np.array(reverse_cuthill_mckee(csr_matrix(cosine > floor), symmetric_mode=True), np.int64))

    def batches(self, speaker_labels: Any, groups: Any, shape: BatchShape, *, persons: Any) -> HardSpeakerBatches:
        """See there."""
        return _OrderBatches(speaker_labels, groups, shape, persons)


class _OrderBatches(HardSpeakerBatches):
    def __init__(self, speaker_labels: Any, order: SpeakerOrder, shape: BatchShape, persons: Any) -> None:
        super().__init__(speaker_labels, shape, hard_ratio=1.0, persons=persons)
        self._order = order.order
        self._rounds = Rounds(shape.seed, len(self.speakers), self._chunks)

    def _chunks(self, rng: np.random.Generator) -> np.ndarray:
        """The order, begun anywhere, its batches shuffled."""
        rolled = np.roll(self._order, rng.integers(len(self._order)))
        whole = len(rolled) // self._num_hard * self._num_hard
        return np.concatenate([rng.permutation(rolled[:whole].reshape(-1, self._num_hard)).ravel(), rolled[whole:]])

    def _draw_hard(self, rng: np.random.Generator, epoch: int, step: int) -> np.ndarray:  # noqa: ARG002
        return self._rounds.take(self._num_hard, epoch=epoch, step=step)


@dataclass(frozen=True)
class CommunityGroups:
    """Communities of the graph of ranks, by METIS; a batch holds some communities, drawn at random.

    Args:
        size: Speakers of a community.
        skipped: Nearest speakers that are no neighbours, as they may be the same person.
        neighbours: Neighbours after those.
    """

    size: int = 8
    skipped: int = 0
    neighbours: int = 16
    kind = SpeakerClusters

    def group(self, centroids: np.ndarray, shape: BatchShape, *, encoder: str) -> Any:
        """See `chns.sampling.hard_batches.Grouping`."""
        import pymetis

        num = len(centroids)
        near = find_neighbours(centroids, num_neighbours=self.skipped + self.neighbours).indices[:, self.skipped :]
        edges = {(min(a, int(b)), max(a, int(b))) for a, row in enumerate(near) for b in row}
        adjacent = [[] for _ in range(num)]
        for a, b in sorted(edges):
            adjacent[a].append(b)
            adjacent[b].append(a)
        count = max(1, num // self.size)
        labels = np.array(pymetis.part_graph(count, adjacency=adjacent)[1], np.int64)
        labels = np.unique(labels, return_inverse=True)[1]
        unit = unit_length(centroids)
        centres = np.stack([unit[labels == c].mean(0) for c in range(labels.max() + 1)])
        return SpeakerClusters(labels=labels, centres=unit_length(centres), seed=shape.seed, encoder=encoder)

    def batches(self, speaker_labels: Any, groups: Any, shape: BatchShape, *, persons: Any) -> HardSpeakerBatches:
        """See there."""
        return ClusterSpeakerBatches(speaker_labels, groups, shape, pooling="even", persons=persons)


@dataclass(frozen=True)
class PrototypeGroups(NeighbourGroups):
    """Neighbours by the classification head's rows instead of centroids.

    Args:
        head: The losses of several runs, `vector_losses.AamSoftmax`, and the number of this run.
    """

    head: Any = None

    def group(self, centroids: np.ndarray, shape: BatchShape, *, encoder: str) -> Any:  # noqa: ARG002
        """See `chns.sampling.hard_batches.Grouping`."""
        loss, run = self.head
        return super().group(loss.weight[run].detach().numpy(), shape, encoder=encoder)
