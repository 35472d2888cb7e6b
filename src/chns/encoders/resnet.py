"""ResNets over the (mel, time) plane: those of WeSpeaker's published models, and the thin one of the CHNS paper.

Shapes below: B utterances, C channels, F frequency bands, T frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from chns.encoders.layers import AttentiveStatisticsPooling, SelfAttentivePooling, StatisticsPooling, frame_mask, masked

BlockKind = Literal["basic", "bottleneck", "simam"]
PoolingKind = Literal["sap", "asp"]

_EXPANSIONS = {"basic": 1, "bottleneck": 4, "simam": 1}
_ATTENTION_CHANNELS = 128
_SIMAM_FLOOR = 1e-4


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, plus the input: (B, C, F, T) -> (B, C', F / stride, T / stride).

    Args:
        in_channels: C.
        out_channels: C'.
        stride: In bands and frames.
        attentive: Whether each place is scaled by how much it stands out; see `energy_attention`.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, attentive: bool = False) -> None:
        super().__init__()
        self.attentive = attentive
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.shortcut = _shortcut(in_channels, out_channels, stride)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Mask at the output's length, shape (B, 1, 1, T / stride), or None; padding of x must be zero."""
        hidden = masked(self.norm1(self.conv1(x)).relu(), mask)
        hidden = self.norm2(self.conv2(hidden))
        if self.attentive:
            hidden = energy_attention(hidden, mask)
        return masked((hidden + self.shortcut(x)).relu(), mask)


class BottleneckBlock(nn.Module):
    """Fewer channels, a 3x3 convolution, four times as many, plus the input: (B, C, F, T) -> (B, C', F / s, T / s)."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int) -> None:
        super().__init__()
        narrow = out_channels // _EXPANSIONS["bottleneck"]
        self.conv1 = nn.Conv2d(in_channels, narrow, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(narrow)
        self.conv2 = nn.Conv2d(narrow, narrow, 3, stride=stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(narrow)
        self.conv3 = nn.Conv2d(narrow, out_channels, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(out_channels)
        self.stride = stride
        self.shortcut = _shortcut(in_channels, out_channels, stride)

    def forward(self, x: Tensor, mask: Tensor | None, mask_before: Tensor | None = None) -> Tensor:
        """Masks at the output's and, where that is shorter, at the input's length; padding of x must be zero."""
        hidden = masked(self.norm1(self.conv1(x)).relu(), mask if self.stride == 1 else mask_before)
        hidden = self.norm2(self.conv2(hidden)).relu()
        return masked((self.norm3(self.conv3(hidden)) + self.shortcut(x)).relu(), mask)


class ResNet(nn.Module):
    """Residual network over the (mel, time) plane: (B, T, num_mels) -> (B, embedding_dim).

    Every stage after the first halves bands and frames.

    Args:
        num_mels: Mels of the features.
        channels: Channels of the stages, before the four-fold ones of "bottleneck".
        blocks: Residual blocks of the stages.
        block: "basic", two convolutions; "bottleneck", three, of which only the narrow one looks sideways; or "simam",
            two, and each place of the result scaled by how much it stands out.
        attentive_pooling: Whether frames have learnt weights; by default their mean and deviation count alike.
        embedding_dim: Size of an embedding.

    Raises:
        ValueError: If there is no such block.

    Source:
        He et al., "Deep residual learning for image recognition", CVPR 2016; for speakers as in Wang et al.,
        "WeSpeaker: a research and production oriented speaker embedding learning toolkit", ICASSP 2023; SimAM in Qin,
        Li, Weng, Wang, Li, "Simple attention module based speaker verification with iterative noisy label detection",
        ICASSP 2022.
    """

    def __init__(
        self,
        *,
        num_mels: int = 80,
        channels: Sequence[int] = (32, 64, 128, 256),
        blocks: Sequence[int] = (3, 4, 6, 3),
        block: BlockKind = "basic",
        attentive_pooling: bool = False,
        embedding_dim: int = 256,
    ) -> None:
        super().__init__()
        if block not in _EXPANSIONS:
            raise ValueError(f"block must be one of {', '.join(_EXPANSIONS)}, got {block!r}.")
        self.embedding_dim = embedding_dim
        self.conv = nn.Conv2d(1, channels[0], 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels[0])
        self.stages = nn.ModuleList()
        in_channels, bands = channels[0], num_mels
        for number, (narrow, num_blocks) in enumerate(zip(channels, blocks, strict=True)):
            stride = 1 if number == 0 else 2
            bands = (bands + stride - 1) // stride
            out_channels = narrow * _EXPANSIONS[block]
            first = _block(block, in_channels, out_channels, stride=stride)
            others = (_block(block, out_channels, out_channels, stride=1) for _ in range(num_blocks - 1))
            self.stages.append(nn.ModuleList([first, *others]))
            in_channels = out_channels
        self.pooling: StatisticsPooling | AttentiveStatisticsPooling
        if attentive_pooling:
            self.pooling = AttentiveStatisticsPooling(
                in_channels * bands, bottleneck=_ATTENTION_CHANNELS, global_context=False
            )
        else:
            self.pooling = StatisticsPooling(in_channels * bands)
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
            before = mask
            if lengths is not None and number > 0:
                lengths = (lengths + 1) // 2
                mask = _mask(lengths, x[..., ::2])
            for block in stage:  # type: ignore[attr-defined]
                x = block(x, mask, before) if isinstance(block, BottleneckBlock) else block(x, mask)
        flat = x.flatten(1, 2)
        embedding: Tensor = self.embedding(self.pooling(flat, frame_mask(lengths, flat)))
        return embedding


def energy_attention(x: Tensor, mask: Tensor | None) -> Tensor:
    """SimAM: scale each place of a channel by how far it is from the channel's mean, without any parameter.

    With d the squared distance to the mean over bands and frames and v its mean (over one place less), the place counts
    by the sigmoid of ``d / (4 (v + 0.0001)) + 0.5``.

    Args:
        x: Shape (B, C, F, T).
        mask: Shape (B, 1, 1, T) or None; padding does not count.

    Source:
        Yang, Zhang, Li, Xie, "SimAM: a simple, parameter-free attention module for convolutional neural networks",
        ICML 2021, eq. 5.
    """
    inside = torch.ones_like(x[:, :1, :1]) if mask is None else mask
    places = x.shape[2] * inside.sum(dim=3, keepdim=True)
    mean = (x * inside).sum(dim=(2, 3), keepdim=True) / places
    distance = (x - mean).square() * inside
    variance = distance.sum(dim=(2, 3), keepdim=True) / (places - 1).clamp_min(1.0)
    return x * (distance / (4 * (variance + _SIMAM_FLOOR)) + 0.5).sigmoid()


def _block(kind: BlockKind, in_channels: int, out_channels: int, *, stride: int) -> nn.Module:
    if kind == "bottleneck":
        return BottleneckBlock(in_channels, out_channels, stride=stride)
    return ResidualBlock(in_channels, out_channels, stride=stride, attentive=kind == "simam")


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
    )


def _mask(lengths: Tensor | None, x: Tensor) -> Tensor | None:
    mask = frame_mask(lengths, x)
    return None if mask is None else mask[:, :, None]


def resnet34(*, num_mels: int = 80, embedding_dim: int = 256) -> ResNet:
    """WeSpeaker's ResNet-34: 6.63 M parameters, 6.79 G multiply-adds for 3 s."""
    return ResNet(num_mels=num_mels, embedding_dim=embedding_dim)


def resnet152(*, num_mels: int = 80, embedding_dim: int = 256) -> ResNet:
    """WeSpeaker's ResNet-152: 19.8 M parameters, 21.8 G multiply-adds for 3 s."""
    return ResNet(num_mels=num_mels, blocks=(3, 8, 36, 3), block="bottleneck", embedding_dim=embedding_dim)


def resnet221(*, num_mels: int = 80, embedding_dim: int = 256) -> ResNet:
    """WeSpeaker's ResNet-221: 23.8 M parameters, 31.4 G multiply-adds for 3 s."""
    return ResNet(num_mels=num_mels, blocks=(6, 16, 48, 3), block="bottleneck", embedding_dim=embedding_dim)


def resnet293(*, num_mels: int = 80, embedding_dim: int = 256) -> ResNet:
    """WeSpeaker's ResNet-293: 28.6 M parameters, 41.4 G multiply-adds for 3 s."""
    return ResNet(num_mels=num_mels, blocks=(10, 20, 64, 3), block="bottleneck", embedding_dim=embedding_dim)


def simam_resnet34(*, num_mels: int = 80, embedding_dim: int = 256) -> ResNet:
    """ResNet-34 with SimAM and twice the channels: 25.2 M parameters, 27.2 G multiply-adds for 3 s."""
    return _simam(num_mels, (3, 4, 6, 3), embedding_dim)


def simam_resnet100(*, num_mels: int = 80, embedding_dim: int = 256) -> ResNet:
    """ResNet-100 with SimAM and twice the channels: 50.2 M parameters, 85.4 G multiply-adds for 3 s."""
    return _simam(num_mels, (6, 16, 24, 3), embedding_dim)


def _simam(num_mels: int, blocks: Sequence[int], embedding_dim: int) -> ResNet:
    return ResNet(
        num_mels=num_mels,
        channels=(64, 128, 256, 512),
        blocks=blocks,
        block="simam",
        attentive_pooling=True,
        embedding_dim=embedding_dim,
    )


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
