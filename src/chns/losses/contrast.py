"""What the contrastive losses share: the temperature, and which pairs of a batch are of one speaker.

Only similarities are a matrix of all pairs with a gradient; what concerns positive pairs works on their list, which is
short.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn


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


class Pairs(NamedTuple):
    """Which utterances of a batch are of one speaker.

    Attributes:
        same: True where both are of one speaker, the utterance itself included, shape (N, N).
        anchors: First utterance of every pair of two different ones of one speaker, shape (pairs,).
        positives: Second utterance of these pairs, shape (pairs,).
        weights: What each pair counts: first the mean over an anchor's positives, then over the anchors that have any.
    """

    same: Tensor
    anchors: Tensor
    positives: Tensor
    weights: Tensor

    @classmethod
    def of(cls, speaker_labels: Tensor) -> Pairs:
        """Find the pairs.

        Raises:
            ValueError: If there is none.
        """
        same = speaker_labels[:, None] == speaker_labels[None, :]
        anchors, positives = same.nonzero(as_tuple=True)
        different = anchors != positives
        anchors, positives = anchors[different], positives[different]
        if not len(anchors):
            raise ValueError(
                "speaker_labels must hold some speaker twice, got only different ones. "
                "Draw at least two utterances a speaker into every batch."
            )
        per_anchor = torch.bincount(anchors, minlength=len(speaker_labels))
        return cls(same, anchors, positives, 1.0 / (per_anchor[anchors] * (per_anchor > 0).sum()))


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


def refuse_mined_pairs(indices_tuple: object) -> None:
    """Say that a loss compares all pairs of a batch, where a miner of pytorch-metric-learning has chosen some.

    Raises:
        ValueError: If pairs are given.
    """
    if indices_tuple is not None:
        raise ValueError(
            f"indices_tuple must be None, got {type(indices_tuple).__name__}. This loss compares all pairs of a batch: "
            "leave the miner out, or take a loss of pytorch-metric-learning."
        )
