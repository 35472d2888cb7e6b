"""What encoders share: padding kept out of an embedding, and pooling over time.

A convolution near the end of an utterance reads what follows: zeros where the tensor ends, but, in a padded batch,
whatever the layers before made of the padding. Setting padding to zero before every convolution that looks sideways
makes both cases the same.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

# Of each tensor and thread in a step of a loop over rows: a core's cache holds them with what is computed of them, and
# there are few enough steps that threads which wait for each other on a busy machine do not wait often.
_NUMBERS_AT_ONCE = 2**18

# A step with the gradients of `_Pointwise` takes 0.92 of the time of one with oneDNN's with AVX2, 1.15 with AVX-512.
_BEATS_ONEDNN = torch.backends.cpu.get_cpu_capability() == "AVX2"


def frame_mask(lengths: Tensor | None, frames: Tensor) -> Tensor | None:
    """One where a frame belongs to the utterance, zero where it is padding.

    Args:
        lengths: Number of frames of each utterance, shape (batch,), or None if nothing is padding.
        frames: Any tensor whose last axis is time; gives the length, the device and the type.

    Returns:
        Shape (batch, 1, frames), or None.
    """
    if lengths is None:
        return None
    inside = torch.arange(frames.shape[-1], device=frames.device) < lengths[:, None]
    return inside[:, None, :].to(frames.dtype)


def masked(x: Tensor, mask: Tensor | None) -> Tensor:
    """Padding set to zero; the tensor itself if there is none."""
    return x if mask is None else x * mask


def masked_mean(x: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over the frames that are not padding, shape (batch, channels, 1).

    Args:
        x: Shape (batch, channels, frames).
        mask: Shape (batch, 1, frames), or None.
    """
    if mask is None:
        return x.mean(dim=2, keepdim=True)
    return (x * mask).sum(dim=2, keepdim=True) / mask.sum(dim=2, keepdim=True)


def repeated(x: Tensor, times: int) -> Tensor:
    """Each frame so many times in a row: (batch, channels, frames) -> (batch, channels, times * frames)."""
    return x[..., None].expand(-1, -1, -1, times).flatten(2)


def mirrored(x: Tensor, mask: Tensor | None, reach: int) -> Tensor:
    """Prolong each utterance by mirroring it at its first and its own last frame, so that padding does not matter.

    Unlike `torch.nn.functional.pad`, also an utterance shorter than the reach is prolonged: its ends are repeated.

    Args:
        x: Shape (batch, channels, frames).
        mask: Shape (batch, 1, frames), or None.
        reach: Frames to add at either end.

    Returns:
        Shape (batch, channels, frames + 2 * reach).
    """
    places = torch.arange(-reach, x.shape[-1] + reach, device=x.device)
    last = x.shape[-1] - 1 if mask is None else mask.sum(dim=2, dtype=torch.int64) - 1
    places = (last - (last - places.abs()).abs()).clamp_min(0)
    if mask is None:
        return x.index_select(2, places)
    return x.gather(2, places[:, None].expand(-1, x.shape[1], -1))


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolution of kernel size 1 in training: that of torch, but for how a CPU with AVX2 computes its gradients.

    Args:
        x: Shape (batch, in_channels, frames).
        weight: Shape (out_channels, in_channels, 1).
        bias: Shape (out_channels,), or None.

    Returns:
        Shape (batch, out_channels, frames).
    """
    # Below float32 a sum of products would be rounded at each utterance; on a GPU each would be a launch.
    low_precision = x.dtype.itemsize < 4 or torch.is_autocast_enabled(x.device.type)
    if x.is_cuda or x.is_mps or low_precision or not _BEATS_ONEDNN:
        return F.conv1d(x, weight, bias)
    output: Tensor = _Pointwise.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return output


class _Pointwise(torch.autograd.Function):
    """Convolution whose gradients are computed in other ways than torch's, which take oneDNN longer with AVX2.

    That of the weights is a sum of products of matrices; that of the input a convolution with the transposed weights.
    """

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.conv1d(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors  # type: ignore[attr-defined]
        (gradient,) = gradients
        of_x, of_weight, of_bias = ctx.needs_input_grad  # type: ignore[attr-defined]
        return (
            F.conv1d(gradient, weight.transpose(0, 1)) if of_x else None,
            torch.addbmm(weight[:, :, 0], gradient, x.mT, beta=0)[:, :, None] if of_weight else None,
            gradient.sum(2).sum(0) if of_bias else None,
        )


class StatisticsPooling(nn.Module):
    """Mean and standard deviation over time, every frame alike.

    Args:
        channels: Channels of the input.
        variance_floor: Is added to each variance; keeps the slope finite where a channel is constant.

    Source:
        Snyder et al., "X-vectors: robust DNN embeddings for speaker recognition", ICASSP 2018; with the deviation over
        frames - 1 and the floor of WeSpeaker's models.
    """

    def __init__(self, channels: int, *, variance_floor: float = 1e-7) -> None:
        super().__init__()
        self.variance_floor = variance_floor
        self.out_channels = 2 * channels

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pool (batch, channels, frames) to (batch, 2 * channels): means, then standard deviations."""
        mean, variance = _mean_and_variance(x, mask, unbiased=True)
        return torch.cat([mean, (variance + self.variance_floor).sqrt()], dim=1).squeeze(2)


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
        """Pool (batch, channels, frames) to (batch, channels); mask as `chns.encoders.layers.frame_mask` makes it."""
        weights = _softmax_over_time(self.score(self.hidden(x).tanh()), mask)
        return (weights * x).sum(dim=2)


class AttentiveStatisticsPooling(nn.Module):
    """Weighted mean and standard deviation over time, with weights for each channel (ASP).

    With a global context, the attention of a frame also sees the utterance's mean and standard deviation.

    Args:
        channels: Channels of the input.
        bottleneck: Size of the attention's hidden layer.
        global_context: Whether the attention sees the whole utterance.
        plain: Whether the attention is without rectifier and batch normalisation, its context's deviation over
            frames - 1, and the floor under variances higher, as in WeSpeaker's models.

    Source:
        Okabe, Koshinaka, Shinoda, "Attentive statistics pooling for deep speaker embedding", Interspeech 2018; with
        weights a channel and context as in Desplanques et al., "ECAPA-TDNN", Interspeech 2020, section 3.1.
    """

    def __init__(self, channels: int, *, bottleneck: int, global_context: bool = True, plain: bool = False) -> None:
        super().__init__()
        self.global_context = global_context
        self.plain = plain
        self.variance_floor = 1e-7 if plain else 1e-12  # keeps the slope finite where a channel is constant
        self.hidden = nn.Conv1d(3 * channels if global_context else channels, bottleneck, kernel_size=1)
        if not plain:
            self.norm = nn.BatchNorm1d(bottleneck)
        self.score = nn.Conv1d(bottleneck, channels, kernel_size=1)
        self.out_channels = 2 * channels

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pool (batch, channels, frames) to (batch, 2 * channels): means, then standard deviations."""
        attended = self._attended(x, mask) if self.global_context else self.hidden(x)
        hidden = (attended if self.plain else self.norm(attended.relu_())).tanh()
        if self.training:
            scores = pointwise(hidden, self.score.weight, self.score.bias)
            if mask is not None:
                scores = scores.masked_fill(mask == 0, -torch.inf)
            mean, variance = _WeightedStatistics.apply(scores, x)  # type: ignore[no-untyped-call]
        else:
            weights = _softmax_over_time(self.score(hidden), mask)
            mean = (weights * x).sum(dim=2, keepdim=True)
            variance = (weights * (x - mean).square()).sum(dim=2, keepdim=True)
        return torch.cat([mean, self._deviation(variance)], dim=1).squeeze(2)

    def _attended(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """The hidden layer on each frame joined with the utterance's mean and deviation.

        These two are the same for all frames, so their share is computed once an utterance: a third of the work, and
        no tensor of three times the size.
        """
        if self.training and mask is None and not self.plain:
            mean, variance = _RowStatistics.apply(x)  # type: ignore[no-untyped-call]
        else:
            mean, variance = _mean_and_variance(x, mask, unbiased=self.plain)
        channels = x.shape[1]
        of_frame = self.hidden.weight[:, :channels]
        of_mean = self.hidden.weight[:, channels : 2 * channels]
        of_deviation = self.hidden.weight[:, 2 * channels :]
        context = F.conv1d(mean, of_mean, self.hidden.bias) + F.conv1d(self._deviation(variance), of_deviation)
        return (pointwise(x, of_frame, None) if self.training else F.conv1d(x, of_frame)) + context

    def _deviation(self, variance: Tensor) -> Tensor:
        return variance.clamp_min(self.variance_floor).sqrt()


def _softmax_over_time(scores: Tensor, mask: Tensor | None) -> Tensor:
    if mask is not None:
        scores = scores.masked_fill(mask == 0, -torch.inf)
    return scores.softmax(dim=2)


def _mean_and_variance(x: Tensor, mask: Tensor | None, *, unbiased: bool) -> tuple[Tensor, Tensor]:
    """Of each channel over time, shape (batch, channels, 1); a single frame varies by 0."""
    mean = masked_mean(x, mask)
    variance = masked_mean((x - mean).square(), mask)
    if unbiased:
        num_frames = (torch.ones_like(x[:, :1]) if mask is None else mask).sum(dim=2, keepdim=True)
        variance = variance * num_frames / (num_frames - 1).clamp_min(1.0)
    return mean, variance


def _few_rows(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Tensors of shape (batch, channels, anything) as rows of channels, a few at a time; on a GPU all at once."""
    numbers = _NUMBERS_AT_ONCE * torch.get_num_threads() if tensors[0].device.type == "cpu" else 2**62
    rows = max(1, numbers // tensors[0].shape[2])
    return zip(*(torch.split(tensor.flatten(0, 1), rows) for tensor in tensors), strict=True)


def _at_least_single(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


class _WeightedStatistics(torch.autograd.Function):
    """Mean and variance of each row, a frame's weight being the softmax of the row's scores.

    A few rows at a time, so that what lies between is neither written to memory nor kept for the backward pass.
    """

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, scores: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        weights = torch.empty(scores.shape, dtype=scores.dtype, device=x.device)
        mean, variance = torch.empty((2, *x.shape[:2], 1), dtype=_at_least_single(x), device=x.device)
        for of_scores, of_x, w, m, v in _few_rows(scores, x, weights, mean, variance):
            torch.softmax(of_scores, 1, out=w)
            torch.sum(w * of_x, 1, keepdim=True, dtype=m.dtype, out=m)
            torch.sum((of_x - m).square_().mul_(w), 1, keepdim=True, out=v)
        ctx.save_for_backward(weights, x, mean, variance)
        return mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        weights, x, mean, variance = ctx.saved_tensors  # type: ignore[attr-defined]
        of_scores, of_x = (torch.empty(x.shape, dtype=each.dtype, device=x.device) for each in (weights, x))
        for w, y, m, v, a, b, to_scores, to_x in _few_rows(weights, x, mean, variance, *gradients, of_scores, of_x):
            centred = y - m  # the variance's slope in the mean is 0, as the weights sum to 1
            slope = torch.addcmul(a, centred, b, out=to_scores)
            torch.addcmul(slope, centred, b, out=to_x).mul_(w)
            slope.mul_(centred).sub_(b * v).mul_(w)
        return of_scores, of_x


class _RowStatistics(torch.autograd.Function):
    """Mean and variance of each row, a few rows at a time."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, variance = torch.empty((2, *x.shape[:2], 1), dtype=_at_least_single(x), device=x.device)
        for rows, m, v in _few_rows(x, mean, variance):
            torch.mean(rows, 1, keepdim=True, dtype=m.dtype, out=m)
            torch.mean((rows - m).square_(), 1, keepdim=True, out=v)
        ctx.save_for_backward(x, mean)
        return mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> Tensor:
        x, mean = ctx.saved_tensors  # type: ignore[attr-defined]
        slope = gradients[1] * (2 / x.shape[2])
        constant = gradients[0] / x.shape[2] - mean * slope
        of_x = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        for rows, c, s, out in _few_rows(x, constant, slope, of_x):
            torch.addcmul(c, rows, s, out=out)
        return of_x
