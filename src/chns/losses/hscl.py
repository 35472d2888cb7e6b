"""Hard supervised contrastive loss."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chns.losses.contrast import Pairs, Temperature, checked_embeddings, refuse_mined_pairs


class HSCLLoss(nn.Module):
    """Supervised contrastive loss in which similar negatives weigh more.

    With cosine similarities s, temperature t and similarity scale r, let ``c_ij = exp(r * s_ij / t)``. For an anchor i,
    a positive p and the negatives N(i), weighted by ``w_ij = c_ij ** beta`` (constants: no gradient flows through
    them)::

        loss_ip = -log( c_ip / (c_ip + |N(i)| * sum_{j in N(i)} w_ij c_ij / sum_{j in N(i)} w_ij) )

    averaged over the positives of each anchor, then over the anchors that have one. Unlike in `SupConLoss`, the
    denominator holds one positive, not all. With beta = 0 every negative weighs the same.

    Wants batches with two speakers and two utterances a speaker. Combines with `chns.sampling.ClusterSpeakerBatches`:
    the sampler decides which negatives a batch holds, this loss how much each of them counts.

    Args:
        temperature: t, or where it starts.
        learn_temperature: Whether t is trained (through its logarithm, so it stays positive).
        beta: Strength of the weighting, 0 or more.
        similarity_scale: r. Masztalski et al. use 2, which equals half the temperature at r = 1.
        beta_start: beta moves in a straight line from this value to ``beta``; None keeps it at ``beta``.
        beta_ramp_share: Share of the training, as `set_progress` tells it, over which it moves.

    Raises:
        ValueError: If the temperature is not positive, a beta is negative or the share is not in (0, 1].

    Source:
        Jiang, Nguyen, Ishwar, Aeron, "Supervised contrastive learning with hard negative samples", 2022 (H-SCL), after
        Robinson et al., "Contrastive learning with hard negative samples", ICLR 2021, in the form that Masztalski et
        al., Interspeech 2025, train with, where |N(i)| = N - 2 for two utterances a speaker.
    """

    def __init__(
        self,
        temperature: float = 0.1,
        learn_temperature: bool = True,
        beta: float = 0.1,
        similarity_scale: float = 2.0,
        beta_start: float | None = None,
        beta_ramp_share: float = 0.5,
    ) -> None:
        super().__init__()
        for name, value in (("beta", beta), ("beta_start", beta_start or 0.0)):
            if value < 0:
                raise ValueError(f"{name} must be 0 or more, got {value}.")
        if not 0.0 < beta_ramp_share <= 1.0:
            raise ValueError(f"beta_ramp_share must be above 0 and at most 1, got {beta_ramp_share}.")
        self.temperature = Temperature(temperature, learn=learn_temperature)
        self._last_beta = beta
        self._first_beta = beta if beta_start is None else beta_start
        self._beta_ramp_share = beta_ramp_share
        self.beta = self._first_beta
        self.similarity_scale = similarity_scale

    def set_progress(self, share_done: float) -> None:
        """Move beta to where it belongs at this point of the training.

        Args:
            share_done: Share of all steps that are done, from 0 to 1. `chns.training` tells it before each step; so
                does a loop of your own, if beta is to move.
        """
        ramp = min(1.0, share_done / self._beta_ramp_share)
        self.beta = self._first_beta + ramp * (self._last_beta - self._first_beta)

    def forward(self, embeddings: Tensor, speaker_labels: Tensor, indices_tuple: None = None) -> Tensor:
        """The loss of a batch, in float32 whatever the autocast type.

        Args:
            embeddings: Shape (N, dim); need not be normalised.
            speaker_labels: Shape (N,), integers; any number of utterances a speaker.
            indices_tuple: None, which pytorch-metric-learning's trainers pass where there is no miner.

        Returns:
            A scalar.

        Raises:
            ValueError: If shapes do not fit, pairs were mined, no speaker occurs twice, or there is only one speaker.
        """
        refuse_mined_pairs(indices_tuple)
        with torch.autocast(embeddings.device.type, enabled=False):
            normalised = F.normalize(checked_embeddings(embeddings, speaker_labels))
            pairs = Pairs.of(speaker_labels)
            num_negatives = (~pairs.same).sum(dim=1)
            if not num_negatives.all():
                raise ValueError("speaker_labels must hold at least two speakers, got one. Draw more a batch.")
            # w c = c ** (1 + beta): one matrix serves both; dividing its gradient by 1 + beta keeps w a constant.
            power = 1.0 + self.beta
            log_weighted = (power * self.similarity_scale / self.temperature() * normalised) @ normalised.T
            log_c_positive = log_weighted[pairs.anchors, pairs.positives] / power
            log_weighted = log_weighted.masked_fill_(pairs.same, -torch.inf)
            log_sum = log_weighted.logsumexp(dim=1)
            log_sum = log_sum.detach() + (log_sum - log_sum.detach()) / power
            log_negative = num_negatives.log() + log_sum - self._log_weights(log_weighted.detach())
            # -log(c / (c + n)) = log(1 + n / c) = softplus(log n - log c)
            loss: Tensor = (pairs.weights * F.softplus(log_negative[pairs.anchors] - log_c_positive)).sum()
            return loss

    def _log_weights(self, log_weighted: Tensor) -> Tensor:
        """Logarithm of the sum of the negatives' weights; those that are not negatives are at minus infinity."""
        if self.beta == 0:
            return log_weighted.isfinite().sum(dim=1).log()
        return (self.beta / (1.0 + self.beta) * log_weighted).logsumexp(dim=1)
