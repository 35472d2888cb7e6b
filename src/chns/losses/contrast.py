"""What the contrastive losses share: the temperature, and which pairs of a batch are of one speaker."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Temperature(nn.Module):
    """A positive scalar that divides similarities, learnt through its logarithm so that it stays positive.

    Args:
        initial: Its value, or its starting value.
        learn: Whether it is trained.

    Raises:
        ValueError: If initial is not positive.
    """

    def __init__(self, initial: float, *, learn: bool) -> None:
        super().__init__()
        if not initial > 0:
            raise ValueError(f"temperature must be positive, got {initial}.")
        self.log = nn.Parameter(torch.tensor(math.log(initial)), requires_grad=learn)

    def forward(self) -> Tensor:
        """The temperature, a scalar."""
        return self.log.exp()


class Contrast(NamedTuple):
    """Every utterance of a batch against every other.

    Attributes:
        similarities: Cosine similarities, shape (N, N), at least float32.
        same: True where two *different* utterances are of one speaker, shape (N, N).
        other: True where the speakers differ, shape (N, N).
        positives: Number of other utterances of an anchor's speaker, shape (N,).
    """

    similarities: Tensor
    same: Tensor
    other: Tensor
    positives: Tensor

    @classmethod
    def of(cls, embeddings: Tensor, speaker_labels: Tensor) -> Contrast:
        """Compare all embeddings of a batch.

        Raises:
            ValueError: If shapes do not fit, or no anchor has a positive.
        """
        embeddings = checked_embeddings(embeddings, speaker_labels)
        normalised = F.normalize(embeddings, dim=1)
        same_speaker = speaker_labels[:, None] == speaker_labels[None, :]
        same = same_speaker.clone().fill_diagonal_(False)
        positives = same.sum(dim=1)
        if not positives.any():
            raise ValueError(
                "speaker_labels must hold some speaker twice, got only different ones. "
                "Draw at least two utterances a speaker into every batch."
            )
        return cls(normalised @ normalised.T, same, ~same_speaker, positives)

    def mean_over_anchors(self, sums: Tensor) -> Tensor:
        """Average over the positives of each anchor, then over the anchors that have any.

        Args:
            sums: For each anchor, its terms added up over its positives, shape (N,).
        """
        has_positive = self.positives > 0
        return (sums[has_positive] / self.positives[has_positive]).mean()


def checked_embeddings(embeddings: Tensor, speaker_labels: Tensor) -> Tensor:
    """The embeddings in float32 or better.

    Raises:
        ValueError: If the shapes are not (N, dim) and (N,).
    """
    if embeddings.ndim != 2 or speaker_labels.shape != embeddings.shape[:1]:
        raise ValueError(
            "embeddings and speaker_labels must have shapes (N, dim) and (N,), "
            f"got {tuple(embeddings.shape)} and {tuple(speaker_labels.shape)}."
        )
    return embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))
