"""ResNet with the channels and the pooling of WeSpeaker's published models.

Shapes below: B utterances, C channels, F frequency bands, T frames.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from chns.encoders.masking import frame_mask, masked
from chns.encoders.pooling import StatisticsPooling


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
