"""Additive angular margin softmax: the classification baseline."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chns.losses.contrast import checked_embeddings, refuse_mined_pairs


class AAMSoftmaxLoss(nn.Module):
    """Classify the training speakers, with an angular margin for the true one.

    With the angle theta_k between an embedding and the weight vector of speaker k, true speaker y, scale s and margin
    m, the cross-entropy of logits ``s * cos(theta_y + m)`` for y and ``s * cos(theta_k)`` for the others. Beyond
    theta_y = pi - m, where cos(theta_y + m) would rise again, its continuation ``cos(theta_y) - m * sin(m)`` is used.

    Its weights, and its cost, grow with the number of speakers; it does not need two utterances of a speaker. For very
    many speakers, ``sampled_speakers`` compares each batch with its own speakers and a random sample of the others:
    the product and the softmax then cost as much as the sample. The weights, their gradients and the optimiser's state
    still take memory for every speaker, in every process.

    Args:
        num_speakers: Number of training speakers; labels are below it.
        embedding_dim: Size of an embedding.
        margin: m, in radians.
        scale: s.
        sampled_speakers: Speakers compared in a step, those of the batch included; None compares all.
        utterances_per_speaker: K, if every batch is P x K with the utterances of a speaker one after the other; then
            sampling does not wait for a GPU. `chns train` says so by itself.

    Raises:
        ValueError: If num_speakers is below 2, the margin is not in [0, pi / 2) or sampled_speakers is below 2.

    Source:
        Deng et al., "ArcFace", CVPR 2019, eq. 3; sampling as in An et al., "Partial FC", ICCV workshops 2021.

    Examples:
        >>> import torch
        >>> from chns import AAMSoftmaxLoss
        >>> loss = AAMSoftmaxLoss(num_speakers=1000, embedding_dim=192)
        >>> optimizer = torch.optim.Adam(loss.parameters())  # its weights, beside the encoder's
        >>> loss(torch.randn(4, 192), torch.tensor([3, 3, 7, 999])).shape
        torch.Size([])
    """

    steps: Tensor

    def __init__(
        self,
        num_speakers: int,
        embedding_dim: int,
        margin: float = 0.2,
        scale: float = 30.0,
        sampled_speakers: int | None = None,
        utterances_per_speaker: int | None = None,
    ) -> None:
        super().__init__()
        if sampled_speakers is not None and sampled_speakers < 2:
            raise ValueError(f"sampled_speakers must be at least 2, got {sampled_speakers}.")
        if num_speakers < 2:
            raise ValueError(f"num_speakers must be at least 2, got {num_speakers}.")
        if not 0 <= margin < math.pi / 2:
            raise ValueError(f"margin must be in [0, pi / 2), got {margin}.")
        self.margin = margin
        self.scale = scale
        self.sampled_speakers = sampled_speakers
        self.utterances_per_speaker = utterances_per_speaker
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self._steps_here: int | None = None  # the same number, read from the device once
        self.register_load_state_dict_post_hook(_forget_steps)  # type: ignore[no-untyped-call]
        self.weight = nn.Parameter(torch.empty(num_speakers, embedding_dim))
        nn.init.xavier_normal_(self.weight)

    def forward(self, embeddings: Tensor, speaker_labels: Tensor, indices_tuple: None = None) -> Tensor:
        """The loss of a batch, in float32 whatever the autocast type.

        Args:
            embeddings: Shape (N, embedding_dim); need not be normalised.
            speaker_labels: Shape (N,), int64, between 0 and num_speakers - 1.
            indices_tuple: None, which pytorch-metric-learning's trainers pass where there is no miner.

        Returns:
            A scalar.

        Raises:
            ValueError: If shapes do not fit, or pairs were mined.
        """
        refuse_mined_pairs(indices_tuple)
        with torch.autocast(embeddings.device.type, enabled=False):
            embeddings = checked_embeddings(embeddings, speaker_labels)
            weight: Tensor = self.weight
            if self.sampled_speakers is not None and self.training:
                speakers, speaker_labels = self._sample(speaker_labels)
                weight = weight[speakers]
            cosine = F.linear(F.normalize(embeddings), F.normalize(weight))
            true = cosine.gather(1, speaker_labels[:, None])
            # The sine's slope is infinite where the cosine is 1: keep a distance that float32 resolves.
            sine = (1.0 - true.square()).clamp_min(1e-7).sqrt()
            shifted = true * math.cos(self.margin) - sine * math.sin(self.margin)
            beyond = true - self.margin * math.sin(self.margin)
            shifted = torch.where(true > -math.cos(self.margin), shifted, beyond)
            return F.cross_entropy(self.scale * cosine.scatter(1, speaker_labels[:, None], shifted), speaker_labels)

    def _sample(self, speaker_labels: Tensor) -> tuple[Tensor, Tensor]:
        """Speakers to compare, and the labels among them.

        The draw depends on the step only, so that all processes of a run, which see the same labels, agree, and a
        resumed run goes on alike.
        """
        assert self.sampled_speakers is not None
        each, device = self.utterances_per_speaker, speaker_labels.device
        if each is None:
            present, labels = torch.unique(speaker_labels, return_inverse=True)
        else:
            present, labels = speaker_labels[::each], torch.arange(len(speaker_labels), device=device) // each
        if self._steps_here is None:
            self._steps_here = int(self.steps)
        generator = torch.Generator().manual_seed(self._steps_here)
        self._steps_here += 1
        self.steps += 1
        num_speakers = len(self.weight)
        # From memory that is not pinned, the copy would wait for what the GPU has to do.
        drawn = torch.rand(num_speakers, generator=generator, pin_memory=device.type == "cuda")
        priority = drawn.to(device, non_blocking=True)
        priority[present] = -1.0
        count = min(max(self.sampled_speakers, len(present)) - len(present), num_speakers - len(present))
        others = priority.topk(count).indices
        return torch.cat([present, others]), labels


def _forget_steps(loss: AAMSoftmaxLoss, _: object) -> None:
    loss._steps_here = None
