"""CAM++: a densely connected TDNN whose layers are masked by what the utterance and its segment sound like.

Shapes below: B utterances, C channels, F frequency bands, T frames. Every convolution that looks sideways sees zeros
beyond the ends of an utterance, alone or in a padded batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from chns.encoders.layers import StatisticsPooling, frame_mask, masked, masked_mean

_SEGMENT_FRAMES = 100  # of the halved frames: 2 s
_CONTEXT_REDUCTION = 2


class FrequencyBlock(nn.Module):
    """Two 3x3 convolutions, plus the input; the stride is in frequency only: (B, C, F, T) -> (B, C, F / stride, T)."""

    def __init__(self, channels: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, stride=(stride, 1), padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, channels, 1, stride=(stride, 1), bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Mask of shape (B, 1, 1, T) or None; padding of x must be zero."""
        hidden = masked(self.norm1(self.conv1(x)).relu(), mask)
        return masked((self.norm2(self.conv2(hidden)) + self.shortcut(x)).relu(), mask)


class ConvolutionalFront(nn.Module):
    """Residual convolutions that divide the bands by eight: (B, num_mels, T) -> (B, channels * num_mels / 8, T)."""

    def __init__(self, channels: int, *, num_mels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.blocks = nn.ModuleList(FrequencyBlock(channels, stride=stride) for stride in (2, 1, 2, 1))
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=(2, 1), padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.out_channels = channels * ((num_mels + 7) // 8)

    def forward(self, features: Tensor, mask: Tensor | None) -> Tensor:
        """Mask of shape (B, 1, T) or None."""
        flat = None if mask is None else mask[:, None]
        x = masked(self.norm1(self.conv1(masked(features, mask)[:, None])).relu(), flat)
        for block in self.blocks:
            x = block(x, flat)
        signal: Tensor = self.norm2(self.conv2(x)).relu().flatten(1, 2)
        return signal


class MaskedTdnnLayer(nn.Module):
    """Context-aware masking: a convolution, scaled by a gate for each channel and segment.

    The gate sees the mean of the whole utterance plus the mean of the segment of `_SEGMENT_FRAMES` that a frame is in:
    (B, in_channels, T) -> (B, out_channels, T).
    """

    def __init__(self, in_channels: int, out_channels: int, *, kernel: int, dilation: int) -> None:
        super().__init__()
        reach = dilation * (kernel - 1) // 2
        self.conv = nn.Conv1d(in_channels, out_channels, kernel, dilation=dilation, padding=reach, bias=False)
        self.squeeze = nn.Conv1d(in_channels, in_channels // _CONTEXT_REDUCTION, kernel_size=1)
        self.excite = nn.Conv1d(in_channels // _CONTEXT_REDUCTION, out_channels, kernel_size=1)

    def forward(self, x: Tensor, mask: Tensor | None, segments: Tensor) -> Tensor:
        """Mask of shape (B, 1, T) or None; which segment each frame is in, shape (T, segments), ones and zeros."""
        x = masked(x, mask)
        inside = torch.ones_like(x[:, :1]) if mask is None else mask
        of_segments = (x @ segments) / (inside @ segments).clamp_min(1.0)  # of one that is all padding: zero
        context = masked_mean(x, mask) + of_segments
        gates = self.excite(self.squeeze(context).relu()).sigmoid()
        scaled: Tensor = self.conv(x) * (gates @ segments.T)
        return scaled


class DenseLayer(nn.Module):
    """Normalise, mix the channels, normalise, masked convolution; then join: (B, C, T) -> (B, C + growth, T)."""

    def __init__(self, in_channels: int, *, growth: int, bottleneck: int, dilation: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm1d(in_channels)
        self.mix = nn.Conv1d(in_channels, bottleneck, kernel_size=1, bias=False)
        self.norm2 = nn.BatchNorm1d(bottleneck)
        self.masked = MaskedTdnnLayer(bottleneck, growth, kernel=3, dilation=dilation)

    def forward(self, x: Tensor, mask: Tensor | None, segments: Tensor) -> Tensor:
        """Mask and segments as of `MaskedTdnnLayer`."""
        hidden = self.norm2(self.mix(self.norm1(x).relu())).relu()
        return torch.cat([x, self.masked(hidden, mask, segments)], dim=1)


class CamPlusPlus(nn.Module):
    """CAM++: (B, T, num_mels) -> (B, embedding_dim).

    Args:
        num_mels: Mels of the features.
        front_channels: Channels of the convolutions over the (mel, time) plane.
        channels: Channels of the first one-dimensional convolution, which halves the frames.
        growth: Channels that each dense layer adds.
        layers: Dense layers of the blocks; after each block the channels are halved.
        dilations: Dilation of each block's convolutions, in halved frames.
        embedding_dim: Size of an embedding.

    Raises:
        ValueError: If layers and dilations are not of one length.

    Source:
        Wang, Zheng, Chen, Cheng, Chen, "CAM++: a fast and efficient network for speaker verification using
        context-aware masking", Interspeech 2023.
    """

    def __init__(
        self,
        *,
        num_mels: int = 80,
        front_channels: int = 32,
        channels: int = 128,
        growth: int = 32,
        layers: Sequence[int] = (12, 24, 16),
        dilations: Sequence[int] = (1, 2, 2),
        embedding_dim: int = 192,
    ) -> None:
        super().__init__()
        if len(layers) != len(dilations):
            raise ValueError(f"layers and dilations must be as many, got {list(layers)} and {list(dilations)}.")
        self.embedding_dim = embedding_dim
        self.front = ConvolutionalFront(front_channels, num_mels=num_mels)
        self.first = nn.Conv1d(self.front.out_channels, channels, 5, stride=2, padding=2, bias=False)
        self.first_norm = nn.BatchNorm1d(channels)
        self.blocks = nn.ModuleList()
        self.transitions = nn.ModuleList()
        bottleneck = 4 * growth
        for num_layers, dilation in zip(layers, dilations, strict=True):
            block = nn.ModuleList()
            for _ in range(num_layers):
                block.append(DenseLayer(channels, growth=growth, bottleneck=bottleneck, dilation=dilation))
                channels += growth
            self.blocks.append(block)
            halved = nn.Conv1d(channels, channels // 2, kernel_size=1, bias=False)
            self.transitions.append(nn.Sequential(nn.BatchNorm1d(channels), nn.ReLU(), halved))
            channels //= 2
        self.last_norm = nn.BatchNorm1d(channels)
        self.pooling = StatisticsPooling(channels, variance_floor=1e-12)
        self.embedding = nn.Linear(self.pooling.out_channels, embedding_dim, bias=False)
        self.embedding_norm = nn.BatchNorm1d(embedding_dim, affine=False)

    def forward(self, features: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Embed a batch.

        Args:
            features: Shape (B, T, num_mels).
            lengths: Frames of each utterance that are not padding, shape (B,); by default all.

        Returns:
            Shape (B, embedding_dim), not normalised.
        """
        mels = features.transpose(1, 2)
        mask = frame_mask(lengths, mels)
        x = self.first_norm(self.first(masked(self.front(mels, mask), mask))).relu()
        mask = frame_mask(None if lengths is None else (lengths + 1) // 2, x)
        segments = _segments(x)
        for block, transition in zip(self.blocks, self.transitions, strict=True):
            for layer in block:  # type: ignore[attr-defined]
                x = layer(x, mask, segments)
            x = transition(x)
        embedding: Tensor = self.embedding_norm(self.embedding(self.pooling(self.last_norm(x).relu(), mask)))
        return embedding


def _segments(x: Tensor) -> Tensor:
    """Which segment each frame of (B, C, T) is in, shape (T, segments), ones and zeros.

    A product with it exports where a pooling whose last window is shorter does not.
    """
    of_frames = torch.arange(x.shape[2], device=x.device) // _SEGMENT_FRAMES
    numbers = torch.arange((x.shape[2] + _SEGMENT_FRAMES - 1) // _SEGMENT_FRAMES, device=x.device)
    return (of_frames[:, None] == numbers).to(x.dtype)


def cam_plus_plus(*, num_mels: int = 80, embedding_dim: int = 192) -> CamPlusPlus:
    """CAM++ in the size of 3D-Speaker's models: 6.85 M parameters, 1.6 G multiply-adds for 3 s."""
    return CamPlusPlus(num_mels=num_mels, embedding_dim=embedding_dim)
