"""ResNets: WeSpeaker's, and the thin one with squeeze-and-excitation of the CHNS paper.

Shapes below: B utterances, C channels, F frequency bands, T frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from chns.encoders.layers import AttentiveStatisticsPooling, SelfAttentivePooling, StatisticsPooling, frame_mask, masked


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, plus the input: (B, C, F, T) -> (B, C', F / stride, T / stride)."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Mask at the output's length, shape (B, 1, 1, T / stride), or None; padding of x must be zero."""
        hidden = masked(self.norm1(self.conv1(x)).relu(), mask)
        return masked((self.norm2(self.conv2(hidden)) + self.shortcut(x)).relu(), mask)


class ResNet(nn.Module):
    """Residual network over the (mel, time) plane: (B, T, num_mels) -> (B, embedding_dim).

    Every stage after the first halves bands and frames; the pooling is mean and deviation over time.

    Args:
        num_mels: Mels of the features.
        channels: Channels of the stages.
        blocks: Residual blocks of the stages.
        embedding_dim: Size of an embedding.

    Source:
        He et al., "Deep residual learning for image recognition", CVPR 2016; for speakers as in Wang et al.,
        "WeSpeaker: a research and production oriented speaker embedding learning toolkit", ICASSP 2023.
    """

    def __init__(
        self,
        *,
        num_mels: int = 80,
        channels: Sequence[int] = (32, 64, 128, 256),
        blocks: Sequence[int] = (3, 4, 6, 3),
        embedding_dim: int = 256,
    ) -> None:
        super().__init__()
        self.embedding_dim = embedding_dim
        self.conv = nn.Conv2d(1, channels[0], 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels[0])
        self.stages = nn.ModuleList()
        in_channels, bands = channels[0], num_mels
        for number, (out_channels, num_blocks) in enumerate(zip(channels, blocks, strict=True)):
            stride = 1 if number == 0 else 2
            bands = (bands + stride - 1) // stride
            first = ResidualBlock(in_channels, out_channels, stride=stride)
            others = (ResidualBlock(out_channels, out_channels, stride=1) for _ in range(num_blocks - 1))
            self.stages.append(nn.ModuleList([first, *others]))
            in_channels = out_channels
        self.pooling = StatisticsPooling(channels[-1] * bands)
        self.embedding = nn.Linear(self.pooling.out_channels, embedding_dim)

    def forward(self, features: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Embed a batch.

        Args:
            features: Shape (B, T, num_mels).
            lengths: Frames of each utterance that are not padding, shape (B,); by default all.

        Returns:
            Shape (B, embedding_dim), not normalised.
        """
        x = features.transpose(1, 2)[:, None]
        mask = _mask(lengths, x)
        x = masked(self.norm(self.conv(masked(x, mask))).relu(), mask)
        for number, stage in enumerate(self.stages):
            if lengths is not None and number > 0:
                lengths = (lengths + 1) // 2
                mask = _mask(lengths, x[..., ::2])
            for block in stage:  # type: ignore[attr-defined]
                x = block(x, mask)
        flat = x.flatten(1, 2)
        embedding: Tensor = self.embedding(self.pooling(flat, frame_mask(lengths, flat)))
        return embedding


def _mask(lengths: Tensor | None, x: Tensor) -> Tensor | None:
    mask = frame_mask(lengths, x)
    return None if mask is None else mask[:, :, None]


def resnet34(*, num_mels: int = 80, embedding_dim: int = 256) -> ResNet:
    """WeSpeaker's ResNet-34, 6.6 M parameters."""
    return ResNet(num_mels=num_mels, embedding_dim=embedding_dim)


PoolingKind = Literal["sap", "asp"]


class SqueezeExcitation2d(nn.Module):
    """Scale each channel by a gate computed from its mean over bands and frames: (B, C, F, T) -> same."""

    def __init__(self, channels: int, *, reduction: int = 8) -> None:
        super().__init__()
        self.squeeze = nn.Linear(channels, channels // reduction)
        self.excite = nn.Linear(channels // reduction, channels)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Mask of shape (B, 1, 1, T) or None; padding of x must be zero."""
        mean = x.mean(dim=(2, 3))
        if mask is not None:
            mean = mean / mask.mean(dim=(2, 3))
        gate: Tensor = self.excite(self.squeeze(mean).relu()).sigmoid()
        return x * gate[:, :, None, None]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, squeeze-excitation, plus the input: (B, C, F, T) -> (B, C', F / stride, T / stride)."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.se = SqueezeExcitation2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Mask at the output's length, shape (B, 1, 1, T / stride), or None; padding of x must be zero."""
        hidden = masked(self.norm1(self.conv1(x)).relu(), mask)
        residual = self.se(masked(self.norm2(self.conv2(hidden)), mask), mask)
        return masked((residual + self.shortcut(x)).relu(), mask)


class ThinResNet(nn.Module):
    """Residual network over the (mel, time) plane, attentive pooling over time: (B, T, num_mels) -> (B, embedding_dim).

    The first convolution is 7x7 and halves the bands; every stage after the first halves bands and frames.

    Args:
        num_mels: Mels of the features.
        channels: Channels of the four stages.
        blocks: Residual blocks of the four stages.
        pooling: "sap" (self-attentive, weighted mean) or "asp" (attentive statistics, mean and deviation).
        attention_channels: Hidden size of the pooling's attention.
        embedding_dim: Size of an embedding.

    Raises:
        ValueError: If pooling is neither.

    Source:
        He et al., "Deep residual learning for image recognition", CVPR 2016; Hu et al., "Squeeze-and-excitation
        networks", CVPR 2018; thin for speakers as in Xie et al., "Utterance-level aggregation for speaker recognition
        in the wild", ICASSP 2019, and Chung et al., "In defence of metric learning for speaker recognition",
        Interspeech 2020.
    """

    def __init__(
        self,
        *,
        num_mels: int = 80,
        channels: Sequence[int] = (16, 32, 64, 128),
        blocks: Sequence[int] = (3, 4, 6, 3),
        pooling: PoolingKind = "asp",
        attention_channels: int = 128,
        embedding_dim: int = 256,
    ) -> None:
        super().__init__()
        if pooling not in ("sap", "asp"):
            raise ValueError(f"pooling must be 'sap' or 'asp', got {pooling!r}.")
        self.embedding_dim = embedding_dim
        self.conv = nn.Conv2d(1, channels[0], 7, stride=(2, 1), padding=3, bias=False)
        self.norm = nn.BatchNorm2d(channels[0])
        self.blocks = nn.ModuleList()
        self.strides: list[int] = []
        in_channels = channels[0]
        for stage, (out_channels, num_blocks) in enumerate(zip(channels, blocks, strict=True)):
            for number in range(num_blocks):
                self.strides.append(2 if stage > 0 and number == 0 else 1)
                self.blocks.append(BasicBlock(in_channels, out_channels, stride=self.strides[-1]))
                in_channels = out_channels
        bands = num_mels
        for _ in channels:
            bands = (bands + 1) // 2
        flat = channels[-1] * bands
        self.pooling: SelfAttentivePooling | AttentiveStatisticsPooling = (
            SelfAttentivePooling(flat, bottleneck=attention_channels)
            if pooling == "sap"
            else AttentiveStatisticsPooling(flat, bottleneck=attention_channels, global_context=False)
        )
        self.embedding = nn.Linear(self.pooling.out_channels, embedding_dim)
        # A training step in float32 takes four fifths of the time so; in bf16 it makes no difference (on a CPU).
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, features: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Embed a batch.

        Args:
            features: Shape (B, T, num_mels).
            lengths: Frames of each utterance that are not padding, shape (B,); by default all.

        Returns:
            Shape (B, embedding_dim), not normalised.
        """
        x = features.transpose(1, 2)[:, None]
        mask = self._mask(lengths, x)
        x = masked(self.norm(self.conv(masked(x, mask))).relu(), mask)
        for stride, block in zip(self.strides, self.blocks, strict=True):
            if lengths is not None and stride == 2:
                lengths = (lengths + 1) // 2
                mask = self._mask(lengths, x[..., ::2])
            x = block(x, mask)
        flat = x.flatten(1, 2)
        embedding: Tensor = self.embedding(self.pooling(flat, frame_mask(lengths, flat)))
        return embedding

    @staticmethod
    def _mask(lengths: Tensor | None, x: Tensor) -> Tensor | None:
        mask = frame_mask(lengths, x)
        return None if mask is None else mask[:, :, None]


def thin_resnet34(*, num_mels: int = 80, pooling: PoolingKind = "asp", embedding_dim: int = 256) -> ThinResNet:
    """The thin ResNet-34 of the CHNS paper, about 2 M parameters."""
    return ThinResNet(num_mels=num_mels, pooling=pooling, embedding_dim=embedding_dim)
