"""Supervised contrastive loss."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from chns.losses.contrast import Contrast, Temperature


class SupConLoss(nn.Module):
    """Pull the utterances of a speaker together against all other utterances of the batch.

    For an anchor i with positives P(i), cosine similarities s and temperature t::

        loss_i = -1 / |P(i)| * sum_{p in P(i)} log( exp(s_ip / t) / sum_{a != i} exp(s_ia / t) )

    averaged over the anchors that have a positive. A margin m replaces s_ip by s_ip - m for every positive pair.

    Wants batches with at least two utterances a speaker; hard negatives make it learn longer, so it goes well with
    `chns.sampling.ClusterSpeakerBatches`. `HSCLLoss` weighs the negatives within the loss instead, and combines.

    Args:
        temperature: t, or where it starts.
        learn_temperature: Whether t is trained (through its logarithm, so it stays positive).
        margin: m, in cosine units.

    Raises:
        ValueError: If the temperature is not positive.

    Source:
        Khosla et al., "Supervised contrastive learning", NeurIPS 2020, eq. 2 (L_out).

    Example:
        >>> loss = SupConLoss()(encoder(features), speaker_labels)
    """

    def __init__(self, temperature: float = 0.1, learn_temperature: bool = True, margin: float = 0.0) -> None:
        super().__init__()
        self.temperature = Temperature(temperature, learn=learn_temperature)
        self.margin = margin

    def forward(self, embeddings: Tensor, speaker_labels: Tensor) -> Tensor:
        """The loss of a batch, in float32 whatever the autocast type.

        Args:
            embeddings: Shape (N, dim); need not be normalised.
            speaker_labels: Shape (N,), integers; any number of utterances a speaker.

        Returns:
            A scalar.

        Raises:
            ValueError: If shapes do not fit, or no speaker occurs twice.
        """
        with torch.autocast(embeddings.device.type, enabled=False):
            contrast = Contrast.of(embeddings, speaker_labels)
            logits = (contrast.similarities - self.margin * contrast.same) / self.temperature()
            others = logits.clone().fill_diagonal_(-torch.inf)
            log_total = others.logsumexp(dim=1)
            sums = contrast.positives * log_total - (logits * contrast.same).sum(dim=1)
            return contrast.mean_over_anchors(sums)
