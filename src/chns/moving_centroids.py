"""Speakers' centroids as moving averages of their training embeddings: fresh at any time, without an extra pass.

They cost a table of (speakers, dim) float32 on the device and a scattered sum a step. Training embeddings are those of
crops in training mode (batch statistics, augmentation), and a speaker's average mixes encoders as old as its last few
visits; docs/results.md says what that costs in quality.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from chns.embedding import FloatArray

_ROWS_AT_ONCE = 2**16  # the drift compares so many speakers at a time, for its memory


class MovingCentroids:
    """Follows the centroid of every training speaker.

    Args:
        num_speakers: Number of speaker labels.
        momentum: Weight of the past at each visit of a speaker, in [0, 1).

    Raises:
        ValueError: If the momentum is out of range.
    """

    def __init__(self, num_speakers: int, *, momentum: float = 0.7) -> None:
        if not 0.0 <= momentum < 1.0:
            raise ValueError(f"momentum must be in [0, 1), got {momentum}.")
        self._num_speakers = num_speakers
        self._momentum = momentum
        self._averages: Tensor | None = None
        self._grouped: Tensor | None = None

    @torch.no_grad()
    def update(self, embeddings: Tensor, speaker_labels: Tensor) -> None:
        """Count a batch: each speaker in it moves towards the mean of its normalised embeddings.

        Args:
            embeddings: Shape (N, dim).
            speaker_labels: Shape (N,).
        """
        normalised = F.normalize(embeddings.float(), dim=1)
        if self._averages is None:
            self._averages = torch.zeros(self._num_speakers, normalised.shape[1], device=normalised.device)
        self._averages = self._averages.to(normalised.device)
        speakers, inverse = torch.unique(speaker_labels, return_inverse=True)
        sums = torch.zeros(len(speakers), normalised.shape[1], device=normalised.device)
        sums = F.normalize(sums.index_add_(0, inverse, normalised), dim=1)
        past = self._averages[speakers]
        weight = torch.where(past.any(dim=1, keepdim=True), self._momentum, 0.0)
        self._averages[speakers] = weight * past + (1 - weight) * sums

    def centroids(self) -> FloatArray:
        """Unit-length centroids as they are now, shape (speakers, dim); a speaker not met yet gets the mean of all.

        Raises:
            ValueError: If no batch was counted.
        """
        if self._averages is None:
            raise ValueError(
                "moving centroids must have seen a batch, got none. Train an epoch of random batches first."
            )
        centroids = F.normalize(self._averages, dim=1)
        unseen = ~centroids.any(dim=1)
        centroids[unseen] = F.normalize(centroids.mean(dim=0), dim=0)
        found: FloatArray = centroids.cpu().numpy()
        return found

    def mark_grouped(self) -> None:
        """Remember where the centroids are: from here, `drift` is counted."""
        self._grouped = None if self._averages is None else F.normalize(self._averages, dim=1)

    def drift(self) -> float:
        """Mean cosine distance between the centroids at the last grouping and now, over the speakers met by then."""
        if self._grouped is None or self._averages is None:
            return 0.0
        distance = torch.zeros((), dtype=torch.float64, device=self._averages.device)
        num_met = torch.zeros((), dtype=torch.int64, device=self._averages.device)
        blocks = zip(torch.split(self._grouped, _ROWS_AT_ONCE), torch.split(self._averages, _ROWS_AT_ONCE), strict=True)
        for then, now in blocks:
            met = then.any(dim=1)
            distance += torch.where(met, 1 - F.cosine_similarity(then, now, dim=1), 0.0).sum(dtype=torch.float64)
            num_met += met.sum()
        return float(distance / num_met)

    def state_dict(self) -> dict[str, Any]:
        """The averages, and those of the last grouping."""
        return {"averages": self._averages, "grouped": self._grouped}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        self._averages, self._grouped = state["averages"], state["grouped"]
