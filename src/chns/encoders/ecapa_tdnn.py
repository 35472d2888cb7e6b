"""ECAPA-TDNN.

Shapes below: B utterances, T frames, C channels. Convolutions see zeros beyond the ends of an utterance, or the
utterance mirrored; alone or in a padded batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from chns.encoders.layers import AttentiveStatisticsPooling, frame_mask, masked, masked_mean, mirrored, pointwise

Padding = Literal["zeros", "reflect"]


class TdnnBlock(nn.Module):
    """Dilated convolution, rectifier, batch normalisation: (B, in_channels, T) -> (B, out_channels, T)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel: int = 1,
        dilation: int = 1,
        padding: Padding = "zeros",
        norm: bool = True,
    ) -> None:
        super().__init__()
        self.reach = dilation * (kernel - 1) // 2
        self.mirrors = padding == "reflect"
        self.conv = nn.Conv1d(
            in_channels, out_channels, kernel, dilation=dilation, padding=0 if self.mirrors else self.reach
        )
        self.norm: nn.Module = nn.BatchNorm1d(out_channels) if norm else nn.Identity()

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mask of shape (B, 1, T) or None."""
        if self.reach:
            x = mirrored(x, mask, self.reach) if self.mirrors else masked(x, mask)
        if self.training and self.conv.kernel_size == (1,):
            x = pointwise(x, self.conv.weight, self.conv.bias)
        else:
            x = self.conv(x)
        normalised: Tensor = self.norm(x.relu_())
        return normalised


class Res2NetBlock(nn.Module):
    """Split the channels into `scale` groups; each group after the first sees the one before it: (B, C, T) -> same."""

    def __init__(self, channels: int, *, kernel: int, dilation: int, scale: int, padding: Padding) -> None:
        super().__init__()
        width = channels // scale
        self.scale = scale
        self.blocks = nn.ModuleList(
            TdnnBlock(width, width, kernel=kernel, dilation=dilation, padding=padding) for _ in range(scale - 1)
        )

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Mask of shape (B, 1, T) or None."""
        first, *groups = x.chunk(self.scale, dim=1)
        outputs = [first]
        for number, (group, block) in enumerate(zip(groups, self.blocks, strict=True)):
            outputs.append(block(group if number == 0 else group + outputs[-1], mask))
        return torch.cat(outputs, dim=1)


class SqueezeExcitation(nn.Module):
    """Scale each channel by a gate computed from the utterance's mean: (B, C, T) -> same."""

    def __init__(self, channels: int, *, bottleneck: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv1d(channels, bottleneck, kernel_size=1)
        self.excite = nn.Conv1d(bottleneck, channels, kernel_size=1)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Mask of shape (B, 1, T) or None."""
        gate: Tensor = self.excite(self.squeeze(masked_mean(x, mask)).relu()).sigmoid()
        return x * gate


class SERes2NetBlock(nn.Module):
    """Pointwise, Res2Net, pointwise, squeeze-excitation, plus the input: (B, C, T) -> same."""

    def __init__(
        self, channels: int, *, kernel: int, dilation: int, scale: int, se_bottleneck: int, padding: Padding
    ) -> None:
        super().__init__()
        self.before = TdnnBlock(channels, channels)
        self.res2net = Res2NetBlock(channels, kernel=kernel, dilation=dilation, scale=scale, padding=padding)
        self.after = TdnnBlock(channels, channels)
        self.se = SqueezeExcitation(channels, bottleneck=se_bottleneck)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Mask of shape (B, 1, T) or None."""
        excited: Tensor = self.se(self.after(self.res2net(self.before(x), mask)), mask)
        return x + excited


@dataclass(frozen=True, kw_only=True)
class EcapaVariant:
    """How toolkits' ECAPA-TDNNs differ beyond their sizes.

    Args:
        kernels: Kernel sizes of the first convolution and the blocks, in frames, odd.
        dilations: Dilations of the same, in frames.
        padding: What convolutions see beyond the ends of an utterance: "zeros", or the utterance mirrored ("reflect"),
            as in SpeechBrain's models.
        global_context: Whether the pooling's attention sees the whole utterance.
        plain_head: Whether there is no batch normalisation after the aggregation and in the attention, as in
            WeSpeaker's models.

    Raises:
        ValueError: If a kernel is even, a dilation is not a whole number from 1 to 100, or there is no such padding.
    """

    kernels: Sequence[int] = (5, 3, 3, 3)
    dilations: Sequence[int] = (1, 2, 3, 4)
    padding: Padding = "zeros"
    global_context: bool = True
    plain_head: bool = False

    def __post_init__(self) -> None:
        if any(kernel % 2 == 0 for kernel in self.kernels):
            raise ValueError(f"kernels must be odd, got {list(self.kernels)}.")
        if not all(isinstance(dilation, int) and 1 <= dilation <= 100 for dilation in self.dilations):
            raise ValueError(f"dilations must be whole numbers from 1 to 100, got {list(self.dilations)}.")
        if self.padding not in ("zeros", "reflect"):
            raise ValueError(f"padding must be 'zeros' or 'reflect', got {self.padding!r}.")


class EcapaTdnn(nn.Module):
    """ECAPA-TDNN of any width: (B, T, num_mels) -> (B, embedding_dim).

    Args:
        num_mels: Mels of the features.
        channels: Channels of the first convolution and the three SE-Res2Net blocks; divisible by res2net_scale.
        aggregation_channels: Channels after the blocks' outputs are brought together.
        res2net_scale: Groups of a Res2Net block.
        se_bottleneck: Hidden size of the squeeze-excitation.
        attention_channels: Hidden size of the pooling's attention.
        embedding_dim: Size of an embedding.
        variant: Of which toolkit's kind; a bundle and a YAML file state it as a mapping.

    Raises:
        ValueError: If channels is not divisible by res2net_scale.
        TypeError: If the variant has a key that `EcapaVariant` does not have.

    Source:
        Desplanques, Thienpondt, Demuynck, "ECAPA-TDNN", Interspeech 2020.
    """

    def __init__(
        self,
        *,
        num_mels: int = 80,
        channels: int,
        aggregation_channels: int,
        res2net_scale: int = 8,
        se_bottleneck: int = 128,
        attention_channels: int = 128,
        embedding_dim: int = 192,
        variant: EcapaVariant | Mapping[str, Any] = EcapaVariant(),
    ) -> None:
        super().__init__()
        if not isinstance(variant, EcapaVariant):
            variant = EcapaVariant(**variant)
        if channels % res2net_scale:
            raise ValueError(f"channels must be divisible by res2net_scale = {res2net_scale}, got {channels}.")
        kernels, dilations, padding = variant.kernels, variant.dilations, variant.padding
        self.embedding_dim = embedding_dim
        self.first = TdnnBlock(num_mels, channels, kernel=kernels[0], dilation=dilations[0], padding=padding)
        self.blocks = nn.ModuleList(
            SERes2NetBlock(
                channels,
                kernel=kernel,
                dilation=dilation,
                scale=res2net_scale,
                se_bottleneck=se_bottleneck,
                padding=padding,
            )
            for kernel, dilation in zip(kernels[1:], dilations[1:], strict=True)
        )
        self.aggregation = TdnnBlock(channels * len(self.blocks), aggregation_channels, norm=not variant.plain_head)
        self.pooling = AttentiveStatisticsPooling(
            aggregation_channels,
            bottleneck=attention_channels,
            global_context=variant.global_context,
            plain=variant.plain_head,
        )
        self.pooling_norm = nn.BatchNorm1d(self.pooling.out_channels)
        self.embedding = nn.Linear(self.pooling.out_channels, embedding_dim)

    def forward(self, features: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Embed a batch.

        Args:
            features: Shape (B, T, num_mels).
            lengths: Frames of each utterance that are not padding, shape (B,); by default all.

        Returns:
            Shape (B, embedding_dim), not normalised.
        """
        x = features.transpose(1, 2)
        mask = frame_mask(lengths, x)
        x = self.first(x, mask)
        outputs = []
        for block in self.blocks:
            x = block(x, mask)
            outputs.append(x)
        pooled = self.pooling(self.aggregation(torch.cat(outputs, dim=1)), mask)
        embedding: Tensor = self.embedding(self.pooling_norm(pooled))
        return embedding


def ecapa_tdnn_mobile(*, num_mels: int = 80, embedding_dim: int = 192) -> EcapaTdnn:
    """The small ECAPA-TDNN of the CHNS paper: 2.05 M parameters, 0.4 G multiply-adds for 3 s."""
    return EcapaTdnn(num_mels=num_mels, channels=256, aggregation_channels=768, embedding_dim=embedding_dim)


def ecapa_tdnn_512(*, num_mels: int = 80, embedding_dim: int = 192) -> EcapaTdnn:
    """ECAPA-TDNN with 512 channels: 6.19 M parameters, 1.43 G multiply-adds for 3 s."""
    return EcapaTdnn(num_mels=num_mels, channels=512, aggregation_channels=1536, embedding_dim=embedding_dim)


def ecapa_tdnn_1024(*, num_mels: int = 80, embedding_dim: int = 192) -> EcapaTdnn:
    """ECAPA-TDNN with 1,024 channels: 20.77 M parameters, 5.35 G multiply-adds for 3 s."""
    return EcapaTdnn(num_mels=num_mels, channels=1024, aggregation_channels=3072, embedding_dim=embedding_dim)
