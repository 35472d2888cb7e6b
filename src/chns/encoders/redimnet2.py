"""ReDimNet2: two views of one feature map, as an image and as a signal, that take turns.

An image of C channels, F bands and T frames is reshaped into a signal of C * F channels and back; every stage halves
bands into channels, so that C * F stays, and gives its result at full length, so that all results can be added. Blocks
of two dimensions are cheap where there are few channels; blocks of one see the whole spectrum and far in time.

Shapes below: B utterances, C channels, F frequency bands, T frames. Padding is zero before every convolution that looks
sideways and left out of every mean, so an utterance is the same alone and in a padded batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chns.encoders.layers import AttentiveStatisticsPooling, frame_mask, masked, repeated

_CONTEXT_KERNELS = (7, 19, 31, 59)
_HEADS = 4
_ATTENTION_CHANNELS = 128
_EPSILON = 1e-6


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of a `ReDimNet2`.

    Attributes:
        band_stride: By how much the bands are divided, and the channels multiplied.
        frame_stride: By how much more than before the stage shortens the signal while it works on it.
        blocks: Residual blocks.
        expansion: How many times wider these are than the image.
        reduction: How many times narrower the signal is where it is seen as a whole.
    """

    band_stride: int
    frame_stride: int
    blocks: int
    expansion: int
    reduction: int


class WeightedSum(nn.Module):
    """Sum of the results so far, with weights for each channel that add up to one: count x (B, C, T) -> (B, C, T)."""

    def __init__(self, count: int, channels: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(count, channels, 1), requires_grad=count > 1)

    def forward(self, results: Sequence[Tensor]) -> Tensor:
        """Results of one shape each."""
        weights = self.weights.softmax(dim=0)
        return sum((weights[number] * result for number, result in enumerate(results)), torch.zeros_like(results[0]))


class ChannelNorm(nn.Module):
    """Layer normalisation over the channels, the second axis of any number."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Shape (B, C, ...)."""
        return F.layer_norm(x.movedim(1, -1), self.weight.shape, self.weight, self.bias, _EPSILON).movedim(-1, 1)


class MaskedGroupNorm(nn.Module):
    """Group normalisation whose mean and variance are of the frames that are no padding: (B, C, T) -> same."""

    def __init__(self, groups: int, channels: int) -> None:
        super().__init__()
        self.groups = groups
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Mask of shape (B, 1, T) or None; padding is zero afterwards."""
        grouped = torch.unflatten(x, 1, (self.groups, -1))
        inside = None if mask is None else mask[:, None]
        mean = _mean_of_groups(grouped, inside)
        variance = _mean_of_groups((grouped - mean).square(), inside)
        normalised = ((grouped - mean) * (variance + 1e-5).rsqrt()).flatten(1, 2)
        return masked(normalised * self.weight[:, None] + self.bias[:, None], mask)


class SeparableBlock(nn.Module):
    """Two depthwise 3x3 convolutions, each with a pointwise one, plus the input: (B, C, F, T) -> same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise1 = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.pointwise1 = nn.Conv2d(channels, channels, 1)
        self.norm1 = nn.BatchNorm2d(channels)
        self.depthwise2 = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.pointwise2 = nn.Conv2d(channels, channels, 1)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Mask of shape (B, 1, 1, T) or None."""
        x = masked(x, mask)
        hidden = self.norm1(self.pointwise1(self.depthwise1(x)).relu())
        hidden = self.norm2(self.pointwise2(self.depthwise2(masked(hidden, mask))))
        out: Tensor = (hidden + x).relu()
        return out


class ContextBlock(nn.Module):
    """A long depthwise convolution over time, a pointwise one, plus the input: (B, C, T) -> same."""

    def __init__(self, channels: int, *, kernel: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(channels, channels, kernel, padding=kernel // 2, groups=channels)
        self.norm = nn.BatchNorm1d(channels)
        self.pointwise = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Mask of shape (B, 1, T) or None."""
        x = masked(x, mask)
        out: Tensor = x + self.pointwise(F.gelu(self.norm(self.depthwise(x))))
        return out


class Attention(nn.Module):
    """A transformer's layer, normalised after each part: (B, C, T) -> same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)
        self.value = nn.Linear(channels, channels)
        self.out = nn.Linear(channels, channels)
        self.norm1 = nn.LayerNorm(channels, eps=_EPSILON)
        self.widen = nn.Linear(channels, channels)
        self.narrow = nn.Linear(channels, channels)
        self.norm2 = nn.LayerNorm(channels, eps=_EPSILON)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Mask of shape (B, 1, T) or None: nothing attends to padding."""
        x = x.transpose(1, 2)
        query, key, value = (
            part(x).unflatten(2, (_HEADS, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        scores = query @ key.transpose(2, 3) / math.sqrt(query.shape[-1])
        if mask is not None:
            scores = scores.masked_fill(mask[:, None] == 0, -torch.inf)
        attended = (scores.softmax(dim=3) @ value).transpose(1, 2).flatten(2)
        x = self.norm1(x + self.out(attended))
        x = self.norm2(x + self.narrow(F.gelu(self.widen(x), approximate="tanh")))
        return x.transpose(1, 2)


class SignalBlock(nn.Module):
    """Narrow the signal, see it as a whole, widen it, plus the input: (B, C, T) -> same."""

    def __init__(self, channels: int, *, reduction: int) -> None:
        super().__init__()
        narrow = channels // reduction
        if narrow % _HEADS:
            raise ValueError(
                f"channels / reduction must be divisible by {_HEADS} attention heads, got {channels} / {reduction}."
            )
        self.reduce = nn.Conv1d(channels, narrow, 1)
        self.norm = ChannelNorm(narrow)
        self.contexts = nn.ModuleList(ContextBlock(narrow, kernel=kernel) for kernel in _CONTEXT_KERNELS)
        self.attention = Attention(narrow)
        self.expand = nn.Conv1d(narrow, channels, 1)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Mask of shape (B, 1, T) or None."""
        hidden = self.norm(self.reduce(x))
        for block in self.contexts:
            hidden = block(hidden, mask)
        out: Tensor = x + self.expand(self.attention(hidden, mask))
        return out


class StageLayers(nn.Module):
    """What a stage does: signal of full length in, signal of full length out, (B, C * F, T) -> same.

    Args:
        stage: Its sizes.
        channels: C before it.
        bands: F before it.
        frame_stride: How much shorter the signal is within it.
        groups: Of the normalisation at its end.
    """

    def __init__(self, stage: Stage, *, channels: int, bands: int, frame_stride: int, groups: int) -> None:
        super().__init__()
        self.bands = bands
        self.frame_stride = frame_stride
        wide = stage.band_stride * channels * stage.expansion
        strides = (stage.band_stride, frame_stride)
        self.divide = nn.Conv2d(channels, wide, strides, stride=strides, groups=math.gcd(channels, wide))
        self.blocks = nn.ModuleList(SeparableBlock(wide) for _ in range(stage.blocks))
        self.squeeze: nn.Module = nn.Identity()
        if stage.expansion != 1:
            narrow = stage.band_stride * channels
            self.squeeze = nn.Sequential(nn.Conv2d(wide, narrow, 1), nn.BatchNorm2d(narrow, eps=_EPSILON))
        self.context = SignalBlock(channels * bands, reduction=stage.reduction)
        self.norm = MaskedGroupNorm(groups, channels * bands)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Mask of shape (B, 1, T) or None; T divisible by the stride, and so is the length of each utterance."""
        short = None if mask is None else mask[:, :, :: self.frame_stride]
        image = self.divide(masked(_as_image(x, self.bands), None if mask is None else mask[:, None]))
        for block in self.blocks:
            image = block(image, None if short is None else short[:, None])
        signal = self.context(_as_signal(self.squeeze(image)), short)
        normalised: Tensor = self.norm(repeated(signal, self.frame_stride), mask)
        return normalised


class ReDimNet2(nn.Module):
    """ReDimNet2 of any size: (B, T, num_mels) -> (B, embedding_dim).

    Frames after the last multiple of the frame strides' product are not used, except of utterances that are shorter.

    Args:
        num_mels: Mels of the features; divisible by the band strides' product.
        channels: Channels of the first image.
        stages: The stages, or their settings by name, as a bundle holds them.
        out_channels: Channels that the last image is brought to before the pooling; by default as they are.
        embedding_dim: Size of an embedding.

    Raises:
        ValueError: If the mels do not divide, or a reduced signal does not by the attention heads.

    Source:
        Yakovlev, Okhotnikov, "ReDimNet2: scaling speaker verification via time-pooled dimension reshaping", Interspeech
        2026; Yakovlev et al., "Reshape dimensions network for speaker recognition", Interspeech 2024.
    """

    def __init__(
        self,
        *,
        num_mels: int = 72,
        channels: int,
        stages: Sequence[Stage | dict[str, int]],
        out_channels: int | None = None,
        embedding_dim: int = 192,
    ) -> None:
        super().__init__()
        sizes = [stage if isinstance(stage, Stage) else Stage(**stage) for stage in stages]
        band_stride = math.prod(stage.band_stride for stage in sizes)
        if num_mels % band_stride:
            raise ValueError(
                f"num_mels must be divisible by {band_stride}, got {num_mels}. "
                f"Set features.num_mels to {max(1, num_mels // band_stride) * band_stride}."
            )
        self.embedding_dim = embedding_dim
        self.stem = nn.Sequential(nn.Conv2d(1, channels, 3, padding=1), ChannelNorm(channels))
        self.stem_norm = MaskedGroupNorm(channels, channels * num_mels)
        self.sums = nn.ModuleList(WeightedSum(number + 1, channels * num_mels) for number in range(len(sizes) + 1))
        self.stages = nn.ModuleList()
        width, bands, self.frame_stride = channels, num_mels, 1
        for stage in sizes:
            self.frame_stride *= stage.frame_stride
            self.stages.append(
                StageLayers(stage, channels=width, bands=bands, frame_stride=self.frame_stride, groups=channels)
            )
            width, bands = width * stage.band_stride, bands // stage.band_stride
        self.bands = bands
        self.head: nn.Module = nn.Identity() if out_channels is None else nn.Conv2d(width, out_channels, 1)
        self.pooling = AttentiveStatisticsPooling(
            (out_channels or width) * bands, bottleneck=_ATTENTION_CHANNELS, plain=True
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
        mels = features.transpose(1, 2)
        mels = masked(mels, frame_mask(lengths, mels))
        mels = F.pad(mels, (0, self.frame_stride))[:, :, : self._used(mels.shape[2])]
        mask = None
        if lengths is not None:
            used = (lengths // self.frame_stride * self.frame_stride).clamp_min(self.frame_stride)
            mask = frame_mask(used, mels)
        results = [self.stem_norm(_as_signal(self.stem(masked(mels, mask)[:, None])), mask)]
        for total, stage in zip(self.sums, self.stages, strict=False):  # one sum more: the last
            results.append(stage(total(results), mask))
        image = self.head(_as_image(self.sums[-1](results), self.bands))
        embedding: Tensor = self.embedding(self.pooling_norm(self.pooling(image.flatten(1, 2), mask)))
        return embedding

    def _used(self, num_frames: int) -> int:
        """A multiple of the stride: the last one that fits, but at least one."""
        if isinstance(num_frames, int):
            return max(num_frames // self.frame_stride, 1) * self.frame_stride
        return num_frames // self.frame_stride * self.frame_stride  # an exporter's symbol


def _mean_of_groups(x: Tensor, inside: Tensor | None) -> Tensor:
    """Of (B, groups, channels, T) over the last two, shape (B, groups, 1, 1)."""
    if inside is None:
        return x.mean(dim=(2, 3), keepdim=True)
    return (x * inside).sum(dim=(2, 3), keepdim=True) / (x.shape[2] * inside.sum(dim=(2, 3), keepdim=True))


def _as_signal(image: Tensor) -> Tensor:
    """(B, C, F, T) -> (B, F * C, T), the channels of a band side by side."""
    return image.transpose(1, 2).flatten(1, 2)


def _as_image(signal: Tensor, bands: int) -> Tensor:
    """(B, F * C, T) -> (B, C, F, T)."""
    return torch.unflatten(signal, 1, (bands, -1)).transpose(1, 2)


def _published(
    band_strides: Sequence[int], reductions: Sequence[int], *, expansions: Sequence[int] = (2, 1, 1, 1, 1, 1)
) -> list[Stage]:
    """Six stages of 2, 3, 4, 5, 4 and 3 blocks, the third and fifth of which halve the frames."""
    blocks, frame_strides = (2, 3, 4, 5, 4, 3), (1, 1, 2, 1, 2, 1)
    settings = zip(band_strides, frame_strides, blocks, expansions, reductions, strict=True)
    return [
        Stage(band_stride=bands, frame_stride=frames, blocks=count, expansion=wider, reduction=narrower)
        for bands, frames, count, wider, narrower in settings
    ]


def redimnet2_b0(*, num_mels: int = 72, embedding_dim: int = 192) -> ReDimNet2:
    """ReDimNet2-B0, for 72 mels: 1.13 M parameters, 0.44 G multiply-adds for 3 s."""
    stages = _published((1, 2, 1, 2, 1, 2), (36, 36, 36, 36, 18, 18))
    return ReDimNet2(num_mels=num_mels, channels=12, stages=stages, out_channels=64, embedding_dim=embedding_dim)


def redimnet2_b1(*, num_mels: int = 72, embedding_dim: int = 192) -> ReDimNet2:
    """ReDimNet2-B1, for 72 mels: 2.18 M parameters, 0.74 G multiply-adds for 3 s."""
    stages = _published((1, 2, 1, 2, 1, 2), (32, 32, 32, 32, 16, 16))
    return ReDimNet2(num_mels=num_mels, channels=16, stages=stages, embedding_dim=embedding_dim)


def redimnet2_b2(*, num_mels: int = 72, embedding_dim: int = 192) -> ReDimNet2:
    """ReDimNet2-B2, for 72 mels: 3.7 M parameters, 1.3 G multiply-adds for 3 s."""
    stages = _published((1, 2, 1, 3, 1, 2), (40, 30, 30, 20, 20, 10))
    return ReDimNet2(num_mels=num_mels, channels=20, stages=stages, embedding_dim=embedding_dim)


def redimnet2_b3(*, num_mels: int = 72, embedding_dim: int = 192) -> ReDimNet2:
    """ReDimNet2-B3, for 72 mels: 4.21 M parameters, 3.87 G multiply-adds for 3 s."""
    stages = _published((1, 2, 1, 2, 1, 2), (24, 24, 24, 24, 24, 24), expansions=(4, 3, 2, 1, 1, 1))
    return ReDimNet2(num_mels=num_mels, channels=24, stages=stages, embedding_dim=embedding_dim)
