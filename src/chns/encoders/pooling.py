"""Pooling over time: from a sequence of any length to one vector, with learnt weights for its frames."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chns.encoders.masking import masked_mean


class SelfAttentivePooling(nn.Module):
    """Weighted mean over time (SAP).

    The weight of frame t is the softmax over time of ``v . tanh(W x_t + b)``.

    Args:
        channels: Channels of the input.
        bottleneck: Size of the hidden layer.

    Source:
        Cai, Chen, Li, "Exploring the encoding layer and loss function in end-to-end speaker and language recognition
        system", Odyssey 2018.
    """

    def __init__(self, channels: int, *, bottleneck: int) -> None:
        super().__init__()
        self.hidden = nn.Conv1d(channels, bottleneck, kernel_size=1)
        self.score = nn.Conv1d(bottleneck, 1, kernel_size=1, bias=False)
        self.out_channels = channels

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pool (batch, channels, frames) to (batch, channels); mask as `chns.encoders.masking.frame_mask` makes it."""
        weights = _softmax_over_time(self.score(self.hidden(x).tanh()), mask)
        return (weights * x).sum(dim=2)


class AttentiveStatisticsPooling(nn.Module):
    """Weighted mean and standard deviation over time, with weights for each channel (ASP).

    With a global context, the attention of a frame also sees the utterance's mean and standard deviation.

    Args:
        channels: Channels of the input.
        bottleneck: Size of the attention's hidden layer.
        global_context: Whether the attention sees the whole utterance.

    Source:
        Okabe, Koshinaka, Shinoda, "Attentive statistics pooling for deep speaker embedding", Interspeech 2018; with
        weights a channel and context as in Desplanques et al., "ECAPA-TDNN", Interspeech 2020, section 3.1.
    """

    def __init__(self, channels: int, *, bottleneck: int, global_context: bool = True) -> None:
        super().__init__()
        self.global_context = global_context
        self.hidden = nn.Conv1d(3 * channels if global_context else channels, bottleneck, kernel_size=1)
        self.norm = nn.BatchNorm1d(bottleneck)
        self.score = nn.Conv1d(bottleneck, channels, kernel_size=1)
        self.out_channels = 2 * channels

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pool (batch, channels, frames) to (batch, 2 * channels): means, then standard deviations."""
        attended = self._attended(x, mask) if self.global_context else self.hidden(x)
        hidden = self.norm(attended.relu()).tanh()
        weights = _softmax_over_time(self.score(hidden), mask)
        mean = (weights * x).sum(dim=2)
        variance = (weights * (x - mean[:, :, None]).square()).sum(dim=2)
        return torch.cat([mean, _root(variance)], dim=1)

    def _attended(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """The hidden layer on each frame joined with the utterance's mean and deviation.

        These two are the same for all frames, so their share is computed once an utterance: a third of the work, and
        no tensor of three times the size.
        """
        mean, deviation = _mean_and_deviation(x, mask)
        channels = x.shape[1]
        of_frame = self.hidden.weight[:, :channels]
        of_mean = self.hidden.weight[:, channels : 2 * channels]
        of_deviation = self.hidden.weight[:, 2 * channels :]
        context = F.conv1d(mean, of_mean, self.hidden.bias) + F.conv1d(deviation, of_deviation)
        return F.conv1d(x, of_frame) + context


def _softmax_over_time(scores: Tensor, mask: Tensor | None) -> Tensor:
    if mask is not None:
        scores = scores.masked_fill(mask == 0, -torch.inf)
    return scores.softmax(dim=2)


def _mean_and_deviation(x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    mean = masked_mean(x, mask)
    return mean, _root(masked_mean((x - mean).square(), mask))


def _root(variance: Tensor) -> Tensor:
    """The floor keeps the slope finite where a channel is constant."""
    return variance.clamp_min(1e-12).sqrt()
