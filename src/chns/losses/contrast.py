"""Contrastive losses: supervised (SupCon) and hard supervised (H-SCL), and what they share.

Only similarities are a matrix of all pairs with a gradient; what concerns positive pairs works on their list, which is
short.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
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
    def of(cls, speaker_labels: Tensor, utterances_per_speaker: int | None = None) -> Pairs:
        """The pairs: found, or, in a batch of P x K, known.

        Args:
            speaker_labels: Shape (N,).
            utterances_per_speaker: K, if these follow one another, as in the batches of `chns.sampling`. To find pairs
                waits for a GPU, as their number depends on the labels; to know them does not.

        Raises:
            ValueError: If there is none, or labels on a CPU are not in such an order (elsewhere nobody looks).
        """
        same = speaker_labels[:, None] == speaker_labels[None, :]
        if utterances_per_speaker is not None:
            return cls._known(speaker_labels, same, utterances_per_speaker)
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

    @classmethod
    def _known(cls, speaker_labels: Tensor, same: Tensor, each: int) -> Pairs:
        number, device = len(speaker_labels), speaker_labels.device
        rest = number % each
        if rest or (device.type == "cpu" and not _in_order(speaker_labels.reshape(-1, each))):
            raise ValueError(
                f"speaker_labels must be {each} of each speaker, one speaker after the other, got other ones. "
                "Leave utterances_per_speaker out for batches of another order."
            )
        anchors = torch.arange(number, device=device).repeat_interleave(each - 1)  # a number, not a tensor: no waiting
        place = anchors % each
        other = torch.arange(each - 1, device=device).repeat(number)
        positives = anchors - place + other + (other >= place)
        return cls(same, anchors, positives, torch.full((len(anchors),), 1.0 / max(1, len(anchors)), device=device))


def _in_order(labels: Tensor) -> bool:
    """Whether rows hold one speaker each, and no two rows the same, shape (P, K)."""
    return bool((labels == labels[:, :1]).all()) and len(set(labels[:, 0].tolist())) == len(labels)


def require_several(utterances_per_speaker: int | None) -> int | None:
    """The number, if pairs can be made of so many.

    Raises:
        ValueError: If it is below 2.
    """
    if utterances_per_speaker is not None and utterances_per_speaker < 2:
        raise ValueError(
            f"utterances_per_speaker must be at least 2, got {utterances_per_speaker}: an utterance needs another one "
            "of its speaker."
        )
    return utterances_per_speaker


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
        utterances_per_speaker: K, if every batch is P x K with the utterances of a speaker one after the other, as
            those of `chns.sampling` are: then no pair need be searched, for which a GPU would be waited for.
            `chns train` says so by itself.

    Raises:
        ValueError: If the temperature is not positive, or utterances_per_speaker is below 2.

    Source:
        Khosla et al., "Supervised contrastive learning", NeurIPS 2020, eq. 2 (L_out).

    Examples:
        >>> import torch
        >>> from chns import SupConLoss
        >>> loss = SupConLoss()
        >>> embeddings, speaker_labels = torch.eye(4, 8), torch.tensor([0, 0, 1, 1])
        >>> round(loss(embeddings, speaker_labels).item(), 4)  # of guessing among the three others: log 3
        1.0986
    """

    def __init__(
        self,
        temperature: float = 0.1,
        learn_temperature: bool = True,
        margin: float = 0.0,
        utterances_per_speaker: int | None = None,
    ) -> None:
        super().__init__()
        self.temperature = Temperature(temperature, learn=learn_temperature)
        self.margin = margin
        self.utterances_per_speaker = require_several(utterances_per_speaker)

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
            pairs = Pairs.of(speaker_labels, self.utterances_per_speaker)
            temperature = self.temperature()
            logits = (normalised / temperature) @ normalised.T
            if self.margin:
                logits = logits - self.margin / temperature * pairs.same
            log_shares = logits.fill_diagonal_(-torch.inf).log_softmax(dim=1)
            loss: Tensor = -(pairs.weights * log_shares[pairs.anchors, pairs.positives]).sum()
            return loss


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
        utterances_per_speaker: K, if every batch is P x K with the utterances of a speaker one after the other, as
            those of `chns.sampling` are: then no pair need be searched, for which a GPU would be waited for.
            `chns train` says so by itself.

    Raises:
        ValueError: If the temperature is not positive, a beta is negative, the share is not in (0, 1] or
            utterances_per_speaker is below 2.

    Source:
        Jiang, Nguyen, Ishwar, Aeron, "Supervised contrastive learning with hard negative samples", 2022 (H-SCL), after
        Robinson et al., "Contrastive learning with hard negative samples", ICLR 2021, in the form that Masztalski et
        al., Interspeech 2025, train with, where |N(i)| = N - 2 for two utterances a speaker.

    Examples:
        >>> import torch
        >>> from chns import HSCLLoss
        >>> loss = HSCLLoss(beta_start=0.0, beta=1.0)
        >>> loss.set_progress(0.25)  # a quarter of the training is done, half of the way of beta
        >>> loss.beta
        0.5
        >>> round(loss(torch.eye(4, 8), torch.tensor([0, 0, 1, 1])).item(), 4)
        1.0986
    """

    def __init__(
        self,
        temperature: float = 0.1,
        learn_temperature: bool = True,
        beta: float = 0.1,
        similarity_scale: float = 2.0,
        beta_start: float | None = None,
        beta_ramp_share: float = 0.5,
        utterances_per_speaker: int | None = None,
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
        self.utterances_per_speaker = require_several(utterances_per_speaker)

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
            pairs = Pairs.of(speaker_labels, self.utterances_per_speaker)
            num_negatives = (~pairs.same).sum(dim=1)
            each = self.utterances_per_speaker
            if len(speaker_labels) == each or (each is None and not num_negatives.all()):
                raise ValueError("speaker_labels must hold at least two speakers, got one. Draw more a batch.")
            scaled = self.similarity_scale / self.temperature() * normalised
            log_c_positive = (scaled[pairs.anchors] * normalised[pairs.positives]).sum(dim=1)
            log_sum = _HardSum.apply(scaled, normalised, pairs.same, self.beta)  # type: ignore[no-untyped-call]
            log_negative = num_negatives.log() + log_sum
            # -log(c / (c + n)) = log(1 + n / c) = softplus(log n - log c)
            loss: Tensor = (pairs.weights * F.softplus(log_negative[pairs.anchors] - log_c_positive)).sum()
            return loss


# Rows of the matrix of all pairs that one core's cache holds with what is computed of them.
_ROWS_AT_ONCE = 128


class _HardSum(torch.autograd.Function):
    """``log( sum_j w_j c_j / sum_j w_j )`` of each row over its negatives, for ``log c = a b'``; w are constants.

    One function, so that one matrix of all pairs, ``w c = c ** (1 + beta)``, serves both passes and both sums.
    """

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, a: Tensor, b: Tensor, same: Tensor, beta: float) -> Tensor:
        power, share = 1.0 + beta, beta / (1.0 + beta)
        weighted = (power * a) @ b.T
        rows = _ROWS_AT_ONCE if a.device.type == "cpu" else len(a)
        parts = []
        for part, part_same in zip(torch.split(weighted, rows), torch.split(same, rows), strict=True):
            part.masked_fill_(part_same, -torch.inf)
            largest = part.amax(dim=1, keepdim=True)
            part.sub_(largest)
            weights = (share * part).exp_().sum(dim=1) if beta else (~part_same).sum(dim=1)
            sums = part.exp_().sum(dim=1)
            parts.append((sums, sums.log() - weights.log() + (1.0 - share) * largest[:, 0]))
        ctx.save_for_backward(a, b, weighted, torch.cat([sums for sums, _ in parts]))
        return torch.cat([log_sum for _, log_sum in parts])

    @staticmethod
    @once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        a, b, weighted, sums = ctx.saved_tensors  # type: ignore[attr-defined]
        of_row = (gradients[0] / sums)[:, None]
        return of_row * (weighted @ b), weighted.T @ (of_row * a), None, None
