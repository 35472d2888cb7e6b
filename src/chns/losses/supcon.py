"""Supervised contrastive loss."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chns.losses.contrast import Pairs, Temperature, checked_embeddings, refuse_mined_pairs


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

    def forward(self, embeddings: Tensor, speaker_labels: Tensor, indices_tuple: None = None) -> Tensor:
        """The loss of a batch, in float32 whatever the autocast type.

        Args:
            embeddings: Shape (N, dim); need not be normalised.
            speaker_labels: Shape (N,), integers; any number of utterances a speaker.
            indices_tuple: None, which pytorch-metric-learning's trainers pass where there is no miner.

        Returns:
            A scalar.

        Raises:
            ValueError: If shapes do not fit, pairs were mined, or no speaker occurs twice.
        """
        refuse_mined_pairs(indices_tuple)
        with torch.autocast(embeddings.device.type, enabled=False):
            normalised = F.normalize(checked_embeddings(embeddings, speaker_labels))
            pairs = Pairs.of(speaker_labels)
            temperature = self.temperature()
            logits = (normalised / temperature) @ normalised.T
            if self.margin:
                logits = logits - self.margin / temperature * pairs.same
            log_shares = logits.fill_diagonal_(-torch.inf).log_softmax(dim=1)
            loss: Tensor = -(pairs.weights * log_shares[pairs.anchors, pairs.positives]).sum()
            return loss
