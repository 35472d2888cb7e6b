"""Learn from a teacher: embeddings that point where those of a better model point."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class DistillationLoss(nn.Module):
    """How far an encoder's embeddings are from a teacher's of the same crops.

    For student embeddings s_i, projected to the teacher's size if that is another, and teacher embeddings t_i, with
    cosines c_ij = cos(s_i, t_j) in a batch of N::

        loss = 1/N * sum_i ( 1 - c_ii  -  w * log( exp(c_ii / T) / sum_j exp(c_ij / T) ) )

    The first term wants the direction, the second that an utterance is nearer to its own teacher embedding than to
    those of the others: it counts where voices are alike, at the moment when directions are nearly right.

    A teacher needs no labels, so any speech will do. Where there are labels, add a contrastive loss of the same batch.

    Args:
        embedding_dim: Size of the student's embeddings.
        teacher_dim: Size of the teacher's; another one is reached through a learnt linear projection.
        contrast_weight: w; 0 leaves only the cosine.
        temperature: T.

    Raises:
        ValueError: If a size is below 1, the weight negative, or the temperature not positive.

    Source:
        Hinton, Vinyals, Dean, "Distilling the knowledge in a neural network", 2015, with embeddings instead of class
        probabilities; the second term after Tian, Krishnan, Isola, "Contrastive representation distillation", ICLR
        2020.

    Examples:
        >>> loss = DistillationLoss(embedding_dim=256, teacher_dim=192)(student(crops), teacher(crops))
    """

    def __init__(
        self, *, embedding_dim: int, teacher_dim: int, contrast_weight: float = 0.0, temperature: float = 0.07
    ) -> None:
        super().__init__()
        if embedding_dim < 1 or teacher_dim < 1:
            raise ValueError(
                f"embedding_dim and teacher_dim must be at least 1, got {embedding_dim} and {teacher_dim}."
            )
        if contrast_weight < 0 or not temperature > 0:
            raise ValueError(
                f"contrast_weight must be at least 0 and temperature positive, got {contrast_weight} and {temperature}."
            )
        self.contrast_weight = contrast_weight
        self.temperature = temperature
        self.projection: nn.Module = nn.Identity()
        if embedding_dim != teacher_dim:
            self.projection = nn.Linear(embedding_dim, teacher_dim, bias=False)

    def forward(self, embeddings: Tensor, teacher_embeddings: Tensor) -> Tensor:
        """The loss of a batch, in float32 whatever the autocast type.

        Args:
            embeddings: The student's, shape (N, embedding_dim); need not be normalised.
            teacher_embeddings: The teacher's of the same utterances, shape (N, teacher_dim); no gradient flows there.

        Returns:
            A scalar.

        Raises:
            ValueError: If the teacher's do not have the shape (N, teacher_dim).
        """
        with torch.autocast(embeddings.device.type, enabled=False):
            wide = torch.promote_types(embeddings.dtype, torch.float32)
            student = F.normalize(self.projection(embeddings.to(wide)))
            if student.shape != teacher_embeddings.shape:
                raise ValueError(
                    f"teacher_embeddings must have shape {tuple(student.shape)}, got {tuple(teacher_embeddings.shape)}."
                )
            teacher = F.normalize(teacher_embeddings.detach().to(wide))
            if not self.contrast_weight:
                return 1 - (student * teacher).sum(dim=1).mean()
            cosines = student @ teacher.T
            own = torch.arange(len(cosines), device=cosines.device)
            contrast = F.cross_entropy(cosines / self.temperature, own)
            return 1 - cosines.diagonal().mean() + self.contrast_weight * contrast


class TaughtLoss(nn.Module):
    """A loss of embeddings and speaker labels, and beside it that of a teacher's embeddings of the same crops.

    The training step asks for the teacher's embeddings of its crops, as they are after augmentation, and hands them in
    with the labels. The teacher is no part of what is trained or saved.

    Args:
        loss: Of embeddings and speaker labels.
        distillation: Of embeddings and the teacher's.
        teacher: Waveforms, shape (n, samples), to embeddings, shape (n, teacher_dim); put into evaluation mode.
        weight: What the second counts beside the first.
        crops_at_once: How many crops the teacher embeds at a time.
    """

    def __init__(
        self,
        loss: nn.Module,
        distillation: DistillationLoss,
        teacher: nn.Module,
        *,
        weight: float,
        crops_at_once: int = 64,
    ) -> None:
        super().__init__()
        if weight <= 0:
            raise ValueError(f"weight must be positive, got {weight}. Leave the teacher out to train without it.")
        self.loss = loss
        self.distillation = distillation
        self.weight = weight
        self.crops_at_once = crops_at_once
        self._teacher = (teacher.eval().requires_grad_(False),)  # a module in a tuple is not one of ours

    @property
    def temperature(self) -> Any:
        """That of the loss, if it has one."""
        return getattr(self.loss, "temperature", None)

    def set_progress(self, share: float) -> None:
        """Tell the loss, if it wants to know, which share of the steps is done."""
        tell = getattr(self.loss, "set_progress", None)
        if tell is not None:
            tell(share)

    def taught(self, waveforms: Tensor) -> Tensor:
        """The teacher's embeddings of crops, shape (n, teacher_dim), without graph."""
        teacher = self._teacher[0].to(waveforms.device)
        with torch.no_grad():
            return torch.cat([teacher(crops).float() for crops in torch.split(waveforms, self.crops_at_once)])

    def forward(self, embeddings: Tensor, speaker_labels: Tensor, teacher_embeddings: Tensor) -> Tensor:
        """The sum of both losses of a batch.

        Args:
            embeddings: Shape (N, dim).
            speaker_labels: Shape (N,).
            teacher_embeddings: Of the same crops, shape (N, teacher_dim).
        """
        total: Tensor = self.loss(embeddings, speaker_labels)
        taught: Tensor = self.distillation(embeddings, teacher_embeddings)
        return total + self.weight * taught
